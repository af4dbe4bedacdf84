"""The rules for what messages and system hold, and for the cache marks on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ._errors import RejectedError, invalid
from ._prompt import LIFETIMES, Block, Body, breakpoints, content_blocks, prompt_blocks, ttl_of

MOST_BREAKPOINTS = 4  # facts 2


def check_messages(messages: Sequence[Any], *, prefill: bool) -> None:
    """There is a message, each has content, and first and last are the user's (or *prefill* allows another)."""
    if not messages:
        raise invalid("messages: at least one message is required")
    for number, message in enumerate(messages):
        _check_message(f"messages.{number}", message)
    if messages[0]["role"] != "user":
        raise invalid('messages: first message must use the "user" role')
    if _is_prefill(messages[-1]) and not prefill:
        raise invalid("This model does not support assistant message prefill: the last must be the user's")


def _is_prefill(message: Mapping[str, Any]) -> bool:
    """Facts 5: an assistant's turn that paused in the middle of server tools is sent back to be continued."""
    paused = any(block["type"] == "server_tool_use" for block in content_blocks(message["content"]))
    return message["role"] == "assistant" and not paused


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
        raise invalid(f"{where}.role: Input should be 'user', 'assistant' or 'system'")
    content = message.get("content")
    if not isinstance(content, str | list) or not content:
        raise invalid(f"{where}: all messages must have non-empty content")
    check_blocks(where, content_blocks(content))


def check_blocks(where: str, blocks: Sequence[Any]) -> None:
    """Check that every block has a type, and every text block a text."""
    for number, block in enumerate(blocks):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise invalid(f"{where}.content.{number}.type: Field required")
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise invalid(f"{where}.content.{number}.text: Input should be a valid string")
        if block["type"] == "text" and not block["text"].strip():
            raise invalid(f"{where}.content.{number}: text content blocks must be non-empty")


def check_new_shapes(messages: Sequence[Any]) -> None:
    """Facts 1: two shapes of content that 2026-10-21 refuses."""
    for role, block in _blocks_by_role(messages):
        if role == "assistant" and block["type"] == "document":
            raise invalid("document: not permitted in an assistant message")
        if role == "user" and block["type"] == "text" and block.get("citations"):
            raise invalid("citations: not permitted in a user message")


def _blocks_by_role(messages: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for message in messages:
        for block in content_blocks(message["content"]):
            yield message["role"], block
            if block["type"] == "search_result":
                yield from ((message["role"], inner) for inner in block.get("content") or ())


def check_automatic_mark(body: Body) -> None:
    """Facts 2: automatic caching takes one of the four breakpoints, and may not contradict the last."""
    mark = body.get("cache_control")
    if mark is None:
        return
    blocks = prompt_blocks({**body, "cache_control": None})
    last = blocks[-1].cache_control
    if last and ttl_of(last) != ttl_of(mark):
        raise invalid("cache_control: the last block has a cache_control with another ttl")
    if not last and len(breakpoints(blocks)) == MOST_BREAKPOINTS:
        raise _too_many()


def check_marks(blocks: list[Block]) -> None:
    """Facts 2: at most four breakpoints, on blocks that can be cached, longer lifetimes first."""
    for block in blocks:
        if block.cache_control is not None:
            _check_mark(block, block.cache_control)
    lifetimes = [LIFETIMES[ttl] for _, ttl in breakpoints(blocks)]
    if len(lifetimes) > MOST_BREAKPOINTS:
        raise _too_many()
    if lifetimes != sorted(lifetimes, reverse=True):
        raise invalid("cache_control: a ttl of 1h must not come after a ttl of 5m")


def _check_mark(block: Block, mark: Mapping[str, Any]) -> None:
    if mark.get("type") != "ephemeral" or ttl_of(mark) not in LIFETIMES:
        raise invalid("cache_control: must be of type 'ephemeral' with a ttl of '5m' or '1h'")
    if not block.cacheable:
        raise invalid(f"{block.level}: cache_control cannot be set on a block of type {block.value['type']}")


def _too_many() -> RejectedError:
    return invalid(f"A maximum of {MOST_BREAKPOINTS} blocks with cache_control may be provided")
