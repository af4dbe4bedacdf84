"""
Managed runs of 5 workers. Of the two categories, A may have one request under way and B any number, of 0.2 s each, and
all of A come first. The ideal keeps A going without a pause, and B on the other four workers. The raw SDK's side is a
thread pool whose calls wait for a semaphore of their category. When B's last request starts is told by the server.

CPU is that of the whole process, all its threads, per task or call, and the raw SDK's side a thread pool of as many
workers. What a journal waits for its disk is not in it. Times are medians of rounds that take each kind in turn, ratios
to the raw SDK's are medians of the rounds' ratios.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
from _fan_outs import asked
from _figures import Figure, at_most
from _raw import ask, ask_all, lost
from _simulated import reset, seen, sides
from _timing import Call, in_turn, ratio, ratio_by_round, seconds

from orchestration import ConcurrencyLimiter, invoke_parallel_managed

WORKERS = 5
OF_A, OF_B = 15, 20
CATEGORIES = [*"A" * OF_A, *"B" * OF_B]


def figures(*, quick: bool) -> Iterator[Figure]:
    rounds = 1 if quick else 3
    yield from two_categories(0.05 if quick else 0.2, rounds)
    few, many = (20, 40) if quick else (500, 5000)
    yield from cpu(few, many, rounds)
    yield many_categories(few, rounds) if quick else many_categories(2000, rounds)


def two_categories(each: float, rounds: int) -> Iterator[Figure]:
    ideal = OF_A * each
    ideal_last_b = (OF_B // (WORKERS - 1) - 1) * each
    taken: dict[str, list[float]] = {"ours": [], "raw": []}
    last_of_b: dict[str, list[float]] = {"ours": [], "raw": []}
    with sides("--latency", str(each)) as (base_url, client):
        for _ in range(rounds):
            for name, run in (("ours", managed_categories), ("raw", partial(raw_categories, client))):
                reset(base_url)
                taken[name].append(seconds(run))
                last_of_b[name].append(last_b(base_url))
    ours, raw = map(statistics.median, taken.values())
    our_last, raw_last = map(statistics.median, last_of_b.values())
    yield Figure(
        what=f"{OF_A} calls of A, one at a time, and {OF_B} of B: time",
        ours=f"{ours:.2f} s, {ours / ideal:.2f}x the ideal",
        raw=f"{raw:.2f} s, {raw / ideal:.2f}x the ideal",
        target=at_most(1.07, ours / ideal),
    )
    yield Figure(
        what="\u2026 the last B starts after its ideal by",
        ours=f"{our_last - ideal_last_b:.2f} s",
        raw=f"{raw_last - ideal_last_b:.2f} s",
        target=at_most(0.4, our_last - ideal_last_b, " s"),
    )


def managed_categories() -> None:
    prompts = [{"prompt": f"{category} {i}", "category": category} for i, category in enumerate(CATEGORIES)]
    limiter = ConcurrencyLimiter(WORKERS, {"A": 1})
    assert not invoke_parallel_managed(prompts, max_workers=WORKERS, concurrency_limiter=limiter).errors


def raw_categories(client: anthropic.Anthropic) -> None:
    one_of_a = threading.Semaphore(1)

    def call(number: int, category: str) -> None:
        with one_of_a if category == "A" else nullcontext():
            ask(client, f"{category} {number}")

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(call, range(len(CATEGORIES)), CATEGORIES))


def last_b(base_url: str) -> float:
    """Seconds from the first request to the last of B."""
    requests = seen(base_url)
    assert len(requests) == len(CATEGORIES)
    began: float = min(request["started"] for request in requests)
    last: float = max(request["started"] for request in requests if request["text"].startswith("B"))
    return last - began


def cpu(few: int, many: int, rounds: int) -> Iterator[Figure]:
    with sides() as (base_url, client), tempfile.TemporaryDirectory() as folder:
        files = (Path(folder, f"{i}.sqlite") for i in itertools.count())

        def kinds(tasks: int) -> dict[str, Call]:
            return {
                "managed": lambda: managed(tasks),
                "journal": lambda: managed(tasks, journal=next(files)),
                "raw": lambda: raw(client, tasks),
            }

        in_turn(1, kinds(20))  # to warm up
        per_task: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for _ in range(rounds):
            for times, tasks in ((3, few), (1, many)):
                taken = in_turn(times, kinds(tasks), time.process_time, before=lambda: reset(base_url))
                for kind, measured in taken.items():
                    per_task[kind, tasks] += [whole / tasks for whole in measured]
    for tasks in (few, many):
        ours, journal, raw_call = (per_task[kind, tasks] for kind in ("managed", "journal", "raw"))
        yield of_cpu(f"CPU of a managed task, {tasks:,} of them", ours, raw_call, target=1.5)
        yield of_cpu("\u2026 with a journal", journal, raw_call)
    growth, raw_growth = (ratio(per_task[kind, many], per_task[kind, few]) for kind in ("managed", "raw"))
    yield Figure(
        what=f"\u2026 of {many:,}, over that of {few:,}",
        ours=f"{growth:.2f}x",
        raw=f"{raw_growth:.2f}x",
        target=at_most(1.10, growth),
    )


def many_categories(tasks: int, rounds: int) -> Figure:
    """What all wait for is the limiter: of its slots there are fewer than workers."""

    def run(categories: int) -> None:
        prompts = [{"prompt": prompt, "category": f"{i % categories}"} for i, prompt in enumerate(asked(tasks))]
        limiter = ConcurrencyLimiter(WORKERS - 1, {f"{i}": 1 for i in range(categories)})
        assert not invoke_parallel_managed(prompts, max_workers=WORKERS, concurrency_limiter=limiter).errors

    with sides() as (base_url, _):
        calls: dict[str, Call] = {"10": lambda: run(10), "1,000": lambda: run(1000)}
        taken = in_turn(rounds, calls, time.process_time, before=lambda: reset(base_url))
    growth = ratio_by_round(taken["1,000"], taken["10"])
    return Figure(
        what="\u2026 behind a limiter with 1,000 categories, over that with 10",
        ours=f"{growth:.2f}x",
        target=at_most(1.10, growth),
    )


def of_cpu(what: str, ours: list[float], raw: list[float], *, target: float | None = None) -> Figure:
    over_raw = ratio_by_round(ours, raw)
    return Figure(
        what=what,
        ours=f"{statistics.median(ours) * 1e3:.2f} ms, {over_raw:.2f}x",
        raw=f"{statistics.median(raw) * 1e3:.2f} ms",
        target="" if target is None else at_most(target, over_raw),
    )


def managed(tasks: int, **options: Any) -> None:
    prompts = [{"prompt": prompt, "task_id": prompt} for prompt in asked(tasks)]
    assert not invoke_parallel_managed(prompts, max_workers=WORKERS, **options).errors


def raw(client: anthropic.Anthropic, calls: int) -> None:
    assert not lost(ask_all(client, asked(calls), workers=WORKERS))
