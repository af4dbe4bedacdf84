"""Answers as data: the type that is asked for, as the schema to send and as what reads the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from claude_client._values.content import json_values
from claude_client._values.log import told
from claude_client._values.response import ClaudeResponse, final_text_of
from claude_client._values.schema import Schema, for_api
from claude_client._values.spelling import in_its_case

_MOST_PROBLEMS = 10  # of an answer, that are told
_LONGEST_PROBLEM = 300  # characters of each


class OutputType:
    """What `output=` asked for."""

    def __init__(self, asked: Any) -> None:
        self._adapter: Any = None
        self._validator: Any = None
        if isinstance(asked, Mapping):
            self._raw: Schema = asked
        else:
            self._adapter = _adapter_of(asked)
            self._raw = self._adapter.json_schema()
        #: As the API takes it.
        self.schema = for_api(self._raw)
        if self._adapter is None:
            self._validator = validator_of(self._raw, "output")

    def read(self, text: str) -> Any:
        """
        The value that *text* is.

        Raises:
            ValueError: If it is none; pydantic's error where it was a type of Python.
        """
        try:
            return self._read(text)
        except ValueError:
            try:
                value = json.loads(text)
            except ValueError:
                value = mended = None
            else:
                mended = in_its_case(value, self._raw)
            if mended == value:
                raise
            return self._read(json.dumps(mended))

    def _read(self, text: str) -> Any:
        if self._adapter is not None:
            return self._adapter.validate_json(text)
        value = json.loads(text)
        if problems := [f"{error.json_path}: {error.message}" for error in self._validator.iter_errors(value)]:
            raise ValueError(_told(problems))
        return value


def output_in(response: ClaudeResponse, output: OutputType) -> Any:
    """
    The value of all text of *response*; or of that after what tools of the API did, before which a model may say more.
    None if it asks for a tool: the answer is yet to come.

    Raises:
        Exception: As `OutputType.read`; and whatever a validator of the user's raises.
    """
    if response.stop_reason == "tool_use":
        return None
    try:
        return output.read(str(response))
    except ValueError:
        final = final_text_of(response.message.content)
        if final == str(response):
            raise
        return output.read(final)


def problem_of(invalid: Exception) -> str:
    """What *invalid*, which an `OutputType` or a validator of the user's raised, has against an answer; not endless."""
    errors: Any = getattr(invalid, "errors", None)
    if type(invalid).__name__ == "ValidationError" and callable(errors):
        found = errors(include_url=False, include_context=False, include_input=False)
        parts = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ") for error in found]
        return f"ValidationError: {_told(parts)}"
    return f"{type(invalid).__name__}: {_shortened(told(invalid), _MOST_PROBLEMS * _LONGEST_PROBLEM)}"


def _told(problems: list[str]) -> str:
    more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
    return "; ".join(_shortened(problem, _LONGEST_PROBLEM) for problem in problems[:_MOST_PROBLEMS]) + more


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def output_of(asked: Any) -> OutputType | None:
    """
    The `OutputType` of *asked*, made once for each type; None for None.

    Raises:
        ValueError: For what the API does not take, or what is no type.
        ImportError: For a JSON schema, without jsonschema to check answers by it.
    """
    if asked is None or isinstance(asked, OutputType):
        return asked
    try:
        if isinstance(asked, Mapping):
            return _of_schema(json.dumps(json_values({"output": asked})["output"]))
        return _of_type(asked, repr(asked))
    except TypeError as unhashable:  # such as an Annotated with a list; or foreign code failed
        try:
            return OutputType(asked)
        except TypeError:
            raise ValueError(f"output cannot be {asked!r}: {told(unhashable)}") from unhashable
    except (ValueError, ImportError):
        raise
    except Exception as failed:
        raise ValueError(f"output cannot be {asked!r}: {type(failed).__name__}: {told(failed)}") from failed


@lru_cache(maxsize=64)
def _of_type(asked: Any, spelt: str) -> OutputType:  # noqa: ARG001 - equal unions may have another order
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


def validator_of(schema: Schema, name: str) -> Any:
    """
    What checks a value by *schema*, which is called *name*.

    Raises:
        ValueError: If it is no schema.
        ImportError: Without jsonschema.
    """
    try:
        from jsonschema import Draft202012Validator, SchemaError
    except ImportError as missing:
        raise ImportError(
            f"{name} as a JSON schema needs jsonschema, to check what comes by it: pip install jsonschema (types of "
            "Python do not)"
        ) from missing
    checker = Draft202012Validator.FORMAT_CHECKER
    try:
        Draft202012Validator.check_schema(schema, format_checker=checker)
    except SchemaError as wrong:
        raise ValueError(f"{name} is no JSON schema: {wrong.json_path}: {wrong.message}") from wrong
    return Draft202012Validator(schema, format_checker=checker)
