"""
Calls to a server that limits them by token buckets, from 10 workers that know nothing of the limit and begin with a
full bucket. The ideal is the time of a client that knows the limit and waits no longer than it must. The raw SDK is
left its own two retries. A call is lost if it ends in an error: it needs none of what the server allows, so who loses
calls may be quicker than the ideal. Targets are for time, rejections and losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from _fan_outs import asked, fan_out
from _figures import Figure, judged
from _raw import ask_all, lost
from _simulated import rejected, sides
from _timing import seconds

RATE, BURST = 20, 5
TOKEN_RATE, TOKEN_BURST = 20_000, 10_000
LONG = "word " * 800


def figures(*, quick: bool) -> Iterator[Figure]:
    calls = 12 if quick else 300
    by_requests = ("--requests-per-second", str(RATE), "--burst", str(BURST))
    ideal = (calls - BURST) / RATE
    what = f"{calls} calls at {RATE}/s, burst {BURST}"
    yield figure(
        f"{what}, rate-limit headers", *both(calls, ideal, *by_requests), most=Fate(1.10, 5, 0), in_readme=True
    )
    yield figure(
        f"{what}, no such headers", *both(calls, ideal, *by_requests, "--no-limit-headers"), most=Fate(1.40, 20, 0)
    )

    by_tokens = ("--input-tokens-per-second", str(TOKEN_RATE), "--input-token-burst", str(TOKEN_BURST))
    needed = sum(-(-len(prompt) // 4) for prompt in asked(calls, LONG))  # in the simulator's tokens
    ideal = (needed - TOKEN_BURST) / TOKEN_RATE
    what = f"{calls} calls at {TOKEN_RATE:,} input tokens/s, burst {TOKEN_BURST:,}, headers"
    yield figure(what, *both(calls, ideal, *by_tokens, prompt=LONG), most=Fate(1.10, 5, 0))


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of the calls: their time over the ideal, how often they were rejected, and how many were lost."""

    time: float
    rejected: int
    lost: int

    def __str__(self) -> str:
        return f"{self.time:.2f}x the ideal, {self.rejected} rejected, {self.lost} lost"

    def within(self, most: Fate) -> bool:
        return round(self.time, 2) <= most.time and self.rejected <= most.rejected and self.lost <= most.lost


def figure(what: str, ours: Fate, raw: Fate, *, most: Fate, in_readme: bool = False) -> Figure:
    target = f"\u2264 {most.time:.2f}x, \u2264 {most.rejected}, {most.lost}"
    return Figure(
        what=what, ours=str(ours), raw=str(raw), target=judged(target, met=ours.within(most)), in_readme=in_readme
    )


def both(calls: int, ideal: float, *arguments: str, prompt: str = "") -> tuple[Fate, Fate]:
    """The fates of ours and of the raw SDK's, each on a fresh server."""

    def fate(run: Callable[[], int], base_url: str) -> Fate:
        losses: list[int] = []
        taken = seconds(lambda: losses.append(run()))
        return Fate(taken / ideal, rejected(base_url), *losses)

    arguments = ("--latency", "0.05", *arguments)
    with sides(*arguments) as (base_url, _):
        ours = fate(lambda: len(fan_out(calls, prompt=prompt).errors), base_url)
    with sides(*arguments) as (base_url, client):
        raw = fate(lambda: lost(ask_all(client, asked(calls, prompt))), base_url)
    return ours, raw
