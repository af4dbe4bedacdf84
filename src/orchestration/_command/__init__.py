"""The command: its arguments, the lines it reads and writes, and what it does with them."""
