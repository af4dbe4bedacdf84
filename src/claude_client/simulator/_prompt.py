"""A request's prompt as the flat list of its blocks, in the order the model reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Level = Literal["tools", "system", "messages"]
Body = Mapping[str, Any]

NOT_TEXT = frozenset({"type", "role", "cache_control", "id", "tool_use_id", "media_type", "signature", "data"})
LIFETIMES = {"5m": 300.0, "1h": 3600.0}  # facts 2: seconds that a cache entry lives
BYTES_PER_TOKEN = 100  # of images and PDFs, which the API counts by pixels and pages
NOT_CACHEABLE = frozenset({"thinking", "redacted_thinking"})  # facts 2: not directly cacheable


@dataclass(frozen=True, slots=True)
class Block:
    """
    A tool, a system block or a content block of a message.

    Args:
        place: Its message's number and role, which tell it from the same block elsewhere.

        cache_control: The mark that makes it a cache breakpoint, or None.

        tokens: Number of them: those of its text, or for other blocks than text of its JSON.
    """

    level: Level
    place: str
    value: Mapping[str, Any]
    cache_control: Mapping[str, Any] | None
    tokens: int

    @property
    def cacheable(self) -> bool:
        """True if it may have a cache breakpoint."""
        return self.value.get("type") not in NOT_CACHEABLE and self.value.get("text") != ""

    def canonical(self) -> str:
        """Its JSON, the same for the same content, whether marked or not. A text stands behind it, as it is."""
        if self.value.get("type") != "text":
            return _canonical(self.value)
        return f"{_canonical({**self.value, 'text': ''})}\n{self.value['text']}"


def count_tokens(text: str) -> int:
    """The simulator's tokens: a quarter of the UTF-8 bytes, rounded up, and at least one."""
    size = len(text) if text.isascii() else len(text.encode())
    return max(1, -(-size // 4))


def prompt_blocks(body: Body) -> list[Block]:
    """The blocks of a valid request, tools first, then system, then messages (facts 2)."""
    blocks = [_block("tools", "", tool) for tool in body.get("tools") or ()]
    blocks += [_block("system", "", value) for value in content_blocks(body.get("system") or ())]
    for number, message in enumerate(body["messages"]):
        place = f"{number} {message['role']}"
        blocks += [_block("messages", place, value) for value in content_blocks(message["content"])]
    return _automatically_marked(blocks, body.get("cache_control"))


def content_blocks(content: Any) -> list[Mapping[str, Any]]:
    """Content as a list of blocks; a string is one text block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def breakpoints(blocks: list[Block]) -> list[tuple[int, str]]:
    """The index of each marked block, and the time to live it asks for."""
    return [(i, ttl_of(block.cache_control)) for i, block in enumerate(blocks) if block.cache_control is not None]


def ttl_of(cache_control: Mapping[str, Any]) -> str:
    """The time to live a mark asks for."""
    return str(cache_control.get("ttl") or "5m")


def prompt_text(body: Body) -> str:
    """Every text in the request's system, messages and tools, one a line."""
    return "\n".join(text for key in ("system", "messages", "tools") for text in _texts(body.get(key)))


def last_user_text(body: Body) -> str:
    """The text blocks of the last message, which is the user's."""
    blocks = content_blocks(body["messages"][-1]["content"])
    return " ".join(block["text"] for block in blocks if block.get("type") == "text")


def tool_results(body: Body) -> tuple[Mapping[str, Any], ...]:
    """The tool_result blocks of the last message, whether *body* is valid or not."""
    match body:
        case {"messages": [*_, {"content": [*blocks]}]}:
            return tuple(block for block in blocks if isinstance(block, dict) and block.get("type") == "tool_result")
    return ()


def server_calls_left(messages: Sequence[Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """The calls of server tools that have no result yet, each with the number of its message."""
    blocks = [(i, block) for i, message in enumerate(messages) for block in _described_blocks(message["content"])]
    done = {block["tool_use_id"] for _, block in blocks if is_server_result(block)}
    return [(i, block) for i, block in blocks if block["type"] == "server_tool_use" and block["id"] not in done]


def is_server_result(block: Mapping[str, Any]) -> bool:
    """Whether *block* is the result of a tool that the API runs by itself."""
    return str(block["type"]).endswith("_tool_result") and block["type"] != "mcp_tool_result"


def _described_blocks(content: Any) -> Sequence[Mapping[str, Any]]:
    return () if isinstance(content, str) else content


def _block(level: Level, place: str, value: Mapping[str, Any]) -> Block:
    mark = value.get("cache_control")
    if "cache_control" in value:
        value = {key: item for key, item in value.items() if key != "cache_control"}
    return Block(level, place, value, mark, _tokens_of(value))


def _tokens_of(value: Mapping[str, Any]) -> int:
    if value.get("type") == "text":
        return count_tokens(value["text"])
    json_text = _canonical(value)
    encoded = sum(_encoded_sizes(value)) if '"base64"' in json_text else 0
    return count_tokens(json_text) - encoded // 4 + encoded // BYTES_PER_TOKEN


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _encoded_sizes(value: Any) -> Iterator[int]:
    """The sizes of the base64 data in *value*."""
    if isinstance(value, dict) and value.get("type") == "base64":
        yield len(value.get("data") or "")
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _encoded_sizes(item)


def _automatically_marked(blocks: list[Block], cache_control: Mapping[str, Any] | None) -> list[Block]:
    """Facts 2: a top-level cache_control marks the last block that can be cached."""
    last = next((i for i in reversed(range(len(blocks))) if blocks[i].cacheable), None)
    if cache_control is None or last is None or blocks[last].cache_control:
        return blocks
    return [*blocks[:last], replace(blocks[last], cache_control=cache_control), *blocks[last + 1 :]]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in NOT_TEXT:
                yield from _texts(item)
