"""Values: requests, answers, errors, and the rules that need nothing else. No SDK, no network, no thread."""
