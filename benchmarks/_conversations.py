"""
The input of a conversation with a system prompt of 2,000 tokens, questions of 150 and answers of 300, by the server's
own count, in tokens of plain input: a cache write costs 1.25, a cache read 0.1. The raw SDK's side is the loop that
people write first, which appends to a list of messages, and the same with the API's automatic caching asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
from _figures import Figure, judged
from _raw import MODEL
from _simulated import bill, reset, script, sides, usages

from claude_client import ConversationThread

TURNS = 12
SYSTEM = "rule " * 1600
QUESTION = "why? " * 120
ANSWER = "word " * 240


def figures(*, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 - takes no time
    with sides() as (base_url, client):
        raw = used_by(base_url, lambda: raw_loop(client))
        raw_cached = used_by(base_url, lambda: raw_loop(client, extra_body={"cache_control": {"type": "ephemeral"}}))
        cached = used_by(base_url, lambda: conversation(cache_history=True))
        uncached = used_by(base_url, lambda: conversation(cache_history=False))
    plain = bill(raw)
    yield Figure(what=f"a conversation of {TURNS} turns: bill", ours=told(cached, plain), raw=told(raw, plain))
    yield Figure(what="\u2026 the system prompt alone cached", ours=told(uncached, plain))
    yield Figure(
        what="\u2026 automatic caching (`cache_control` in each request)", raw=told(raw_cached, plain), ours="\u2013"
    )
    yield Figure(
        what="\u2026 turns that read all there was up to the question before",
        ours=f"{reading_all(cached)} of {TURNS - 1}",
        raw=f"{reading_all(raw_cached)} of {TURNS - 1}",
        target=judged(f"{TURNS - 1}", met=reading_all(cached) == TURNS - 1),
    )


def told(used: list[dict[str, int]], plain: float) -> str:
    return f"{bill(used):,.0f} tokens, {bill(used) / plain:.2f}x"


def reading_all(used: list[dict[str, int]]) -> int:
    return sum(
        now["cache_read_input_tokens"] == before["cache_read_input_tokens"] + before["cache_creation_input_tokens"] > 0
        for before, now in itertools.pairwise(used)
    )


def conversation(*, cache_history: bool) -> None:
    thread = ConversationThread(SYSTEM)
    for _ in range(TURNS):
        thread.send(QUESTION, cache_history)


def raw_loop(client: anthropic.Anthropic, **options: Any) -> None:
    messages: list[anthropic.types.MessageParam] = []
    for _ in range(TURNS):
        messages.append({"role": "user", "content": QUESTION})
        answer = client.messages.create(model=MODEL, max_tokens=4096, system=SYSTEM, messages=messages, **options)
        messages.append({"role": "assistant", "content": answer.content})


def used_by(base_url: str, converse: Callable[[], object]) -> list[dict[str, int]]:
    reset(base_url)
    script(base_url, *[{"text": ANSWER}] * TURNS)
    converse()
    return usages(base_url)
