"""The rules for what messages and system hold, and for the cache marks on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import dropwhile, groupby, takewhile
from typing import Any

from ._blocks import check_block, check_text
from ._checks import check_choice, check_fields
from ._errors import RejectedError, invalid
from ._prompt import (
    LIFETIMES,
    Block,
    Body,
    breakpoints,
    content_blocks,
    is_server_result,
    prompt_blocks,
    server_calls_left,
    ttl_of,
)

MOST_BREAKPOINTS = 4  # facts 2
MOST_MESSAGES = 100_000  # facts 3
_OF_TOOLS = frozenset({"tool_use", "tool_result"})
_MESSAGE_FIELDS = frozenset({"role", "content"})


def check_messages(messages: Sequence[Any], *, prefill: bool, tools: bool) -> None:
    """
    There is a message, each has content, and first and last are the user's (or *prefill* allows another).

    Args:
        tools: Whether the request defines some; calls and results need it.
    """
    if not messages:
        raise invalid("messages: at least one message is required")
    if len(messages) > MOST_MESSAGES:
        raise invalid(f"messages: List should have at most {MOST_MESSAGES} items after validation, not {len(messages)}")
    for number, message in enumerate(messages):
        _check_message(f"messages.{number}", message)
    if messages[0]["role"] != "user":
        raise invalid('messages: first message must use the "user" role')
    if any(not isinstance(message["content"], str) for message in messages):
        _check_calls_differ(messages)
        _check_tool_results(messages)
        _check_server_calls(messages)
        if not tools and any(block["type"] in _OF_TOOLS for _, block in _blocks_by_role(messages)):
            raise invalid("Requests which include `tool_use` or `tool_result` blocks must define tools.")
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


def _numbered_blocks(messages: Iterable[tuple[int, Any]]) -> list[tuple[int, int, Mapping[str, Any]]]:
    """Every block with the number of its message and its own."""
    return [(i, j, block) for i, message in messages for j, block in enumerate(content_blocks(message["content"]))]


def _check_calls_differ(messages: Sequence[Any]) -> None:
    seen: set[str] = set()
    for i, j, block in _numbered_blocks(enumerate(messages)):
        if block["type"] == "tool_use":
            if block["id"] in seen:
                raise invalid(f"messages.{i}.content.{j}: `tool_use` ids must be unique")
            seen.add(block["id"])


def _check_tool_results(messages: Sequence[Any]) -> None:
    """The results of all calls of a turn begin the next, and no others. Messages of one role in a row are a turn."""
    called: dict[str, int] = {}  # the calls of the turn before, each with the number of its message
    for _, turn in groupby(enumerate(messages), lambda numbered: numbered[1]["role"]):
        blocks = _numbered_blocks(turn)
        _check_are_called(called, [numbered for numbered in blocks if numbered[2]["type"] == "tool_result"])
        first = takewhile(lambda numbered: numbered[2]["type"] == "tool_result", blocks)
        _check_all_answered(called, {block["tool_use_id"] for _, _, block in first})
        called = {block["id"]: i for i, _, block in blocks if block["type"] == "tool_use"}
    _check_all_answered(called, set())


def _check_are_called(called: Mapping[str, int], results: Sequence[tuple[int, int, Mapping[str, Any]]]) -> None:
    given: set[str] = set()
    for i, j, result in results:
        call = result["tool_use_id"]
        if call not in called:
            raise invalid(
                f"messages.{i}.content.{j}: unexpected `tool_use_id` found in `tool_result` blocks: {call}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
        if call in given:
            raise invalid(
                f"messages.{i}.content.{j}: each tool_use must have a single result. "
                f"Found multiple `tool_result` blocks with id: {call}"
            )
        given.add(call)


def _check_all_answered(called: Mapping[str, int], results: Collection[str]) -> None:
    if missing := [call for call in called if call not in results]:
        raise invalid(
            f"messages.{called[missing[0]]}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message."
        )


def _check_server_calls(messages: Sequence[Any]) -> None:
    """Each result of a server tool has its call before it, and each call its result, or the answer goes on there."""
    called: set[str] = set()
    for i, j, block in _numbered_blocks(enumerate(messages)):
        if block["type"] == "server_tool_use":
            called.add(block["id"])
        elif is_server_result(block) and block["tool_use_id"] not in called:
            raise invalid(
                f"messages.{i}.content.{j}: unexpected `tool_use_id` found in `{block['type']}` blocks: "
                f"{block['tool_use_id']}. Each `{block['type']}` block must have a corresponding `server_tool_use` "
                "block before it."
            )
    for i, call in server_calls_left(messages):
        if not _goes_on_after(messages[i + 1 :]):
            raise invalid(
                f"messages.{i}: `{call['name']}` tool use with id `{call['id']}` was found without a corresponding "
                f"`{call['name']}_tool_result` block"
            )


def _goes_on_after(later: Sequence[Any]) -> bool:
    """Facts-2 3: a turn with nothing behind it goes on, and so does one that has only results of tools behind it."""
    others = [*dropwhile(lambda message: message["role"] == "assistant", later)]
    blocks = [block for message in others for block in content_blocks(message["content"])]
    return all(message["role"] == "user" for message in others) and all(
        block["type"] == "tool_result" for block in blocks
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
