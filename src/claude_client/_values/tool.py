"""Tools that run here: what the API is told of each, and what checks the arguments that a model gives."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints, overload
from weakref import WeakKeyDictionary

from claude_client._values.checks import seconds, type_name
from claude_client._values.content import json_values
from claude_client._values.context import Context
from claude_client._values.log import told
from claude_client._values.output import problem_of, validator_of
from claude_client._values.schema import Schema, for_api

_LONGEST_NAME = 128  # characters, of these
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")


class StopTools(Exception):  # noqa: N818 - it is no error of the tool's
    """Raised by a tool, or by `before_tool`, to end the call: it fails with kind "tool", and this as its cause."""


class BadArgumentsError(ValueError):
    """The arguments of a tool call do not fit: its message says what is wrong with them, for the model."""


@dataclass(frozen=True, eq=False)
class Tool:
    """
    A tool that is run where the model asks for it.

    Args:
        name: As the model calls it: letters, digits, `_` and `-`, at most 128.

        description: What it does and when to use it, for the model.

        schema: The JSON schema of its arguments, an object; checked at each call, for which it needs jsonschema.

        run:
            Called with the arguments by their names, on a thread of its own; a coroutine function on an event loop. A
            parameter annotated as `Context`, or `Context | None`, gets that of the call. What it returns is the result:
            a text, content blocks, the path of an image, a PDF or a text file, a list of those, or anything that JSON
            can say. What it raises is told to the model, by its message.

        timeout: Seconds that a call may take until the model is told that it has not ended. None: any time.

        fatal: Whether an exception ends the whole call, with kind "tool", instead of being told to the model.

        options: What else the API takes: `strict`, `cache_control`, `input_examples`, `defer_loading` ...

    Raises:
        ValueError: For what cannot be a tool.
        ImportError: Without jsonschema.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    run: Callable[..., Any] = field(repr=False)
    timeout: float | None = None
    fatal: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or as_name(self.name) != self.name:
            raise ValueError(
                f"the name of a tool has letters, digits, _ and -, at most 128, got {self.name!r:.200}: give it one by "
                "tool(function, name=...)"
            )
        if not callable(self.run):
            raise ValueError(f"the tool {self.name!r} cannot be run: {self.run!r} is not callable")
        if self.timeout is not None:
            seconds(f"the timeout of the tool {self.name!r}", self.timeout)
        if not isinstance(self.schema, Mapping) or self.schema.get("type") != "object":
            raise ValueError(
                f"the schema of the tool {self.name!r} must be that of an object, got {self.schema!r:.200}"
            )
        _ = self._reader

    @property
    def definition(self) -> dict[str, Any]:
        """What the API is told of it."""
        schema = for_api(dict(self.schema)) if self.options.get("strict") else self.schema
        about = {"name": self.name, "description": self.description, "input_schema": schema}
        return json_values({**about, **self.options})

    def call(self, context: Context, arguments: Any) -> Any:
        """
        What it returns for *arguments*: perhaps something to await.

        Raises:
            BadArgumentsError: If they do not fit.
            Exception: Whatever it raises itself.
        """
        try:
            read = {**self._reader(arguments)}
        except Exception as wrong:
            raise BadArgumentsError(f"The arguments do not fit: {problem_of(wrong)}") from wrong
        if self._context_name:
            read[self._context_name] = context
        return self.run(**read)

    @cached_property
    def _reader(self) -> Callable[[Any], Mapping[str, Any]]:
        """What makes keyword arguments of what the model gave, or raises what is wrong with that."""
        validator = validator_of(dict(self.schema), f"the schema of the tool {self.name!r}")

        def read(arguments: Any) -> Mapping[str, Any]:
            if problems := [f"{error.json_path}: {error.message}" for error in validator.iter_errors(arguments)]:
                raise ValueError("; ".join(problems))
            return _object(arguments)

        return read

    @cached_property
    def _context_name(self) -> str | None:
        return _context_in(_hints_of(self.run))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in {"_reader", "_context_name"}}


class _FunctionTool(Tool):
    """One whose schema is that of its function's parameters."""

    @cached_property
    def _reader(self) -> Callable[[Any], Mapping[str, Any]]:
        return _signature_of(self.run)[2]


class CheckingTool(Tool):
    """One that checks its arguments itself, where it is run."""

    @property
    def _reader(self) -> Callable[[Any], Mapping[str, Any]]:
        return _object


class _SdkTool(CheckingTool):
    """One of the SDK's. All that it says of itself is in its options."""

    @property
    def definition(self) -> dict[str, Any]:
        return dict(self.options)

    def call(self, context: Context, arguments: Any) -> Any:  # noqa: ARG002 - the SDK's know none
        with _fitting():
            value = self.run({**self._reader(arguments)})
        return _fitted(value) if inspect.isawaitable(value) else value


@contextmanager
def _fitting() -> Iterator[None]:
    """Say what is wrong with arguments where the SDK has refused them."""
    try:
        yield
    except ValueError as wrong:
        if type(wrong.__cause__).__name__ == "ValidationError" and isinstance(wrong.__cause__, Exception):
            raise BadArgumentsError(f"The arguments do not fit: {problem_of(wrong.__cause__)}") from wrong
        raise


async def _fitted(value: Awaitable[Any]) -> Any:
    with _fitting():
        return await value


@overload
def tool(
    function: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    fatal: bool = False,
    **options: Any,
) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    fatal: bool = False,
    **options: Any,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    fatal: bool = False,
    **options: Any,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """
    A typed function as a `Tool`, also as a decorator. Functions may be given as tools as they are; this is for those
    that need a timeout, another name, or more said to the API (`strict=True`, `cache_control=...`).

    Args:
        function: Its parameters, and what its docstring says of them, are the schema. None: return a decorator.

        name, description: For the model. None: those of the function.

        timeout, fatal, options: As in `Tool`.

    Raises:
        ValueError: For a function that no model can call: with positional parameters alone, `*args` or `**kwargs`, or
            of types without a JSON schema.
    """
    if function is None:
        return lambda decorated: tool(
            decorated, name=name, description=description, timeout=timeout, fatal=fatal, **options
        )
    if not callable(function):
        raise ValueError(f"a tool must be a function, got {type_name(function)}")
    plain = _without_partial(function)
    called = name or str(getattr(plain, "__name__", type(plain).__name__))
    try:
        description_of_it, schema, _ = _signature_of(function)
    except Exception as failed:  # pydantic's, and of people's own types
        problem = (told(failed).splitlines() or [type(failed).__name__])[0]
        raise ValueError(f"the function {called!r} cannot be a tool: {problem}") from failed
    if description is None:
        description = description_of_it
    return _FunctionTool(called, description, schema, function, timeout, fatal, options)


def tool_of(given: Any) -> Tool | None:
    """
    The `Tool` that *given* is; None for what is not run here, such as a dict.

    Raises:
        ValueError: For what is no tool.
    """
    if isinstance(given, Tool):
        return given
    if isinstance(given, type):
        raise ValueError(f"a tool must be a function, a Tool or a dict, got the class {given.__name__}")
    has_definition = callable(getattr(given, "to_dict", None))
    if has_definition and callable(getattr(given, "call", None)):
        return _of_sdk(given)
    if isinstance(given, Mapping) or has_definition or callable(getattr(given, "model_dump", None)):
        return None
    if callable(given):
        return tool(given)
    raise ValueError(f"a tool must be a function, a Tool or a dict, got {given!r:.100}")


def _of_sdk(given: Any) -> Tool:
    said = json_values({"tool": given})["tool"]
    schema = said.get("input_schema") or {"type": "object"}
    return _SdkTool(said["name"], said.get("description", ""), schema, given.call, options=said)


def as_name(text: str) -> str:
    """*text* as the API takes it for the name of a tool."""
    return _NOT_IN_A_NAME.sub("_", text)[:_LONGEST_NAME]


def _object(arguments: Any) -> Mapping[str, Any]:
    if not isinstance(arguments, Mapping):
        raise ValueError(f"they must be an object, got {arguments!r:.100}")
    return arguments


_Signature = tuple[str, Schema, Callable[[Any], Mapping[str, Any]]]


# Made once for each function, and kept as long as that is.
_signatures: WeakKeyDictionary[Callable[..., Any], _Signature] = WeakKeyDictionary()


def _signature_of(function: Callable[..., Any]) -> _Signature:
    """What the docstring of *function* says, the schema of its parameters but a `Context`, and what checks those."""
    try:
        if function not in _signatures:
            _signatures[function] = _new_signature_of(function)
        return _signatures[function]
    except TypeError:  # one that has no hash, or of which no weak reference can be made
        return _new_signature_of(function)


def _new_signature_of(function: Callable[..., Any]) -> _Signature:
    from docstring_parser import parse
    from pydantic import Field, TypeAdapter
    from typing_extensions import TypedDict

    said = parse(inspect.getdoc(_without_partial(function)) or "")
    about = {parameter.arg_name: parameter.description for parameter in said.params if parameter.description}
    hints = _hints_of(function)
    given = function.keywords if isinstance(function, partial) else {}
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"a model cannot give {parameter}")
        if name != _context_in(hints) and name not in given:
            fields[name] = _annotated(hints.get(name, Any), about.get(name), parameter.default, Field)
    typed_dict: Any = TypedDict  # with fields that are known at run time alone
    arguments = typed_dict("arguments", fields)
    arguments.__pydantic_config__ = {"extra": "forbid"}
    adapter: TypeAdapter[Mapping[str, Any]] = TypeAdapter(arguments)
    schema = adapter.json_schema()
    schema.pop("title", None)
    described = [part for part in (said.short_description, said.long_description) if part]
    return "\n\n".join(described), schema, adapter.validate_python


def _annotated(kind: Any, description: str | None, default: Any, make_field: Callable[..., Any]) -> Any:
    """The type of a parameter with what the schema tells of it beside."""
    from typing import Annotated, NotRequired

    extra = {"default": default} if isinstance(default, (str, int, float)) else None
    told = Annotated[kind, make_field(description=description, json_schema_extra=extra)]
    return told if default is inspect.Parameter.empty else NotRequired[told]


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of its parameters. What it returns may be of a type that is known to type checkers alone."""
    plain = _without_partial(function)
    called = plain if inspect.isroutine(plain) else getattr(plain, "__call__", plain)  # noqa: B004
    hints = {name: kind for name, kind in getattr(called, "__annotations__", {}).items() if name != "return"}
    names = {"Context": Context, **getattr(inspect.unwrap(called), "__globals__", {})}
    return get_type_hints(SimpleNamespace(__annotations__=hints), names, include_extras=True)


def _without_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    """*function*, or what it calls where it is a `functools.partial`."""
    return function.func if isinstance(function, partial) else function  # which are never nested


def _context_in(hints: Mapping[str, Any]) -> str | None:
    """The parameter that is annotated as `Context`, or that or None; None if there is none."""
    return next((name for name, kind in hints.items() if kind is Context or Context in get_args(kind)), None)
