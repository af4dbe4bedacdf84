"""The record that is kept of a request once it is over."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from claude_client._values.kinds import Kind
from claude_client._values.usage import Bill, Usage, cost_of

if TYPE_CHECKING:
    from claude_client._values.budget import BudgetState
    from claude_client._values.prices import PriceBook

#: A thing that a request may wait for before it is sent.
Cause = Literal["worker", "limiter", "cache writer", "first answer", "rate limit", "outage", "retry", "budget"]

_NO_WAITS: Mapping[Cause, float] = {}
_NO_USAGE = Usage()

# What the seconds of `time.monotonic` lack of the system's clock, as it stood when this was imported.
_EPOCH = time.time() - time.monotonic()


def now() -> float:
    """Seconds since the epoch by the clock of all records: it never goes back, and differences are exact."""
    return time.monotonic() + _EPOCH


class AttemptRecord(NamedTuple):
    """
    What is known of one request that is over.

    Times are seconds since the epoch, None for what did not happen. The clock is steady: it is set by the system's
    once, when this is imported, so that differences are exact. From `queued` to `sent` it `waited`.
    """

    #: The model that answered; if none did, the one that was asked for.
    model: str
    #: The tokens it used, as far as the API had said.
    usage: Usage = _NO_USAGE
    #: How it ended: "ok" for an answer, else the kind of its error.
    outcome: Kind | Literal["ok"] = "ok"
    #: The HTTP status; None where there was no response.
    status: int | None = None
    #: The API's id of the request; None if the server sent none.
    request_id: str | None = None
    #: When it became the next thing to do for its prompt: at the start of the run, or when the attempt before ended.
    queued: float | None = None
    #: When it was sent.
    sent: float | None = None
    #: When the head of the answer came.
    first_byte: float | None = None
    #: When the first text came; None for an answer that came in one piece.
    first_text: float | None = None
    #: When it was over.
    ended: float | None = None
    #: Seconds before it was sent, by what they were waited for. Not to be changed.
    waited: Mapping[Cause, float] = _NO_WAITS
    #: What `usage` is made of, by its prices; empty: all of it is at the standard price of `model`.
    billed: tuple[Bill, ...] = ()
    #: The names of the tasks that a tool of the call had for it, the outermost first; empty: it is the call's own.
    path: tuple[str, ...] = ()
    #: The API's ids of those uses of tools, one for each name in `path`.
    tool_use_ids: tuple[str, ...] = ()

    @property
    def wrote_cache(self) -> bool:
        """True if it wrote a part of its prompt to the cache."""
        return self.usage.cache_creation_input_tokens > 0

    @property
    def read_cache(self) -> bool:
        """True if it read a part of its prompt from the cache."""
        return self.usage.cache_read_input_tokens > 0

    @property
    def took(self) -> float | None:
        """Seconds from when it was sent to when it was over; None if it was not sent."""
        return None if self.sent is None or self.ended is None else self.ended - self.sent

    @property
    def bills(self) -> tuple[Bill, ...]:
        """What `usage` is made of, by its prices."""
        return self.billed or (Bill(self.model, self.usage),)


class ToolRecord(NamedTuple):
    """What is known of one use of a tool that is over. Times as in `AttemptRecord`."""

    name: str
    #: The API's id of it.
    tool_use_id: str
    #: When it was started, and was over. None where it was not run.
    started: float | None = None
    ended: float | None = None
    #: How it ended: with a result that is none of an error, with an error, refused by `before_tool`, answered by that
    #: in its place, after its timeout, or by an end of the call meanwhile.
    outcome: Literal["ok", "error", "refused", "answered", "timeout", "interrupted"] = "ok"
    #: When the model had asked for it.
    asked: float | None = None
    #: Where a task of another tool has used it, as in `AttemptRecord`.
    path: tuple[str, ...] = ()
    tool_use_ids: tuple[str, ...] = ()

    @property
    def took(self) -> float | None:
        """Seconds from when it was started to when it was over; None if it was not run."""
        return None if self.started is None or self.ended is None else self.ended - self.started


class Asked(NamedTuple):
    """What a prompt of a fan-out said of itself."""

    task_id: str | None = None
    category: str | None = None
    model: str | None = None


class Taken(NamedTuple):
    """What is known of a turn of a conversation that is over."""

    attempts: tuple[AttemptRecord, ...]
    tool_calls: tuple[ToolRecord, ...] = ()
    #: "ok", or the kind of its error; None: that of its last request.
    ended_with: str | None = None


class RunRecord(NamedTuple):
    """What is known of a fan-out that is over. Times as in `AttemptRecord`."""

    started: float
    ended: float
    #: One for each prompt.
    asked: Sequence[Asked]
    #: What stood in its budget at its end; None where it had none.
    budget: BudgetState | None = None


def at(monotonic: float | None) -> float | None:
    """The time by the clock of records for one by `time.monotonic`."""
    return None if monotonic is None else monotonic + _EPOCH


def own(attempts: Iterable[AttemptRecord]) -> tuple[AttemptRecord, ...]:
    """Those of *attempts* that a call has made itself, rather than a tool of it."""
    return tuple([attempt for attempt in attempts if not attempt.path])


def end_of(attempts: Iterable[AttemptRecord], tool_calls: Iterable[ToolRecord]) -> float | None:
    """When the last of these was over; None if that is not known of any."""
    ends = [record.ended for records in (attempts, tool_calls) for record in records if record.ended is not None]
    return max(ends, default=None)


def by_task(attempts: Iterable[AttemptRecord]) -> list[list[AttemptRecord]]:
    """The *attempts* of a call: its own, and those of each task of its tools, where there are any."""
    tasks: dict[Any, list[AttemptRecord]] = {}
    for attempt in attempts:
        tasks.setdefault((attempt.path, attempt.tool_use_ids), []).append(attempt)
    return [*tasks.values()]


def made_again(attempts: Iterable[AttemptRecord]) -> Iterator[AttemptRecord]:
    """Those of the *attempts* of a call that failed, and after which another was made for the same."""
    return (attempt for task in by_task(attempts) for attempt in task[:-1] if attempt.outcome != "ok")


def cost_of_attempts(attempts: Iterable[AttemptRecord], book: PriceBook | None = None) -> float | None:
    """
    The price of *attempts* in dollars; None if one is not known. *book* as in `cost_of`.

    Raises:
        ImportError: Without the `cost` extra.
    """
    return cost_of((bill for attempt in attempts for bill in attempt.bills), book)
