"""
What a fan-out costs and takes, beside the raw SDK in a thread pool, against a simulator in another process.

    uv run benchmarks/fan_outs.py
"""

from __future__ import annotations

import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
from _simulated import reset, script, seen, simulator

import claude_client
from claude_client import InterruptToken, Results, invoke_parallel, invoke_parallel_interruptible

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from servers import that_never_accepts, that_says_nothing

MODEL = "claude-sonnet-4-6"
CONTEXT = "some code " * 2000
WRITE, READ = 1.25, 0.1  # prices relative to plain input; facts 2
RUNS = 5


def main() -> None:
    cached_context()
    interrupts()
    interrupts_while_connecting()
    many_calls()
    request_limit("20 requests/s, burst 5, with headers")
    request_limit("20 requests/s, burst 5, without headers", "--no-limit-headers")
    token_limit()


def cached_context(prompts: int = 30) -> None:
    shared = len(CONTEXT) / 4
    with calls_to("--latency", "0.5") as (base_url, client):
        ours = fan_out(prompts, shared_system=CONTEXT, cache_shared_system=True).usage
        ideal = shared * (WRITE + READ * (prompts - 1)) + ours.input_tokens
        bill = ours.input_tokens + WRITE * ours.cache_creation_input_tokens + READ * ours.cache_read_input_tokens
        share = ours.cache_read_input_tokens / (shared * (prompts - 1))
        reset(base_url)
        system: Any = [{"type": "text", "text": CONTEXT, "cache_control": {"type": "ephemeral"}}]
        raw_pool(client, prompts, system=system)
        usages = [request["usage"] for request in seen(base_url)]
        raw = sum(
            u["input_tokens"] + WRITE * u["cache_creation_input_tokens"] + READ * u["cache_read_input_tokens"]
            for u in usages
        )
    print(f"{prompts} prompts over one cached context: {share:.2f} of what can be read was read; ", end="")
    print(f"input bill {bill / ideal:.2f}x the ideal, the raw pool's {raw / ideal:.2f}x")


def interrupts() -> None:
    phases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "waiting for the first byte": ({"fault": "silent"}, {}),
        "in the middle of a stream": ({"fault": "silent_mid_stream"}, {"streaming": True}),
        "waiting for a retry": ({"fault": "overloaded", "retry_after": 30}, {}),
        "waiting at the rate gate": ({"fault": "rate_limit", "retry_after": 30}, {}),
    }
    for phase, (reply, options) in phases.items():
        milliseconds = []
        for _ in range(RUNS):
            with calls_to() as (base_url, _):
                script(base_url, *[reply] * 10)
                milliseconds.append(interrupt_after(partial(seen, base_url), options))
        tell_interrupts(phase, milliseconds)


def interrupts_while_connecting() -> None:
    for _ in range(RUNS):
        with that_never_accepts() as port:
            connecting.append(interrupt_to(f"http://127.0.0.1:{port}"))
        with that_says_nothing() as (port, _):
            shaking_hands.append(interrupt_to(f"https://127.0.0.1:{port}"))
    tell_interrupts("connecting", connecting)
    tell_interrupts("in a TLS handshake", shaking_hands)


connecting: list[float] = []
shaking_hands: list[float] = []


def interrupt_to(base_url: str) -> float:
    with anthropic.Anthropic(api_key="any", base_url=base_url, timeout=60) as client:
        claude_client.set_default_client(client)
        milliseconds = interrupt_after(lambda: True, {})
        claude_client.set_default_client(None)
    return milliseconds


def tell_interrupts(phase: str, milliseconds: list[float]) -> None:
    median, longest = statistics.median(milliseconds), max(milliseconds)
    print(f"interrupt() to return, {phase}: {median:.1f} ms (longest {longest:.1f})")


def interrupt_after(reached: Callable[[], object], options: dict[str, Any]) -> float:
    """Milliseconds from interrupt() to the return of ten prompts, a moment after *reached*."""
    token = InterruptToken()
    returned: list[float] = []

    def run() -> None:
        prompts = [{"prompt": f"prompt {i}", **options} for i in range(10)]
        invoke_parallel_interruptible(prompts, token, max_workers=10)
        returned.append(time.perf_counter())

    thread = threading.Thread(target=run)
    thread.start()
    while not reached():
        time.sleep(0.01)
    time.sleep(0.3)
    began = time.perf_counter()
    token.interrupt()
    thread.join()
    return (returned[0] - began) * 1e3


def many_calls(calls: int = 400, workers: int = 10) -> None:
    ratios = []
    with calls_to("--latency", "0.05") as (_, client):
        fan_out(workers, max_workers=workers)
        for _ in range(RUNS):
            ours = seconds(lambda: fan_out(calls, max_workers=workers))
            raw = seconds(lambda: raw_pool(client, calls, workers=workers))
            ratios.append(ours / raw)
    print(f"{calls} calls of 50 ms on {workers} workers: {statistics.median(ratios):.2f}x the raw pool's time")


def request_limit(name: str, *arguments: str, calls: int = 300, rate: float = 20, burst: int = 5) -> None:
    limited(name, calls, (calls - burst) / rate, "--requests-per-second", str(rate), "--burst", str(burst), *arguments)


def token_limit(calls: int = 300, rate: float = 20_000, burst: int = 10_000) -> None:
    per_call = math.ceil(len("word " * 800) / 4)
    limited(
        "20,000 input tokens/s, burst 10,000",
        calls,
        (calls * per_call - burst) / rate,
        "--input-tokens-per-second",
        str(rate),
        "--input-token-burst",
        str(burst),
        prompt="word " * 800,
    )


def limited(name: str, calls: int, ideal: float, *arguments: str, prompt: str = "") -> None:
    """Time to get *calls* answered against a limited server, and what it rejected; then the same with the raw pool."""
    with calls_to("--latency", "0.05", *arguments) as (base_url, client):
        taken = seconds(lambda: answered.append(fan_out(calls, max_workers=10, prompt=prompt)))
        rejected = sum(request["outcome"] == "rejected" for request in seen(base_url))
    with calls_to("--latency", "0.05", *arguments) as (base_url, client):
        lost = raw_pool(client, calls, prompt=prompt, max_retries=2)
    results = answered.pop()
    print(
        f"{calls} calls, {name}: {taken / ideal:.2f}x the ideal {ideal:.1f} s, {rejected} rejected, "
        f"{len(results.errors)} lost; the raw pool lost {lost}"
    )


answered: list[Results] = []


@contextmanager
def calls_to(*arguments: str) -> Iterator[tuple[str, anthropic.Anthropic]]:
    """A fresh simulator in another process, and a client of its own for either side."""
    with simulator(*arguments) as base_url, anthropic.Anthropic(api_key="any", base_url=base_url) as client:
        claude_client.set_default_client(client)
        yield base_url, client
        claude_client.set_default_client(None)


def fan_out(prompts: int, *, prompt: str = "", **options: Any) -> Results:
    return invoke_parallel(
        [{"prompt": f"{prompt}prompt {i}"} for i in range(prompts)],
        **{"max_workers": 10, "return_exceptions": True, **options},
    )


def raw_pool(
    client: anthropic.Anthropic,
    calls: int,
    *,
    workers: int = 10,
    prompt: str = "",
    max_retries: int = 2,
    **options: Any,
) -> int:
    """The same with the SDK in a thread pool; how many calls were lost."""
    client = client.with_options(max_retries=max_retries)

    def call(i: int) -> bool:
        try:
            client.messages.create(
                model=MODEL, max_tokens=4096, messages=[{"role": "user", "content": f"{prompt}prompt {i}"}], **options
            )
        except anthropic.APIError:
            return False
        return True

    with ThreadPoolExecutor(workers) as pool:
        return sum(not ok for ok in pool.map(call, range(calls)))


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
