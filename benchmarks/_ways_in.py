"""
The verbs for coroutines beside `AsyncAnthropic` with a semaphore and `gather`: CPU of the whole process, all its
threads, for each call; rounds of either side alternate, and the ratio is the median of theirs. And `as_completed` over
a generator: by how much the process grows, as the system counts it, from the 200th answer on, in its own process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
from _figures import Figure, at_most
from _raw import MODEL
from _simulated import sides, simulator
from _timing import in_turn, ratio_by_round

import claude_client
from claude_client import aio

_SRC = str(Path(claude_client.__file__).parent.parent)
_MOST_MEGABYTES = 50

_TAKE = """
import resource, sys
sys.path.insert(0, {src!r})
import anthropic
from claude_client import as_completed, set_default_client
set_default_client(anthropic.Anthropic(api_key="any", base_url={url!r}, max_retries=0))
grown = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
prompts = ({{"prompt": f"say {{n}}"}} for n in range({prompts}))
for taken, (_, answer) in enumerate(as_completed(prompts, max_workers=10, max_tokens=20)):
    assert isinstance(answer, str), answer
    if taken == 200:
        before = grown()
print(grown() - before)
"""


def figures(*, quick: bool) -> Iterator[Figure]:
    for under_way in (10, 200):
        yield from cpu(60 if quick else 1000, under_way, rounds=1 if quick else 9)
    for prompts in (400,) if quick else (10_000, 100_000):
        yield memory(prompts)


def cpu(calls: int, under_way: int, rounds: int) -> Iterator[Figure]:
    ways = {
        "raw": partial(raw, calls, under_way),
        "invoke_parallel": partial(fan_out, calls),
        "invoke_claude": partial(single, calls, under_way),
        "as_completed": partial(stream, calls, under_way),
    }
    with sides("--latency", "0.02"):
        for way in ways.values():
            run(way)
        taken = in_turn(rounds, {name: partial(run, way) for name, way in ways.items()}, time.process_time)
    for name in ways.keys() - {"raw"} - ({"invoke_parallel"} if under_way > 10 else set()):
        ratio = ratio_by_round(taken[name], taken["raw"])
        ours, theirs = (min(taken[side]) / calls * 1000 for side in (name, "raw"))
        yield Figure(
            what=f"aio.{name}, {under_way} under way: CPU for each call",
            ours=f"{ours:.2f} ms, {ratio:.2f}x",
            raw=f"{theirs:.2f} ms",
        )


def run(way: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(way())


async def raw(calls: int, under_way: int) -> None:
    slots = asyncio.Semaphore(under_way)
    async with anthropic.AsyncAnthropic(api_key="any") as client:

        async def ask(number: int) -> None:
            async with slots:
                await client.messages.create(
                    model=MODEL, max_tokens=50, messages=[{"role": "user", "content": f"say {number}"}]
                )

        await asyncio.gather(*map(ask, range(calls)))


async def single(calls: int, under_way: int) -> None:
    slots = asyncio.Semaphore(under_way)

    async def ask(number: int) -> None:
        async with slots:
            await aio.invoke_claude(f"say {number}", max_tokens=50)

    await asyncio.gather(*map(ask, range(calls)))


async def fan_out(calls: int) -> None:
    assert all(await aio.invoke_parallel([{"prompt": f"say {n}"} for n in range(calls)], max_tokens=50, max_workers=10))


async def stream(calls: int, under_way: int) -> None:
    prompts = ({"prompt": f"say {n}"} for n in range(calls))
    async for _, answer in aio.as_completed(prompts, max_tokens=50, max_workers=under_way):
        assert isinstance(answer, str)


def memory(prompts: int) -> Figure:
    with simulator() as url:
        program = _TAKE.format(src=_SRC, url=url, prompts=prompts)
        told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    grown = float(told.stdout)
    return Figure(
        what=f"as_completed, {prompts:,} prompts from a generator: memory",
        ours=f"{grown:.1f} MB",
        raw="",
        target=at_most(_MOST_MEGABYTES, grown, " MB", 0),
    )
