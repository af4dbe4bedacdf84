"""Content as the API takes it. Everything returned is new."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from claude_client._values.checks import type_name

Block = dict[str, Any]

#: The types of blocks of thinking, which carry no cache breakpoint and end no message.
THINKING = ("thinking", "redacted_thinking")


# Of the SDK: what its `create` takes besides JSON.
_SENTINELS = frozenset({"Omit", "NotGiven", "Timeout"})


def to_json_value(value: Any) -> Any:
    """
    A copy of *value* that no later change by the caller reaches.

    Mappings become dicts; lists, tuples and generators become lists; objects of the SDK or pydantic become their JSON
    values; open files become their content, in base64 if it is bytes; dates become ISO text. Paths of files stay as
    they are, for `loaded`.

    Raises:
        ValueError: For what is no JSON value, a text with a lone surrogate, or a file that cannot be read.
    """
    if isinstance(value, str):
        return _encodable(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {_key(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, Iterator) and not hasattr(value, "read")):
        return [to_json_value(item) for item in value]
    return _convert(value)


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Copies of *values*, with the content of their files.

    Raises:
        ValueError: Naming the one that cannot be sent.
    """
    copies = {}
    for name, value in values.items():
        try:
            copies[name] = loaded(to_json_value(value))
        except ValueError as bad:
            raise ValueError(f"{name}: {bad}") from bad.__cause__
    return copies


def loaded(value: Any) -> Any:
    """
    A copy of *value*, a JSON value but for paths of files, with their content: as text in a block or source of type
    "text", else in base64.

    Raises:
        ValueError: If a file cannot be read, or is to be text and is none.
    """
    if isinstance(value, dict):
        as_text = value.get("type") == "text"
        return {
            key: _content_of(item, as_text=as_text) if isinstance(item, os.PathLike) else loaded(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [loaded(item) for item in value]
    return _content_of(value, as_text=False) if isinstance(value, os.PathLike) else value


def has_files(value: Any) -> bool:
    """Return whether there is a path of a file in *value*."""
    if isinstance(value, dict):
        return any(map(has_files, value.values()))
    return any(map(has_files, value)) if isinstance(value, list) else isinstance(value, os.PathLike)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"a dict with the key {key!r} cannot be sent: JSON has texts there")
    return _encodable(key)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        position = exc.start
    else:
        return text
    raise ValueError(f"a text has a lone surrogate at position {position}: it cannot be sent")


def _convert(value: Any) -> Any:
    if not isinstance(value, type):
        if callable(to_dict := getattr(value, "to_dict", None)):
            return to_json_value(to_dict())
        if callable(dump := getattr(value, "model_dump", None)):
            return dump(mode="json", exclude_unset=True)
        if callable(read := getattr(value, "read", None)):
            content = read()
            return base64.b64encode(content).decode() if isinstance(content, bytes) else content
        if callable(iso := getattr(value, "isoformat", None)):
            return iso()
        if isinstance(value, os.PathLike):
            return _readable(value)
        if type(value).__name__ in _SENTINELS or (isinstance(value, float) and math.isfinite(value)):
            return value
    shown = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.100}"
    raise ValueError(f"{shown} cannot be sent: it is no JSON value")


def _readable(path: os.PathLike[str]) -> os.PathLike[str]:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    return path


def _content_of(path: os.PathLike[str], *, as_text: bool) -> str:
    from pathlib import Path  # it takes a tenth of our import

    try:
        return Path(path).read_text("utf-8") if as_text else base64.b64encode(Path(path).read_bytes()).decode()
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    except UnicodeDecodeError as exc:
        problem = ValueError(f"the file {os.fspath(path)!r} is not UTF-8 text: {exc.reason} at byte {exc.start}")
    raise problem


def _unreadable(path: os.PathLike[str], exc: OSError) -> ValueError:
    return ValueError(f"the file {os.fspath(path)!r} cannot be read: {exc.strerror}")


def as_blocks(content: str | list[Block] | None) -> list[Block]:
    """*content* as a list of blocks; blank text gives none, as the API refuses an empty block."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content and content.strip() else []
    return content


def without_blank_text(content: Sequence[Block]) -> list[Block]:
    """
    *content* without blank text blocks, which the API sends but does not accept. A cache breakpoint on one goes to the
    block before it.
    """
    kept: list[Block] = []
    for block in content:
        if block["type"] != "text" or not isinstance(block.get("text"), str) or block["text"].strip():
            kept.append(block)
        elif kept and block.get("cache_control") and kept[-1]["type"] not in THINKING:
            kept[-1] = {"cache_control": block["cache_control"], **kept[-1]}
    return kept


def size(part: Any) -> int:
    """The characters of all text in a block, a message, or a list of them, nested blocks and files included."""
    if isinstance(part, str):
        return len(part)
    if isinstance(part, dict):
        return sum(map(size, part.values()))
    if isinstance(part, os.PathLike):
        return _bytes_in(part)
    return sum(map(size, part)) if isinstance(part, list) else 0


def _bytes_in(path: os.PathLike[str]) -> int:
    from pathlib import Path

    try:
        return Path(path).stat().st_size
    except OSError:  # it will fail when it is sent
        return 0


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
        name = f"messages[{i}]['content']"
        if not isinstance(turn["content"], str):
            turn["content"] = _checked_blocks(name, turn["content"])
        if i < len(turns) - 1 or turn["role"] != "assistant":
            _check_not_blank(name, turn["content"])
    return turns


def _check_not_blank(name: str, content: str | list[Block]) -> None:
    if not content or (isinstance(content, str) and not content.strip()):
        raise ValueError(f"{name} is blank")


def content_blocks(name: str, content: Any) -> list[Block]:
    """
    A copy of *content*, a list of blocks.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(content, (bytes, Mapping)) or not isinstance(content, Sequence):
        raise _no_blocks(name, content)
    return _checked_blocks(name, to_json_value([*content]))


def _checked_blocks(name: str, blocks: Any) -> list[Block]:
    """*blocks*, copied already, without blank texts; a ValueError if they are none."""
    if not isinstance(blocks, list):
        raise _no_blocks(name, blocks)
    for i, block in enumerate(blocks):
        if not _is_block(block):
            raise ValueError(f"{name}[{i}] must be a content block, a dict with a 'type', got {block!r}")
        if isinstance(parts := block.get("content"), list) and all(map(_is_block, parts)):
            blocks[i] = {**block, "content": without_blank_text(parts)}
    return without_blank_text(blocks)


def _no_blocks(name: str, content: Any) -> ValueError:
    return ValueError(f"{name} must be a str or a list of content blocks, got {type_name(content)}")


def _is_block(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.get("type"))
