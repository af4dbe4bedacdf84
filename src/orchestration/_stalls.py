"""Ends the attempts of a run that show no activity."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from claude_client._verbs.fan_out import Run


@contextmanager
def stall_watch(run: Run, timeout: float, on_stall: Callable[[int, float], object]) -> Iterator[None]:
    """
    During a `with` block, end each attempt of *run* that had nothing but silence or pings for *timeout* seconds.

    *on_stall* is then called once, on the thread of the run's callbacks, with the index of its job and its idle
    seconds. The clock of an attempt starts when it is sent.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_end_stalled(run, timeout, on_stall)):
            pass

    thread = threading.Thread(target=watch, name="claude_client stall watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _end_stalled(run: Run, timeout: float, on_stall: Callable[[int, float], object]) -> float:
    """End the attempts that are stalled now; return the seconds after which another may be."""
    now, soonest = time.monotonic(), math.inf
    for attempt, index in run.under_way:
        last_event_at = attempt.last_event_at
        if attempt.aborted or attempt.ended_at is not None or last_event_at is None:
            continue
        if now - last_event_at >= timeout:
            run.post(partial(on_stall, index, now - last_event_at))  # first, as the end of it may be that of the run
            attempt.abort("stalled")
        else:
            soonest = min(soonest, last_event_at + timeout)
    return min(soonest - now, timeout, threading.TIMEOUT_MAX)
