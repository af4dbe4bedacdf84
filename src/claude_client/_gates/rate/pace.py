"""
The pace learnt from rejections: how many requests per second go, and when none does.

The question it asks is whether slowing down helps. Under a limit of ours, fewer are rejected when fewer are sent; under
others' traffic, or plain bad luck, as many of a hundred are. It is in one of three phases:

- *probing*: no limit is known, and the pace grows fast or there is none. Single rejections change nothing; only many
  together (`Evidence`) show a limit, and how much was accepted meanwhile shows where it is: the *ceiling*.
- *cruising* near the ceiling: a rejection lowers the pace a bit; then it grows, slowly at first and ever faster.
- *asking*: the pace was lowered so far that a limit would show by fewer rejections. It is kept until that is known. If
  it did not help, there is no limit: what is rejected is the background, and it goes on probing.

Rejections in a row, with nothing accepted between, mean that nothing gets in: then all calls wait as long as the API
says. Otherwise that binds only the call that was rejected.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from claude_client._gates.rate.evidence import CERTAIN, LIKELY, Evidence
from claude_client._gates.rate.sends import ACCEPTED, REJECTED, WITHDRAWN, Sends
from claude_client._gates.rate.state import State
from claude_client._values.retry import LONGEST_RETRY_AFTER, compute_backoff_delay

_AT_ONCE = 10  # requests of a fresh gate, before any answer: as many as a fan-out has workers
_COLD_WAIT, _COLD_GAP = 0.25, 0.02  # seconds that those behind them wait for an answer, and between them
_PRESUMED_AFTER = 0.3  # seconds without news, after which a request is presumed to be accepted
_FREE_RATE = 1000.0  # requests per second; a pace grown to this is dropped

# A pace after a pause is four times what had been let in at once, per second of the pause: a pause is as long as it
# takes for some to get in, which is not known better. It grows by these factors per second, less fast the second time.
_AHEAD = 4.0
_GROWTH, _GROWTH_AGAIN = 4.0, 1.5
# Cruising, the pace grows by 0.7 % a second after a rejection, and twice as fast each second later: what a rejection
# cut is back in 4 s, and a limit eight times as high is met in 8 s. In a second it doubles at the most.
_FIRST_GROWTH, _FASTEST_GROWTH = 0.007, math.log(2)
_CUT = 0.86
# Asking begins at 0.7 of the ceiling, or at what was accepted lately if that is less, but not below half.
_ASK_AT, _ASK_ABOVE = 0.7, 0.5
# An answer takes three rejections, or twice the requests that would show as many if nothing had changed, or three
# quiet seconds.
_TELLING = 3
_LEAST_SHARE = 0.1
_QUIET_SECONDS, _QUIET_REQUESTS = 3.0, 10
_CLOSE = 0.9  # of a ceiling
_SLOWEST = 0.5  # requests per second; what accepts less is left to `retry-after`


class Pace(State):
    """
    The pace of one limit, by a clock of the caller's: each *now* is in seconds.

    Args:
        chance: Returns a number from 0 to 1 for each reopening, which is delayed by that share of a gap.
    """

    NUMBERS = (
        "rate",
        "shut_until",
        "_ceiling",
        "_due",
        "_grown_at",
        "_growth",
        "_calm_since",
        "_since",
        "_cold",
        "_probe_at",
        "_pause",
        "_let_in",
        "_closed_at",
        "_closings",
        "_accepted",
        "_sent_near",
        "_rejected_near",
        "_asked",
        "_asked_rejected",
        "_share_before",
        "_excursion_at",
        "_excursion",
    )
    PARTS = ("evidence", "sends")

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        #: Requests per second that go at the most; infinite while no limit is known.
        self.rate = math.inf
        #: When the pause for all ends.
        self.shut_until = -math.inf
        self._ceiling = math.inf  # about where the limit is; infinite while probing
        self._due = 0.0
        self._grown_at = 0.0
        self._growth = _GROWTH
        self._calm_since = 0.0
        self._since = 0.0  # the first request since the pace last changed; what older ones meet is no news
        self._cold = float(_AT_ONCE)  # how many may go at once before any answer; -1 after one
        self._probe_at = math.inf
        self._pause = 0.0  # the length of the last one
        self._let_in = -1.0  # requests let in before it, as far as known; -1 where the pace does not depend on it
        self._closed_at = -math.inf
        self._closings = 0.0  # with nothing accepted between
        self._accepted = 0.0  # since it was last closed
        self._sent_near = self._rejected_near = 0.0  # since the ceiling was set
        self._asked = self._asked_rejected = 0.0  # while asking
        self._share_before = 0.0  # the share that was rejected before asking; 0 while not asking
        self._excursion_at = -math.inf  # the first of the rejections that are suspicious together
        self._excursion = 0.0  # accepted since then
        self.evidence = Evidence()
        self.sends = Sends()

    @property
    def is_cold(self) -> bool:
        """True while those behind the first ten wait for an answer to any of them."""
        return self._cold == 0

    @property
    def is_probing(self) -> bool:
        """True while no limit is known."""
        return self._ceiling == math.inf

    def wait(self, now: float) -> float:
        """Seconds until a request may go; 0.0 or less if it may now."""
        self._presume(now)
        if now < self.shut_until:
            return min(self.shut_until, self._probe_at) - now
        if self.rate < math.inf or self.is_cold:
            return self._due - now
        return 0.0

    def shut_for(self, now: float) -> float:
        """Seconds of the pause for all that are left; 0.0 or less if none are, or a probe may go."""
        return self.shut_until - now if now < self._probe_at else 0.0

    def give(self, now: float, tokens: float = 0.0) -> int:
        """The number of a request that goes now."""
        if now < self.shut_until:
            self._probe_at = now + LONGEST_RETRY_AFTER
        elif self.rate < math.inf:
            self._grow(now)
            # A late request does not delay the next one, but two are at least half a gap apart.
            self._due = max(self._due + 1 / self.rate, now + 0.5 / self.rate)
        elif self._cold >= 0:
            self._due = now + (_COLD_WAIT if self._cold == 1 else _COLD_GAP)
            self._cold = max(0.0, self._cold - 1)
        return self.sends.add(now, tokens)

    def withdraw(self, number: int) -> None:
        """Note that nothing was heard of a request."""
        self.sends.settle(number, WITHDRAWN)

    def accepted(self, number: int, now: float) -> None:
        """Note that the server let a request in."""
        self._presume(now)
        self._cold = -1.0
        if now < self.shut_until and number >= self._since:  # a probe: the pause is over
            self.shut_until = self._due = self._grown_at = now
        if self.sends.settle(number, ACCEPTED):
            self._count_accepted(number, now)

    def rejected(self, number: int, now: float, retry_after: float | None, *, telling: bool = True) -> None:
        """
        Note that the server rejected a request. *retry_after*: seconds it asks to wait, None where it does not say.
        *telling*: if not, the request is no measure of others.
        """
        self._presume(now)
        self.sends.settle(number, REJECTED)
        if not telling:
            return
        news = number >= self._since
        self._count(news=news, rejected=True)
        if not news:
            self._let_in_one_less(now)
            return
        if self.evidence.suspicion and self._excursion_at == -math.inf:
            self._excursion_at, self._excursion = now, 0.0
        if self.evidence.is_row or now < self.shut_until or (self._pause > LONGEST_RETRY_AFTER and not self._accepted):
            self._close(now, retry_after)
        elif self._share_before:
            self._judge(now)
        elif self.is_probing:
            if self.evidence.suspicion >= CERTAIN and self._excursion:
                self._meet(now)
        elif self.evidence.suspicion >= LIKELY:
            self._slow_down(now)

    def is_news(self, number: int) -> bool:
        """Return whether a request was sent since the pace last changed."""
        return number >= self._since

    def allow(self, rate: float) -> None:
        """Raise a pace that is not known to be the limit's to *rate*."""
        if self.is_probing:
            self.rate = max(self.rate, rate)

    def _presume(self, now: float) -> None:
        while (number := self.sends.presume(now, _PRESUMED_AFTER)) is not None:
            self._count_accepted(number, now)

    def _count_accepted(self, number: int, now: float) -> None:
        news = number >= self._since
        self._accepted += 1
        self._closings = 0.0
        self._count(news=news, rejected=False)
        if not news:
            return
        if not self.evidence.suspicion:
            self._excursion_at = -math.inf
        self._excursion += 1
        if self._share_before:
            quiet = not self._asked_rejected and self._asked >= _QUIET_REQUESTS
            enough = self._asked >= 2 * _TELLING / self._share_before
            if enough or (quiet and now - self._calm_since >= _QUIET_SECONDS):
                self._slowing_helped(now)

    def _count(self, *, news: bool, rejected: bool) -> None:
        self.evidence.add(rejected=rejected, news=news, learning=self.is_probing)
        if news:
            self._sent_near += 1
            self._rejected_near += rejected
            if self._share_before:
                self._asked += 1
                self._asked_rejected += rejected

    def _grow(self, now: float) -> None:
        # Growth is per second of use: an idle time counts for a gap and a half, or for a second if that is longer.
        seconds = min(max(now - self._grown_at, 0.0), max(1.0, 1.5 / self.rate))
        self._grown_at = now
        if self._share_before:
            return
        if self.is_probing:
            growth = math.log(self._growth)
        else:
            growth = min(_FIRST_GROWTH * 2 ** min(now - self._calm_since, 20), _FASTEST_GROWTH)
        self.rate *= math.exp(growth * seconds)
        if self.rate > _FREE_RATE:
            self.rate = self._ceiling = math.inf
        elif not self.is_probing:
            self._ceiling = max(self._ceiling, self.rate)

    def _set(self, rate: float, at: float) -> None:
        """Go on at *rate* from *at* on. What requests that were sent before meet is no news."""
        self.rate = max(rate, _SLOWEST)
        self._due = max(self._due, at)
        self._grown_at = self._calm_since = at
        self._since = self.sends.given
        self._excursion_at = -math.inf
        self.evidence.begin_anew()

    def _close(self, now: float, retry_after: float | None) -> None:
        """Let nothing pass for *retry_after* seconds, and go on at a pace that was accepted, or about."""
        self._closings += 1
        pause = retry_after or compute_backoff_delay(int(self._closings))
        again = self._closed_at > -math.inf
        self._pause = pause
        self._let_in = self.sends.not_rejected(self._since, now, max(pause, 1.0))
        rate = min(self._rate_of_let_in(), self.rate)
        if again:
            # Nothing was left at the last closing, nor is now: what was accepted between is what flowed in.
            rate = min(4 * rate, self._accepted / (now - self._closed_at), self.rate)
            self._let_in = -1.0
        self._growth = _GROWTH_AGAIN if again else _GROWTH
        self.shut_until = max(self.shut_until, now + pause)
        self._probe_at = now + LONGEST_RETRY_AFTER
        self._closed_at, self._accepted = now, 0.0
        self._cold, self._share_before, self._ceiling = -1.0, 0.0, math.inf
        self._set(max(rate, 0.5 / pause), self.shut_until)
        self._reopen()
        self.evidence.row = 0.0

    def _rate_of_let_in(self) -> float:
        return _AHEAD * max(self._let_in, 0.25) / max(self._pause, 1.0)

    def _reopen(self) -> None:
        self._due = self.shut_until + self._chance() / self.rate

    def _let_in_one_less(self, now: float) -> None:
        """A request that was sent before the pause was rejected, too."""
        if now < self.shut_until and self._let_in > 0:
            self._let_in -= 1
            self.rate = max(min(self.rate, self._rate_of_let_in()), 0.5 / self._pause)
            self._reopen()

    def _meet(self, now: float) -> None:
        """There is a limit, about where the accepted rate is."""
        rate = self.sends.rate(now, 20, 0.25)
        span = now - self._excursion_at
        if span >= 0.05:  # what was accepted between rejections is exact but few, the other includes a stock
            rate = math.sqrt(rate * min(rate, self._excursion / span))
        self._ceiling = min(rate, self.rate)
        self._sent_near = self._rejected_near = 0.0
        self._set(_CUT * self._ceiling, now)
        self._due = now + 1 / self.rate

    def _slow_down(self, now: float) -> None:
        rate = _CUT * self.rate
        if rate <= _ASK_AT * self._ceiling:
            rate = min(_ASK_AT * self._ceiling, self.sends.rate(now, 10, 0.125))
            rate = max(rate, _ASK_ABOVE * self._ceiling)
            self._share_before = max(self._rejected_near / max(self._sent_near, 1.0), _LEAST_SHARE)
            self._asked = self._asked_rejected = 0.0
        self._set(rate, now)

    def _judge(self, now: float) -> None:
        if self._asked_rejected >= _TELLING and self._asked < 2 * _TELLING / self._share_before:
            self.evidence.slowing_did_not_help(self._asked_rejected, self._asked)
            rate = self._ceiling
            self._share_before, self._ceiling, self._growth = 0.0, math.inf, _GROWTH
            self._set(rate, now)

    def _slowing_helped(self, now: float) -> None:
        self._share_before = 0.0
        self._ceiling = math.sqrt(self.rate * self._ceiling)
        self._set(_CLOSE * self._ceiling, now)
