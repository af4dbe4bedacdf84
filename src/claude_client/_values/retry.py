"""Decides when a failed attempt is made again. No I/O: the caller waits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from claude_client._values.errors import ClaudeInvocationError

#: Seconds that a plain call waits at the most, if the API asks for a pause.
LONGEST_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The number of retries, and the milliseconds before the first of them and at the most."""

    max_retries: int = 2
    base_ms: float = 500
    max_ms: float = 8000
    #: The longest `retry-after`, in seconds, that is waited for.
    longest_retry_after: float = LONGEST_RETRY_AFTER
    #: Seconds that a call waits at the most while everybody fails, without using up its retries.
    outage_patience: float = 60.0
    #: Whether each turn of an answer that pauses has retries of its own.
    retries_per_turn: bool = True

    @property
    def wait_any_pause(self) -> bool:
        """True if pauses of any length are waited for."""
        return self.longest_retry_after == math.inf

    def but(self, *, max_retries: int, outage_patience: float | None) -> RetryPolicy:
        """The same with another number of retries and, unless None, another patience."""
        patience = self.outage_patience if outage_patience is None else outage_patience
        if (max_retries, patience) == (self.max_retries, self.outage_patience):
            return self
        return replace(self, max_retries=max_retries, outage_patience=patience)


#: The policy of the plain verbs.
PLAIN = RetryPolicy()


def compute_backoff_delay(
    attempt: int, *, is_continuation: bool = False, base_ms: float = 1000, max_ms: float = 10000
) -> float:
    """
    Seconds to wait after *attempt* (from 1) has failed: *base_ms*, doubled each time, at most *max_ms*.

    After a continuation it is always 1 second: its work is under way, and not to be kept waiting.

    Raises:
        ValueError: If *attempt* is no whole number from 1, or a delay no number of milliseconds from 0.
    """
    if not isinstance(attempt, int) or attempt < 1:
        raise ValueError(f"attempt must be a whole number from 1, got {attempt!r}")
    for name, delay in (("base_ms", base_ms), ("max_ms", max_ms)):
        if not isinstance(delay, (int, float)) or not 0 <= delay < math.inf:
            raise ValueError(f"{name} must be a number of milliseconds from 0, got {delay!r}")
    if is_continuation:
        return 1.0
    doublings = min(attempt - 1, 1000)  # 2.0**1024 overflows
    return min(base_ms * 2.0**doublings, max_ms) / 1000


def next_delay(
    error: ClaudeInvocationError,
    attempt: int,
    policy: RetryPolicy,
    *,
    jitter: Callable[[], float] = random.random,
) -> float | None:
    """
    Seconds until *attempt* (from 1), which ended with *error*, may be made again; None if it must not be.

    The API's own `retry-after` goes before the policy's delay, and one above its longest is None.
    Up to a quarter is added by *jitter*, but nothing above the policy's longest delay.
    """
    if not error.retryable or attempt > policy.max_retries:
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= policy.longest_retry_after else None
    delay = compute_backoff_delay(attempt, base_ms=policy.base_ms, max_ms=policy.max_ms)
    return min(delay * (1 + jitter() / 4), policy.max_ms / 1000)
