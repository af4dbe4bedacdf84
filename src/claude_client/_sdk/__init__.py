"""The one door to the network: everything that knows the `anthropic` SDK, its client and its sockets."""
