"""The history of a conversation: the messages kept of each turn, and the places of its cache breakpoints."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from claude_client._values.breakpoints import EPHEMERAL, MOST_BREAKPOINTS, last_markable, unmarked
from claude_client._values.content import (
    THINKING,
    Block,
    as_blocks,
    loaded,
    message_list,
    to_json_value,
    without_blank_text,
)
from claude_client._values.request import Request, check_breakpoints
from claude_client._values.response import TRUNCATING, ClaudeResponse

# A breakpoint finds a cache entry that ends at most so many blocks before it, its own block counted.
_LOOK_BACK = 20


class Place(NamedTuple):
    """The place of a block: the index of its message, and its index in there."""

    message: int
    block: int


class History(NamedTuple):
    """The messages so far. Never changed but replaced as a whole, so that it can be read while a turn is under way."""

    messages: tuple[Block, ...] = ()
    turns: int = 0
    #: The last block with a breakpoint that an answered turn had: all up to it is in the cache.
    cached: Place | None = None
    #: The tokens that all of it takes, as the API counted them for the last answer; None before one.
    tokens: int | None = None
    #: What the API was told of the tools that it may have uses of; None for none.
    tools: list[Block] | None = None


def history_of(messages: Any) -> History:
    """
    The history that callers pass as *messages*.

    Raises:
        ValueError: If they do not alternate, beginning with the user, or tools lack their results.
    """
    if messages is None or (isinstance(messages, (list, tuple)) and not messages):
        return History()
    turns: list[Block] = loaded(message_list(messages))
    for i, turn in enumerate(turns):
        expected = "assistant" if i % 2 else "user"
        if turn["role"] != expected:
            raise ValueError(f"messages must alternate, beginning with the user: messages[{i}] is of {turn['role']!r}")
        if not turn["content"]:
            raise ValueError(f"messages[{i}] says nothing")
        if i and expected == "user":
            _check_results(turns[i - 1], turn, f"messages[{i}]")
    return History(tuple(unmarked(turns)), len(turns) // 2)


def with_message(messages: tuple[Block, ...], message: Block) -> tuple[Block, ...]:
    """
    Append *message*, merging it into an unanswered last user message.

    Raises:
        ValueError: If the last answer asked for tools, and *message* does not begin with the result of each.
    """
    if messages and messages[-1]["role"] == "user":
        before = messages[-1]["content"]
        messages, message = messages[:-1], {**message, "content": [*as_blocks(before), *as_blocks(message["content"])]}
    if messages:
        _check_results(messages[-1], message, "user_message")
    return (*messages, message)


def _check_results(answer: Block, message: Block, name: str) -> None:
    """Raise a ValueError unless *message* begins with one result of each tool that *answer* asked for."""
    asked = [block.get("id") for block in as_blocks(answer["content"]) if block["type"] == "tool_use"]
    kinds = [block["type"] for block in as_blocks(message["content"])]
    given = [block.get("tool_use_id") for block in as_blocks(message["content"]) if block["type"] == "tool_result"]
    if missing := [str(one) for one in asked if one not in given]:
        raise ValueError(f"the last answer asked for tools: {name} needs a tool_result for {', '.join(missing)}")
    if unasked := [str(one) for one in given if one not in asked]:
        raise ValueError(f"{name} has a tool_result for {', '.join(unasked)}, which nobody asked for")
    if len(given) > len(asked):
        raise ValueError(f"{name} has more than one tool_result for the same tool_use_id")
    if "tool_result" in kinds[len(given) :]:
        raise ValueError(f"{name} must begin with its tool_result blocks; the rest comes after them")


class Breakpoints:
    """
    Puts a conversation's own cache breakpoints on *request*, as far as the API takes more.

    Args:
        cached: The last block that is known to be in the cache with all before it.
    """

    def __init__(self, request: Request, cached: Place | None) -> None:
        self.request = request
        self._cached = cached
        self._room = MOST_BREAKPOINTS - check_breakpoints(request)
        self._automatic = request.params.get("cache_control")

    def put_on_system(self) -> None:
        """Mark the end of the system prompt."""
        blocks = as_blocks(self.request.system)
        place = last_markable(blocks)
        if place is not None:
            self._put(blocks, place)
            self.request = replace(self.request, system=blocks)

    def put_on_history(self) -> Place | None:
        """
        Mark the end of the last message, and the last cached block if a look back from there would not reach it.

        Returns:
            The last block that is in the cache once this is answered; None if there is none.
        """
        contents = [[*as_blocks(message["content"])] for message in self.request.messages]
        place = last_markable(contents[-1])
        if place is None:
            return self._cached
        last = Place(len(contents) - 1, place)
        wanted = [last] if self._automatic is None else []
        if self._cached is not None and _distance(contents, self._cached, last) >= _LOOK_BACK:
            wanted.append(self._cached)
        for message, block in wanted:
            self._put(contents[message], block)
        messages = [
            {**message, "content": content} if any(mark.message == i for mark in wanted) else message
            for i, (message, content) in enumerate(zip(self.request.messages, contents, strict=True))
        ]
        self.request = replace(self.request, messages=messages)
        return last if self._automatic or contents[last.message][last.block].get("cache_control") else self._cached

    def _put(self, blocks: list[Block], place: int) -> None:
        if self._room and not blocks[place].get("cache_control"):
            blocks[place] = {**blocks[place], "cache_control": self._mark()}
            self._room -= 1

    def _mark(self) -> Mapping[str, Any]:
        """The mark to put: for an hour if a later one of the user's is, as the API takes no shorter one before it."""
        own = [block.get("cache_control") for block in as_blocks(self.request.messages[-1]["content"])]
        hours = [mark for mark in (self._automatic, *own) if mark and mark.get("ttl") == "1h"]
        return hours[0] if hours else EPHEMERAL


def _distance(contents: Sequence[Sequence[Block]], first: Place, last: Place) -> int:
    """Number of blocks from *first* to *last*."""
    return sum(map(len, contents[first.message : last.message])) - first.block + last.block


def answer_turns(response: ClaudeResponse, for_others: Container[str] | None = None) -> list[Block]:
    """
    The message that the history keeps of *response*; none if it has nothing that the API takes back.

    Args:
        for_others: Of what ends for another reason than tools, keep the uses of these tools alone, as nobody answers
            the others. None: of all.
    """
    content = without_blank_text(to_json_value(response.message.content))
    if response.stop_reason in TRUNCATING and content and content[-1]["type"] == "tool_use":
        content.pop()  # cut off, and nobody could give its result
    if response.stop_reason != "tool_use":  # else their results are still to come
        if for_others is not None:
            content = [block for block in content if block["type"] != "tool_use" or block["name"] in for_others]
        results = {block.get("tool_use_id") for block in content}
        content = [block for block in content if block["type"] != "server_tool_use" or block.get("id") in results]
    while content and content[-1]["type"] in THINKING:
        content.pop()
    return [{"role": "assistant", "content": content}] if content else []
