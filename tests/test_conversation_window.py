"""Conversations that outgrow the window of their model: they know it, and end in order or make room."""

from __future__ import annotations

import logging
import pickle
import threading

import pytest

from claude_client import ClaudeInvocationError, ConversationThread, InterruptToken, invoke_with_tools
from claude_client.simulator import Reply
from helpers import until
from scripted_tools import asks, go_on, told, use, uses_and_results

pytestmark = pytest.mark.once

WINDOW = 1_000_000


def long(n: int = 0) -> str:
    """Say much."""
    return "seen " * 3000


def sizes(sim):
    return [len(request.body["messages"]) for request in sim.requests]


def grown(**options):
    """A conversation whose first turn came to some 2,000 tokens."""
    return ConversationThread(max_context_tokens=3000, **options)


def test_the_tokens_of_a_conversation_are_those_of_its_last_request_and_answer(sim):
    thread = ConversationThread("You answer.")
    assert thread.context_tokens is None
    sizes_of_it = []
    for _ in range(3):
        answer = thread.send("word " * 50)
        used = answer.attempts[-1].usage
        assert thread.context_tokens == used.total_input_tokens + used.output_tokens
        sizes_of_it.append(thread.context_tokens)
    assert sizes_of_it == sorted(sizes_of_it)
    assert sizes_of_it[0] < sizes_of_it[2] < thread.usage.total_input_tokens + thread.usage.output_tokens
    assert thread.fork().context_tokens == pickle.loads(pickle.dumps(thread)).context_tokens == sizes_of_it[2]
    thread.clear()
    assert thread.context_tokens is None


def test_the_tokens_of_a_turn_with_tools_are_those_after_the_last_of_them(sim):
    sim.script(asks(use("long")), Reply(text="So."))
    thread = ConversationThread(tools=[long])
    answer = thread.send("?")
    last = answer.attempts[-1].usage
    assert thread.context_tokens == last.total_input_tokens + last.output_tokens > 3000


def test_a_failed_turn_changes_no_tokens(sim):
    thread = ConversationThread(max_retries=0)
    thread.send("?")
    before = thread.context_tokens
    sim.script(Reply(fault="api_error"))
    with pytest.raises(ClaudeInvocationError):
        thread.send("?")
    assert thread.context_tokens == before


@pytest.mark.parametrize(("model", "window"), [("claude-sonnet-4-6", WINDOW), ("claude-haiku-4-5", 200_000)])
def test_one_warning_comes_as_the_window_of_the_model_is_four_fifths_full(sim, caplog, model, window):
    caplog.set_level(logging.WARNING, "claude_client")
    thread = ConversationThread(model=model)
    for share in (0.5, 0.79, 0.81, 0.85, 0.9):
        sim.script(Reply(usage={"input_tokens": int(share * window), "output_tokens": 0}))
        thread.send("?")
    (record,) = [record for record in caplog.records if "tokens of its model" in record.getMessage()]
    assert f"{int(0.81 * window)} of the {window} tokens" in record.getMessage()
    assert "max_context_tokens=" in record.getMessage()


def test_another_warning_comes_where_a_conversation_grows_again(sim, caplog):
    thread = ConversationThread()
    for tokens in (900_000, 1000, 900_000):
        sim.script(Reply(usage={"input_tokens": tokens}))
        thread.send("?")
    assert caplog.text.count("tokens of its model") == 2


@pytest.mark.parametrize("driver", ["turn", "conversation"])
def test_a_conversation_that_is_full_sends_nothing_and_can_be_gone_on_with(sim, driver):
    options = {"max_context_tokens": 3000}
    thread = ConversationThread(**options if driver == "conversation" else {})
    sim.script(Reply(text="y" * 8000))
    thread.send("First?")
    before = thread.get_messages()
    with pytest.raises(ClaudeInvocationError, match="of 3,000 that it may have") as caught:
        thread.send("x" * 6000, **options if driver == "turn" else {})
    assert caught.value.kind == "context_window"
    assert len(sim.requests) == 1
    assert thread.get_messages() == before
    assert thread.send("Short?")


def test_a_history_that_was_kept_elsewhere_is_measured_before_its_first_turn(sim):
    kept = [{"role": "user", "content": "x" * 9000}, {"role": "assistant", "content": "y"}]
    with pytest.raises(ClaudeInvocationError) as caught:
        ConversationThread(messages=kept, max_context_tokens=2000).send("?")
    assert caught.value.kind == "context_window"
    assert not sim.requests


def test_a_summary_is_a_turn_that_is_recorded_costed_and_read_from_the_cache(sim):
    thread = ConversationThread("word " * 2000, max_context_tokens=5000, on_full="summarize")
    sim.script(Reply(text="y " * 4500), Reply(text="All of it."), Reply(text="Yes."))
    first = thread.send("First?")
    answer = thread.send("x" * 3000)
    summing, going_on = answer.attempts
    assert summing.usage.cache_read_input_tokens >= first.usage.cache_creation_input_tokens > 0
    assert going_on.usage.cache_read_input_tokens > 0  # its system prompt
    assert answer.cost_usd == pytest.approx(thread.cost_usd - first.cost_usd)
    assert thread.timeline()
    assert "Write down all that is needed" in str(sim.requests[1].body["messages"][-1])
    assert thread.turn_count == 2
    assert [message["role"] for message in thread.get_messages()] == ["user", "assistant"]
    assert thread.send("And?")


def test_a_summary_in_a_loop_reads_what_the_loop_has_written(sim):
    sim.script(asks(use("long", 1)), Reply(text="It was long."), Reply(text="Done."))
    answer = invoke_with_tools("word " * 3000, [long], max_context_tokens=8000, on_full="summarize")
    used = [attempt.usage for attempt in answer.attempts]
    assert used[1].cache_read_input_tokens == used[0].cache_creation_input_tokens > 0
    assert "tool_choice" not in sim.requests[1].body
    assert answer == "Done."
    assert go_on(sim, answer)


def test_a_model_that_asks_for_tools_in_place_of_a_summary_is_asked_again_without_any(sim):
    sim.script(
        asks(use("long", 1)), asks(use("long", 2), text="First"), Reply(text="It was long."), Reply(text="Done.")
    )
    answer = invoke_with_tools("?", [long], max_context_tokens=4000, on_full="summarize")
    assert answer == "Done."
    assert [request.body.get("tool_choice") for request in sim.requests] == [None, None, {"type": "none"}, None]
    assert [call.tool_use_id for call in answer.tool_calls] == ["toolu_long_1"]
    assert "It was long." in str(sim.requests[3].body["messages"][0])
    assert "First" not in str(sim.requests[3].body["messages"])


def test_a_summary_by_another_model_goes_on_with_that(sim):
    sim.script(asks(use("long", 1)), Reply(fault="not_found"), Reply(text="It was long."), Reply(text='{"a":1}'))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    answer = invoke_with_tools(
        "?",
        [long],
        "claude-opus-4-6",
        output={**schema, "additionalProperties": False},
        max_context_tokens=4000,
        on_full="summarize",
        fallback_models=[{"model": "claude-sonnet-4-6", "top_k": 5}],
        tool_choice={"type": "any"},
    )
    assert answer.output == {"a": 1}
    said = [(r.body["model"], r.body.get("top_k"), "output_config" in r.body) for r in sim.requests]
    assert said == [
        ("claude-opus-4-6", None, True),
        ("claude-opus-4-6", None, False),
        ("claude-sonnet-4-6", 5, False),
        ("claude-sonnet-4-6", 5, True),
    ]
    assert [r.body["tool_choice"]["type"] for r in sim.requests] == ["any", "auto", "auto", "auto"]


def test_a_loop_may_be_summed_up_more_than_once(sim):
    turns = [[asks(use("long", n)), Reply(text=f"Summary {n}.")] for n in range(3)]
    sim.script(*[reply for turn in turns for reply in turn], Reply(text="Done."))
    answer = invoke_with_tools("The task.", [long], max_context_tokens=4000, on_full="summarize")
    assert answer == "Done."
    assert [call.outcome for call in answer.tool_calls] == ["ok"] * 3
    beginning = [block["text"] for block in sim.requests[-1].body["messages"][0]["content"]]
    assert beginning[0] == "The task."
    assert "Summary 2." in beginning[1]
    assert len(beginning) == 2
    assert sizes(sim) == [1, 3, 1, 3, 1, 3, 1]


def test_a_summary_counts_as_no_model_turn(sim):
    sim.script(asks(use("long", 1)), Reply(text="Summary."), Reply(text="Done."))
    options = {"max_iterations": 2, "max_context_tokens": 4000, "on_full": "summarize"}
    assert invoke_with_tools("?", [long], **options) == "Done."


def test_a_summary_that_makes_no_room_ends_the_call(sim):
    sim.script(asks(use("long", 1)), Reply(text="word " * 4000))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [long], max_context_tokens=4000, on_full="summarize")
    assert caught.value.kind == "context_window"
    assert len(sim.requests) == 2
    assert go_on(sim, caught.value)


@pytest.mark.parametrize("fault", ["api_error", "invalid_request", "refusal"])
def test_a_summary_that_fails_leaves_the_conversation_as_it_was(sim, fault):
    thread = grown(on_full="summarize", max_retries=0)
    sim.script(Reply(text="y" * 8000), Reply(fault=fault))
    thread.send("First?")
    before = thread.get_messages()
    with pytest.raises(ClaudeInvocationError):
        thread.send("x" * 6000)
    assert thread.get_messages() == before


def test_an_interrupt_during_a_summary_ends_the_turn_with_what_was_before_it(sim):
    token, held = InterruptToken(), threading.Event()
    sim.script(asks(use("long", 1)), Reply(until=held))
    stopper = threading.Thread(target=lambda: (until(lambda: len(sim.requests) == 2), token.interrupt()))
    stopper.start()
    options = {"max_context_tokens": 4000, "on_full": "summarize"}
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [long], interrupt_token=token, **options)
    stopper.join()
    held.set()
    assert caught.value.kind == "interrupted"
    assert "Write down" not in str(caught.value.messages)
    assert uses_and_results(caught.value.messages) == (["toolu_long_1"],) * 2
    assert go_on(sim, caught.value)


def test_a_caller_may_take_care_of_the_room_in_a_loop(sim):
    seen = []

    def shorten(messages):
        seen.append(messages)
        last = messages[-1]["content"]
        messages[-1]["content"] = [{**block, "content": "short"} for block in last]
        return messages

    sim.script(asks(use("long", 1)), Reply(text="Done."))
    answer = invoke_with_tools("?", [long], max_context_tokens=4000, on_full=shorten)
    assert answer == "Done."
    assert told(sim.requests[1]) == ["short"]
    assert len(seen) == 1
    assert go_on(sim, answer)


@pytest.mark.parametrize(
    "made",
    [
        lambda _: None,
        lambda _: 5,
        lambda _: [],
        lambda messages: messages[1:],
        lambda messages: messages[:-1],
        lambda messages: [messages[0], messages[1], {"role": "user", "content": "no results"}],
        lambda _: [{"role": "user"}],
    ],
)
def test_a_history_that_the_api_would_refuse_is_no_room(sim, made):
    sim.script(asks(use("long", 1)))
    with pytest.raises(ClaudeInvocationError, match="on_full failed") as caught:
        invoke_with_tools("?", [long], max_context_tokens=4000, on_full=made)
    assert caught.value.kind == "callback"
    assert caught.value.__cause__ is not None
    assert len(sim.requests) == 1
    assert go_on(sim, caught.value)


def test_what_the_api_says_of_a_full_window_is_of_the_same_kind_in_a_loop(sim):
    sim.script(asks(use("long", 1)), Reply(fault="invalid_request", message="prompt is too long: 2 tokens > 1 maximum"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [long])
    assert caught.value.kind == "context_window"
    assert go_on(sim, caught.value)


def test_an_answer_that_was_cut_off_by_the_window_keeps_a_history_that_goes_on(sim):
    sim.script(asks(use("long", 1)), Reply(content=[use("long", 2), use("long", 3)], fault="context_window"))
    answer = invoke_with_tools("?", [long])
    assert answer.truncated
    assert go_on(sim, answer)


def test_a_summary_before_a_wide_message_is_read_from_the_cache(sim):
    thread = ConversationThread(max_context_tokens=9_000, on_full="summarize")
    sim.script(Reply(text="y " * 4_000), Reply(text="All of it."), Reply(text="Yes."))
    first = thread.send("word " * 2_000)
    wider_than_a_look_back = [{"type": "text", "text": f"{n} " + "x" * 600} for n in range(25)]
    summing, _ = thread.send(wider_than_a_look_back).attempts
    assert summing.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens > 0
