"""The simulated model's answer: a `Reply` worked out for one request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from ._cache import CacheUse
from ._instances import drawn_instance_of, instance_of, something_else
from ._prompt import LIFETIMES, Body, count_tokens, last_user_text, prompt_text, server_calls_left
from ._schemas import format_of
from ._script import Reply

ECHOED_WORDS = 12
_STOP_REASONS = {
    "refusal": "refusal",
    "pause_turn": "pause_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "context_window": "model_context_window_exceeded",
    "cut": "max_tokens",
    "refused": "refusal",
}
_CUTTING = frozenset({"max_tokens", "context_window"})  # the faults that end a tool call in the middle
_CHUNK = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The end of a message: everything but its id, its model and its input tokens.

    Args:
        content: Its blocks, as the API sends them.

        cut_call: Whether the last of them is a tool call that ends in the middle of its input.
    """

    content: tuple[Mapping[str, Any], ...]
    stop_reason: str
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None
    cut_call: bool = False

    @property
    def text(self) -> str:
        """The text of its text blocks, joined."""
        return "".join(str(block.get("text", "")) for block in self.content if block.get("type") == "text")

    @property
    def output_tokens(self) -> int:
        """Number of tokens of its blocks, thinking included."""
        return sum(count_tokens(said(block)) for block in self.content)


def answer_to(body: Body, reply: Reply, room: int) -> Answer:
    """The answer of *reply* to a valid request, of at most *room* tokens unless the reply says its very blocks."""
    answer = Answer(
        content=_content(body, reply),
        stop_reason=_stop_reason(reply),
        stop_sequence=reply.stop_sequence,
        stop_details=_stop_details(reply),
    )
    if reply.content is not None:
        return answer
    if reply.says_nothing and reply.fault is None and reply.stop_reason is None:
        answer = _cut_at(answer, body["max_tokens"], "max_tokens")  # facts 2: 0 only warms the cache
    elif reply.calls and reply.fault in _CUTTING:
        answer = replace(answer, content=(*answer.content[:-1], _cut_call(answer.content[-1])), cut_call=True)
    return _cut_at(answer, room, "model_context_window_exceeded")


def _cut_at(answer: Answer, most: int, stop_reason: str) -> Answer:
    """*answer* as far as *most* tokens go, for which it ends with *stop_reason* unless they are enough."""
    content, left = [], most
    for block in answer.content:
        if (size := count_tokens(said(block))) > left:
            content += _cut_block(block, left)
            cut_call = bool(content) and content[-1]["type"] == "tool_use"
            return Answer(tuple(content), stop_reason, cut_call=cut_call)
        content.append(block)
        left -= size
    return answer


def _cut_block(block: Mapping[str, Any], tokens: int) -> list[Mapping[str, Any]]:
    """What *tokens*, which are too few, hold of a block: none of one that is of no use in part."""
    if tokens and block["type"] == "text":
        return [_text_block(block["text"].encode()[: 4 * tokens].decode(errors="ignore"))]
    return [_cut_call(block)] if tokens and block["type"] == "tool_use" else []


def _cut_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool call without the last value of its input, in which it ended."""
    return {**call, "input": dict([*call["input"].items()][:-1])}


def _drawn_output(body: Body, reply: Reply) -> str:
    """The text that answers the schema of *body* as the *reply* says; the simulated answer where it has none."""
    _, wanted = format_of(body)
    if wanted is None:
        return default_text(body)
    random = Random(reply.seed)  # noqa: S311 - answers are to be the same for the same seed
    value = drawn_instance_of(wanted["schema"], random)
    text = json.dumps(value, ensure_ascii=False)
    match reply.output:
        case "invalid":
            return something_else(value, wanted["schema"], random)
        case "cut":
            return text[: random.randrange(len(text))]
        case _:
            return text


def usage_of(answer: Answer, use: CacheUse, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The usage of a message (facts 2: usage fields), with *overrides* in place of what they name."""
    written = {f"ephemeral_{ttl}_input_tokens": use.written_tokens(ttl) for ttl in LIFETIMES}
    computed = {
        "input_tokens": use.uncached,
        "cache_creation_input_tokens": sum(written.values()),
        "cache_read_input_tokens": use.read_tokens,
        "cache_creation": written,
        "output_tokens": answer.output_tokens,
        "service_tier": "standard",
    }
    return computed | dict(overrides or {})


def default_text(body: Body) -> str:
    """The simulated answer: the same for the same prompt, recognisable, in the form that is asked for."""
    mark = f"[simulated {_digest(body)}]"
    _, wanted = format_of(body)
    if wanted is not None:
        return json.dumps(instance_of(wanted["schema"], mark), ensure_ascii=False)
    echo = " ".join(last_user_text(body).split()[:ECHOED_WORDS])
    return f"{mark} {body['model']} was asked: {echo}"


def _digest(body: Body) -> str:
    """The same for the same prompt."""
    return hashlib.sha256(f"{body['model']}\n{prompt_text(body)}".encode()).hexdigest()[:8]


def chunks_of(text: str) -> list[str]:
    """*text* in pieces of one word each, with the space behind it."""
    return _CHUNK.findall(text)


def said(block: Mapping[str, Any]) -> str:
    """The part of a block that counts as output: its text, thinking or data, else the JSON of its input."""
    for key in ("text", "thinking", "data"):
        if isinstance(block.get(key), str):
            return str(block[key])
    return json.dumps(block.get("input", {}), ensure_ascii=False)


def _content(body: Body, reply: Reply) -> tuple[Mapping[str, Any], ...]:
    if reply.content is not None:
        return tuple(reply.content)
    return (*_server_results(body), *_thoughts(reply), *_texts(body, reply), *_calls(body, reply))


def _server_results(body: Body) -> list[Mapping[str, Any]]:
    """The results of the server tools from which the answer goes on: they found nothing."""
    return [
        {"type": f"{call['name']}_tool_result", "tool_use_id": call["id"], "content": []}
        for _, call in server_calls_left(body["messages"])
    ]


def _thoughts(reply: Reply) -> list[Mapping[str, Any]]:
    blocks: list[Mapping[str, Any]] = []
    if reply.thinking is not None:
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": "c2ltdWxhdGVk"})
    if reply.redacted_thinking is not None:
        blocks.append({"type": "redacted_thinking", "data": reply.redacted_thinking})
    return blocks


def _texts(body: Body, reply: Reply) -> list[Mapping[str, Any]]:
    if reply.text is not None:
        return [_text_block(reply.text)]
    if reply.output not in {None, "refused"}:
        return [_text_block(_drawn_output(body, reply))]
    silent = reply.calls or reply.output or reply.fault in ("refusal", "tool_use")
    return [] if silent else [_text_block(default_text(body))]


def _calls(body: Body, reply: Reply) -> list[Mapping[str, Any]]:
    if reply.calls:
        return [_call("tool_use", body, number, *call) for number, call in enumerate(reply.calls, 1)]
    if reply.fault == "tool_use":
        return [_call("tool_use", body, 1, _first_tool(body), {})]
    if reply.fault == "pause_turn":
        return [_call("server_tool_use", body, 1, "web_search", {"query": "simulated"})]
    return []


def _first_tool(body: Body) -> str:
    return str(next((tool["name"] for tool in body.get("tools") or () if "name" in tool), "simulated_tool"))


def _call(kind: str, body: Body, number: int, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """A call whose id no other of the conversation has: every turn makes the prompt another."""
    prefix = "toolu" if kind == "tool_use" else "srvtoolu"
    return {"type": kind, "id": f"{prefix}_sim_{_digest(body)}_{number}", "name": name, "input": dict(arguments)}


def _text_block(text: str) -> Mapping[str, Any]:
    return {"type": "text", "text": text, "citations": None}


def _stop_reason(reply: Reply) -> str:
    if reply.stop_reason is not None:
        return reply.stop_reason
    if reply.output in _STOP_REASONS:
        return _STOP_REASONS[reply.output]
    if reply.fault in _STOP_REASONS:
        return _STOP_REASONS[reply.fault]
    if reply.stop_sequence is not None:
        return "stop_sequence"
    return "tool_use" if reply.calls else "end_turn"


def _stop_details(reply: Reply) -> Mapping[str, Any] | None:
    if _stop_reason(reply) != "refusal":
        return None
    return {"type": "refusal", "category": reply.refusal_category, "explanation": reply.message}
