import base64
import copy
import json
import re

import anthropic
import pytest

from claude_client import (
    ConversationThread,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    set_default_client,
)
from claude_client._sdk.parameters import create_arguments, create_parameters
from claude_client._verbs.requests import build_request, build_requests
from helpers import SDK_MAJOR, error, reply, streamed

CACHED = {"type": "ephemeral"}


def text(words, **more):
    return {"type": "text", "text": words, **more}


@pytest.mark.parametrize("prompt", ["", "  \n", [], [text("")], [text(" ")], None])
def test_a_blank_prompt_is_refused(api, prompt):
    with pytest.raises(ValueError, match=r"prompt (is blank|must be)"):
        invoke_claude(prompt)
    assert not api.requests


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, got 0"),
        ({"max_tokens": 1.5}, "max_tokens must be .* got 1.5"),
        ({"max_tokens": True}, "max_tokens must be .* got True"),
        ({"max_tokens": None}, "max_tokens must be .* got None"),
        ({"temperature": 1.01}, "temperature must be a number from 0 to 1, got 1.01"),
        ({"temperature": -0.1}, "temperature .* got -0.1"),
        ({"temperature": float("nan")}, "temperature .* got nan"),
        ({"temperature": "hot"}, "temperature .* got 'hot'"),
        ({"model": ""}, "model must be a non-empty str, got ''"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, got 0"),
        ({"timeout": "5"}, "timeout .* got '5'"),
        ({"max_retries": -1}, "max_retries must be a whole number of at least 0, got -1"),
        ({"system": {"type": "text"}}, "system must be a str or a list of content blocks, got a dict"),
        ({"system": ["words"]}, r"system\[0\] must be a content block, .* got 'words'"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hi"}, "messages must be a list of dicts, got a str"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has no 'content'"),
        ({"messages": ["hi"]}, r"messages\[0\] is a str"),
        ({"messages": [{"role": "user", "content": 5}]}, r"messages\[0\]\['content'\] must be a str or a list"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "must be a content block, .* got 'hi'"),
        ({"temperature": True}, "temperature .* got True"),
        ({"max_retries": True}, "max_retries .* got True"),
        ({"timeout": float("inf")}, "timeout .* got inf"),
        ({"system": "a \udcff"}, "a text has a lone surrogate at position 2"),
        ({"metadata": {"user_id": "\ud800"}}, "a text has a lone surrogate at position 0"),
        ({"extra_headers": "x"}, "extra_headers must be a dict, got a str"),
        ({"extra_headers": {1: "x"}}, "extra_headers must have texts as names and values, got a str for 1"),
        ({"extra_headers": {"x": 5}}, "extra_headers must have texts as names and values, got a int for 'x'"),
        ({"extra_body": {"stream": True}}, "extra_body must not set 'stream'"),
    ],
)
def test_bad_input_is_refused_before_any_request(api, options, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_claude("hi", **options)
    with pytest.raises(ValueError, match=problem):
        invoke_parallel([{"prompt": "fine"}, {"prompt": "hi", **options}])
    assert not api.requests


def test_an_unknown_name_is_a_type_error_that_suggests_the_known_one():
    with pytest.raises(TypeError, match="unknown parameter 'temprature'; did you mean 'temperature'"):
        invoke_claude("hi", temprature=0.5)


def test_stream_is_refused_with_a_pointer_to_the_streaming_function():
    with pytest.raises(TypeError, match="invoke_claude_streaming"):
        invoke_claude("hi", stream=True)
    with pytest.raises(ValueError, match=r"prompts\[0\] has an unknown key 'stream': use invoke_parallel_streaming"):
        invoke_parallel([{"prompt": "hi", "stream": True}])


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ([], "prompts is empty"),
        ("hi", "prompts must be a list of dicts, got a str"),
        ({"prompt": "hi"}, "prompts must be a list of dicts, got a dict"),
        (iter([{"prompt": "hi"}]), "prompts must be a list of dicts, got a list_iterator"),
        (None, "prompts must be a list of dicts, got None"),
        (["hi"], r"prompts\[0\] is a str, not a dict"),
        ([{"prompt": "a"}, {"prompt": "b"}, {}], r"prompts\[2\] has no 'prompt'"),
        ([{"prompt": "a"}, {"prompt": None}], r"prompts\[1\] has no 'prompt'"),
        ([{"prompt": " "}], r"prompts\[0\]: prompt is blank: ' '"),
        ([{"prompt": "a", "sytem": "x"}], r"prompts\[0\] has an unknown key 'sytem'; did you mean 'system'"),
        ([{"prompt": "a", 1: "x"}], r"prompts\[0\] has an unknown key 1"),
    ],
)
def test_bad_prompt_lists_are_refused_before_any_request(api, prompts, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_parallel(prompts)
    assert not api.requests


def test_a_task_id_and_a_category_are_known_and_not_sent(api):
    api.answers(reply())
    invoke_parallel([{"prompt": "hi", "task_id": "t", "category": "c"}])
    assert api.body.keys() == {"model", "max_tokens", "messages"}


def test_the_default_temperature_is_not_sent(api):
    api.answers(reply())
    invoke_claude("hi")
    assert api.body == {
        "model": "claude-sonnet-4-6",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize("stream", [False, True])
def test_sampling_goes_out_under_the_version_that_takes_it(api, stream):
    api.answers(streamed("hi") if stream else reply())
    invoke_claude("hi", temperature=0, top_p=0.5, top_k=3, streaming=stream)
    sent = api.requests[0]
    assert [api.body[name] for name in ("temperature", "top_p", "top_k")] == [0, 0.5, 3]
    assert sent.headers.get_list("anthropic-version") == ["2023-06-01"]


def test_without_sampling_the_sdk_chooses_the_version(api):
    api.answers(reply())
    invoke_claude("hi")
    version = "2023-06-01" if SDK_MAJOR < 2 else "2026-10-21"
    assert api.requests[0].headers.get_list("anthropic-version") == [version]


def test_the_callers_version_header_wins_in_any_spelling(api):
    api.answers(reply())
    invoke_claude("hi", temperature=0.5, extra_headers={"Anthropic-Version": "2026-10-21", "X-Mine": "1"})
    assert api.requests[0].headers.get_list("anthropic-version") == ["2026-10-21"]
    assert api.requests[0].headers["x-mine"] == "1"


def test_sampling_in_the_extra_body_gets_its_version_too(api):
    api.answers(reply())
    invoke_claude("hi", extra_body={"temperature": 0.2})
    assert api.body["temperature"] == 0.2
    assert api.requests[0].headers["anthropic-version"] == "2023-06-01"


def test_the_extra_body_wins_over_what_we_set(api):
    api.answers(reply())
    invoke_claude("hi", temperature=0.5, extra_body={"temperature": 0.2, "new_field": 1})
    assert (api.body["temperature"], api.body["new_field"]) == (0.2, 1)


PASSED_THROUGH = {
    "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "low"},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["STOP"],
    "service_tier": "auto",
    "inference_geo": "us",
    "container": "c1",
    "speed": "fast",
    "diagnostics": {"previous_message_id": None},
    "cache_control": CACHED,
}


@pytest.mark.parametrize("name", PASSED_THROUGH)
def test_everything_the_api_takes_passes_through_on_every_sdk(api, name):
    api.answers(reply(), reply())
    invoke_claude("hi", **{name: PASSED_THROUGH[name]})
    invoke_parallel([{"prompt": "hi", name: PASSED_THROUGH[name]}])
    assert [body[name] for body in api.bodies] == [PASSED_THROUGH[name]] * 2


def test_ids_that_are_headers_become_headers_on_every_sdk(api):
    api.answers(reply())
    invoke_claude("hi", workspace_id="w", user_profile_id="p")
    headers = api.requests[0].headers
    assert (headers["anthropic-workspace-id"], headers["anthropic-user-profile-id"]) == ("w", "p")


def test_the_timeout_in_seconds_reaches_the_request(api):
    api.answers(reply(), reply())
    invoke_claude("hi", timeout=12.5)
    invoke_parallel([{"prompt": "hi", "timeout": anthropic.Timeout(7)}])
    assert [request.headers["x-stainless-read-timeout"] for request in api.requests] == ["12.5", "7"]


def test_messages_go_before_the_prompt(api):
    api.answers(reply())
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    invoke_claude("", messages=turns)
    assert api.body["messages"] == turns


def test_the_sdks_own_blocks_can_be_sent_back(api):
    api.answers(reply("one"), reply("two"))
    first = invoke_claude("hi")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": first.message.content}]
    invoke_claude("", messages=[*turns, {"role": "user", "content": "and?"}])
    assert api.bodies[1]["messages"][1]["content"] == [{"type": "text", "text": "one"}]


def test_cache_system_marks_the_last_block_of_the_system_prompt(api):
    api.answers(reply(), reply())
    invoke_claude("hi", system="be kind", cache_system=True)
    invoke_claude("hi", system=[text("a"), text("b")], cache_system=True)
    assert api.bodies[0]["system"] == [text("be kind", cache_control=CACHED)]
    assert api.bodies[1]["system"] == [text("a"), text("b", cache_control=CACHED)]


def test_cache_prompt_marks_the_last_block_of_the_last_message(api):
    api.answers(reply(), reply())
    invoke_claude("hi", cache_prompt=True)
    invoke_claude("", messages=[{"role": "user", "content": "again"}], cache_prompt=True)
    assert api.bodies[0]["messages"][0]["content"] == [text("hi", cache_control=CACHED)]
    assert api.bodies[1]["messages"][0]["content"] == [text("again", cache_control=CACHED)]


def test_a_callers_own_cache_control_stays_as_it_is():
    hour = {"type": "ephemeral", "ttl": "1h"}
    request = build_request(prompt="hi", system=[text("a", cache_control=hour)], cache_system=True)
    assert request.system == [text("a", cache_control=hour)]


def test_a_mark_never_falls_on_an_empty_text():
    request = build_request(prompt=[text("a"), text("")], cache_prompt=True)
    assert request.messages[0]["content"] == [text("a", cache_control=CACHED)]


RESULT = {"type": "tool_result", "tool_use_id": "t"}


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({"system": " \n"}, {}),
        ({"system": [text(" ")]}, {}),
        ({"system": [text("a"), text(" ", cache_control=CACHED)]}, {"system": [text("a", cache_control=CACHED)]}),
        ({"prompt": [text("a"), text("")]}, {"messages": [{"role": "user", "content": [text("a")]}]}),
        (
            {"messages": [{"role": "user", "content": [text(" "), text("a")]}]},
            {"messages": [{"role": "user", "content": [text("a")]}]},
        ),
        (
            {"prompt": [{**RESULT, "content": [text("a"), text(" ")]}]},
            {"messages": [{"role": "user", "content": [{**RESULT, "content": [text("a")]}]}]},
        ),
        (
            {"prompt": [{"type": "thinking", "thinking": "x"}, text(" ", cache_control=CACHED)]},
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
        ),
    ],
)
def test_blank_texts_are_not_sent(api, said, sent):
    api.answers(reply())
    invoke_claude(**{"prompt": "hi", **said})
    assert {name: api.body.get(name) for name in ("system", *sent)} == {"system": None, **sent}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": [text("")]}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "b"}],
    ],
)
def test_a_message_that_is_blank_is_refused_by_place(api, messages):
    with pytest.raises(ValueError, match=r"^messages\[[01]\]\['content'\] is blank"):
        invoke_claude(None, messages=messages)
    assert not api.requests


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tools": [print]}, "the function 'print' cannot be a tool: a model cannot give *args"),
        ({"output_config": {"format": dict}}, "output_config: the class dict cannot be sent"),
        ({"metadata": {"x": {1, 2}}}, "metadata: {1, 2} cannot be sent"),
        ({"metadata": {"x": b"x"}}, "metadata: b'x' cannot be sent"),
        ({"top_p": float("nan")}, "top_p: nan cannot be sent"),
        ({"metadata": {1: "x"}}, "metadata: a dict with the key 1 cannot be sent"),
        ({"extra_body": {"x": object}}, "extra_body: x: the class object cannot be sent"),
        ({"extra_query": {"x": "\udce9"}}, "extra_query: x: a text has a lone surrogate"),
        ({"thinking": {"x": "\udce9"}}, "thinking: a text has a lone surrogate"),
    ],
)
def test_a_parameter_that_is_no_json_is_refused_by_name_before_any_request(api, options, problem):
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        invoke_claude("hi", **options)
    with pytest.raises(ValueError, match=re.escape(f"prompts[1]: {problem}")):
        invoke_parallel([{"prompt": "a"}, {"prompt": "b", **options}])
    assert not api.requests


def test_a_file_is_sent_as_its_block_needs_it(api, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("caf\u00e9")
    source = {"type": "text", "media_type": "text/plain", "data": path}
    encoded = {"type": "base64", "media_type": "application/pdf", "data": path}
    api.answers(reply())
    documents = [{"type": "document", "source": source}, {"type": "document", "source": encoded}]
    invoke_claude([text(path), *documents], system=[text(path)])
    sent = api.body["messages"][0]["content"]
    assert [sent[0]["text"], sent[1]["source"]["data"], sent[2]["source"]["data"]] == [
        "caf\u00e9",
        "caf\u00e9",
        base64.b64encode(path.read_bytes()).decode(),
    ]
    assert api.body["system"] == [text("caf\u00e9")]


def test_a_file_that_is_to_be_text_and_is_none_is_refused_by_name(api, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"photo.png' is not UTF-8 text: invalid start byte at byte 0"):
        invoke_claude([text(path)])
    assert not api.requests


def test_a_file_is_read_when_its_prompt_is_sent_and_not_before(api, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("at first")
    (request,) = build_requests([{"prompt": [text(path)]}])
    path.write_text("when it is sent")
    assert request.messages[0]["content"] == [text(path)]
    assert create_arguments(request, anthropic.Anthropic(api_key="k"))["messages"][0]["content"] == [
        text("when it is sent")
    ]


def test_a_file_that_is_gone_when_its_prompt_is_sent_fails_that_prompt_alone(api, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("x")

    def answer(_):
        path.unlink(missing_ok=True)
        return reply()

    api.always(answer)
    prompts = [{"prompt": "a"}, {"prompt": [text(path)]}, {"prompt": "c"}]
    results = invoke_parallel(prompts, max_workers=1, return_exceptions=True)
    assert [results[0], results[2]] == ["Hello", "Hello"]
    assert (results[1].kind, "cannot be read" in str(results[1])) == ("invalid_request", True)


def test_a_conversation_keeps_the_content_of_a_file(api, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("as it was")
    thread = ConversationThread()
    api.answers(reply(), reply())
    thread.send([text(path)])
    path.unlink()
    thread.send("again")
    assert api.bodies[1]["messages"][0]["content"][0]["text"] == "as it was"


def test_no_system_prompt_with_cache_system_sends_none(api):
    api.answers(reply(), reply())
    invoke_claude("hi", cache_system=True)
    invoke_claude("hi", system="", cache_system=True)
    assert all("system" not in body for body in api.bodies)


def test_a_prompts_system_follows_the_shared_one_whose_mark_stays_in_place():
    own, none = build_requests(
        [{"prompt": "a", "system": "you are terse", "cache_system": True}, {"prompt": "b"}],
        shared_system="the code",
        cache_shared_system=True,
    )
    shared = text("the code", cache_control=CACHED)
    assert own.system == [shared, text("you are terse", cache_control=CACHED)]
    assert none.system == [shared]


def test_more_than_four_breakpoints_are_refused_wherever_they_are():
    marked = [text(str(i), cache_control=CACHED) for i in range(2)]
    result = {"type": "tool_result", "tool_use_id": "t", "content": marked}
    tool = {"name": "t", "input_schema": {}, "cache_control": CACHED}
    build_request(prompt=[result], system=marked)
    with pytest.raises(ValueError, match="at most 4 cache breakpoints are allowed, got 5"):
        build_request(prompt=[result], system=marked, tools=[tool])
    with pytest.raises(ValueError, match="got 5"):
        build_request(prompt=[result], system=marked, cache_control=CACHED)


def test_a_breakpoint_in_the_extra_body_counts_too():
    marked = [text(str(i), cache_control=CACHED) for i in range(4)]
    with pytest.raises(ValueError, match="got 5"):
        build_request(prompt=marked, extra_body={"cache_control": CACHED})


def test_shared_breakpoints_count_with_a_prompts_own():
    marked = [text(str(i), cache_control=CACHED) for i in range(3)]
    with pytest.raises(ValueError, match=r"prompts\[1\]: at most 4 cache breakpoints are allowed, got 5"):
        build_requests([{"prompt": "a"}, {"prompt": marked}], shared_system=marked[:2])


def test_shared_system_is_for_fan_outs_only():
    with pytest.raises(TypeError, match="unknown parameter 'shared_system'"):
        invoke_claude("hi", shared_system="x")


def test_an_open_file_is_sent_in_base64_and_again_with_every_attempt(api, slept):
    import io

    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": io.BytesIO(b"png")}}
    api.answers(error(529), reply())
    invoke_claude([image])
    assert [body["messages"][0]["content"][0]["source"]["data"] for body in api.bodies] == ["cG5n"] * 2


def test_an_extra_query_is_sent(api):
    api.answers(reply())
    invoke_claude("hi", extra_query={"beta": "true"})
    assert api.requests[0].url.params["beta"] == "true"


def test_a_request_does_not_show_its_extra_headers():
    assert "sk-secret" not in repr(build_request(prompt="hi", extra_headers={"x-goog-api-key": "sk-secret"}))


def test_callers_objects_are_never_changed(api):
    api.always(lambda _: reply())
    prompts = [{"prompt": [text("a")], "system": [text("s")], "cache_prompt": True, "cache_system": True}]
    shared = [text("shared")]
    turns = [{"role": "user", "content": [text("c")]}]
    options = {"tools": [{"name": "t", "input_schema": {}}], "extra_headers": {"X": "1"}, "extra_body": {"a": 1}}
    before = copy.deepcopy((prompts, shared, turns, options))
    invoke_parallel(prompts, shared_system=shared, cache_shared_system=True)
    invoke_claude("", messages=turns, cache_prompt=True, temperature=0.5, **options)
    assert (prompts, shared, turns, options) == before


def test_a_later_change_by_the_caller_does_not_reach_the_request():
    blocks = [text("as it was")]
    request = build_request(prompt=blocks)
    blocks[0]["text"] = "changed"
    assert request.messages[0]["content"] == [text("as it was")]


def test_generators_of_tools_are_read_once():
    request = build_request(prompt="hi", tools=(tool for tool in [{"name": "t", "input_schema": {}}]))
    assert request.params["tools"] == [{"name": "t", "input_schema": {}}]


def test_the_streaming_verb_takes_the_same_parameters(api):
    api.answers(streamed("hi"))
    invoke_claude_streaming(
        "", messages=[{"role": "user", "content": "a"}], system="s", cache_system=True, stop_sequences=["x"]
    )
    assert api.body["stream"] is True
    assert api.body["stop_sequences"] == ["x"]
    assert api.body["system"] == [text("s", cache_control=CACHED)]


def test_thinking_carries_no_breakpoint():
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    request = build_request(messages=[{"role": "user", "content": [text("a"), thinking]}], cache_prompt=True)
    assert [block.get("cache_control") for block in request.messages[0]["content"]] == [CACHED, None]


def test_a_pydantic_object_stands_for_what_it_dumps():
    class Model:
        def model_dump(self, **_):
            return {"type": "text", "text": "dumped"}

    assert build_request(prompt=[Model()]).messages[0]["content"] == [text("dumped")]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": tmp_path / "none.png"}}
    with pytest.raises(ValueError, match=r"none\.png' cannot be read: No such file"):
        build_request(prompt=[image])


@pytest.mark.parametrize("name", ["prompt", "messages", "task_id"])
def test_what_is_for_one_prompt_alone_cannot_be_said_for_all(name):
    with pytest.raises(TypeError, match=f"'{name}' is for one prompt alone"):
        build_requests([{"prompt": "a"}], **{name: "x"})


def test_what_only_the_sdk_knows_is_taken(monkeypatch):
    def create(self, *, model, from_the_future=None): ...

    monkeypatch.setattr(anthropic.resources.messages.Messages, "create", create)
    create_parameters.cache_clear()
    try:
        assert build_request(prompt="a", from_the_future=1).params == {"from_the_future": 1}
        assert build_requests([{"prompt": "a", "from_the_future": 1}])[0].params == {"from_the_future": 1}
        with pytest.raises(TypeError, match="unknown parameter 'from_the_past'"):
            build_request(prompt="a", from_the_future=1, from_the_past=1)
    finally:
        create_parameters.cache_clear()


def test_a_category_is_a_text():
    with pytest.raises(ValueError, match="category must be a str or None, got 3"):
        build_request(prompt="a", category=3)


@pytest.mark.parametrize(
    ("name", "options", "version"),
    [
        ("AnthropicVertex", {"region": "r", "project_id": "p", "access_token": "t"}, "vertex-2023-10-16"),
        ("AnthropicBedrock", {"aws_region": "r"}, "bedrock-2023-05-31"),
    ],
)
def test_sampling_goes_to_the_clouds_under_the_version_that_takes_it(name, options, version):
    client = getattr(anthropic, name)(**options)
    request = build_request(prompt="hi", temperature=0.5)
    assert create_arguments(request, client)["extra_body"] == {"temperature": 0.5, "anthropic_version": version}
    asked = build_request(prompt="hi", temperature=0.5, extra_body={"anthropic_version": "mine"})
    assert create_arguments(asked, client)["extra_body"]["anthropic_version"] == "mine"


def test_a_call_of_vertex_says_one_version(api):
    options = {"region": "r", "project_id": "p", "access_token": "t", "base_url": "https://api.anthropic.com"}
    api.router.post(path__regex="rawPredict").mock(side_effect=lambda _: reply("Hi"))
    with anthropic.AnthropicVertex(**options) as client:
        set_default_client(client)
        assert invoke_claude("hi", temperature=0.5) == "Hi"
    sent = json.loads(api.router.calls.last.request.content)
    assert (sent["anthropic_version"], sent["temperature"]) == ("vertex-2023-10-16", 0.5)
