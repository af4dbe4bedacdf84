"""The JSON schemas of structured output and strict tools: what the API takes of them (facts 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ._checks import check_choice, check_fields, check_type
from ._errors import RejectedError, invalid
from ._patterns import text_matching
from ._prompt import Body

Schema = Mapping[str, Any]

MOST_OPTIONAL = 24
MOST_UNIONS = 16
MOST_PARTS = 10_000  # with all references replaced by what they point at; the API's own bound is not known

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_NUMERIC = ("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "multipleOf")
# What may not be said of a value, by its type; under None, whatever its type.
_REFUSED: Mapping[str | None, Sequence[str]] = {
    "object": ("patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired"),
    "array": ("maxItems", "uniqueItems", "contains", "prefixItems"),
    "string": ("minLength", "maxLength"),
    "integer": _NUMERIC,
    "number": _NUMERIC,
}
_REFUSED_ANYWHERE = ("oneOf", "not", "if", "then", "else", "dependentSchemas")


def format_of(body: Body) -> tuple[str, Any]:
    """The name and value of the parameter that says what form the answer has; its value is None if there is none."""
    if body.get("output_format") is not None:
        return "output_format", body["output_format"]
    return "output_config.format", (body.get("output_config") or {}).get("format")


def check_output(body: Body) -> None:
    """Check the effort and the form that the answer shall have."""
    config = body.get("output_config") or {}
    check_fields("output_config", config, {"effort", "format", "task_budget"})
    check_choice("output_config.effort", config.get("effort"), ("low", "medium", "high", "xhigh", "max"))
    where, wanted = format_of(body)
    if wanted is not None:
        check_type(where, wanted, dict)
        _check_format(where, wanted)


def _check_format(where: str, wanted: Mapping[str, Any]) -> None:
    for key in ("type", "schema"):
        if wanted.get(key) is None:
            raise invalid(f"{where}.{key}: Field required")
    check_choice(f"{where}.type", wanted["type"], ("json_schema",))
    check_fields(where, wanted, {"type", "schema"})
    check_type(f"{where}.schema", wanted["schema"], dict)
    check_complexity(checked_parts(f"{where}.schema", wanted["schema"]))


def checked_parts(where: str, schema: Schema) -> list[Schema]:
    """
    Check that *schema* says nothing that the API does not enforce, and neither contains itself nor is too large.

    Gives it and all schemas within it, but for those that it refers to: the API does not count them (facts-2 2).
    """
    parts = list(_parts(where, schema))
    for part in parts:
        _check_part(where, part)
    if any("$ref" in part for part in parts):
        _check_references(where, schema, schema, ("#",))
    outside = {name: value for name, value in schema.items() if name not in ("$defs", "definitions")}
    return list(_parts(where, outside))


def check_complexity(parts: Iterable[Schema]) -> None:
    """Check how many parameters of all schemas may be left out, and how many have more than one type."""
    optional = unions = 0
    for part in parts:
        properties = part.get("properties") or {}
        optional += len(properties.keys() - (part.get("required") or ()))
        unions += sum("anyOf" in value or isinstance(value.get("type"), list) for value in properties.values())
    if optional > MOST_OPTIONAL:
        raise invalid(
            f"Schemas contains too many optional parameters ({optional}), which would make grammar compilation "
            f"inefficient. Reduce the number of optional parameters in your tool schemas (limit: {MOST_OPTIONAL})."
        )
    if unions > MOST_UNIONS:
        raise invalid(
            f"Schemas contains too many parameters with union types ({unions}), which would cause exponential "
            f"compilation cost. Reduce the number of nullable or union-typed parameters (limit: {MOST_UNIONS})."
        )


def target_of(root: Schema, reference: str) -> Any:
    """
    The part of *root* that *reference* points at.

    Raises:
        KeyError: If it points at nothing in it.
    """
    part: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        part = part[name.replace("~1", "/").replace("~0", "~")]
    return part


def types_of(schema: Schema) -> list[Any]:
    """The types that *schema* names."""
    named = schema.get("type")
    return named if isinstance(named, list) else [] if named is None else [named]


def _parts(where: str, schema: Any) -> Iterator[Schema]:
    """*schema* and all schemas within it. What a reference points at is found where it is defined."""
    if not isinstance(schema, dict):
        raise _bad(where)
    yield schema
    for inner in _inner(schema):
        yield from _parts(where, inner)


def _inner(schema: Schema) -> Iterator[Any]:
    for key in ("$defs", "definitions", "properties"):
        yield from (schema.get(key) or {}).values()
    for key in ("anyOf", "allOf"):
        yield from schema.get(key) or ()
    if "items" in schema:
        yield schema["items"]


def _check_part(where: str, part: Schema) -> None:
    types = types_of(part)
    if any(name not in TYPES for name in types) or part.get("enum", ["x"]) in ([], None) or part.get("anyOf") == []:
        raise _bad(where)
    for name in types:
        _check_words(where, name, [word for word in _REFUSED.get(name, ()) if word in part])
    if refused := [word for word in _REFUSED_ANYWHERE if word in part]:
        raise invalid(f"{where}: Schema type '{refused[0]}' is not supported")
    if "object" in types and part.get("additionalProperties") is not False:
        raise invalid(f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    if part.get("minItems", 0) not in (0, 1):
        raise invalid(f"{where}: For 'array' type, 'minItems' values other than 0 or 1 are not supported")
    if "pattern" in part:
        _check_pattern(where, part["pattern"])


def _check_words(where: str, name: str, refused: Sequence[str]) -> None:
    if len(refused) == 1:
        raise invalid(f"{where}: For '{name}' type, property '{refused[0]}' is not supported")
    if refused:
        raise invalid(f"{where}: For '{name}' type, properties {', '.join(refused)} are not supported")


def _check_pattern(where: str, pattern: Any) -> None:
    try:
        text_matching(pattern)
    except ValueError as error:
        raise invalid(f"{where}: For 'string' type, pattern {pattern!r} is not supported: {error}") from None


def _check_references(where: str, root: Schema, schema: Schema, path: Sequence[str]) -> int:
    """Check the references in *schema*, to which those of *path* lead. Gives the number of parts it stands for."""
    size = 0
    for part in _parts(where, schema):
        size += 1
        if "$ref" in part:
            reference = str(part["$ref"])
            if reference in path:
                raise invalid(f"{where}: Circular reference detected: {reference}")
            size += _check_references(where, root, _target(where, root, reference), (*path, reference))
        if size > MOST_PARTS:
            raise invalid("The compiled grammar is too large. Simplify your schemas.")
    return size


def _target(where: str, root: Schema, reference: str) -> Any:
    if not reference.startswith("#"):
        raise invalid(f"{where}: External $ref {reference!r} is not supported")
    try:
        return target_of(root, reference)
    except (KeyError, TypeError):
        raise _bad(where) from None


def _bad(where: str) -> RejectedError:
    return invalid(f"{where}: JSON schema is invalid. It must match JSON Schema draft 2020-12.")
