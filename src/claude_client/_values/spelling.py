"""Enums in upper and lower case, which the API does not promise to keep as a schema spells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from claude_client._values.schema import Schema, target_of

_IS: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def in_its_case(value: Any, root: Schema) -> Any:
    """
    The JSON *value* with texts spelt as the enums of the schema *root* have them, where that is the one way in which it
    fits; else *value* as it is.
    """
    return _Speller(root).mended(value, root)


class _Speller:
    def __init__(self, root: Schema) -> None:
        self._root = root

    def mended(self, value: Any, schema: Schema) -> Any:
        schema = self._resolved(schema)
        if isinstance(value, str):
            value = _as_named(value, schema)
        elif isinstance(value, list) and "items" in schema:
            value = [self.mended(item, schema["items"]) for item in value]
        elif isinstance(value, dict):
            properties = schema.get("properties", {})
            value = {
                name: self.mended(item, properties[name]) if name in properties else item
                for name, item in value.items()
            }
        for part in schema.get("allOf", ()):
            value = self.mended(value, part)
        parts = schema.get("anyOf") or schema.get("oneOf") or ()
        return self._mended_as_one_of(value, parts) if parts else value

    def _mended_as_one_of(self, value: Any, parts: list[Schema]) -> Any:
        if any(self._fits(value, part) for part in parts):
            return value
        found: list[Any] = []
        for part in parts:
            mended = self.mended(value, part)
            if mended not in found and self._fits(mended, part):
                found.append(mended)
        return found[0] if len(found) == 1 else value

    def _fits(self, value: Any, schema: Schema) -> bool:
        """Whether *value* is of the types and has the fields and named values that *schema* says."""
        schema = self._resolved(schema)
        named = schema.get("enum", [schema["const"]] if "const" in schema else None)
        types = schema.get("type", [])
        types = types if isinstance(types, list) else [types]
        if (named is not None and value not in named) or (types and not any(_IS[name](value) for name in types)):
            return False
        if isinstance(value, list) and not all(self._fits(item, schema.get("items", {})) for item in value):
            return False
        if isinstance(value, dict) and not self._has_fields(value, schema):
            return False
        parts = schema.get("anyOf") or schema.get("oneOf")
        return all(self._fits(value, part) for part in schema.get("allOf", ())) and (
            not parts or any(self._fits(value, part) for part in parts)
        )

    def _has_fields(self, value: Mapping[str, Any], schema: Schema) -> bool:
        properties = schema.get("properties", {})
        return set(schema.get("required", ())) <= value.keys() <= properties.keys() and all(
            self._fits(item, properties[name]) for name, item in value.items()
        )

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = target_of(self._root, schema["$ref"])
        return schema


def _as_named(value: str, schema: Schema) -> str:
    named = [text for text in schema.get("enum", [schema.get("const")]) if isinstance(text, str)]
    same = [text for text in named if text.casefold() == value.casefold()]
    return same[0] if value not in named and len(same) == 1 else value
