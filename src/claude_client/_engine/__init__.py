"""The engine: the steps of a call, the scheduler of many calls, and the drivers that wait and send."""
