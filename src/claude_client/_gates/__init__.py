"""Gates that a request must pass before it is sent. They decide by the time they are given, and never wait."""
