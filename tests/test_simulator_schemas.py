"""Answers whose form a JSON schema prescribes, and the schemas the simulator refuses."""

import json
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import claude_client
from claude_client.simulator import Reply
from claude_client.simulator._errors import RejectedError
from claude_client.simulator._instances import instance_of
from claude_client.simulator._patterns import text_matching
from claude_client.simulator._schemas import check_complexity, checked_parts


def thing(properties=None, required=None, **more):
    properties = properties or {}
    required = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        **more,
    }


def checked(schema):
    parts = checked_parts("schema", schema)
    check_complexity(parts)
    return parts


def config(schema, **more):
    return {"format": {"type": "json_schema", "schema": schema}, **more}


TEXT = {"type": "string"}
OBJECT = thing({"n": {"type": "integer"}})
NESTED = thing({"all": {"type": "array", "items": {"$ref": "#/$defs/one"}}}, **{"$defs": {"one": OBJECT}})
NULLABLE = {"type": ["string", "null"]}
EITHER = {"anyOf": [TEXT, {"type": "null"}]}


class TestAnswer:
    def test_obeys_the_schema_and_is_marked_as_simulated(self, sim):
        schema = thing({"title": TEXT, "tags": {"type": "array", "items": TEXT}, "sure": {"type": "boolean"}})
        first, second = (claude_client.invoke_claude("hi", output_config=config(schema)) for _ in range(2))
        answer = json.loads(first)
        assert first == second
        assert answer["title"].startswith("[simulated ")
        assert answer == {"title": answer["title"], "tags": [answer["title"]], "sure": False}

    def test_obeys_the_format_of_the_beta_too(self, sim):
        answer = claude_client.invoke_claude("hi", extra_body={"output_format": config(OBJECT)["format"]})
        assert json.loads(answer) == {"n": 0}

    def test_is_what_an_ending_that_says_nothing_says(self, sim):
        sim.script(Reply(stop_reason="end_turn"))
        assert json.loads(claude_client.invoke_claude("hi", output_config=config(OBJECT))) == {"n": 0}

    def test_is_cut_at_max_tokens_like_any_other(self, sim):
        answer = claude_client.invoke_claude("hi", max_tokens=1, output_config=config(OBJECT))
        assert (answer, answer.truncated) == ('{"n"', True)

    def test_gives_what_is_required_first(self):
        schema = thing({"may": TEXT, "must": TEXT}, required=["must"])
        assert list(instance_of(schema, "x")) == ["must", "may"]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "null"},
        {"type": "number"},
        {"type": ["string", "null"]},
        {"type": "array"},
        {"type": "array", "items": {"enum": [3, 4]}, "minItems": 1},
        {"items": TEXT},
        {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"const": {"a": [1, None]}},
        {"enum": [None, "a"]},
        EITHER,
        {"description": "either", **EITHER},
        NESTED,
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"$ref": "#/definitions/c"}}, "definitions": {"c": OBJECT}},
        thing({"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/$defs/c"}}, **{"$defs": {"c": OBJECT}}),
        {"allOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": OBJECT}, "required": ["b"]}]},
        {"anyOf": [thing({"kind": {"const": "x"}}), OBJECT]},
        *({"type": "string", "format": name} for name in ("date-time", "date", "time", "email", "uuid", "odd")),
        *({"type": "string", "format": name} for name in ("ipv4", "ipv6", "hostname", "uri", "duration")),
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,}$"},
    ],
)
def test_an_instance_is_valid(schema):
    checked(schema)
    instance = instance_of(schema, "text")
    draft = jsonschema.Draft202012Validator
    draft(schema, format_checker=draft.FORMAT_CHECKER).validate(instance)


SCHEMAS = st.recursive(
    st.sampled_from([TEXT, {"type": "integer"}, {"type": ["boolean", "null"]}, {"enum": ["a", "b"]}, {"const": 7}]),
    lambda inner: st.one_of(
        st.builds(lambda item: {"type": "array", "items": item, "minItems": 1}, inner),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            thing, st.dictionaries(st.sampled_from("abcdef"), inner), st.lists(st.sampled_from("gh"), max_size=0)
        ),
        st.builds(thing, st.dictionaries(st.sampled_from("abcdef"), inner)),
    ),
    max_leaves=8,
)


@given(SCHEMAS)
def test_an_instance_of_any_schema_is_valid(schema):
    checked_parts("schema", schema)
    jsonschema.Draft202012Validator(schema).validate(instance_of(schema, "text"))


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        (5, "JSON schema is invalid. It must match JSON Schema draft 2020-12."),
        ({"type": "text"}, "JSON schema is invalid"),
        ({"type": ["string", 5]}, "JSON schema is invalid"),
        ({"enum": []}, "JSON schema is invalid"),
        ({"anyOf": []}, "JSON schema is invalid"),
        ({"items": True}, "JSON schema is invalid"),
        ({"$ref": "#/$defs/nowhere"}, "JSON schema is invalid"),
        ({"$ref": "#/anyOf/x", "anyOf": [TEXT]}, "JSON schema is invalid"),
        (thing(additionalProperties=True), "For 'object' type, 'additionalProperties' must be explicitly set to false"),
        ({"type": "object"}, "For 'object' type, 'additionalProperties' must be explicitly set to false"),
        ({"type": "array", "items": {"type": ["object", "null"]}}, "For 'object' type, 'additionalProperties' must be"),
        ({"type": "array", "minItems": 2}, "For 'array' type, 'minItems' values other than 0 or 1 are not supported"),
        ({"type": "array", "maxItems": 2}, "For 'array' type, property 'maxItems' is not supported"),
        (
            {"type": "integer", "minimum": 0, "maximum": 9},
            "For 'integer' type, properties maximum, minimum are not supported",
        ),
        ({"type": "number", "multipleOf": 2}, "For 'number' type, property 'multipleOf' is not supported"),
        ({"type": "string", "maxLength": 2}, "For 'string' type, property 'maxLength' is not supported"),
        ({"oneOf": [TEXT]}, "Schema type 'oneOf' is not supported"),
        ({"type": "string", "pattern": "(?=x)"}, "For 'string' type, pattern '(?=x)' is not supported: lookarounds"),
        ({"$ref": "https://example.com/s.json"}, "External $ref 'https://example.com/s.json' is not supported"),
        ({"type": "array", "items": {"$ref": "#"}}, "Circular reference detected: #"),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "Circular reference detected: #/$defs/a"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "Circular reference detected"),
    ],
)
def test_refuses(schema, complaint):
    with pytest.raises(RejectedError) as caught:
        checked(schema)
    assert str(caught.value).startswith(f"schema: {complaint}")
    assert caught.value.rejection.type == "invalid_request_error"


def doubling(levels):
    """A schema that stands for twice as many parts with each level."""
    return {f"d{n}": thing({key: {"$ref": f"#/$defs/d{n + 1}"} for key in "ab"}) for n in range(levels)}


def test_refuses_what_is_too_large_with_its_references():
    with pytest.raises(RejectedError, match="The compiled grammar is too large"):
        checked({"$ref": "#/$defs/d0", "$defs": {**doubling(40), "d40": TEXT}})


@pytest.mark.parametrize(
    ("properties", "required", "complaint"),
    [
        (dict.fromkeys(map(str, range(25)), TEXT), [], "Schemas contains too many optional parameters (25), "),
        (
            dict.fromkeys(map(str, range(17)), EITHER),
            None,
            "Schemas contains too many parameters with union types (17)",
        ),
        (dict.fromkeys(map(str, range(24)), TEXT), [], None),
        (dict.fromkeys(map(str, range(16)), NULLABLE), None, None),
    ],
)
def test_bounds_what_is_optional_and_what_has_several_types(properties, required, complaint):
    schema = thing(properties, required)
    if complaint is None:
        assert len(checked(schema)) > 1
    else:
        with pytest.raises(RejectedError, match=re.escape(complaint)):
            checked(schema)


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"schema": OBJECT}, "output_config.format.type: Field required"),
        ({"type": "json_schema"}, "output_config.format.schema: Field required"),
        ({"type": "nonsense", "schema": OBJECT}, "output_config.format.type: Input should be 'json_schema'"),
        ({"type": "json_schema", "schema": "x"}, "output_config.format.schema: Input should be a valid dictionary"),
        (
            {"type": "json_schema", "schema": OBJECT, "name": "x"},
            "output_config.format.name: Extra inputs are not perm",
        ),
        ("json_schema", "output_config.format: Input should be a valid dictionary"),
        ({"type": "json_schema", "schema": {"type": "object"}}, "output_config.format.schema: For 'object' type"),
    ],
)
def test_refuses_a_format(sim, wanted, complaint):
    with pytest.raises(claude_client.ClaudeInvocationError, match=re.escape(complaint)):
        claude_client.invoke_claude("hi", output_config={"format": wanted})


def test_refuses_a_format_with_citations_or_a_beginning(sim):
    source = {"type": "text", "media_type": "text/plain", "data": "x"}
    cited = {"type": "document", "source": source, "citations": {"enabled": True}}
    assert json.loads(claude_client.invoke_claude([{**cited, "citations": None}], output_config=config(OBJECT)))
    with pytest.raises(claude_client.ClaudeInvocationError, match="cannot be combined with citations"):
        claude_client.invoke_claude([cited], output_config=config(OBJECT))
    begun = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]}
    with pytest.raises(claude_client.ClaudeInvocationError, match="cannot be combined with assistant message prefill"):
        claude_client.invoke_claude("x", model="claude-haiku-4-5", output_config=config(OBJECT), extra_body=begun)


PATTERNS = st.recursive(
    st.sampled_from(
        [*"ab_-", "é", r"\d", r"\w", r"\s", r"\.", ".", "[a-c]", "[^a-y]", r"[\]x]", r"\x41", r"é", "[é-ü]"]
    ),
    lambda inner: st.one_of(
        st.builds("".join, st.lists(inner, min_size=1, max_size=3)),
        st.builds("({}|{})".format, inner, inner),
        st.builds(
            "(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "{,2}", "+?", "*?", ""])
        ),
        st.builds("(?P<n>{})".format, st.sampled_from("ab")),
    ),
    max_leaves=6,
).filter(lambda pattern: pattern.count("?P<n>") < 2)


@given(PATTERNS)
def test_a_text_matches_its_pattern(pattern):
    assert re.search(f"^(?:{pattern})$", text_matching(f"^({pattern})$"))


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("(?!x)", "lookarounds are not supported"),
        ("(?<=x)", "lookarounds are not supported"),
        (r"\bx", "word boundaries are not supported"),
        (r"(a)\1", "backreferences are not supported"),
        ("(?i)x", r"\(\?i is not supported"),
        ("(", "missing"),
        (5, "first argument must be string"),
        ("a^b", "no text is known to match it"),
    ],
)
def test_a_pattern_is_refused(pattern, complaint):
    with pytest.raises(ValueError, match=complaint):
        text_matching(pattern)
