"""The gate by which a run obeys a `ConcurrencyLimiter`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt, Event
from claude_client._values.request import Request

from ._limiter import ConcurrencyLimiter

_UNTIL_WOKEN = Wait(math.inf, "limiter")


@dataclass(slots=True, eq=False)
class SlotPermit:
    """A slot of *category* in *limiter*."""

    limiter: ConcurrencyLimiter
    category: str | None

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """A slot is held, whatever happens."""

    def settle(self, attempt: Attempt) -> None:  # noqa: ARG002 - however it ended
        """Give the slot back."""
        self.limiter.release(self.category)


class LimiterGate:
    """The gate of one run, for whose length it stands in the line of *limiter*."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._limiter = limiter
        self._ask: Callable[[str | None], bool]

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call *wake* when a slot that was asked for is there."""
        with self._limiter.waking(wake) as self._ask:
            yield

    def would_wait(self, request: Request, now: float) -> Wait | None:  # noqa: ARG002 - a slot cannot be promised
        """None: whoever asks takes part in the line, so there is nothing to say before."""
        return None

    def admit(self, request: Request, now: float) -> SlotPermit | Wait:  # noqa: ARG002 - the line has no clock of ours
        """A slot of the request's category; a place in the line where none is free, and *wake* says when."""
        return SlotPermit(self._limiter, request.category) if self._ask(request.category) else _UNTIL_WOKEN
