"""The gate that keeps the calls to a model within what the API accepts, and its parts: each is one idea."""
