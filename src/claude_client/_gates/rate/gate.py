"""The gate of all calls that meet the same limits: its pace, the server's buckets and its outages, joined."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from claude_client._gates.gate import Wait
from claude_client._gates.holding import Holding
from claude_client._gates.rate.bucket import Bucket, Calibration
from claude_client._gates.rate.outage import FAILURES, Breaker
from claude_client._gates.rate.pace import Pace
from claude_client._gates.rate.state import State
from claude_client._values.attempt import Attempt, Event
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.log import Log
from claude_client._values.rate_limit import RateLimit
from claude_client._values.request import Request
from claude_client._values.retry import LONGEST_RETRY_AFTER

T = TypeVar("T")

_log = Log("claude_client")

_SHORTEST_WAIT = 0.001  # seconds; no shorter wait is answered
_MOST_FREE = 10  # rejections of one prompt that cost it no retry, even if nothing else is let in


@dataclass(slots=True, eq=False)
class RatePermit:
    """Permission to send one request now. It must be settled, whether the server answered it or not."""

    gate: RateGate
    request: Request
    number: int
    at: float
    #: The input tokens it is counted with.
    tokens: int
    #: Whether it goes to see if an outage is over.
    is_probe: bool
    #: Until the gate knows what became of it.
    is_open: bool = True

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Tell the gate that the server accepted the request, at the head of the answer, or that it answers."""
        if event == "sending" and self.is_probe:
            attempt.must_stream = True  # its first event comes long before its last
        elif event == "head" and attempt.status == 200 and attempt.first_byte_at is not None:
            self.gate.on_response(self, attempt.first_byte_at, attempt.limits)
        elif event == "begun":
            self.gate.on_answer()

    def settle(self, attempt: Attempt) -> None:
        """Tell the gate how the request ended. A failure that is no fault of its own costs it no retry."""
        error, now = attempt.error, attempt.ended_at or time.monotonic()
        if attempt.answer:
            used = attempt.usage
            self.gate.record_usage(self, used.input_tokens + used.cache_creation_input_tokens)
        elif error and error.kind == "rate_limit" and error.status_code == 429:
            attempt.costs_retry = self.gate.on_rejection(self, now, error.retry_after, attempt.limits)
        elif error and error.kind in FAILURES and not attempt.is_lost:
            attempt.costs_retry = self.gate.on_failure(self, now, error)
        elif error and attempt.status is not None:  # another refusal: it was let in, and answered
            self.gate.on_response(self, now, attempt.limits)
            self.gate.on_answer()
        if self.is_open:
            self.gate.release(self, now)


class RateGate(State):
    """
    Decides when the next request may be sent.

    There is no queue: the first to ask after a wait goes first. Every method may be called from any thread; *now* is a
    time in seconds, always by the same clock.

    Args:
        model: Its name in the log.

        chance: Returns a number from 0 to 1, to spread those who wait for the same.
    """

    NUMBERS = ("admitted", "rejected", "_accepted_at", "_explained")
    PARTS = ("pace", "requests", "tokens", "calibration", "breaker")

    def __init__(self, model: str = "", *, chance: Callable[[], float] = random.random) -> None:
        self.model = model
        self.admitted = 0.0
        self.rejected = 0.0
        self._accepted_at = -math.inf
        self._explained = 0.0  # 1 if the headers of the last rejection showed that nothing was left
        self.pace = Pace(chance)
        self.requests = Bucket("requests", self.pace.sends)
        self.tokens = Bucket("input-tokens", self.pace.sends)
        self.calibration = Calibration()
        self.breaker = Breaker(chance)
        #: Calls an operation with its arguments while this is what all processes share; None: nothing is shared.
        self.share: Callable[..., Any] | None = None
        self._lock = Lock()
        self._news: str | None = None  # to be logged
        self._holding = Holding()
        self._failure: ClaudeInvocationError | None = None  # the last that came while everybody failed
        self._prompts_in_row = 0  # rejected for the first time, with nothing accepted between

    def would_wait(self, request: Request, now: float) -> Wait | None:
        """The wait that `admit` would answer with; None for none. Asking sooner pays once an answer came in."""
        return self._do(self._look, request, self._tokens_of(request), now)

    def admit(self, request: Request, now: float) -> RatePermit | Wait:
        """
        A permit for *request* now, or the wait as of `would_wait`.

        Raises:
            ClaudeInvocationError:
                Kind ``rate_limit``, while the pause that the API asked for has more than `LONGEST_RETRY_AFTER` to
                go, unless the request waits for any pause.
        """
        return self._do(self._admit, request, self._tokens_of(request), now)

    def on_response(self, permit: RatePermit, now: float, limits: Mapping[str, str]) -> None:
        """
        Note that the server accepted the request of *permit*, whatever becomes of it. *limits* are the headers of the
        answer that are about rate limits, by their names in lower case; the answer may still be under way.
        """
        self._do(self._accept, permit, now, limits)

    def on_answer(self) -> None:
        """Note that the server has begun to answer, so that there is no outage."""
        if self.breaker.since < math.inf:
            self._do(self.breaker.answered)

    def record_usage(self, permit: RatePermit, input_tokens: int) -> None:
        """Note that an accepted request cost *input_tokens*: cache writes included, cache reads not."""
        if self.tokens.is_informative:
            self._do(self._calibrate, permit, input_tokens)

    def on_rejection(
        self, permit: RatePermit, now: float, retry_after: float | None, limits: Mapping[str, str]
    ) -> bool:
        """
        Note that the server rejected the request of *permit* with a 429. *retry_after*: the seconds it gave, or None.

        Returns:
            Whether that costs the request one of its retries. It does not where others are rejected too, some or all of
            them; it does where it is rejected more often than they are.
        """
        return self._do(self._reject, permit, now, retry_after, limits)

    def on_failure(self, permit: RatePermit, now: float, failure: ClaudeInvocationError) -> bool:
        """
        Note that the request of *permit* met an overloaded or failing server, or none.

        Returns:
            Whether that costs it one of its retries. It does not while everybody fails, for as long as it is patient.
        """
        return self._do(self._fail, permit, now, failure)

    def release(self, permit: RatePermit, now: float) -> None:
        """Take back *permit*, with no answer from the server. Does nothing once the gate knows what became of it."""
        self._do(self._release, permit, now)

    def limit(self, now: float) -> RateLimit:
        """What is known of the limits, now."""
        return self._do(self._limit, now)

    def _do(self, operation: Callable[..., T], *args: object) -> T:
        """Call *operation* under the lock, and then log what is new. Handlers of the log are other people's code."""
        with self._lock:
            result = self.share(self, operation, *args) if self.share else operation(*args)
            news, self._news = self._news, None
        if news:
            _log.info("Calls to %s are %s", self.model, news)
        return result

    # What follows is called by `_do`, under the lock.

    def _look(self, request: Request, tokens: int, now: float) -> Wait | None:
        wait = self._wait(request, tokens, now)
        if wait and wait.cause != "first answer" and self._holding.wait(self._reason(wait, now), wait.seconds, now):
            self._news = f"held back{self._pace()}: {self._holding.reason}"
        return wait

    def _admit(self, request: Request, tokens: int, now: float) -> RatePermit | Wait:
        if wait := self._look(request, tokens, now):
            return wait
        held = self._holding.passes(now)
        if held is not None:
            self._news = f"no longer held back, after {held:.0f} s{self._pace()}"
        number = self.pace.give(now, tokens)
        self.admitted += 1
        probe = self.breaker.give(number, now)
        self.requests.take(1, now)
        self.tokens.take(tokens, now)
        return RatePermit(self, request, number, now, tokens, probe)

    def _accept(self, permit: RatePermit, now: float, limits: Mapping[str, str]) -> None:
        if permit.is_open:
            permit.is_open = False
            self._accepted_at = now
            self._prompts_in_row = 0
            self.pace.accepted(permit.number, now)
            self._observe(permit, now, limits)
            if self._explained and self.pace.is_news(permit.number):
                self.pace.allow(10 * self._room(permit))  # what is left may go within a tenth of a second

    def _calibrate(self, permit: RatePermit, input_tokens: int) -> None:
        self.calibration.add(permit.request.estimated_tokens, input_tokens)
        self.tokens.amend(permit.number, permit.at, input_tokens - permit.tokens)

    def _reject(self, permit: RatePermit, now: float, retry_after: float | None, limits: Mapping[str, str]) -> bool:
        if not permit.is_open:
            return True
        permit.is_open = False
        self.rejected += 1
        refused = permit.request.refused
        self._prompts_in_row += not refused
        self._observe(permit, now, limits)
        self._give_back(permit)
        self._explained = float(self._room(permit) < 1)
        # One that others overtake again and again is no measure of them: too large, or with a limit of its own.
        telling = refused < 2 or self.pace.evidence.row > 0
        self.pace.rejected(permit.number, now, retry_after, telling=telling)
        self.breaker.answered()
        if now - self._accepted_at <= 2 * max(retry_after or 0.0, 1.0):
            return not self.pace.evidence.is_bad_luck(refused + 1)
        return self._prompts_in_row < 2 or refused >= _MOST_FREE

    def _fail(self, permit: RatePermit, now: float, failure: ClaudeInvocationError) -> bool:
        self.breaker.failed(permit.number, id(permit.request.messages), now, failure.retry_after)
        self._failure = failure
        return not self.breaker.is_open or now - self.breaker.since > permit.request.retry.outage_patience

    def _release(self, permit: RatePermit, now: float) -> None:
        if permit.is_open:
            permit.is_open = False
            self.pace.withdraw(permit.number)
            self.breaker.withdrawn(permit.number, now)
            self._give_back(permit)

    def _limit(self, now: float) -> RateLimit:
        shut_for = max(self.pace.shut_until - now, self.breaker.wait(now))
        return RateLimit(
            self.model,
            None if self.pace.rate == math.inf else self.pace.rate,
            self._holding.reason,
            time.time() + shut_for if shut_for > 0 else None,
            *(self._said(self.requests) + self._said(self.tokens)),
            int(self.admitted),
            int(self.rejected),
        )

    def _wait(self, request: Request, tokens: int, now: float) -> Wait | None:
        shut_for = self.pace.shut_for(now)
        if shut_for > LONGEST_RETRY_AFTER and not request.retry.wait_any_pause:
            raise _long_pause(shut_for)
        limit = max(self.pace.wait(now), self.requests.wait(1, now), self.tokens.wait(tokens, now))
        outage = self.breaker.wait(now)
        if max(limit, outage) <= 0:
            return None
        if limit >= outage:
            return Wait(max(limit, _SHORTEST_WAIT), "first answer" if self.pace.is_cold else "rate limit")
        # While a probe may still be answered, nobody gives up.
        refusal = None if self.breaker.is_probing else self._refusal(now)
        return Wait(max(outage, _SHORTEST_WAIT), "outage", refusal=refusal)

    def _give_back(self, permit: RatePermit) -> None:
        self.requests.amend(permit.number, permit.at, -1)
        self.tokens.amend(permit.number, permit.at, -permit.tokens)

    def _observe(self, permit: RatePermit, now: float, limits: Mapping[str, str]) -> None:
        if not limits:
            return
        self.requests.observe(permit.number, permit.at, 1, now, limits)
        self.tokens.observe(permit.number, permit.at, permit.tokens, now, limits)

    def _room(self, permit: RatePermit) -> float:
        """How many requests such as that of *permit* can surely go, by the headers; infinite if they say nothing."""
        return min(self.requests.room(1), self.tokens.room(permit.tokens))

    def _refusal(self, now: float) -> ClaudeInvocationError:
        """The error for a call that has waited for the end of an outage for as long as it is patient."""
        error = ClaudeInvocationError(
            f"No request to {self.model} has been answered for {now - self.breaker.since:.0f} s, so this one was not "
            f"sent. The last failure: {self._failure or 'another process had it'}",
            kind=self._failure.kind if self._failure else "overloaded",
            retryable=True,
        )
        error.__cause__ = self._failure
        return error

    def _said(self, bucket: Bucket) -> tuple[int | None, int | None]:
        return (int(bucket.limit), max(0, int(bucket.remaining))) if bucket.limit else (None, None)

    def _reason(self, wait: Wait, now: float) -> str:
        if wait.cause == "outage":
            return f"an outage, {self._failure.kind if self._failure else 'overloaded'}"
        if self.pace.shut_until > now:
            return f"rejected in a row, for another {self.pace.shut_until - now:.1f} s"
        if self.pace.wait(now) > 0:
            return "some were rejected before"
        bucket, unit = (self.requests, "requests") if self.requests.wait(1, now) > 0 else (self.tokens, "input tokens")
        return f"{max(0, bucket.remaining):.0f} of {bucket.limit:.0f} {unit} are left"

    def _tokens_of(self, request: Request) -> int:
        return self.calibration.tokens(request.estimated_tokens)

    def _pace(self) -> str:
        return f", at {self.pace.rate:.3g} a second" if self.pace.rate < math.inf else ""


def _long_pause(seconds: float) -> ClaudeInvocationError:
    return ClaudeInvocationError(
        f"Rate limited: the API asked for a pause that has another {math.ceil(seconds)} s to go, and calls wait "
        f"{LONGEST_RETRY_AFTER:.0f} s at most",
        kind="rate_limit",
        retry_after=seconds,
        retryable=True,
    )
