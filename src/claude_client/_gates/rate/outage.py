"""A circuit breaker: while everybody fails, one probe at a time goes, and all others wait."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from claude_client._gates.rate.state import State
from claude_client._values.kinds import Kind

#: Failures that are no request's own fault.
FAILURES: frozenset[Kind] = frozenset({"overloaded", "server_error", "connection"})

# It opens once so many failures in a row are one time in ten thousand due to chance, by the share that fails anyway.
_BY_CHANCE = 1e-4
_LEAST_SHARE = 0.05
_RECENT = 40  # requests behind that share
_SHORTEST_DELAY, _LONGEST_DELAY = 0.5, 8.0  # seconds from a probe that failed to the next
# Failures come fast. So after two seconds without any news of a probe another goes, and more and more after that.
_PROBE_GAP, _LEAST_GAP = 2.0, 0.1
_ASK_AGAIN = 0.25  # seconds, while probes are under way
_STALE = 30.0  # seconds without a failure or a probe, after which nothing is known of an outage any more
_NO_PROBE = -1.0


class Breaker(State):
    """
    Closed, it lets all pass. Failures in a row open it, four where few fail otherwise; those of a single prompt do not.
    It half-opens for a probe after half a second, then after a quarter of the time that the outage has lasted, 8 s at
    the most. The first answer closes it.

    Args:
        chance: Returns a number from 0 to 1: up to a quarter of each delay is added.
    """

    NUMBERS = ("since", "_failures", "_prompt", "_number", "_share", "_at", "_probe_at", "_probe", "_gap")

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        #: When the first of the failures in a row came; infinite while there are none.
        self.since = math.inf
        self._failures = 0.0  # in a row
        self._prompt = self._number = 0.0  # of the last failure
        self._share = 0.0  # of the latest requests that failed, but for those in a row
        self._at = 0.0  # the time of the last failure or probe
        self._probe_at = math.inf  # when the next probe may go; infinite while closed
        self._probe = _NO_PROBE  # the number of the first of those under way
        self._gap = _PROBE_GAP  # from the latest of them to the next

    @property
    def is_open(self) -> bool:
        """True while only probes go."""
        return self._probe_at < math.inf

    @property
    def is_probing(self) -> bool:
        """True while a probe is under way of which nothing is known yet."""
        return self._probe != _NO_PROBE

    def wait(self, now: float) -> float:
        """Seconds until the next request may go; 0.0 or less if one may now."""
        self._forget(now)
        if not self.is_open:
            return 0.0
        return min(self._probe_at - now, _ASK_AGAIN) if self.is_probing else self._probe_at - now

    def give(self, number: int, now: float) -> bool:
        """Note that request *number* goes now, and return whether it is a probe."""
        if not self.is_open:
            return False
        if not self.is_probing:
            self._probe = float(number)
        self._at, self._probe_at = now, now + self._gap
        self._gap = max(self._gap / 2, _LEAST_GAP)
        return True

    def answered(self) -> None:
        """Close: the server has answered something, whatever it is."""
        if self._failures:
            if not self.is_open:
                self._share += self._failures * (1 - self._share) / _RECENT
            self._reset()

    def failed(self, number: int, prompt: int, now: float, retry_after: float | None) -> None:
        """Count a failure of request *number*. *prompt*: any number that tells its prompt from others."""
        if self.is_probing and number >= self._probe:
            self._half_open_later(now, retry_after)
            return
        self._forget(now)
        if not self.is_open:
            self.since = min(self.since, now)
            if not self._failures or prompt != self._prompt:
                self._failures += 1
                self._share *= (1 - 1 / _RECENT) ** max(0.0, number - self._number)
            self._prompt, self._number, self._at = float(prompt), float(number), now
            if max(self._share, _LEAST_SHARE) ** self._failures <= _BY_CHANCE:
                self._half_open_later(now, retry_after)

    def withdrawn(self, number: int, now: float) -> None:
        """Let another probe go, if this was the first of those under way: nothing was heard of it."""
        if self.is_probing and number == self._probe:
            self._probe, self._probe_at = _NO_PROBE, now

    def _half_open_later(self, now: float, retry_after: float | None) -> None:
        delay = min(max(_SHORTEST_DELAY, (now - self.since) / 4, retry_after or 0.0), _LONGEST_DELAY)
        self._probe, self._gap = _NO_PROBE, _PROBE_GAP
        self._at, self._probe_at = now, now + delay * (1 + self._chance() / 4)

    def _forget(self, now: float) -> None:
        """Close if nothing was heard or tried for long: that was another outage."""
        if self._failures and now - self._at > _STALE:
            self._reset()

    def _reset(self) -> None:
        self._failures = 0.0
        self.since = self._probe_at = math.inf
        self._probe, self._gap = _NO_PROBE, _PROBE_GAP
