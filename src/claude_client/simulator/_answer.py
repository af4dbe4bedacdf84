"""The simulated model's answer: a `Reply` worked out for one request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from ._cache import CacheUse
from ._instances import drawn_instance_of, instance_of, something_else
from ._prompt import LIFETIMES, Body, count_tokens, last_user_text, prompt_text
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
_PAUSED_CALL = {
    "type": "server_tool_use",
    "id": "srvtoolu_sim",
    "name": "web_search",
    "input": {"query": "simulated"},
}
_CHUNK = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The end of a message: everything but its id, its model and its input tokens.

    Args:
        content: Its blocks, as the API sends them.
    """

    content: tuple[Mapping[str, Any], ...]
    stop_reason: str
    stop_sequence: str | None = None
    stop_details: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text of its text blocks, joined."""
        return "".join(str(block.get("text", "")) for block in self.content if block.get("type") == "text")

    @property
    def output_tokens(self) -> int:
        """Number of tokens of its blocks, thinking included."""
        return sum(count_tokens(said(block)) for block in self.content)


def answer_to(body: Body, reply: Reply) -> Answer:
    """The answer of *reply* to a valid request."""
    if reply.says_nothing and reply.fault is None and reply.stop_reason is None:
        return _default_answer(body)
    return Answer(
        content=_content(body, reply),
        stop_reason=_stop_reason(reply),
        stop_sequence=reply.stop_sequence,
        stop_details=_stop_details(reply),
    )


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
    digest = hashlib.sha256(f"{body['model']}\n{prompt_text(body)}".encode()).hexdigest()[:8]
    mark = f"[simulated {digest}]"
    _, wanted = format_of(body)
    if wanted is not None:
        return json.dumps(instance_of(wanted["schema"], mark), ensure_ascii=False)
    echo = " ".join(last_user_text(body).split()[:ECHOED_WORDS])
    return f"{mark} {body['model']} was asked: {echo}"


def chunks_of(text: str) -> list[str]:
    """*text* in pieces of one word each, with the space behind it."""
    return _CHUNK.findall(text)


def said(block: Mapping[str, Any]) -> str:
    """The part of a block that counts as output: its text, thinking or data, else the JSON of its input."""
    for key in ("text", "thinking", "data"):
        if isinstance(block.get(key), str):
            return str(block[key])
    return json.dumps(block.get("input", {}), ensure_ascii=False)


def _default_answer(body: Body) -> Answer:
    if body["max_tokens"] == 0:  # facts 2: a request that only warms the cache
        return Answer((), "max_tokens")
    text = default_text(body)
    if count_tokens(text) <= body["max_tokens"]:
        return Answer((_text_block(text),), "end_turn")
    cut = text.encode()[: 4 * body["max_tokens"]].decode(errors="ignore")
    return Answer((_text_block(cut),), "max_tokens")


def _content(body: Body, reply: Reply) -> tuple[Mapping[str, Any], ...]:
    if reply.content is not None:
        return tuple(reply.content)
    thoughts = _thoughts(reply)
    return (*thoughts, *_texts(body, reply), *_calls(body, reply))


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
    silent = reply.tool_use is not None or reply.output or reply.fault in ("refusal", "tool_use")
    return [] if silent else [_text_block(default_text(body))]


def _calls(body: Body, reply: Reply) -> list[Mapping[str, Any]]:
    if reply.tool_use is not None:
        name, arguments = reply.tool_use
        return [_tool_call(name, arguments)]
    if reply.fault == "tool_use":
        return [_tool_call(_first_tool(body), {})]
    return [_PAUSED_CALL] if reply.fault == "pause_turn" else []


def _first_tool(body: Body) -> str:
    return str(next((tool["name"] for tool in body.get("tools") or () if "name" in tool), "simulated_tool"))


def _tool_call(name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "tool_use", "id": "toolu_sim", "name": name, "input": dict(arguments)}


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
    return "tool_use" if reply.tool_use is not None else "end_turn"


def _stop_details(reply: Reply) -> Mapping[str, Any] | None:
    if _stop_reason(reply) != "refusal":
        return None
    return {"type": "refusal", "category": reply.refusal_category, "explanation": reply.message}
