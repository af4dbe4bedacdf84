"""Puts a message together from the raw events of one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from claude_client._values.usage import Usage

if TYPE_CHECKING:
    from anthropic.types import Message

# By kind of delta: the field of the block that it goes into, and its attribute. Pieces are joined once, at the end.
_JOINED = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("input", "partial_json"),
}


class StreamedMessage:
    """
    A message as far as its stream has arrived.

    Reads the SDK's raw events rather than its stream helper: that rebuilds a snapshot for every chunk, which
    costs more than all that is done here, and it takes a stream that ends early for a whole one.
    """

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self._stopped = False

    def add(self, event: Any) -> str:
        """
        Add *event* and return the text it brings, if any. Events of unknown kinds are ignored.

        Raises:
            LookupError: For a piece of a block that has not begun.
        """
        if self._stopped:
            return ""
        if event.type == "content_block_delta":
            return self._add_delta(event.index, event.delta)
        if event.type == "message_start":
            self._message = event.message.to_dict()
        elif event.type == "content_block_start":
            self._blocks[event.index] = event.content_block.to_dict()
        elif event.type == "message_delta":
            self._message.update(event.delta.to_dict())
            self._message["usage"].update(_set(event.usage.to_dict()))
        elif event.type == "message_stop":
            self._stopped = True
        return ""

    @property
    def begun(self) -> bool:
        """True once the first event has arrived."""
        return bool(self._message)

    @property
    def complete(self) -> bool:
        """True once the stream has ended in order, with a stop reason."""
        return self._stopped and self._message.get("stop_reason") is not None

    @property
    def text(self) -> str:
        """The text of all text blocks so far."""
        return "".join(
            self._joined(i, block, "text") for i, block in sorted(self._blocks.items()) if block["type"] == "text"
        )

    @property
    def usage(self) -> Usage:
        """The usage known so far: the input from the first event on, the output at the end."""
        from anthropic.types import Message

        return Usage.of(Message.construct(**self._message).usage) if self.begun else Usage()

    def message(self) -> Message:
        """
        The SDK's message.

        Raises:
            ValueError: If a tool's input is not the beginning of JSON.
        """
        from anthropic.types import Message

        content = [self._block(i, block) for i, block in sorted(self._blocks.items())]
        return Message.construct(**{**self._message, "content": content})

    def _add_delta(self, index: int, delta: Any) -> str:
        if joined := _JOINED.get(delta.type):
            name, attribute = joined
            piece: str = getattr(delta, attribute)
            if (index, name) not in self._pieces:
                self._pieces[index, name] = []
                self._blocks[index]
            self._pieces[index, name].append(piece)
            return piece if name == "text" else ""
        if delta.type == "signature_delta":
            self._blocks[index]["signature"] = delta.signature
        elif delta.type == "citations_delta":
            block = self._blocks[index]
            block["citations"] = [*(block.get("citations") or ()), delta.citation.to_dict()]
        return ""

    def _block(self, index: int, block: dict[str, Any]) -> dict[str, Any]:
        """*block* with its pieces joined."""
        whole = dict(block)
        for name in ("text", "thinking"):
            if (index, name) in self._pieces:
                whole[name] = self._joined(index, block, name)
        if json := "".join(self._pieces.get((index, "input"), ())):
            from jiter import from_json  # the SDK's own parser; max_tokens may cut the JSON short

            whole["input"] = from_json(json.encode(), partial_mode=True)
        return whole

    def _joined(self, index: int, block: dict[str, Any], name: str) -> str:
        return (block.get(name) or "") + "".join(self._pieces.get((index, name), ()))


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """Only what is set: counts in a `message_delta` are totals, and one left out keeps its first value."""
    return {name: value for name, value in values.items() if value is not None}
