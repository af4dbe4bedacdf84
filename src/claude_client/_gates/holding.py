"""Says when a gate begins to hold calls back, and when it lets go: once each, however many calls wait."""

from __future__ import annotations

_NOTICEABLE = 0.03  # seconds; shorter waits hold nobody back
_QUIET = 5.0  # seconds without anybody waiting, after which it has let go


class Holding:
    """Whether calls are held back. The clock is the caller's."""

    def __init__(self) -> None:
        #: Why calls are held back; None while they are not.
        self.reason: str | None = None
        self._began_at = 0.0
        self._waited_at = 0.0

    def wait(self, reason: str, seconds: float, now: float) -> bool:
        """Note that a call has to wait for *seconds* from *now* on, and return whether it is the first."""
        if seconds < _NOTICEABLE:
            return False
        began, self.reason, self._waited_at = self.reason is None, reason, now
        if began:
            self._began_at = now
        return began

    def passes(self, now: float) -> float | None:
        """Note that a call goes. Return for how many seconds calls were held back, if they are no longer; else None."""
        if self.reason is None or now - self._waited_at < _QUIET:
            return None
        self.reason = None
        return now - self._began_at
