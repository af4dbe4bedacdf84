"""The engine: what a call does next, which call may go now, and the drivers that wait and send."""
