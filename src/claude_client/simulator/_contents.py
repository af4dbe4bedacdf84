"""The rules for what messages and system hold, and for the cache marks on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ._blocks import check_block, check_text
from ._checks import check_choice, check_fields
from ._errors import RejectedError, invalid
from ._prompt import LIFETIMES, Block, Body, breakpoints, content_blocks, prompt_blocks, ttl_of

MOST_BREAKPOINTS = 4  # facts 2
MOST_MESSAGES = 100_000  # facts 3
_MESSAGE_FIELDS = frozenset({"role", "content"})


def check_messages(messages: Sequence[Any], *, prefill: bool) -> None:
    """There is a message, each has content, and first and last are the user's (or *prefill* allows another)."""
    if not messages:
        raise invalid("messages: at least one message is required")
    if len(messages) > MOST_MESSAGES:
        raise invalid(f"messages: List should have at most {MOST_MESSAGES} items after validation, not {len(messages)}")
    for number, message in enumerate(messages):
        _check_message(f"messages.{number}", message)
    if messages[0]["role"] != "user":
        raise invalid('messages: first message must use the "user" role')
    if any(not isinstance(message["content"], str) for message in messages):
        _check_tool_results(messages)
    if _is_prefill(messages[-1]):
        _check_prefill(messages[-1], allowed=prefill)


def _is_prefill(message: Mapping[str, Any]) -> bool:
    """Facts 5: an assistant's turn that paused in the middle of server tools is sent back to be continued."""
    paused = any(block["type"] == "server_tool_use" for block in content_blocks(message["content"]))
    return message["role"] == "assistant" and not paused


def _check_prefill(message: Mapping[str, Any], *, allowed: bool) -> None:
    if not allowed:
        raise invalid("This model does not support assistant message prefill: the last must be the user's")
    last = content_blocks(message["content"])[-1]
    if last["type"] == "text" and last["text"] != last["text"].rstrip():
        raise invalid("messages: final assistant content cannot end with trailing whitespace")


def _check_tool_results(messages: Sequence[Any]) -> None:
    """The results of all calls of a turn stand in the next, and no others. Messages of one role in a row are a turn."""
    called: dict[str, int] = {}  # the calls of the turn before, each with the number of its message
    for _, turn in groupby(enumerate(messages), lambda numbered: numbered[1]["role"]):
        blocks = [(i, j, block) for i, message in turn for j, block in enumerate(content_blocks(message["content"]))]
        results = {block["tool_use_id"]: (i, j) for i, j, block in blocks if block["type"] == "tool_result"}
        _check_matching(called, results)
        called = {block["id"]: i for i, _, block in blocks if block["type"] == "tool_use"}
    _check_matching(called, {})


def _check_matching(called: Mapping[str, int], results: Mapping[str, tuple[int, int]]) -> None:
    for call, (i, j) in results.items():
        if call not in called:
            raise invalid(
                f"messages.{i}.content.{j}: unexpected `tool_use_id` found in `tool_result` blocks: {call}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
    if missing := [call for call in called if call not in results]:
        raise invalid(
            f"messages.{called[missing[0]]}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message."
        )


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
        raise invalid(f"{where}.role: Input should be 'user', 'assistant' or 'system'")
    check_fields(where, message, _MESSAGE_FIELDS)
    content = message.get("content")
    if not isinstance(content, str | list) or not content:
        raise invalid(f"{where}: all messages must have non-empty content")
    if isinstance(content, str):
        check_text(where, content)
        return
    for number, block in enumerate(content):
        check_block(f"{where}.content.{number}", block, message["role"])


def check_freedom(where: str, messages: Sequence[Any]) -> None:
    """Facts 2: an answer whose form *where* prescribes has no beginning given, and cites nothing."""
    if _is_prefill(messages[-1]):
        raise invalid(f"{where}: cannot be combined with assistant message prefill")
    for _, block in _blocks_by_role(messages):
        if block["type"] in ("document", "search_result") and (block.get("citations") or {}).get("enabled"):
            raise invalid(f"{where}: cannot be combined with citations")


def check_system(system: Any) -> None:
    """Check that *system* is a text, or made of texts."""
    for number, block in enumerate(content_blocks(system)):
        check_block(f"system.{number}", block, "system")
        check_choice(f"system.{number}.type", block["type"], ("text",))


def check_new_shapes(messages: Sequence[Any]) -> None:
    """Facts 1: two shapes of content that 2026-10-21 refuses."""
    for role, block in _blocks_by_role(messages):
        if role == "assistant" and block["type"] == "document":
            raise invalid("document: not permitted in an assistant message")
        if role == "user" and block["type"] == "text" and block.get("citations"):
            raise invalid("citations: not permitted in a user message")


def _blocks_by_role(messages: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for message in (message for message in messages if not isinstance(message["content"], str)):
        for block in message["content"]:
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
