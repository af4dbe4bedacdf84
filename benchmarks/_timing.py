"""Measuring things in turn, so that what else the machine does meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]
Clock = Callable[[], float]


def in_turn(
    rounds: int, calls: Mapping[str, Call], clock: Clock = time.perf_counter, before: Call = lambda: None
) -> dict[str, list[float]]:
    """The seconds by *clock* that each of *calls* took in each round, with *before* called before it."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            before()
            taken[name].append(seconds(call, clock))
    return taken


def seconds(call: Call, clock: Clock = time.perf_counter) -> float:
    began = clock()
    call()
    return clock() - began


def ratio(ours: list[float], raw: list[float]) -> float:
    """Of the medians: for many short rounds."""
    return statistics.median(ours) / statistics.median(raw)


def low_ratio(ours: list[float], raw: list[float]) -> float:
    """Of the lower quartiles, which other work on the machine disturbs less."""
    return statistics.quantiles(ours, n=4)[0] / statistics.quantiles(raw, n=4)[0]


def ratio_by_round(ours: list[float], raw: list[float]) -> float:
    """The median of the ratios of each round: for a few long ones."""
    return statistics.median(one / other for one, other in zip(ours, raw, strict=True))
