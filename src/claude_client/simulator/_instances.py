"""A value that a JSON schema allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._patterns import text_matching
from ._schemas import Schema, target_of, types_of

_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "simulated@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/simulated",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_SIMPLE: Mapping[str, Any] = {"integer": 0, "number": 0, "boolean": False, "null": None}


def instance_of(schema: Schema, text: str) -> Any:
    """A value that *schema*, which the API takes, allows: all properties, lists of one, and *text* for texts."""
    return _Instances(schema, text).of(schema)


class _Instances:
    def __init__(self, root: Schema, text: str) -> None:
        self._root = root
        self._text = text

    def of(self, schema: Schema) -> Any:
        schema = self._plain(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        match self._type_of(schema):
            case "object":
                return self._object(schema)
            case "array":
                return [self.of(schema.get("items", {}))]
            case "string":
                return self._string(schema)
            case other:
                return _SIMPLE[other]

    def _plain(self, schema: Schema) -> Schema:
        """*schema* without references, and with one of its alternatives."""
        others = [*schema.get("allOf", ()), *schema.get("anyOf", ())[:1]]
        if "$ref" in schema:
            others.append(target_of(self._root, schema["$ref"]))
        plain = {key: value for key, value in schema.items() if key not in ("$ref", "allOf", "anyOf")}
        for other in others:
            plain = _merged(plain, self._plain(other))
        return plain

    def _type_of(self, schema: Schema) -> str:
        if types := types_of(schema):
            return str(types[0])
        return "object" if "properties" in schema else "array" if "items" in schema else "string"

    def _object(self, schema: Schema) -> dict[str, Any]:
        """Facts 2: the required properties come first."""
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        order = sorted(properties, key=lambda name: name not in required)
        return {name: self.of(properties[name]) for name in order}

    def _string(self, schema: Schema) -> str:
        if "pattern" in schema:
            return text_matching(schema["pattern"])
        return _FORMATS.get(schema.get("format", ""), self._text)


def _merged(one: Schema, other: Schema) -> dict[str, Any]:
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
        merged["required"] = [*one.get("required", ()), *other.get("required", ())]
    return merged
