"""The latest requests and what became of them."""

from __future__ import annotations

from typing import Final

from claude_client._gates.rate.state import State

PENDING: Final = 0.0
ACCEPTED: Final = 1.0
REJECTED: Final = 2.0
WITHDRAWN: Final = 3.0
_KEPT: Final = 64


class Sends(State):
    """
    The latest 64 requests, by the numbers of their permits from 0 on.

    An answer is known to be accepted when it begins, which may take minutes, while a rejection comes at once. So a
    request without any news after a while is presumed to be accepted.
    """

    NUMBERS = ("given", "_known")
    PARTS = ("_at", "_fate", "_tokens")

    def __init__(self) -> None:
        #: The number of the next permit.
        self.given = 0.0
        self._known = 0.0  # the fate of all before is known or presumed
        self._at = [0.0] * _KEPT
        self._fate = [WITHDRAWN] * _KEPT
        self._tokens = [0.0] * _KEPT

    def add(self, now: float, tokens: float) -> int:
        """Note a request that goes now, and return its number. The one that it takes the place of is over."""
        number = int(self.given)
        place = number % _KEPT
        self._at[place], self._fate[place], self._tokens[place] = now, PENDING, tokens
        self.given += 1
        return number

    def settle(self, number: int, fate: float) -> bool:
        """Note the *fate* of a request, and return whether nothing was known or presumed of it."""
        if number < self.given - _KEPT:
            return False
        place = number % _KEPT
        was_pending = self._fate[place] == PENDING
        self._fate[place] = fate
        return was_pending

    def presume(self, now: float, patience: float) -> int | None:
        """Take the oldest request of which nothing is known for accepted, if *patience* seconds old; None: no more."""
        self._known = max(self._known, self.given - _KEPT)
        while self._known < self.given:
            number = int(self._known)
            place = number % _KEPT
            if self._fate[place] == PENDING:
                if self._at[place] >= now - patience:
                    return None
                self._fate[place] = ACCEPTED
                self._known += 1
                return number
            self._known += 1
        return None

    def rate(self, now: float, least: int, seconds: float) -> float:
        """Requests per second that were not rejected, of the last *least*, or the last *seconds* if those are more."""
        passed, first = 0, now
        for number in self._latest():
            at = self._at[number % _KEPT]
            if int(self.given) - number > least and now - at > seconds:
                break
            first = at
            passed += self._fate[number % _KEPT] in (PENDING, ACCEPTED)
        return passed / max(now - first, 0.05)

    def not_rejected(self, since: float, now: float, seconds: float) -> int:
        """How many from number *since* on, in the last *seconds*, were not rejected."""
        count = 0
        for number in self._latest():
            place = number % _KEPT
            if number < since or now - self._at[place] >= seconds:
                break
            count += self._fate[place] in (PENDING, ACCEPTED)
        return count

    def taken_after(self, number: float, *, tokens: bool) -> float:
        """How many requests, or how many tokens, went after the request *number*."""
        total = 0.0
        for later in self._latest():
            place = later % _KEPT
            if later <= number:
                break
            if self._fate[place] in (PENDING, ACCEPTED):
                total += self._tokens[place] if tokens else 1
        return total

    def lately(self, now: float, seconds: float, rate: float, *, tokens: bool) -> tuple[float, float]:
        """
        How many requests, or how many tokens, went in the last *seconds*; and by how much they are ahead of a refill at
        *rate*: the most that went from any of them until *now*, less what flowed in meanwhile.
        """
        total = ahead = 0.0
        for number in self._latest():
            place = number % _KEPT
            age = now - self._at[place]
            if age >= seconds:
                break
            if self._fate[place] in (PENDING, ACCEPTED):
                total += self._tokens[place] if tokens else 1
                ahead = max(ahead, total - rate * age)
        return total, ahead

    def amend(self, number: int, more: float) -> None:
        """Correct the tokens of a request by *more*, which may be negative."""
        if number >= self.given - _KEPT:
            self._tokens[number % _KEPT] += more

    def _latest(self) -> range:
        given = int(self.given)
        return range(given - 1, max(-1, given - _KEPT - 1), -1)
