"""The rate gate as a policy for simulations that know only of requests let in and rejected."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from claude_client._gates.gate import Wait
from claude_client._gates.rate.gate import RateGate, RatePermit
from claude_client._values.request import Request
from claude_client._values.retry import RetryPolicy

REQUEST = Request(model="m", max_tokens=1, messages=[], retry=RetryPolicy(longest_retry_after=math.inf))


class Policy:
    """Lets requests in by a gate of its own, on *clock*."""

    def __init__(self, clock: Callable[[], float], rng: Random) -> None:
        self._clock = clock
        self._gate = RateGate(chance=rng.random)

    def enter(self) -> RatePermit | float:
        """A permit, or the seconds to wait."""
        got = self._gate.admit(REQUEST, self._clock())
        return got.seconds if isinstance(got, Wait) else got

    def accepted(self, permit: RatePermit) -> None:
        """The server let it in."""
        self._gate.on_response(permit, self._clock(), {})

    def rejected(self, permit: RatePermit, retry_after: float) -> float:
        """The server rejected it; the seconds until that call asks again."""
        self._gate.on_rejection(permit, self._clock(), retry_after, {})
        return retry_after
