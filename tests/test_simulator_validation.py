"""The requests the simulator refuses, and the ones it does not."""

import http.client
import json
import typing

import anthropic
import pytest
from anthropic.types import MessageCountTokensParams, message_create_params

from claude_client.simulator import Simulator

OLD, NEW = "2023-06-01", "2026-10-21"
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
HELLO = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def sim():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def post(sim):
    """Posts a body; gives the status and the error's message, or None."""
    connection = http.client.HTTPConnection(sim.base_url.removeprefix("http://"), timeout=10)

    def send(value, *, version=NEW, key={"x-api-key": "any"}, path="/v1/messages"):  # noqa: B006
        headers = {**key, **({"anthropic-version": version} if version else {})}
        connection.request("POST", path, value if isinstance(value, bytes) else json.dumps(value), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        return response.status, answer.get("error", {}).get("message")

    yield send
    connection.close()


def asking(**fields):
    body = {"model": "claude-sonnet-4-6", "max_tokens": 10, "messages": [HELLO], **fields}
    return {key: value for key, value in body.items() if value is not ...}


def text(content="x", **fields):
    return {"type": "text", "text": content, **fields}


def user(*blocks):
    return [{"role": "user", "content": list(blocks)}]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model": ...}, "model: Field required"),
        ({"max_tokens": ...}, "max_tokens: Field required"),
        ({"messages": ...}, "messages: Field required"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"max_tokens": "10"}, "max_tokens: Input has the wrong type"),
        ({"max_tokens": True}, "max_tokens: Input has the wrong type"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"stream": 1}, "stream: Input has the wrong type"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["Hello"]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "text content blocks must be non-empty"),
        ({"messages": user(text("x"), text(""))}, "messages.0.content.1: text content blocks must be non-empty"),
        ({"messages": user("x")}, "messages.0.content.0.type: Field required"),
        ({"system": [text("")]}, "system.content.0: text content blocks must be non-empty"),
        ({"messages": [{"role": "assistant", "content": "x"}, HELLO]}, 'first message must use the "user" role'),
        ({"messages": [HELLO, {"role": "assistant", "content": "x"}]}, "does not support assistant message prefill"),
    ],
)
def test_refuses_a_bad_parameter(post, fields, complaint):
    status, message = post(asking(**fields))
    assert status == 400
    assert complaint in message


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"stream": True}, "stream"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    ],
)
def test_refuses_to_warm_the_cache_with(post, fields, complaint):
    status, message = post(asking(max_tokens=0, **fields))
    assert status == 400
    assert f"0 cannot be combined with {complaint}" in message.replace("a forced ", "")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"system": [text(**MARK)] * 5}, "A maximum of 4 blocks"),
        ({"system": [text(**MARK)] * 4, **MARK}, "A maximum of 4 blocks"),
        ({"system": [text(**MARK), text(**HOUR)]}, "a ttl of 1h must not come after a ttl of 5m"),
        ({"tools": [{"name": "t", **MARK}], "system": [text(**HOUR)]}, "a ttl of 1h must not come after"),
        ({"messages": user(text(**HOUR)), **MARK}, "the last block has a cache_control with another ttl"),
        ({"system": [text(cache_control={"type": "eternal"})]}, "must be of type 'ephemeral'"),
        ({"system": [text(cache_control={"type": "ephemeral", "ttl": "2h"})]}, "must be of type 'ephemeral'"),
        ({"system": [text("", **MARK)]}, "text content blocks must be non-empty"),
        (
            {"messages": [HELLO, {"role": "assistant", "content": [{"type": "thinking", **MARK}]}, HELLO]},
            "cache_control cannot be set on a block of type thinking",
        ),
    ],
)
def test_refuses_a_bad_cache_mark(post, fields, complaint):
    status, message = post(asking(**fields))
    assert status == 400
    assert complaint in message


@pytest.mark.parametrize(
    "fields",
    [
        {"system": [text(**HOUR), text(**MARK)]},
        {"system": [text(**MARK)] * 3, **MARK},
        {"messages": user(text(**MARK)), **MARK},
        {"system": None, "tools": [], "stream": None},
        {"messages": [HELLO, {"role": "system", "content": "Be brief."}, HELLO]},
        {"model": "claude-haiku-4-5", "messages": [HELLO, {"role": "assistant", "content": "Well"}]},
        {"max_tokens": 0, "tools": [{"name": "t", **MARK}], "thinking": {"type": "adaptive"}},
    ],
)
def test_accepts(post, fields):
    assert post(asking(**fields)) == (200, None)


class TestVersions:
    @pytest.mark.parametrize("key", ["temperature", "top_p", "top_k"])
    def test_the_new_one_has_no_sampling_parameters_for_any_model(self, post, key):
        complaint = f"{key}: Extra inputs are not permitted"
        for model in ("claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-5"):
            assert post(asking(model=model, **{key: 1})) == (400, complaint)

    def test_the_new_one_has_none_for_counting(self, post):
        body = asking(max_tokens=..., temperature=1)
        assert post(body, path="/v1/messages/count_tokens")[0] == 400

    @pytest.mark.parametrize(
        "model", ["claude-sonnet-4-6", "claude-opus-4-6", "claude-sonnet-4-5-20250929", "claude-3-5-haiku-20241022"]
    )
    def test_the_old_one_lets_older_models_take_a_temperature(self, post, model):
        assert post(asking(model=model, temperature=0.2), version=OLD) == (200, None)

    @pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-sonnet-5", "claude-haiku-5-5", "claude-fable-5-1"])
    @pytest.mark.parametrize(
        ("key", "value", "status"), [("temperature", 0.2, 400), ("temperature", 1, 200), ("top_k", 5, 400)]
    )
    def test_the_old_one_lets_newer_models_take_only_the_default(self, post, model, key, value, status):
        assert post(asking(model=model, **{key: value}), version=OLD)[0] == status

    @pytest.mark.parametrize(
        ("model", "status"), [("claude-sonnet-4-6", 200), ("claude-haiku-4-5", 400), ("claude-opus-5", 400)]
    )
    def test_temperature_and_top_p_together_depend_on_the_model(self, post, model, status):
        assert post(asking(model=model, temperature=1, top_p=0.99), version=OLD)[0] == status

    @pytest.mark.parametrize(
        ("sampling", "status"),
        [({"temperature": 1}, 400), ({"top_k": 5}, 400), ({"top_p": 0.9}, 400), ({"top_p": 0.95}, 200)],
    )
    def test_thinking_leaves_only_a_high_top_p(self, post, sampling, status):
        body = asking(thinking={"type": "adaptive"}, **sampling)
        assert post(body, version=OLD)[0] == status

    @pytest.mark.parametrize(
        "messages",
        [
            [HELLO, {"role": "assistant", "content": [{"type": "document"}]}, HELLO],
            user(text(citations=[{"type": "char_location"}])),
            user({"type": "search_result", "content": [text(citations=[{"type": "char_location"}])]}),
        ],
    )
    def test_two_shapes_of_content_are_refused_by_the_new_one_alone(self, post, messages):
        assert post(asking(messages=messages), version=OLD)[0] == 200
        assert post(asking(messages=messages), version=NEW)[0] == 400

    @pytest.mark.parametrize("version", [None, "2024-01-01"])
    def test_an_unknown_one_is_refused(self, post, version):
        status, message = post(asking(), version=version)
        assert status == 400
        assert message.startswith("anthropic-version: ")


class TestModels:
    def test_one_that_is_not_claude_is_not_found(self, post):
        assert post(asking(model="gpt-4")) == (404, "model: gpt-4")

    @pytest.mark.parametrize(("model", "status"), [("claude-opus-5-5", 400), ("claude-opus-5", 200)])
    def test_some_refuse_a_forced_tool(self, post, model, status):
        assert post(asking(model=model, tool_choice={"type": "any"}))[0] == status

    @pytest.mark.parametrize(("model", "status"), [("claude-fable-5", 400), ("claude-sonnet-5-5", 400)])
    def test_some_refuse_to_do_without_thinking(self, post, model, status):
        assert post(asking(model=model, thinking={"type": "disabled"}))[0] == status


class TestCaller:
    @pytest.mark.parametrize("key", [{}, {"x-api-key": ""}, {"authorization": "Bearer "}])
    def test_without_a_credential_is_refused(self, post, key):
        assert post(asking(), key=key)[0] == 401

    @pytest.mark.parametrize("key", [{"x-api-key": "any"}, {"authorization": "Bearer any"}])
    def test_with_either_credential_is_served(self, post, key):
        assert post(asking(), key=key)[0] == 200


class TestBody:
    @pytest.mark.parametrize(
        ("raw", "complaint"),
        [
            (b"{", "The request body is not valid JSON"),
            (b"[]", "The request body must be a JSON object"),
            (b"\xff", "The request body is not valid JSON"),
            (b"{}", "model: Field required"),
        ],
    )
    def test_must_be_a_json_object(self, post, raw, complaint):
        assert post(raw) == (400, complaint)

    def test_may_not_exceed_32_megabytes(self, post):
        assert post(b" " * (32 * 1024 * 1024 + 1))[0] == 413


@pytest.mark.parametrize(
    ("params", "path"),
    [
        (message_create_params.MessageCreateParamsNonStreaming, "/v1/messages"),
        (MessageCountTokensParams, "/v1/messages/count_tokens"),
    ],
)
def test_knows_every_parameter_of_the_installed_sdk(post, params, path):
    body = asking(max_tokens=... if "count" in path else 10)
    for key in typing.get_type_hints(params):
        _, message = post({**body, key: body.get(key)}, version=OLD, path=path)
        assert not (message or "").endswith("Extra inputs are not permitted"), key


def test_the_sdk_raises_what_was_refused(sim):
    client = anthropic.Anthropic(api_key="any", base_url=sim.base_url, max_retries=0)
    with client, pytest.raises(anthropic.BadRequestError, match="text content blocks must be non-empty"):
        client.messages.create(**asking(messages=user(text(""))))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [5]},
        {"system": [{"type": "text", "text": 5}]},
        {"messages": user(text(cache_control="x"))},
        {"messages": user(5)},
        {"messages": user(text(5))},
        {"temperature": 5},
        {"top_p": -1},
    ],
)
def test_values_of_the_wrong_kind_are_a_400(post, fields):
    status, _ = post(asking(**fields), version=OLD)
    assert status == 400


def test_what_it_cannot_make_sense_of_is_its_own_error_in_the_apis_form(post):
    status, message = post(json.dumps(asking(system="\ud800")).encode())
    assert status == 500
    assert "the simulator failed" in message
