"""Values: what is asked, what came of it, and the rules that need nothing else. No SDK, no network, no thread."""
