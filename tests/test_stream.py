from contextlib import suppress
from types import SimpleNamespace

import anthropic
import httpx
import pytest

from claude_client import ClaudeInvocationError, invoke_claude, invoke_claude_streaming
from claude_client._sdk.client import shared_client
from claude_client._sdk.exchange import send
from claude_client._values.attempt import Attempt
from claude_client._verbs.requests import build_request
from helpers import block, core, end, error, event, reply, start, stream, streamed, text_block


def test_the_callback_gets_each_chunk_in_order(api):
    api.answers(streamed("a", "b", "c"))
    chunks = []
    assert invoke_claude_streaming("hi", chunks.append) == "abc"
    assert chunks == ["a", "b", "c"]


def test_no_callback_is_needed(api):
    api.answers(streamed("a"))
    assert invoke_claude_streaming("hi") == "a"


def test_a_callback_that_cannot_be_called_is_refused_before_any_request(api):
    with pytest.raises(TypeError, match="callback must be callable or None, got 'print'"):
        invoke_claude_streaming("hi", "print")
    assert not api.requests


def test_only_text_reaches_the_callback(api):
    thinking = block(
        0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "h"}
    )
    api.answers(stream(start(), *thinking, *text_block("a", index=1), *end()))
    chunks = []
    invoke_claude_streaming("hi", chunks.append)
    assert chunks == ["a"]


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize(
    "raised",
    [RuntimeError("mine"), Interrupted(), core.ReadError("mine too"), ClaudeInvocationError("nested", retryable=True)],
)
def test_a_callback_that_raises_ends_the_stream_and_comes_out_unchanged(api, slept, raised):
    api.answers(streamed("a", "b"), streamed("again"))

    def callback(_):
        raise raised

    with pytest.raises(type(raised)) as caught:
        invoke_claude_streaming("hi", callback)
    assert caught.value is raised
    assert raised.__cause__ is None
    assert len(api.requests) == 1


BROKEN = {
    "early end": (lambda: stream(start(), *text_block("half")), "incomplete_stream"),
    "no message_stop": (lambda: stream(start(), *text_block("half"), *end()[:1]), "incomplete_stream"),
    "no stop reason": (lambda: stream(start(), *text_block("half"), event("message_stop")), "incomplete_stream"),
    "cut": (lambda: stream(start(), *text_block("half"), core.RemoteProtocolError("cut")), "connection"),
    "silence": (lambda: stream(start(), *text_block("half"), core.ReadTimeout("silence")), "timeout"),
    "error event": (
        lambda: stream(
            start(), *text_block("half"), event("error", error={"type": "overloaded_error", "message": "Overloaded"})
        ),
        "overloaded",
    ),
    "broken event": (
        lambda: stream(start(), *text_block("half"), b"event: message_stop\ndata: {no\n\n"),
        "invalid_response",
    ),
    "text out of nowhere": (
        lambda: stream(
            start(),
            *text_block("half"),
            event("content_block_delta", index=9, delta={"type": "text_delta", "text": "more"}),
            *end(),
        ),
        "invalid_response",
    ),
    "delta out of nowhere": (
        lambda: stream(
            start(),
            *text_block("half"),
            event("content_block_delta", index=9, delta={"type": "signature_delta", "signature": "s"}),
        ),
        "invalid_response",
    ),
}


@pytest.mark.parametrize(("broken", "kind"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_stream_is_an_error_with_the_text_that_had_arrived(api, broken, kind):
    api.answers(broken())
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=True, max_retries=0)
    assert (caught.value.kind, caught.value.partial_text, caught.value.retryable) == (kind, "half", True)
    assert caught.value.usage.input_tokens == 10


@pytest.mark.parametrize(("broken", "kind"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_stream_is_tried_again_where_nobody_was_told(api, slept, broken, kind):
    api.answers(broken(), streamed("whole"))
    assert invoke_claude("hi", streaming=True) == "whole"


@pytest.mark.parametrize(("broken", "kind"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_stream_is_not_replayed_into_a_callback(api, slept, broken, kind):
    api.answers(broken(), streamed("whole"))
    chunks = []
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude_streaming("hi", chunks.append)
    assert (chunks, caught.value.partial_text, caught.value.kind) == (["half"], "half", kind)


def test_a_stream_that_breaks_before_any_text_is_tried_again_with_the_callback(api, slept):
    api.answers(stream(start()), error(529), streamed("whole"))
    chunks = []
    assert invoke_claude_streaming("hi", chunks.append) == "whole"
    assert chunks == ["whole"]


def test_what_comes_after_the_end_is_not_part_of_the_answer(api):
    late = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "late"})
    api.answers(stream(start(), *text_block("whole"), *end(), late))
    chunks = []
    assert invoke_claude_streaming("hi", chunks.append) == "whole"
    assert chunks == ["whole"]


def test_a_streamed_answer_has_its_request_id(api):
    api.answers(streamed("a"), stream(start()))
    assert invoke_claude_streaming("hi").request_id == "req_1"
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=True, max_retries=0)
    assert caught.value.request_id == "req_1"


def test_an_empty_stream_is_an_error(api):
    api.answers(stream())
    with pytest.raises(ClaudeInvocationError, match="without an answer") as caught:
        invoke_claude("hi", streaming=True, max_retries=0)
    assert caught.value.kind == "incomplete_stream"


def test_an_error_event_says_what_the_api_said(api):
    said = event("error", error={"type": "invalid_request_error", "message": "Too long"}, request_id="req_1")
    api.answers(stream(start(), said))
    with pytest.raises(ClaudeInvocationError, match="Too long") as caught:
        invoke_claude("hi", streaming=True)
    assert (caught.value.kind, caught.value.status_code, caught.value.request_id) == ("invalid_request", 200, "req_1")
    assert caught.value.details["error"]["message"] == "Too long"


CITATION = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
    "file_id": None,
}
RICH = [
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "let me "},
        {"type": "thinking_delta", "thinking": "see"},
        {"type": "signature_delta", "signature": "sig"},
    ),
    *block(1, {"type": "redacted_thinking", "data": "zzz"}),
    *block(
        2,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "It "},
        {"type": "citations_delta", "citation": CITATION},
        {"type": "text_delta", "text": "is"},
    ),
    *block(
        3,
        {"type": "tool_use", "id": "t", "name": "look", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"at": '},
        {"type": "input_json_delta", "partial_json": '"it"}'},
    ),
    *block(4, {"type": "tool_use", "id": "u", "name": "nothing", "input": {}}),
]


def rich():
    return stream(start(), *RICH, *end("tool_use"))


def test_the_message_is_the_one_the_sdk_makes_of_the_same_stream(api):
    api.answers(rich(), rich())
    ours = invoke_claude_streaming("hi").message
    with (
        anthropic.Anthropic() as client,
        client.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}]) as sdks,
    ):
        theirs = sdks.get_final_message()
    assert ours.model_dump(exclude_none=True) == theirs.model_dump(exclude_none=True)
    assert [type(block) for block in ours.content][3:] == [anthropic.types.ToolUseBlock] * 2


def test_a_tools_input_that_max_tokens_cut_short_is_kept_as_far_as_it_goes(api):
    cut = block(
        0,
        {"type": "tool_use", "id": "t", "name": "n", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"a": 1, "b'},
    )
    api.answers(stream(start(), *cut, *end("max_tokens")))
    answer = invoke_claude_streaming("hi")
    assert answer.truncated
    assert answer.message.content[0].input == {"a": 1}


def test_counts_left_out_of_the_last_event_keep_their_first_value(api):
    usage = {"input_tokens": 3, "output_tokens": 1, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    api.answers(stream(start(usage=usage), *text_block("x"), *end()))
    used = invoke_claude_streaming("hi").usage
    assert (used.input_tokens, used.output_tokens, used.cache_read_input_tokens) == (3, 5, 100)


def test_the_connection_is_free_again_after_each_way_a_stream_can_end(api):
    ends = [streamed("a"), stream(start()), stream(start(), core.ReadError("cut")), streamed("b")]
    closed = []
    for one in ends:
        one.stream.close = lambda: closed.append(1)
    api.answers(*ends)
    for _ in ends[:-1]:
        with suppress(ClaudeInvocationError):
            invoke_claude("hi", streaming=True, max_retries=0)
    with pytest.raises(ZeroDivisionError):
        invoke_claude_streaming("hi", lambda _: 1 / 0)
    assert len(closed) == len(ends)


def test_plain_and_streamed_answers_are_the_same_value(api):
    api.answers(reply("Hello"), streamed("Hel", "lo"))
    plain, by_stream = invoke_claude("hi"), invoke_claude("hi", streaming=True)
    assert plain.message.to_dict() == by_stream.message.to_dict()


def test_any_event_but_a_ping_is_activity(api):
    thought = {"type": "thinking_delta", "thinking": "hm"}
    thinking = block(0, {"type": "thinking", "thinking": "", "signature": ""}, thought)
    parts = [start(), event("ping"), *thinking, event("ping"), *end()]
    attempt, lives = Attempt(build_request(prompt="hi", streaming=True), 0.0), []

    def body():
        for part in parts:
            lives.append(attempt.last_event_at)
            yield part

    api.answers(httpx.Response(200, content=body(), headers={"content-type": "text/event-stream"}))
    with shared_client() as client:
        send(client, attempt)
    active = [before != after for before, after in zip(lives, [*lives[1:], attempt.last_event_at], strict=True)]
    pings = [part.startswith(b"event: ping") for part in parts]
    assert [not one for one in active] == pings


def test_a_broken_stream_has_its_request_id(api):
    api.answers(stream(start(), *text_block("half"), core.ReadError("gone")))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=True, max_retries=0)
    assert caught.value.request_id == "req_1"


def test_a_stream_that_ends_early_because_its_attempt_was_ended_says_so():
    attempt = Attempt(build_request(prompt="hi", streaming=True), 0.0)

    class Ended:
        """A stream that ends as its attempt is ended, without an error."""

        response = httpx.Response(200)

        def __iter__(self):
            attempt.abort("stalled")
            return iter(())

        def close(self):
            pass

    client = SimpleNamespace(messages=SimpleNamespace(create=lambda **_: Ended()))
    send(client, attempt)
    assert attempt.error.kind == "stalled"


def test_lists_that_deltas_of_an_unknown_kind_bring_are_joined(api):
    opened = event("content_block_start", index=0, content_block={"type": "steps", "steps": []})
    deltas = [event("content_block_delta", index=0, delta={"type": "steps_delta", "steps": [step]}) for step in "ab"]
    api.answers(stream(start(), opened, *deltas, event("content_block_stop", index=0), *end()))
    answer = invoke_claude("hi", streaming=True)
    assert answer.message.content[0].to_dict(warnings=False) == {"type": "steps", "steps": ["a", "b"]}
