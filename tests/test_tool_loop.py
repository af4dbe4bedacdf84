"""Calls that work through tools: what is run, what the model is told, and how they end."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
import threading
from pathlib import Path

import anthropic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claude_client
from claude_client import (
    Budget,
    ClaudeInvocationError,
    Context,
    ConversationThread,
    InterruptToken,
    Refuse,
    Respond,
    StopTools,
    Tool,
    as_completed,
    invoke_claude,
    invoke_parallel,
    invoke_with_tools,
    tool,
)
from claude_client._values.tool import tool_of
from claude_client.simulator import Reply
from helpers import until
from orchestration import ConcurrencyLimiter, invoke_parallel_managed
from scripted_tools import asks, go_on, results, told, use, uses_and_results

LONG = 20  # seconds after which a test gives up


def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Args:
        a: The first.
    """
    return a + b


def fails() -> None:
    raise RuntimeError("no such file")


def test_the_model_gets_what_the_tool_returns_and_the_answer_comes_back(sim):
    sim.script(asks(use("add", a=1), text="Let me see."), Reply(text="It is 3."))
    answer = invoke_with_tools("What is 1 + 2?", [add])
    assert answer == "It is 3."
    assert told(sim.requests[1]) == ["3"]
    assert [(call.name, call.outcome) for call in answer.tool_calls] == [("add", "ok")]
    assert [message["role"] for message in answer.messages] == ["user", "assistant", "user", "assistant"]
    assert len(answer.attempts) == len(sim.requests) == 2
    assert answer.usage.output_tokens == sum(attempt.usage.output_tokens for attempt in answer.attempts)
    first = sim.requests[0].body["tools"][0]
    assert first["description"] == "Add two numbers."
    assert first["input_schema"]["properties"]["a"] == {"description": "The first.", "title": "A", "type": "integer"}
    assert first["input_schema"]["required"] == ["a"]


ROADS = {
    "invoke_claude": lambda: invoke_claude("?", tools=[add]),
    "streamed": lambda: claude_client.invoke_claude_streaming("?", tools=[add]),
    "invoke_parallel": lambda: invoke_parallel([{"prompt": "?", "tools": [add]}])[0],
    "as_completed": lambda: next(iter(as_completed([{"prompt": "?"}], tools=[add])))[1],
    "managed": lambda: invoke_parallel_managed([{"prompt": "?"}], tools=[add])[0],
    "conversation": lambda: ConversationThread(tools=[add]).send("?"),
    "turn": lambda: ConversationThread().send("?", tools=[add]),
}


@pytest.mark.parametrize("road", ROADS)
def test_every_road_runs_tools(sim, road):
    sim.script(asks(use("add", a=1)), Reply(text="3"))
    answer = ROADS[road]()
    assert answer == "3"
    assert told(sim.requests[1]) == ["3"]
    assert answer.tool_calls[0].outcome == "ok"


def test_what_goes_wrong_with_a_tool_is_told_to_the_model(sim):
    uses = [use("add", 1, a="x"), use("add", 2, a=1, c=1), use("fails"), use("nope"), use("add", 3, a=5)]
    sim.script(asks(*uses), Reply())
    answer = invoke_with_tools("?", [add, fails])
    said = told(sim.requests[1])
    assert "a: Input should be a valid integer" in said[0]
    assert "c: Extra inputs are not permitted" in said[1]
    assert said[2:] == ["RuntimeError: no such file", "There is no tool 'nope'. There are: add, fails", "7"]
    assert [bool(block.get("is_error")) for block in results(sim.requests[1]).values()] == [True] * 4 + [False]
    assert [call.outcome for call in answer.tool_calls] == ["error"] * 4 + ["ok"]


def test_the_key_never_reaches_the_model(sim, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-very-secret")

    def leak() -> None:
        raise RuntimeError(f"refused: {os.environ['ANTHROPIC_API_KEY']}, {'gateway-' + 'password'}")

    sim.script(asks(use("leak")), Reply())
    invoke_with_tools("?", [leak], extra_headers={"x-gateway-key": "gateway-password"})
    assert told(sim.requests[1]) == ["RuntimeError: refused: [redacted], [redacted]"]


def test_the_tools_of_a_turn_run_at_once_and_no_more_than_may_be(sim):
    at_once = threading.Barrier(3)

    def meet(n: int) -> int:
        at_once.wait(LONG)
        return n

    sim.script(asks(*[use("meet", n, n=n) for n in range(6)]), Reply())
    invoke_with_tools("?", [meet], max_parallel_tools=3)
    assert told(sim.requests[1]) == ["0", "1", "2", "3", "4", "5"]


def test_no_more_tools_than_allowed_run_at_once(sim):
    running, most = [], []

    def count(n: int) -> None:
        running.append(n)
        most.append(len(running))
        running.remove(n)

    sim.script(asks(*[use("count", n, n=n) for n in range(6)]), Reply())
    invoke_with_tools("?", [count], max_parallel_tools=1)
    assert max(most) == 1


async def later(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


def test_a_coroutine_function_is_awaited(sim):
    sim.script(asks(use("later", n=1)), Reply())
    invoke_with_tools("?", [later])
    assert told(sim.requests[1]) == ["2"]


def test_an_asynchronous_tool_is_cancelled_by_its_timeout(sim):
    cancelled = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    sim.script(asks(use("waits")), Reply())
    answer = invoke_with_tools("?", [tool(waits, timeout=0.01)])
    assert told(sim.requests[1]) == ["The tool had not ended after 0.01 seconds."]
    assert answer.tool_calls[0].outcome == "timeout"
    assert cancelled.wait(LONG)


def test_tools_of_the_sdk_are_run_and_check_their_arguments(sim):
    @anthropic.beta_tool
    def look(at: str) -> str:
        """Look at it."""
        if at == "nothing":
            raise ValueError("there is nothing")
        return f"{at} seen"

    sim.script(
        asks(use("look", 1, at="it"), use("look", 2), use("look", 3, at="nothing"), use("look", 4, at="x")), Reply()
    )
    invoke_with_tools("?", [look])
    said = told(sim.requests[1])
    assert said[0] == "it seen"
    assert said[1].startswith("The arguments do not fit:")
    assert said[2] == "ValueError: there is nothing"


def test_an_error_of_the_sdk_s_own_kind_says_what_it_says(sim):
    from anthropic.lib.tools import ToolError

    def look() -> None:
        raise ToolError([{"type": "text", "text": "dark"}])

    sim.script(asks(use("look")), Reply())
    invoke_with_tools("?", [look])
    block = results(sim.requests[1])["toolu_look_1"]
    assert block["is_error"]
    assert block["content"][0]["text"] == "dark"


def test_a_tool_by_hand_is_checked_by_its_schema(sim):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    double = Tool("double", "Doubles.", schema, lambda n: 2 * n)
    sim.script(asks(use("double", 1, n=2), use("double", 2, n="x")), Reply())
    invoke_with_tools("?", [double])
    assert told(sim.requests[1]) == ["4", "The arguments do not fit: ValueError: $.n: 'x' is not of type 'integer'"]
    assert sim.requests[0].body["tools"][0]["input_schema"] == schema


@pytest.mark.parametrize("ender", ["fatal", "stop"])
def test_a_tool_may_end_the_call(sim, ender):
    reason = StopTools("enough") if ender == "stop" else RuntimeError("enough")

    def stop() -> None:
        raise reason

    sim.script(asks(use("add", a=1), use("stop")), Reply())
    with pytest.raises(ClaudeInvocationError, match="The tool 'stop' ended the call: enough") as caught:
        invoke_with_tools("?", [add, tool(stop, fatal=ender == "fatal")], max_parallel_tools=1)
    error = caught.value
    assert error.kind == "tool"
    assert error.__cause__ is reason
    assert [call.outcome for call in error.tool_calls] == ["ok", "error"]
    assert len(sim.requests) == 1
    go_on(sim, error, tools=[add])
    assert pickle.loads(pickle.dumps(error)).messages == error.messages


def test_what_may_not_be_run_is_asked_before(sim):
    asked = []

    def before(name, arguments):
        asked.append((name, arguments, threading.current_thread()))
        answers = {1: None, 2: True, 3: {"a": 40}, 4: False, 5: Refuse("never"), 6: Respond({"sum": 9})}
        return answers[arguments["a"]]

    sim.script(asks(*[use("add", n, a=n) for n in range(1, 7)]), Reply())
    answer = invoke_with_tools("?", [add], before_tool=before)
    assert told(sim.requests[1]) == ["3", "4", "42", "The user does not allow this.", "never", '{"sum":9}']
    assert [call.outcome for call in answer.tool_calls] == ["ok", "ok", "ok", "refused", "refused", "answered"]
    assert [(name, arguments["a"]) for name, arguments, _ in asked] == [("add", n) for n in range(1, 7)]
    assert {thread for *_, thread in asked} == {threading.current_thread()}
    history = answer.messages[1]["content"]
    assert history[2]["input"] == {"a": 3}


@pytest.mark.parametrize("fault", [StopTools("no"), RuntimeError("no"), "yes"])
def test_a_decision_that_fails_runs_nothing_and_ends_the_call(sim, fault):
    ran = []

    def before(name, arguments):
        if isinstance(fault, str):
            return fault
        raise fault

    def run() -> None:
        ran.append(1)

    sim.script(asks(use("run")), Reply())
    with pytest.raises(ClaudeInvocationError, match=r"no|must return") as caught:
        invoke_with_tools("?", [run], before_tool=before)
    assert caught.value.kind == "tool"
    assert ran == []
    go_on(sim, caught.value, tools=[add])


def test_nothing_more_is_asked_about_once_the_call_is_interrupted(sim):
    token, asked = InterruptToken(), []

    def before(name, arguments):
        asked.append(arguments)
        token.interrupt()

    sim.script(asks(use("add", 1, a=1), use("add", 2, a=2)))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [add], before_tool=before, interrupt_token=token)
    assert asked == [{"a": 1}]
    assert [call.outcome for call in caught.value.tool_calls] == ["interrupted"] * 2


def test_ctrl_c_while_somebody_decides_comes_out(sim):
    def before(name, arguments):
        raise KeyboardInterrupt

    sim.script(asks(use("add", a=1)))
    with pytest.raises(KeyboardInterrupt):
        invoke_with_tools("?", [add], before_tool=before)


def test_as_many_tools_run_at_once_as_are_allowed(sim):
    met = threading.Barrier(50)
    sim.script(asks(*[use("meet", n) for n in range(50)]), Reply())
    invoke_with_tools("?", [tool(lambda: met.wait(LONG), name="meet")], max_parallel_tools=50)
    assert sorted(told(sim.requests[1]), key=int) == [str(n) for n in range(50)]


def test_arguments_that_are_no_object_do_not_fit():
    for one in (anthropic.beta_tool(add), Tool("x", "", {"type": "object"}, add), add):
        with pytest.raises(ValueError, match=r"The arguments do not fit|must be an object"):
            tool_of(one).call(Context(tool="x", tool_use_id="toolu_1"), [1])


def test_a_loop_ends_after_so_many_turns(sim):
    sim.script(*[asks(use("add", n, a=n)) for n in range(3)])
    with pytest.raises(ClaudeInvocationError, match="each of 3 turns") as caught:
        invoke_with_tools("?", [add], max_iterations=3)
    assert caught.value.kind == "max_iterations"
    assert len(caught.value.attempts) == len(sim.requests) == 3
    assert [call.outcome for call in caught.value.tool_calls] == ["ok", "ok"]
    go_on(sim, caught.value, tools=[add])


def test_a_tool_of_the_caller_s_hands_the_answer_out(sim):
    own = {"name": "own", "input_schema": {"type": "object"}}
    sim.script(asks(use("add", a=1)), asks(use("own"), use("add", 2, a=1)))
    answer = invoke_with_tools("?", [add, own])
    assert answer.stop_reason == "tool_use"
    assert len(answer.tool_calls) == 1
    assert answer.messages[-1]["role"] == "assistant"


def test_a_tool_use_that_was_cut_off_is_not_run(sim):
    sim.script(Reply(content=[use("add", a=1)], stop_reason="max_tokens"))
    answer = invoke_with_tools("?", [add])
    assert answer.truncated
    assert answer.tool_calls == ()
    assert len(sim.requests) == 1


def test_a_tool_is_forced_in_the_first_turn_alone(sim):
    sim.script(asks(use("add", a=1)), Reply())
    invoke_with_tools("?", [add], tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True})
    assert [request.body["tool_choice"] for request in sim.requests] == [
        {"type": "tool", "name": "add", "disable_parallel_tool_use": True},
        {"type": "auto", "disable_parallel_tool_use": True},
    ]


def test_each_turn_has_the_temperature_that_was_asked_for(sim):
    sim.script(asks(use("add", a=1)), Reply())
    invoke_with_tools("?", [add], temperature=0.2)
    assert [request.body["temperature"] for request in sim.requests] == [0.2, 0.2]


def test_the_last_answer_is_of_the_type_that_was_asked_for(sim):
    sim.script(asks(use("add", a=1)), Reply(text='{"sum": 3}'))

    class Sum(__import__("pydantic").BaseModel):
        sum: int

    answer = invoke_with_tools("?", [add], output=Sum)
    assert answer.output == Sum(sum=3)


def test_a_callback_hears_the_text_of_all_turns(sim):
    heard = []
    sim.script(asks(use("add", a=1), text="Let me see. "), Reply(text="Three."))
    assert invoke_with_tools("?", [add], callback=heard.append) == "Three."
    assert "".join(heard) == "Let me see. Three."


def test_each_turn_has_its_own_retries(sim):
    failures = [Reply(fault="overloaded", retry_after=0.001)] * 2
    sim.script(*failures, asks(use("add", a=1)), *failures, Reply(text="3"))
    answer = invoke_with_tools("?", [add], max_retries=2)
    assert answer == "3"
    assert [attempt.outcome for attempt in answer.attempts].count("overloaded") == 4


def test_the_model_that_answered_goes_on_with_the_loop(sim):
    sim.script(Reply(fault="not_found"), asks(use("add", a=1)), Reply(text="3"))
    answer = invoke_with_tools("?", [add], model="claude-opus-5", fallback_models=["claude-sonnet-4-6"])
    assert [attempt.model for attempt in answer.attempts] == ["claude-opus-5", *["claude-sonnet-4-6"] * 2]


def test_an_answer_that_pauses_goes_on_within_a_turn(sim):
    sim.script(Reply(text="One. ", fault="pause_turn"), asks(use("add", a=1)), Reply(text="Three."))
    answer = invoke_with_tools("?", [add])
    assert answer == "Three."
    assert len(sim.requests) == 3
    assert told(sim.requests[2]) == ["3"]


def test_the_cache_grows_along_with_the_loop(sim):
    def look(n: int) -> str:
        return "seen " * 2000

    sim.script(*[asks(*[use("look", 10 * n + i, n=n) for i in range(5)]) for n in range(4)], Reply())
    answer = invoke_with_tools("word " * 3000, [look])
    read = [attempt.usage.cache_read_input_tokens for attempt in answer.attempts]
    written = [attempt.usage.cache_creation_input_tokens for attempt in answer.attempts]
    for before in range(4):
        assert read[before + 1] == read[before] + written[before] > 0


def test_a_conversation_keeps_the_uses_and_results_of_a_turn(sim):
    thread = ConversationThread(tools=[add])
    sim.script(asks(use("add", a=1)), Reply(text="3"), Reply(text="Yes."))
    thread.send("What is 1 + 2?", cache_history=False)
    thread.send("Are you sure?")
    kinds = [[block["type"] for block in message["content"]] for message in sim.requests[-1].body["messages"][1:3]]
    assert kinds == [["tool_use"], ["tool_result"]]
    assert thread.turn_count == 2
    restored = pickle.loads(pickle.dumps(thread))
    sim.script(asks(use("add", 2, a=2)), Reply(text="4"))
    assert restored.send("And 2 + 2?") == "4"
    assert thread.fork().get_messages() == thread.get_messages()


def test_tools_of_one_turn_are_told_in_those_after_it_and_not_to_be_used(sim):
    thread = ConversationThread()
    sim.script(asks(use("add", a=1)), Reply(text="3"), Reply(text="Yes."))
    thread.send("What is 1 + 2?", tools=[add])
    assert thread.fork().send("Are you sure?") == "Yes."
    last = sim.requests[-1].body
    assert [one["name"] for one in last["tools"]] == ["add"]
    assert last["tool_choice"] == {"type": "none"}


def test_a_turn_that_fails_in_its_loop_leaves_the_conversation_as_it_was(sim):
    thread = ConversationThread(tools=[add], max_retries=0)
    sim.script(asks(use("add", a=1)), Reply(fault="api_error"), Reply(text="Fine."))
    with pytest.raises(ClaudeInvocationError) as caught:
        thread.send("?")
    assert thread.get_messages() == []
    assert told_in(caught.value.messages) == ["3"]
    assert thread.send("Again?") == "Fine."
    assert thread.usage.output_tokens > 0


def told_in(messages):
    return [
        block.get("content")
        for message in messages
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    ]


def test_an_interrupt_ends_the_call_and_tells_the_tools(sim):
    token, heard = InterruptToken(), threading.Event()

    def waits(context: Context) -> None:
        token.interrupt()
        with context.token.watched_by(heard.set):
            threading.Event().wait(LONG)

    sim.script(asks(use("add", a=1), use("waits")), Reply())
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [add, waits], interrupt_token=token, max_parallel_tools=1)
    assert caught.value.kind == "interrupted"
    assert heard.is_set()
    assert [call.outcome for call in caught.value.tool_calls] == ["ok", "interrupted"]
    assert len(sim.requests) == 1
    go_on(sim, caught.value, tools=[add])


def test_an_interrupt_ends_the_loops_of_a_run(sim):
    token = InterruptToken()
    met = threading.Barrier(2, action=token.interrupt)

    def waits() -> None:
        met.wait(LONG)
        threading.Event().wait(LONG)

    sim.script(asks(use("waits", 1)), asks(use("waits", 2)))
    answers = invoke_parallel([{"prompt": "?"}] * 3, tools=[waits], max_workers=2, interrupt_token=token)
    assert answers.interrupted
    assert {error.kind for error in answers.errors.values()} == {"interrupted"}
    assert len(sim.requests) == 2
    assert answers.errors[0].messages or answers.errors[1].messages


def test_a_task_that_is_cancelled_is_not_waited_for(sim):
    from task_state import TaskTracker

    tracker = TaskTracker()

    def waits() -> None:
        tracker.cancel("a")
        threading.Event().wait(LONG)

    sim.script(asks(use("waits")))
    answers = invoke_parallel_managed([{"prompt": "?", "task_id": "a"}], tools=[waits], tracker=tracker)
    assert answers.cancelled == ["a"] or answers == [None]
    assert len(sim.requests) == 1


def test_a_task_that_is_cancelled_takes_no_other_with_it(sim):
    from task_state import TaskTracker

    tracker, met = TaskTracker(), threading.Barrier(2)

    def work(context: Context) -> str:
        met.wait(LONG)
        if context.task_id == "a":
            tracker.cancel("b")
            return "done"
        return str(context.token.wait(LONG))

    sim.script(asks(use("work", 1)), asks(use("work", 2)), Reply(text="Fine."))
    prompts = [{"prompt": "?", "task_id": name} for name in ("a", "b")]
    answers = invoke_parallel_managed(prompts, tools=[work], tracker=tracker)
    assert answers == ["Fine.", None]


def test_ctrl_c_ends_a_call_whose_tools_run(sim):
    def waits() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(LONG)

    sim.script(asks(use("waits")))
    with pytest.raises(KeyboardInterrupt):
        invoke_with_tools("?", [waits])
    assert len(sim.requests) == 1


def test_a_deadline_ends_a_call_whose_tools_run(sim):
    def waits(context: Context) -> None:
        assert context.deadline is not None
        threading.Event().wait(LONG)

    for ask in (
        lambda: invoke_with_tools("?", [waits], deadline=0.3),
        lambda: invoke_parallel([{"prompt": "?"}], tools=[waits], deadline=0.3),
    ):
        sim.reset()
        sim.script(asks(use("waits")))
        with pytest.raises(ClaudeInvocationError) as caught:
            ask()
        assert caught.value.kind == "timeout"
        assert len(sim.requests) == 1


def test_a_budget_holds_for_all_turns(sim):
    budget = Budget(0.1)  # each request may cost more than 0.06, at the worst
    sim.script(asks(use("add", a=1), usage={"output_tokens": 4000}), Reply())
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [add], budget_usd=budget)
    assert caught.value.kind == "budget"
    assert 0.06 < budget.state.spent <= 0.1
    assert len(sim.requests) == 1
    go_on(sim, caught.value, tools=[add])


def test_what_a_tool_asks_is_a_part_of_the_call(sim):
    depths = []

    def inner(context: Context) -> str:
        depths.append((context.depth, context.task_id, context.tool, context.tool_use_id, len(context.budgets)))
        assert context.budget is budget
        return "in"

    def outer(context: Context) -> str:
        depths.append((context.depth, context.task_id, context.tool, context.tool_use_id, len(context.budgets)))
        answers = invoke_parallel([{"prompt": "sub", "task_id": "x"}, {"prompt": "sub"}], max_workers=1)
        nested = invoke_with_tools("deep", [inner])
        assert len(context.attempts) == 4
        return f"{answers[0]} {nested}"

    budget = Budget(5)
    sim.script(asks(use("inner")), Reply(text="deep"), matching="deep")
    sim.script(Reply(text="s"), Reply(text="s"), matching="sub")
    sim.script(asks(use("outer")), Reply(text="out"), matching="top")
    answer = invoke_parallel_managed([{"prompt": "top", "task_id": "t"}], tools=[outer], budget_usd=budget)[0]
    assert depths == [(1, "t", "outer", "toolu_outer_1", 1), (2, None, "inner", "toolu_inner_1", 1)]
    assert [attempt.path for attempt in answer.attempts] == [(), ("x",), ("prompts[1]",), ("outer",), ("outer",), ()]
    assert budget.state.spent == pytest.approx(answer.cost_usd)


def test_what_a_tool_asks_ends_with_the_call(sim):
    token, held = InterruptToken(), threading.Event()

    def outer() -> str:
        return str(invoke_claude("sub"))

    def as_completed_in_it() -> list[str]:
        return [str(answer) for _, answer in as_completed([{"prompt": "sub"}])]

    sim.script(Reply(until=held), matching="sub")
    sim.script(Reply(until=held), matching="sub")
    sim.script(asks(use("outer"), use("as_completed_in_it")), matching="top")
    stopper = threading.Thread(target=lambda: (until(lambda: len(sim.requests) == 3), token.interrupt()))
    stopper.start()
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("top", [outer, as_completed_in_it], interrupt_token=token)
    stopper.join()
    assert caught.value.kind == "interrupted"
    until(lambda: sim.in_flight == 0)
    held.set()


def test_what_a_tool_asks_has_its_deadline(sim):
    kinds = []

    def outer() -> None:
        try:
            invoke_claude("sub")
        except ClaudeInvocationError as late:
            kinds.append(late.kind)
            raise

    held = threading.Event()
    sim.script(Reply(until=held), matching="sub")
    sim.script(asks(use("outer")), matching="top")
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("top", [outer], deadline=0.3)
    assert caught.value.kind == "timeout"
    until(lambda: kinds)
    assert kinds[0] in {"timeout", "interrupted"}  # whichever of its ends it hears of first
    held.set()


def test_no_slot_of_a_limiter_is_held_while_tools_run(sim):
    limiter = ConcurrencyLimiter(global_limit=1)

    def outer() -> str:
        return str(invoke_parallel_managed([{"prompt": "sub"}], concurrency_limiter=limiter)[0])

    sim.script(Reply(text="s"), matching="sub")
    sim.script(asks(use("outer")), Reply(text="out"), matching="top")
    assert invoke_parallel_managed([{"prompt": "top"}], tools=[outer], concurrency_limiter=limiter) == ["out"]


def test_a_journal_keeps_what_a_loop_has_done(sim, tmp_path):
    sim.script(asks(use("add", a=1)), Reply(text="3"))
    first = invoke_parallel_managed([{"prompt": "?"}], tools=[add], journal=tmp_path / "j")[0]
    again = invoke_parallel_managed([{"prompt": "?"}], tools=[add], journal=tmp_path / "j")[0]
    assert len(sim.requests) == 2
    assert again.messages == first.messages
    assert again.tool_calls == first.tool_calls
    assert [attempt.path for attempt in again.attempts] == [(), ()]


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([add, add], "more than one that is named 'add'"),
        ("add", "must be a list"),
        (None, "must be a list"),
        ([1], "must be a function, a Tool or a dict, got 1"),
        ([str], "must be a function, a Tool or a dict"),
        ([print], "the function 'print' cannot be a tool: a model cannot give \\*args"),
        ([lambda x: x], "has letters, digits, _ and -, at most 128, got '<lambda>'"),
    ],
)
def test_what_is_no_tool_is_refused_before_any_request(sim, tools, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_with_tools("?", tools)
    assert not sim.requests


@pytest.mark.parametrize(
    "options",
    [{"max_iterations": 0}, {"max_parallel_tools": 0}, {"on_full": "shrink"}, {"max_context_tokens": 0}],
)
def test_a_bound_that_is_none_is_refused(sim, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        invoke_with_tools("?", [add], **options)
    with pytest.raises(TypeError, match="before_tool"):
        invoke_with_tools("?", [add], before_tool=1)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda: Tool("", "", {"type": "object"}, print), "the name of a tool"),
        (lambda: Tool("x", "", {"type": "object"}, None), "is not callable"),
        (lambda: Tool("x", "", {"type": "string"}, print), "must be that of an object"),
        (lambda: Tool("x", "", {"type": "object", "required": 5}, print), "is no JSON schema"),
        (lambda: tool(add, timeout=0), "the timeout of the tool 'add'"),
        (lambda: tool(3), "must be a function, got a int"),
        (lambda: tool(takes_an_event), "cannot be a tool"),
    ],
)
def test_what_cannot_be_a_tool_says_why(made, problem):
    with pytest.raises(ValueError, match=problem):
        made()


def takes_an_event(lock: threading.Event) -> None:
    """Has a parameter that no schema says."""


def test_a_decorator_says_more_of_a_tool(sim):
    @tool(name="plus", description="Sum.", strict=True, cache_control={"type": "ephemeral"})
    def add_up(numbers: list[int], scale: float = 1.0) -> float:
        return sum(numbers) * scale

    sim.script(asks(use("plus", numbers=[1, 2])), Reply())
    invoke_with_tools("?", [add_up])
    assert told(sim.requests[1]) == ["3.0"]
    said = sim.requests[0].body["tools"][0]
    assert (said["name"], said["description"], said["strict"]) == ("plus", "Sum.", True)
    assert pickle.loads(pickle.dumps(tool(add, timeout=3))).timeout == 3


PNG = b"\x89PNG"


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (None, None),
        ("", None),
        ("text", "text"),
        ({"a": [1]}, '{"a":[1]}'),
        ([1, 2], "[1,2]"),
        ([], "[]"),
        (1.5, "1.5"),
        ({"type": "text", "text": "block"}, [{"type": "text", "text": "block"}]),
        (["a", {"type": "text", "text": "b"}], [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        (b"bytes", "The tool returned what cannot be sent: bytes cannot be sent"),
        ({"x": object()}, "The tool returned what cannot be sent:"),
        (Path("missing.png"), "The tool returned what cannot be sent: the file 'missing.png' cannot be read"),
    ],
)
def test_what_a_tool_returns_is_sent(sim, value, content):
    sim.script(asks(use("get")), Reply())
    invoke_with_tools("?", [tool(lambda: value, name="get")])
    (said,) = told(sim.requests[1])
    assert said.startswith(content) if isinstance(content, str) and isinstance(said, str) else unmarked(said) == content


def unmarked(blocks):
    return [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks] if blocks else blocks


def test_files_are_sent_as_what_they_are(sim, tmp_path):
    files = {"a.png": PNG, "b.pdf": b"%PDF-1.4", "c.txt": b"words"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    sim.script(asks(use("get")), Reply())
    invoke_with_tools("?", [tool(lambda: [tmp_path / name for name in files], name="get")])
    (said,) = told(sim.requests[1])
    assert [block["type"] for block in said] == ["image", "document", "text"]
    assert said[2]["text"] == "words"


def test_a_full_conversation_is_an_error_before_its_request(sim):
    def long() -> str:
        return "x" * 9000

    sim.script(asks(use("long")))
    with pytest.raises(ClaudeInvocationError, match="of 2,000 that it may have") as caught:
        invoke_with_tools("?", [long], max_context_tokens=2000)
    assert caught.value.kind == "context_window"
    assert len(sim.requests) == 1
    go_on(sim, caught.value, tools=[add])


def test_a_full_loop_goes_on_with_a_summary(sim):
    def long() -> str:
        return "x" * 9000

    sim.script(asks(use("long")), Reply(text="It was long."), asks(use("add", a=1)), Reply(text="Done."))
    heard = []
    answer = invoke_with_tools(
        "The task.", [long, add], max_context_tokens=2000, on_full="summarize", callback=heard.append
    )
    assert answer == "Done."
    summing = sim.requests[1].body
    assert "tool_choice" not in summing  # which would have all read anew
    assert "Write down all that is needed" in summing["messages"][-1]["content"][-1]["text"]
    first = [block["text"] for block in sim.requests[2].body["messages"][0]["content"]]
    assert first[0] == "The task."
    assert "It was long." in first[1]
    assert "".join(heard) == "Done."
    assert len(answer.attempts) == 4
    assert [message["role"] for message in answer.messages] == ["user", "assistant", "user", "assistant"]


def test_a_summary_that_is_none_ends_the_call(sim):
    def long() -> str:
        return "x" * 9000

    sim.script(asks(use("long")), Reply(text="It was", fault="max_tokens"))
    with pytest.raises(ClaudeInvocationError, match="no whole summary") as caught:
        invoke_with_tools("?", [long], max_context_tokens=2000, on_full="summarize")
    assert caught.value.kind == "context_window"
    go_on(sim, caught.value, tools=[add])


def test_a_conversation_knows_its_tokens_and_makes_room(sim):
    thread = ConversationThread(max_context_tokens=2000, on_full="summarize", output_config={"effort": "low"})
    assert thread.context_tokens is None
    sim.script(Reply(text="y" * 6000), Reply(text="All of it."), Reply(text="Yes."))
    thread.send("First?")
    assert thread.context_tokens == sum((thread.usage.total_input_tokens, thread.usage.output_tokens))
    thread.send("x" * 3000)
    said = sim.requests[-1].body["messages"]
    assert len(said) == 1
    assert "All of it." in said[0]["content"][0]["text"]
    assert said[0]["content"][1]["text"] == "x" * 3000
    assert thread.turn_count == 2
    assert thread.context_tokens < 2000


@pytest.mark.parametrize("way", ["error", "function", "raises", "answers", "too much"])
def test_a_full_conversation_does_what_it_was_told(sim, way):
    def shorten(messages):
        if way == "raises":
            raise KeyError("x")
        return messages[:2] if way == "answers" else messages if way == "too much" else messages[-1:]

    thread = ConversationThread(max_context_tokens=2000, on_full="error" if way == "error" else shorten)
    sim.script(Reply(text="y" * 6000), Reply(text="Yes."))
    thread.send("First?")
    if way == "function":
        assert thread.send("x" * 3000) == "Yes."
        assert len(thread.get_messages()) == 2
        return
    with pytest.raises(ClaudeInvocationError) as caught:
        thread.send("x" * 3000)
    assert caught.value.kind == ("context_window" if way in {"error", "too much"} else "callback")
    assert len(sim.requests) == 1
    assert thread.turn_count == 1


def test_one_line_of_the_log_tells_that_a_conversation_grows_full(sim, caplog):
    thread = ConversationThread()
    for tokens in (100, 850_000, 900_000):
        sim.script(Reply(usage={"input_tokens": tokens}))
        thread.send("?")
    assert [r.message for r in caplog.records if "of the 1000000 tokens" in r.message] != []
    assert len([r for r in caplog.records if "of the 1000000 tokens" in r.message]) == 1


def test_an_answer_of_the_api_s_that_a_prompt_is_too_long_is_of_that_kind(sim):
    sim.script(Reply(fault="invalid_request", message="prompt is too long: 1100000 tokens > 1000000 maximum"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("?")
    assert caught.value.kind == "context_window"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(
        st.lists(st.sampled_from(["add", "fails", "nope", "bad", "stop"]), min_size=1, max_size=4), max_size=5
    ),
    faults=st.lists(st.sampled_from(["overloaded", "api_error", "pause_turn", None]), max_size=3),
)
def test_each_use_has_one_result_in_its_place_whatever_happens(sim, turns, faults):
    sim.reset()

    def stop() -> None:
        raise StopTools

    inputs = {"add": {"a": 1}, "bad": {"a": "x"}}
    number = itertools.count()
    for turn in turns:
        names = ["add" if name == "bad" else name for name in turn]
        uses = [use(name, next(number), **inputs.get(asked, {})) for name, asked in zip(names, turn, strict=True)]
        sim.script(asks(*uses))
    for fault in faults:
        sim.script(Reply(fault=fault, retry_after=0.001 if fault != "pause_turn" and fault else None))
    try:
        ended = invoke_with_tools("?", [add, fails, tool(stop)], max_iterations=4)
    except ClaudeInvocationError as error:
        ended = error
    assert all(request.status != 400 for request in sim.requests)
    turns_taken = [attempt for attempt in ended.attempts if attempt.outcome == "ok"]
    assert len(turns_taken) <= 4 + faults.count("pause_turn")
    asked, answered = uses_and_results(ended.messages)
    assert asked == answered
    assert asked == [call.tool_use_id for call in ended.tool_calls] or ended.kind == "max_iterations"
    if isinstance(ended, ClaudeInvocationError) and ended.messages:
        go_on(sim, ended, tools=[add])
