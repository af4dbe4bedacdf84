"""
The verbs of `orchestration` for coroutines, with the same arguments, results and errors, as `claude_client.aio` says.

- `invoke_parallel_managed`, `invoke_parallel_with_reconciliation`, `invoke_batch`, `collect_batch`: runs to be awaited;
  `reconcile`, `on_result`, `on_stall` and `on_batch` may be coroutine functions.
- `debate`, `map_reduce`: workflows to be awaited, likewise.
- `invoke_with_retry`: one patient call. `ask`: a question to an `Agent`; `callback` may be a coroutine function.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import orchestration
from claude_client._verbs.in_thread import in_thread

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

P = ParamSpec("P")
T = TypeVar("T")

_ON_LOOP = ("reconcile", "on_result", "on_stall", "on_batch", "callback")


def _awaited(verb: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """*verb* as a coroutine function."""

    @wraps(verb)
    async def awaited(*args: P.args, **options: P.kwargs) -> T:
        return await in_thread(verb, args, options, on_loop=_ON_LOOP)

    return awaited


invoke_parallel_managed = _awaited(orchestration.invoke_parallel_managed)
invoke_parallel_with_reconciliation = _awaited(orchestration.invoke_parallel_with_reconciliation)
invoke_batch = _awaited(orchestration.invoke_batch)
collect_batch = _awaited(orchestration.collect_batch)
invoke_with_retry = _awaited(orchestration.invoke_with_retry)
debate = _awaited(orchestration.debate)
map_reduce = _awaited(orchestration.map_reduce)
ask = _awaited(orchestration.Agent.ask)
