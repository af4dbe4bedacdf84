"""
Fan-outs of 10 workers beside the raw SDK in a `ThreadPoolExecutor` of as many. Bills are those of the input, by the
server's own count, with a cache write at 1.25 times and a cache read at 0.1 times the price of plain input. The ideal
is one write of the shared context, and reads of it by all others. Where time counts, rounds of either side alternate:
the times are medians, the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

from _figures import Figure, at_most, judged
from _raw import ask_all, lost
from _simulated import READ, WRITE, bill, reset, sides, usages
from _timing import Call, in_turn, ratio_by_round

from claude_client import Results, invoke_parallel

CONTEXT = "some code " * 2000


def figures(*, quick: bool) -> Iterator[Figure]:
    yield from cached_context(12 if quick else 30)
    yield many_calls(60 if quick else 400, rounds=1 if quick else 5)


def cached_context(prompts: int) -> Iterator[Figure]:
    shared = len(CONTEXT) / 4  # in the simulator's tokens
    with sides("--latency", "0.5") as (base_url, client):
        assert not fan_out(prompts, shared_system=CONTEXT, cache_shared_system=True).errors
        ours = usages(base_url)
        reset(base_url)
        system = [{"type": "text", "text": CONTEXT, "cache_control": {"type": "ephemeral"}}]
        assert not lost(ask_all(client, asked(prompts), system=system))
        raw = usages(base_url)
    ideal = shared * (WRITE + READ * (prompts - 1)) + sum(usage["input_tokens"] for usage in ours)
    yield Figure(
        what=f"{prompts} prompts over one cached context: bill",
        ours=f"{bill(ours) / ideal:.2f}x the ideal",
        raw=f"{bill(raw) / ideal:.2f}x the ideal",
        target=at_most(1.02, bill(ours) / ideal),
        in_readme=True,
    )
    our_share, raw_share = (
        sum(usage["cache_read_input_tokens"] for usage in used) / (shared * (prompts - 1)) for used in (ours, raw)
    )
    yield Figure(
        what="\u2026 and how much of what can be read from the cache was",
        ours=f"{our_share:.0%}",
        raw=f"{raw_share:.0%}",
        target=judged("100%", met=our_share == 1),
    )


def many_calls(calls: int, rounds: int) -> Figure:
    with sides("--latency", "0.05") as (_, client):
        in_turn(1, {"ours": partial(fan_out, 10), "raw": partial(ask_all, client, asked(10))})  # to warm up
        both: dict[str, Call] = {"ours": partial(fan_out, calls), "raw": partial(ask_all, client, asked(calls))}
        taken = in_turn(rounds, both)
    ratio = ratio_by_round(taken["ours"], taken["raw"])
    return Figure(
        what=f"{calls} calls of 50 ms: time",
        ours=f"{statistics.median(taken['ours']):.2f} s, {ratio:.2f}x",
        raw=f"{statistics.median(taken['raw']):.2f} s",
        target=at_most(1.05, ratio),
    )


def asked(prompts: int, prompt: str = "") -> list[str]:
    return [f"{prompt}prompt {i}" for i in range(prompts)]


def fan_out(prompts: int, *, prompt: str = "", **options: Any) -> Results:
    return invoke_parallel(
        [{"prompt": text} for text in asked(prompts, prompt)],
        **{"max_workers": 10, "return_exceptions": True, **options},
    )
