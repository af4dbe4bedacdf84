"""
The life of a task as a state machine. Imports nothing of ours, and needs nothing installed.

- `TaskTracker`: knows the state of each task, and allows only the moves that make sense.
- `TaskState`: the states.
- `TaskInfo`: a task at one moment; every method returns one.
- `InvalidTransitionError`: a move that does not make sense.
"""

from ._tracker import InvalidTransitionError, TaskInfo, TaskState, TaskTracker

__all__ = ["InvalidTransitionError", "TaskInfo", "TaskState", "TaskTracker"]
