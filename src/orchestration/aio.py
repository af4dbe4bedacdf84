"""
The verbs of `orchestration` for coroutines, with the same arguments, results and errors, as `claude_client.aio` says.

- `invoke_parallel_managed`, `invoke_parallel_with_reconciliation`, `invoke_batch`, `collect_batch`: runs to be awaited;
  `reconcile`, `on_result`, `on_stall` and `on_batch` may be coroutine functions.
- `debate`, `map_reduce`: workflows to be awaited, likewise.
- `invoke_with_retry`: one patient call. `ask`: a question to an `Agent`; `callback` may be a coroutine function.
"""

from __future__ import annotations

import orchestration
from claude_client._verbs.in_thread import awaited

__all__ = [
    "ask",
    "collect_batch",
    "debate",
    "invoke_batch",
    "invoke_parallel_managed",
    "invoke_parallel_with_reconciliation",
    "invoke_with_retry",
    "map_reduce",
]

invoke_parallel_managed = awaited(orchestration.invoke_parallel_managed)
invoke_parallel_with_reconciliation = awaited(orchestration.invoke_parallel_with_reconciliation)
invoke_batch = awaited(orchestration.invoke_batch)
collect_batch = awaited(orchestration.collect_batch)
invoke_with_retry = awaited(orchestration.invoke_with_retry)
debate = awaited(orchestration.debate)
map_reduce = awaited(orchestration.map_reduce)
ask = awaited(orchestration.Agent.ask)
