"""The life of a task as a state machine. Imports nothing of ours."""
