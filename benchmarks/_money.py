"""
Fan-outs of 10 workers with a budget that is not reached, beside the same without one, and beside the raw SDK in a
thread pool of as many. Rounds alternate: times are medians, ratios the medians of the rounds' ratios. CPU is that of
the whole process. An estimate counts prompts that share a context, beside a `count_tokens` of the SDK for each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anthropic
from _figures import Figure, at_most
from _raw import MODEL, ask_all
from _simulated import sides
from _timing import Call, in_turn, ratio_by_round

from claude_client import Budget, estimate_cost, invoke_parallel

CONTEXT = "some code " * 2000


def figures(*, quick: bool) -> Iterator[Figure]:
    yield of_time(40 if quick else 400, rounds=1 if quick else 5)
    yield of_cpu(60 if quick else 500, rounds=1 if quick else 9)
    yield of_estimates(20 if quick else 500, rounds=1 if quick else 3)


def of_time(calls: int, rounds: int) -> Figure:
    with sides("--latency", "0.05") as (_, client):
        both: dict[str, Call] = {
            "ours": partial(fan_out, calls, budget=True),
            "without": partial(fan_out, calls, budget=False),
            "raw": partial(ask_all, client, asked(calls)),
        }
        in_turn(1, both)  # to warm up
        taken = in_turn(rounds, both)
    slower = ratio_by_round(taken["ours"], taken["without"])
    return Figure(
        what=f"{calls} calls of 50 ms with a budget: time, beside the same without",
        ours=f"{statistics.median(taken['ours']):.2f} s, {slower:.2f}x",
        raw=f"{statistics.median(taken['raw']):.2f} s (without)",
        target=at_most(1.02, slower),
    )


def of_cpu(calls: int, rounds: int) -> Figure:
    with sides() as (_, client):
        both: dict[str, Call] = {
            "ours": partial(fan_out, calls, budget=True),
            "without": partial(fan_out, calls, budget=False),
            "raw": partial(ask_all, client, asked(calls)),
        }
        in_turn(1, both)  # to warm up
        taken = in_turn(rounds, both, time.process_time)
    more = ratio_by_round(taken["ours"], taken["without"])
    per_call = {name: statistics.median(measured) * 1e3 / calls for name, measured in taken.items()}
    return Figure(
        what=f"\u2026 CPU of a call, of {calls}, beside the same without",
        ours=f"{per_call['ours']:.2f} ms, {more:.2f}x",
        raw=f"{per_call['raw']:.2f} ms (without)",
        target=at_most(1.15, more),
    )


def of_estimates(prompts: int, rounds: int) -> Figure:
    with sides() as (_, client):
        counts: dict[str, Call] = {
            "ours": partial(estimate, prompts),
            "raw": partial(count_all, client, prompts),
        }
        in_turn(1, counts)  # to warm up
        taken = in_turn(rounds, counts)
    ours, raw = map(statistics.median, taken.values())
    return Figure(
        what=f"an estimate of {prompts} prompts over one context: time",
        ours=f"{ours:.2f} s",
        raw=f"{raw:.2f} s",
        target=at_most(1.0, ratio_by_round(taken["ours"], taken["raw"])),
    )


def fan_out(calls: int, *, budget: bool) -> None:
    prompts = [{"prompt": prompt} for prompt in asked(calls)]
    assert not invoke_parallel(prompts, max_workers=10, budget_usd=Budget(1000) if budget else None).errors


def estimate(prompts: int) -> None:
    specs = [{"prompt": prompt} for prompt in asked(prompts)]
    assert estimate_cost(specs, shared_system=CONTEXT, cache_shared_system=True).requests == prompts


def count_all(client: anthropic.Anthropic, prompts: int) -> None:
    def count(prompt: str) -> int:
        messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": prompt}]
        return client.messages.count_tokens(model=MODEL, system=CONTEXT, messages=messages).input_tokens

    with ThreadPoolExecutor(8) as pool:
        assert len([*pool.map(count, asked(prompts))]) == prompts


def asked(calls: int) -> list[str]:
    return [f"prompt {i}" for i in range(calls)]
