import logging

import httpx
import pytest

from claude_client import ClaudeInvocationError, invoke_claude, invoke_claude_streaming
from helpers import core, end, error, event, message, reply, start, stream, streamed, text_block


def test_the_answer_is_a_str_that_carries_everything_else(api):
    api.answers(reply("Hello", usage={"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 2}))
    answer = invoke_claude("hi")
    assert answer == "Hello"
    assert (answer.usage.total_input_tokens, answer.usage.output_tokens) == (9, 3)
    assert (answer.stop_reason, answer.model, answer.request_id) == ("end_turn", "claude-sonnet-4-6", "req_1")
    assert not answer.truncated


BLOCKS = [
    {"type": "thinking", "thinking": "hmm", "signature": "s"},
    {"type": "text", "text": "one "},
    {"type": "fallback", "model": "another"},
    {"type": "tool_use", "id": "t", "name": "look", "input": {}},
    {"type": "text", "text": "two"},
]


def test_the_text_is_that_of_all_text_blocks_and_no_other(api):
    api.answers(reply(content=BLOCKS))
    answer = invoke_claude("hi")
    assert answer == "one two"
    assert [block.type for block in answer.message.content] == [block["type"] for block in BLOCKS]


def test_an_answer_without_text_is_empty(api):
    api.answers(reply(content=[]))
    assert invoke_claude("hi") == ""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
def test_a_truncated_answer_is_returned_marked_and_logged_once(api, caplog, reason, streaming):
    api.answers(streamed("half", stop_reason=reason) if streaming else reply("half", stop_reason=reason))
    answer = invoke_claude("hi", streaming=streaming)
    assert (answer, answer.truncated) == ("half", True)
    assert [(r.name, r.levelname) for r in caplog.records if r.name == "claude_client"] == [
        ("claude_client", "WARNING")
    ]
    assert reason in caplog.text


def test_a_tool_request_is_returned_with_its_reason_and_logged_once(api, caplog):
    caplog.set_level(logging.INFO, "claude_client")
    tool = {"type": "tool_use", "id": "t", "name": "look", "input": {"at": "it"}}
    api.answers(reply(content=[tool], stop_reason="tool_use"))
    answer = invoke_claude("hi")
    assert (answer, answer.stop_reason) == ("", "tool_use")
    assert answer.message.content[0].input == {"at": "it"}
    assert len([r for r in caplog.records if r.name == "claude_client"]) == 1


def test_a_refusal_is_an_error_with_its_category(api):
    details = {"type": "refusal", "category": "cyber", "explanation": "Not that."}
    api.answers(reply("I can", stop_reason="refusal", stop_details=details))
    with pytest.raises(ClaudeInvocationError, match=r"refused \(cyber\): Not that") as caught:
        invoke_claude("hi")
    refusal = caught.value
    assert (refusal.kind, refusal.status_code, refusal.retryable) == ("refusal", 200, False)
    assert (refusal.partial_text, refusal.details, refusal.request_id) == ("I can", details, "req_1")
    assert refusal.usage.output_tokens == 5
    assert len(api.requests) == 1


def test_a_refusal_in_a_stream_is_an_error_too(api):
    api.answers(stream(start(), *text_block("I can"), *end("refusal")))
    with pytest.raises(ClaudeInvocationError, match="The model refused") as caught:
        invoke_claude_streaming("hi")
    assert (caught.value.kind, caught.value.partial_text) == ("refusal", "I can")


PAUSED = {"content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_paused_answer_is_continued_and_returned_as_one(api, streaming):
    if streaming:
        api.answers(streamed("one ", stop_reason="pause_turn"), streamed("two"))
    else:
        api.answers(reply("one ", stop_reason="pause_turn"), reply("two"))
    answer = invoke_claude("hi", streaming=streaming)
    assert (answer, answer.stop_reason) == ("one two", "end_turn")
    assert [block.text for block in answer.message.content] == ["one ", "two"]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (20, 10)
    assert api.bodies[1]["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "one "}]},
    ]


def test_a_twice_paused_answer_is_sent_back_turn_by_turn(api):
    api.answers(*(reply(word, stop_reason="pause_turn") for word in "ab"), reply("c"))
    assert invoke_claude("hi") == "abc"
    assert [turn["role"] for turn in api.bodies[2]["messages"]] == ["user", "assistant"]
    assert [block["text"] for block in api.bodies[2]["messages"][1]["content"]] == ["a", "b"]


def test_an_answer_pauses_at_most_ten_times(api):
    api.always(lambda _: reply("x", stop_reason="pause_turn"))
    with pytest.raises(ClaudeInvocationError, match="more than 10 times") as caught:
        invoke_claude("hi")
    assert (caught.value.kind, caught.value.partial_text, len(api.requests)) == ("pause_limit", "x" * 11, 11)
    assert caught.value.usage.output_tokens == 55


def test_a_failure_after_a_pause_keeps_the_text_and_the_usage_of_the_earlier_turns(api):
    api.answers(reply("so far", stop_reason="pause_turn"), error(400, "invalid_request_error"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi")
    assert (caught.value.partial_text, caught.value.usage.output_tokens) == ("so far", 5)


def test_each_turn_of_a_paused_answer_has_retries_of_its_own(api, slept):
    api.answers(error(500), error(500), reply("a", stop_reason="pause_turn"), error(500), error(500), reply("b"))
    assert invoke_claude("hi") == "ab"


def test_a_turn_that_breaks_after_text_keeps_that_of_the_earlier_turns_too(api):
    api.answers(streamed("one ", stop_reason="pause_turn"), stream(start(), *text_block("two")))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude_streaming("hi", lambda _: None)
    assert caught.value.partial_text == "one two"


def test_streaming_gives_the_same_answer(api):
    api.answers(streamed("Hel", "lo"))
    answer = invoke_claude("hi", streaming=True)
    assert (answer, answer.stop_reason, answer.usage.output_tokens) == ("Hello", "end_turn", 5)
    assert api.body["stream"] is True


@pytest.mark.parametrize("timeout", [None, 120])
def test_more_tokens_than_fit_in_one_piece_are_streamed(api, timeout):
    api.answers(reply("short"), streamed("long"))
    assert invoke_claude("hi", max_tokens=21_333, timeout=timeout) == "short"
    assert invoke_claude("hi", max_tokens=21_334, timeout=timeout) == "long"
    assert [body.get("stream") for body in api.bodies] == [None, True]


def test_a_refusal_with_details_of_another_kind_is_a_refusal_all_the_same(api):
    api.answers(reply(stop_reason="refusal", stop_details="because"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi")
    assert caught.value.kind == "refusal"


UNREADABLE = {
    "broken JSON": httpx.Response(200, content=b'{"type": "mess', headers={"content-type": "application/json"}),
    "a page": httpx.Response(200, html="<html>Sign in</html>"),
    "nothing": httpx.Response(200, content=b""),
    "no message": httpx.Response(200, json={}),
    "a list": httpx.Response(200, json=[1]),
    "null": httpx.Response(200, content=b"null", headers={"content-type": "application/json"}),
    "no content": httpx.Response(200, json={**message(), "content": None}),
    "no stop reason": httpx.Response(200, json=message(stop_reason=None)),
    "a block that is a number": httpx.Response(200, json=message(content=[1])),
    "a block that is null": httpx.Response(200, json=message(content=[None])),
    "a text that is a number": httpx.Response(200, json=message(content=[{"type": "text", "text": 5}])),
    "a text that is a list": httpx.Response(200, json=message(content=[{"type": "text", "text": ["a"]}])),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_body_that_is_no_message_is_an_error(api, body):
    api.answers(body)
    with pytest.raises(ClaudeInvocationError, match="answer") as caught:
        invoke_claude("hi", max_retries=0)
    assert (caught.value.kind, caught.value.retryable) == ("invalid_response", True)


def test_a_connection_that_is_cut_is_an_error(api):
    api.answers(core.RemoteProtocolError("peer closed connection"))
    with pytest.raises(ClaudeInvocationError, match="peer closed connection") as caught:
        invoke_claude("hi", max_retries=0)
    assert (caught.value.kind, caught.value.status_code) == ("connection", None)
    assert caught.value.__cause__ is not None


def test_a_time_out_is_an_error(api):
    api.answers(core.ReadTimeout("timed out"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", max_retries=0)
    assert caught.value.kind == "timeout"


def test_a_failed_attempt_is_made_again(api, slept):
    api.answers(error(529, "overloaded_error"), core.ConnectError("refused"), reply("third time"))
    assert invoke_claude("hi") == "third time"
    assert len(slept) == 2


def test_retries_end_at_max_retries_and_raise_the_last_error(api, slept):
    api.answers(*(error(500, text=f"no {i}") for i in range(3)))
    with pytest.raises(ClaudeInvocationError, match="no 2"):
        invoke_claude("hi")
    assert len(api.requests) == 3


def test_max_retries_is_not_multiplied_by_the_sdks_own(api, slept):
    api.always(lambda _: error(500))
    with pytest.raises(ClaudeInvocationError):
        invoke_claude("hi", max_retries=1)
    assert len(api.requests) == 2


def test_a_retry_is_logged_in_one_line(api, slept, caplog):
    caplog.set_level(logging.INFO, "claude_client")
    api.answers(error(529, "overloaded_error", "Overloaded"), reply())
    invoke_claude("hi")
    assert ["Overloaded" in r.getMessage() for r in caplog.records if r.name == "claude_client"] == [True]


def test_usage_of_a_failed_attempt_is_not_forgotten(api, slept):
    api.answers(stream(start(), *text_block("half")), streamed("whole"))
    answer = invoke_claude("hi", streaming=True)
    assert (answer, answer.usage.input_tokens, answer.message.usage.input_tokens) == ("whole", 20, 10)


def test_unknown_stop_reasons_and_events_pass(api):
    api.answers(stream(start(), event("from_the_future", x=1), *text_block("ok"), *end("compaction")))
    answer = invoke_claude_streaming("hi")
    assert (answer, answer.stop_reason) == ("ok", "compaction")


def test_a_stream_may_be_asked_for_twice(api):
    api.answers(streamed("a"))
    assert invoke_claude_streaming("hi", streaming=True) == "a"


@pytest.mark.parametrize("verb", [invoke_claude, invoke_claude_streaming])
def test_names_of_ours_are_no_options(api, verb):
    with pytest.raises(TypeError, match="unknown parameter 'retry'"):
        verb("hi", retry=3)
    assert not api.requests
