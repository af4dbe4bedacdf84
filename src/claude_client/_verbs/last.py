"""The results of the last fan-out, for those to whom it could not return them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from claude_client._values.response import ClaudeResponse
from claude_client._values.results import ParallelInterrupt, Results

_R = TypeVar("_R", bound=Results)

_MOST_TRIES = 100

_last: Callable[[], Results | None] = lambda: None  # noqa: E731 - until there are any


def last_results() -> Results | None:
    """
    The results of the last fan-out of this process that has ended, managed or not; None where there are none.

    They hold what was answered also where an exception ended it: Ctrl-C, the stop button of a notebook, `sys.exit` in a
    signal handler or a callback. Those are kept until the next fan-out ends, as are those of a fan-out that raised for
    its failed prompts; what was returned, for as long as somebody else keeps it.
    """
    return _last()


def remember(results: _R, *, returned: bool = True) -> _R:
    """Have `last_results` give *results*; if they are *returned*, as long as whoever gets them keeps them."""
    global _last  # noqa: PLW0603 - the last of the process
    _last = weakref.ref(results) if returned else lambda: results
    return results


@contextmanager
def remembered(results: Callable[[], Results], ended_by: type[BaseException] = BaseException) -> Iterator[None]:
    """
    Remember what *results* gives if an exception of the type *ended_by* ends the block. It comes out as itself, with a
    note of that; but Ctrl-C as a `ParallelInterrupt`. Another that comes meanwhile is ignored. A child that was forked
    within the block remembers nothing.
    """
    process = os.getpid()
    try:
        yield
    except ended_by as ended:
        if process != os.getpid():  # no coverage: in a forked child
            raise
        kept = _certainly(results)
        remember(kept, returned=False)
        answered = f"{sum(isinstance(answer, ClaudeResponse) for answer in kept)} of {len(kept)} prompts answered"
        if isinstance(ended, KeyboardInterrupt):
            said = f"{str(ended) or 'Interrupted'}: {answered}; they are in .results and last_results()"
            raise ParallelInterrupt(said, results=kept) from None
        ended.add_note(f"{answered}; last_results() has them")
        raise


def _certainly(results: Callable[[], Results]) -> Results:
    for _ in range(_MOST_TRIES):
        with suppress(BaseException):  # of a signal handler, as that of another Ctrl-C
            return results()
    return results()
