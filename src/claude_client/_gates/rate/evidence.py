"""Tells rejections that mean a limit from those that come whatever the pace."""

from __future__ import annotations

import math

from claude_client._gates.rate.state import State

# Chances below which a thing is not taken for luck: a row of rejections shuts the gate, which costs all; a suspicion
# only slows it, and is tested afterwards.
_ROW_BY_CHANCE = 1e-4
_SUSPICION_BY_CHANCE = 1e-3
#: The suspicion, as a logarithm, that is one time in a thousand due to chance.
CERTAIN = -math.log(_SUSPICION_BY_CHANCE)
#: What a single rejection amounts to, where hardly any were expected.
LIKELY = 1.5
_SHORTEST_ROW = 3

# A limit is suspected once that much more than the background is rejected; a limit twice as slow rejects half.
_MORE = 0.3
# The background before anything is known: as of twenty requests. Later it is that of the last hundred.
_PRIOR, _PRIOR_WEIGHT, _MEMORY = 0.065, 20, 100
# The latest outcomes are no part of the background yet: they may turn out to be a limit's.
_LAG = 20
_RECENT = 40  # requests behind `share`


class Evidence(State):
    """
    A sequential test (CUSUM) of outcomes, one by one: is more rejected than the background share?

    The background is the share that is rejected whatever the pace: others use the same limit. It is learnt while
    nothing is suspected, and from `slowing_did_not_help`.
    """

    NUMBERS = ("_rejected", "_seen", "_latest", "_latest_count", "share", "suspicion", "row")

    def __init__(self) -> None:
        self._rejected = _PRIOR * _PRIOR_WEIGHT
        self._seen = float(_PRIOR_WEIGHT)
        self._latest = 0.0  # the outcomes of the lag as bits, the oldest highest
        self._latest_count = 0.0
        #: The share of the latest requests that was rejected, whatever the reason.
        self.share = 0.0
        #: The logarithm of how much likelier a limit makes the latest outcomes than the background does.
        self.suspicion = 0.0
        #: Rejections since one was accepted.
        self.row = 0.0

    @property
    def background(self) -> float:
        """The share of rejections that is to be expected at any pace."""
        return min(max(self._rejected / self._seen, 0.01), 0.6)

    @property
    def is_row(self) -> bool:
        """True after more rejections in a row than the background explains."""
        return self.row >= max(_SHORTEST_ROW, math.ceil(math.log(_ROW_BY_CHANCE) / math.log(self.background)))

    def add(self, *, rejected: bool, news: bool, learning: bool) -> None:
        """
        Count an outcome. *news*: the request was sent since the pace last changed. *learning*: no limit is known, so
        that what is rejected is background.
        """
        self.share += (rejected - self.share) / _RECENT
        if not rejected:
            self.row = 0.0
        elif news:
            self.row += 1
        if not learning:  # a limit rejects some too, so the background is no more than all of it
            self._rejected = min(self._rejected, self.share * self._seen)
        if not news:
            return
        share = self.background
        more = min(_MORE, (1 - share) / 2)
        likelier = (share + more) / share if rejected else (1 - share - more) / (1 - share)
        self.suspicion = max(0.0, self.suspicion + math.log(likelier))
        if learning:
            self._learn_late(rejected=rejected)

    def begin_anew(self) -> None:
        """Drop the suspicion and the latest outcomes: the pace has changed."""
        self.suspicion = self._latest = self._latest_count = 0.0

    def slowing_did_not_help(self, rejected: float, seen: float) -> None:
        """Take *rejected* of *seen*, at a lower pace than before, for background."""
        self._rejected = self.background * _PRIOR_WEIGHT / 2
        self._seen = _PRIOR_WEIGHT / 2
        self._learn(rejected, seen)

    def is_bad_luck(self, refused: int) -> bool:
        """Return whether a request may have met *refused* rejections in a row by chance, as others have met theirs."""
        of_others = max(0.0, self.share - refused / _RECENT)
        return of_others**refused >= _SUSPICION_BY_CHANCE

    def _learn_late(self, *, rejected: bool) -> None:
        latest = int(self._latest) << 1 | rejected
        if self._latest_count < _LAG:
            self._latest_count += 1
        else:
            self._learn(latest >> _LAG, 1)
        self._latest = float(latest & (1 << _LAG) - 1)

    def _learn(self, rejected: float, seen: float) -> None:
        self._rejected += rejected
        self._seen += seen
        faded = min(1.0, _MEMORY / self._seen)
        self._rejected *= faded
        self._seen *= faded
