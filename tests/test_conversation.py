"""Conversations: what is remembered, what is sent, and what it costs."""

import copy
import datetime as dt
import json
import os
import pickle
import signal
import sys
import threading

import pytest

from claude_client import ClaudeInvocationError, ConversationThread, InterruptToken, Usage, invoke_claude
from claude_client.simulator import Reply
from helpers import Page, error, reply, streamed, until

LONG = 20  # seconds after which a test gives up
TOOL = {"name": "look", "input_schema": {"type": "object"}}
ASKS = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s1gned"}


def said(text):
    return {"type": "text", "text": text}


def marks(part):
    return json.dumps(part).count("cache_control")


def clean(body):
    """The messages of a request without breakpoints, texts as blocks."""
    return [
        (m["role"], [said(m["content"])] if isinstance(m["content"], str) else [unmarked(b) for b in m["content"]])
        for m in body["messages"]
    ]


def unmarked(block):
    return {name: value for name, value in block.items() if name != "cache_control"}


def test_each_turn_says_all_that_was_said_before(api):
    api.answers(reply("one"), reply("two"))
    thread = ConversationThread("be brief")
    assert thread.send("first") == "one"
    assert thread.send("second") == "two"
    assert clean(api.bodies[1]) == [("user", [said("first")]), ("assistant", [said("one")]), ("user", [said("second")])]
    assert api.bodies[1]["system"][0]["text"] == "be brief"


def test_turns_are_counted_by_answers(api):
    api.always(reply())
    thread = ConversationThread()
    assert (thread.turn_count, len(thread), bool(thread)) == (0, 0, True)
    thread.send("a")
    thread.send("b")
    assert (thread.turn_count, len(thread)) == (2, 2)


def test_clear_forgets_the_turns_but_not_their_cost(api):
    api.always(reply())
    thread = ConversationThread()
    thread.send("a")
    thread.clear()
    assert (len(thread), thread.get_messages()) == (0, [])
    assert thread.usage == Usage(input_tokens=10, output_tokens=5)
    thread.send("b")
    assert clean(api.bodies[1]) == [("user", [said("b")])]


def test_options_apply_to_every_turn_and_can_be_given_for_one(api):
    api.always(reply())
    thread = ConversationThread(model="claude-haiku-4-5", max_tokens=9, tools=[TOOL], metadata={"user_id": "u"})
    thread.send("a")
    thread.send("b", max_tokens=77, metadata={"user_id": "v"})
    thread.send("c")
    assert [(b["model"], b["max_tokens"], b["metadata"]["user_id"], b["tools"]) for b in api.bodies] == [
        ("claude-haiku-4-5", 9, "u", [TOOL]),
        ("claude-haiku-4-5", 77, "v", [TOOL]),
        ("claude-haiku-4-5", 9, "u", [TOOL]),
    ]


def test_a_later_change_of_what_was_given_changes_nothing(api):
    api.always(reply())
    tools, system, message = [dict(TOOL)], [said("s")], [said("m")]
    thread = ConversationThread(system, tools=tools)
    thread.send(message)
    tools[0]["name"] = system[0]["text"] = message[0]["text"] = "changed"
    thread.get_messages()[0]["content"] = "changed"
    thread.send("n")
    assert "changed" not in json.dumps(api.bodies)


# A turn that fails


@pytest.mark.parametrize("bad", [error(400, "invalid_request_error"), reply("no", stop_reason="refusal")])
def test_a_failed_turn_leaves_everything_as_it_was_and_can_be_sent_again(api, bad):
    api.answers(reply("one"), bad, reply("two"))
    thread = ConversationThread()
    thread.send("first")
    before = thread.get_messages()
    with pytest.raises(ClaudeInvocationError):
        thread.send("second")
    assert (thread.get_messages(), thread.turn_count) == (before, 1)
    assert thread.send("second") == "two"
    assert [role for role, _ in clean(api.bodies[2])] == ["user", "assistant", "user"]


def test_an_interrupted_turn_leaves_everything_as_it_was(sim):
    sim.script(Reply(fault="silent"))
    thread, token = ConversationThread(), InterruptToken()
    errors = []

    def send():
        try:
            thread.send("hi", interrupt_token=token)
        except ClaudeInvocationError as exc:
            errors.append(exc)

    sending = threading.Thread(target=send)
    sending.start()
    sim.wait_for(lambda s: s.in_flight == 1)
    token.interrupt()
    sending.join(LONG)
    assert [error.kind for error in errors] == ["interrupted"]
    assert thread.get_messages() == []
    assert thread.send("hi")


def test_a_callback_that_raises_leaves_everything_as_it_was(api):
    api.answers(streamed("one", "two"), reply("whole"))
    thread = ConversationThread()

    def stop(text):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        thread.send("hi", callback=stop)
    assert thread.get_messages() == []
    assert thread.send("hi") == "whole"


def test_what_a_broken_off_turn_has_used_is_counted(api):
    def stop(_):
        raise ClaudeInvocationError("of a nested call", usage=Usage(777, 7))

    for raising in (stop, lambda _: 1 / 0):
        api.answers(streamed("one", "two"))
        thread = ConversationThread()
        with pytest.raises((ClaudeInvocationError, ZeroDivisionError)):
            thread.send("hi", callback=raising)
        assert thread.usage == Usage(input_tokens=10, output_tokens=1)


@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
def test_the_cost_is_that_of_each_request(api):
    usage = {"input_tokens": 150_000, "output_tokens": 1}
    model = "claude-sonnet-4-5"  # dearer above 200,000 tokens
    paused = reply("a", stop_reason="pause_turn", usage=usage, model=model)
    api.answers(paused, reply("b", usage=usage, model=model))
    thread = ConversationThread(model=model)
    answer = thread.send("hi")
    assert thread.cost_usd == pytest.approx(answer.cost_usd)


def test_what_failed_turns_have_used_is_counted(api):
    api.answers(reply("one"), reply("no", stop_reason="refusal"))
    thread = ConversationThread()
    thread.send("a")
    with pytest.raises(ClaudeInvocationError):
        thread.send("b")
    assert thread.usage == Usage(input_tokens=20, output_tokens=10)
    assert thread.cost_usd == pytest.approx((20 * 3 + 10 * 15) / 1e6)


def test_the_cost_of_an_unknown_model_is_none(api):
    api.always(reply(model="nobodys"))
    thread = ConversationThread(model="nobodys")
    assert thread.cost_usd == 0
    thread.send("a")
    assert thread.cost_usd is None


# What is kept of an answer


def test_the_history_keeps_all_blocks_of_an_answer(api):
    citing = {**said("as it says"), "citations": [{"type": "char_location", "cited_text": "x"}]}
    api.answers(reply(content=[THOUGHT, citing, ASKS], stop_reason="tool_use"), reply("done"))
    thread = ConversationThread(tools=[TOOL])
    asked = thread.send("look")
    assert asked.stop_reason == "tool_use"
    assert thread.send([RESULT]) == "done"
    assert clean(api.bodies[1]) == [
        ("user", [said("look")]),
        ("assistant", [THOUGHT, citing, ASKS]),
        ("user", [RESULT]),
    ]


def test_a_streamed_answer_is_kept_like_one_in_one_piece(sim):
    sim.script(*[Reply(text="so it is", thinking="hm", tool_use=("look", {"at": "it"}))] * 2)
    one, other = ConversationThread(tools=[TOOL]), ConversationThread(tools=[TOOL])
    chunks = []
    answer = one.send("hi", callback=chunks.append)
    other.send("hi")
    assert "".join(chunks) == answer == "so it is"
    for thread in (one, other):
        kinds = [block["type"] for block in thread.get_messages()[1]["content"]]
        assert kinds == ["thinking", "text", "tool_use"]
        assert thread.get_messages()[1]["content"][0]["signature"]


def test_thinking_that_led_to_nothing_and_blank_text_are_not_sent_back(api):
    api.answers(reply(content=[said("so"), said(" "), THOUGHT], stop_reason="max_tokens"), reply())
    thread = ConversationThread()
    thread.send("a")
    thread.send("b")
    assert clean(api.bodies[1])[1] == ("assistant", [said("so")])


@pytest.mark.parametrize("nothing", [[], [said("")], [THOUGHT]])
def test_roles_alternate_also_after_an_answer_that_says_nothing(api, nothing):
    api.answers(reply("one"), reply(content=nothing), reply("two"))
    thread = ConversationThread()
    thread.send("a")
    assert thread.send("b") == ""
    assert thread.turn_count == 2
    thread.send("c")
    assert clean(api.bodies[2]) == [
        ("user", [said("a")]),
        ("assistant", [said("one")]),
        ("user", [said("b"), said("c")]),
    ]
    assert [message["role"] for message in thread.get_messages()] == ["user", "assistant"] * 2


def test_an_answer_that_pauses_is_kept_as_one(api):
    api.answers(reply("part, ", stop_reason="pause_turn"), reply("rest"), reply())
    thread = ConversationThread()
    assert thread.send("a") == "part, rest"
    thread.send("b")
    assert clean(api.bodies[2])[1] == ("assistant", [said("part, "), said("rest")])


def test_answers_that_say_nothing_count_as_turns(api):
    api.always(lambda _: reply(content=[]))
    thread = ConversationThread(max_turns=2)
    thread.send("a")
    thread.send("b")
    with pytest.raises(RuntimeError, match="max_turns"):
        thread.send("c")


def test_a_tool_use_that_was_cut_off_is_not_kept_and_wants_no_result(api):
    another = {**ASKS, "id": "toolu_2"}
    api.answers(reply(content=[said("so"), THOUGHT, another], stop_reason="max_tokens"), reply())
    thread = ConversationThread(tools=[TOOL])
    thread.send("look")
    thread.send_continuation(max_tokens=9999)
    assert clean(api.bodies[1])[1] == ("assistant", [said("so")])


def test_a_server_tool_that_was_cut_off_before_its_result_is_not_kept(api):
    whole = [{"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}]
    whole.append({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []})
    cut = {**whole[0], "id": "srvtoolu_2"}
    api.answers(reply(content=[said("so"), *whole, cut], stop_reason="max_tokens"), reply())
    thread = ConversationThread()
    thread.send("search")
    thread.send("again")
    assert clean(api.bodies[1])[1] == ("assistant", [said("so"), *whole])


def test_blank_text_of_an_answer_that_pauses_is_not_sent_back(api):
    api.answers(reply(content=[said("a "), said(" ")], stop_reason="pause_turn"), reply("b"))
    assert ConversationThread().send("hi") == "a  b"
    assert clean(api.bodies[1])[1] == ("assistant", [said("a ")])


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ([said("first"), RESULT], "must begin with its tool_result"),
        ([RESULT, RESULT], "more than one tool_result"),
        ([RESULT, {**RESULT, "tool_use_id": "toolu_9"}], "toolu_9, which nobody asked for"),
    ],
)
def test_results_that_the_api_would_refuse_are_a_value_error(api, message, problem):
    api.answers(reply(content=[ASKS], stop_reason="tool_use"), reply("seen"))
    thread = ConversationThread(tools=[TOOL])
    thread.send("look")
    with pytest.raises(ValueError, match=problem):
        thread.send(message)
    assert thread.send([RESULT, said("and then?")]) == "seen"


def test_all_missing_results_are_named(api):
    api.answers(reply(content=[ASKS, {**ASKS, "id": "toolu_2"}], stop_reason="tool_use"))
    thread = ConversationThread(tools=[TOOL])
    thread.send("look")
    with pytest.raises(ValueError, match="needs a tool_result for toolu_1, toolu_2"):
        thread.send("well?")


@pytest.mark.parametrize("message", ["and?", [said("and?")], [{**RESULT, "tool_use_id": "another"}]])
def test_an_answer_that_asks_for_tools_wants_their_results(api, message):
    api.answers(reply(content=[ASKS], stop_reason="tool_use"))
    thread = ConversationThread(tools=[TOOL])
    thread.send("look")
    with pytest.raises(ValueError, match="needs a tool_result for toolu_1"):
        thread.send(message)
    with pytest.raises(ValueError, match="toolu_1"):
        thread.send_continuation()
    assert len(api.bodies) == 1


# Limits and continuations


def test_max_turns_is_a_runtime_error_and_nothing_is_sent(api):
    api.always(reply())
    thread = ConversationThread(max_turns=1)
    thread.send("a")
    for more in (thread.send, thread.send_continuation):
        with pytest.raises(RuntimeError, match="max_turns=1 is reached"):
            more("b")
    assert len(api.bodies) == 1
    thread.clear()
    assert thread.send("b")


@pytest.mark.parametrize("messages", [None, [{"role": "user", "content": "a"}]])
def test_a_continuation_before_any_turn_is_a_runtime_error(api, messages):
    with pytest.raises(RuntimeError, match="nothing to continue"):
        ConversationThread(messages=messages).send_continuation()
    assert api.bodies == []


def test_a_continuation_is_streamed_and_interrupted_like_any_turn(api):
    api.answers(reply(), streamed("on", "ward"))
    thread, token, chunks = ConversationThread(), InterruptToken(), []
    thread.send("a")
    assert thread.send_continuation(callback=chunks.append) == "onward"
    assert chunks == ["on", "ward"]
    token.interrupt()
    with pytest.raises(ClaudeInvocationError, match="interrupted"):
        thread.send_continuation(interrupt_token=token)


def test_a_continuation_says_the_guidance_or_the_prompt_of_the_conversation(api):
    api.always(reply())
    thread = ConversationThread(continuation_prompt="Go on.")
    thread.send("a")
    thread.send_continuation()
    thread.send_continuation("But shorter.")
    assert [clean(body)[-1][1][0]["text"] for body in api.bodies] == ["a", "Go on.", "But shorter."]
    thread.send_continuation(max_tokens=7, metadata={"user_id": "u"}, cache_history=False)
    assert (api.bodies[-1]["max_tokens"], api.bodies[-1]["metadata"]) == (7, {"user_id": "u"})
    assert marks(api.bodies[-1]["messages"]) == 0
    default = ConversationThread()
    default.send("a")
    assert default.send_continuation()
    assert clean(api.bodies[-1])[-1][1][0]["text"].strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_turns": 0}, "max_turns must be a whole number of at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2}, "temperature"),
        ({"system": 7}, "system must be"),
        ({"continuation_prompt": " "}, "continuation_prompt is blank"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages[0] is of 'assistant'"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
            "messages[1] is of 'user'",
        ),
        ({"messages": "hello"}, "messages must be a list"),
        ({"messages": [{"role": "user"}]}, "messages[0] has no 'content'"),
        ({"messages": ""}, "messages must be a list"),
        ({"messages": {}}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0]['content'] is blank"),
        (
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]},
            "messages[1] says nothing",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": [ASKS]},
                    {"role": "user", "content": "b"},
                ]
            },
            "messages[2] needs a tool_result for toolu_1",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": [RESULT]},
                ]
            },
            "messages[2] has a tool_result for toolu_1, which nobody asked for",
        ),
        ({"system": [{**said("s"), "cache_control": {"type": "ephemeral"}}] * 5}, "at most 4 cache breakpoints"),
    ],
)
def test_bad_options_are_a_value_error_at_once(options, message):
    with pytest.raises(ValueError) as caught:
        ConversationThread(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["prompt", "messages", "model", "system", "streaming", "task_id", "cache_prompt"])
def test_what_is_not_of_a_turn_is_a_type_error_and_nothing_is_sent(api, name):
    with pytest.raises(TypeError, match=f"unknown parameter '{name}'"):
        ConversationThread().send("hi", **{name: "x"})
    assert api.bodies == []


def test_an_empty_history_can_be_taken_up(api):
    api.answers(reply())
    assert ConversationThread(messages=ConversationThread().get_messages()).send("a")


def test_an_unknown_option_is_a_type_error_at_once():
    with pytest.raises(TypeError, match="unknown parameter 'tool'"):
        ConversationThread(tool=[TOOL])


@pytest.mark.parametrize("message", ["", "  ", [], 7, None, [{"text": "no type"}]])
def test_a_bad_message_is_a_value_error_and_nothing_is_sent(api, message):
    with pytest.raises(ValueError, match="user_message"):
        ConversationThread().send(message)
    assert api.bodies == []


def test_a_callback_that_cannot_be_called_is_a_type_error(api):
    with pytest.raises(TypeError, match="callback must be callable"):
        ConversationThread().send("a", callback=7)
    assert api.bodies == []


# Histories


def test_a_history_can_be_kept_as_json_and_taken_up_again(api, tmp_path):
    file = tmp_path / "dot.png"
    file.write_bytes(b"png")
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": file}}
    day = {"type": "text", "text": "of", "citations": [{"day": dt.date(2026, 1, 2)}]}
    api.answers(reply(content=[THOUGHT, said("one")]), reply("two"))
    thread = ConversationThread()
    thread.send([picture, day, said("what is it?")])
    kept = json.dumps(thread.get_messages())
    again = ConversationThread(messages=json.loads(kept))
    assert again.turn_count == 1
    again.send("more")
    assert clean(api.bodies[1])[:2] == clean({"messages": thread.get_messages()})
    assert clean(api.bodies[1])[0][1][0]["source"]["data"] == "cG5n"


def test_an_unanswered_message_at_the_end_of_a_history_is_part_of_the_next_turn(api):
    api.answers(reply())
    ConversationThread(messages=[{"role": "user", "content": "a"}]).send("b")
    assert clean(api.body) == [("user", [said("a"), said("b")])]


def test_a_fork_goes_its_own_way(api):
    api.always(reply())
    thread = ConversationThread("s", max_turns=2, continuation_prompt="on", tools=[TOOL])
    thread.send("a")
    fork = thread.fork()
    fork.send_continuation()
    thread.send("b")
    assert [message["content"] for message in fork.get_messages()][::2] == ["a", "on"]
    assert [message["content"] for message in thread.get_messages()][::2] == ["a", "b"]
    assert api.bodies[1]["tools"] == [TOOL]
    assert fork.usage == Usage(input_tokens=10, output_tokens=5)
    with pytest.raises(RuntimeError, match="max_turns"):
        fork.send("c")


# Threads


def test_of_two_threads_that_send_at_once_one_waits(sim):
    release = threading.Event()
    sim.script(Reply(text="one", until=release))
    thread = ConversationThread()
    threads = [threading.Thread(target=thread.send, args=[f"message {i}"]) for i in range(5)]
    threads[0].start()
    sim.wait_for(lambda s: s.in_flight == 1)
    for one in threads[1:]:
        one.start()
    assert thread.turn_count == 0  # reading does not wait
    assert thread.fork().get_messages() == []
    release.set()
    for one in threads:
        one.join(LONG)
    assert thread.turn_count == 5
    assert sim.peak_concurrency == 1
    assert [message["role"] for message in thread.get_messages()] == ["user", "assistant"] * 5


def test_a_wait_for_another_threads_turn_can_be_interrupted(sim):
    release = threading.Event()
    sim.script(Reply(until=release))
    thread, token = ConversationThread(), InterruptToken()
    sending = threading.Thread(target=thread.send, args=["first"])
    sending.start()
    sim.wait_for(lambda s: s.in_flight == 1)
    kinds = []

    def wait():
        try:
            thread.send("second", interrupt_token=token)
        except ClaudeInvocationError as exc:
            kinds.append(exc.kind)

    waiting = threading.Thread(target=wait)
    waiting.start()
    token.interrupt()
    waiting.join(LONG)
    assert kinds == ["interrupted"]
    release.set()
    sending.join(LONG)
    assert thread.turn_count == 1
    token.reset()
    assert thread.send("third", interrupt_token=token)


@pytest.mark.parametrize("call", [lambda thread: thread.send("again"), ConversationThread.clear])
def test_using_the_conversation_from_its_own_callback_is_a_runtime_error(api, call):
    api.answers(streamed("one"), reply())
    thread = ConversationThread()
    with pytest.raises(RuntimeError, match="from a callback of the same conversation"):
        thread.send("a", callback=lambda _: call(thread))
    assert thread.send("b")


def test_an_interrupt_of_a_wait_is_not_undone_by_a_reset(sim):
    release = threading.Event()
    sim.script(Reply(until=release))
    thread, token = ConversationThread(), InterruptToken()
    sending = threading.Thread(target=thread.send, args=["first"])
    sending.start()
    sim.wait_for(lambda s: s.in_flight == 1)
    kinds, waits = [], threading.Event()

    def wait():
        try:
            thread.send("second", interrupt_token=Watched())
        except ClaudeInvocationError as exc:
            kinds.append(exc.kind)

    class Watched:
        def watched_by(self, watcher):
            waits.set()
            return token.watched_by(watcher)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert waits.wait(LONG)
    until(lambda: token._watchers)  # entered an instant later
    token.interrupt()
    token.reset()
    waiting.join(LONG)
    release.set()
    sending.join(LONG)
    assert kinds == ["interrupted"]
    assert thread.turn_count == 1
    assert len(sim.requests) == 1


def test_a_continuation_waits_for_the_first_turn(sim):
    release = threading.Event()
    sim.script(Reply(until=release))
    thread = ConversationThread()
    first = threading.Thread(target=thread.send, args=["first"])
    first.start()
    sim.wait_for(lambda s: s.in_flight == 1)
    second = threading.Thread(target=thread.send_continuation)
    second.start()
    release.set()
    first.join(LONG)
    second.join(LONG)
    assert thread.turn_count == 2


def test_ctrl_c_leaves_the_conversation_free(sim):
    thread = ConversationThread()
    with pytest.raises(KeyboardInterrupt):
        thread.send("a", callback=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert thread.get_messages() == []
    assert thread.usage.input_tokens > 0
    assert thread.send("a")


def test_clear_waits_for_a_turn_that_is_under_way(sim):
    release = threading.Event()
    sim.script(Reply(until=release))
    thread = ConversationThread()
    sending = threading.Thread(target=thread.send, args=["first"])
    sending.start()
    sim.wait_for(lambda s: s.in_flight == 1)
    clearing = threading.Thread(target=thread.clear)
    clearing.start()
    release.set()
    sending.join(LONG)
    clearing.join(LONG)
    assert thread.get_messages() == []


# Caching


def long(letter):
    return f"{letter} " * 2048  # as many tokens by the simulator's count


def test_twelve_turns_read_everything_before_them_from_the_cache(sim):
    sim.script(*[Reply(text=long("b"))] * 24)
    bills = {}
    for cached in (True, False):
        thread = ConversationThread(long("s"), cache_system=cached)
        before = 0
        for i in range(12):
            used = thread.send(f"{i} " + long("a"), cache_history=cached).usage
            if cached:
                assert used.cache_read_input_tokens == before
                assert used.input_tokens == 0
                before = used.total_input_tokens
        bills[cached] = thread.cost_usd
    inputs = [sum(u.usage["input_tokens"] for u in half) for half in (sim.requests[:12], sim.requests[12:])]
    assert inputs[0] == 0 < inputs[1]
    assert bills[True] < 0.6 * bills[False]


def test_breakpoints_never_accumulate(api):
    api.always(reply())
    thread = ConversationThread("s")
    for _ in range(6):
        thread.send("a")
    assert [marks(body) for body in api.bodies] == [2] * 6
    assert marks(thread.get_messages()) == 0
    assert all(marks(body["messages"][-1]) == marks(body["system"]) == 1 for body in api.bodies)


def test_without_caching_nothing_is_marked(api):
    api.always(reply())
    thread = ConversationThread("s", cache_system=False)
    thread.send("a", cache_history=False)
    assert marks(api.body) == 0


@pytest.mark.parametrize(("notes", "expected"), [(16, 1), (17, 2), (60, 2)])
def test_a_turn_wider_than_the_look_back_is_still_read_from_the_cache(sim, notes, expected):
    sim.script(Reply(content=[said("so"), ASKS]), Reply(text="done"))
    thread = ConversationThread(long("s"), tools=[TOOL])
    first = thread.send(long("a"))
    second = thread.send([RESULT, *[said(f"note {i}") for i in range(notes)]])
    assert second.usage.cache_read_input_tokens >= first.usage.total_input_tokens
    assert marks(sim.requests[-1].body["messages"]) == expected


def test_a_wide_answer_is_still_read_from_the_cache(sim):
    asks = [{**ASKS, "id": f"toolu_{i}"} for i in range(25)]
    sim.script(Reply(content=asks), Reply(text="done"))
    thread = ConversationThread(long("s"), tools=[TOOL])
    first = thread.send(long("a"))
    second = thread.send([{**RESULT, "tool_use_id": ask["id"]} for ask in asks])
    assert second.usage.cache_read_input_tokens == first.usage.total_input_tokens


def test_a_turn_without_caching_does_not_lose_what_was_cached_before_it(sim):
    thread = ConversationThread(long("s"))
    cached = thread.send(long("a")).usage.total_input_tokens
    thread.send([said(f"note {i}") for i in range(30)], cache_history=False)
    assert thread.send("b").usage.cache_read_input_tokens >= cached


def test_what_was_said_before_an_empty_answer_is_read_from_the_cache(sim):
    sim.script(Reply(content=[]))
    thread = ConversationThread(long("s"))
    cached = thread.send(long("a")).usage.total_input_tokens
    assert thread.send([said(f"note {i}") for i in range(30)]).usage.cache_read_input_tokens >= cached


def test_marks_within_a_message_do_not_accumulate_either(api):
    api.always(lambda _: reply(content=[ASKS], stop_reason="tool_use"))
    inner = {**said("seen"), "cache_control": {"type": "ephemeral"}}
    thread = ConversationThread(tools=[TOOL])
    thread.send("look")
    for _ in range(6):
        thread.send([{**RESULT, "content": [inner]}])
    assert marks(thread.get_messages()) == 0


HOUR = {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_control": HOUR}, "hi"),
        ({"cache_control": HOUR, "system": "s"}, "hi"),
        ({"system": "s"}, [{**said("document"), "cache_control": HOUR}, said("question")]),
        ({"system": [{**said("s"), "cache_control": HOUR}]}, "hi"),
    ],
)
def test_breakpoints_of_an_hour_go_together_with_ours(sim, options, message):
    thread = ConversationThread(**options)
    thread.send(message)
    assert thread.send("more")


def test_an_own_mark_at_the_end_takes_no_room_from_ours(sim):
    blocks = [{**said("s"), "cache_control": {"type": "ephemeral"}} for _ in range(2)]
    thread = ConversationThread([said(long("s")), *blocks])
    first = thread.send(long("a"))
    wide = [*[said(f"note {i}") for i in range(30)], {**said("end"), "cache_control": {"type": "ephemeral"}}]
    assert thread.send(wide).usage.cache_read_input_tokens == first.usage.total_input_tokens


def test_what_there_was_no_room_to_cache_is_not_taken_for_cached(sim):
    mark = {"cache_control": {"type": "ephemeral"}}
    notes = [said(f"note {i}") for i in range(30)]
    thread = ConversationThread([{**said(long("s")), **mark}, {**said("t"), **mark}])
    cached = thread.send(long("a")).usage.total_input_tokens
    thread.send([*[{**said("own"), **mark}] * 2, *notes])
    assert thread.send(notes).usage.cache_read_input_tokens >= cached


def test_breakpoints_of_ones_own_come_first(api):
    api.always(reply())
    own = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    thread = ConversationThread([{**said("s"), **own}, {**said("t"), **own}, {**said("u"), **own}])
    thread.send([{**said("a"), **own}, said("b")])
    thread.send("c")
    first, second = api.bodies
    assert (marks(first["messages"]), marks(second["messages"])) == (1, 1)
    assert first["messages"][0]["content"][0]["cache_control"] == own["cache_control"]
    assert marks(second["messages"][0]) == 0


def test_the_first_turn_of_a_fork_reads_the_history_from_the_cache(sim):
    thread = ConversationThread(long("s"))
    thread.send(long("a"))
    last = thread.send(long("b"))
    fork = thread.fork()
    assert fork.send("c").usage.cache_read_input_tokens == last.usage.total_input_tokens


# Looks


NASTY = "</pre></div></details><script>alert(1)</script> & \u202e\n  next"


def transcript(content, **options) -> Page:
    return Page(ConversationThread(messages=[{"role": "user", "content": content}], **options)._repr_html_())


def test_a_notebook_shows_a_transcript_with_all_but_texts_folded(api):
    api.answers(reply(content=[THOUGHT, said("one\n  two"), ASKS], stop_reason="tool_use"))
    thread = ConversationThread("be brief", tools=[TOOL])
    assert "nothing said yet" in Page(thread._repr_html_()).text
    thread.send("hi")
    page = Page(thread._repr_html_())
    assert page.of("strong") == ["user", "assistant"]
    assert page.of("details") == ["systembe brief", "thinkinghm", 'tool_use: look{\n  "at": "it"\n}']
    assert "one\n  two" in page.of("div")
    assert "1 turns \u00b7 tokens: 10 in, 5 out" in page.text


def test_a_transcript_works_without_the_extra_for_costs(api, monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    api.answers(reply(usage={"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3000}))
    thread = ConversationThread()
    thread.send("hi")
    assert Page(thread._repr_html_()).text.endswith("tokens: 3,001 in (3,000 of it cached), 2 out")


@pytest.mark.parametrize(
    "block",
    [
        said(NASTY),
        said(NASTY * 200),
        {**THOUGHT, "thinking": NASTY},
        {**ASKS, "name": NASTY, "input": {NASTY: NASTY}},
        {**RESULT, "content": NASTY},
        {**RESULT, "content": [said(NASTY)]},
        {"type": NASTY, NASTY: [NASTY]},
        {"type": "image", "source": {"type": "url", "url": NASTY}},
        {"type": "document", "title": NASTY, "source": {"type": "text", "data": NASTY}},
        {"type": "document", "source": {"type": "content", "content": [said(NASTY)]}},
    ],
)
def test_everything_in_a_transcript_is_escaped(block):
    page = transcript([block], system=NASTY, model=NASTY)
    assert page.text.count("<script>") >= 3


def test_images_are_named_and_not_dumped():
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 2_000_000}}
    page = transcript([picture, {**RESULT, "is_error": True, "content": [said("seen"), picture]}])
    assert page.of("div").count("image: image/png, 1.5 MB") == 2
    assert "tool_result failed" in page.of("summary")
    assert len(page.text) < 1000


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"type": "url", "url": "https://example.com/a.png"}, "image: https://example.com/a.png"),
        ({"type": "file", "file_id": "file_1"}, "image: file_1"),
        ({"type": "base64", "media_type": "image/gif", "data": "AAAA"}, "image: image/gif, 3 bytes"),
        ({"type": "base64", "media_type": "image/gif", "data": "A" * 40000}, "image: image/gif, 30.0 kB"),
    ],
)
def test_an_image_says_what_it_is(source, named):
    assert named in transcript([{"type": "image", "source": source}]).of("div")


def test_a_document_says_what_it_is_and_what_it_says():
    document = {
        "type": "document",
        "title": "Spec",
        "source": {"type": "text", "media_type": "text/plain", "data": "All of it."},
    }
    assert transcript([document]).of("details") == ["document: Spec, text/plainAll of it."]


def test_what_only_machines_can_read_is_counted_in_a_transcript():
    found = {"type": "web_search_result", "title": "A page", "encrypted_content": "E" * 5000}
    page = transcript(
        [
            {"type": "web_search_tool_result", "content": [found]},
            {"type": "code_execution_tool_result", "content": {"type": "result", "stdout": "42"}},
            {"type": "redacted_thinking", "data": "D" * 900},
            {**THOUGHT, "signature": "S" * 900},
        ]
    )
    assert '"encrypted_content": "(5,000 characters)"' in page.text
    assert '"data": "(900 characters)"' in page.text
    assert '"stdout": "42"' in page.text
    assert "SSS" not in page.text


@pytest.mark.parametrize("content", [None, 5, ["a text"], {"type": "image"}])
def test_a_transcript_survives_what_the_api_would_refuse(content):
    assert transcript([{**RESULT, "content": content}, {"type": "image"}, {"type": "text"}]).of("summary")


def test_a_long_message_is_folded_in_a_transcript():
    whole = "word\n" * 2000
    page = transcript(whole)
    assert page.of("details") == ["10,000 characters: " + " ".join(["word"] * 60) + whole]


def test_it_says_what_it_is(api):
    api.always(reply())
    thread = ConversationThread()
    thread.send("a")
    assert repr(thread) == "<ConversationThread claude-sonnet-4-6, 1 turns>"


def test_the_example_of_the_seed(sim):
    agent = ConversationThread(
        system="You are a code refactoring expert with access to the codebase", cache_system=True
    )
    response1 = agent.send("Analyze the UserAuth class for issues")
    response2 = agent.send("How would you refactor the login method?")
    response3 = agent.send("Show me the refactored code")
    assert all([response1, response2, response3])
    assert len(agent) == 3


def test_history_and_single_calls_share_the_cache(sim):
    invoke_claude("x", system=long("s"), cache_system=True)
    assert ConversationThread(long("s")).send("y").usage.cache_read_input_tokens > 0


def test_a_message_that_can_carry_no_breakpoint_has_none(api):
    api.always(reply())
    thread = ConversationThread()
    thread.send([{"type": "thinking", "thinking": "hm", "signature": "s"}])
    assert "cache_control" not in json.dumps(api.bodies[0]["messages"])


def test_a_turn_with_a_token_waits_for_another_threads_turn_that_takes_its_time(sim):
    held, thread, answers = threading.Event(), ConversationThread(), []
    sim.script(Reply(text="first", until=held), Reply(text="second"))
    turns = [threading.Thread(target=lambda: answers.append(thread.send("a", interrupt_token=InterruptToken())))]
    turns[0].start()
    sim.wait_for(lambda s: s.in_flight == 1)
    looks = []

    class Counting(InterruptToken):
        def watched_by(self, watcher):
            looks.append(1)
            return super().watched_by(watcher)

    turns.append(threading.Thread(target=lambda: answers.append(thread.send("b", interrupt_token=Counting()))))
    turns[1].start()
    until(lambda: looks)
    turns[1].join(0.12)  # longer than from one look at the token to the next
    held.set()
    for turn in turns:
        turn.join(20)
    assert answers == ["first", "second"]


def test_a_turn_is_priced_by_the_model_that_answered_it(api):
    api.always(reply(model="claude-haiku-4-5"))
    thread = ConversationThread(model="claude-opus-5")
    assert thread.send("a").cost_usd == thread.cost_usd == Usage(10, 5).cost_usd("claude-haiku-4-5")


@pytest.mark.parametrize("way", [lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy])
def test_a_conversation_that_is_pickled_or_copied_goes_on_by_itself(api, way):
    api.answers(reply("one"), reply("two"), reply("other"))
    thread = ConversationThread("Be brief.", "claude-opus-4-6", 50, max_turns=2, output=None, max_retries=1)
    thread.send("first")
    other = way(thread)
    assert (other.system, other.model, other.max_tokens, other.usage) == (
        "Be brief.",
        "claude-opus-4-6",
        50,
        thread.usage,
    )
    assert other.get_messages() == thread.get_messages()
    thread.send("second")
    other.send("second of its own")
    assert [len(body["messages"]) for body in api.bodies] == [1, 3, 3]
    assert str(other.get_messages()[-1]["content"][0]["text"]) == "other"
    with pytest.raises(RuntimeError, match="max_turns"):
        other.send("third")


def test_a_conversation_with_a_budget_stays_in_its_process():
    with pytest.raises(TypeError, match="a Budget holds for one process"):
        pickle.dumps(ConversationThread(budget_usd=1))


def test_its_options_may_be_changed_for_the_turns_to_come(api):
    api.answers(reply(), reply())
    thread = ConversationThread(system="Be brief.", max_tokens=50)
    thread.send("first")
    thread.model, thread.max_tokens, thread.system = "claude-haiku-4-5", 70, None
    assert (thread.model, thread.max_tokens, thread.system, thread.temperature) == ("claude-haiku-4-5", 70, None, 1.0)
    thread.send("second")
    assert [(body["model"], body["max_tokens"], "system" in body) for body in api.bodies] == [
        ("claude-sonnet-4-6", 50, True),
        ("claude-haiku-4-5", 70, False),
    ]


def test_an_option_that_cannot_be_sent_is_refused_when_it_is_set_and_the_old_one_stays(api):
    thread = ConversationThread()
    with pytest.raises(ValueError, match="max_tokens must be a whole number of at least 1, got 0"):
        thread.max_tokens = 0
    assert thread.max_tokens == 4096
    with pytest.raises(AttributeError, match="'model' is an option of each conversation"):
        ConversationThread.model  # noqa: B018
