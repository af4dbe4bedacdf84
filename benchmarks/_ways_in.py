"""
The verbs for coroutines beside `AsyncAnthropic` with a semaphore and `gather`: CPU of the whole process, all its
threads, for each call; rounds of either side alternate, and the ratio is the median of theirs. As many streams at once
as may be, beside the same with `AsyncAnthropic`: the time until all have ended. And `as_completed` over a generator: by
how much the process grows, as the system counts it, from the 200th answer on, in its own process.
"""

from __future__ import annotations

import asyncio
import statistics
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
from _simulated import sides, simulator, statistics_of
from _timing import in_turn, ratio_by_round

import claude_client
from claude_client import aio, as_completed

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
    yield streams(50 if quick else 1000, rounds=1 if quick else 3)
    for prompts in (400,) if quick else (10_000, 100_000):
        yield memory(prompts)


def cpu(calls: int, under_way: int, rounds: int) -> Iterator[Figure]:
    ways = {
        "raw": partial(raw, calls, under_way),
        "invoke_parallel": partial(fan_out, calls, under_way),
        "invoke_claude": partial(single, calls, under_way),
        "as_completed": partial(stream, calls, under_way),
    }
    with sides("--latency", "0.02"):
        for way in ways.values():
            run(way)
        taken = in_turn(rounds, {name: partial(run, way) for name, way in ways.items()}, time.process_time)
    for name in ways.keys() - {"raw"}:
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


async def fan_out(calls: int, under_way: int) -> None:
    prompts = [{"prompt": f"say {n}"} for n in range(calls)]
    assert all(await aio.invoke_parallel(prompts, max_tokens=50, max_workers=under_way))


async def stream(calls: int, under_way: int) -> None:
    prompts = ({"prompt": f"say {n}"} for n in range(calls))
    async for _, answer in aio.as_completed(prompts, max_tokens=50, max_workers=under_way):
        assert isinstance(answer, str)


def streams(count: int, rounds: int) -> Figure:
    """Each has some twelve tokens in six seconds."""
    with sides("--latency", "2", "--tokens-per-second", "3") as (url, _):
        ways = {"ours": partial(our_streams, count), "raw": partial(run, partial(raw_streams, count))}
        taken = in_turn(rounds, ways)
        peak = statistics_of(url)["peak_concurrency"]
    assert peak == count, peak
    ours, theirs = (statistics.median(taken[side]) for side in ("ours", "raw"))
    return Figure(
        what=f"{count:,} streams at once: time",
        ours=f"{ours:.1f} s, {ratio_by_round(taken['ours'], taken['raw']):.2f}x",
        raw=f"{theirs:.1f} s",
    )


def our_streams(count: int) -> None:
    prompts = [{"prompt": f"say {n}"} for n in range(count)]
    for _, answer in as_completed(prompts, max_tokens=50, max_workers=count, streaming=True):
        assert isinstance(answer, str)


async def raw_streams(count: int) -> None:
    async with anthropic.AsyncAnthropic(api_key="any") as client:

        async def ask(number: int) -> None:
            said: Any = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": f"say {number}"}]}
            async with client.messages.stream(**said) as stream:
                await stream.get_final_message()

        await asyncio.gather(*map(ask, range(count)))


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
