"""Answers that are odd: what can be used is, and what cannot comes with all that it said."""

import json
from functools import partial

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_client import ClaudeInvocationError, ConversationThread, invoke_claude, invoke_claude_streaming
from claude_client._values.text import Chunks, all_whole, is_whole, whole
from helpers import block, end, message, reply, start, stream, streamed, text_block

TOOL = {"type": "tool_use", "id": "t", "name": "look", "input": {}}


def tool_call(json_text, index=1):
    return block(index, TOOL, {"type": "input_json_delta", "partial_json": json_text})


@pytest.mark.parametrize(
    "unusable",
    [
        lambda: stream(start(), *text_block("told"), *tool_call('{"a": nothing}'), *end("tool_use")),
        lambda: stream(start(), *text_block("told"), *tool_call('{"a": 1'), *end("tool_use")),
        lambda: stream(start(), *text_block("told"), *tool_call("nothing"), *end("max_tokens")),
        lambda: stream(start(), *text_block("told"), *tool_call('{"a": 1'), *text_block(index=2), *end("max_tokens")),
        lambda: stream(start(), *text_block("told"), *end(5)),
    ],
    ids=["no JSON", "no end of JSON", "no JSON, cut off", "no end, and not the last", "a stop reason that is none"],
)
def test_a_streamed_answer_that_cannot_be_used_is_told_once_and_keeps_what_it_said(api, unusable):
    api.answers(unusable(), streamed("again"))
    chunks = []
    with pytest.raises(ClaudeInvocationError, match="The answer cannot be used") as caught:
        invoke_claude_streaming("hi", chunks.append)
    failed = caught.value
    assert (chunks, failed.partial_text, len(api.requests)) == (["told"], "told", 1)
    assert (failed.kind, failed.usage.input_tokens, failed.usage.output_tokens) == ("invalid_response", 10, 5)
    assert failed.details["content"][0] == {"type": "text", "text": "told"}


@pytest.mark.parametrize("odd", [{"stop_reason": None}, {"stop_reason": 5}])
def test_an_answer_in_one_piece_that_cannot_be_used_keeps_what_it_said(api, odd):
    api.answers(reply("said", **odd))
    with pytest.raises(ClaudeInvocationError, match="it has no stop reason") as caught:
        invoke_claude("hi", max_retries=0)
    failed = caught.value
    assert (failed.partial_text, failed.usage.output_tokens, failed.request_id) == ("said", 5, "req_1")
    assert failed.details["content"] == [{"type": "text", "text": "said"}]


ODD_USAGES = [None, [], "many", 5, {"input_tokens": "ten"}, {"input_tokens": None, "server_tool_use": 3}, {"new": {}}]


@pytest.mark.parametrize("usage", ODD_USAGES)
def test_an_odd_usage_costs_no_answer(api, usage):
    api.answers(reply("said", usage=usage))
    assert invoke_claude("hi", max_retries=0) == "said"
    api.answers(stream(start(usage=usage), *text_block("said"), *end()))
    assert invoke_claude("hi", streaming=True, max_retries=0) == "said"


LONE = "\udce9"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_lone_surrogate_in_a_tool_call_costs_no_turn(api, streaming):
    said = {"path": f"caf{LONE}"}
    if streaming:
        api.answers(stream(start(), *tool_call(json.dumps(said), index=0), *end("tool_use")), streamed("done"))
    else:
        api.answers(reply(content=[{**TOOL, "input": said}], stop_reason="tool_use"), streamed("done"))
    thread = ConversationThread()
    callback = [].append if streaming else None
    answer = thread.send("hi", callback=callback)
    assert answer.message.content[0].input == {"path": "caf\ufffd"}
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "it is"}]
    assert thread.send(result, callback=[].append) == "done"


@pytest.mark.parametrize("streaming", [False, True])
def test_an_answer_can_always_be_written(api, streaming):
    said = f"caf{LONE} \ud83d\ude00 \ud83d"
    api.answers(stream(start(), *text_block(said), *end()) if streaming else reply(said))
    answer = invoke_claude("hi", streaming=streaming)
    assert answer == "caf\ufffd \U0001f600 \ufffd"
    assert answer.message.content[0].text == answer


def test_a_character_cut_in_two_is_told_in_one_piece(api):
    api.answers(stream(start(), *text_block("a\ud83d", "\ude00b", "\ud83d", "c\ud83d"), *end()))
    chunks = []
    assert invoke_claude_streaming("hi", chunks.append) == "a\U0001f600b\ufffdc\ufffd"
    assert chunks == ["a", "\U0001f600b", "\ufffdc", "\ufffd"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_refusal_in_broken_text_is_a_refusal(api, streaming):
    details = {"type": "refusal", "category": "cyber", "explanation": f"no {LONE}"}
    fields = {"stop_reason": "refusal", "stop_details": details}
    if streaming:
        api.answers(stream(start(), *text_block("half"), *end("refusal", stop_details=details)))
    else:
        api.answers(reply("half", **fields))
    with pytest.raises(ClaudeInvocationError, match=r"refused \(cyber\): no \ufffd") as caught:
        invoke_claude("hi", streaming=streaming)
    assert (caught.value.partial_text, caught.value.details["explanation"]) == ("half", "no \ufffd")


@pytest.mark.parametrize("details", [None, "no", 5, {"category": ["odd"]}])
def test_odd_details_of_a_refusal_are_a_refusal(api, details):
    api.answers(httpx.Response(200, json=message("half", stop_reason="refusal", stop_details=details)))
    with pytest.raises(ClaudeInvocationError, match="The model refused") as caught:
        invoke_claude("hi")
    assert caught.value.kind == "refusal"


texts = st.text(st.sampled_from("ab\u00e9\U0001f600\ud83d\ude00\udce9"), max_size=8)


@given(st.lists(texts, max_size=5))
def test_chunks_are_whole_and_together_what_the_whole_text_is(pieces):
    chunks = Chunks()
    told = [chunks.add(piece) for piece in pieces]
    told.append(chunks.end())
    assert all(map(is_whole, told))
    assert "".join(told) == whole("".join(pieces))


@given(st.recursive(texts | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_every_text_of_a_value_is_made_whole(value):
    mended = all_whole(value)
    json.dumps(mended, ensure_ascii=False).encode()
    assert all_whole(mended) == mended


def with_tool_input(value, *, streaming):
    """An answer that says "told", and calls a tool with *value*."""
    if streaming:
        return stream(start(), *text_block("told"), *tool_call(f'{{"a": {value}}}'), *end("tool_use"))
    tool = json.dumps({**TOOL, "input": 0}).replace('"input": 0', f'"input": {{"a": {value}}}')
    body = json.dumps(message("told", stop_reason="tool_use")).replace("}]", f"}}, {tool}]", 1)
    return httpx.Response(200, text=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity"])
def test_a_tool_call_that_no_json_can_hold_is_an_error_that_keeps_the_rest(api, value, streaming):
    api.always(lambda _: with_tool_input(value, streaming=streaming))
    thread = ConversationThread(max_retries=0)
    send = partial(thread.send, callback=(lambda _: None) if streaming else None)
    for call in (send, partial(invoke_claude, streaming=streaming, max_retries=0)):
        with pytest.raises(ClaudeInvocationError, match="The answer cannot be used") as caught:
            call("hi")
        assert (caught.value.kind, caught.value.partial_text) == ("invalid_response", "told")
        assert caught.value.usage.input_tokens == 10
    assert thread.turn_count == 0


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("depth", [100, 300, 600, 2000, 100_000])
def test_a_tool_call_that_is_nested_deeply_is_used_or_an_error_and_nothing_else(api, depth, streaming):
    api.always(lambda _: with_tool_input("[" * depth + "]" * depth, streaming=streaming))  # Pythons differ in how deep
    thread = ConversationThread(max_retries=0)
    send = partial(thread.send, callback=(lambda _: None) if streaming else None)
    for call in (send, partial(invoke_claude, streaming=streaming, max_retries=0)):
        try:
            outcome = call("hi")
        except ClaudeInvocationError as failed:
            outcome = failed
        if isinstance(outcome, str):
            assert outcome == "told"
            continue
        assert (outcome.kind, depth > 100) == ("invalid_response", True)
        if depth < 2000:  # else the body cannot be read at all
            assert (outcome.partial_text, outcome.usage.input_tokens) == ("told", 10)
