"""A prompt as the pieces that the cache tells apart, in the order in which the model reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from claude_client._values.bounds import body_of
from claude_client._values.breakpoints import unmarked
from claude_client._values.content import as_blocks
from claude_client._values.request import Request

#: How long a piece, and all before it, is to stay in the cache; None: it is not marked.
Lifetime = Literal["5m", "1h"] | None

# What besides model, tools, system and messages makes another entry of the cache.
_PARAMS = ("thinking", "output_config", "tool_choice", "speed")


class Piece(NamedTuple):
    """A part of a prompt, up to the next breakpoint or the end of its kind."""

    kind: Literal["tools", "shared system", "own system", "messages"]
    #: The value of its parameter: tools, blocks, or messages.
    value: Sequence[Any]
    #: What is equal for prompts that are equal up to its end, and for pieces that are equal themselves.
    prefix: bytes
    own: bytes
    lifetime: Lifetime

    def alone(self, request: Request) -> Request:
        """A request that has this piece, and of the rest as little as can be counted."""
        bare = bare_of(request)
        if self.kind == "tools":
            return replace(bare, params={**bare.params, "tools": list(self.value)})
        if self.kind == "messages":
            return replace(bare, messages=list(self.value))
        return replace(bare, system=list(self.value))


def bare_of(request: Request) -> Request:
    """The least that can be counted for the model of *request*."""
    return Request(
        model=str(body_of(request)["model"]), max_tokens=1, messages=BARE, extra_headers=request.extra_headers
    )


#: Messages of hardly anything.
BARE: list[dict[str, Any]] = [{"role": "user", "content": "."}]


def pieces_of(request: Request) -> list[Piece]:
    """
    The pieces of *request*, as it is sent. Messages are one piece up to their last breakpoint, and one after it, whose
    messages are all of them.
    """
    body = body_of(request)
    marks = _Marks(body)
    system = as_blocks(body["system"])
    shared = 0 if "system" in request.extra_body else request.shared_blocks
    pieces: list[Piece] = []
    for kind, value in (
        ("tools", list(body.get("tools") or ())),
        ("shared system", system[:shared]),
        ("own system", system[shared:]),
        *(("messages", part) for part in marks.split(body["messages"])),
    ):
        if value:
            own = _digest(b"", unmarked(value))
            prefix = _digest(pieces[-1].prefix if pieces else marks.conditions, unmarked(value))
            pieces.append(Piece(kind, value, prefix, own, marks.lifetime(value)))  # type: ignore[arg-type]
    return pieces


class _Marks:
    def __init__(self, body: Mapping[str, Any]) -> None:
        parameters = [body["model"], *(body.get(name) for name in _PARAMS)]
        self.conditions = _digest(b"", parameters)
        automatic = body.get("cache_control")
        self._automatic: Lifetime = _lifetime_of(automatic) if isinstance(automatic, Mapping) else None
        self._messages = body["messages"]

    def split(self, messages: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Messages up to the last block that is marked, and all of them where more follow."""
        marked = [place for place, message in enumerate(messages) if _last_mark(message)]
        if marked and self._automatic is None:
            last = messages[marked[-1]]
            blocks = as_blocks(last["content"])
            kept = max(place for place, block in enumerate(blocks) if _last_mark(block)) + 1
            if kept < len(blocks) or marked[-1] + 1 < len(messages):
                yield [*messages[: marked[-1]], {**last, "content": blocks[:kept]}]
        yield messages

    def lifetime(self, value: Sequence[Any]) -> Lifetime:
        """How long the cache keeps what ends with *value*; None for messages whose last mark ends another piece."""
        if value is not self._messages:
            return _last_mark(value)
        return self._automatic or (None if len([*self.split(value)]) > 1 else _last_mark(value))


def _last_mark(part: Any) -> Lifetime:
    """How long the last breakpoint in *part* is to last."""
    if isinstance(part, (list, tuple)):
        found = [mark for mark in map(_last_mark, part) if mark]
        return found[-1] if found else None
    if isinstance(part, Mapping):
        mark = part.get("cache_control")
        return _lifetime_of(mark) if isinstance(mark, Mapping) else _last_mark(part.get("content"))
    return None


def _lifetime_of(mark: Mapping[str, Any]) -> Lifetime:
    return "1h" if mark.get("ttl") == "1h" else "5m"


def _digest(before: bytes, value: Any) -> bytes:
    return hashlib.sha256(before + json.dumps(value, default=str, sort_keys=True).encode()).digest()
