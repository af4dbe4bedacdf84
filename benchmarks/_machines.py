"""
A managed run whose requests the workers of a Dask cluster send, each a process, as is the scheduler. First on one
bucket of requests, for which the ideal is what the bucket lets through; then what a call costs the process that asks,
beside the raw SDK, which sends itself: CPU of all its threads. What Dask adds is over the same run with nothing sent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import anthropic
from _figures import Figure, at_most, judged
from _limits import BURST, BY_REQUESTS, RATE
from _raw import ask_all
from _simulated import rejected, sides
from distributed import Client

from claude_client._sdk.parameters import message_of
from claude_client._values.attempt import Answer, Attempt
from claude_client._values.usage import Usage
from orchestration._managed import managed
from orchestration.distributed import invoke_distributed

_MOST_TIME = 1.1
_MOST_CPU = 0.3  # milliseconds

_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-6",
    "content": [{"type": "text", "text": "Said."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 5},
}


def figures(*, quick: bool) -> Iterator[Figure]:
    for workers in (2,) if quick else (1, 2, 4):
        yield bucket(workers, 25 if quick else 200)
    yield from cpu(100 if quick else 1000, rounds=1 if quick else 3)


def bucket(workers: int, calls: int) -> Figure:
    ideal = (calls - BURST) / RATE
    with sides(*BY_REQUESTS) as (url, _), cluster(workers) as client:
        began = time.perf_counter()
        results = invoke_distributed(prompts(calls), client=client, max_workers=40, max_tokens=50)
        taken = time.perf_counter() - began
        refused = rejected(url)
    lost = len(results.errors)
    ratio = taken / ideal
    return Figure(
        what=f"{workers} Dask worker{'s' * (workers > 1)}, {calls} calls at {RATE}/s, burst {BURST}: time",
        ours=f"{taken:.1f} s, {ratio:.2f}x the ideal; {refused} refused, {lost} lost",
        target=judged(f"\u2264 {_MOST_TIME}x, 0 lost", met=round(ratio, 2) <= _MOST_TIME and not lost),
    )


def cpu(calls: int, rounds: int) -> Iterator[Figure]:
    taken: dict[str, list[float]] = {"raw": [], "here": [], "there": []}
    with sides("--latency", "0.1") as (_, raw), cluster(2) as client:
        ways: dict[str, Callable[[], object]] = {
            "raw": lambda: ask_raw(raw, calls),
            "here": lambda: managed(
                prompts(calls), 40, None, place=Nowhere(), model="claude-sonnet-4-6", max_tokens=50
            ),
            "there": lambda: invoke_distributed(prompts(calls), client=client, max_workers=20, max_tokens=50),
        }
        for way in ways.values():
            way()
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.process_time()
                way()
                taken[name].append((time.process_time() - began) / calls * 1000)
    theirs, ours = median(taken["raw"]), median(taken["there"])
    added = median(there - here for there, here in zip(taken["there"], taken["here"], strict=True))
    yield Figure(what="CPU of the caller for each call", ours=f"{ours:.2f} ms", raw=f"{theirs:.2f} ms")
    yield Figure(
        what="… of which for having it sent elsewhere", ours=f"{added:.2f} ms", target=at_most(_MOST_CPU, added, " ms")
    )


def prompts(calls: int) -> list[dict[str, str]]:
    return [{"prompt": f"say {number}"} for number in range(calls)]


def ask_raw(client: anthropic.Anthropic, calls: int) -> None:
    ask_all(client, [f"say {number}" for number in range(calls)], workers=40, max_tokens=50)


@contextmanager
def cluster(workers: int) -> Iterator[Client]:
    """A scheduler and so many workers, each a process, which end with the block."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        begin(stack, folder, "scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(file))
        while not file.exists():
            time.sleep(0.05)
        for _ in range(workers):
            begin(stack, folder, "worker", "--nthreads", "1", "--no-nanny", "--scheduler-file", str(file))
        client = stack.enter_context(Client(scheduler_file=str(file)))  # type: ignore[no-untyped-call]  # typed in part
        client.wait_for_workers(workers)
        invoke_distributed(prompts(4), client=client)
        yield client


def begin(stack: ExitStack, folder: str, what: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments, "--no-dashboard"]
    process = stack.enter_context(subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, env={**os.environ}))
    stack.callback(process.terminate)


class Nowhere:
    """A place that answers without sending anything."""

    account: object = object

    def opened(self) -> Any:
        return nullcontext()

    def waking(self, wake: Callable[..., None]) -> Any:  # noqa: ARG002
        return nullcontext()

    def would_wait(self, request: Any, now: float) -> None:
        """Never."""

    def admit(self, request: Any, now: float) -> None:
        """Let everything in."""

    def send(self, attempt: Attempt) -> None:
        attempt.sent_at = time.monotonic()
        time.sleep(0.1)
        attempt.message = message_of(_MESSAGE)
        attempt.answer, attempt.usage, attempt.status = Answer(attempt.message, "req_1"), Usage(10, 5), 200
        attempt.first_byte_at = attempt.ended_at = time.monotonic()
        attempt.tell("head")
        attempt.tell("begun")
        attempt.settle()
