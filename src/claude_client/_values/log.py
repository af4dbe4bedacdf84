"""The log, which costs nothing when it fails: handlers, filters and record factories are other people's code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress


class Log:
    """The logger *name*, whose methods raise nothing."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at level `INFO`, as `logging.Logger` does."""
        self._log(logging.INFO, message, args, extra)

    def warning(self, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at level `WARNING`."""
        self._log(logging.WARNING, message, args, extra)

    def exception(self, message: str, *args: object) -> None:
        """Log at level `ERROR`, with the exception that is being handled."""
        self._log(logging.ERROR, message, args, None, exc_info=True)

    def log(self, level: int, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log at *level*."""
        self._log(level, message, args, extra)

    def _log(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        extra: Mapping[str, object] | None,
        *,
        exc_info: bool = False,
    ) -> None:
        with suppress(Exception):  # there is no other place to say it
            try:
                self._logger.log(level, message, *args, extra=extra, exc_info=exc_info, stacklevel=3)
            except KeyError:  # the records of this program have one of these fields already
                self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3)


def told(exc: BaseException) -> str:
    """The message of *exc*, whose `str()` may raise."""
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - other people's code
        return f"a {type(exc).__name__} without a message"
