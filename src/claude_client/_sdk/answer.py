"""Tells a whole answer from one that cannot be used, and keeps of that what there is to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from claude_client._sdk.parameters import message_of
from claude_client._sdk.stream import StreamedMessage
from claude_client._values.errors import ClaudeInvocationError, from_body
from claude_client._values.kinds import field
from claude_client._values.response import text_of
from claude_client._values.text import all_whole, is_whole
from claude_client._values.usage import Usage


def message_from(arrived: Any) -> Any:
    """
    The message that has *arrived*, as a stream or as the SDK's message, in texts that can be written.

    Raises:
        ValueError: If it is no message, or not a whole one. The SDK checks nothing: a body that is no message comes as
            a str, or as a message without what makes it one.
    """
    message = arrived.message() if isinstance(arrived, StreamedMessage) else arrived
    if getattr(message, "type", None) != "message" or not all(map(_is_block, message.content)):
        raise ValueError("it is no message")
    if not isinstance(message.stop_reason, str):
        raise ValueError("it has no stop reason")
    if all(map(_is_whole_text, message.content)):
        return message
    try:
        fields = message.to_dict(warnings=False)
        mended = all_whole(fields)
        json.dumps(mended, allow_nan=False, default=str)
    except (RecursionError, ValueError) as unwritable:  # nested too deeply, or with a number that JSON has not
        raise ValueError(f"it cannot be written as JSON: {unwritable}") from unwritable
    return message if mended == fields else message_of(mended)


def unusable(arrived: Any, problem: Exception, secrets: Sequence[str], request_id: str | None) -> ClaudeInvocationError:
    """The error for what has *arrived*, with its text and usage, and all else that it says as `details`."""
    said = None
    with suppress(Exception):  # what is nested too deeply to be read
        said = _fields_of(arrived)
    text, usage = contents_of(arrived)
    return from_body(
        said, secrets, f"The answer cannot be used: {problem}", request_id=request_id, partial_text=text, usage=usage
    )


def refusal(message: Any, request_id: str | None) -> ClaudeInvocationError:
    """The error for the *message* of a model that refused."""
    details = _fields_of(getattr(message, "stop_details", None))
    category, explanation = field(details, "category"), field(details, "explanation")
    return ClaudeInvocationError(
        "The model refused" + (f" ({category})" if category else "") + (f": {explanation}" if explanation else ""),
        kind="refusal",
        status_code=200,
        details=details,
        request_id=request_id,
        partial_text=text_of(message.content),
        usage=Usage.of(getattr(message, "usage", None)),
    )


def contents_of(arrived: Any) -> tuple[str, Usage]:
    """The text and the usage of what has *arrived*, as far as they can be read."""
    text, usage = "", Usage()
    with suppress(Exception):
        text = arrived.text if isinstance(arrived, StreamedMessage) else text_of(arrived.content)
    with suppress(Exception):
        usage = arrived.usage if isinstance(arrived, StreamedMessage) else Usage.of(arrived.usage)
    return text, usage


def _fields_of(arrived: Any) -> Any:
    if isinstance(arrived, StreamedMessage):
        return arrived.fields()
    return all_whole(arrived.to_dict(warnings=False) if hasattr(arrived, "to_dict") else arrived)


def _is_block(block: Any) -> bool:
    return isinstance(block.type, str) and (block.type != "text" or isinstance(block.text, str))


def _is_whole_text(block: Any) -> bool:
    return block.type == "text" and not block.citations and is_whole(block.text)
