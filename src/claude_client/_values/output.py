"""Answers as data: the type that is asked for, as the schema to send and as what reads the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from claude_client._values.schema import Schema, for_api


class OutputType:
    """What `output=` asked for."""

    def __init__(self, asked: Any) -> None:
        self._adapter: Any = None
        self._checked: Any = None
        if isinstance(asked, Mapping):
            self._raw: Schema = asked
        else:
            self._adapter = _adapter_of(asked)
            self._raw = self._adapter.json_schema()
        #: As the API takes it.
        self.schema = for_api(self._raw)
        if self._adapter is None and _says_more(self._raw, self.schema):
            self._checked = _validator_of(self._raw)

    def read(self, text: str) -> Any:
        """
        The value that *text* is.

        Raises:
            ValueError: If it is none; pydantic's error where it was a type of Python.
        """
        if self._adapter is None:
            value = _in_its_case(json.loads(text), self._raw, self._raw)
            if self._checked:
                self._checked(value)
            return value
        try:
            return self._adapter.validate_json(text)
        except ValueError:
            value = json.loads(text)
            mended = _in_its_case(value, self._raw, self._raw)
            if mended == value:
                raise
            return self._adapter.validate_json(json.dumps(mended))


def output_of(asked: Any) -> OutputType | None:
    """
    The `OutputType` of *asked*, made once for each type; None for None.

    Raises:
        ValueError: For what the API does not take, or what is no type.
        ImportError: For a dict with rules that the API does not enforce, without jsonschema to check them.
    """
    if asked is None or isinstance(asked, OutputType):
        return asked
    if isinstance(asked, Mapping):
        return _of_schema(json.dumps(asked, sort_keys=False))
    try:
        return _of_type(asked)
    except TypeError:  # a type that cannot be hashed, such as an Annotated with a list
        return OutputType(asked)


@lru_cache(maxsize=64)
def _of_type(asked: Any) -> OutputType:
    return OutputType(asked)


@lru_cache(maxsize=64)
def _of_schema(text: str) -> OutputType:
    return OutputType(json.loads(text))


def _adapter_of(asked: Any) -> Any:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    if isinstance(asked, (str, bytes, int, float)):
        raise ValueError(f"output must be a type or a JSON schema, got {asked!r}")
    try:
        adapter: Any = TypeAdapter(asked)
        adapter.json_schema()
    except PydanticUserError as unusable:
        raise ValueError(f"output cannot be {asked!r}: {str(unusable).splitlines()[0]}") from unusable
    return adapter


def _says_more(raw: Schema, sent: Schema) -> bool:
    """Whether *raw* has rules that are only words in what is *sent*."""
    return any(word in json.dumps(raw) and word not in json.dumps(sent) for word in _RULES)


_RULES = (
    *('"minimum"', '"maximum"', '"exclusiveMinimum"', '"exclusiveMaximum"', '"multipleOf"', '"minLength"'),
    *('"maxLength"', '"minItems"', '"maxItems"', '"uniqueItems"', '"pattern"', '"minProperties"', '"maxProperties"'),
)


def _validator_of(schema: Schema) -> Any:
    try:
        from jsonschema import Draft202012Validator
    except ImportError as missing:
        raise ImportError(
            "output has rules that the API does not enforce (lengths, ranges), and checking them on the answer needs "
            "jsonschema: pip install jsonschema"
        ) from missing
    return Draft202012Validator(schema).validate


def _in_its_case(value: Any, schema: Any, root: Schema) -> Any:
    """*value* with the texts of enums spelt as *schema* has them, which the API does not promise of upper and lower."""
    if schema is None:
        return value
    schema = _defined(schema, root)
    if isinstance(value, str):
        allowed = [text for text in _texts_of(schema, root) if isinstance(text, str)]
        same = [text for text in allowed if text.casefold() == value.casefold()]
        return same[0] if value not in allowed and len(same) == 1 else value
    if isinstance(value, list):
        return [_in_its_case(item, schema.get("items"), root) for item in value]
    if isinstance(value, dict):
        for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            value = _in_its_case(value, part, root)
        properties = schema.get("properties", {})
        return {name: _in_its_case(item, properties.get(name), root) for name, item in value.items()}
    return value


def _defined(schema: Schema, root: Schema) -> Schema:
    """*schema*, or what it refers to in *root*."""
    if "$ref" not in schema:
        return schema
    defined: Schema = {**root.get("$defs", {}), **root.get("definitions", {})}[schema["$ref"].rpartition("/")[2]]
    return defined


def _texts_of(schema: Schema, root: Schema) -> list[Any]:
    """What *schema* allows by name."""
    schema = _defined(schema, root)
    named = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
    parts = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return [*named, *(text for part in parts for text in _texts_of(part, root))]
