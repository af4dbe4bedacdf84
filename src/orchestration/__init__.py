"""
Managed runs on top of `task_state` and `claude_client`.

- `invoke_parallel_managed`, `invoke_parallel_with_reconciliation`: prompts as tasks that are tracked, retried, limited
  by category, watched for stalls, checked against what is still wanted and, with a journal, resumed.
- `invoke_batch`: the same by the API's message batches, at half the price; `collect_batch` collects them elsewhere, by
  a `BatchHandle`.
- `ManagedResults`: what they return.
- `Agent`: how somebody is asked; `delegate_tool`: the tool by which a call delegates to agents; `debate`, `map_reduce`:
  small workflows, which return a `Debate` and a `MapReduce`.
- `invoke_with_retry`, `compute_backoff_delay`: one call with the same backoff.
- `ConcurrencyLimiter`: slots that several runs and people's own threads share, in total and per category;
  `LimiterStatistics` and `Occupancy` are its state at a moment.
- `orchestration.aio`: the verbs for coroutines.
- `Journal`: a journal's entries, each a `JournalEntry`, to look at and to drop; what is whole of a damaged one; batches
  that are not collected. `read_journal`, `drop_from_journal`, `drop_batches_from_journal`, `salvage_journal`: the same
  as functions. `JournalError`: a journal cannot be used.
"""

import sys

try:
    from claude_client._values.retry import compute_backoff_delay

    from ._agents import Agent
    from ._batch import BatchOptions, collect_batch, invoke_batch
    from ._batch_handle import BatchHandle
    from ._delegation import delegate_tool
    from ._journal_entries import (
        Journal,
        JournalEntry,
        drop_batches_from_journal,
        drop_from_journal,
        read_journal,
        salvage_journal,
    )
    from ._journal_file import JournalError
    from ._limiter import ConcurrencyLimiter, LimiterStatistics, Occupancy
    from ._managed import ManagedOptions, invoke_parallel_managed, invoke_parallel_with_reconciliation
    from ._recorder import ManagedResults
    from ._retrying import invoke_with_retry
    from ._workflows import Debate, MapReduce, debate, map_reduce
except ImportError as failed:  # no coverage: in a process of its own, where another module hides one of ours
    top = str(failed.name).partition(".")[0]
    if top in {"claude_client", "task_state"} and top in sys.modules:
        file = getattr(sys.modules[top], "__file__", None)
        failed.add_note(f"{top} is {file} here, which sys.path has before ours: rename it, or put our folder first")
    raise

__all__ = [
    "Agent",
    "BatchHandle",
    "BatchOptions",
    "ConcurrencyLimiter",
    "Debate",
    "Journal",
    "JournalEntry",
    "JournalError",
    "LimiterStatistics",
    "ManagedOptions",
    "ManagedResults",
    "MapReduce",
    "Occupancy",
    "collect_batch",
    "compute_backoff_delay",
    "debate",
    "delegate_tool",
    "drop_batches_from_journal",
    "drop_from_journal",
    "invoke_batch",
    "invoke_parallel_managed",
    "invoke_parallel_with_reconciliation",
    "invoke_with_retry",
    "map_reduce",
    "read_journal",
    "salvage_journal",
]
