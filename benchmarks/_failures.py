"""
What is in hand when something fails. For the raw SDK: `list(pool.map(call, prompts))`, and
`client.messages.stream(...).get_final_text()`. The stream ends in the middle of its answer, but as HTTP wants it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anthropic
from _fan_outs import asked
from _figures import Figure, judged
from _raw import MODEL, ask
from _simulated import script, sides

from claude_client import ClaudeInvocationError, ParallelInvocationError, invoke_claude_streaming, invoke_parallel

PROMPTS = 20
WORDS = 200


def figures(*, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 - takes no time
    with sides() as (base_url, client):
        yield one_of_many(base_url, client)
        yield cut_stream(base_url, client)


def one_of_many(base_url: str, client: anthropic.Anthropic) -> Figure:
    for _ in range(2):
        script(base_url, {"fault": "invalid_request"}, matching="prompt 7")
    try:
        ours = invoke_parallel([{"prompt": prompt} for prompt in asked(PROMPTS)])
    except ParallelInvocationError as error:
        ours = error.results
    kept = sum(answer is not None for answer in ours)
    return Figure(
        what=f"answers kept when 1 of {PROMPTS} fails",
        ours=str(kept),
        raw=str(kept_by_raw(client)),
        target=judged(str(PROMPTS - 1), met=kept == PROMPTS - 1),
        in_readme=True,
    )


def kept_by_raw(client: anthropic.Anthropic) -> int:
    with ThreadPoolExecutor(10) as pool:
        try:
            return len(list(pool.map(partial(ask, client), asked(PROMPTS))))
        except anthropic.BadRequestError:
            return 0


def cut_stream(base_url: str, client: anthropic.Anthropic) -> Figure:
    script(base_url, *[{"text": "word " * WORDS, "fault": "early_end", "after_chunks": WORDS // 2}] * 2)
    heard: list[str] = []  # what was given to a callback is not asked for again
    try:
        text = invoke_claude_streaming("hi", heard.append)
        ours, met = passed_off(text), False
    except ClaudeInvocationError as error:
        ours, met = f"an error (`{error.kind}`), with the {len(error.partial_text.split())} words", True
    return Figure(
        what=f"a stream of {WORDS} words that ends half way",
        ours=ours,
        raw=of_raw(client),
        target=judged("an error", met=met),
        in_readme=True,
    )


def of_raw(client: anthropic.Anthropic) -> str:
    messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hi"}]
    try:
        with client.messages.stream(model=MODEL, max_tokens=4096, messages=messages) as stream:
            return passed_off(stream.get_final_text())
    except anthropic.APIError as error:
        return f"an error (`{type(error).__name__}`)"


def passed_off(text: str) -> str:
    return f"{len(text.split())} words, as a whole answer"
