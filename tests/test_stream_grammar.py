"""What a stream may say: what the protocol forbids is refused, and what nobody knows yet is kept."""

import json
import random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_client import ClaudeInvocationError, invoke_claude, invoke_claude_streaming
from claude_client._sdk.answer import message_from
from claude_client._sdk.parameters import message_of
from claude_client._sdk.stream import StreamedMessage, StreamError
from helpers import block, end, event, message, start, stream, streamed, text_block

BLOCK_STARTS = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
TEXT = {"type": "text_delta", "text": "more"}
MORE = event("content_block_delta", index=0, delta=TEXT)
EMPTY = {"type": "text", "text": ""}
FORBIDDEN = {
    "a second message": [start(), *text_block("half"), start(), *text_block("other"), *end()],
    "a block before the message": [*text_block("half"), start(), *end()],
    "a block within a block": [start(), BLOCK_STARTS, *text_block("half", index=1), *end()],
    "a block that comes twice": [start(), *text_block("half"), *text_block("again"), *end()],
    "a block that was left out": [start(), *text_block("half", index=1), *end()],
    "a block after the end": [start(), *text_block("half"), end()[0], *text_block("late", index=1), end()[1]],
    "a block without a type": [start(), *block(0, {"text": ""}, TEXT), *end()],
    "a block that is none": [start(), event("content_block_start", index=0, content_block=None)],
    "a piece of a block that is over": [
        start(),
        *text_block("half"),
        event("content_block_delta", index=0, delta=TEXT),
    ],
    "a piece of another block": [start(), BLOCK_STARTS, event("content_block_delta", index=1, delta=TEXT)],
    "a piece without its text": [start(), *block(0, {"type": "text", "text": ""}, {"type": "text_delta"}), *end()],
    "a text that is null": [start(), *block(0, {"type": "text", "text": ""}, {**TEXT, "text": None}), *end()],
    "a text that is a number": [start(), *block(0, {"type": "text", "text": ""}, {**TEXT, "text": 5}), *end()],
    "a text that becomes a number": [
        start(),
        *block(0, {"type": "text", "text": ""}, {"type": "x", "text": 5}),
        *end(),
    ],
    "a block with a number for a text": [start(), *block(0, {"type": "text", "text": 5}), *end()],
    "text in a block of thinking": [start(), *block(0, {"type": "thinking", "thinking": ""}, TEXT), *end()],
    "text in a block nobody knows": [start(), *block(0, {"type": "tezt", "text": ""}, TEXT), *end()],
    "an input in a text": [
        start(),
        *block(0, {"type": "text", "text": ""}, {"type": "input_json_delta", "partial_json": "{}"}),
        *end(),
    ],
    "an end within a block": [start(), BLOCK_STARTS, *end()],
    "a stop within a block": [start(), BLOCK_STARTS, event("message_stop")],
    "a message that has begun": [start(content=[{"type": "text", "text": "half"}]), *end()],
    "a message that is none": [event("message_start", message={"type": "error"})],
    "an input without an end": [
        start(),
        *block(
            0,
            {"type": "tool_use", "id": "t", "name": "look", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"a": 1'},
        ),
        *end("tool_use"),
    ],
    "no JSON": [start(), b"event: content_block_start\ndata: {no\n\n"],
    "a list": [start(), b"event: content_block_start\ndata: []\n\n"],
    "no data": [start(), *text_block("half"), b"event: content_block_delta\n\n", *end()],
    "a name that is another": [
        start(),
        BLOCK_STARTS.replace(b"event: content_block_start", b"event: content_block_stop"),
    ],
    "no name and no type": [start(), b"data: {}\n\n"],
}


@pytest.mark.parametrize("parts", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_the_protocol_forbids_is_no_answer_and_tried_again(api, slept, parts):
    api.answers(stream(*parts), streamed("whole"))
    assert invoke_claude("hi", streaming=True) == "whole"
    api.answers(stream(*parts))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=True, max_retries=0)
    assert caught.value.kind == "invalid_response"


@pytest.mark.parametrize("name", [b"event: content_block_delta\n", b""])
def test_an_event_without_a_name_is_what_its_data_says(api, name):
    parts = b"".join([start(), *text_block("a", "b"), *end()])
    api.answers(stream(parts.replace(b"event: content_block_delta\n", name)))
    assert invoke_claude("hi", streaming=True) == "ab"


def test_a_type_that_is_only_the_events_name_is_enough(api):
    parts = b"".join([start(), *text_block("a"), *end()])
    api.answers(stream(parts.replace(b'"type": "message_stop"', b'"x": 1')))
    assert invoke_claude("hi", streaming=True) == "a"


def test_events_of_unknown_kinds_are_passed_over(api):
    api.answers(stream(start(), event("from_the_future", text="x"), *text_block("a"), b"id: 7\n\n\n", *end()))
    assert invoke_claude("hi", streaming=True) == "a"


def test_an_unknown_delta_is_kept_and_its_text_told(api):
    deltas = [
        {"type": "text_delta", "text": "a"},
        {"type": "tezt_delta", "text": "b", "score": 0.5, "why": None},
        {"type": "tezt_delta", "text": "c", "score": 0.7, "note": "x", "why": None},
        {"type": "tezt_delta", "note": "y"},
    ]
    api.answers(stream(start(), *block(0, {"type": "text", "text": ""}, *deltas), *end()))
    chunks = []
    answer = invoke_claude_streaming("hi", chunks.append)
    assert (answer, chunks) == ("abc", ["a", "b", "c"])
    (kept,) = answer.message.to_dict(warnings=False)["content"]
    assert kept == {"type": "text", "text": "abc", "score": 0.7, "note": "xy", "why": None}


def test_the_end_may_bring_what_nobody_knows(api):
    last = event(
        "message_delta",
        delta={"stop_reason": "tired", "mood": "fine", "stop_sequence": None},
        usage={"output_tokens": 5, "iterations": [{"type": "compaction", "input_tokens": 9}], "cache_read": None},
        context_management={"applied_edits": []},
    )
    api.answers(stream(start(), *text_block("a"), last, event("message_stop")))
    fields = invoke_claude("hi", streaming=True).message.to_dict(warnings=False)
    assert (fields["stop_reason"], fields["mood"], fields["context_management"]) == (
        "tired",
        "fine",
        {"applied_edits": []},
    )
    assert fields["usage"]["iterations"] == [{"type": "compaction", "input_tokens": 9}]
    assert fields["usage"]["input_tokens"] == 10
    assert "cache_read" not in fields["usage"]


def test_a_usage_that_is_not_there_is_zero_streamed_and_in_one_piece(api):
    plain = message()
    del plain["usage"]
    begun = {**plain, "content": [], "stop_reason": None}
    without = stream(
        event("message_start", message=begun),
        *text_block("Hello"),
        event("message_delta", delta={"stop_reason": "end_turn"}),
        event("message_stop"),
    )
    api.answers(without)
    first = invoke_claude("hi", streaming=True)
    api.answers(httpx.Response(200, json=plain))
    second = invoke_claude("hi")
    assert first == second == "Hello"
    assert first.usage == second.usage
    assert second.usage.output_tokens == 0


def test_the_model_that_a_fallback_names_is_the_one_that_answers(api):
    fallback = {"type": "fallback", "from": {"model": "claude-opus-5"}, "to": {"model": "claude-sonnet-5"}}
    api.answers(stream(start(), *block(0, fallback), *text_block("a", index=1), *end()))
    answer = invoke_claude("hi", streaming=True)
    assert answer.model == "claude-sonnet-5"
    assert answer.message.content[0].to_dict(warnings=False) == fallback


words = st.text('ab"\\ é\U0001f600\n', max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, values, max_size=3)
citations = st.fixed_dictionaries({"type": st.just("char_location"), "cited_text": words})
blocks = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": words}),
    st.fixed_dictionaries({"type": st.just("text"), "text": words, "citations": st.lists(citations, min_size=1)}),
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": words, "signature": words}),
    st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": words}),
    st.fixed_dictionaries({"type": st.just("tool_use"), "id": words, "name": words, "input": objects}),
    st.fixed_dictionaries({"type": st.just("server_tool_use"), "id": words, "name": words, "input": objects}),
    st.fixed_dictionaries({"type": st.just("web_search_tool_result"), "tool_use_id": words, "content": values}),
    st.fixed_dictionaries({"type": st.sampled_from(["from_the_future", "compaction"]), "content": words | st.none()}),
    st.fixed_dictionaries({"type": st.just("invented"), "parts": values, "note": words}),
)
JOINED = {"text": "text_delta", "thinking": "thinking_delta", "note": "invented_delta"}


def cut(text, draw):
    """*text* in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def as_events(whole, draw):
    """The events that bring the block *whole*."""
    first, deltas = {**whole}, []
    for name, kind in JOINED.items():
        if name in whole and (name != "text" or whole["type"] == "text"):
            first[name] = ""
            deltas += [{"type": kind, name: piece} for piece in cut(whole[name], draw)]
    if whole["type"] == "thinking":
        first["signature"] = ""
        deltas.append({"type": "signature_delta", "signature": whole["signature"]})
    if citations := first.pop("citations", None):
        deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
    if "input" in whole:
        first["input"] = {}
        deltas += [
            {"type": "input_json_delta", "partial_json": piece} for piece in cut(json.dumps(whole["input"]), draw)
        ]
    return first, deltas


@given(st.lists(blocks, max_size=4), st.sampled_from(["end_turn", "tool_use", "from_the_future"]), st.data())
def test_streamed_and_in_one_piece_the_message_is_the_same(content, reason, data):
    streamed_message = StreamedMessage()
    given_out = []
    begun = {
        **message(content=[], stop_reason=None),
        "usage": {"input_tokens": 10, "output_tokens": 1, "new": {"a": 1}},
    }
    streamed_message.add({"type": "message_start", "message": begun})
    for index, whole in enumerate(content):
        first, deltas = as_events(whole, data.draw)
        streamed_message.add({"type": "content_block_start", "index": index, "content_block": first})
        given_out += [
            streamed_message.add({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas
        ]
        given_out.append(streamed_message.add({"type": "content_block_stop", "index": index}))
    used = {"output_tokens": 5, "newer": 2}
    streamed_message.add({"type": "message_delta", "delta": {"stop_reason": reason, "odd": True}, "usage": used})
    streamed_message.add({"type": "message_stop"})
    usage = {"input_tokens": 10, "output_tokens": 5, "new": {"a": 1}, "newer": 2}
    at_once = message_from(message_of(message(content=content, stop_reason=reason, odd=True, usage=usage)))
    assert message_from(streamed_message).to_dict(warnings=False) == at_once.to_dict(warnings=False)
    assert "".join(given_out) == "".join(block["text"] for block in content if block["type"] == "text")


SENT = b"".join(
    [
        start(),
        event("ping"),
        *block(0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "hm"}),
        *text_block("It is ", "a long ", "way, ", "but é ", "it ends.", index=1),
        *block(
            2,
            {"type": "tool_use", "id": "t", "name": "look", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"at": '},
            {"type": "input_json_delta", "partial_json": '"it"}'},
        ),
        *text_block("Done.", index=3),
        *end(),
    ]
)
TOLD = "It is a long way, but é it ends.Done."


def flipped(sent, chance):
    place = chance.randrange(len(sent))
    return sent[:place] + bytes([sent[place] ^ (1 << chance.randrange(8))]) + sent[place + 1 :]


def cut_short(sent, chance):
    return sent[: chance.randrange(len(sent))]


def spliced(sent, chance):
    """The beginning of one stream and the end of another, cut anywhere."""
    return sent[: chance.randrange(len(sent))] + sent[chance.randrange(len(sent)) :]


def repeated(sent, chance):
    events = sent.split(b"\n\n")[:-1]
    place = chance.randrange(len(events))
    return b"\n\n".join([*events[: place + 1], *events[place:], b""])


def reordered(sent, chance):
    events = sent.split(b"\n\n")[:-1]
    one, other = chance.sample(range(len(events)), 2)
    events[one], events[other] = events[other], events[one]
    return b"\n\n".join([*events, b""])


MUTATIONS = [flipped, cut_short, spliced, repeated, reordered]


def outcome_of(api, sent, told):
    api.answers(stream(sent))
    try:
        return invoke_claude_streaming("hi", told.append, max_retries=0)
    except ClaudeInvocationError as error:
        return error


def check_mutated(api, seed):
    chance = random.Random(seed)
    mutate = MUTATIONS[seed % len(MUTATIONS)]
    told = []
    outcome = outcome_of(api, mutate(SENT, chance), told)
    if isinstance(outcome, ClaudeInvocationError):
        assert outcome.partial_text == "".join(told)
        return
    assert outcome == "".join(told)
    if mutate is not spliced:  # where two events may meet within their texts, and nothing tells
        assert len(outcome) >= len(TOLD)


def test_no_mutated_stream_is_a_shortened_answer_or_another_exception(api):
    for seed in range(300):
        check_mutated(api, seed)


@pytest.mark.long
@pytest.mark.once
def test_none_of_5000_mutated_streams_is_a_shortened_answer_or_another_exception(api):
    for seed in range(300, 5300):
        check_mutated(api, seed)


def test_a_stream_of_two_halves_is_refused(api):
    half = SENT[: SENT.index(b"a long") + 3]
    api.answers(stream(half + b'"}}\n\n', SENT))
    with pytest.raises(ClaudeInvocationError, match="second message_start") as caught:
        invoke_claude("hi", streaming=True, max_retries=0)
    assert caught.value.partial_text == "It is a l"


def test_an_error_says_what_is_wrong():
    with pytest.raises(StreamError, match="content_block_delta before message_start"):
        StreamedMessage().add({"type": "content_block_delta", "index": 0, "delta": TEXT})
