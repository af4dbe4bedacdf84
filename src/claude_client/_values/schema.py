"""JSON schemas as the API takes them for structured output: what it refuses is said in words, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_MOST_OPTIONAL = 24
_MOST_UNIONS = 16

#: What the API does not enforce. It is told to the model in words, and checked on the answer.
_IN_WORDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
    "minLength": "characters at least",
    "maxLength": "characters at most",
    "minItems": "items at least",
    "maxItems": "items at most",
    "uniqueItems": "all items different",
    "minProperties": "properties at least",
    "maxProperties": "properties at most",
    "pattern": "matching the pattern",
    "format": "in the format",
    "default": "by default",
    "examples": "for example",
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
_NO_PATTERN = re.compile(r"\(\?<?[=!]|\\[bB1-9]|\(\?P=")  # lookarounds, word boundaries, references
# What says nothing that the model or the API needs.
_DROPPED = {"title", "discriminator", "$schema", "$id", "readOnly", "writeOnly", "deprecated"}
_DROPPED |= {"description", "additionalProperties"}  # which are said anew
_REFUSED = ("not", "if", "then", "else", "dependentSchemas", "patternProperties", "propertyNames", "contains")


def for_api(schema: Schema) -> dict[str, Any]:
    """
    *schema* as the API takes it.

    Raises:
        ValueError: For what it does not take in any words, naming the field and what to use instead.
    """
    defined = {**schema.get("$defs", {}), **schema.get("definitions", {})}
    _check_recursion(schema, defined, ())
    made = _made(schema, "output")
    optional, unions = _complexity(made)
    if optional > _MOST_OPTIONAL:
        raise ValueError(
            f"output has {optional} fields that may be left out, and the API takes {_MOST_OPTIONAL}: require them"
        )
    if unions > _MOST_UNIONS:
        raise ValueError(f"output has {unions} fields of more than one type, and the API takes {_MOST_UNIONS}")
    return made


def _made(schema: Any, where: str) -> dict[str, Any]:
    _check_kind(schema, where)
    words = [schema["description"]] if schema.get("description") else []
    words += [
        _in_words(name, value) for name, value in schema.items() if name in _IN_WORDS and not _is_taken(name, value)
    ]
    made = dict(part for name, value in schema.items() for part in _taken(name, value, where))
    if schema.get("type") == "object" or "properties" in schema:
        _check_properties(schema, where)
        made["additionalProperties"] = False
    if words:
        made["description"] = "; ".join(words)
    return made


def _check_kind(schema: Any, where: str) -> None:
    if schema is True or schema == {}:
        raise ValueError(f"{where} may be anything, which the API does not take: give it a type")
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where} is no JSON schema, got {schema!r}")
    if refused := [word for word in _REFUSED if word in schema]:
        raise ValueError(f"{where} has {refused[0]!r}, which the API does not take")
    if "prefixItems" in schema:
        raise ValueError(
            f"{where} is a tuple, which the API does not take: use a class with a field for each, or a list"
        )


def _taken(name: str, value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """What is sent of a keyword and its value, as far as anything is."""
    if name in {"anyOf", "oneOf", "allOf"}:  # the API has one word for the first two
        yield name.replace("oneOf", "anyOf"), [_made(part, where) for part in value]
    elif name == "properties":
        yield name, {key: _made(part, f"{where}.{key}") for key, part in value.items()}
    elif name in {"$defs", "definitions"}:
        yield name, {key: _made(part, key) for key, part in value.items()}
    elif name == "items":
        yield name, _made(value, f"{where}[]")
    elif name not in _DROPPED and (name not in _IN_WORDS or _is_taken(name, value)):
        yield name, value


def _check_properties(schema: Schema, where: str) -> None:
    more = schema.get("additionalProperties")
    if not schema.get("properties") and more is not False and more is not None:
        raise ValueError(
            f"{where} is a dict with keys of any name, which the API does not take: use a list of objects that have "
            "the key as a field"
        )
    if isinstance(more, Mapping):
        raise ValueError(f"{where} takes more fields than it names, which the API does not")


def _is_taken(name: str, value: Any) -> bool:
    if name == "minItems":
        return value in (0, 1)
    if name == "pattern":
        return isinstance(value, str) and not _NO_PATTERN.search(value)
    return name == "format" and value in _FORMATS


def _in_words(name: str, value: Any) -> str:
    return _IN_WORDS[name] if value is True else f"{_IN_WORDS[name]} {json.dumps(value, default=str)}"


def _check_recursion(schema: Any, defined: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for part in _parts(schema):
        if isinstance(reference := part.get("$ref"), str):
            name = reference.rpartition("/")[2]
            if not reference.startswith("#/") or name not in defined:
                raise ValueError(f"output refers to {reference!r}, which is not in it")
            if name in path:
                raise ValueError(f"output is recursive: {name} contains itself, which the API does not take")
            _check_recursion(defined[name], defined, (*path, name))


def _parts(schema: Any) -> Iterator[Schema]:
    """*schema* and those within it, but for what it defines for references."""
    if isinstance(schema, Mapping):
        yield schema
        for name in ("anyOf", "oneOf", "allOf", "prefixItems"):
            for part in schema.get(name, ()):
                yield from _parts(part)
        for part in schema.get("properties", {}).values():
            yield from _parts(part)
        for name in ("items", "additionalProperties"):
            yield from _parts(schema.get(name))


def _complexity(schema: Schema) -> tuple[int, int]:
    """How many fields may be left out, and how many have more than one type, as the API counts them."""
    optional = unions = 0
    for root in (schema, *schema.get("$defs", {}).values(), *schema.get("definitions", {}).values()):
        for part in _parts(root):
            properties = part.get("properties", {})
            optional += len(properties.keys() - set(part.get("required", ())))
            unions += sum("anyOf" in value or isinstance(value.get("type"), list) for value in properties.values())
    return optional, unions
