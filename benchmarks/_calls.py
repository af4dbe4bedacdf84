"""
CPU time of the calling thread, for calls that alternate one by one, each side on its one connection. Times are medians,
ratios those of the medians, and in brackets those of the lower quartiles. On the side of the raw SDK stand
`client.messages.create` and, for chunks, `client.messages.stream(...).text_stream`; beside the call with `output=`, a
small model of pydantic, the same call of ours without it. The import is the time of a
process that does no more.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import anthropic
from _figures import Figure, at_most
from _raw import MODEL, ask
from _simulated import script, sides
from _timing import Call, in_turn, low_ratio, ratio
from pydantic import BaseModel

import claude_client
from claude_client import invoke_claude, invoke_claude_streaming

HIGH_LIMITS = ["--requests-per-second", "10000", "--burst", "10000", "--input-tokens-per-second", "1000000"]


def figures(*, quick: bool) -> Iterator[Figure]:
    runs, calls = (1, 20) if quick else (3, 300)
    yield of_calls("CPU of a call", runs, calls, in_readme=True)
    yield of_calls("CPU of a call whose answer has rate-limit headers", runs, calls, *HIGH_LIMITS)
    yield of_output(runs, calls)
    chunks, streams = (200, 4) if quick else (2000, 30)
    yield of_chunks(chunks, streams)
    yield of_imports(starts=1 if quick else 15)


def of_calls(what: str, runs: int, calls: int, *arguments: str, in_readme: bool = False) -> Figure:
    ours: list[float] = []
    raw: list[float] = []
    for _ in range(runs):
        with sides(*arguments) as (_, client):
            both: dict[str, Call] = {"ours": partial(invoke_claude, "hi"), "raw": partial(ask, client, "hi")}
            in_turn(1, both)  # to warm up
            taken = in_turn(calls, both, time.thread_time)
        ours += taken["ours"]
        raw += taken["raw"]
    return Figure(
        what=what,
        ours=f"{statistics.median(ours) * 1e3:.2f} ms, {ratios(ours, raw)}",
        raw=f"{statistics.median(raw) * 1e3:.2f} ms",
        target=at_most(1.08 if in_readme else 1.10, ratio(ours, raw)),
        in_readme=in_readme,
    )


class Ticket(BaseModel):
    title: str
    urgency: Literal["low", "high"]
    tags: list[str]


def of_output(runs: int, calls: int) -> Figure:
    ours: list[float] = []
    without: list[float] = []
    for _ in range(runs):
        with sides():
            both: dict[str, Call] = {"ours": partial(ticket, "hi"), "without": partial(invoke_claude, "hi")}
            in_turn(1, both)  # to warm up, and to make the schema
            taken = in_turn(calls, both, time.thread_time)
        ours += taken["ours"]
        without += taken["without"]
    return Figure(
        what="CPU of a call with `output=`, beside the same without",
        ours=f"{statistics.median(ours) * 1e3:.2f} ms, {ratios(ours, without)}",
        raw=f"{statistics.median(without) * 1e3:.2f} ms",
        target=at_most(1.15, ratio(ours, without)),
    )


def ticket(prompt: str) -> None:
    assert invoke_claude(prompt, output=Ticket).output.urgency == "low"


def of_chunks(chunks: int, streams: int) -> Figure:
    with sides() as (base_url, client):
        script(base_url, *[{"text": "word " * chunks}] * (2 * streams + 2))

        def ours() -> None:
            heard: list[str] = []
            invoke_claude_streaming("hi", heard.append)
            assert len(heard) == chunks

        def raw() -> None:
            messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hi"}]
            with client.messages.stream(model=MODEL, max_tokens=4096, messages=messages) as stream:
                assert sum(1 for _ in stream.text_stream) == chunks

        both = {"ours": ours, "raw": raw}
        in_turn(1, both)  # to warm up
        taken = in_turn(streams, both, time.thread_time)
    per_chunk = {name: statistics.median(measured) * 1e6 / chunks for name, measured in taken.items()}
    return Figure(
        what=f"CPU of a chunk, in streams of {chunks:,}",
        ours=f"{per_chunk['ours']:.1f} us, {ratios(taken['ours'], taken['raw'])}",
        raw=f"{per_chunk['raw']:.1f} us",
        target=at_most(1.05, ratio(taken["ours"], taken["raw"])),
    )


def ratios(ours: list[float], raw: list[float]) -> str:
    return f"{ratio(ours, raw):.2f}x ({low_ratio(ours, raw):.2f}x)"


def of_imports(starts: int) -> Figure:
    nothing = f"import sys; sys.path.append({str(Path(claude_client.__file__).parent.parent)!r})"
    programs = {"bare": nothing, "ours": f"{nothing}; import claude_client", "raw": f"{nothing}; import anthropic"}
    taken = in_turn(starts, {name: partial(run_python, code) for name, code in programs.items()})
    bare, ours, raw = (statistics.median(measured) * 1e3 for measured in taken.values())
    return Figure(
        what="import, over bare Python (ours leaves the SDK's to the first call)",
        ours=f"{ours - bare:.0f} ms (over {bare:.0f})",
        raw=f"{raw - bare:,.0f} ms",
        target=at_most(60, ours - bare, " ms", 0),
    )


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
