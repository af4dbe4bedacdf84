"""The results of tools, as the API takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from claude_client._values.content import Block, content_blocks, loaded, to_json_value

# What may stand in a result. Of documents and images, the API takes these files.
_BLOCKS = frozenset({"text", "image", "document", "search_result", "tool_reference"})
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def tool_result(tool_use_id: str, content: str | list[Block], *, is_error: bool = False) -> Block:
    """The block for *content*; an empty one is left out."""
    block: Block = {"type": "tool_result", "tool_use_id": tool_use_id}
    if content:
        block["content"] = content
    if is_error:
        block["is_error"] = True
    return block


def content_of(value: Any) -> str | list[Block]:
    """
    What a tool has returned, as content.

    Raises:
        ValueError: If it cannot be sent.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        text: str = to_json_value(str(value))
        return text
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    if parts and all(isinstance(part, str) or _is_content(part) for part in parts) and any(map(_is_content, parts)):
        blocks = [_block_of(part) for part in parts]
        loaded_blocks: list[Block] = loaded(content_blocks("the result of a tool", blocks))
        return loaded_blocks
    return _as_json(value)


def _is_content(part: Any) -> bool:
    return isinstance(part, os.PathLike) or _type_of(part) in _BLOCKS


def _type_of(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else getattr(part, "type", None)


def _block_of(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": str(part)}
    return _of_file(part) if isinstance(part, os.PathLike) else part


def _of_file(path: os.PathLike[str]) -> Block:
    import mimetypes

    kind = mimetypes.guess_type(os.fspath(path))[0] or "text/plain"
    if kind in _IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": path}}
    if kind == "application/pdf":
        return {"type": "document", "source": {"type": "base64", "media_type": kind, "data": path}}
    return {"type": "text", "text": path}


def _as_json(value: Any) -> str:
    from pydantic_core import PydanticSerializationError, to_json

    if isinstance(value, (bytes, bytearray)):
        raise ValueError("bytes cannot be sent: return a text, a content block, or the path of a file")
    try:
        return to_json(value).decode()
    except (PydanticSerializationError, ValueError) as unknown:
        raise ValueError(f"{value!r:.100} cannot be sent: {str(unknown).splitlines()[0]}") from unknown
