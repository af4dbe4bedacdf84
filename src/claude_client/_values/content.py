"""Content as the API takes it. Everything returned is new."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from claude_client._values.checks import type_name

Block = dict[str, Any]


def to_json_value(value: Any) -> Any:
    """
    A copy of *value* that no later change by the caller reaches.

    Mappings become dicts; lists, tuples and generators become lists; objects of the SDK or pydantic become their JSON
    values; files, open ones or their paths, become their content in base64, so that another attempt sends the same;
    dates become ISO text. Anything else stays as it is.

    Raises:
        ValueError: For a text with a lone surrogate, which no request can hold, or a file that cannot be read.
    """
    if isinstance(value, str):
        return _encodable(value)
    if value is None or isinstance(value, (int, float, bytes)):
        return value
    if isinstance(value, Mapping):
        return {key: to_json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, Iterator) and not hasattr(value, "read")):
        return [to_json_value(item) for item in value]
    return value if isinstance(value, type) else _convert(value)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        position = exc.start
    else:
        return text
    raise ValueError(f"a text has a lone surrogate at position {position}: it cannot be sent")


def _convert(value: Any) -> Any:
    if callable(to_dict := getattr(value, "to_dict", None)):
        return to_json_value(to_dict())
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


def without_blank_text(content: Sequence[Block]) -> list[Block]:
    """*content* without blank text blocks, which the API sends but does not accept."""
    return [block for block in content if block["type"] != "text" or block["text"].strip()]


def size(part: Any) -> int:
    """The characters of all text in a block, a message, or a list of them, nested blocks included."""
    if isinstance(part, str):
        return len(part)
    if isinstance(part, dict):
        return sum(map(size, part.values()))
    return sum(map(size, part)) if isinstance(part, list) else 0


def user_turn(prompt: Any, name: str = "prompt") -> Block:
    """
    The user's message with *prompt* as its content.

    Raises:
        ValueError: If *prompt* is blank, or is no content.
    """
    content = to_json_value(prompt) if isinstance(prompt, str) else content_blocks(name, prompt)
    said = content if isinstance(content, str) else "".join(map(_text_of_block, content))
    if not said.strip():
        raise ValueError(f"{name} is blank: {prompt!r}")
    return {"role": "user", "content": content}


def _text_of_block(block: Block) -> str:
    """The text of *block*, or the type of a block that is no text."""
    return str((block.get("text") if block["type"] == "text" else block["type"]) or "")


def message_list(messages: Any) -> list[Block]:
    """
    A copy of *messages*.

    Raises:
        ValueError: If they are no messages, or none.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"messages must be a list of dicts, got {type_name(messages)}")
    if not messages:
        raise ValueError("messages is empty")
    turns: list[Block] = to_json_value([*messages])
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise ValueError(f"messages[{i}] is {type_name(turn)}, not a dict with 'role' and 'content'")
        if missing := {"role", "content"} - turn.keys():
            raise ValueError(f"messages[{i}] has no {min(missing)!r}")
        if not isinstance(turn["content"], str):
            content_blocks(f"messages[{i}]['content']", turn["content"])
    return turns


def content_blocks(name: str, content: Any) -> list[Block]:
    """
    A copy of *content*, a list of blocks.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(content, (bytes, Mapping)) or not isinstance(content, Sequence):
        raise ValueError(f"{name} must be a str or a list of content blocks, got {type_name(content)}")
    blocks: list[Block] = to_json_value([*content])
    for i, block in enumerate(blocks):
        if not isinstance(block, dict) or not block.get("type"):
            raise ValueError(f"{name}[{i}] must be a content block, a dict with a 'type', got {content[i]!r}")
    return blocks
