"""
Calls that a server rejects: for their pace, out of bad luck, or because it is overloaded. They come from 10 workers, 5
in an outage, that know nothing of it. A call is lost if it ends in an error. Where there is a limit, the ideal is the
time of a client that knows it, begins with a full bucket and waits no longer than it must; a call that is lost needs
none of what the server allows, so who loses calls may be quicker. Otherwise the raw SDK in a thread pool of as many
workers is the measure; it has its own two retries, or ten where that is said. Targets are for time, rejections and
losses.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import _processes
import anthropic
from _fan_outs import asked, fan_out
from _figures import Figure, judged
from _raw import ask_all, lost
from _simulated import rejected, script, sides
from _timing import seconds

from claude_client import invoke_parallel
from orchestration import invoke_parallel_managed

RATE, BURST = 20, 5
TOKEN_RATE, TOKEN_BURST = 20_000, 10_000
LONG = "word " * 800
BY_REQUESTS = ("--requests-per-second", str(RATE), "--burst", str(BURST))
UNHEADED = (*BY_REQUESTS, "--no-limit-headers")


def figures(*, quick: bool) -> Iterator[Figure]:
    calls = 12 if quick else 300
    ideal = (calls - BURST) / RATE
    what = f"{calls} calls at {RATE}/s, burst {BURST}"
    yield limited(f"{what}, rate-limit headers", calls, ideal, *BY_REQUESTS, most=Fate(1.10, 5, 0), in_readme=True)
    yield limited(f"{what}, no such headers", calls, ideal, *UNHEADED, most=Fate(1.40, 20, 0))

    by_tokens = ("--input-tokens-per-second", str(TOKEN_RATE), "--input-token-burst", str(TOKEN_BURST))
    needed = sum(-(-len(prompt) // 4) for prompt in asked(calls, LONG))  # in the simulator's tokens
    what = f"{calls} calls at {TOKEN_RATE:,} input tokens/s, burst {TOKEN_BURST:,}, headers"
    ideal = (needed - TOKEN_BURST) / TOKEN_RATE
    yield limited(what, calls, ideal, *by_tokens, prompt=LONG, most=Fate(1.10, 5, 0))

    each = 8 if quick else 75
    yield from of_processes(2 if quick else 4, each, rounds=1 if quick else 3)
    yield two_models(16 if quick else 150)
    yield unlucky(20 if quick else 100)
    yield poisoned(11 if quick else 61, pause=0.1 if quick else 1.0)
    for outage in (0.3,) if quick else (3, 10, 20):
        yield from in_an_outage(outage, 20 if quick else 300)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of the calls: their time over that of another, their rejections, and how many were lost."""

    time: float
    rejected: int
    lost: int

    def within(self, most: Fate) -> bool:
        return round(self.time, 2) <= most.time and self.rejected <= most.rejected and self.lost <= most.lost

    def said(self, unit: str) -> str:
        return f"{self.time:.2f}x {unit}, {self.rejected} rejected, {self.lost} lost"


def of_ideal(what: str, ours: Fate, raw: Fate, most: Fate, *, in_readme: bool = False) -> Figure:
    target = f"\u2264 {most.time:.2f}x, \u2264 {most.rejected}, {most.lost}"
    return Figure(
        what=what,
        ours=ours.said("the ideal"),
        raw=raw.said("the ideal"),
        target=judged(target, met=ours.within(most)),
        in_readme=in_readme,
    )


def limited(
    what: str, calls: int, ideal: float, *arguments: str, most: Fate, prompt: str = "", in_readme: bool = False
) -> Figure:
    with sides("--latency", "0.05", *arguments) as (base_url, _):
        ours = fate(lambda: len(fan_out(calls, prompt=prompt).errors), base_url, ideal)
    with sides("--latency", "0.05", *arguments) as (base_url, client):
        raw = fate(lambda: lost(ask_all(client, asked(calls, prompt))), base_url, ideal)
    return of_ideal(what, ours, raw, most, in_readme=in_readme)


def fate(run: Callable[[], int], base_url: str, beside: float) -> Fate:
    losses: list[int] = []
    taken = seconds(lambda: losses.append(run()))
    return Fate(taken / beside, rejected(base_url), *losses)


def of_processes(processes: int, calls: int, rounds: int) -> Iterator[Figure]:
    """Ours is the median of some rounds."""
    ideal = (processes * calls - BURST) / RATE
    what = f"{processes} processes, {calls} calls each at {RATE}/s together"
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "limits"))
        for how, arguments, shared, most in (
            ("headers", BY_REQUESTS, "", Fate(1.15, 60, 0)),
            ("no headers", UNHEADED, "", Fate(1.40, 150, 0)),
            ("`share_limits`, headers", BY_REQUESTS, file, Fate(1.08, 5, 0)),
        ):
            ours = []
            for _ in range(rounds):
                Path(file).unlink(missing_ok=True)
                with sides("--latency", "0.05", *arguments) as (base_url, _):
                    taken, losses = _processes.ours(processes, calls, shared)
                    ours.append(Fate(taken / ideal, rejected(base_url), losses))
            with sides("--latency", "0.05", *arguments) as (base_url, _):
                taken, losses = _processes.raw(processes, calls)
                raw = Fate(taken / ideal, rejected(base_url), losses)
            yield of_ideal(f"{what}, {how}", sorted(ours, key=lambda fate: fate.time)[rounds // 2], raw, most)


def two_models(calls: int) -> Figure:
    """Each has the limit for itself, so that both at once take as long as one alone."""
    models = ("claude-sonnet-4-6", "claude-opus-5")
    limits = ("--latency", "0.05", *BY_REQUESTS)

    def at_once(ask: Callable[[str], int], models: tuple[str, ...]) -> tuple[float, int]:
        losses: list[int] = []
        threads = [threading.Thread(target=lambda model=model: losses.append(ask(model))) for model in models]

        def run() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return seconds(run), sum(losses)

    def ours(model: str) -> int:
        return len(fan_out(calls, model=model).errors)

    with sides(*limits):
        alone, _ = at_once(ours, models[:1])
    with sides(*limits):
        both, our_losses = at_once(ours, models)
    with sides(*limits) as (_, client):
        raw, raw_losses = at_once(lambda model: lost(ask_all(client, asked(calls), model=model)), models)
    ratio = both / alone
    return Figure(
        what=f"2 models at once on one client, {calls} calls each at {RATE}/s for each",
        ours=f"{both:.1f} s, {ratio:.2f}x one alone, {our_losses} lost",
        raw=f"{raw:.1f} s, {raw_losses} lost",
        target=judged("\u2264 1.05x, 0", met=round(ratio, 2) <= 1.05 and not our_losses),
    )


def unlucky(calls: int) -> Figure:
    arguments = ("--latency", "0.05", "--unlucky", "0.11")
    return of_pool(f"{calls} calls, 11 % rejected at any pace", calls, 10, 1.5, *arguments)


def poisoned(calls: int, pause: float) -> Figure:
    always = {"fault": "rate_limit", "retry_after": pause}
    return of_pool(
        f"{calls} calls, of which one is always rejected", calls, 5, 1.5, "--latency", "0.05", always=always, bound=1
    )


def of_pool(
    what: str,
    calls: int,
    workers: int,
    most: float,
    *arguments: str,
    always: dict[str, object] | None = None,
    bound: int = 0,
) -> Figure:
    """Beside the raw SDK with its two retries and with ten, each on a fresh server; *bound* calls may be lost."""

    def taken(run: Callable[[], int], base_url: str) -> tuple[float, int]:
        if always:
            script(base_url, *[always] * 50, matching="prompt 0")
        losses: list[int] = []
        return seconds(lambda: losses.append(run())), losses[0]

    def pool(client: anthropic.Anthropic) -> int:
        return lost(ask_all(client, asked(calls), workers=workers))

    with sides(*arguments) as (base_url, _):
        ours, our_losses = taken(lambda: len(fan_out(calls, max_workers=workers).errors), base_url)
    pools = []
    for retries in (2, 10):
        with sides(*arguments) as (base_url, client):
            patient = client.with_options(max_retries=retries)
            pools.append(taken(partial(pool, patient), base_url))
    (raw, raw_losses), (patient_raw, patient_losses) = pools
    ratio = ours / raw
    return Figure(
        what=what,
        ours=f"{ours:.1f} s, {ratio:.2f}x, {our_losses} lost",
        raw=f"{raw:.1f} s, {raw_losses} lost; 10 retries: {patient_raw:.1f} s, {patient_losses} lost",
        target=judged(f"\u2264 {most:.2f}x, {bound}", met=round(ratio, 2) <= most and our_losses <= bound),
    )


def in_an_outage(length: float, calls: int) -> Iterator[Figure]:
    arguments = ("--latency", "0.05", "--overloaded-for", str(length))
    prompts = [{"prompt": text} for text in asked(calls)]

    def run(call: Callable[[], int], base_url: str) -> tuple[float, int, int]:
        losses: list[int] = []
        return seconds(lambda: losses.append(call())), rejected(base_url), losses[0]

    with sides(*arguments) as (base_url, client):
        raw = run(lambda: lost(ask_all(client, asked(calls), workers=5)), base_url)
    for name, verb, most in (
        ("fan-out", lambda: len(invoke_parallel(prompts, return_exceptions=True).errors), raw[2]),
        ("managed run", lambda: len(invoke_parallel_managed(prompts).errors), 0),
    ):
        with sides(*arguments) as (base_url, _):
            ours = run(verb, base_url)
        yield Figure(
            what=f"{calls} calls in an outage of {length} s at the start, {name}",
            ours="{:.1f} s, {} failed requests, {} lost".format(*ours),
            raw="{:.1f} s, {} failed requests, {} lost".format(*raw),
            target=judged(f"\u2264 {most} lost, fewer failed requests", met=ours[2] <= most and ours[1] <= raw[1]),
        )
