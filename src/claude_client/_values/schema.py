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
    "contentEncoding": "encoded as",
    "contentMediaType": "of the media type",
    "default": "by default",
    "examples": "for example",
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
_NO_PATTERN = re.compile(r"\(\?<?[=!]|\\[bB1-9]|\(\?P=")  # lookarounds, word boundaries, references
_TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}
# What is sent as it is, what says what a value may be, and what says nothing that the model or the API needs.
_SENT = {"type", "enum", "const", "$ref", "required"}
_TELLING = {"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "properties", "items"}
_DROPPED = {"title", "discriminator", "$schema", "$id", "$comment", "readOnly", "writeOnly", "deprecated"}
_DROPPED |= {"description", "additionalProperties"}  # which are said anew
_NESTED = {"anyOf", "oneOf", "allOf", "properties", "items", "$defs", "definitions"}


def for_api(schema: Schema) -> dict[str, Any]:
    """
    *schema* as the API takes it.

    Raises:
        ValueError: For what it does not take in any words, naming the field and what to use instead.
    """
    used = _definitions_used(schema)
    made = _made(schema, "output", schema)
    for place in ("$defs", "definitions"):
        kept = {
            name: _made(part, name, schema)
            for name, part in schema.get(place, {}).items()
            if f"#/{place}/{_escaped(name)}" in used
        }
        if kept:
            made[place] = kept
    _check_complexity(made)
    return made


def target_of(root: Schema, reference: Any) -> Any:
    """
    The part of *root* that *reference* points at.

    Raises:
        LookupError, TypeError: If it points at nothing in it.
    """
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise LookupError(reference)
    part: Any = root
    for name in reference[1:].split("/")[1:]:
        part = part[name.replace("~1", "/").replace("~0", "~")]
    return part


def parts_of(schema: Any) -> Iterator[Any]:
    """The schemas right within *schema*, but for what it defines for references."""
    for name in ("anyOf", "oneOf", "allOf"):
        yield from schema.get(name, ())
    yield from schema.get("properties", {}).values()
    if "items" in schema:
        yield schema["items"]


def _made(schema: Any, where: str, root: Schema) -> dict[str, Any]:
    _check(schema, where, root)
    words = [schema["description"]] if isinstance(schema.get("description"), str) else []
    words += [
        _in_words(name, value) for name, value in schema.items() if name in _IN_WORDS and not _is_taken(name, value)
    ]
    made = dict(part for name, value in schema.items() for part in _taken(name, value, where, root))
    if "object" in _types_of(schema) or "properties" in schema:
        made["additionalProperties"] = False
    if words:
        made["description"] = "; ".join(words)
    return made


def _taken(name: str, value: Any, where: str, root: Schema) -> Iterator[tuple[str, Any]]:
    """What is sent of a keyword and its value, as far as anything is."""
    if name in {"anyOf", "oneOf", "allOf"}:  # the API has one word for the first two
        yield name.replace("oneOf", "anyOf"), [_made(part, where, root) for part in value]
    elif name == "properties":
        yield name, {key: _made(part, f"{where}.{key}", root) for key, part in value.items()}
    elif name == "items":
        yield name, _made(value, f"{where}[]", root)
    elif name in _SENT or _is_taken(name, value):
        yield name, value


def _check(schema: Any, where: str, root: Schema) -> None:
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where} is no JSON schema, got {schema!r}")
    if "prefixItems" in schema:
        raise ValueError(
            f"{where} is a tuple, which the API does not take: use a class with a field for each, or a list"
        )
    if any(not isinstance(name, str) or name not in _TYPES for name in _types_of(schema)):
        raise ValueError(f"{where} is of type {schema['type']!r}, which is none of {', '.join(sorted(_TYPES))}")
    _check_properties(schema, where)
    known = _SENT | _IN_WORDS.keys() | _DROPPED | _NESTED
    if unknown := [name for name in schema if name not in known and not name.startswith("x-")]:
        raise ValueError(f"{where} has {unknown[0]!r}, which the API does not take")
    if not _TELLING & schema.keys():
        raise ValueError(f"{where} may be anything, which the API does not take: give it a type")
    _check_alternatives(schema, where, root)


def _check_properties(schema: Schema, where: str) -> None:
    properties, more = schema.get("properties"), schema.get("additionalProperties")
    if properties is not None and not isinstance(properties, Mapping):
        raise ValueError(f"{where} has properties that are no dict, got {properties!r}")
    if not properties and "object" in _types_of(schema) and (more or (properties is None and more is not False)):
        raise ValueError(
            f"{where} is a dict with keys of any name, which the API does not take: use a list of objects that have "
            "the key as a field"
        )
    if isinstance(more, Mapping):
        raise ValueError(f"{where} takes more fields than it names, which the API does not")
    if missing := [name for name in schema.get("required", ()) if name not in (properties or {})]:
        raise ValueError(f"{where} requires {missing[0]!r}, which is not among its properties")


def _check_alternatives(schema: Schema, where: str, root: Schema) -> None:
    for name in ("enum", "anyOf", "oneOf", "allOf"):
        if name in schema and not (isinstance(schema[name], list) and schema[name]):
            raise ValueError(f"{where} has {name} without anything that it may be, got {schema[name]!r}")
    if "anyOf" in schema and "oneOf" in schema:
        raise ValueError(f"{where} has anyOf and oneOf, for which the API has one word: use one of them")
    joined = [*schema.get("allOf", ()), *([schema] if "properties" in schema else [])]
    if len(joined) > 1 and any("properties" in _resolved(part, root) for part in joined):
        raise ValueError(f"{where} joins objects by allOf, and the API closes each of them: use one with all fields")


def _types_of(schema: Schema) -> list[Any]:
    named = schema.get("type")
    return named if isinstance(named, list) else [] if named is None else [named]


def _is_taken(name: str, value: Any) -> bool:
    if name == "minItems":
        return value in (0, 1)
    if name == "pattern":
        return isinstance(value, str) and not _NO_PATTERN.search(value) and _compiles(value)
    return name == "format" and value in _FORMATS


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _in_words(name: str, value: Any) -> str:
    return _IN_WORDS[name] if value is True else f"{_IN_WORDS[name]} {json.dumps(value, default=str)}"


def _resolved(schema: Any, root: Schema) -> Schema:
    """*schema*, or what it refers to in the end."""
    while isinstance(schema, Mapping) and "$ref" in schema:
        schema = target_of(root, schema["$ref"])
    return schema if isinstance(schema, Mapping) else {}


def _definitions_used(root: Schema) -> set[str]:
    """
    The references that *root* uses, and those that they use.

    Raises:
        ValueError: If one points at nothing in it, or what it points at contains itself.
    """
    done: set[str] = set()

    def follow(schema: Any, path: tuple[str, ...], where: str) -> None:
        if not isinstance(schema, Mapping):
            return
        if "$ref" in schema:
            reference = schema["$ref"]
            if reference in path or reference == "#":
                name = str(reference).rpartition("/")[2]
                raise ValueError(f"{where} is recursive: {name} contains itself, which the API does not take")
            if reference not in done:
                try:
                    target = target_of(root, reference)
                except (LookupError, TypeError):
                    raise ValueError(f"{where} refers to {reference!r}, which is not in it") from None
                follow(target, (*path, reference), where)
                done.add(reference)
        properties = schema.get("properties")
        for name, part in properties.items() if isinstance(properties, Mapping) else ():
            follow(part, path, f"{where}.{name}")
        for part in parts_of({**schema, "properties": {}}):
            follow(part, path, where)

    follow(root, (), "output")
    return done


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_complexity(schema: Schema) -> None:
    """Check how many fields may be left out, or have more than one type. The API counts none behind a reference."""
    fields = [*_fields(schema, "output")]
    optional = [where for where, _, required in fields if not required]
    unions = [where for where, part, _ in fields if "anyOf" in part or isinstance(part.get("type"), list)]
    if len(optional) > _MOST_OPTIONAL:
        raise ValueError(
            f"output has {len(optional)} fields that may be left out, and the API takes {_MOST_OPTIONAL}: require some "
            f"of {', '.join(optional)}"
        )
    if len(unions) > _MOST_UNIONS:
        raise ValueError(
            f"output has {len(unions)} fields of more than one type, and the API takes {_MOST_UNIONS}: "
            f"{', '.join(unions)}"
        )


def _fields(schema: Schema, where: str) -> Iterator[tuple[str, Schema, bool]]:
    for name, part in schema.get("properties", {}).items():
        yield f"{where}.{name}", part, name in schema.get("required", ())
        yield from _fields(part, f"{where}.{name}")
    for part in parts_of({**schema, "properties": {}}):
        yield from _fields(part, where)
