"""The requests the simulator refuses, and the ones it does not."""

import http.client
import json
import typing

import anthropic
import pytest
from anthropic.types import MessageCountTokensParams, message_create_params

from claude_client.simulator import Reply, Simulator

OLD, NEW = "2023-06-01", "2026-10-21"
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
HELLO = {"role": "user", "content": "Hello"}
THINKING = {"type": "enabled", "budget_tokens": 1024}
CALL = {"type": "tool_use", "id": "1", "name": "t", "input": {}}
SEARCH = {"type": "server_tool_use", "id": "9", "name": "web_search", "input": {}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "9", "content": []}
TOOL = {"name": "t", "input_schema": {"type": "object"}}
STRICT = {"name": "s", "strict": True, "input_schema": {"type": "object", "additionalProperties": False}}
OLD_MODEL = "claude-3-5-haiku-20241022"
NO_JSON = "The request body is not valid JSON"


@pytest.fixture(scope="module")
def sim():
    with Simulator(models=["my-model", OLD_MODEL]) as simulator:
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


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def result(call, content="done", **fields):
    return {"type": "tool_result", "tool_use_id": call, "content": content, **fields}


def answered(*results):
    """A conversation in which one call of a tool is answered with *results*."""
    return [HELLO, assistant(CALL), *user(*results)]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model": ...}, "model: Field required"),
        ({"max_tokens": ...}, "max_tokens: Field required"),
        ({"messages": ...}, "messages: Field required"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"max_tokens": "10"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"stream": 1}, "stream: Input should be a valid boolean"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["Hello"]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0: all messages must have non-empty content"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "text content blocks must be non-empty"),
        ({"messages": user(text("x"), text(""))}, "messages.0.content.1: text content blocks must be non-empty"),
        ({"messages": user("x")}, "messages.0.content.0.type: Field required"),
        ({"system": [{"type": "document"}]}, "system.0.type: Input should be 'text'"),
        ({"system": [text("")]}, "system.0: text content blocks must be non-empty"),
        ({"messages": [{"role": "assistant", "content": "x"}, HELLO]}, 'first message must use the "user" role'),
        ({"messages": [HELLO, {"role": "assistant", "content": "x"}]}, "does not support assistant message prefill"),
    ],
)
def test_refuses_a_bad_parameter(post, fields, complaint):
    status, message = post(asking(**fields))
    assert status == 400
    assert complaint in message


TAGS = "found using 'type' does not match any of the expected tags: "


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"thinking": {"type": "deep"}}, f"thinking: Input tag 'deep' {TAGS}'adaptive', 'between_tools', "),
        ({"thinking": {"type": "enabled"}}, "thinking.enabled.budget_tokens: Field required"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": "1024"}},
            "thinking.enabled.budget_tokens: Input should be a valid integer",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1023}},
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
        ),
        ({"thinking": THINKING, "max_tokens": 1024}, "`max_tokens` must be greater than `thinking.budget_tokens`"),
        (
            {"thinking": {"type": "adaptive"}, "tools": [TOOL], "tool_choice": {"type": "any"}},
            "Thinking may not be enabled when tool_choice forces tool use.",
        ),
        ({"stop_sequences": [1]}, "stop_sequences.0: Input should be a valid string"),
        ({"stop_sequences": ["END", ""]}, "stop_sequences: each stop sequence must be non-empty"),
        ({"stop_sequences": ["\n"]}, "stop_sequences: each stop sequence must contain non-whitespace"),
        ({"metadata": {"name": "x"}}, "metadata.name: Extra inputs are not permitted"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id: Input should be a valid string"),
        ({"service_tier": "gold"}, "service_tier: Input should be 'auto' or 'standard_only'"),
        ({"speed": "slow"}, "speed: Input should be 'standard' or 'fast'"),
        ({"output_config": {"colour": "red"}}, "output_config.colour: Extra inputs are not permitted"),
        ({"output_config": {"effort": "some"}}, "output_config.effort: Input should be 'low', 'medium', 'high', "),
        (
            {"messages": [HELLO] * 100_001},
            "messages: List should have at most 100000 items after validation, not 100001",
        ),
    ],
)
def test_refuses_a_value_that_means_nothing(post, fields, complaint):
    status, message = post(asking(**{"max_tokens": 2000, **fields}))
    assert status == 400
    assert complaint in message


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (user({"type": "nonsense"}), f"messages.0.content.0: Input tag 'nonsense' {TAGS}'compaction', "),
        ([{**HELLO, "name": "x"}], "messages.0.name: Extra inputs are not permitted"),
        (
            [HELLO, assistant(text(parsed_output=None)), HELLO],
            "messages.1.content.0.text.parsed_output: Extra inputs are not permitted",
        ),
        (user({"type": "tool_result"}), "messages.0.content.0.tool_result.tool_use_id: Field required"),
        (
            [HELLO, assistant({**CALL, "input": "{}"})],
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (user({"type": "image"}), "messages.0.content.0.image.source: Field required"),
        (
            user({"type": "image", "source": {"type": "path"}}),
            f"messages.0.content.0.image.source: Input tag 'path' {TAGS}'base64', 'file', 'url'",
        ),
        (
            user({"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "x"}}),
            "messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png', ",
        ),
        (
            user({"type": "image", "source": {"type": "base64", "media_type": "image/png"}}),
            "messages.0.content.0.image.source.base64.data: Input should be a valid string",
        ),
        (user(CALL), "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages"),
        (
            [HELLO, assistant(result("1")), HELLO],
            "messages.1.content.0: `tool_result` blocks can only be in `user` messages",
        ),
        (
            [HELLO, assistant(CALL), HELLO],
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: 1. Each",
        ),
        (
            [HELLO, assistant(CALL, {**CALL, "id": "2"}, {**CALL, "id": "3"}), *user(result("2"))],
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: 1, 3. Each",
        ),
        (user(text(), result("1")), "messages.0.content.1: unexpected `tool_use_id` found in `tool_result` blocks: 1."),
        (
            [HELLO, assistant(CALL), *user(result("1")), assistant(text()), *user(result("1"))],
            "messages.4.content.0: unexpected `tool_use_id` found in `tool_result` blocks: 1.",
        ),
    ],
)
def test_refuses_blocks_that_do_not_belong(post, messages, complaint):
    status, message = post(asking(messages=messages, tools=[TOOL]))
    assert status == 400
    assert message.startswith(complaint)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (
            answered(text("Here it is:"), result("1")),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: 1. Each",
        ),
        (
            [HELLO, assistant(CALL), *user(text("Here it is:")), *user(result("1"))],
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: 1. Each",
        ),
        (
            answered(result("1"), result("1")),
            "messages.2.content.1: each tool_use must have a single result. Found multiple `tool_result` blocks",
        ),
        ([HELLO, assistant(CALL, CALL), *user(result("1"))], "messages.1.content.1: `tool_use` ids must be unique"),
        (
            [*answered(result("1")), assistant(CALL), *user(result("1"))],
            "messages.3.content.0: `tool_use` ids must be unique",
        ),
        (answered(result("1", 5)), "messages.2.content.0.tool_result.content: Input should be a valid string"),
        (
            answered(result("1", ["x"])),
            "messages.2.content.0.tool_result.content.0: Input should be a valid dictionary",
        ),
        (
            answered(result("1", [CALL])),
            f"messages.2.content.0.tool_result.content.0: Input tag 'tool_use' {TAGS}'document', 'image', ",
        ),
        (
            answered(result("1", [text("")])),
            "messages.2.content.0.tool_result.content.0: text content blocks must be non-empty",
        ),
        (
            answered(result("1", [{"type": "image"}])),
            "messages.2.content.0.tool_result.content.0.image.source: Field required",
        ),
        (
            answered(result("1", is_error="yes")),
            "messages.2.content.0.tool_result.is_error: Input should be a valid boolean",
        ),
        (
            [HELLO, assistant({"type": "server_tool_use", "id": "9"}), HELLO],
            "messages.1.content.0.server_tool_use.name: Field required",
        ),
        (
            [HELLO, assistant(FOUND, SEARCH), HELLO],
            "messages.1.content.0: unexpected `tool_use_id` found in `web_search_tool_result` blocks: 9. Each",
        ),
    ],
)
def test_refuses_results_that_are_not_as_they_should_be(post, messages, complaint):
    status, message = post(asking(messages=messages, tools=[TOOL]))
    assert status == 400
    assert message.startswith(complaint)


@pytest.mark.parametrize(
    "messages",
    [
        answered(result("1", None, is_error=None)),
        answered(result("1", "", is_error=True), text("Go on.")),
        answered(result("1", [])),
        answered(
            result(
                "1",
                [
                    text(),
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
                    {"type": "search_result", "source": "x", "title": "x", "content": [text()]},
                    {"type": "tool_reference", "tool_name": "t"},
                ],
            )
        ),
    ],
)
def test_takes_good_results(post, messages):
    assert post(asking(messages=messages, tools=[TOOL])) == (200, None)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("tools", [..., None, []])
def test_calls_and_results_need_tools_to_be_defined(post, tools, path):
    body = asking(messages=answered(result("1")), tools=tools, max_tokens=... if "count" in path else 10)
    complaint = "Requests which include `tool_use` or `tool_result` blocks must define tools."
    assert post(body, path=path) == (400, complaint)


@pytest.mark.parametrize(
    "later",
    [
        [HELLO],
        [assistant(text()), HELLO],
        user(result("1"), text("Go on.")),
        [*user(result("1")), assistant(text()), HELLO],
        [*user(result("1")), {"role": "system", "content": "Be brief."}],
    ],
)
def test_a_call_of_a_server_tool_needs_its_result_once_the_conversation_goes_on(post, later):
    call = [CALL] if later[0]["content"][0] == result("1") else []
    status, message = post(asking(messages=[HELLO, assistant(SEARCH, *call), *later], tools=[TOOL]))
    assert status == 400
    assert message.startswith("messages.1: `web_search` tool use with id `9` was found without a corresponding")


@pytest.mark.parametrize(
    "messages",
    [
        [HELLO, assistant(text(), SEARCH)],
        [HELLO, assistant(SEARCH), assistant(text(), {**SEARCH, "id": "10"})],
        [HELLO, assistant(SEARCH, CALL), *user(result("1"))],
        [HELLO, assistant(SEARCH, CALL), *user(result("1")), assistant(FOUND, text()), HELLO],
    ],
)
def test_a_call_of_a_server_tool_may_wait_where_the_answer_goes_on(post, messages):
    assert post(asking(messages=messages, tools=[TOOL])) == (200, None)


def test_results_may_be_spread_over_messages_of_one_turn(post):
    calls = assistant(CALL, {**CALL, "id": "2"})
    assert post(asking(messages=[HELLO, calls, *user(result("2")), *user(result("1"), text())], tools=[TOOL])) == (
        200,
        None,
    )


def test_refuses_a_prefill_that_ends_in_a_blank_or_calls_a_tool(post):
    def prefilled(*blocks):
        return post(asking(model="claude-haiku-4-5", messages=[HELLO, assistant(*blocks)]))

    assert prefilled(text("Well ")) == (400, "messages: final assistant content cannot end with trailing whitespace")
    assert "`tool_use` ids were found without" in prefilled(CALL)[1]
    assert prefilled({"type": "container_upload"}) == (200, None)


NAME = "tools.0.custom.name: String should "


@pytest.mark.parametrize(
    ("tools", "complaint"),
    [
        ([5], "tools.0: Input should be a valid dictionary"),
        ([{"input_schema": {}}], "tools.0.custom.name: Field required"),
        ([{**TOOL, "name": ""}], NAME + "have at least 1 character"),
        ([{**TOOL, "name": "x" * 129}], NAME + "have at most 128 characters"),
        ([{**TOOL, "name": "x y!"}], NAME + "match pattern '^[a-zA-Z0-9_-]{1,128}$'"),
        ([{**TOOL, "name": "x\n"}], NAME + "match pattern"),
        ([TOOL, {"name": "u"}], "tools.1.custom.input_schema: Field required"),
        ([{**TOOL, "input_schema": {}}], "tools.0.custom.input_schema.type: Field required"),
        ([{**TOOL, "input_schema": {"type": "array"}}], "tools.0.custom.input_schema.type: Input should be 'object'"),
        ([{**TOOL, "colour": "red"}], "tools.0.custom.colour: Extra inputs are not permitted"),
        ([TOOL, TOOL], "tools: Tool names must be unique."),
        ([TOOL, {"type": "web_search_20250305", "name": "t"}], "tools: Tool names must be unique."),
        (
            [{**TOOL, "strict": True}],
            "tools.0.custom: For 'object' type, 'additionalProperties' must be explicitly set to false",
        ),
        ([{**STRICT, "name": f"t{n}"} for n in range(21)], "Too many strict tools (21). The maximum number"),
    ],
)
def test_refuses_a_bad_tool(post, tools, complaint):
    status, message = post(asking(tools=tools))
    assert status == 400
    assert message.startswith(complaint)


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"type": "some"}, f"tool_choice: Input tag 'some' {TAGS}'any', 'auto', 'none', 'tool'"),
        ({"type": "tool"}, "tool_choice.tool.name: Field required"),
        ({"type": "tool", "name": "u"}, "Tool 'u' not found in provided tools"),
    ],
)
def test_refuses_a_bad_choice_of_a_tool(post, choice, complaint):
    assert post(asking(tools=[TOOL], tool_choice=choice)) == (400, complaint)


def test_refuses_a_choice_without_tools(post):
    complaint = "tool_choice may only be specified while providing tools"
    assert post(asking(tool_choice={"type": "auto"})) == (400, complaint)


@pytest.mark.parametrize(
    "tools",
    [
        [{**TOOL, "name": "Az_09-" + "x" * 122, "description": "d", "type": "custom"}],
        [TOOL, {"type": "web_search_20250305", "name": "web_search"}, {"type": "mcp_toolset", "mcp_server_name": "m"}],
        [{**TOOL, "input_schema": {"type": "object", "properties": {"a": {"minimum": 3}}}}],
        [{**STRICT, "name": f"t{n}"} for n in range(20)],
    ],
)
def test_takes_good_tools(post, tools):
    for choice in ({"type": "auto"}, {"type": "tool", "name": tools[0]["name"], "disable_parallel_tool_use": True}):
        assert post(asking(tools=tools, tool_choice=choice)) == (200, None)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"stream": True}, "stream"),
        ({"thinking": THINKING}, "thinking"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "null"}}}}, "output_config.format"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "t"}}, "tool_choice"),
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
        ({"tools": [{**TOOL, **MARK}], "system": [text(**HOUR)]}, "a ttl of 1h must not come after"),
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
        {"messages": user({"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}})},
        {"messages": user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}})},
        {"messages": [HELLO, assistant(SEARCH, FOUND), HELLO]},
        {"messages": [HELLO, {"role": "system", "content": "Be brief."}, HELLO]},
        {"model": "claude-haiku-4-5", "messages": [HELLO, {"role": "assistant", "content": "Well"}]},
        {"max_tokens": 0, "tools": [{**TOOL, **MARK}], "thinking": {"type": "adaptive"}},
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

    @pytest.mark.parametrize("model", ["claude-sonnet-4-6", "claude-opus-4-6", "claude-sonnet-4-5-20250929", OLD_MODEL])
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
    @pytest.mark.parametrize("model", ["gpt-4", "claude-typo-9", "claude-opus-9", "claude-sonnet-4-6-latest", ""])
    @pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
    def test_one_that_does_not_exist_is_not_found(self, post, model, path):
        body = asking(model=model, max_tokens=... if "count" in path else 10)
        assert post(body, path=path) == (404, f"model: {model}")

    @pytest.mark.parametrize(
        "model", ["claude-fable-5-2", "claude-haiku-4-5", "claude-haiku-4-5-20251001", "my-model", OLD_MODEL]
    )
    def test_one_that_is_served_or_was_told_of_answers(self, post, model):
        assert post(asking(model=model)) == (200, None)

    def test_they_are_told_as_several_names(self):
        with pytest.raises(TypeError, match="models are several names, got 'my-model'"):
            Simulator(models="my-model")

    @pytest.mark.parametrize(
        ("model", "most"), [("claude-haiku-4-5", 64_000), ("claude-sonnet-4-6", 128_000), ("my-model", 128_000)]
    )
    def test_each_has_a_most_of_output(self, post, model, most):
        complaint = f"max_tokens: {most + 1} > {most}, which is the maximum allowed number of output tokens for {model}"
        assert post(asking(model=model, max_tokens=most)) == (200, None)
        assert post(asking(model=model, max_tokens=most + 1)) == (400, complaint)

    @pytest.mark.parametrize(("model", "most"), [("claude-haiku-4-5", 200_000), ("claude-sonnet-4-6", 1_000_000)])
    def test_each_has_a_longest_prompt(self, post, model, most):
        longest = "word" * (most - 1)
        complaint = f"prompt is too long: {most + 1} tokens > {most} maximum"
        assert post(asking(model=model, system=longest, messages=[{"role": "user", "content": "1234"}])) == (200, None)
        assert post(asking(model=model, system=longest, messages=[{"role": "user", "content": "12345"}])) == (
            400,
            complaint,
        )

    def test_the_window_may_be_made_small(self):
        with (
            Simulator(context_window=50) as sim,
            anthropic.Anthropic(api_key="any", base_url=sim.base_url, max_retries=0) as client,
        ):
            with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 52 tokens > 50 maximum"):
                client.messages.create(**asking(system="word" * 50))
            assert client.messages.create(**asking(system="word" * 48)).usage.input_tokens == 50
            assert client.models.retrieve("claude-sonnet-4-6").to_dict()["max_input_tokens"] == 50

    @pytest.mark.parametrize("window", [0, -1])
    def test_a_window_without_room_is_refused(self, window):
        with pytest.raises(ValueError, match="context_window must be above 0"):
            Simulator(context_window=window)

    def test_data_of_images_and_documents_counts_for_less_than_its_bytes(self, post):
        source = {"type": "base64", "media_type": "application/pdf", "data": "a" * 10_000_000}
        result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "document", "source": source}]}
        called = [HELLO, {"role": "assistant", "content": [CALL]}, *user(result)]
        for messages in (user({"type": "document", "source": source}), called):
            assert post(asking(messages=messages, tools=[TOOL])) == (200, None)

    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [
            ({"model": "claude-opus-4-7", "thinking": THINKING}, '"thinking.type.enabled" is not supported'),
            ({"model": "claude-haiku-4-5", "thinking": {"type": "adaptive"}}, "adaptive thinking is not supported"),
            ({"speed": "fast"}, "'claude-sonnet-4-6' does not support the `speed` parameter"),
            (
                {"model": "claude-haiku-4-5", "inference_geo": "us"},
                "'claude-haiku-4-5' does not support the `inference_geo` parameter",
            ),
        ],
    )
    def test_some_refuse_what_others_take(self, post, fields, complaint):
        status, message = post(asking(max_tokens=2000, **fields))
        assert status == 400
        assert complaint in message

    @pytest.mark.parametrize(("model", "status"), [("claude-opus-5-5", 400), ("claude-opus-5", 200)])
    def test_some_refuse_a_forced_tool(self, post, model, status):
        assert post(asking(model=model, tools=[TOOL], tool_choice={"type": "any"}))[0] == status

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
            (b'{"max_tokens": NaN}', "The request body is not valid JSON"),
            (json.dumps(asking(metadata={"user_id": "\ud83d"})).encode(), f"{NO_JSON}: no low surrogate in string"),
            (
                json.dumps(asking(system="\ud83d")).replace("d83d", "D83D").encode(),
                f"{NO_JSON}: no low surrogate in string",
            ),
        ],
    )
    def test_must_be_a_json_object(self, post, raw, complaint):
        assert post(raw) == (400, complaint)

    def test_may_hold_whole_surrogate_pairs(self, post):
        assert post(json.dumps(asking(system="\N{GRINNING FACE}")).encode()) == (200, None)

    @pytest.mark.parametrize("key", [{}, {"x-api-key": "any"}])
    def test_may_not_exceed_32_megabytes(self, post, key):
        assert post(b" " * (32 * 1024 * 1024 + 1), key=key) == (413, "Request exceeds the maximum size")


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
        {"top_k": -1},
    ],
)
def test_values_of_the_wrong_kind_are_a_400(post, fields):
    status, _ = post(asking(**fields), version=OLD)
    assert status == 400


def test_what_it_cannot_make_sense_of_is_its_own_error_in_the_apis_form(sim, post):
    sim.script(Reply(text="\ud800"))
    status, message = post(asking())
    assert status == 500
    assert "the simulator failed" in message
