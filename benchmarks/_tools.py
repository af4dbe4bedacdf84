"""
The loop of a call with tools. First the time of a turn of ten tool calls, each of a second, beside the SDK's own tool
runner, which runs one after another. Then what each turn costs: CPU of this process, beside as many single calls of
the same conversation by this library, which parse and run nothing, and beside the SDK's runner. The tool does nothing.
"""

from __future__ import annotations

import inspect
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import anthropic
from _figures import Figure, at_most
from _raw import MODEL
from _simulated import reset, script, sides
from _timing import Call, in_turn, ratio_by_round

from claude_client import invoke_claude, invoke_with_tools

TURNS = 15
_MOST_TIME = 2.3  # seconds
_MOST_CPU = 1.15


def figures(*, quick: bool) -> Iterator[Figure]:
    with sides() as (base_url, client):
        yield at_once(base_url, client, seconds=0.1 if quick else 1.0)
        yield from overhead(base_url, client, rounds=1 if quick else 30)


def wait(seconds: float) -> str:
    """Wait."""
    threading.Event().wait(seconds)
    return "done"


def look(n: int) -> str:
    """Look."""
    return f"{n} seen"


def asking(turn: int, name: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    uses = [
        {"type": "tool_use", "id": f"toolu_{turn}_{i}", "name": name, "input": arguments}
        for i, arguments in enumerate(inputs)
    ]
    return {"content": uses, "stop_reason": "tool_use"}


def at_once(base_url: str, client: anthropic.Anthropic, *, seconds: float) -> Figure:
    turn = [asking(0, "wait", [{"seconds": seconds}] * 10), {"text": "There."}]

    def taken(call: Any) -> float:
        reset(base_url)
        script(base_url, *turn)
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) / seconds

    ours = taken(lambda: invoke_with_tools("Wait.", [wait]))
    theirs = taken(partial(run, client, wait, "Wait."))
    return Figure(
        what=f"10 tool calls of {seconds:g} s in a turn, 5 at once: time, in those of one",
        ours=f"{ours:.2f}",
        raw=f"{theirs:.2f}",
        target=at_most(_MOST_TIME, ours, "", 2),
    )


def overhead(base_url: str, client: anthropic.Anthropic, rounds: int) -> Iterator[Figure]:
    turns = [asking(n, "look", [{"n": n}]) for n in range(TURNS - 1)]
    replies = [*turns, {"text": "There."}]
    conversation = conversations(replies)
    ways: dict[str, Call] = {
        "ours": lambda: invoke_with_tools("Look.", [look]),
        "single": lambda: [invoke_claude(None, messages=said, tools=[DEFINITION]) for said in conversation],
        "raw": partial(run, client, look, "Look."),
    }

    def before() -> None:
        reset(base_url)
        script(base_url, *replies)

    in_turn(1, ways, before=before)
    taken = in_turn(rounds, ways, time.process_time, before=before)
    per_turn = {name: min(of_way) / TURNS * 1000 for name, of_way in taken.items()}
    ratio = ratio_by_round(taken["ours"], taken["single"])
    yield Figure(
        what=f"a loop of {TURNS} turns: CPU for each, over a single call's",
        ours=f"{per_turn['ours']:.2f} ms, {ratio:.2f}x",
        raw=f"{per_turn['raw']:.2f} ms",
        target=at_most(_MOST_CPU, ratio, "x", 2),
    )


DEFINITION = {
    "name": "look",
    "description": "Look.",
    "input_schema": {
        "type": "object",
        "properties": {"n": {"type": "integer", "title": "N"}},
        "required": ["n"],
        "additionalProperties": False,
    },
}


def conversations(replies: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The messages of each request of a loop, its breakpoint for the cache included."""
    said: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "Look."}]}]
    every = []
    for reply in replies:
        marked = json.loads(json.dumps(said))
        marked[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        every.append(marked)
        for use in reply.get("content", ()):
            said += [{"role": "assistant", "content": [use]}]
            result = {"type": "tool_result", "tool_use_id": use["id"], "content": look(**use["input"])}
            said += [{"role": "user", "content": [result]}]
    return every


def run(client: Any, function: Any, prompt: str) -> None:
    make = client.beta.messages.tool_runner
    own_messages = {"thread": False} if "thread" in inspect.signature(make).parameters else {}
    said = [{"role": "user", "content": prompt}]
    tools = [anthropic.beta_tool(function)]
    make(model=MODEL, max_tokens=4096, tools=tools, messages=said, **own_messages).until_done()
