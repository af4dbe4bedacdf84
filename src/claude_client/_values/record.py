"""The record that is kept of a request once it is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from claude_client._values.kinds import Kind
from claude_client._values.usage import Bill, Usage, cost_of

#: A thing that a request may wait for before it is sent.
Cause = Literal["worker", "limiter", "cache writer", "first answer", "rate limit", "outage", "retry"]

_NO_WAITS: Mapping[Cause, float] = {}
_NO_USAGE = Usage()


class AttemptRecord(NamedTuple):
    """The record of a request that is over. Times are seconds by `time.monotonic`, None for what did not happen."""

    #: The model that answered; if none did, the one that was asked for.
    model: str
    usage: Usage = _NO_USAGE
    #: The kind of its error; None for an answer.
    error: Kind | None = None
    status: int | None = None
    request_id: str | None = None
    queued_at: float | None = None
    sent_at: float | None = None
    first_byte_at: float | None = None
    first_text_at: float | None = None
    ended_at: float | None = None
    #: Seconds before it was sent, by what they were waited for.
    waited: Mapping[Cause, float] = _NO_WAITS
    #: What `usage` is made of, by its prices; empty: all of it is at the standard price of `model`.
    billed: tuple[Bill, ...] = ()

    @property
    def bills(self) -> tuple[Bill, ...]:
        """What `usage` is made of, by its prices."""
        return self.billed or (Bill(self.model, self.usage),)


def cost_of_attempts(attempts: Iterable[AttemptRecord]) -> float | None:
    """
    The price of *attempts* in dollars; None if one is not known.

    Raises:
        ImportError: Without the `cost` extra.
    """
    return cost_of(bill for attempt in attempts for bill in attempt.bills)
