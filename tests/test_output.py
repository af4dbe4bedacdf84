"""Answers as data: the schema that is sent, the value that comes back, and what is no such value."""

import dataclasses
import datetime as dt
import enum
import json
import pickle
import sys
from random import Random
from typing import Annotated, Any, Literal, NotRequired

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    WithJsonSchema,
    create_model,
    field_validator,
    model_serializer,
)
from typing_extensions import TypedDict

from claude_client import (
    ClaudeInvocationError,
    ConversationThread,
    extract_json,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    invoke_parallel_streaming,
)
from claude_client._values.models import lacks_structured_output
from claude_client._values.output import OutputType, output_of
from claude_client._values.partial import with_partial_output
from claude_client._values.schema import for_api
from claude_client.simulator import Reply
from claude_client.simulator._instances import drawn_instance_of, something_else
from claude_client.simulator._schemas import check_complexity, checked_parts
from helpers import reply, streamed
from orchestration import invoke_parallel_managed


class Urgency(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Ticket(BaseModel):
    title: str = Field(max_length=40, description="What it is about")
    urgency: Urgency
    tags: list[str] = Field(min_length=1, max_length=3)
    score: int = Field(ge=0, le=10, default=5)
    due: dt.date | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Options(TypedDict):
    name: str
    size: NotRequired[int]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Node(BaseModel):
    children: list["Node"]


class AnyField(BaseModel):
    x: Any


MANY = [f"f{n}" for n in range(17)]
Pet = Annotated[Cat | Dog, Field(discriminator="kind")]

VALUES = [
    (Ticket, Ticket(title="Lost", urgency=Urgency.LOW, tags=["a"], due=dt.date(2026, 1, 1))),
    (Point, Point(1, 2.5)),
    (Options, {"name": "a"}),
    (list[Point], [Point(1, 2.0), Point(3, 4.0)]),
    (Literal["a", "b"], "b"),
    (Urgency, Urgency.HIGH),
    (int, 5),
    (float, 0.5),
    (bool, True),
    (str, "text"),
    (int | None, None),
    (Cat | Dog, Dog(kind="dog", tricks=["sit"])),
    (Pet, Cat(kind="cat", lives=9)),
    (set[int], {1, 2}),
    (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
]


@pytest.mark.parametrize(("asked", "value"), VALUES, ids=lambda item: getattr(item, "__name__", None))
@pytest.mark.parametrize("streaming", [False, True])
def test_a_value_of_the_type_comes_back_and_the_api_takes_its_schema(sim, asked, value, streaming):
    sim.script(Reply(text=TypeAdapter(asked).dump_json(value).decode()))
    answer = invoke_claude("hi", output=asked, streaming=streaming)
    assert answer.output == value
    assert type(answer.output) is type(value)
    own = invoke_claude("hi", output=asked, streaming=streaming)  # the simulator's, by the schema that was sent
    assert own.output == TypeAdapter(asked).validate_json(str(own))
    assert pickle.loads(pickle.dumps(answer)).output == value


def test_a_json_schema_is_asked_for_as_it_is(sim):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    sim.script(Reply(text='{"a": 5}'))
    assert invoke_claude("hi", output=schema).output == {"a": 5}
    sent = sim.requests[0].body["output_config"]["format"]
    assert sent == {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}


def test_rules_that_the_api_does_not_enforce_are_words_in_the_schema_and_checked_on_the_answer(sim):
    sim.script(Reply(text=json.dumps({"title": "x" * 41, "urgency": "low", "tags": ["a"]})))
    with pytest.raises(ClaudeInvocationError, match="at most 40 characters") as failed:
        invoke_claude("hi", output=Ticket)
    assert failed.value.kind == "invalid_output"
    title = sim.requests[0].body["output_config"]["format"]["schema"]["properties"]["title"]
    assert title == {"type": "string", "description": "What it is about; characters at most 40"}


def test_rules_of_a_json_schema_are_checked_as_well(sim):
    sim.script(Reply(text="7"), Reply(text="3"))
    schema = {"type": "integer", "maximum": 5}
    with pytest.raises(ClaudeInvocationError, match="7 is greater than the maximum of 5"):
        invoke_claude("hi", output=schema)
    assert invoke_claude("hi", output=schema).output == 3


def test_without_jsonschema_json_schemas_are_refused_before_any_request(api, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ImportError, match="pip install jsonschema"):
        invoke_claude("hi", output={"type": "integer", "maximum": 6})
    assert not api.requests


@pytest.mark.parametrize("text", ["HIGH", "High", "high"])
def test_an_enum_is_read_in_upper_and_lower_case(sim, text):
    sim.script(Reply(text=json.dumps(text)), Reply(text=json.dumps([{"kind": "CAT", "lives": 9}])))
    assert invoke_claude("hi", output=Urgency).output is Urgency.HIGH
    assert output_of(Urgency | None).read(json.dumps(text)) is Urgency.HIGH
    assert invoke_claude("hi", output=list[Pet]).output == [Cat(kind="cat", lives=9)]


def test_where_case_tells_two_values_apart_nothing_is_guessed():
    wanted = output_of(Literal["a", "A"])
    assert (wanted.read('"a"'), wanted.read('"A"')) == ("a", "A")
    with pytest.raises(ValueError, match="b"):
        wanted.read('"b"')


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (Node, "output.children is recursive: Node contains itself"),
        (dict[str, int], "output is a dict with keys of any name, .*: use a list of objects"),
        (list[dict[str, int]], r"output\[\] is a dict with keys of any name"),
        (tuple[int, str], "output is a tuple, .*: use a class"),
        (Any, "output may be anything"),
        ("a text", "output must be a type or a JSON schema, got 'a text'"),
        (object(), "output cannot be <object"),
        ({"properties": {"a": {"type": "null"}}, "not": {}}, "output has 'not', which the API does not take"),
        ({"properties": {"a": {"prefixItems": []}}}, r"output\.a is a tuple"),
        ({"properties": {"a": 5}}, r"output\.a is no JSON schema, got 5"),
        ({"$ref": "elsewhere.json"}, "output refers to 'elsewhere.json', which is not in it"),
        ({"properties": {"a": True}}, r"output\.a may be anything"),
        ({"properties": {"a": {"title": "A"}}}, r"output\.a may be anything"),
        (AnyField, r"output\.x may be anything"),
        ({"type": "object"}, "output is a dict with keys of any name"),
        (dict[Literal["k"], int], "output is a dict with keys of any name"),
        ({"type": ["object", "null"]}, "output is a dict with keys of any name"),
        ({"properties": {}, "required": ["a"]}, "output requires 'a', which is not among its properties"),
        ({"anyOf": [{"type": "null"}], "oneOf": [{"type": "string"}]}, "output has anyOf and oneOf"),
        ({"anyOf": []}, "output has anyOf without anything"),
        ({"enum": []}, "output has enum without anything"),
        ({"type": "text"}, "output is of type 'text', which is none of"),
        ({"type": "integer", "nullable": True}, "output has 'nullable'"),
        ({"properties": ["a"]}, "output has properties that are no dict"),
        ({"enum": {1}}, r"output: \{1\} cannot be sent"),
        ({"type": "string", "pattern": "[("}, "output is no JSON schema"),
        ({"$ref": "#"}, "output is recursive"),
        (
            {
                "allOf": [{"$ref": "#/$defs/A"}, {"type": "null"}],
                "$defs": {"A": {"properties": {"a": {"type": "null"}}}},
            },
            "output joins objects by allOf",
        ),
        (
            {"allOf": [{"properties": {"a": {"type": "null"}}}, {"properties": {"b": {"type": "null"}}}]},
            "output joins objects by allOf",
        ),
        (
            {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"}},
            "more fields than it names",
        ),
        ({"properties": {f"f{n}": {"type": "null"} for n in range(25)}}, "output has 25 fields that may be left out"),
        (
            {
                "properties": {f"f{n}": {"type": ["null", "string"]} for n in range(17)},
                "required": [f"f{n}" for n in range(17)],
            },
            "output has 17 fields of more than one type",
        ),
    ],
)
def test_what_the_api_does_not_take_is_refused_by_name_before_any_request(api, asked, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_claude("hi", output=asked)
    with pytest.raises(ValueError, match=problem):
        invoke_parallel([{"prompt": "hi"}], output=asked)
    assert not api.requests


class Hooked:
    """A type whose schema is foreign code that fails."""

    def __init__(self, failure):
        self.failure = failure

    def __get_pydantic_core_schema__(self, *_):
        raise self.failure


@pytest.mark.parametrize("failure", [TypeError("odd"), ZeroDivisionError("odd")])
def test_whatever_a_type_raises_is_a_bad_value(api, failure):
    with pytest.raises(ValueError, match=r"output cannot be .*odd"):
        invoke_claude("hi", output=Hooked(failure))
    results = invoke_parallel([{"prompt": "hi", "output": Hooked(failure)}], return_exceptions=True)
    assert results[0].kind == "invalid_request"
    assert not api.requests


def test_an_output_config_that_is_none_is_named(api):
    with pytest.raises(ValueError, match="output_config must be a dict, got a str"):
        invoke_claude("hi", output=int, output_config="low")


def test_two_ways_of_saying_it_are_refused(api):
    with pytest.raises(ValueError, match="say one"):
        invoke_claude(
            "hi", output=int, output_config={"format": {"type": "json_schema", "schema": {"type": "integer"}}}
        )


def test_the_effort_stays_beside_it(sim):
    invoke_claude("hi", output=int, output_config={"effort": "low"})
    assert sim.requests[0].body["output_config"]["effort"] == "low"


def test_an_answer_that_is_cut_off_says_so_and_is_not_asked_again(sim):
    sim.script(Reply(text='{"x": 1', fault="max_tokens"))
    with pytest.raises(ClaudeInvocationError, match=r"cut off \(max_tokens\) after \d+ output tokens, of 50") as failed:
        invoke_claude("hi", output=Point, max_tokens=50, output_retries=3)
    assert (failed.value.kind, failed.value.partial_text) == ("invalid_output", '{"x": 1')
    assert (failed.value.usage.output_tokens > 0, len(sim.requests)) == (True, 1)


def test_an_answer_that_does_not_fit_comes_with_all_that_it_said(sim):
    sim.script(Reply(text='{"x": "one", "y": 2}'))
    with pytest.raises(ClaudeInvocationError, match="ValidationError") as failed:
        invoke_claude("hi", output=Point)
    assert (failed.value.kind, failed.value.retryable) == ("invalid_output", False)
    assert failed.value.partial_text == '{"x": "one", "y": 2}'
    assert type(failed.value.__cause__).__name__ == "ValidationError"
    assert failed.value.attempts[0].outcome == "invalid_output"


def test_a_refusal_is_a_refusal(sim):
    sim.script(Reply(fault="refusal"))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude("hi", output=Point)
    assert failed.value.kind == "refusal"


def test_an_answer_that_was_cut_off_may_be_asked_for_again_with_more_tokens(sim):
    sim.script(*[Reply(text='{"x": 1', fault="max_tokens")] * 2, Reply(text='{"x": 1, "y": 2}'))
    answer = invoke_claude("hi", output=Point, max_tokens=50, grow_max_tokens=True)
    assert (answer.output, len(answer.attempts)) == (Point(1, 2.0), 3)
    assert [request.body["max_tokens"] for request in sim.requests] == [50, 200, 800]
    assert answer.usage.output_tokens == sum(request.usage["output_tokens"] for request in sim.requests)


@pytest.mark.parametrize(("model", "most"), [("claude-sonnet-4-6", 128_000), ("claude-haiku-4-5-20251001", 64_000)])
def test_the_tokens_grow_up_to_what_the_model_takes(sim, model, most):
    sim.script(*[Reply(text='{"x": 1', fault="max_tokens")] * 3)
    with pytest.raises(ClaudeInvocationError, match=f"output tokens, of {most}"):
        invoke_claude("hi", model, output=Point, max_tokens=most // 5, grow_max_tokens=True)
    assert [request.body["max_tokens"] for request in sim.requests] == [most // 5, most // 5 * 4, most]


def test_what_was_grown_stays_grown_when_the_answer_is_mended(sim):
    sim.script(Reply(text="{", fault="max_tokens"), Reply(text='{"number": 3}'), Reply(text='{"number": 4}'))
    answer = invoke_claude("hi", output=Even, max_tokens=50, grow_max_tokens=True, output_retries=1)
    assert answer.output.number == 4
    assert [request.body["max_tokens"] for request in sim.requests] == [50, 200, 200]


def test_the_end_of_the_context_and_a_stream_that_was_heard_do_not_grow(sim):
    sim.script(Reply(text="{", fault="context_window"), Reply(text="{", fault="max_tokens"))
    for callback in (None, print):
        with pytest.raises(ClaudeInvocationError, match="cut off"):
            invoke_claude_streaming("hi", callback, output=Point, grow_max_tokens=True)
    assert len(sim.requests) == 2


@pytest.mark.parametrize("model", ["claude-3-haiku-20240307", "anthropic.claude-sonnet-4-20250514-v1:0", "claude-2.1"])
def test_a_model_that_has_no_structured_output_is_refused_before_any_request(api, model):
    with pytest.raises(ValueError, match=f"{model} has no structured output.*extract_json"):
        invoke_claude("hi", model, output=Point)
    assert not api.requests
    assert invoke_parallel([{"prompt": "a"}], model, output=Point, return_exceptions=True)[0].kind == "invalid_request"


@pytest.mark.parametrize("model", ["claude-opus-4-1-20250805", "claude-sonnet-4-5@20250929", "claude-of-tomorrow"])
def test_the_api_itself_says_it_of_models_that_are_not_known(model):
    assert not lacks_structured_output(model)


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def is_even(cls, number):
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number


def test_an_answer_that_does_not_fit_is_asked_again_with_what_is_wrong(sim):
    sim.script(Reply(text='{"number": 3}'), Reply(text='{"number": 5}'), Reply(text='{"number": 6}'))
    answer = invoke_claude("hi", output=Even, output_retries=2)
    assert (answer.output.number, str(answer), len(answer.attempts)) == (6, '{"number": 6}', 3)
    said, again = sim.requests[2].body["messages"][1:]
    assert said == {"role": "assistant", "content": '{"number": 5}'}
    assert "5 is odd" in again["content"]
    assert answer.usage.output_tokens == sum(request.usage["output_tokens"] for request in sim.requests)


def test_it_is_asked_again_as_often_as_one_says_and_not_after_a_callback_has_heard_it(sim):
    sim.script(*[Reply(text='{"number": 3}')] * 4)
    with pytest.raises(ClaudeInvocationError, match="3 is odd") as failed:
        invoke_claude("hi", output=Even, output_retries=1)
    assert len(failed.value.attempts) == 2
    with pytest.raises(ClaudeInvocationError, match="3 is odd"):
        invoke_claude_streaming("hi", lambda _: None, output=Even, output_retries=1)
    assert len(sim.requests) == 3


TOOLS = [{"name": "weather", "input_schema": {"type": "object"}}]


def test_an_answer_that_asks_for_a_tool_has_no_output_yet(sim):
    sim.script(Reply(text="Let me look.", tool_use=("weather", {})), Reply(text='{"number": 2}'))
    thread = ConversationThread(output=Even, tools=TOOLS, output_retries=1)
    asked = thread.send("hi")
    assert (asked.stop_reason, asked.output) == ("tool_use", None)
    call = asked.message.content[-1].id
    assert thread.send([{"type": "tool_result", "tool_use_id": call, "content": "fine"}]).output.number == 2


@pytest.mark.parametrize("second", [Reply(fault="overloaded"), Reply(fault="refusal")])
def test_the_first_answer_is_kept_if_asking_again_fails(sim, second):
    sim.script(Reply(text='{"number": 3}'), second, Reply(text='{"num', fault="max_tokens"), second)
    for options in ({"output_retries": 1}, {"grow_max_tokens": True}):
        with pytest.raises(ClaudeInvocationError) as failed:
            invoke_claude("hi", output=Even, max_retries=0, **options)
        assert failed.value.partial_text.startswith('{"num')
        assert [attempt.outcome for attempt in failed.value.attempts] == ["invalid_output", failed.value.kind]


def test_a_blank_answer_is_not_asked_again(sim):
    sim.script(Reply(text="  "))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude("hi", output=Even, output_retries=1)
    assert (failed.value.kind, len(sim.requests)) == ("invalid_output", 1)


def test_of_many_problems_the_first_are_told(sim):
    sim.script(Reply(text=json.dumps(["z"] * 2000)), Reply(text="[1]"))
    answer = invoke_claude("hi", output=list[int], output_retries=1)
    told = sim.requests[1].body["messages"][-1]["content"]
    assert answer.output == [1]
    assert "and 1990 more" in told
    assert len(told) < 4000


def test_a_limit_of_the_callers_own_body_does_not_grow(sim):
    sim.script(Reply(text="{", fault="max_tokens"))
    with pytest.raises(ClaudeInvocationError, match="of 7"):
        invoke_claude("hi", output=Even, grow_max_tokens=True, extra_body={"max_tokens": 7})
    assert len(sim.requests) == 1


def test_what_a_model_says_before_tools_of_the_api_is_not_the_answer(sim):
    looked = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
    ]
    said = [{"type": "text", "text": "I look."}, *looked, {"type": "text", "text": '{"number": 2}'}]
    sim.script(Reply(content=said), Reply(content=said[:1]))
    assert invoke_claude("hi", output=Even).output.number == 2
    with pytest.raises(ClaudeInvocationError, match="Invalid JSON"):
        invoke_claude("hi", output=Even)


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (OBJECT, '{"a": "x"}'),
        (OBJECT, "{}"),
        (OBJECT, "[1]"),
        ({"enum": ["a", "b"]}, '"zzz"'),
        ({"type": "string", "pattern": "^(?=x)x+$"}, '"y"'),
        ({"properties": {"maximum": {"type": "integer", "maximum": 5}}, "type": "object"}, '{"maximum": 99}'),
        ({"type": "string", "format": "date"}, '"no date"'),
    ],
)
def test_answers_to_a_json_schema_are_checked_by_all_of_it(sim, schema, text):
    sim.script(Reply(text=text))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude("hi", output=schema)
    assert failed.value.kind == "invalid_output"


class First(BaseModel):
    kind: Literal["a"]
    name: Literal["X", "Y"]


class Second(BaseModel):
    kind: Literal["b"]
    name: str


@pytest.mark.parametrize(
    ("asked", "text", "value"),
    [
        (First | Second, '{"kind": "B", "name": "x"}', Second(kind="b", name="x")),
        (
            list[Annotated[First | Second, Field(discriminator="kind")]],
            '[{"kind": "A", "name": "x"}, {"kind": "b", "name": "x"}]',
            [First(kind="a", name="X"), Second(kind="b", name="x")],
        ),
        (list[Urgency] | None, '["LOW"]', [Urgency.LOW]),
        ({"anyOf": [{"enum": ["Other"]}, {"type": "string"}]}, '"other"', "other"),
        ({"allOf": [{"$ref": "#/$defs/U"}], "$defs": {"U": {"enum": ["low", "high"]}}}, '"LOW"', "low"),
    ],
)
def test_only_enums_are_respelt_and_only_where_one_way_fits(asked, text, value):
    assert output_of(asked).read(text) == value


def test_equal_unions_are_read_in_the_order_in_which_they_are_spelt():
    one, other = output_of(Point | Options), output_of(Options | Point)
    assert [part["$ref"] for part in one.schema["anyOf"]] == [part["$ref"] for part in other.schema["anyOf"]][::-1]


def test_definitions_that_nothing_refers_to_are_not_sent():
    schema = {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert output_of(schema).schema == {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}


def test_fields_behind_a_reference_do_not_count_as_the_api_counts_none(sim):
    many = create_model("Many", **{f"f{n}": (int | None, None) for n in range(30)})
    sim.script(Reply(text='[{"f1": 1}]'))
    assert invoke_claude("hi", output=list[many]).output == [many(f1=1)]


class Odd:
    def __repr__(self):
        return "<odd>"


def test_a_table_has_outputs_that_no_json_can_hold(sim):
    odd = Annotated[Any, BeforeValidator(lambda _: Odd()), WithJsonSchema({"type": "string"})]
    sim.script(Reply(text='"x"'))
    assert invoke_parallel([{"prompt": "a"}], output=odd).to_dicts()[0]["output"] == "<odd>"


class Failing(BaseModel):
    @model_serializer
    def failing(self):
        raise ZeroDivisionError


def test_a_table_has_a_row_for_what_its_own_type_cannot_serialize(sim):
    assert invoke_parallel([{"prompt": "a"}], output=Failing).to_dicts()[0]["output"] == "Failing()"


def test_the_simulator_draws_only_for_a_schema_and_says_what_it_does_not_take(sim):
    sim.script(Reply(output="valid"))
    assert invoke_claude("hi").startswith("[simulated")
    with pytest.raises(ValueError, match="output must be one of valid, invalid, cut, refused, got 'odd'"):
        Reply(output="odd")
    with pytest.raises(ValueError, match="output replaces content"):
        Reply(output="valid", text="x")


def test_a_change_of_the_form_of_answers_writes_the_cache_anew(sim):
    prompts = [{"prompt": "a", "output": int}, {"prompt": "b", "output": str}]
    results = invoke_parallel(prompts, shared_system="word " * 4000, cache_shared_system=True, max_workers=1)
    assert [answer.usage.cache_creation_input_tokens > 0 for answer in results] == [True, True]


@given(st.text(alphabet='ab"\\{}[],:1 ', max_size=30), st.integers(1, 4))
def test_the_last_partial_value_is_the_whole_one(text, size):
    whole, heard = json.dumps({"text": text, "more": [text] * 3}), []
    call = with_partial_output(None, heard.append)
    for start in range(0, len(whole), size):
        call(whole[start : start + size])
    assert heard[-1] == json.loads(whole)


def test_a_long_answer_is_not_read_anew_for_every_chunk():
    heard = []
    call = with_partial_output(None, heard.append)
    for chunk in ['{"text": "', *["word "] * 20_000, '"}']:
        call(chunk)
    assert len(heard) < 2000
    assert heard[-1] == {"text": "word " * 20_000}


def test_a_fan_out_tells_what_there_is_so_far_by_index(sim):
    heard = []
    callbacks = [None, lambda text: heard.append((1, text))]
    on_output = lambda *one: heard.append(one)  # noqa: E731
    invoke_parallel_streaming([{"prompt": "a"}, {"prompt": "b"}], callbacks, output=int, on_output=on_output)
    assert [value for index, value in heard if index == 0] == [0]
    assert [value for index, value in heard if index == 1] == ["0", 0]


def test_a_turn_tells_what_there_is_so_far(sim):
    heard = []
    sim.script(Reply(text='{"x": 1, "y": 2.5}'))
    assert ConversationThread().send("a", output=Point, on_output=heard.append).output == Point(1, 2.5)
    assert (heard[-1], len(heard) > 1) == ({"x": 1, "y": 2.5}, True)
    with pytest.raises(TypeError, match="on_output must be callable"):
        ConversationThread().send("a", on_output="heard")


def test_a_fan_out_has_outputs_and_each_prompt_may_ask_for_its_own(sim):
    asked = [{"prompt": "a"}, {"prompt": "b", "output": int}, {"prompt": "c", "output": None}]
    results = invoke_parallel(asked, output=Point)
    assert [type(output) for output in results.outputs] == [Point, int, type(None)]
    bodies = {request.body["messages"][0]["content"]: request.body for request in sim.requests}
    assert "output_config" not in bodies["c"]


def test_outputs_are_columns_of_the_table(sim, tmp_path):
    sim.script(Reply(text='{"title": "Lost", "urgency": "low", "tags": ["a", "b"]}'))
    results = invoke_parallel([{"prompt": "a"}, {"prompt": "b", "output": int}], output=Ticket, max_workers=1)
    first, second = results.to_dicts()
    told = {name: value for name, value in first.items() if name.startswith("output.")}
    assert told == {
        "output.title": "Lost",
        "output.urgency": "low",
        "output.tags": '["a", "b"]',
        "output.score": 5,
        "output.due": None,
    }
    assert second["output"] == 0
    results.to_csv(tmp_path / "run.csv")
    assert "output.urgency" in (tmp_path / "run.csv").read_text().splitlines()[0]


def test_a_conversation_may_have_one_for_all_turns_or_for_one(sim):
    thread = ConversationThread(output=Point)
    assert type(thread.send("a").output) is Point
    assert thread.send("b", output=int).output == 0
    assert type(thread.fork().send("c").output) is Point
    thread.model = "claude-opus-4-6"
    assert type(thread.send("d").output) is Point


def test_a_journal_recalls_outputs_as_the_type_and_a_changed_type_asks_again(sim, tmp_path):
    asked = [{"prompt": "a"}, {"prompt": "b"}]
    for output, recalled in ((Point, set()), (Point, {0, 1}), (Options, set())):
        results = invoke_parallel_managed(asked, output=output, journal=tmp_path / "journal")
        assert results.recalled == recalled
        assert all(results.outputs)
    assert type(results.outputs[0]) is dict
    assert len(sim.requests) == 4


def test_an_answer_that_no_longer_passes_is_asked_for_again(sim, tmp_path):
    allowed = [3]

    class Checked(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def known(cls, number):
            if number not in allowed:
                raise ValueError("unknown")
            return number

    sim.script(Reply(text='{"number": 3}'), Reply(text='{"number": 4}'))
    options = {"output": Checked, "journal": tmp_path / "journal"}
    assert invoke_parallel_managed([{"prompt": "a"}], **options).outputs[0].number == 3
    allowed[0] = 4
    results = invoke_parallel_managed([{"prompt": "a"}], **options)
    assert (results.outputs[0].number, results.recalled) == (4, set())
    assert invoke_parallel_managed([{"prompt": "a"}], **options).recalled == {0}


def test_the_schema_of_a_type_is_made_once():
    assert output_of(Ticket) is output_of(Ticket)
    assert output_of({"type": "integer"}) is output_of({"type": "integer"})
    assert output_of(None) is None
    made = OutputType(int)
    assert output_of(made) is made
    assert output_of(Annotated[int, {"of no": "hash"}]).schema["type"] == "integer"


def test_the_text_of_all_blocks_is_one_answer(api):
    content = [{"type": "text", "text": '{"x": 1, '}, {"type": "text", "text": '"y": 2}'}]
    api.answers(reply(content=content), streamed('{"x": 1, "y"', ": 2}"))
    for streaming in (False, True):
        assert invoke_claude("hi", output=Point, streaming=streaming).output == Point(1, 2.0)


@pytest.mark.once
def test_what_the_api_takes_stays_as_it_is_and_the_rest_is_told_in_words():
    schema = {
        "type": "object",
        "title": "Dropped",
        "properties": {
            "const": {"const": "x"},
            "mixed": {"enum": [1, "a", None]},
            "pattern": {"type": "string", "pattern": "^[a-z]+$"},
            "lookahead": {"type": "string", "pattern": "(?=a)b"},
            "format": {"type": "string", "format": "date-time"},
            "other": {"type": "string", "format": "color"},
            "one": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            "many": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "uniqueItems": True},
            "number": {"type": "number", "exclusiveMinimum": 0, "default": 1.5},
            "either": {"oneOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["const"],
    }
    made = for_api(schema)
    assert made["additionalProperties"] is False
    assert "title" not in made
    assert made["properties"] == {
        "const": {"const": "x"},
        "mixed": {"enum": [1, "a", None]},
        "pattern": {"type": "string", "pattern": "^[a-z]+$"},
        "lookahead": {"type": "string", "description": 'matching the pattern "(?=a)b"'},
        "format": {"type": "string", "format": "date-time"},
        "other": {"type": "string", "description": 'in the format "color"'},
        "one": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "many": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "items at least 2; all items different",
        },
        "number": {"type": "number", "description": "more than 0; by default 1.5"},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }
    check_complexity(checked_parts("output", made))


# Types, each with a strategy for its values.
SIMPLE = [
    (int, st.integers()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (str, st.text()),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Urgency, st.sampled_from(Urgency)),
    (dt.date, st.dates()),
    (Annotated[int, Field(ge=0, le=9)], st.integers(0, 9)),
    (Annotated[str, Field(min_length=2)], st.text(min_size=2)),
    (Pet, st.builds(Cat, kind=st.just("cat")) | st.builds(Dog, kind=st.just("dog"))),
]


def list_of(inner):
    kind, values = inner
    return list[kind], st.lists(values, max_size=3)


def maybe(inner):
    kind, values = inner
    return kind | None, st.none() | values


def model_of(fields):
    """A model with a field of each type, of which each second may be left out."""
    named = {f"field_{number}": field for number, field in enumerate(fields)}
    of_fields = {name: (kind, ...) if name[-1] in "02" else (kind, None) for name, (kind, _) in named.items()}
    model = create_model("Model", **of_fields)
    required = {name: values for name, (_, values) in named.items() if name[-1] in "02"}
    optional = {name: values for name, (_, values) in named.items() if name not in required}
    return model, st.fixed_dictionaries(required, optional=optional).map(lambda values: model(**values))


def dataclass_of(fields):
    named = {f"field_{number}": field for number, field in enumerate(fields)}
    made = dataclasses.make_dataclass("Made", [(name, kind) for name, (kind, _) in named.items()])
    return made, st.builds(made, **{name: values for name, (_, values) in named.items()})


TYPES = st.recursive(
    st.sampled_from(SIMPLE),
    lambda inner: st.one_of(
        inner.map(list_of),
        inner.map(maybe),
        st.lists(inner, min_size=1, max_size=4).map(model_of),
        st.lists(inner, min_size=1, max_size=4).map(dataclass_of),
    ),
    max_leaves=8,
)


@pytest.mark.once
@given(TYPES, st.data())
def test_whatever_the_type_its_schema_is_taken_and_its_values_survive(asked, data):
    kind, values = asked
    wanted = OutputType(kind)
    check_complexity(checked_parts("output", wanted.schema))
    value = data.draw(values)
    assert wanted.read(TypeAdapter(kind).dump_json(value, exclude_unset=True).decode()) == value


@pytest.mark.once
@given(TYPES, st.integers())
def test_what_the_simulator_draws_is_allowed_by_the_schema_that_was_sent(asked, seed):
    schema = OutputType(asked[0]).schema
    drawn = drawn_instance_of(schema, Random(seed))
    Draft202012Validator(schema).validate(drawn)
    other = something_else(drawn, schema, Random(seed))
    with pytest.raises(ValueError):
        OutputType(asked[0]).read(other)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("asked", "_"), [one for one in VALUES if one[0] is not Ticket])
def test_answers_that_fit_do_not_fit_are_cut_off_or_refused_come_as_what_they_are(sim, asked, _, seed):
    sim.script(*[Reply(output=kind, seed=seed) for kind in ("valid", "invalid", "cut", "refused")])
    prompts = [{"prompt": "hi", "output": asked}] * 4
    results = invoke_parallel(prompts, max_workers=1, return_exceptions=True)
    assert results.outputs[0] == TypeAdapter(asked).validate_json(str(results[0]))
    assert [(error.kind, error.usage.output_tokens > 0) for error in results[1:3]] == [("invalid_output", True)] * 2
    assert results[3].kind == "refusal"
    assert "cut off" in str(results[2])


@pytest.mark.once
@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (" [1, 2]\n", [1, 2]),
        ("42", 42),
        ('Here it is:\n```json\n{"a": [1]}\n```\nAnything else?', {"a": [1]}),
        ("```\n7\n```", 7),
        ('As asked [see below]: {"x": 2}. Done.', {"x": 2}),
        ('~~~\n{"a": "```"}\n~~~', {"a": "```"}),
        ("closed] and opened {} here"[:7] + ' {"x": 2}', {"x": 2}),
        ("a [b] " * 50_000 + '{"x": 2}', {"x": 2}),
        ('```json\nHere: {"x": 2}\n```', {"x": 2}),
        ('[open {"x": 2}', {"x": 2}),
    ],
)
def test_the_one_json_value_in_a_free_text_is_found(answer, value):
    assert extract_json(answer) == value


@pytest.mark.once
@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("none here", "no JSON values in the answer, not one: 'none here'"),
        ('{"a": 1} and {"b": 2}', "2 JSON values"),
        ("```\n1\n```\nor\n```\n2\n```", "2 JSON values"),
        ('Draft: {"a": 1}\n```json\n{"a": 2}\n```', "2 JSON values"),
        ('{"name": "x", "tags": ["a","b"],}', "has a mistake"),
        ('{"name": "x", // c\n "tags": ["a","b"]}', "has a mistake"),
        ("{'a': {\"b\": 1}}", "may belong to it"),
        ('```json\n[{"a":1},\n```', "cut off"),
        ('[{"a":1}, ... and so on', "has a mistake"),
        ('{"a": [1, 2], ', "cut off"),
        ('{"a": "unfinished', "cut off"),
        ("x" * 300, "no JSON values in the answer, not one: 'x+\u2026'"),
        ("[" * 100_000, "nested too deeply|cut off"),
    ],
)
def test_where_there_is_not_one_whole_value_nothing_is_guessed(answer, problem):
    with pytest.raises(ValueError, match=problem):
        extract_json(answer)


def test_a_stream_tells_what_there_is_so_far(api):
    api.answers(streamed('{"x"', ': 1, "y": 2', ".5}"), streamed("no JSON"))
    heard, told = [], []
    answer = invoke_claude_streaming("hi", heard.append, output=Point, on_output=told.append)
    assert (heard, answer.output) == (['{"x"', ': 1, "y": 2', ".5}"], Point(1, 2.5))
    assert told == [{}, {"x": 1, "y": 2}, {"x": 1, "y": 2.5}]
    invoke_claude_streaming("hi", on_output=told.append)
    assert len(told) == 3


def test_what_hears_of_outputs_has_to_be_callable(api):
    with pytest.raises(TypeError, match="on_output"):
        invoke_claude_streaming("hi", output=int, on_output=5)
    assert not api.requests


def test_an_answer_that_pauses_when_it_is_asked_again_goes_on_from_there(sim):
    sim.script(Reply(text='{"number": 3}'), Reply(text='{"num', fault="pause_turn"), Reply(text='ber": 4}'))
    answer = invoke_claude("hi", output=Even, output_retries=1)
    assert (answer.output.number, len(answer.attempts)) == (4, 3)
    roles = [turn["role"] for turn in sim.requests[2].body["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]
