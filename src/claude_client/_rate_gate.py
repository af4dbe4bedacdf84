"""
The pace shared by all calls of a client and model, so that a limit met by one thread slows them all.

How it finds the pace, from what it is told:

- nothing yet: ten requests at once, then quick ones behind them until the first answer; after that no limit.
- `anthropic-ratelimit-*` headers: an image of each of the server's buckets (`_Bucket`) that answers keep right.
- a 429: shut for as long as it says, then open at a pace (`_Pace`) that was accepted before, and rising.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ._errors import ClaudeInvocationError
from ._retry import LONGEST_RETRY_AFTER, compute_backoff_delay

_AT_ONCE = 10  # requests of a fresh gate, before any answer; as many as a fan-out has workers
_COLD_PACE = 100.0  # requests per second that follow them
_FAST, _SLOW = 4.0, 1.02  # growth of a pace, per second of use
_KEPT = 0.9  # share of an accepted rate to go on with after a rejection
_FREE = 1000.0  # requests per second; a pace that has grown to this is none
_SHORTEST_WAIT = 0.001  # seconds
MARGIN = 1.0
ROOM = 10
GAP = 2
_LOOK_AGAIN = 0.25  # seconds; answers may have come meanwhile that say better


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave to send one request now. The gate must be told how it went: `heard`, `rejected` or `left`."""

    number: int
    at: float
    #: Input tokens as the caller guessed, and as the gate counted them.
    guessed: int
    tokens: int
    #: How many requests had been accepted when it was given.
    accepted: int


class RateGate:
    """
    Says when a request may be sent. It never blocks and starts nothing: callers wait, in whatever way they can.

    Every method may be called from any thread and takes a few microseconds.

    Args:
        clock: Seconds from any origin.

        jitter: A number from 0 to 1, drawn for each reopening.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()  # guards everything below
        self._passes = 0
        self._accepted = 0
        self._in_flight: set[int] = set()
        self._requests = _Bucket("requests")
        self._tokens = _Bucket("input-tokens")
        self._calibration = _Calibration()
        self._pace: _Pace | None = _Pace(_COLD_PACE, _FAST, clock(), at_once=_AT_ONCE)
        self._shut = _Shut(at=-math.inf, until=-math.inf, first_after=0)
        self._marks: deque[tuple[int, float]] = deque(maxlen=128)
        self._cold_passes = 0
        self._rejections = 0
        self._stock: int | None = None
        self._in_a_row = 0  # times it was shut without an accepted request between

    def enter(self, input_tokens: int, *, patient: bool = False) -> Pass | float:
        """
        Leave to send a request of about *input_tokens* that count against the limit, or seconds (above 0) to wait
        before asking again. Asking earlier does no harm, and may succeed when an answer has come meanwhile.

        Raises:
            ClaudeInvocationError:
                If the API asked for a wait of which more than `LONGEST_RETRY_AFTER` is left, unless *patient*.
        """
        with self._lock:
            now = self._clock()
            shut_for = self._shut.until - now
            if shut_for > LONGEST_RETRY_AFTER and not patient:
                raise _shut_too_long(shut_for)
            tokens = self._calibration.of(input_tokens)
            if wait := self._wait(tokens, now):
                return max(wait, _SHORTEST_WAIT)
            return self._give(input_tokens, tokens, now)

    def heard(self, passed: Pass, headers: Mapping[str, str]) -> None:
        """The server accepted the request; *headers* are those of its answer, which may still be under way."""
        with self._lock:
            self._end(passed)
            self._accepted += 1
            self._in_a_row = 0
            if self._pace and self._pace.cold:
                self._pace = None
            self._look(passed, headers)

    def counted(self, passed: Pass, input_tokens: int) -> None:
        """The request, accepted, cost *input_tokens* (cache writes included, cache reads not)."""
        with self._lock:
            self._calibration.add(passed.guessed, input_tokens)
            self._tokens.amend(passed.number, input_tokens - passed.tokens)

    def rejected(self, passed: Pass, retry_after: float | None, headers: Mapping[str, str]) -> bool:
        """
        The request met a rate limit: let nothing pass for *retry_after* seconds (None: the server did not say).

        Returns:
            Whether others were accepted since it was given its pass: then it was only unlucky, and the rejection
            should not use up one of its retries.
        """
        with self._lock:
            if self._end(passed):
                self._give_back(passed)
            self._look(passed, headers)
            self._close(passed, retry_after)
            return self._accepted > passed.accepted

    def left(self, passed: Pass) -> None:
        """The request ended without an answer from the server. Does nothing if the gate was told how it went."""
        with self._lock:
            if self._end(passed):
                self._give_back(passed)

    def __repr__(self) -> str:
        with self._lock:
            now = self._clock()
            shut = f"shut for {self._shut.until - now:.1f} s, " if self._shut.until > now else ""
            pace = f"{self._pace.rate:.3g}/s" if self._pace else "none"
            return (
                f"<RateGate {shut}pace {pace}, {self._requests}, {self._tokens}, "
                f"{self._passes} passed, {len(self._in_flight)} in flight, {self._accepted} accepted>"
            )

    # The caller of what follows holds the lock.

    def _wait(self, tokens: int, now: float) -> float:
        return max(
            self._shut.until - now,
            self._pace.due - now if self._pace else 0.0,
            self._requests.wait(1, now),
            self._tokens.wait(tokens, now),
            0.0,
        )

    def _give(self, guessed: int, tokens: int, now: float) -> Pass:
        passed = Pass(self._passes, now, guessed, tokens, self._accepted)
        self._passes += 1
        self._in_flight.add(passed.number)
        if not self._marks or now - self._marks[-1][1] >= 0.05:
            self._marks.append((passed.number, now))
        self._requests.take(passed.number, 1, now)
        self._tokens.take(passed.number, tokens, now)
        if self._pace:
            self._pace.step(now)
            if self._pace.rate > _FREE:
                self._pace = None
        return passed

    def _end(self, passed: Pass) -> bool:
        """Whether *passed* was still in flight."""
        if passed.number not in self._in_flight:
            return False
        self._in_flight.remove(passed.number)
        return True

    def _give_back(self, passed: Pass) -> None:
        self._requests.amend(passed.number, -1)
        self._tokens.amend(passed.number, -passed.tokens)

    def _look(self, passed: Pass, headers: Mapping[str, str]) -> None:
        now = self._clock()
        self._requests.look(passed, now, headers)
        self._tokens.look(passed, now, headers)
        if self._pace and passed.number >= self._shut.first_after:
            room = min(self._requests.room(1), self._tokens.room(passed.tokens))
            if room < math.inf:
                self._pace.rate = max(self._pace.rate, ROOM * room)

    def _close(self, passed: Pass, retry_after: float | None) -> None:
        now = self._clock()
        before = self._shut
        self._rejections += 1
        again = passed.number >= before.first_after  # not a straggler of the requests that had it shut before
        if again:
            self._in_a_row += 1
        pause = compute_backoff_delay(max(self._in_a_row, 1)) if retry_after is None else retry_after
        if again:
            self._shut = _Shut(at=now, until=now + pause, first_after=self._passes)
            self._pace = self._slower(passed, before, pause)
        else:
            before.until = max(before.until, now + pause)
        if self._pace:
            self._pace.reopen(self._shut.until, self._jitter())

    def _slower(self, passed: Pass, before: _Shut, pause: float) -> _Pace:
        """The pace to reopen with, now that *passed* was rejected, having been open since *before*."""
        now = self._clock()
        explained = self._requests.wait(1, now) > 0 or self._tokens.wait(passed.tokens, now) > 0
        trusted = explained and now - before.until > 10
        growth = _FAST if trusted or before.until == -math.inf else _SLOW
        rate = self._accepted_rate(passed, before) or 10 / max(pause, 1.0)
        if explained and self._requests.rate:
            rate = 2 * self._requests.rate
        return _Pace(rate, growth, now)

    def _accepted_rate(self, passed: Pass, before: _Shut) -> float | None:
        if before.until == -math.inf:
            self._cold_passes = self._passes if passed.at - self._marks[0][1] < 1 else 0
            return None
        if self._stock is None:
            self._stock = max(0, self._cold_passes - (self._rejections - 1)) if self._cold_passes else 0
        accepted = passed.number - before.first_after
        rates = [(accepted + 0.5) / (passed.at - before.at)]
        for number, at in self._marks:
            if number >= before.first_after and passed.at - at >= 0.25:
                rates.append((passed.number - number - self._stock) / (passed.at - at))
        return _KEPT * max(rates)


@dataclass(slots=True)
class _Shut:
    """When the gate was last shut, until when, and the number of the first pass given after."""

    at: float
    until: float
    first_after: int


class _Pace:
    """Even gaps between requests, at a rate that grows while it is used."""

    def __init__(self, rate: float, growth: float, now: float, *, at_once: int = 0) -> None:
        self.rate = rate
        self.due = now
        self.cold = at_once > 0
        self._growth = growth
        self._at_once = at_once
        self._last = now

    def reopen(self, at: float, jitter: float) -> None:
        self.due = at + jitter / self.rate
        self._last = at

    def step(self, now: float) -> None:
        """A request goes now."""
        if self._at_once > 1:
            self._at_once -= 1
            return
        self.rate *= self._growth ** min(max(now - self._last, 0.0), 1.0)
        self._last = now
        gap = 1 / self.rate
        # One who comes late to his turn does not delay the next, but nobody goes at his heels.
        self.due = max(max(self.due, now - gap) + gap, now + gap / 2)


@dataclass(slots=True)
class _Sight:
    """What an answer said."""

    number: int
    at: float
    heard: float
    remaining: int
    taken: int  # all that was counted up to its request
    total: int
    seen: int
    cost: int


class _Bucket:
    """An image of one of the server's buckets."""

    def __init__(self, name: str) -> None:
        self._name = f"anthropic-ratelimit-{name}"
        self._limit = 0
        self._sights: deque[_Sight] = deque()
        self._newest = -1
        self._settled = 0
        self._pending: dict[int, int] = {}
        self._pending_sum = 0
        self._exact = False
        self._full: _Sight | None = None
        self._sent: dict[int, float] = {}
        self.quickest = 0.25
        self._due = 0.0
        self.rate: float | None = None

    def __repr__(self) -> str:
        return f"{self._name.removeprefix('anthropic-ratelimit-')} {self._sights[-1].remaining if self._sights else '?'}/{self._limit} +{self.rate or 0:.3g}/s"

    def take(self, number: int, cost: int, now: float) -> None:
        self._pending[number] = cost
        self._sent[number] = now
        self._due = max(self._due, now) + cost / (GAP * (self.rate or 5.0 * cost))
        self._newest_taken = number
        self._pending_sum += cost

    def amend(self, number: int, more: int) -> None:
        if number in self._pending:
            self._pending[number] += more
            self._pending_sum += more
        else:
            self._settled += more
        for sight in reversed(self._sights):
            if sight.number < number and sight.seen <= number:
                break
            if sight.number >= number:
                sight.taken += more
            sight.total += more

    def look(self, passed: Pass, now: float, headers: Mapping[str, str]) -> None:
        self.quickest = min(self.quickest, now - passed.at)
        if passed.number <= self._newest:
            return
        for number in range(self._newest + 1, passed.number + 1):
            cost = self._pending.pop(number)
            self._sent.pop(number)
            self._settled += cost
            self._pending_sum -= cost
        self._newest = passed.number
        limit, remaining = _number(headers.get(f"{self._name}-limit")), _number(headers.get(f"{self._name}-remaining"))
        if limit is None or remaining is None:
            return
        if remaining % 1000:
            self._exact = True
        recent, seen = 0, self._newest_taken + 1
        for number in reversed(self._pending):
            if self._sent[number] <= now - self.quickest:
                break
            recent += self._pending[number]
            seen = number
        self._see(limit, _Sight(passed.number, passed.at, now, remaining, self._settled, self._settled + self._pending_sum - recent, seen, cost))

    def wait(self, cost: int, now: float) -> float:
        if not self._sights or self._limit < 3:
            return 0.0
        rate = self.rate or 5.0 * cost
        last = self._sights[-1]
        total = self._settled + self._pending_sum
        level = last.remaining + min(
            rate * (now - last.at) - (total - last.taken), rate * (now - last.heard) - (total - last.total)
        )
        missing = min(cost + self._margin(cost), self._limit) - min(level, self._limit)
        if missing <= 0:
            sure = last.remaining - (total - last.taken)
            if sure >= min(2 * cost + self._margin(cost), self._limit):
                self._due = now
                return 0.0
            return max(0.0, self._due - now)
        return min(missing / rate, _LOOK_AGAIN)

    def room(self, cost: int) -> float:
        if not self._sights or self._limit < 3:
            return math.inf
        last = self._sights[-1]
        return (last.remaining - (self._settled + self._pending_sum - last.taken)) / max(cost, 1)

    def _margin(self, cost: int) -> float:
        return min(max(500 if self._limit >= 5000 and not self._exact else 0, MARGIN * cost), max(self._limit - cost, 0) / 2)

    def _see(self, limit: int, sight: _Sight) -> None:
        if limit != self._limit:
            self._sights.clear()
            self._limit = limit
        sights = self._sights
        if not sights:
            sights.append(sight)
            return
        if len(sights) > 1 and sight.at - sights[-2].at < 0.25:
            sights[-1] = sight
        else:
            sights.append(sight)
        while len(sights) > 8 and sights[0].at < sight.at - 5:
            sights.popleft()
        first = sights[0]
        full = sight.remaining + sight.cost >= limit - (0 if self._exact else min(limit / 10, 500))
        rates = []
        change = sight.remaining - first.remaining
        span = sight.at - first.at, sight.heard - first.heard
        taken = sight.taken - first.taken, sight.total - first.total
        if min(span) >= (0.1 if full else 0.5):
            rate = min((change + taken[0]) / span[0], (change + taken[1])/span[1])
            rate = max(rate, limit / 600)
            if full:
                rate = max(self.rate or 0, rate)
            self.rate = rate
        if not full:
            self._full = None
        else:
            sights.clear()
            sights.append(sight)
            if not self._full:
                self._full = sight
            elif sight.at - self._full.at >= 0.25:
                rate = 2 * (sight.taken - self._full.taken) / (sight.at - self._full.at)
                self.rate = max(self.rate or 0, rate)
                self._full = sight


class _Calibration:
    """How many tokens a guessed one is, from what requests were found to cost. The latest count most."""

    def __init__(self) -> None:
        self._guessed = self._actual = 0.0

    def add(self, guessed: int, actual: int) -> None:
        self._guessed = 0.9 * self._guessed + guessed
        self._actual = 0.9 * self._actual + actual

    def of(self, guessed: int) -> int:
        return round(guessed * self._actual / self._guessed) if self._guessed else guessed


def _number(text: str | None) -> int | None:
    try:
        return max(0, int(text or ""))
    except ValueError:
        return None


def _shut_too_long(seconds: float) -> ClaudeInvocationError:
    return ClaudeInvocationError(
        f"The API asked to wait: no request goes to this model for another {seconds:.0f} s",
        kind="rate_limit",
        retry_after=seconds,
    )


_lock = threading.Lock()  # guards _gates
_gates: WeakKeyDictionary[Any, dict[str, RateGate]] = WeakKeyDictionary()


def gate_for(client: Any, model: str) -> RateGate:
    """The gate of all calls by *client* to *model*. It is forgotten with the client, and by a forked child."""
    with _lock:
        of_client = _gates.setdefault(client, {})
        if model not in of_client:
            of_client[model] = RateGate()
        return of_client[model]


def _after_fork_in_child() -> None:
    global _lock, _gates  # noqa: PLW0603 - a copy of the parent's lock may be held for ever
    _lock = threading.Lock()
    _gates = WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
