"""Rate limits: token buckets with continuous refill, and the headers that report them (facts 3)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ._errors import RejectedError, Rejection
from ._numbers import check_positive

_ROUNDING = 1e-9  # a bucket refilled for exactly the time it needs may miss the last ulp


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    The limits of the simulator, for each model. None means no limit; a burst left out is one second's worth.

    Args:
        request_burst: Requests that a rested bucket allows at once.

        input_token_burst: The same for input tokens. A request of more than this needs a full bucket.

        headers: Whether answers carry ``anthropic-ratelimit-*`` headers.

        retry_after: Whether a 429 says when to come back.

        unlucky: The share of requests, from 0 to 1, that gets a 429 for a second whatever their pace, as if others used
            the same limits. Which ones is the same each time.

        overloaded_for: Seconds from the first request on, in which all get a 529.

    Raises:
        ValueError: If a number is not above 0, a burst has no rate, or *unlucky* is no share.
    """

    requests_per_second: float | None = None
    request_burst: int | None = None
    input_tokens_per_second: float | None = None
    input_token_burst: int | None = None
    headers: bool = True
    retry_after: bool = True
    unlucky: float = 0.0
    overloaded_for: float | None = None

    def __post_init__(self) -> None:
        numbers = ("requests_per_second", "request_burst", "input_tokens_per_second", "input_token_burst")
        for name in (*numbers, "overloaded_for"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.unlucky <= 1:
            raise ValueError(f"unlucky must be a share from 0 to 1, got {self.unlucky!r}")
        if self.request_burst and not self.requests_per_second:
            raise ValueError("request_burst needs requests_per_second")
        if self.input_token_burst and not self.input_tokens_per_second:
            raise ValueError("input_token_burst needs input_tokens_per_second")


@dataclass(slots=True)
class _Bucket:
    name: str
    rate: float
    size: int
    level: float = field(init=False)
    at: float

    def __post_init__(self) -> None:
        self.level = self.size

    def refill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now

    def wait_for(self, amount: float) -> float:
        missing = min(amount, self.size) - self.level
        return missing / self.rate if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        self.level = max(0.0, self.level - amount)

    def headers(self, wall: datetime) -> dict[str, str]:
        full = wall + timedelta(seconds=(self.size - self.level) / self.rate)
        if full.microsecond:
            full = full.replace(microsecond=0) + timedelta(seconds=1)
        prefix = f"anthropic-ratelimit-{self.name}"
        return {
            f"{prefix}-limit": str(self.size),
            f"{prefix}-remaining": str(math.floor(self.level + _ROUNDING)),
            f"{prefix}-reset": full.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


class Limiter:
    """The limits of one model. The caller holds the simulator's lock, and passes the time."""

    def __init__(
        self, limits: Limits, now: float, wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._limits = limits
        self._wall_clock = wall_clock
        self._buckets = _buckets(limits, now)
        self._luck = random.Random(0)  # noqa: S311 - the same each time
        self._began_at: float | None = None

    def admit(self, input_tokens: int, now: float) -> None:
        """
        Take one request with so many tokens out of the buckets.

        Raises:
            RejectedError: If one of them holds too little, out of bad luck, or in an outage. Then nothing is taken.
        """
        self._began_at = now if self._began_at is None else self._began_at
        if now < self._began_at + (self._limits.overloaded_for or 0.0):
            raise RejectedError(Rejection(type="overloaded_error", message="Overloaded"))
        if self._limits.unlucky and self._luck.random() < self._limits.unlucky:
            raise RejectedError(self._rejection(1.0))
        amounts = [(bucket, 1 if bucket.name == "requests" else input_tokens) for bucket in self._buckets]
        for bucket in self._buckets:
            bucket.refill(now)
        if wait := max((bucket.wait_for(amount) for bucket, amount in amounts), default=0.0):
            raise RejectedError(self._rejection(wait))
        for bucket, amount in amounts:
            bucket.take(amount)

    def _rejection(self, wait: float) -> Rejection:
        return Rejection(
            type="rate_limit_error",
            message="This request would exceed your rate limit.",
            retry_after=math.ceil(wait) if self._limits.retry_after else None,
        )

    def headers(self, now: float) -> dict[str, str]:
        """The rate-limit headers of an answer sent now."""
        if not self._limits.headers or not self._buckets:
            return {}
        wall = self._wall_clock()
        headers: dict[str, str] = {}
        for bucket in self._buckets:
            bucket.refill(now)
            headers |= bucket.headers(wall)
        return headers


def _buckets(limits: Limits, now: float) -> list[_Bucket]:
    wanted = [
        ("requests", limits.requests_per_second, limits.request_burst),
        ("input-tokens", limits.input_tokens_per_second, limits.input_token_burst),
    ]
    return [_Bucket(name, rate, burst or math.ceil(rate), now) for name, rate, burst in wanted if rate is not None]
