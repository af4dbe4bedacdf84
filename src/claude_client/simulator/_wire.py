"""Messages as bytes: the JSON of a whole one, and the events of a streamed one (facts 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._answer import Answer, chunks_of

_ONLY_AT_START = frozenset({"cache_creation", "service_tier", "inference_geo", "speed"})

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
BROKEN_EVENT = b'event: content_block_delta\ndata: {"type": "content_block_delta", "ind\n\n'


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    A piece of a stream: one delta, and the starts and stops of blocks around it.

    Args:
        text: What it adds to the answer's text.

        tokens: Number of tokens in it, for pacing; may be a fraction.
    """

    data: bytes
    text: str
    tokens: float


@dataclass(frozen=True, slots=True)
class EventStream:
    """The events of a streamed message: message_start, the chunks, and what ends it."""

    head: bytes
    chunks: tuple[Chunk, ...]
    tail: bytes


def message_dict(answer: Answer, message_id: str, model: str, usage: Mapping[str, Any]) -> dict[str, Any]:
    """The message as the API answers with it."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(answer.content),
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": answer.stop_details,
        "usage": usage,
    }


def event_stream(message: Mapping[str, Any], *, cut_call: bool = False) -> EventStream:
    """
    *message* as events. The first block's start is followed by a ping.

    Args:
        cut_call: Whether the last block is a tool call whose JSON does not end.
    """
    chunks = []
    last = len(message["content"]) - 1
    pending = b""  # starts and stops of blocks that wait for a delta to travel with
    for index, block in enumerate(message["content"]):
        pending += _event("content_block_start", index=index, content_block=_opening(block))
        pending += PING if index == 0 else b""
        for delta, text, spoken in _deltas(block, cut=cut_call and index == last):
            data = _event("content_block_delta", index=index, delta=delta)
            chunks.append(Chunk(pending + data, text, len(spoken.encode()) / 4))
            pending = b""
        pending += _event("content_block_stop", index=index)
    return EventStream(_message_start(message), tuple(chunks), pending + _message_end(message))


def error_event(body: bytes) -> bytes:
    """An error in the middle of a stream."""
    return b"event: error\ndata: " + body + b"\n\n"


def compact(value: Any) -> bytes:
    """*value* as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), compact({"type": kind, **fields}))


def _message_start(message: Mapping[str, Any]) -> bytes:
    nothing_yet: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    usage = {**message["usage"], "output_tokens": 1}
    return _event("message_start", message={**message, **nothing_yet, "usage": usage})


def _message_end(message: Mapping[str, Any]) -> bytes:
    delta = {key: message[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
    # Facts 4: counts here are cumulative, so they repeat what message_start said.
    usage = {key: value for key, value in message["usage"].items() if key not in _ONLY_AT_START}
    return _event("message_delta", delta=delta, usage=usage) + _event("message_stop")


def _opening(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """The block before its first delta. A block of another type starts complete."""
    match block.get("type"):
        case "text":
            return {**block, "text": "", **({"citations": []} if block.get("citations") else {})}
        case "thinking":
            return {**block, "thinking": "", "signature": ""}
        case "tool_use" | "server_tool_use":
            return {**block, "input": {}}
        case _:
            return block


def _deltas(block: Mapping[str, Any], *, cut: bool) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The deltas of a block, each with its text for the answer and the output that its pace counts."""
    match block.get("type"):
        case "text":
            for citation in block.get("citations") or ():
                yield {"type": "citations_delta", "citation": citation}, "", ""
            for piece in chunks_of(str(block.get("text", ""))):
                yield {"type": "text_delta", "text": piece}, piece, piece
        case "thinking":
            for piece in chunks_of(str(block.get("thinking", ""))):
                yield {"type": "thinking_delta", "thinking": piece}, "", piece
            yield {"type": "signature_delta", "signature": block.get("signature", "")}, "", ""
        case "tool_use" | "server_tool_use":
            arguments = json.dumps(block.get("input", {}), ensure_ascii=False)
            for piece in chunks_of(arguments[:-1] if cut else arguments):
                yield {"type": "input_json_delta", "partial_json": piece}, "", piece
