"""A value that a JSON schema allows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from random import Random
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
_LETTERS = 'abc XYZ 019 "\\/{}[]\n\u00e9\u4e2d\U0001f600'
_SIMPLE: Mapping[str, Any] = {"integer": 0, "number": 0, "boolean": False, "null": None}


def instance_of(schema: Schema, text: str) -> Any:
    """A value that *schema*, which the API takes, allows: all properties, lists of one, and *text* for texts."""
    return _Instances(schema, text).of(schema)


def drawn_instance_of(schema: Schema, random: Random) -> Any:
    """Any value that *schema*, which the API takes, allows, as *random* draws it."""
    return _DrawnInstances(schema, random).of(schema)


def something_else(value: Any, schema: Schema, random: Random) -> str:
    """What an answer may say in place of the *value* of *schema*: it is of another type, or no JSON at all."""
    texts = [f"Here it is: {json.dumps(value)}"]
    if "anyOf" not in schema:  # another type could be one of those
        others = [[0] if isinstance(value, dict) else {"simulated": "of another type"}]
        others += [_without(value, name) for name in schema.get("required", ()) if name in value]
        texts.append(json.dumps(random.choice(others)))
    return random.choice(texts)


def _without(value: Mapping[str, Any], missing: str) -> dict[str, Any]:
    return {name: value[name] for name in value if name != missing}


class _Instances:
    def __init__(self, root: Schema, text: str) -> None:
        self._root = root
        self._text = text

    def of(self, schema: Schema) -> Any:
        schema = self._plain(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice(schema["enum"])
        match self._type_of(schema):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case other:
                return self._simple(other)

    def _choice(self, allowed: Sequence[Any]) -> Any:
        return allowed[0]

    def _alternative(self, parts: Sequence[Schema]) -> Sequence[Schema]:
        return parts[:1]

    def _array(self, schema: Schema) -> list[Any]:
        return [self.of(schema.get("items", {}))]

    def _simple(self, named: str) -> Any:
        return _SIMPLE[named]

    def _plain(self, schema: Schema) -> Schema:
        """*schema* without references, and with one of its alternatives."""
        others = [*schema.get("allOf", ()), *self._alternative(schema.get("anyOf", ()))]
        if "$ref" in schema:
            others.append(target_of(self._root, schema["$ref"]))
        plain = {key: value for key, value in schema.items() if key not in ("$ref", "allOf", "anyOf")}
        for other in others:
            plain = _merged(plain, self._plain(other))
        return plain

    def _type_of(self, schema: Schema) -> str:
        if types := types_of(schema):
            return str(self._choice(types))
        return "object" if "properties" in schema else "array" if "items" in schema else "string"

    def _object(self, schema: Schema) -> dict[str, Any]:
        """Facts 2: the required properties come first."""
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        optional = self._some(name for name in properties if name not in required)
        order = [*(name for name in properties if name in required), *optional]
        return {name: self.of(properties[name]) for name in order}

    def _some(self, optional: Iterable[str]) -> Iterable[str]:
        return optional

    def _string(self, schema: Schema) -> str:
        if "pattern" in schema:
            return text_matching(schema["pattern"])
        return _FORMATS.get(schema.get("format", ""), self._text)


class _DrawnInstances(_Instances):
    def __init__(self, root: Schema, random: Random) -> None:
        super().__init__(root, "")
        self._random = random

    def _choice(self, allowed: Sequence[Any]) -> Any:
        return self._random.choice(allowed)

    def _alternative(self, parts: Sequence[Schema]) -> Sequence[Schema]:
        return [self._random.choice(parts)] if parts else ()

    def _array(self, schema: Schema) -> list[Any]:
        return [self.of(schema.get("items", {})) for _ in range(self._random.randint(schema.get("minItems", 0), 3))]

    def _simple(self, named: str) -> Any:
        drawn = {
            "integer": self._random.randint(-1000, 1000),
            "number": self._random.uniform(-1000, 1000),
            "boolean": self._random.random() < 0.5,
        }
        return drawn.get(named)

    def _some(self, optional: Iterable[str]) -> Iterable[str]:
        return [name for name in optional if self._random.random() < 0.5]

    def _string(self, schema: Schema) -> str:
        self._text = "".join(self._random.choices(_LETTERS, k=self._random.randint(0, 12)))
        return super()._string(schema)


def _merged(one: Schema, other: Schema) -> dict[str, Any]:
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
        merged["required"] = [*one.get("required", ()), *other.get("required", ())]
    return merged
