"""
What we add to a call of the SDK, in CPU time of the calling thread, and to starting Python.

    uv run benchmarks/overhead.py

Ours and the SDK's calls alternate one by one in this process, on one connection each, against a simulator in
another process. Each figure is a ratio: the median (and the lower quartile) of ours over that of the SDK's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anthropic
from _simulated import script, simulator

import claude_client
from claude_client import invoke_claude, invoke_claude_streaming

MODEL = "claude-sonnet-4-6"
CALLS = 600
STREAMS = 30
CHUNKS = 2000
STARTS = 15


def main() -> None:
    with simulator() as base_url, anthropic.Anthropic(api_key="any", base_url=base_url, max_retries=0) as client:
        os.environ |= {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": base_url}  # for the client of our own
        report("CPU per call", measure_calls(client), scale=1e3, unit="ms")
        report("CPU per streamed chunk", measure_streams(client, base_url), scale=1e6 / CHUNKS, unit="us")
    bare, ours = measure_imports()
    print(f"import claude_client: {(ours - bare) * 1e3:.0f} ms over bare Python's {bare * 1e3:.0f} ms")


def measure_calls(client: anthropic.Anthropic) -> tuple[list[float], list[float]]:
    messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hi"}]
    return alternate(
        lambda: invoke_claude("hi"),
        lambda: client.messages.create(model=MODEL, max_tokens=4096, messages=messages),
        CALLS,
    )


def measure_streams(client: anthropic.Anthropic, base_url: str) -> tuple[list[float], list[float]]:
    script(base_url, *[{"text": "word " * CHUNKS}] * (2 * STREAMS + 2))
    messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hi"}]

    def theirs() -> None:
        with client.messages.stream(model=MODEL, max_tokens=4096, messages=messages) as stream:
            assert sum(1 for _ in stream.text_stream) == CHUNKS

    def ours() -> None:
        chunks: list[str] = []
        invoke_claude_streaming("hi", chunks.append)
        assert len(chunks) == CHUNKS

    return alternate(ours, theirs, STREAMS)


def alternate(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> tuple[list[float], list[float]]:
    """Seconds of this thread's CPU for each call of either, taken in turn after one of each to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for call in (ours, theirs):
        call()
    for _ in range(times):
        for call, taken in zip((ours, theirs), seconds, strict=True):
            began = time.thread_time()
            call()
            taken.append(time.thread_time() - began)
    return seconds


def report(what: str, seconds: tuple[list[float], list[float]], *, scale: float, unit: str) -> None:
    (ours, ours_low), (theirs, theirs_low) = map(middle_and_low, seconds)
    print(
        f"{what}: {ours / theirs:.2f}x the SDK's (lower quartile {ours_low / theirs_low:.2f}x), "
        f"{ours * scale:.2f} beside {theirs * scale:.2f} {unit}"
    )


def middle_and_low(seconds: Sequence[float]) -> tuple[float, float]:
    low, middle, _ = statistics.quantiles(seconds, n=4)
    return middle, low


def measure_imports() -> tuple[float, float]:
    """Median seconds to start Python with nothing, and with us imported, in turn."""
    nothing = f"import sys; sys.path.append({str(Path(claude_client.__file__).parent.parent)!r})"
    us = f"{nothing}; import claude_client"
    seconds: dict[str, list[float]] = {nothing: [], us: []}
    for _ in range(STARTS):
        for code, taken in seconds.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-I", "-c", code], check=True)
            taken.append(time.perf_counter() - began)
    return statistics.median(seconds[nothing]), statistics.median(seconds[us])


if __name__ == "__main__":
    main()
