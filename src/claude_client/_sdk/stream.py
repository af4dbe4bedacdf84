"""Puts a message together from the events of one stream, by the grammar of the protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from claude_client._values.response import TRUNCATING
from claude_client._values.text import Chunks, all_whole, whole
from claude_client._values.usage import Usage

if TYPE_CHECKING:
    from anthropic.types import Message

# What each known kind of delta must bring, and the kind of block that it may go into; None: any that has an input.
_DELTAS: Mapping[str, tuple[str, type, str | None]] = {
    "text_delta": ("text", str, "text"),
    "thinking_delta": ("thinking", str, "thinking"),
    "signature_delta": ("signature", str, "thinking"),
    "citations_delta": ("citation", dict, "text"),
    "input_json_delta": ("partial_json", str, None),
}


class StreamError(ValueError):
    """A stream breaks the protocol, so that what it says cannot be taken for the answer."""


class StreamedMessage:
    """
    A message as far as its stream has arrived.

    Reads events as the server sent them rather than by the SDK's stream helper. That rebuilds a snapshot for every
    chunk, which costs more than all that is done here, takes a stream that ends early for a whole one, and drops what
    it does not know.
    """

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: list[dict[str, Any]] = []
        self._is_open = False  # the last block
        self._pieces: dict[tuple[int, str], list[str]] = {}  # of texts that come in many; joined once, at the end
        self._chunks = Chunks()
        self._stopped = False

    def add(self, event: Mapping[str, Any]) -> str:
        """
        Add *event* and return the text it brings, if any.

        An event of an unknown kind is ignored, as the protocol asks; what else is not known is kept.

        Raises:
            StreamError: For whatever the grammar of the protocol forbids.
        """
        kind = event["type"]
        if self._stopped:
            return ""
        if kind == "message_start":
            self._start(_part(event, "message"))
        elif kind in _ADDING:
            if not self._message:
                raise StreamError(f"{kind} before message_start")
            return _ADDING[kind](self, event)
        return ""

    @property
    def begun(self) -> bool:
        """True once the first event has arrived."""
        return bool(self._message)

    @property
    def stopped(self) -> bool:
        """True once the last event has arrived."""
        return self._stopped

    @property
    def complete(self) -> bool:
        """True once the stream has ended in order, with a stop reason."""
        return self._stopped and self._message.get("stop_reason") is not None

    @property
    def head(self) -> Mapping[str, Any]:
        """All that has arrived but the content."""
        return self._message

    @property
    def text(self) -> str:
        """The text of all text blocks so far."""
        return "".join(
            [whole(self._joined(i, "text")) for i, block in enumerate(self._blocks) if block["type"] == "text"]
        )

    @property
    def usage(self) -> Usage:
        """The usage known so far: the input from the first event on, the output at the end."""
        return Usage.of(self._message.get("usage"))

    def fields(self) -> dict[str, Any]:
        """All that has arrived, as the fields of a message; the input of a tool that is no JSON as its text."""
        fields: dict[str, Any] = all_whole(
            {**self._message, "content": [self._block(i) for i in range(len(self._blocks))]}
        )
        return fields

    def message(self) -> Message:
        """
        The SDK's message.

        Raises:
            StreamError: If a tool's input is no JSON; the end of the last may be missing in an answer that was cut off.
        """
        from anthropic.types import Message

        fields = self.fields()
        for index, name in self._pieces:
            if name == "partial_json":
                is_cut = index == len(self._blocks) - 1 and fields.get("stop_reason") in TRUNCATING
                block = fields["content"][index]
                block["input"] = _parsed(block["input"], may_be_cut=is_cut)
        return Message.construct(**fields)

    def _start(self, message: Mapping[str, Any]) -> None:
        if self._message:
            raise StreamError("a second message_start")
        if message.get("type") != "message" or message.get("content"):
            raise StreamError("message_start without an empty message")
        self._message = {**message, "content": []}

    def _start_block(self, event: Mapping[str, Any]) -> str:
        block = _part(event, "content_block")
        if self._is_open or event.get("index") != len(self._blocks) or self._message.get("stop_reason"):
            raise StreamError(f"content_block_start out of order, at index {event.get('index')!r}")
        text = block.get("text")
        if not isinstance(block.get("type"), str) or not (text is None or isinstance(text, str)):
            raise StreamError("a block that names no type, or has a text that is none")
        self._blocks.append({**block})
        self._is_open = True
        to = block.get("to")
        if block["type"] == "fallback" and isinstance(to, dict) and isinstance(to.get("model"), str):
            self._message["model"] = to["model"]  # it answers from here on, as the message in one piece says
        return self._chunks.add(text) if text and block["type"] == "text" else ""

    def _add_delta(self, event: Mapping[str, Any]) -> str:
        index = self._open_block(event)
        delta = _part(event, "delta")
        block = self._blocks[index]
        if (known := _DELTAS.get(delta.get("type", ""))) and not _fits(delta, block, *known):
            raise StreamError(f"a {delta['type']} without what it is to bring to a block of type {block['type']!r}")
        for name in delta.keys() - {"type"}:
            self._add_part(index, block, name, delta[name])
        text = delta.get("text")
        return self._chunks.add(text) if isinstance(text, str) and block["type"] == "text" else ""

    def _add_part(self, index: int, block: dict[str, Any], name: str, value: Any) -> None:
        before = block.get(name)
        if name == "citation":
            block["citations"] = [*(block.get("citations") or ()), value]
        elif value is None:
            block.setdefault(name, None)
        elif before is not None and isinstance(before, str) != isinstance(value, str):
            raise StreamError(f"a delta turns {name!r} of a block of type {block['type']!r} into something else")
        elif isinstance(value, list) and isinstance(before, list):
            block[name] = [*before, *value]
        elif isinstance(value, str) and name != "signature":  # which comes as a whole
            self._pieces.setdefault((index, name), []).append(value)
        else:
            block[name] = value

    def _stop_block(self, event: Mapping[str, Any]) -> str:
        self._open_block(event)
        self._is_open = False
        return self._chunks.end()

    def _change(self, event: Mapping[str, Any]) -> str:
        if self._is_open:
            raise StreamError("message_delta within a block")
        rest = {name: value for name, value in event.items() if name not in {"type", "delta", "usage"}}
        for name, value in {**rest, **_part(event, "delta")}.items():
            if value is not None or name not in self._message:
                self._message[name] = value
        if isinstance(used := event.get("usage"), dict):
            # Counts are totals, and one left out keeps its first value.
            before = self._message.get("usage")
            said = {name: value for name, value in used.items() if value is not None}
            self._message["usage"] = {**before, **said} if isinstance(before, dict) else said
        return ""

    def _stop(self, _: Mapping[str, Any]) -> str:
        if self._is_open:
            raise StreamError("message_stop within a block")
        self._stopped = True
        return ""

    def _open_block(self, event: Mapping[str, Any]) -> int:
        """The index of *event*, which must be that of the block that is open."""
        index = len(self._blocks) - 1
        if not self._is_open or event.get("index") != index:
            raise StreamError(f"{event['type']} for a block that is not open, at index {event.get('index')!r}")
        return index

    def _block(self, index: int) -> dict[str, Any]:
        """A block with its pieces joined."""
        block = {**self._blocks[index]}
        for of_block, name in self._pieces:
            if of_block == index and name != "partial_json":
                block[name] = self._joined(index, name)
        if json := "".join(self._pieces.get((index, "partial_json"), ())):
            block["input"] = json
        return block

    def _joined(self, index: int, name: str) -> str:
        return (self._blocks[index].get(name) or "") + "".join(self._pieces.get((index, name), ()))


_ADDING = {
    "content_block_start": StreamedMessage._start_block,  # noqa: SLF001 - of this module
    "content_block_delta": StreamedMessage._add_delta,  # noqa: SLF001
    "content_block_stop": StreamedMessage._stop_block,  # noqa: SLF001
    "message_delta": StreamedMessage._change,  # noqa: SLF001
    "message_stop": StreamedMessage._stop,  # noqa: SLF001
}


def _part(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = event.get(name)
    if not isinstance(part, dict):
        raise StreamError(f"{event['type']} without its {name!r}")
    return part


def _fits(delta: Mapping[str, Any], block: Mapping[str, Any], name: str, kind: type, of_block: str | None) -> bool:
    goes_there = "input" in block if of_block is None else block["type"] == of_block
    return goes_there and isinstance(delta.get(name), kind)


def _parsed(text: str, *, may_be_cut: bool) -> Any:
    """The value of *text*, a tool's input, of which the end may be missing."""
    try:
        return all_whole(json.loads(text))
    except ValueError as broken:
        problem = broken
    if may_be_cut:
        from jiter import from_json  # the SDK's own parser

        with suppress(ValueError):
            return from_json(text.encode(), partial_mode=True)
    raise StreamError(f"a tool's input is no JSON: {text[:100]!r}") from problem
