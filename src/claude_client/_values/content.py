"""Content as the API takes it, and cache breakpoints. Pure: everything returned is new."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

EPHEMERAL = {"type": "ephemeral"}

#: What the API allows in one request.
MOST_BREAKPOINTS = 4

_NEVER_MARKED = ("thinking", "redacted_thinking")

Block = dict[str, Any]


def plain(value: Any) -> Any:
    """
    A copy of *value* that no later change by the caller reaches.

    Mappings become dicts, lists, tuples and generators lists, objects of the SDK or pydantic what they stand for, and
    files, open ones or their paths, their content in base64, so that another attempt sends the same; dates become
    ISO text. Anything else stays as it is.

    Raises:
        ValueError: For a text with a lone surrogate, which no request can hold, or a file that cannot be read.
    """
    if isinstance(value, str):
        return _encodable(value)
    if value is None or isinstance(value, (int, float, bytes)):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, Iterator) and not hasattr(value, "read")):
        return [plain(item) for item in value]
    return value if isinstance(value, type) else _stands_for(value)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        position = exc.start
    else:
        return text
    raise ValueError(f"a text has a lone surrogate at position {position}: it cannot be sent")


def _stands_for(value: Any) -> Any:
    if callable(to_dict := getattr(value, "to_dict", None)):
        return plain(to_dict())
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json", exclude_unset=True)
    if callable(read := getattr(value, "read", None)):
        content = read()
        return base64.b64encode(content).decode() if isinstance(content, bytes) else content
    if callable(iso := getattr(value, "isoformat", None)):
        return iso()
    return base64.b64encode(_content_of(value)).decode() if isinstance(value, os.PathLike) else value


def _content_of(path: os.PathLike[str]) -> bytes:
    from pathlib import Path  # it takes a tenth of our import

    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ValueError(f"the file {os.fspath(path)!r} cannot be read: {exc.strerror}") from exc


def as_blocks(content: str | list[Block] | None) -> list[Block]:
    """*content* as a list of blocks; blank text gives none, as the API refuses an empty block."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content and content.strip() else []
    return content


def marked(blocks: Sequence[Block]) -> list[Block]:
    """*blocks* with a cache breakpoint on the last that may carry one; one already there stays as it is."""
    out = list(blocks)
    place = last_markable(out)
    if place is not None:
        out[place] = {**out[place], "cache_control": out[place].get("cache_control") or EPHEMERAL}
    return out


def last_markable(blocks: Sequence[Block]) -> int | None:
    """The place of the last of *blocks* that may carry a cache breakpoint."""
    return next((i for i in range(len(blocks) - 1, -1, -1) if _may_be_marked(blocks[i])), None)


def unmarked(part: Any) -> Any:
    """*part* without the cache breakpoints of its blocks or tools; what a tool takes or was given stays as it is."""
    if isinstance(part, list):
        return [unmarked(item) for item in part]
    if isinstance(part, dict):
        return {
            name: unmarked(value) if name in {"content", "source"} else value
            for name, value in part.items()
            if name != "cache_control"
        }
    return part


def without_blank_text(content: Sequence[Block]) -> list[Block]:
    """*content* without the blocks that the API gives, but does not take."""
    return [block for block in content if block["type"] != "text" or block["text"].strip()]


def count_breakpoints(part: Any) -> int:
    """How many cache breakpoints are set in a block, a message, or a list of them, nested blocks included."""
    if part is None or isinstance(part, str):
        return 0
    if isinstance(part, dict):
        return (1 if part.get("cache_control") else 0) + count_breakpoints(part.get("content"))
    return sum(map(count_breakpoints, part)) if isinstance(part, list) else 0


def size(part: Any) -> int:
    """The characters of all text in a block, a message, or a list of them, nested blocks included."""
    if isinstance(part, str):
        return len(part)
    if isinstance(part, dict):
        return sum(map(size, part.values()))
    return sum(map(size, part)) if isinstance(part, list) else 0


def _may_be_marked(block: Block) -> bool:
    if block.get("type") in _NEVER_MARKED:
        return False
    return block.get("type") != "text" or bool(block.get("text"))
