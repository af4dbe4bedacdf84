"""The gate by which a run obeys a `ConcurrencyLimiter`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt, Event
from claude_client._values.request import Request

from ._limiter import ConcurrencyLimiter


@dataclass(slots=True, eq=False)
class SlotPermit:
    """A slot of *category* in *limiter*."""

    limiter: ConcurrencyLimiter
    category: str | None

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Do nothing: the slot is held to the end."""

    def settle(self, attempt: Attempt) -> None:  # noqa: ARG002 - however it ended
        """Give the slot back."""
        self.limiter.release(self.category)


class LimiterGate:
    """The gate of a run, with its places in the queue of *limiter*, one for each category, while it lasts."""

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._limiter = limiter
        self._asks: dict[str | None, Callable[[str | None], bool]] = {}
        self._places: ExitStack
        self._wake: Callable[..., None]

    @contextmanager
    def waking(self, wake: Callable[..., None]) -> Iterator[None]:
        """Call *wake* when a slot that was asked for is held for the run, for those who may take it."""
        self._wake = wake
        with ExitStack() as self._places:
            yield

    def would_wait(self, request: Request, now: float) -> Wait | None:  # noqa: ARG002 - a slot cannot be promised
        """None: only asking for a slot shows whether there is one, and that takes a place in the queue."""
        return None

    def admit(self, request: Request, now: float) -> SlotPermit | Wait:  # noqa: ARG002 - the queue has its own clock
        """A slot of the request's category; else it is queued, and *wake* is called when a slot is there."""
        category = request.category
        until = ("slot", category)
        if category not in self._asks:
            self._asks[category] = self._places.enter_context(self._limiter.waking(partial(self._wake, until)))
        if self._asks[category](category):
            return SlotPermit(self._limiter, category)
        return Wait(math.inf, "limiter", wakes=True, until=until)
