"""Warns in the log when calls wait for longer than anybody would expect."""

from __future__ import annotations

import math

from claude_client._values.log import Log
from claude_client._values.retry import LONGEST_RETRY_AFTER

_log = Log("claude_client")

_SAME_PAUSE = 10.0  # seconds that the ends of waits may lie apart, to count as one pause


class PauseLog:
    """Warns of each pause once, however many calls wait for its end."""

    _warned_until = -math.inf
    _noted: float | None = None  # seconds

    def note(self, seconds: float, now: float) -> None:
        """A call has to wait for *seconds* from *now* on; infinite: for something other than time."""
        if LONGEST_RETRY_AFTER < seconds < math.inf and now + seconds > self._warned_until + _SAME_PAUSE:
            self._warned_until = now + seconds
            self._noted = seconds

    def log(self) -> None:
        """Warn of what was noted. Under no lock: handlers are other people's code."""
        if self._noted is not None:
            seconds, self._noted = self._noted, None
            _log.warning("A call has to wait %.0f s until it may be tried again", seconds)
