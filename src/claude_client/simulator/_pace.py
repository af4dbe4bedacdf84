"""The pace of answers, and the waiting that keeps it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._numbers import check_at_least, check_positive

if TYPE_CHECKING:
    import threading

    from ._script import Reply

_LOOK_EVERY = 0.003  # seconds; to wait for a threading.Event asyncio would need a thread for each


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """
    Times in seconds, as `Reply` explains them; None is as fast as can be, and no pings.

    Raises:
        ValueError: If one is negative, or a rate or an interval is 0.
    """

    latency: float = 0.0
    tokens_per_second: float | None = None
    ping_interval: float | None = None

    def __post_init__(self) -> None:
        check_at_least("latency", self.latency, 0)
        check_positive("tokens_per_second", self.tokens_per_second)
        check_positive("ping_interval", self.ping_interval)

    def of(self, reply: Reply) -> Pace:
        """The pace of *reply*: its own where it has one."""
        return Pace(
            latency=self.latency if reply.latency is None else reply.latency,
            tokens_per_second=reply.tokens_per_second or self.tokens_per_second,
            ping_interval=reply.ping_interval or self.ping_interval,
        )

    def seconds_for(self, tokens: float) -> float:
        """The seconds that so many tokens take."""
        return tokens / self.tokens_per_second if self.tokens_per_second else 0.0


async def sleep_until(due: float) -> None:
    """Return at *due*, on the running loop's clock; at once if it is past."""
    remaining = due - asyncio.get_running_loop().time()
    if remaining > 0:
        await asyncio.sleep(remaining)


async def is_set(event: threading.Event | None) -> None:
    """Return when *event* is set; at once if there is none."""
    while event is not None and not event.is_set():  # noqa: ASYNC110 - it is not asyncio's to set
        await asyncio.sleep(_LOOK_EVERY)


async def for_ever() -> None:
    """Never return; the task is cancelled when its connection is lost."""
    await asyncio.get_running_loop().create_future()
