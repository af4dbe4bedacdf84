"""
The pace shared by all calls of a client and model, so that a limit met by one thread slows them all.

What it goes by, from what it has been told:

- nothing yet: ten requests at once, others close behind them; from the first answer on, no limit.
- `anthropic-ratelimit-*` headers: an image of each of the server's buckets, kept right by every answer (`_Bucket`).
- a 429: nothing passes for as long as it says. Then a pace that was surely accepted before, and rising (`_Pace`).
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.retry import LONGEST_RETRY_AFTER, compute_backoff_delay

from .per_client import PerClient

_AT_ONCE = 10  # requests of a fresh gate: as many as a fan-out has workers
_COLD_RATE = 100.0  # requests per second behind those, until there is an answer
_FAST, _SLOW = 4.0, 1.02  # growth of a pace per second of use
_PER_PAUSE = 0.5  # requests per pause that the server asked for; one must be let in after it, and it was half way there
_SLOWEST = 0.1  # requests per second; what is slower is left to `retry-after`
_FREE_RATE = 1000.0  # requests per second; a pace grown to this no longer counts
_QUIET = 10.0  # seconds without a rejection, after which the headers are taken at their word again
_SHORTEST_WAIT = 0.001  # seconds
_TRICKLE = 10.0  # seconds without a request or an answer, after which one may go to see: nothing else would tell
_LONGEST_LOOK = 0.25  # seconds to wait on what the headers said; meanwhile they may say better


class Pass(NamedTuple):
    """Leave to send one request now. Its gate must hear how it went: `heard`, `rejected` or `left`."""

    number: int
    at: float
    #: Input tokens as the caller guessed them, and as they were counted.
    guessed: int
    tokens: int
    #: How many requests had been accepted when it was given.
    accepted: int


class RateGate:
    """
    Says when the next request may be sent. It never waits itself: callers do, in whatever way they can.

    Every method may be called from any thread and takes microseconds. Who asks first after a wait goes first;
    there is no queue.

    Args:
        clock: Seconds from any origin.

        jitter: Gives a number from 0 to 1 for each reopening, which is put off by that share of a gap.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()  # guards everything below
        self._passes = 0
        self._accepted = 0
        self._in_flight: dict[int, Pass] = {}
        self._told = False  # whether there ever were limit headers; until then there is nothing to keep books of
        self._requests = _Bucket("requests")
        self._tokens = _Bucket("input-tokens")
        self._calibration = _Calibration()
        self._past = _Past()
        self._pace: _Pace | None = _Pace(_COLD_RATE, _FAST, clock(), at_once=_AT_ONCE)
        self._shut: _Shut | None = None
        self._shut_in_a_row = 0  # with no request accepted between

    def enter(self, input_tokens: int, *, patient: bool = False) -> Pass | float:
        """
        A pass for a request of about *input_tokens* that count against the limit, or seconds (above 0) after which
        to ask again. Asking sooner does no harm, and pays when an answer has come meanwhile.

        Raises:
            ClaudeInvocationError:
                Kind ``rate_limit``, while the pause that the API asked for has more than `LONGEST_RETRY_AFTER` to
                go, unless *patient*.
        """
        with self._lock:
            now = self._clock()
            tokens = self._calibration.tokens(input_tokens)
            return self._wait(tokens, now, patient=patient) or self._give(input_tokens, tokens, now)

    def wait(self, input_tokens: int, *, patient: bool = False) -> float:
        """
        The seconds that `enter` would give; 0 for a pass, which is not taken.

        Raises:
            ClaudeInvocationError: As `enter`.
        """
        with self._lock:
            return self._wait(self._calibration.tokens(input_tokens), self._clock(), patient=patient)

    def heard(self, passed: Pass, headers: Mapping[str, str]) -> None:
        """
        The server let the request in, whatever became of it then. *headers* are those of its answer that are about
        rate limits, by their names in lower case; the answer may still be under way.
        """
        with self._lock:
            if not self._ends(passed, headers):
                return
            self._accepted += 1
            self._shut_in_a_row = 0
            if self._pace and self._pace.cold:
                self._pace = None
            self._look(passed, headers)

    def counted(self, passed: Pass, input_tokens: int) -> None:
        """A request that was let in cost *input_tokens*: cache writes included, cache reads not."""
        with self._lock:
            self._calibration.add(passed.guessed, input_tokens)
            if self._told:
                self._tokens.amend(passed.number, input_tokens - passed.tokens)

    def rejected(self, passed: Pass, retry_after: float | None, headers: Mapping[str, str]) -> bool:
        """
        The request met a rate limit. Nothing passes for *retry_after* seconds; None: the server did not say.

        Returns:
            Whether others were let in since it had its pass: then it was only unlucky, and should be sent again
            without using up one of its retries.
        """
        with self._lock:
            if self._ends(passed, headers):
                self._give_back(passed)
                self._look(passed, headers)
                self._close(passed, retry_after)
            return self._accepted > passed.accepted

    def left(self, passed: Pass) -> None:
        """The request ended without a word from the server. Does nothing after `heard` or `rejected`."""
        with self._lock:
            if self._ends(passed, {}):
                self._give_back(passed)

    def __repr__(self) -> str:
        with self._lock:
            pause = self._shut.until - self._clock() if self._shut else 0.0
            state = f"shut for {pause:.1f} s, " if pause > 0 else ""
            pace = f"{self._pace.rate:.3g}/s" if self._pace else "no pace"
            return (
                f"<RateGate {state}{pace}, {self._requests}, {self._tokens}, "
                f"{self._passes} passed, {self._accepted} accepted, {len(self._in_flight)} in flight>"
            )

    # The caller of what follows holds the lock.

    def _wait(self, tokens: int, now: float, *, patient: bool) -> float:
        wait = self._shut.until - now if self._shut else 0.0
        if wait > LONGEST_RETRY_AFTER and not patient:
            raise _long_pause(wait)
        if self._pace:
            wait = max(wait, self._pace.due - now)
        if self._told:
            wait = max(wait, self._requests.wait(1, now), self._tokens.wait(tokens, now))
        return max(wait, _SHORTEST_WAIT) if wait > 0 else 0.0

    def _give(self, guessed: int, tokens: int, now: float) -> Pass:
        passed = Pass(self._passes, now, guessed, tokens, self._accepted)
        self._passes += 1
        self._in_flight[passed.number] = passed
        self._past.note(passed)
        if self._told:
            self._take(passed)
        if self._pace:
            self._pace.step(now)
            if self._pace.rate > _FREE_RATE:
                self._pace = None
        return passed

    def _ends(self, passed: Pass, headers: Mapping[str, str]) -> bool:
        """Whether *passed* was in flight. It no longer is. With the first headers, the books are opened."""
        if headers and not self._told:
            self._told = True
            for known in self._in_flight.values():
                self._take(known)
        return self._in_flight.pop(passed.number, None) is not None

    def _take(self, passed: Pass) -> None:
        self._requests.take(passed.number, 1, passed.at)
        self._tokens.take(passed.number, passed.tokens, passed.at)

    def _give_back(self, passed: Pass) -> None:
        if self._told:
            self._requests.amend(passed.number, -1)
            self._tokens.amend(passed.number, -passed.tokens)

    def _look(self, passed: Pass, headers: Mapping[str, str]) -> None:
        if not self._told:
            return
        now = self._clock()
        self._requests.look(passed, now, headers)
        self._tokens.look(passed, now, headers)
        if self._pace and self._pace.by_headers and self._shut and passed.number >= self._shut.passes:
            room = min(self._requests.room(1), self._tokens.room(passed.tokens))
            self._pace.allow(room)

    def _close(self, passed: Pass, retry_after: float | None) -> None:
        now = self._clock()
        news = self._shut is None or passed.number >= self._shut.passes  # else it was sent before the gate was shut
        self._shut_in_a_row += news
        pause = max(0.0, retry_after) if retry_after is not None else compute_backoff_delay(max(1, self._shut_in_a_row))
        until = max(now + pause, self._shut.until if self._shut else now)
        if news and pause:
            self._pace = self._slower(passed, now, pause)
            self._pace.rate = max(self._pace.rate, _PER_PAUSE / pause)
            self._past.close(self._passes, now)
            self._pace.reopen(until, self._jitter())
            self._shut = _Shut(now, until, self._passes)
        elif self._shut:
            self._past.straggler()
            if self._pace:
                self._pace.due += until - self._shut.until
            self._shut.until = until

    def _slower(self, passed: Pass, now: float, pause: float) -> _Pace:
        """The pace to reopen with, after *pause*, now that *passed* was rejected."""
        first = 10 / max(pause, 1.0)
        if self._explained(passed, now):
            return _Pace(2 * self._requests.rate if self._requests.rate else first, _FAST, now, by_headers=True)
        if self._shut is None:
            told = self._requests.steers or self._tokens.steers  # and yet rejected: not by a limit that has headers
            return _Pace(first, _FAST, now, by_headers=not told)
        rate = self._past.surely_accepted(passed, self._shut)
        return _Pace(min(rate, 0.9 * self._pace.rate) if self._pace else rate, _SLOW, now)

    def _explained(self, passed: Pass, now: float) -> bool:
        """Whether the headers say why *passed* was rejected, and going by them had worked for a while."""
        short = self._requests.wait(1, now) > 0 or self._tokens.wait(passed.tokens, now) > 0
        return short and (self._shut is None or now - self._shut.until > _QUIET)


@dataclass(slots=True)
class _Shut:
    """When the gate was last shut, until when, and how many passes it had given."""

    at: float
    until: float
    passes: int


class _Pace:
    """
    Even gaps between requests, at a rate that grows by a factor in each second of use.

    Args:
        at_once: How many may go without gaps first. Such a pace is for a gate that knows nothing yet.

        by_headers: Whether the answers' headers, where there are any, may quicken it.
    """

    def __init__(self, rate: float, growth: float, now: float, *, at_once: int = 0, by_headers: bool = False) -> None:
        self.rate = max(rate, _SLOWEST)
        self.due = now
        self.cold = at_once > 0
        self.by_headers = by_headers
        self._at_once = at_once
        self._growth = growth
        self._last = now

    def reopen(self, at: float, jitter: float) -> None:
        """Begin anew at *at*, put off by *jitter*, a share of a gap."""
        self.due = at + min(jitter / self.rate, 1.0)
        self._last = at

    def allow(self, room: float) -> None:
        """An answer said that *room* requests may go: let them, but spread over a tenth of a second."""
        if room < math.inf:
            self.rate = max(self.rate, 10 * room)

    def step(self, now: float) -> None:
        """A request goes now."""
        if self._at_once > 1:
            self._at_once -= 1
            return
        self.rate *= self._growth ** min(max(now - self._last, 0.0), max(1.0, 1.5 / self.rate))
        self._last = now
        gap = 1 / self.rate
        # Who comes late does not put off the next in turn, but nobody goes at another's heels.
        self.due = max(self.due + gap, now + gap / 2)


class _Past:
    """What was let through lately: the rate of it that the server surely took in, once it rejects some."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=128)  # passes given, and when; 50 ms apart or more
        self._began: float | None = None
        self._burst: int | None = None

    def note(self, passed: Pass) -> None:
        """*passed* was given."""
        if not self._marks or passed.at - self._marks[-1][1] >= 0.05:
            self._marks.append((passed.number, passed.at))
        if self._began is None:
            self._began = passed.at

    def close(self, passes: int, now: float) -> None:
        """The gate is shut after so many *passes*. The first time tells how many a rested server takes at once."""
        if self._burst is None:
            brief = self._began is not None and now - self._began < 1
            self._burst = passes - 1 if brief else 0

    def straggler(self) -> None:
        """One more was rejected of those sent before the gate was shut."""
        if self._burst:
            self._burst -= 1

    def surely_accepted(self, passed: Pass, shut: _Shut) -> float:
        """
        Requests per second that the server takes, at the least, now that *passed* is the first it rejected after
        *shut*: the most that went in over any stretch of time, less what it may have had in stock at its beginning.
        """
        since = [(passed.number - shut.passes + 0.5) / max(passed.at - shut.at, 0.1)]
        burst = self._burst or 0
        for number, at in self._marks:
            if number >= shut.passes and passed.at - at >= 0.25:
                since.append((passed.number - number - burst) / (passed.at - at))
        return max(since)


@dataclass(slots=True)
class _Sight:
    """What an answer said was left in a bucket."""

    number: int
    sent: float
    heard: float
    remaining: int
    cost: int
    #: All that was ever taken when its request was sent, that one included.
    taken: int
    #: All that had surely reached the server when the answer was heard: that of the passes below `unseen`.
    arrived: int
    unseen: int


class _Bucket:
    """
    An image of one of the server's token buckets, in requests or in tokens. The gate holds its lock.

    Whether `remaining` is of when the request was let in or of when its answer began is not known. So the level is
    reckoned both ways, and the lower one believed; while requests go evenly, the two are alike.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._limit_header = f"anthropic-ratelimit-{name}-limit"
        self._remaining_header = f"anthropic-ratelimit-{name}-remaining"
        self._limit = 0
        self._exact = False  # the API rounds tokens to thousands
        self._sights: deque[_Sight] = deque()  # of some seconds; the last is the newest request's
        self._full_since: _Sight | None = None
        self._quickest = 0.25  # seconds from a pass to its answer, at the least
        self._newest = -1  # pass that was answered
        self._settled = 0  # taken by it and those before it
        self._later: dict[int, tuple[float, int]] = {}  # when and what each took that came after it
        self._later_sum = 0
        self._due = 0.0
        self._last_taken = 0.0  # when
        #: Units per second that flow in, None while unknown.
        self.rate: float | None = None

    def __repr__(self) -> str:
        left = f"{self._sights[-1].remaining} of {self._limit}" if self._sights else "unknown"
        return f"{self._name} {left}" + (f" +{self.rate:.3g}/s" if self.rate else "")

    def take(self, number: int, cost: int, now: float) -> None:
        """Pass *number*, the next, takes *cost*."""
        self._later[number] = now, cost
        self._later_sum += cost
        self._last_taken = now
        if self.steers:
            rested = self._sure() >= cost + self._margin(cost)
            self._due = now if rested else max(self._due, now) + cost / (2 * self._rate_for(cost))

    def amend(self, number: int, more: int) -> None:
        """Pass *number* took so much *more*, or less, than was thought."""
        if number in self._later:
            sent, cost = self._later[number]
            self._later[number] = sent, cost + more
            self._later_sum += more
        else:
            self._settled += more
        for sight in self._sights:
            sight.taken += more * (number <= sight.number)
            sight.arrived += more * (number < sight.unseen)

    def wait(self, cost: int, now: float) -> float:
        """Seconds until it should hold *cost*; 0.0 if it does, or nothing is known."""
        if not self.steers:
            return 0.0
        margin = self._margin(cost)
        if self._sure() >= min(2 * cost + margin, self._limit):
            return 0.0
        if now - max(self._last_taken, self._sights[-1].heard) >= _TRICKLE:
            return 0.0
        rate = self._rate_for(cost)
        missing = min(cost + margin, self._limit) - min(self._level(rate, now), self._limit)
        return min(missing / rate, _LONGEST_LOOK) if missing > 0 else max(0.0, self._due - now)

    def room(self, cost: int) -> float:
        """How many requests of *cost* it can surely take now; infinite if nothing is known."""
        return self._sure() / max(cost, 1) if self.steers else math.inf

    def look(self, passed: Pass, now: float, headers: Mapping[str, str]) -> None:
        """Learn from the *headers* of the answer to *passed*, heard *now*."""
        self._quickest = min(self._quickest, now - passed.at)
        newer = passed.number > self._newest
        cost = self._settle(passed.number) if newer else 0
        limit = _number(headers.get(self._limit_header))
        remaining = _number(headers.get(self._remaining_header))
        if not limit or remaining is None:
            return
        last = self._sights[-1] if self._sights else None
        if last and abs(passed.at - last.sent) <= min(self._quickest, 0.02):
            # Which of two sent together the server saw last is not known.
            remaining = last.remaining = min(remaining, last.remaining)
        if newer:
            self._exact = self._exact or remaining % 1000 > 0
            arrived, unseen = self._arrived(now)
            self._see(limit, _Sight(passed.number, passed.at, now, remaining, cost, self._settled, arrived, unseen))

    def _settle(self, number: int) -> int:
        """Count what was taken up to pass *number*, and return what it took itself."""
        cost = 0
        for settled in [taken for taken in self._later if taken <= number]:
            _, cost = self._later.pop(settled)
            self._settled += cost
            self._later_sum -= cost
        self._newest = number
        return cost

    def _arrived(self, now: float) -> tuple[int, int]:
        """What has surely reached the server, and the first pass that may not have, one round trip being due."""
        arrived, unseen = self._settled + self._later_sum, max(self._later, default=self._newest) + 1
        for number, (sent, cost) in reversed(self._later.items()):
            if sent <= now - self._quickest:
                break
            arrived, unseen = arrived - cost, number
        return arrived, unseen

    def _see(self, limit: int, sight: _Sight) -> None:
        if limit != self._limit:
            self._limit = limit
            self._sights.clear()
            self._full_since = None
        self._keep(sight)
        full = sight.remaining + sight.cost >= limit - self._coarseness()
        self._measure(self._sights[0], sight, at_least=full)
        if full:
            self._grow(sight)
            self._sights = deque([sight])  # what flowed over before is no measure of what flows in
        else:
            self._full_since = None

    def _keep(self, sight: _Sight) -> None:
        sights = self._sights
        if len(sights) > 1 and sight.sent - sights[-2].sent < 0.25:
            sights.pop()
        sights.append(sight)
        while len(sights) > 8 and sights[0].sent < sight.sent - 5:
            sights.popleft()

    def _measure(self, first: _Sight, last: _Sight, *, at_least: bool) -> None:
        """What flowed in between two sights; *at_least*, if some may have flowed over."""
        sent, heard = last.sent - first.sent, last.heard - first.heard
        if min(sent, heard) < (0.1 if at_least else 0.5):
            return
        more = last.remaining - first.remaining
        rate = min((more + last.taken - first.taken) / sent, (more + last.arrived - first.arrived) / heard)
        rate = max(rate, self._limit / 600, last.cost / (2 * sent))
        self.rate = max(rate, self.rate or 0.0) if at_least else rate

    def _grow(self, sight: _Sight) -> None:
        """It is full, and was full before: more flows in than was taken. How much more has to be tried."""
        since = self._full_since
        if since is None:
            self._full_since = sight
        elif sight.sent - since.sent >= 0.25:
            taken = (sight.taken - since.taken) / (sight.sent - since.sent)
            growth = 1.25 if sight.remaining >= 0.8 * self._limit else 1.1
            self.rate = max(self.rate or 0.0, growth * taken)
            self._full_since = sight

    @property
    def steers(self) -> bool:
        """Whether what is left tells anything. In a bucket of one or two there is hardly ever anything left."""
        return self._limit > 2

    def _sure(self) -> int:
        """What it holds at the least, as if nothing had flowed in since the last sight."""
        last = self._sights[-1]
        return last.remaining + last.taken - self._settled - self._later_sum

    def _level(self, rate: float, now: float) -> float:
        last = self._sights[-1]
        taken = self._settled + self._later_sum
        since_sent = rate * (now - last.sent) - (taken - last.taken)
        since_heard = rate * (now - last.heard) - (taken - last.arrived)
        return last.remaining + min(since_sent, since_heard)

    def _rate_for(self, cost: int) -> float:
        return self.rate or max(5.0 * cost, self._limit / 60)

    def _margin(self, cost: int) -> float:
        """What to leave in it: requests may overtake each other on their way."""
        return min(max(cost, self._coarseness()), max(self._limit - cost, 0) / 2)

    def _coarseness(self) -> int:
        return 500 if self._limit >= 5000 and not self._exact else 0


class _Calibration:
    """How many tokens a guessed token is, by what requests were found to cost. The latest count most."""

    def __init__(self) -> None:
        self._guessed = self._actual = 0.0

    def add(self, guessed: int, actual: int) -> None:
        """A request *guessed* at so many tokens had so many."""
        self._guessed = 0.9 * self._guessed + guessed
        self._actual = 0.9 * self._actual + actual

    def tokens(self, guessed: int) -> int:
        """The tokens to expect of a request *guessed* at so many."""
        return round(guessed * self._actual / self._guessed) if self._guessed else guessed


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None


def _long_pause(seconds: float) -> ClaudeInvocationError:
    return ClaudeInvocationError(
        f"Rate limited: the API asked for a pause that has another {math.ceil(seconds)} s to go, and calls wait "
        f"{LONGEST_RETRY_AFTER:.0f} s at most",
        kind="rate_limit",
        retry_after=seconds,
        retryable=True,
    )


_gates: PerClient[dict[str, RateGate]] = PerClient(dict)


def gate_for(client: Any, model: str) -> RateGate:
    """The gate of all calls of *client* to *model*. It lives as long as the client does; a forked child has its own."""
    gates = _gates.of(client)
    return gates.get(model) or gates.setdefault(model, RateGate())
