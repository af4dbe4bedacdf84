"""
Managed runs on top of `task_state` and `claude_client`.

- `invoke_parallel_managed`, `invoke_parallel_with_reconciliation`: prompts as tasks that are tracked, retried, limited
  by category, watched for stalls, checked against what is still wanted and, with a journal, resumed.
- `ManagedResults`: what they return.
- `invoke_with_retry`, `compute_backoff_delay`: one call with the same backoff.
- `ConcurrencyLimiter`: slots that several runs and people's own threads share, in total and per category;
  `LimiterStatistics` and `Occupancy` are its state at a moment.
- `JournalError`: a journal cannot be used.
"""

from claude_client._values.retry import compute_backoff_delay

from ._journal import JournalError
from ._limiter import ConcurrencyLimiter, LimiterStatistics, Occupancy
from ._managed import ManagedOptions, invoke_parallel_managed, invoke_parallel_with_reconciliation
from ._recorder import ManagedResults
from ._retrying import invoke_with_retry

__all__ = [
    "ConcurrencyLimiter",
    "JournalError",
    "LimiterStatistics",
    "ManagedOptions",
    "ManagedResults",
    "Occupancy",
    "compute_backoff_delay",
    "invoke_parallel_managed",
    "invoke_parallel_with_reconciliation",
    "invoke_with_retry",
]
