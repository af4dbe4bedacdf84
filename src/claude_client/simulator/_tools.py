"""The rules for tools, and for the choice of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ._checks import check_fields, check_tag, check_type
from ._errors import invalid
from ._prompt import Body
from ._schemas import Schema, check_complexity, checked_parts

LONGEST_NAME = 128
NAME = re.compile(r"[a-zA-Z0-9_-]+")
MOST_STRICT = 20  # facts 2

# Facts 3: the fields of a tool that the caller runs.
FIELDS = frozenset(
    {
        "type",
        "name",
        "description",
        "input_schema",
        "strict",
        "defer_loading",
        "cache_control",
        "allowed_callers",
        "input_examples",
        "eager_input_streaming",
    }
)


def check_tools(body: Body) -> None:
    """Check every tool, that their names differ, and that the choice is among them."""
    tools = body.get("tools") or ()
    for number, tool in enumerate(tools):
        check_type(f"tools.{number}", tool, dict)
        if tool.get("type") in (None, "custom"):
            _check_custom(f"tools.{number}.custom", tool)
    names = [tool["name"] for tool in tools if "name" in tool]
    if len(set(names)) < len(names):
        raise invalid("tools: Tool names must be unique.")
    _check_strict({f"tools.{i}.custom": tool["input_schema"] for i, tool in enumerate(tools) if tool.get("strict")})
    if body.get("tool_choice") is not None:
        _check_choice(body["tool_choice"], names)


def forces_a_tool(body: Body) -> bool:
    """Whether the model has to use a tool."""
    return (body.get("tool_choice") or {}).get("type") in ("any", "tool")


def _check_custom(where: str, tool: Mapping[str, Any]) -> None:
    for key in ("name", "input_schema"):
        if tool.get(key) is None:
            raise invalid(f"{where}.{key}: Field required")
    check_fields(where, tool, FIELDS)
    _check_name(f"{where}.name", tool["name"])
    schema = tool["input_schema"]
    check_type(f"{where}.input_schema", schema, dict)
    if "type" not in schema:
        raise invalid(f"{where}.input_schema.type: Field required")
    if schema["type"] != "object":
        raise invalid(f"{where}.input_schema.type: Input should be 'object'")


def _check_name(where: str, name: Any) -> None:
    check_type(where, name, str)
    if not name:
        raise invalid(f"{where}: String should have at least 1 character")
    if len(name) > LONGEST_NAME:
        raise invalid(f"{where}: String should have at most {LONGEST_NAME} characters")
    if not NAME.fullmatch(name):
        raise invalid(f"{where}: String should match pattern '^[a-zA-Z0-9_-]{{1,{LONGEST_NAME}}}$'")


def _check_strict(schemas: Mapping[str, Schema]) -> None:
    if len(schemas) > MOST_STRICT:
        raise invalid(
            f"Too many strict tools ({len(schemas)}). The maximum number of strict tools supported is {MOST_STRICT}."
        )
    check_complexity(part for where, schema in schemas.items() for part in checked_parts(where, schema))


def _check_choice(choice: Mapping[str, Any], names: Sequence[str]) -> None:
    check_tag("tool_choice", choice, ("any", "auto", "none", "tool"))
    if not names:
        raise invalid("tool_choice may only be specified while providing tools")
    if choice["type"] != "tool":
        return
    if "name" not in choice:
        raise invalid("tool_choice.tool.name: Field required")
    if choice["name"] not in names:
        raise invalid(f"Tool '{choice['name']}' not found in provided tools")
