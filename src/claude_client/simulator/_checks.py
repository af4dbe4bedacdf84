"""Checks of single values in a request, in the words of the API."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ._errors import invalid

JsonTypes = type | tuple[type, ...]

_NAMES = {str: "string", list: "list", dict: "dictionary", bool: "boolean", int: "integer", float: "number"}


def check_type(where: str, value: Any, types: JsonTypes) -> None:
    """Check that *value* has one of the *types*; the complaint names the first."""
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        first = types if isinstance(types, type) else types[0]
        raise invalid(f"{where}: Input should be a valid {_NAMES[first]}")


def check_choice(where: str, value: Any, choices: Sequence[str]) -> None:
    """Check that *value* is one of the *choices*, or None."""
    if value is not None and value not in choices:
        *others, last = map(repr, choices)
        raise invalid(f"{where}: Input should be {', '.join(others)}{' or ' if others else ''}{last}")


def check_tag(where: str, value: Mapping[str, Any], tags: Sequence[str]) -> None:
    """Check that the ``type`` of *value* is one of *tags*."""
    if value.get("type") not in tags:
        found, expected = str(value.get("type")), ", ".join(map(repr, tags))
        raise invalid(
            f"{where}: Input tag {found!r} found using 'type' does not match any of the expected tags: {expected}"
        )


def check_fields(where: str, value: Mapping[str, Any], known: Collection[str]) -> None:
    """Check that *value* has no other fields than the *known* ones."""
    if unknown := value.keys() - known:
        raise invalid(f"{where}.{min(unknown)}: Extra inputs are not permitted")
