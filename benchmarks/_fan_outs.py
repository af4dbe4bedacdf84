"""
Fan-outs of 10 workers beside the raw SDK in a `ThreadPoolExecutor` of as many. Bills are those of the input, by the
server's own count, with a cache write at 1.25 times and a cache read at 0.1 times the price of plain input. The ideal
is one write of the shared context, and reads of it by all others. Where time counts, rounds of either side alternate:
the times are medians, the ratio is the median of the rounds' ratios. CPU is that of the whole process, all its threads.
What is done with each answer as it comes takes 20 ms: ours is told by `on_result`, the raw SDK's side loops over
`as_completed`. With a thousand requests under way both sides have as many threads; ours divides the connections among
pools, as one pool looks through all of its connections for each request.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

from _figures import Figure, at_most, judged
from _raw import ask, ask_all, lost
from _simulated import READ, WRITE, bill, reset, sides, usages
from _timing import Call, in_turn, ratio_by_round

from claude_client import Results, invoke_parallel
from orchestration import ConcurrencyLimiter, invoke_parallel_managed

CONTEXT = "some code " * 2000
FEW = 32


def figures(*, quick: bool) -> Iterator[Figure]:
    yield from cached_context(12 if quick else 30)
    yield many_calls(60 if quick else 400, rounds=1 if quick else 5)
    yield slow_callback(20 if quick else 50, rounds=1 if quick else 5)
    yield cpu(60 if quick else 500, rounds=1 if quick else 15)
    yield many_under_way(64 if quick else 1000, rounds=1 if quick else 7, latency=0.2 if quick else 1)


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


def slow_callback(calls: int, rounds: int) -> Figure:
    with sides("--latency", "0.3") as (_, client):

        def ours() -> None:
            assert not fan_out(calls, on_result=lambda *_: time.sleep(0.02)).errors

        def raw() -> None:
            with ThreadPoolExecutor(10) as pool:
                for answered in as_completed([pool.submit(ask, client, prompt) for prompt in asked(calls)]):
                    answered.result()
                    time.sleep(0.02)

        in_turn(1, {"ours": partial(fan_out, 10), "raw": partial(ask_all, client, asked(10))})  # to warm up
        taken = in_turn(rounds, {"ours": ours, "raw": raw})
    ratio = ratio_by_round(taken["ours"], taken["raw"])
    return Figure(
        what=f"{calls} calls of 0.3 s, and 20 ms for each answer: time",
        ours=f"{statistics.median(taken['ours']):.2f} s, {ratio:.2f}x",
        raw=f"{statistics.median(taken['raw']):.2f} s",
        target=at_most(1.03, ratio),
    )


def cpu(calls: int, rounds: int) -> Figure:
    with sides() as (_, client):
        both: dict[str, Call] = {"ours": partial(fan_out, calls), "raw": partial(ask_all, client, asked(calls))}
        in_turn(1, both)  # to warm up
        taken = in_turn(rounds, both, time.process_time)
    ratio = ratio_by_round(taken["ours"], taken["raw"])
    return Figure(
        what=f"CPU of a call, {calls} of them",
        ours=f"{statistics.median(taken['ours']) / calls * 1e3:.2f} ms, {ratio:.2f}x",
        raw=f"{statistics.median(taken['raw']) / calls * 1e3:.2f} ms",
        target=at_most(1.10, ratio),
    )


def many_under_way(workers: int, rounds: int, latency: float) -> Figure:
    """CPU of a call of a second, of two for each worker, over that with 32 workers."""
    with sides("--latency", str(latency)) as (_, client):

        def ours(workers: int) -> None:
            prompts = [{"prompt": text} for text in asked(2 * workers)]
            assert not invoke_parallel_managed(prompts, concurrency_limiter=ConcurrencyLimiter(workers)).errors

        def raw(workers: int) -> None:
            assert not lost(ask_all(client, asked(2 * workers), workers=workers))

        both: dict[str, Call] = {}
        for name, run in (("ours", ours), ("raw", raw)):
            both |= {f"{name}, few": partial(run, FEW), f"{name}, many": partial(run, workers)}
        in_turn(1, both)  # to warm up
        taken = in_turn(rounds, both, time.process_time)
    ratios, each = {}, {}
    for name in ("ours", "raw"):
        few, many = taken[f"{name}, few"], taken[f"{name}, many"]
        ratios[name] = ratio_by_round(many, few) * FEW / workers
        each[name] = statistics.median(many) / (2 * workers) * 1e3
    return Figure(
        what=f"CPU of a call with {workers:,} under way, over that with {FEW}",
        ours=f"{each['ours']:.2f} ms, {ratios['ours']:.2f}x",
        raw=f"{each['raw']:.2f} ms, {ratios['raw']:.2f}x",
        target=at_most(1.6, ratios["ours"]),
    )


def asked(prompts: int, prompt: str = "") -> list[str]:
    return [f"{prompt}prompt {i}" for i in range(prompts)]


def fan_out(prompts: int, *, prompt: str = "", **options: Any) -> Results:
    return invoke_parallel(
        [{"prompt": text} for text in asked(prompts, prompt)],
        **{"max_workers": 10, "return_exceptions": True, **options},
    )
