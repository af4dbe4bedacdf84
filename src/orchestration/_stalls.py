"""Ends the attempts of a run that show no sign of life."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection

from claude_client._engine.threads import Chore, Job


def stall_watch(timeout: float, on_stall: Callable[[int, float], object]) -> Chore:
    """
    A chore that ends each attempt with nothing but silence or pings for *timeout* seconds, and then calls *on_stall*
    with the index of its job and its idle seconds, once. The clock of an attempt starts when it is sent.
    """

    def look(under_way: Collection[Job]) -> float:
        now, soonest = time.monotonic(), math.inf
        for job in under_way:
            operation = job.operation
            if operation.ended or job.came is not None:  # it is over, and only not dealt with yet
                continue
            alive_at = now if operation.alive_at is None else operation.alive_at
            if now - alive_at >= timeout:
                operation.end("stalled")
                on_stall(job.index, now - alive_at)
            else:
                soonest = min(soonest, alive_at + timeout)
        return soonest

    return look
