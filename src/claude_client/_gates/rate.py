"""
The pace shared by all calls of a client and model, so that a limit met by one thread slows them all.

The pace follows from what the server has answered so far:

- nothing yet: ten requests at once, others close behind them; from the first answer on, no limit.
- `anthropic-ratelimit-*` headers: a model of each of the server's buckets, corrected by every answer (`_Bucket`).
- a 429: nothing passes for as long as it says. Then a pace that was surely accepted before, and rising (`_Pace`).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock

from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt, Event
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.request import Request
from claude_client._values.retry import LONGEST_RETRY_AFTER, compute_backoff_delay

_AT_ONCE = 10  # requests of a fresh gate: as many as a fan-out has workers
_COLD_RATE = 100.0  # requests per second behind those, until there is an answer: gaps of 10 ms
# Factors by which a pace grows per second of use: it doubles in ln 2 / ln 4.0 = 0.5 s, or in ln 2 / ln 1.02 = 35 s.
_FAST, _SLOW = 4.0, 1.02
# A pace after a pause of p seconds is at least 0.5 / p requests per second: the server lets one in after the pause, and
# the pace when it rejected the last was no more than twice too fast.
_PER_PAUSE = 0.5
_SLOWEST = 0.1  # requests per second, so gaps of 10 s at most; longer ones are left to `retry-after`
_FREE_RATE = 1000.0  # requests per second; a pace grown to this is dropped: its gaps are down to _SHORTEST_WAIT
_QUIET = 10.0  # seconds since the end of a pause, after which the headers can explain a rejection again
_SHORTEST_WAIT = 0.001  # seconds; no shorter wait is answered
_TRICKLE = 10.0  # seconds without a request or an answer, after which one may go: only its answer tells more
_MAX_HEADER_WAIT = 0.25  # seconds to wait because of headers; newer ones may shorten the rest


@dataclass(slots=True, eq=False)
class RatePermit:
    """Permission to send one request now. It must be settled, whether the server answered it or not."""

    gate: RateGate
    request: Request
    number: int
    at: float
    #: How many requests had been accepted when it was given.
    accepted: int
    #: The input tokens it is counted with; 0 until there is a reason to count any.
    tokens: int = 0

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Tell the gate at the head of the answer that the server accepted the request, unless it is a 429."""
        if event == "head" and attempt.status != 429 and attempt.first_byte_at is not None:
            self.gate.on_response(self, attempt.first_byte_at, attempt.limits)

    def settle(self, attempt: Attempt) -> None:
        """Tell the gate how the request ended. A 429 costs no retry if others were accepted meanwhile."""
        error = attempt.error
        if attempt.answer:
            used = attempt.usage
            self.gate.record_usage(self, used.input_tokens + used.cache_creation_input_tokens)
        elif error and error.kind == "rate_limit" and error.status_code == 429 and attempt.ended_at is not None:
            others_accepted = self.gate.on_rejection(self, attempt.ended_at, error.retry_after, attempt.limits)
            attempt.costs_retry = not others_accepted
        self.gate.release(self)


class RateGate:
    """
    Decides when the next request to a model may be sent.

    There is no queue: the first to ask after a wait goes first. Every method may be called from any thread; *now* is a
    time in seconds, always by the same clock.

    Args:
        jitter: Returns a number from 0 to 1 for each reopening, which is delayed by that share of a gap.
    """

    def __init__(self, *, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._lock = Lock()  # guards everything below
        self._given = 0
        self._accepted = 0
        self._in_flight: dict[int, RatePermit] = {}
        self._has_limit_headers = False  # until there were some, no bucket is modelled
        self._requests = _Bucket("requests")
        self._tokens = _Bucket("input-tokens")
        self._calibration = _Calibration()
        self._history = _SendHistory()
        self._pace: _Pace | None = None
        self._fresh = True  # until the first request, when the first pace begins
        self._pause: _Pause | None = None
        self._consecutive_429s = 0  # with no request accepted between

    @property
    def pace(self) -> float | None:
        """Requests per second that are let through at the most; None while only pauses and headers limit them."""
        with self._lock:
            return self._pace.rate if self._pace else None

    def would_wait(self, request: Request, now: float) -> Wait | None:
        """
        The wait that `admit` would answer with, above 0 s; None for none. Asking sooner pays once an answer came in.

        Raises:
            ClaudeInvocationError:
                Kind ``rate_limit``, while the pause that the API asked for has more than `LONGEST_RETRY_AFTER` to
                go, unless the request waits for any pause.
        """
        with self._lock:
            return self._wait(request, self._tokens_of(request), now)

    def admit(self, request: Request, now: float) -> RatePermit | Wait:
        """
        A permit for *request* now, or the wait as of `would_wait`.

        Raises:
            ClaudeInvocationError: Same as `would_wait`.
        """
        with self._lock:
            tokens = self._tokens_of(request)
            return self._wait(request, tokens, now) or self._give(request, tokens, now)

    def on_response(self, permit: RatePermit, now: float, limits: Mapping[str, str]) -> None:
        """
        Note that the server accepted the request of *permit*, whatever becomes of it. *limits* are the headers of the
        answer that are about rate limits, by their names in lower case; the answer may still be under way.
        """
        with self._lock:
            if not self._end(permit, limits):
                return
            self._accepted += 1
            self._consecutive_429s = 0
            if self._pace and self._pace.cold:
                self._pace = None
            self._observe(permit, now, limits)

    def record_usage(self, permit: RatePermit, input_tokens: int) -> None:
        """Note that an accepted request cost *input_tokens*: cache writes included, cache reads not."""
        if not self._has_limit_headers:  # if its answer had any, this is set already
            return
        with self._lock:
            self._calibration.add(permit.request.estimated_tokens, input_tokens)
            self._tokens.amend(permit.number, input_tokens - permit.tokens)

    def on_rejection(
        self, permit: RatePermit, now: float, retry_after: float | None, limits: Mapping[str, str]
    ) -> bool:
        """
        Pause after a 429: nothing passes for *retry_after* seconds; None: the server gave no time.

        Returns:
            True if others were accepted since *permit* was given: the request was only one too many, and should be
            sent again without using up one of its retries.
        """
        with self._lock:
            if self._end(permit, limits):
                self._give_back(permit)
                self._observe(permit, now, limits)
                self._close(permit, now, retry_after)
            return self._accepted > permit.accepted

    def release(self, permit: RatePermit) -> None:
        """Take back *permit*, with no answer from the server. Does nothing after `on_response` or `on_rejection`."""
        with self._lock:
            if self._end(permit, {}):
                self._give_back(permit)

    def __repr__(self) -> str:
        with self._lock:
            pause = f"paused until {self._pause.until:.1f}, " if self._pause else ""
            pace = f"{self._pace.rate:.3g}/s" if self._pace else "no pace"
            return (
                f"<RateGate {pause}{pace}, {self._requests}, {self._tokens}, "
                f"{self._given} let through, {self._accepted} accepted, {len(self._in_flight)} in flight>"
            )

    # The caller of what follows holds the lock.

    def _tokens_of(self, request: Request) -> int:
        return self._calibration.tokens(request.estimated_tokens) if self._has_limit_headers else 0

    def _wait(self, request: Request, tokens: int, now: float) -> Wait | None:
        if self._fresh:
            self._fresh = False
            self._pace = _Pace(_COLD_RATE, _FAST, now, at_once=_AT_ONCE)
        wait = self._pause.until - now if self._pause else 0.0
        if wait > LONGEST_RETRY_AFTER and not request.retry.wait_any_pause:
            raise _long_pause(wait)
        if self._pace:
            wait = max(wait, self._pace.due - now)
        if self._has_limit_headers:
            wait = max(wait, self._requests.wait(1, now), self._tokens.wait(tokens, now))
        return Wait(max(wait, _SHORTEST_WAIT), "rate limit") if wait > 0 else None

    def _give(self, request: Request, tokens: int, now: float) -> RatePermit:
        permit = RatePermit(self, request, self._given, now, self._accepted, tokens)
        self._given += 1
        self._in_flight[permit.number] = permit
        self._history.note(permit)
        if self._has_limit_headers:
            self._take(permit)
        if self._pace:
            self._pace.step(now)
            if self._pace.rate > _FREE_RATE:
                self._pace = None
        return permit

    def _end(self, permit: RatePermit, limits: Mapping[str, str]) -> bool:
        """Take *permit* out of flight, and return whether it was. The first headers start the buckets."""
        if limits and not self._has_limit_headers:
            self._has_limit_headers = True
            for known in self._in_flight.values():
                known.tokens = self._tokens_of(known.request)
                self._take(known)
        return self._in_flight.pop(permit.number, None) is not None

    def _take(self, permit: RatePermit) -> None:
        self._requests.take(permit.number, 1, permit.at)
        self._tokens.take(permit.number, permit.tokens, permit.at)

    def _give_back(self, permit: RatePermit) -> None:
        if self._has_limit_headers:
            self._requests.amend(permit.number, -1)
            self._tokens.amend(permit.number, -permit.tokens)

    def _observe(self, permit: RatePermit, now: float, limits: Mapping[str, str]) -> None:
        if not self._has_limit_headers:
            return
        self._requests.observe(permit, now, limits)
        self._tokens.observe(permit, now, limits)
        if self._pace and self._pace.by_headers and self._pause and permit.number >= self._pause.given:
            room = min(self._requests.room(1), self._tokens.room(permit.tokens))
            self._pace.allow(room)

    def _close(self, permit: RatePermit, now: float, retry_after: float | None) -> None:
        news = self._pause is None or permit.number >= self._pause.given  # else it was sent before the gate was shut
        self._consecutive_429s += news
        if retry_after is None:
            retry_after = compute_backoff_delay(max(1, self._consecutive_429s))
        pause = max(0.0, retry_after)
        until = max(now + pause, self._pause.until if self._pause else now)
        if news and pause:
            self._pace = self._slower(permit, now, pause)
            self._pace.rate = max(self._pace.rate, _PER_PAUSE / pause)
            self._history.close(self._given, now)
            self._pace.reopen(until, self._jitter())
            self._pause = _Pause(now, until, self._given)
        elif self._pause:
            self._history.note_late_rejection()
            if self._pace:
                self._pace.due += until - self._pause.until
            self._pause.until = until

    def _slower(self, permit: RatePermit, now: float, pause: float) -> _Pace:
        """The pace to reopen with, after *pause* seconds, now that *permit* was rejected."""
        first = 10 / max(pause, 1.0)  # ten requests in the length of the pause, and ten a second at most
        if self._explained(permit, now):
            return _Pace(2 * self._requests.rate if self._requests.rate else first, _FAST, now, by_headers=True)
        if self._pause is None:
            # The headers said that there was room: the request was rejected by a limit that has no headers.
            informed = self._requests.is_informative or self._tokens.is_informative
            return _Pace(first, _FAST, now, by_headers=not informed)
        rate = self._history.min_accepted_rate(permit, self._pause)
        return _Pace(min(rate, 0.9 * self._pace.rate) if self._pace else rate, _SLOW, now)

    def _explained(self, permit: RatePermit, now: float) -> bool:
        """Return whether the headers explain why *permit* was rejected, with no pause in the last `_QUIET` seconds."""
        short = self._requests.wait(1, now) > 0 or self._tokens.wait(permit.tokens, now) > 0
        return short and (self._pause is None or now - self._pause.until > _QUIET)


class RateGates:
    """The rate gates of one client: one for each model, made when it is first asked for."""

    def __init__(self) -> None:
        self._gates: dict[str, RateGate] = {}

    def of(self, model: str) -> RateGate:
        """The gate of all calls to *model*."""
        return self._gates.get(model) or self._gates.setdefault(model, RateGate())

    def would_wait(self, request: Request, now: float) -> Wait | None:
        """Same as `RateGate.would_wait`, of the request's model."""
        return self.of(request.model).would_wait(request, now)

    def admit(self, request: Request, now: float) -> RatePermit | Wait:
        """Same as `RateGate.admit`, of the request's model."""
        return self.of(request.model).admit(request, now)

    def waking(self, wake: Callable[[], None]) -> AbstractContextManager[object]:  # noqa: ARG002 - nothing to wake for
        """Never wakes: every wait of this gate has its length."""
        return nullcontext()


@dataclass(slots=True)
class _Pause:
    """The last pause: its beginning, its end, and the number of permits given before it."""

    at: float
    until: float
    given: int


class _Pace:
    """
    Even gaps between requests, at a rate that grows by a factor in each second of use.

    Args:
        at_once: Requests that go without gaps first. Such a pace is for a gate that knows nothing yet.

        by_headers: Let the answers' headers, if there are any, raise it.
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
        """Begin anew at *at*, delayed by *jitter*, a share of a gap; by a second at most."""
        self.due = at + min(jitter / self.rate, 1.0)
        self._last = at

    def allow(self, room: float) -> None:
        """Raise the rate so that *room* requests, which an answer left room for, go within a tenth of a second."""
        if room < math.inf:
            self.rate = max(self.rate, 10 * room)

    def step(self, now: float) -> None:
        """Count a request that goes now, and grow the rate."""
        if self._at_once > 1:
            self._at_once -= 1
            return
        # Growth is per second of use: an idle time counts for a gap and a half, or for a second if that is longer.
        self.rate *= self._growth ** min(max(now - self._last, 0.0), max(1.0, 1.5 / self.rate))
        self._last = now
        gap = 1 / self.rate
        # A late request does not delay the next one, but two are at least half a gap apart.
        self.due = max(self.due + gap, now + gap / 2)


class _SendHistory:
    """Recent sends, from which a lower bound of the accepted rate is computed after a 429."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=128)  # number and time of permits 50 ms apart or more
        self._began: float | None = None
        self._burst: int | None = None

    def note(self, permit: RatePermit) -> None:
        """Remember *permit*, given now."""
        if not self._marks or permit.at - self._marks[-1][1] >= 0.05:
            self._marks.append((permit.number, permit.at))
        if self._began is None:
            self._began = permit.at

    def close(self, given: int, now: float) -> None:
        """Shut the gate after *given* permits. The first time shows how many a rested server takes at once."""
        if self._burst is None:
            # Rejected within a second: all permits so far, but for the rejected one, count as its burst.
            brief = self._began is not None and now - self._began < 1
            self._burst = given - 1 if brief else 0

    def note_late_rejection(self) -> None:
        """Count another rejection among the requests sent before the gate was shut."""
        if self._burst:
            self._burst -= 1

    def min_accepted_rate(self, permit: RatePermit, pause: _Pause) -> float:
        """
        A lower bound of the requests per second that the server accepts, now that *permit* is the first that it
        rejected after *pause*.

        Of n requests sent within t seconds, and none rejected, a token bucket that held *burst* at the beginning has
        refilled at least n - burst: the rate is at least (n - burst) / t. The best of all stretches counts. Since the
        pause the bucket began empty, so that its n count whole, and half of the rejected one.
        """
        since = [(permit.number - pause.given + 0.5) / max(permit.at - pause.at, 0.1)]
        burst = self._burst or 0
        for number, at in self._marks:
            if number >= pause.given and permit.at - at >= 0.25:
                since.append((permit.number - number - burst) / (permit.at - at))
        return max(since)


@dataclass(slots=True)
class _Observation:
    """The level of a bucket as an answer gave it."""

    number: int
    sent: float
    heard: float
    remaining: int
    cost: int
    #: The sum taken by all permits up to that of its request, that one included.
    taken: int
    #: The sum that had surely reached the server when the answer arrived: that of the permits below `unseen`.
    arrived: int
    unseen: int


class _Bucket:
    """
    A model of one of the server's token buckets, in requests or in tokens. The gate holds its lock.

    It is not known whether `remaining` is the level when the request was let in, or when its answer began. So the level
    is computed both ways, and the lower one counts; while requests go evenly, the two are alike.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._limit_header = f"anthropic-ratelimit-{name}-limit"
        self._remaining_header = f"anthropic-ratelimit-{name}-remaining"
        self._limit = 0
        self._exact = False  # the API rounds tokens to thousands
        self._observations: deque[_Observation] = deque()  # see `_keep`; the last is the newest request's
        self._full_since: _Observation | None = None
        self._quickest = 0.25  # the shortest time in seconds from a permit to its answer, until now
        self._newest = -1  # number of the newest permit that was answered
        self._answered_cost = 0  # the sum taken by it and those before it
        self._in_flight: dict[int, tuple[float, int]] = {}  # time and cost of each permit after it
        self._in_flight_cost = 0
        self._due = 0.0
        self._last_taken = 0.0  # the time of the last permit
        #: The refill in units per second, None while unknown.
        self.rate: float | None = None

    def __repr__(self) -> str:
        left = f"{self._observations[-1].remaining} of {self._limit}" if self._observations else "unknown"
        return f"{self._name} {left}" + (f" +{self.rate:.3g}/s" if self.rate else "")

    def take(self, number: int, cost: int, now: float) -> None:
        """Count *cost*, taken by permit *number*, the next one."""
        self._in_flight[number] = now, cost
        self._in_flight_cost += cost
        self._last_taken = now
        if self.is_informative:
            rested = self._known_remaining() >= cost + self._margin(cost)
            # Half the time that the cost takes to flow in: near the bottom, twice the refill goes at most.
            self._due = now if rested else max(self._due, now) + cost / (2 * self._rate_for(cost))

    def amend(self, number: int, more: int) -> None:
        """Correct the cost of permit *number* by *more*, which may be negative."""
        if number in self._in_flight:
            sent, cost = self._in_flight[number]
            self._in_flight[number] = sent, cost + more
            self._in_flight_cost += more
        else:
            self._answered_cost += more
        for observation in self._observations:
            observation.taken += more * (number <= observation.number)
            observation.arrived += more * (number < observation.unseen)

    def wait(self, cost: int, now: float) -> float:
        """Seconds until it should hold *cost*; 0.0 if it does already, or nothing is known."""
        if not self.is_informative:
            return 0.0
        margin = self._margin(cost)
        if self._known_remaining() >= min(2 * cost + margin, self._limit):  # room for two: no need to pace
            return 0.0
        if now - max(self._last_taken, self._observations[-1].heard) >= _TRICKLE:
            return 0.0
        rate = self._rate_for(cost)
        missing = min(cost + margin, self._limit) - min(self._level(rate, now), self._limit)
        return min(missing / rate, _MAX_HEADER_WAIT) if missing > 0 else max(0.0, self._due - now)

    def room(self, cost: int) -> float:
        """Number of requests of *cost* that it can surely take now; infinite if nothing is known."""
        return self._known_remaining() / max(cost, 1) if self.is_informative else math.inf

    def observe(self, permit: RatePermit, now: float, headers: Mapping[str, str]) -> None:
        """Learn from the *headers* of the answer to *permit*, which arrived at *now*."""
        self._quickest = min(self._quickest, now - permit.at)
        newer = permit.number > self._newest
        cost = self._settle(permit.number) if newer else 0
        limit = _number(headers.get(self._limit_header))
        remaining = _number(headers.get(self._remaining_header))
        if not limit or remaining is None:
            return
        last = self._observations[-1] if self._observations else None
        if last and abs(permit.at - last.sent) <= min(self._quickest, 0.02):
            # It is not known which of two sent together the server saw last: the lower level counts for both.
            remaining = last.remaining = min(remaining, last.remaining)
        if newer:
            self._exact = self._exact or remaining % 1000 > 0
            arrived, unseen = self._arrived(now)
            self._record(
                limit,
                _Observation(permit.number, permit.at, now, remaining, cost, self._answered_cost, arrived, unseen),
            )

    def _settle(self, number: int) -> int:
        """Move the permits up to *number* from in flight to answered, and return the cost of that one."""
        cost = 0
        for settled in [taken for taken in self._in_flight if taken <= number]:
            _, cost = self._in_flight.pop(settled)
            self._answered_cost += cost
            self._in_flight_cost -= cost
        self._newest = number
        return cost

    def _arrived(self, now: float) -> tuple[int, int]:
        """The sum that reached the server, a round trip of `_quickest` ago, and the first permit that may not have."""
        arrived, unseen = self._answered_cost + self._in_flight_cost, max(self._in_flight, default=self._newest) + 1
        for number, (sent, cost) in reversed(self._in_flight.items()):
            if sent <= now - self._quickest:
                break
            arrived, unseen = arrived - cost, number
        return arrived, unseen

    def _record(self, limit: int, observation: _Observation) -> None:
        if limit != self._limit:
            self._limit = limit
            self._observations.clear()
            self._full_since = None
        self._keep(observation)
        full = observation.remaining + observation.cost >= limit - self._coarseness()
        self._measure(self._observations[0], observation, at_least=full)
        if full:
            self._grow(observation)
            self._observations = deque(
                [observation]
            )  # a full bucket takes in no more: older observations measure no refill
        else:
            self._full_since = None

    def _keep(self, observation: _Observation) -> None:
        """Append *observation*, replacing one less than 0.25 s apart. The last 8 are kept, and all of the last 5 s."""
        observations = self._observations
        if len(observations) > 1 and observation.sent - observations[-2].sent < 0.25:
            observations.pop()
        observations.append(observation)
        while len(observations) > 8 and observations[0].sent < observation.sent - 5:
            observations.popleft()

    def _measure(self, first: _Observation, last: _Observation, *, at_least: bool) -> None:
        """Set the rate by the refill between two observations; *at_least*: the bucket may have been full between."""
        sent, heard = last.sent - first.sent, last.heard - first.heard
        if min(sent, heard) < (0.1 if at_least else 0.5):
            return
        more = last.remaining - first.remaining
        # Refill = change of the level + what was taken meanwhile, by the times of sending and of the answers.
        rate = min((more + last.taken - first.taken) / sent, (more + last.arrived - first.arrived) / heard)
        # At least what fills the bucket in ten minutes, or half of the last request's cost in this time.
        rate = max(rate, self._limit / 600, last.cost / (2 * sent))
        self.rate = max(rate, self.rate or 0.0) if at_least else rate

    def _grow(self, observation: _Observation) -> None:
        """Raise the rate where it was full before, too: more flows in than was taken. How much more has to be tried."""
        since = self._full_since
        if since is None:
            self._full_since = observation
        elif observation.sent - since.sent >= 0.25:
            taken = (observation.taken - since.taken) / (observation.sent - since.sent)
            growth = 1.25 if observation.remaining >= 0.8 * self._limit else 1.1
            self.rate = max(self.rate or 0.0, growth * taken)
            self._full_since = observation

    @property
    def is_informative(self) -> bool:
        """True if the level says anything. A bucket of one or two hardly ever has anything left."""
        return self._limit > 2

    def _known_remaining(self) -> int:
        """A lower bound of its level: as if nothing had flowed in since the last observation."""
        last = self._observations[-1]
        return last.remaining + last.taken - self._answered_cost - self._in_flight_cost

    def _level(self, rate: float, now: float) -> float:
        last = self._observations[-1]
        taken = self._answered_cost + self._in_flight_cost
        since_sent = rate * (now - last.sent) - (taken - last.taken)
        since_heard = rate * (now - last.heard) - (taken - last.arrived)
        return last.remaining + min(since_sent, since_heard)

    def _rate_for(self, cost: int) -> float:
        """The refill per second. While unknown: five requests of *cost*, or a full bucket a minute if that is more."""
        return self.rate or max(5.0 * cost, self._limit / 60)

    def _margin(self, cost: int) -> float:
        """The reserve for requests that overtake each other: one request or the rounding, half of the rest at most."""
        return min(max(cost, self._coarseness()), max(self._limit - cost, 0) / 2)

    def _coarseness(self) -> int:
        """Most that `remaining` is off by rounding: half of a thousand, until a value shows that it is exact."""
        return 500 if self._limit >= 5000 and not self._exact else 0


class _Calibration:
    """The ratio of the tokens that requests cost to the estimates for them. The latest requests count most."""

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


def _long_pause(seconds: float) -> ClaudeInvocationError:
    return ClaudeInvocationError(
        f"Rate limited: the API asked for a pause that has another {math.ceil(seconds)} s to go, and calls wait "
        f"{LONGEST_RETRY_AFTER:.0f} s at most",
        kind="rate_limit",
        retry_after=seconds,
        retryable=True,
    )
