"""Gates: what a request must pass before it is sent. They decide, keep a clock in hand, and never wait."""
