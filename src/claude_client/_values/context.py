"""What a tool can know of the call that runs it, and what the calls that it makes itself take over from that."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import Context as Variables
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, TypeVar

from claude_client._values.interrupt import InterruptToken

if TYPE_CHECKING:
    import asyncio

    from claude_client._values.budget import Budget
    from claude_client._values.record import AttemptRecord, ToolRecord

    Record = TypeVar("Record", AttemptRecord, ToolRecord)

_current: ContextVar[Context | None] = ContextVar("claude_client tool", default=None)


class Context:
    """
    The call that runs a tool, for the tool: it gets it by a parameter that is annotated as `Context`.

    What the tool asks by this library, on its own thread or with its context variables, is a part of that call, without
    anything being passed on: it ends with it, keeps its deadline, is paid from its budgets, and is among its
    `attempts`.
    """

    def __init__(
        self,
        *,
        tool: str,
        tool_use_id: str,
        task_id: str | None = None,
        budgets: Sequence[Budget] = (),
        ends_at: float = math.inf,
        depth: int = 1,
        root: object = None,
    ) -> None:
        #: The name of the tool.
        self.tool = tool
        #: The API's id of this use of it.
        self.tool_use_id = tool_use_id
        #: The `task_id` of the call; None if it has none.
        self.task_id = task_id
        #: How many calls are above what the tool asks: 1 in a tool of a call that nothing else has made.
        self.depth = depth
        #: The same object for every tool of the outermost call and of all that is asked below it: to count by.
        self.root = self if root is None else root
        #: Interrupted when the tool is to stop: the call was, or the deadline or the tool's own timeout has passed.
        self.token = InterruptToken()
        self.budgets = tuple(budgets)
        #: When the call ends at the latest, by `time.monotonic`.
        self.ends_at = ends_at
        self._lock = threading.Lock()
        self._attempts: list[AttemptRecord] = []
        self._tool_calls: list[ToolRecord] = []
        self._taken = 0, 0  # of those two

    @property
    def deadline(self) -> float | None:
        """Seconds that are left until the deadline of the call; None where it has none."""
        return None if self.ends_at == math.inf else max(0.0, self.ends_at - time.monotonic())

    @property
    def budget(self) -> Budget | None:
        """The budget of the call (`budget_usd=`); None where it has none. The narrowest, where there are several."""
        return min(self.budgets, key=lambda budget: budget.state.left, default=None)

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """The requests that were made for the tool so far."""
        with self._lock:
            return tuple(self._attempts)

    @property
    def tool_calls(self) -> tuple[ToolRecord, ...]:
        """The uses of other tools by what was asked for the tool so far."""
        with self._lock:
            return tuple(self._tool_calls)

    def record(self, name: str, attempts: Iterable[AttemptRecord], tool_calls: Iterable[ToolRecord] = ()) -> None:
        """Note *attempts* and *tool_calls* as made for the tool, by a task of that *name*."""
        with self._lock:
            self._attempts += [self._below(name, attempt) for attempt in attempts]
            self._tool_calls += [self._below(name, call) for call in tool_calls]

    def _below(self, name: str, record: Record) -> Record:
        return record._replace(path=(name, *record.path), tool_use_ids=(self.tool_use_id, *record.tool_use_ids))


#: The loop of the coroutine that a verb is called for, on which its asynchronous tools run; None: each on its own.
callers_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("claude_client callers_loop", default=None)


def free_loop() -> asyncio.AbstractEventLoop | None:
    """The caller's loop; None also where it is closed, or runs this code and so would wait for itself."""
    if (loop := callers_loop.get()) is None:
        return None
    from asyncio import get_running_loop  # takes long, and is there where there is a loop

    with suppress(RuntimeError):
        if get_running_loop() is loop:
            return None
    return None if loop.is_closed() else loop


def variables() -> Variables:
    """This thread's context variables, for another to go on with what this one waits for."""
    copied = copy_context()
    copied.run(callers_loop.set, free_loop())
    return copied


def take_new(context: Context) -> tuple[tuple[AttemptRecord, ...], tuple[ToolRecord, ...]]:
    """The requests that were made for the tool, and the uses of other tools, since this was asked last."""
    with context._lock:  # noqa: SLF001 - all of this is a part of the class, and for the engine alone
        attempts, tool_calls = context._taken  # noqa: SLF001
        context._taken = len(context._attempts), len(context._tool_calls)  # noqa: SLF001
        return tuple(context._attempts[attempts:]), tuple(context._tool_calls[tool_calls:])  # noqa: SLF001


def running() -> Context | None:
    """The context of the tool that runs on this thread; None outside any."""
    return _current.get()


@contextmanager
def ending_with_tool(token: InterruptToken | None) -> Iterator[InterruptToken | None]:
    """A token that is interrupted with *token*, and with that of the tool that runs; for a `with` block."""
    if (above := running()) is None:
        yield token
        return
    either = InterruptToken()
    with above.token.watched_by(either.interrupt), token.watched_by(either.interrupt) if token else nullcontext():
        yield either


@contextmanager
def as_running(context: Context) -> Iterator[None]:
    """Have *context* be that of the tool that runs in a `with` block."""
    before = _current.set(context)
    try:
        yield
    finally:
        _current.reset(before)
