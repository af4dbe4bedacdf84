"""Functions as tools: the schema that a model is told, how its arguments are read, and what becomes of a result."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import gc
import pickle
import weakref
from pathlib import Path
from typing import Annotated, Any, Literal

import anthropic
import pydantic
import pytest
from pydantic import Field

import claude_client
from claude_client import Context, InterruptToken, Tool, tool
from claude_client._values.tool import BadArgumentsError, tool_of
from claude_client._values.tool_result import content_of, tool_result

HERE = Context(tool="f", tool_use_id="toolu_1")


class Colour(enum.Enum):
    RED = "red"


class Point(pydantic.BaseModel):
    """A place."""

    x: int
    y: int = 0


@dataclasses.dataclass
class Size:
    wide: float


def draw(
    at: Point,
    colour: Colour,
    *,
    size: Size | None = None,
    style: Literal["thin", "thick"] = "thin",
    times: Annotated[int, Field(ge=1)] = 1,
    day: dt.date | None = None,
    others: tuple[Point, ...] = (),
) -> list[Any]:
    """Draw a point.

    It is seen at once.

    Args:
        at: Where it is.
        times: How often.

    Returns:
        All that was drawn.
    """
    return [at, colour, size, style, times, day, others]


def properties(function: Any) -> Any:
    return tool(function).definition["input_schema"]["properties"]


def test_a_function_is_told_by_its_docstring_and_the_types_of_its_parameters():
    said = tool(draw).definition
    schema = said["input_schema"]
    assert said["name"] == "draw"
    assert said["description"] == "Draw a point.\n\nIt is seen at once."
    assert schema["required"] == ["at", "colour"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["at"]["description"] == "Where it is."
    assert schema["properties"]["times"] == {
        "default": 1,
        "description": "How often.",
        "minimum": 1,
        "title": "Times",
        "type": "integer",
    }
    assert schema["properties"]["style"]["default"] == "thin"
    assert schema["$defs"]["Colour"]["enum"] == ["red"]


def test_arguments_become_what_the_function_expects_and_defaults_are_its_own():
    read = tool(draw).call(HERE, {"at": {"x": 1}, "colour": "red", "day": "2026-11-28", "size": {"wide": 2}})
    assert read == [Point(x=1), Colour.RED, Size(2.0), "thin", 1, dt.date(2026, 11, 28), ()]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "at: Field required"),
        ({"at": {"x": "?"}, "colour": "red"}, r"at\.x: Input should be a valid integer"),
        ({"at": {"x": 1}, "colour": "blue"}, "colour: Input should be 'red'"),
        ({"at": {"x": 1}, "colour": "red", "times": 0}, "times: Input should be greater than or equal to 1"),
        ({"at": {"x": 1}, "colour": "red", "more": 0}, "more: Extra inputs are not permitted"),
        ([1], "Input should be a valid dictionary"),
        (None, "Input should be a valid dictionary"),
    ],
)
def test_arguments_that_do_not_fit_are_told_by_their_place(arguments, problem):
    with pytest.raises(BadArgumentsError, match=problem):
        tool(draw).call(HERE, arguments)


def needs(n: int, context: Context) -> tuple[int, str]:
    return n, context.tool


def may_need(n: int, context: Context | None = None) -> tuple[int, str | None]:
    return n, context and context.tool


class Needs:
    def method(self, n: int, where: claude_client.Context) -> tuple[int, str]:
        return n, where.tool

    def __call__(self, n: int, *, here: Context) -> tuple[int, str]:
        """Be called."""
        return n, here.tool


@pytest.mark.parametrize("function", [needs, may_need, Needs().method, Needs()])
def test_a_context_is_given_and_the_model_knows_nothing_of_it(function):
    made = tool(function)
    assert [*made.definition["input_schema"]["properties"]] == ["n"]
    assert made.call(HERE, {"n": 1}) == (1, "f")
    with pytest.raises(BadArgumentsError):
        made.call(HERE, {"n": 1, "context": {}})


def test_a_type_of_somebody_else_s_that_is_named_context_is_a_parameter():
    names: dict[str, Any] = {"Context": Literal["work", "home"], "__name__": "theirs"}
    source = "from __future__ import annotations\ndef f(context: Context) -> str:\n    return context"
    exec(source, names)
    assert properties(names["f"])["context"]["enum"] == ["work", "home"]


def test_a_context_and_a_result_may_be_of_names_that_type_checkers_alone_import():
    names: dict[str, Any] = {"__name__": "theirs"}
    source = "from __future__ import annotations\ndef f(n: int, c: Context) -> Unknown:\n    return n, c.tool"
    exec(source, names)
    assert tool(names["f"]).call(HERE, {"n": 1}) == (1, "f")
    exec(source.replace("n: int", "n: Unknown"), names)
    with pytest.raises(ValueError, match="the function 'f' cannot be a tool: name 'Unknown' is not defined"):
        tool(names["f"])


def query(text: str, database: Any, limit: int = 5) -> tuple[str, Any, int]:
    """Look it up."""
    return text, database, limit


WITHOUT_LIMIT = functools.partial(query, limit=3)


@pytest.mark.parametrize(
    "bound", [functools.partial(query, database=object, limit=3), functools.partial(WITHOUT_LIMIT, database=object)]
)
def test_what_a_partial_gives_is_none_of_the_model_s_affair(bound):
    made = tool_of(bound)
    assert (made.name, made.description) == ("query", "Look it up.")
    assert made.definition["input_schema"]["properties"] == {"text": {"title": "Text", "type": "string"}}
    assert made.call(HERE, {"text": "x"}) == ("x", object, 3)
    with pytest.raises(BadArgumentsError):
        made.call(HERE, {"text": "x", "limit": 1})


def test_an_object_that_can_be_called_is_a_tool_also_where_it_can_be_compared():
    @dataclasses.dataclass
    class Adder:
        n: int

        def __call__(self, a: int) -> int:
            """Add to it."""
            return self.n + a

    made = tool(Adder(2))
    assert (made.name, made.call(HERE, {"a": 1})) == ("Adder", 3)


def test_a_decorated_function_is_told_as_what_it_wraps():
    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return draw(*args, **kwargs)

    assert tool(wrapper).definition == tool(draw).definition


def without_types(a, b="x"):
    return a, b


def test_a_function_without_types_takes_anything():
    assert tool(without_types).definition["description"] == ""
    assert tool(without_types).call(HERE, {"a": [1]}) == ([1], "x")


def positional(a: int, /) -> None: ...


def several(*numbers: int) -> None: ...


def keywords(**numbers: int) -> None: ...


def opaque(lock: InterruptToken) -> None: ...


@pytest.mark.parametrize("function", [positional, several, keywords, opaque])
def test_a_function_that_no_model_can_call_is_refused_by_its_name(function):
    with pytest.raises(ValueError, match=f"the function '{function.__name__}' cannot be a tool"):
        tool_of(function)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ä", "x" * 129, "<lambda>", "a\n", 5])
def test_a_name_that_the_api_refuses_is_refused_here(name):
    with pytest.raises(ValueError, match="the name of a tool has letters"):
        Tool(name, "", {"type": "object"}, query)


def test_a_lambda_is_a_tool_under_a_name():
    assert tool(lambda a: a + 1, name="next").call(HERE, {"a": 1}) == 2


@pytest.mark.parametrize("given", [None, 5, "x", dict, pydantic.BaseModel])
def test_what_is_no_tool_is_refused(given):
    with pytest.raises(ValueError, match="a tool must be a function, a Tool or a dict"):
        tool_of(given)


def test_dicts_and_definitions_of_the_sdk_are_passed_on():
    assert tool_of({"type": "web_search_20250305", "name": "web_search"}) is None
    assert tool_of(pydantic.create_model("Definition", name=(str, "x"))()) is None


@anthropic.beta_tool
def sdk_tool(n: int) -> str:
    """Count.

    Args:
        n: How far.
    """
    if n > 9:
        raise LookupError("too far")
    if n > 5:
        raise ValueError("not so far")
    return "1" * n


def test_a_tool_of_the_sdk_says_the_same_here_and_checks_its_arguments():
    made = tool_of(sdk_tool)
    assert made.definition == sdk_tool.to_dict()
    assert made.call(HERE, {"n": 2}) == "11"
    with pytest.raises(BadArgumentsError, match="n: Input should be a valid integer"):
        made.call(HERE, {"n": "x"})
    with pytest.raises(BadArgumentsError):
        made.call(HERE, {})
    with pytest.raises(LookupError):
        made.call(HERE, {"n": 10})
    with pytest.raises(ValueError, match="not so far") as raised:
        made.call(HERE, {"n": 6})
    assert not isinstance(raised.value, BadArgumentsError)


def test_an_option_of_the_api_is_told_with_a_tool():
    made = tool(query, name="ask", input_examples=[{"text": "x"}], defer_loading=True, timeout=3, fatal=True)
    assert made.definition["input_examples"] == [{"text": "x"}]
    assert made.definition["defer_loading"] is True
    assert not made.definition.keys() & {"timeout", "fatal"}


def test_a_strict_tool_has_a_schema_that_the_api_takes_as_such():
    said = tool(draw, strict=True).definition
    assert said["strict"] is True
    assert said["input_schema"]["additionalProperties"] is False
    assert "minimum" not in said["input_schema"]["properties"]["times"]


@pytest.mark.parametrize("made", [tool(query), Tool("query", "", {"type": "object"}, query)])
def test_a_tool_can_be_pickled_and_runs_the_same(made):
    again = pickle.loads(pickle.dumps(made))
    assert again.definition == made.definition
    assert again.call(HERE, {"text": "x", "database": 1}) == ("x", 1, 5)


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (True, "true"),
        (0, "0"),
        (decimal.Decimal("1.50"), '"1.50"'),
        (dt.date(2026, 11, 28), '"2026-11-28"'),
        (Colour.RED, '"red"'),
        (Size(1.5), '{"wide":1.5}'),
        ([Point(x=1), Size(2.5)], '[{"x":1,"y":0},{"wide":2.5}]'),
        ({"type": "row", "n": 1}, '{"type":"row","n":1}'),
        (["a", "b"], '["a","b"]'),
        ([], "[]"),
        ({}, "{}"),
        (type("Text", (str,), {})("x"), "x"),
    ],
)
def test_a_result_is_a_text_or_what_json_says_of_it(value, content):
    assert content_of(value) == content


def test_blocks_may_be_those_of_the_sdk_and_stand_beside_texts_and_files(tmp_path):
    from anthropic.types import TextBlock

    (tmp_path / "a.md").write_text("words")
    blocks = [TextBlock(type="text", text="block"), "text", tmp_path / "a.md"]
    assert [block["text"] for block in content_of(blocks)] == ["block", "text", "words"]
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    assert content_of({"type": "image", "source": source}) == [{"type": "image", "source": source}]


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), [object()], Path("gone.png"), Path("gone.txt"), "\ud800"])
def test_what_cannot_be_sent_is_refused(value):
    with pytest.raises(ValueError, match=r"sent|read"):
        content_of(value)


def test_a_block_of_a_result_says_no_more_than_there_is():
    assert tool_result("t", "") == {"type": "tool_result", "tool_use_id": "t"}
    assert tool_result("t", "x", is_error=True) == {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": "x",
        "is_error": True,
    }


def test_a_context_outside_any_bound_has_none():
    assert (HERE.deadline, HERE.budget, HERE.task_id, HERE.attempts, HERE.depth) == (None, None, None, (), 1)


def test_nothing_of_a_function_is_kept_longer_than_its_tools_are():
    class Document:
        """Something large that a function looks into."""

    def tool_for(document):
        def look(at: str) -> str:
            """Look."""
            return f"{at}: {document}"

        return tool(look)

    document = Document()
    seen = weakref.ref(document)
    made = tool_for(document)
    assert made.call(Context(tool="look", tool_use_id="toolu_1"), {"at": "it"}).startswith("it: ")
    del made, document
    gc.collect()
    assert seen() is None
