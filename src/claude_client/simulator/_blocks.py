"""The rules for a block of content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._checks import check_choice, check_fields, check_tag, check_type
from ._errors import invalid

# Facts 5: the types of blocks that can be sent, besides the results of tools that the API runs.
BLOCK_TYPES = (
    "compaction",
    "connector_text",
    "container_upload",
    "document",
    "fallback",
    "image",
    "mcp_tool_use",
    "redacted_thinking",
    "search_result",
    "server_tool_use",
    "text",
    "thinking",
    "tool_addition",
    "tool_removal",
    "tool_result",
    "tool_use",
)
_RESULT_TYPES = ("document", "image", "search_result", "text", "tool_reference")  # what a tool's result is made of
_ONLY_IN = {"tool_use": "assistant", "tool_result": "user"}
_TEXT_FIELDS = frozenset({"type", "text", "cache_control", "citations"})
_REQUIRED: Mapping[str, Mapping[str, type]] = {
    "image": {"source": dict},
    "server_tool_use": {"id": str, "name": str, "input": dict},
    "tool_use": {"id": str, "name": str, "input": dict},
    "tool_result": {"tool_use_id": str},
}
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def check_block(where: str, block: Any, role: str) -> None:
    """Check that *block* is of a type that messages of *role* have, and has what blocks of that type need."""
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise invalid(f"{where}.type: Field required")
    kind = block["type"]
    if kind == "text":
        check_type(f"{where}.text", block.get("text"), str)
        check_text(where, block["text"])
        check_fields(f"{where}.text", block, _TEXT_FIELDS)
        return
    if not kind.endswith("_tool_result"):
        check_tag(where, block, BLOCK_TYPES)
    if role != _ONLY_IN.get(kind, role):
        raise invalid(f"{where}: `{kind}` blocks can only be in `{_ONLY_IN[kind]}` messages")
    _check_required(f"{where}.{kind}", block)
    if kind == "image":
        _check_image(f"{where}.image.source", block["source"])
    elif kind == "tool_result":
        _check_result(f"{where}.tool_result", block)


def check_text(where: str, text: str) -> None:
    """Check that *text* says something."""
    if not text or text.isspace():
        raise invalid(f"{where}: text content blocks must be non-empty")


def _check_required(where: str, block: Mapping[str, Any]) -> None:
    for key, needed in _REQUIRED.get(block["type"], {}).items():
        if key not in block:
            raise invalid(f"{where}.{key}: Field required")
        check_type(f"{where}.{key}", block[key], needed)


def _check_result(where: str, block: Mapping[str, Any]) -> None:
    if block.get("is_error") is not None:
        check_type(f"{where}.is_error", block["is_error"], bool)
    content = block.get("content")
    if content is None:
        return
    check_type(f"{where}.content", content, (str, list))
    for number, part in enumerate(content if isinstance(content, list) else ()):
        check_type(f"{where}.content.{number}", part, dict)
        check_tag(f"{where}.content.{number}", part, _RESULT_TYPES)
        if part["type"] != "tool_reference":
            check_block(f"{where}.content.{number}", part, "user")


def _check_image(where: str, source: Mapping[str, Any]) -> None:
    check_tag(where, source, ("base64", "file", "url"))
    if source["type"] == "base64":
        check_choice(f"{where}.base64.media_type", source.get("media_type", ""), _IMAGES)
        check_type(f"{where}.base64.data", source.get("data"), str)
