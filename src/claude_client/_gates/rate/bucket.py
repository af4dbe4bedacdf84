"""The image of one of the server's token buckets, as the `anthropic-ratelimit-*` headers show it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from claude_client._gates.rate.sends import Sends
from claude_client._gates.rate.state import State

_TRICKLE = 0.5  # seconds without a request or an answer, after which one may go: only its answer tells more
_MOST_WAIT = 0.25  # seconds to wait because of headers; newer ones may shorten the rest
_SPAN = 4.0  # seconds, once or twice, over which the refill is measured


class _Observation(State):
    """The level of a bucket as an answer gave it; `sent` is -inf where there is none."""

    NUMBERS = ("number", "sent", "heard", "remaining", "cost", "taken", "arrived", "covered")
    __slots__ = NUMBERS

    def __init__(self) -> None:
        self.number = -1.0
        self.sent = -math.inf
        self.heard = self.remaining = self.cost = 0.0
        #: The sum taken by all permits up to that of its request, that one included.
        self.taken = 0.0
        #: The sum that had surely reached the server when the answer arrived.
        self.arrived = 0.0
        #: The sum of all until then, less what was ahead of the refill, if it was under way to the server.
        self.covered = 0.0

    def become(self, other: _Observation) -> None:
        self.restore(other.numbers())


class Bucket(State):
    """
    A model of a bucket, in requests or in tokens.

    It is not known whether `remaining` is the level when the request was let in, or when its answer began. So the level
    is computed both ways, and the lower one counts; while requests go evenly, the two are alike. Nor is it known which
    requests were under way to it. They meet what flows in meanwhile, so they lower the level by what is ahead of that.

    Args:
        name: ``requests`` or ``input-tokens``, as the headers have it.

        sends: The requests of which it is the bucket.
    """

    NUMBERS = ("limit", "rate", "taken", "_exact", "_full_at", "_full_taken", "_quickest", "_due", "_last_taken")
    PARTS = ("_first", "_middle", "_last")

    def __init__(self, name: str, sends: Sends) -> None:
        self._sends = sends
        self._counts_tokens = name == "input-tokens"
        self._limit_header = f"anthropic-ratelimit-{name}-limit"
        self._remaining_header = f"anthropic-ratelimit-{name}-remaining"
        #: What it holds when it is full; 0 while unknown.
        self.limit = 0.0
        #: The refill in units per second; 0 while unknown.
        self.rate = 0.0
        #: The sum that all requests have taken so far.
        self.taken = 0.0
        self._exact = 0.0  # 1 once a value shows it: the API rounds tokens to thousands
        # The refill is measured from the first to the last; the one in the middle is the next first.
        self._first, self._middle, self._last = _Observation(), _Observation(), _Observation()
        self._full_at = -math.inf  # since when every observation has found it full
        self._full_taken = 0.0
        self._quickest = 0.25  # the shortest time in seconds from a permit to its answer, until now
        self._due = 0.0
        self._last_taken = 0.0  # the time of the last permit

    @property
    def is_informative(self) -> bool:
        """True if the level says anything. A bucket of one or two hardly ever has anything left."""
        return self.limit > 2

    @property
    def remaining(self) -> float:
        """A lower bound of its level: as if nothing had flowed in since the last observation."""
        return self._last.remaining + self._last.taken - self.taken

    def take(self, cost: float, now: float) -> None:
        """Count *cost* for a request that goes now."""
        self.taken += cost
        self._last_taken = now
        if self.is_informative:
            rested = self.remaining >= cost + self._margin(cost)
            # Half the time that the cost takes to flow in: near the bottom, twice the refill goes at most.
            gap = min(cost / (2 * self._rate_for(cost)), _TRICKLE)
            self._due = now if rested else max(self._due, now) + gap

    def amend(self, number: int, sent: float, more: float) -> None:
        """Correct the cost of permit *number*, given at *sent*, by *more*, which may be negative."""
        self.taken += more
        if self._counts_tokens:
            self._sends.amend(number, more)
        for observation in (self._first, self._middle, self._last):
            observation.taken += more * (number <= observation.number)
            observation.arrived += more * (sent <= observation.heard - self._quickest)
            observation.covered += more * (sent <= observation.heard)

    def wait(self, cost: float, now: float) -> float:
        """Seconds until it should hold *cost*; 0.0 if it does already, or nothing is known."""
        if not self.is_informative:
            return 0.0
        margin = self._margin(cost)
        if self.remaining >= min(2 * cost + margin, self.limit):  # room for two: no need to pace
            return 0.0
        if now - max(self._last_taken, self._last.heard) >= _TRICKLE:
            return 0.0
        rate = self._rate_for(cost)
        missing = min(cost + margin, self.limit) - min(self._level(rate, now), self.limit)
        return min(missing / rate if missing > 0 else max(0.0, self._due - now), _MOST_WAIT)

    def room(self, cost: float) -> float:
        """Number of requests of *cost* that it can surely take now; infinite if nothing is known."""
        return self.remaining / max(cost, 1) if self.is_informative else math.inf

    def observe(self, number: int, sent: float, cost: float, now: float, headers: Mapping[str, str]) -> None:
        """
        Learn from the *headers* of an answer that arrived at *now*. The request had the permit *number*, was *sent* at
        that time and is counted as *cost*.
        """
        self._quickest = min(self._quickest, now - sent)
        limit, remaining = _number(headers.get(self._limit_header)), _number(headers.get(self._remaining_header))
        if not limit or remaining is None:
            return
        last = self._last
        if abs(sent - last.sent) <= min(self._quickest, 0.02):
            # It is not known which of two sent together the server saw last: the lower level counts for both.
            remaining = min(remaining, int(last.remaining))
            last.remaining = remaining
        if number <= last.number:
            return
        self._exact = float(self._exact or remaining % 1000 > 0)
        if limit != self.limit:
            self.limit = limit
            self._forget()
        last.number, last.sent, last.heard, last.remaining, last.cost = number, sent, now, remaining, cost
        last.taken = self.taken - self._sends.taken_after(number, tokens=self._counts_tokens)
        under_way, ahead = self._sends.lately(now, self._quickest, self.rate, tokens=self._counts_tokens)
        last.arrived, last.covered = self.taken - under_way, self.taken - ahead
        if last.sent - self._middle.sent > _SPAN:
            self._first.become(self._middle if self._middle.sent > -math.inf else last)
            self._middle.become(last)
        full = remaining + cost >= limit - self._coarseness()
        self._measure(at_least=full)
        if full:
            self._grow()
            self._first.become(last)  # a full bucket takes in no more: older observations measure no refill
            self._middle.become(last)
        else:
            self._full_at = -math.inf

    def _forget(self) -> None:
        for observation in (self._first, self._middle, self._last):
            observation.become(_Observation())
        self._full_at = -math.inf

    def _measure(self, *, at_least: bool) -> None:
        """Set the rate by the refill between two observations; *at_least*: the bucket may have been full between."""
        first, last = self._first, self._last
        sent, heard = last.sent - first.sent, last.heard - first.heard
        if min(sent, heard) < (0.1 if at_least else 0.5):
            return
        more = last.remaining - first.remaining
        # Refill = change of the level + what was taken meanwhile, by the times of sending and of the answers.
        rate = min((more + last.taken - first.taken) / sent, (more + last.arrived - first.arrived) / heard)
        # At least what fills the bucket in ten minutes, or half of the last request's cost in this time.
        rate = max(rate, self.limit / 600, last.cost / (2 * sent))
        self.rate = max(rate, self.rate) if at_least else rate

    def _grow(self) -> None:
        """Raise the rate where it was full before, too: more flows in than was taken. How much more has to be tried."""
        last = self._last
        if self._full_at == -math.inf:
            self._full_at, self._full_taken = last.sent, last.taken
        elif last.sent - self._full_at >= 0.25:
            taken = (last.taken - self._full_taken) / (last.sent - self._full_at)
            growth = 1.25 if last.remaining >= 0.8 * self.limit else 1.1
            self.rate = max(self.rate, growth * taken)
            self._full_at, self._full_taken = -math.inf, 0.0

    def _level(self, rate: float, now: float) -> float:
        last = self._last
        since_sent = rate * (now - last.sent) - (self.taken - last.taken)
        since_heard = rate * (now - last.heard) - (self.taken - last.covered)
        return last.remaining + min(since_sent, since_heard)

    def _rate_for(self, cost: float) -> float:
        """The refill per second. While unknown: five requests of *cost*, or a full bucket a minute if that is more."""
        return self.rate or max(5.0 * cost, self.limit / 60)

    def _margin(self, cost: float) -> float:
        """The reserve for requests that overtake each other: one request or the rounding, half of the rest at most."""
        return min(max(cost, self._coarseness()), max(self.limit - cost, 0) / 2)

    def _coarseness(self) -> float:
        """Most that `remaining` is off by rounding: half of a thousand, until a value shows that it is exact."""
        return 500 if self.limit >= 5000 and not self._exact else 0


class Calibration(State):
    """The ratio of the tokens that requests cost to the estimates for them. The latest requests count most."""

    NUMBERS = ("_guessed", "_actual")

    def __init__(self) -> None:
        self._guessed = self._actual = 0.0

    def add(self, guessed: int, actual: int) -> None:
        """Count a request that was *guessed* at so many tokens and cost *actual* ones."""
        # Weights fall by 0.9 from request to request, so the sums are worth 1 / (1 - 0.9) = 10 requests at the most.
        self._guessed = 0.9 * self._guessed + guessed
        self._actual = 0.9 * self._actual + actual

    def tokens(self, guessed: int) -> int:
        """The tokens to expect of a request *guessed* at so many."""
        return round(guessed * self._actual / self._guessed) if self._guessed else guessed


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None
