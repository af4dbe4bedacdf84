"""
From `InterruptToken.interrupt()` to the return of ten prompts, 0.3 s into each situation: the median of several times,
and the longest, which is what the target is for. The SDK has no way to end a request from another thread: a thread pool
that is shut down with `cancel_futures` waits for its requests. That is measured where they are answered after 3 s;
where they are not, it waits for timeouts, which are 10 minutes by default.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
from _figures import Figure, at_most
from _raw import ask
from _simulated import renew_client, reset, script, seen, sides
from _timing import seconds

import claude_client
from claude_client import InterruptToken, invoke_parallel_interruptible
from orchestration import invoke_parallel_managed

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from servers import that_never_accepts, that_says_nothing

PROMPTS = 10
ANSWERED = "waiting for the first byte"


def figures(*, quick: bool) -> Iterator[Figure]:
    times = 1 if quick else 5
    slow = {"latency": 1 if quick else 3}
    with sides() as (base_url, client):
        for what, reply, options in (
            (ANSWERED, slow, {}),
            ("waiting for the first byte of a stream", slow, {"streaming": True}),
            ("in the middle of a stream", {"fault": "silent_mid_stream"}, {"streaming": True}),
            ("waiting for a retry", {"fault": "overloaded", "retry_after": 30}, {}),
            ("waiting at the rate gate", {"fault": "rate_limit", "retry_after": 30}, {}),
        ):
            measured = [interrupt_simulated(base_url, reply, options) for _ in range(times)]
            raw = f"{shut_down(base_url, client, slow):,.0f} ms" if what == ANSWERED else "\u2013"
            yield figure(what, measured, raw, in_readme=what == ANSWERED)
        for many in (100, 1_000 if quick else 100_000):
            for ask_all in (invoke_parallel_interruptible, managed):
                measured = [interrupt_simulated(base_url, slow, {}, many, ask_all) for _ in range(times)]
                run = " of a managed run" if ask_all is managed else ""
                yield figure(f"{many - PROMPTS:,} more{run} waiting for a worker", measured)
    yield figure("connecting", [interrupt_connecting() for _ in range(times)])
    yield figure("in a TLS handshake", [interrupt_shaking_hands() for _ in range(times)])


def figure(what: str, measured: list[float], raw: str = "\u2013", *, in_readme: bool = False) -> Figure:
    longest = max(measured)
    return Figure(
        what=f"`interrupt()` to return, {what}",
        ours=f"{statistics.median(measured):.0f} ms (longest {longest:.0f})",
        raw=raw,
        target=at_most(100, longest, " ms", 0),
        in_readme=in_readme,
    )


def managed(prompts: list[dict[str, Any]], token: InterruptToken, max_workers: int) -> object:
    return invoke_parallel_managed(prompts, interrupt_token=token, max_workers=max_workers)


def interrupt_simulated(
    base_url: str,
    reply: dict[str, Any],
    options: dict[str, Any],
    prompts: int = PROMPTS,
    ask_all: Callable[..., object] = invoke_parallel_interruptible,
) -> float:
    reset(base_url)
    renew_client()  # whose rate gate may be closed from the time before
    script(base_url, *[reply] * PROMPTS)
    return interrupt_after(partial(seen, base_url), prompts, options, ask_all)


def interrupt_connecting() -> float:
    with that_never_accepts() as port:
        return interrupt_to(f"http://127.0.0.1:{port}")


def interrupt_shaking_hands() -> float:
    with that_says_nothing() as (port, _):
        return interrupt_to(f"https://127.0.0.1:{port}")


def interrupt_to(base_url: str) -> float:
    with anthropic.Anthropic(api_key="any", base_url=base_url, timeout=60) as client:
        claude_client.set_default_client(client)
        milliseconds = interrupt_after(lambda: True, PROMPTS, {})
        renew_client()
    return milliseconds


def interrupt_after(
    reached: Callable[[], object],
    prompts: int,
    options: dict[str, Any],
    ask_all: Callable[..., object] = invoke_parallel_interruptible,
) -> float:
    """Milliseconds from interrupt() to the return of so many prompts, a moment after *reached*."""
    token = InterruptToken()
    returned: list[float] = []

    def run() -> None:
        asked = [{"prompt": f"prompt {i}", **options} for i in range(prompts)]
        ask_all(asked, token, max_workers=PROMPTS)
        returned.append(time.perf_counter())

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(reached)
    began = time.perf_counter()
    token.interrupt()
    thread.join()
    return (returned[0] - began) * 1e3


def shut_down(base_url: str, client: anthropic.Anthropic, reply: dict[str, Any]) -> float:
    """Milliseconds that a thread pool over the raw SDK takes to end."""
    reset(base_url)
    script(base_url, *[reply] * PROMPTS)
    pool = ThreadPoolExecutor(PROMPTS)
    for i in range(PROMPTS):
        pool.submit(ask, client, f"prompt {i}")
    wait_for(partial(seen, base_url))
    return seconds(lambda: pool.shutdown(cancel_futures=True)) * 1e3


def wait_for(reached: Callable[[], object]) -> None:
    while not reached():
        time.sleep(0.01)
    time.sleep(0.3)
