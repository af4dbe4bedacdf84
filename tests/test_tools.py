"""Calls that work through tools, by every driver: what ends them, what is left behind, and what the caller is told."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading

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
    Respond,
    StopTools,
    as_completed,
    estimate_cost,
    invoke_claude,
    invoke_parallel,
    invoke_with_tools,
    tool,
)
from claude_client.simulator import Reply
from helpers import until
from orchestration import ConcurrencyLimiter, invoke_batch, invoke_parallel_managed
from scripted_tools import asks, go_on, told, use, uses_and_results

pytestmark = pytest.mark.once

LONG = 20  # seconds after which a test gives up
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def look(n: int) -> str:
    return "seen " * 3000


def fails() -> None:
    raise RuntimeError("no such file")


def in_conversation(prompt, token=None, **options):
    return ConversationThread(**options).send(prompt, interrupt_token=token)


def in_fan_out(prompt, token=None, **options):
    return raised(invoke_parallel([{"prompt": prompt}], return_exceptions=True, interrupt_token=token, **options)[0])


def as_they_come(prompt, token=None, **options):
    return raised(next(answer for _, answer in as_completed([{"prompt": prompt}], interrupt_token=token, **options)))


def managed(prompt, token=None, **options):
    results = invoke_parallel_managed([{"prompt": prompt}], interrupt_token=token, **options)
    return raised(results.errors.get(0) or results[0])


def raised(outcome):
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def directly(prompt, token=None, **options):
    return invoke_with_tools(prompt, interrupt_token=token, **options)


def streamed(prompt, token=None, **options):
    return invoke_with_tools(prompt, interrupt_token=token, callback=lambda _: None, **options)


DRIVERS = [directly, streamed, in_conversation, in_fan_out, as_they_come, managed]
every_driver = pytest.mark.parametrize("ask", DRIVERS)


@every_driver
def test_the_records_of_a_call_are_the_same_by_every_driver(sim, ask):
    sim.script(asks(use("add", a=1), use("fails")), Reply(text="3"))
    answer = ask("?", tools=[add, fails])
    assert answer == "3"
    assert [(call.name, call.outcome) for call in answer.tool_calls] == [("add", "ok"), ("fails", "error")]
    assert [attempt.outcome for attempt in answer.attempts] == ["ok", "ok"]
    assert told(sim.requests[1]) == ["3", "RuntimeError: no such file"]
    assert go_on(sim, answer)


@every_driver
def test_an_interrupt_while_tools_run_ends_the_call_at_once_and_tells_them(sim, ask):
    token, heard, done = InterruptToken(), threading.Event(), threading.Event()

    def waits(context: Context) -> None:
        with context.token.watched_by(heard.set):
            token.interrupt()
            done.wait(LONG)  # it takes no notice

    sim.script(asks(use("add", a=1), use("waits"), use("add", 2, a=1)))
    with pytest.raises(ClaudeInvocationError) as caught:
        ask("?", token, tools=[add, waits], max_parallel_tools=1)
    assert not done.is_set()
    done.set()
    assert caught.value.kind == "interrupted"
    assert heard.is_set()
    assert [call.outcome for call in caught.value.tool_calls] == ["ok", "interrupted", "interrupted"]
    assert caught.value.tool_calls[2].started is None
    assert len(sim.requests) == 1
    assert go_on(sim, caught.value)


@every_driver
def test_an_interrupt_during_a_later_model_call_keeps_what_was_done(sim, ask):
    token, held = InterruptToken(), threading.Event()
    sim.script(asks(use("add", a=1)), Reply(until=held))
    stopper = threading.Thread(target=lambda: (until(lambda: len(sim.requests) == 2), token.interrupt()))
    stopper.start()
    with pytest.raises(ClaudeInvocationError) as caught:
        ask("?", token, tools=[add])
    stopper.join()
    held.set()
    assert caught.value.kind == "interrupted"
    assert [call.outcome for call in caught.value.tool_calls] == ["ok"]
    assert len(sim.requests) == 2
    assert uses_and_results(caught.value.messages) == (["toolu_add_1"], ["toolu_add_1"])
    assert go_on(sim, caught.value)


@pytest.mark.parametrize("ask", [directly, in_conversation, in_fan_out, managed])
def test_a_token_that_was_interrupted_before_sends_nothing(sim, ask):
    token = InterruptToken()
    token.interrupt()
    with pytest.raises(ClaudeInvocationError) as caught:
        ask("?", token, tools=[add])
    assert caught.value.kind == "interrupted"
    assert not sim.requests


@every_driver
def test_what_is_asked_of_a_person_starts_nothing_once_the_call_was_interrupted(sim, ask):
    token, ran = InterruptToken(), []

    def run() -> None:
        ran.append(1)

    sim.script(asks(use("run", 1), use("run", 2)))
    asked = []

    def before(name, arguments):
        asked.append(1)
        token.interrupt()

    with pytest.raises(ClaudeInvocationError) as caught:
        ask("?", token, tools=[run], before_tool=before)
    assert caught.value.kind == "interrupted"
    assert (asked, ran) == ([1], [])
    assert go_on(sim, caught.value)


def test_what_is_asked_of_a_person_starts_nothing_after_the_deadline(sim):
    ran = []

    def run(context: Context) -> None:
        ran.append(context.deadline)

    late = threading.Event()
    sim.script(asks(use("run", 1), use("run", 2)))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [run], deadline=0.3, before_tool=lambda *_: late.wait(0.4) and None)
    assert caught.value.kind == "timeout"
    assert ran == []


@every_driver
def test_a_tool_that_fails_for_good_ends_the_call_and_runs_no_other(sim, ask):
    ran = []

    def breaks() -> None:
        raise OSError("disk is full")

    def run() -> None:
        ran.append(1)

    sim.script(asks(use("breaks"), use("run")))
    with pytest.raises(ClaudeInvocationError, match="The tool 'breaks' ended the call: disk is full") as caught:
        ask("?", tools=[tool(breaks, fatal=True), run], max_parallel_tools=1)
    assert caught.value.kind == "tool"
    assert isinstance(caught.value.__cause__, OSError)
    assert ran == []
    assert [call.outcome for call in caught.value.tool_calls] == ["error", "interrupted"]
    assert go_on(sim, caught.value)


@every_driver
def test_the_bound_of_turns_holds_and_the_tools_of_the_last_are_not_run(sim, ask):
    ran = []

    def run(n: int) -> None:
        ran.append(n)

    sim.script(*[asks(use("run", n, n=n)) for n in range(3)])
    with pytest.raises(ClaudeInvocationError) as caught:
        ask("?", tools=[run], max_iterations=2)
    assert caught.value.kind == "max_iterations"
    assert len(sim.requests) == 2
    assert ran == [0]
    assert go_on(sim, caught.value)


@every_driver
def test_a_budget_that_is_used_up_between_turns_ends_the_call(sim, ask):
    budget = Budget(0.1)  # a request may cost 0.06 at the worst
    sim.script(asks(use("add", a=1), usage={"output_tokens": 4000}))
    with pytest.raises(ClaudeInvocationError) as caught:
        ask("?", tools=[add], budget_usd=budget)
    assert caught.value.kind == "budget"
    assert len(sim.requests) == 1
    assert told_in(caught.value) == ["3"]
    assert budget.state.spent == pytest.approx(caught.value.cost_usd)
    assert go_on(sim, caught.value)


def told_in(ended):
    content = ended.messages[-1]["content"]
    return [block.get("content") for block in content if block["type"] == "tool_result"]


@every_driver
def test_a_tool_that_was_cut_off_is_not_run_and_wants_no_result(sim, ask):
    sim.script(asks(use("add", 1, a=1)), Reply(content=[use("add", 2, a=1), use("add", 3)], stop_reason="max_tokens"))
    answer = ask("?", tools=[add])
    assert answer.truncated
    assert [call.tool_use_id for call in answer.tool_calls] == ["toolu_add_1"]
    assert go_on(sim, answer)


def test_a_conversation_goes_on_after_tools_that_were_cut_off(sim):
    thread = ConversationThread(tools=[add])
    cut = [{"type": "text", "text": "Let me"}, use("add", 1, a=1), use("add", 2)]
    sim.script(Reply(content=cut, stop_reason="max_tokens"), Reply(text="Well."))
    thread.send("?")
    assert thread.send_continuation() == "Well."


def test_a_use_that_the_caller_could_answer_is_kept_where_another_was_cut_off(sim):
    own = {"name": "own", "input_schema": {"type": "object"}}
    sim.script(Reply(content=[use("own"), use("add", 1, a=1), use("add", 2)], stop_reason="max_tokens"), Reply())
    thread = ConversationThread(tools=[add, own])
    thread.send("?")
    thread.send([{"type": "tool_result", "tool_use_id": "toolu_own_1", "content": "so"}])
    assert sim.requests[1].status == 200


def test_a_refusal_after_tools_keeps_what_was_done(sim):
    sim.script(asks(use("add", a=1)), Reply(content=[use("add", 2, a=1)], stop_reason="refusal"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [add])
    assert caught.value.kind == "refusal"
    assert told_in(caught.value) == ["3"]
    assert go_on(sim, caught.value)


def test_ctrl_c_during_the_tools_of_a_fan_out_ends_it(sim):
    token_of_tool, done = [], threading.Event()

    def waits(context: Context) -> None:
        token_of_tool.append(context.token)
        os.kill(os.getpid(), signal.SIGINT)
        done.wait(LONG)

    sim.script(asks(use("waits")))
    with pytest.raises(KeyboardInterrupt):
        invoke_parallel([{"prompt": "?"}], tools=[waits])
    assert token_of_tool[0].is_interrupted()
    done.set()
    assert len(sim.requests) == 1


def test_ctrl_c_in_a_conversation_leaves_it_as_it_was(sim):
    done = threading.Event()

    def waits(context: Context) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        done.wait(LONG)

    thread = ConversationThread(tools=[waits])
    sim.script(asks(use("waits")), Reply(text="Fine."))
    with pytest.raises(KeyboardInterrupt):
        thread.send("?")
    done.set()
    assert thread.get_messages() == []
    assert thread.usage.output_tokens > 0
    assert thread.send("Again?") == "Fine."


def test_results_keep_the_order_of_the_uses_whichever_tool_ends_first(sim):
    last = threading.Event()

    def ends(n: int) -> str:
        assert n or last.wait(LONG)
        if n == 3:
            last.set()
        return f"result {n}"

    sim.script(asks(*[use("ends", n, n=n) for n in range(4)]), Reply())
    answer = invoke_with_tools("?", [ends])
    assert told(sim.requests[1]) == [f"result {n}" for n in range(4)]
    assert [call.tool_use_id for call in answer.tool_calls] == [f"toolu_ends_{n}" for n in range(4)]
    assert answer.tool_calls[0].ended >= answer.tool_calls[3].ended


def test_a_tool_that_takes_too_long_gives_its_place_to_the_next(sim):
    done, late = threading.Event(), []

    def waits(context: Context) -> str:
        context.token.watched_by(lambda: None)
        done.wait(LONG)
        late.append(context.token.is_interrupted())
        return "too late"

    sim.script(asks(use("waits"), use("add", a=1)), Reply(text="So."))
    answer = invoke_with_tools("?", [tool(waits, timeout=0.01), add], max_parallel_tools=1)
    assert told(sim.requests[1]) == ["The tool had not ended after 0.01 seconds.", "3"]
    assert [call.outcome for call in answer.tool_calls] == ["timeout", "ok"]
    done.set()
    until(lambda: late)
    assert late == [True]


def test_what_a_tool_that_took_too_long_has_asked_is_a_part_of_the_call(sim):
    held = threading.Event()

    def outer() -> str:
        return str(invoke_claude("QUESTION"))

    def waits() -> None:
        until(lambda: len(sim.requests) == 2 and sim.in_flight == 0)

    sim.script(Reply(until=held), matching="QUESTION")
    sim.script(asks(use("outer"), use("waits")), asks(use("add", a=1)), Reply(text="So."))
    answer = invoke_with_tools("?", [tool(outer, timeout=0.3), waits, add])
    held.set()
    assert [(attempt.path, attempt.outcome) for attempt in answer.attempts if attempt.path] == [
        (("outer",), "interrupted")
    ]


def test_a_fan_out_in_a_tool_of_a_fan_out_is_seen_as_a_tree(sim):
    def inner() -> str:
        return str(invoke_parallel([{"prompt": "LEAF", "task_id": "leaf"}])[0])

    def outer(context: Context) -> list[str]:
        answers = invoke_parallel([{"prompt": "NODE", "task_id": f"node{n}"} for n in range(2)], tools=[inner])
        assert sorted(call.path for call in context.tool_calls) == [("node0",), ("node1",)]
        return [*answers]

    budget = Budget(5)
    sim.script(Reply(text="leaf"), Reply(text="leaf"), matching="LEAF")
    sim.script(asks(use("inner", 1)), asks(use("inner", 2)), Reply(text="node"), Reply(text="node"), matching="NODE")
    sim.script(asks(use("outer")), Reply(text="root"), matching="ROOT")
    answer = invoke_parallel([{"prompt": "ROOT"}], tools=[outer], budget_usd=budget)[0]
    assert answer == "root"
    assert sorted(attempt.path for attempt in answer.attempts) == [
        (),
        (),
        *[("node0",)] * 2,
        ("node0", "leaf"),
        *[("node1",)] * 2,
        ("node1", "leaf"),
    ]
    assert budget.state.spent == pytest.approx(answer.cost_usd)


def test_the_failure_of_what_a_tool_asks_is_told_to_the_model_and_recorded(sim):
    def outer() -> str:
        return str(invoke_claude("QUESTION", max_retries=0))

    sim.script(Reply(fault="api_error"), matching="QUESTION")
    sim.script(asks(use("outer")), Reply(text="So."), matching="?")
    answer = invoke_with_tools("?", [outer])
    assert "500" in told(sim.requests[2])[0]
    assert [attempt.outcome for attempt in answer.attempts] == ["ok", "server_error", "ok"]


def test_each_tool_that_asks_takes_from_one_budget(sim):
    def outer() -> str:
        return str(invoke_claude("QUESTION"))

    budget = Budget(0.1)
    sim.script(Reply(text="x", usage={"output_tokens": 4000}), matching="QUESTION")
    sim.script(asks(use("outer")), matching="?")
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [outer], budget_usd=budget)
    assert caught.value.kind == "budget"
    assert len(sim.requests) == 2
    assert budget.state.spent == pytest.approx(caught.value.cost_usd)


def test_a_conversation_within_a_tool_is_a_part_of_the_call(sim):
    kept = ConversationThread()

    def outer() -> str:
        return str(kept.send("QUESTION"))

    sim.script(Reply(text="in"), matching="QUESTION")
    sim.script(asks(use("outer")), Reply(text="So."), matching="?")
    answer = invoke_with_tools("?", [outer])
    assert told(sim.requests[2]) == ["in"]
    assert [attempt.path for attempt in answer.attempts] == [(), ("outer",), ()]


@pytest.mark.parametrize("secret_in", ["message", "ToolError", "block", "result", "arguments"])
def test_no_credential_reaches_the_model_by_what_goes_wrong(sim, secret_in):
    from anthropic.lib.tools import ToolError

    secret = os.environ["ANTHROPIC_API_KEY"]

    class Client:
        def __repr__(self) -> str:
            return f"Client({secret})"

    def leaks() -> object:
        if secret_in == "result":
            return Client()
        text = f"refused {secret}"
        error = {"ToolError": ToolError(text), "block": ToolError([{"type": "text", "text": text}])}
        raise error.get(secret_in, ValueError(text))

    sim.script(asks(use("leaks", **({"of": secret} if secret_in == "arguments" else {}))), Reply())
    invoke_with_tools("?", [leaks])
    assert secret not in str(told(sim.requests[1]))


def test_a_key_of_another_gateway_does_not_reach_the_model(sim):
    def leaks() -> None:
        raise ValueError("gateway-password")

    others = [{"model": "claude-sonnet-4-6", "extra_headers": {"x-gateway-key": "gateway-password"}}]
    sim.script(asks(use("leaks")), Reply())
    invoke_with_tools("?", [leaks], fallback_models=others)
    assert told(sim.requests[1]) == ["ValueError: [redacted]"]


def test_an_exception_is_told_by_its_message_alone_and_not_endlessly(sim):
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class ToolError(Exception):  # of somebody else's
        content = (object(),)

    problems = [ValueError("x" * 5000), OddError(), ValueError(), ToolError("mine"), asyncio.CancelledError("x")]

    def breaks(n: int) -> None:
        raise problems[n]

    sim.script(asks(*[use("breaks", n, n=n) for n in range(5)]), Reply())
    invoke_with_tools("?", [breaks])
    said = told(sim.requests[1])
    assert len(said[0]) == 2000
    assert said[1:] == [
        "OddError: a OddError without a message",
        "ValueError",
        "ToolError: mine",
        "CancelledError: x",
    ]


def test_a_tool_that_leaves_the_program_ends_the_call(sim):
    def leaves() -> None:
        raise SystemExit(3)

    sim.script(asks(use("leaves")))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_tools("?", [leaves])
    assert caught.value.kind == "tool"
    assert isinstance(caught.value.__cause__, SystemExit)


def test_an_asynchronous_tool_that_is_cancelled_by_itself_is_a_failure_of_the_tool(sim):
    async def gives_up() -> None:
        raise asyncio.CancelledError

    sim.script(asks(use("gives_up")), Reply(text="So."))
    assert invoke_with_tools("?", [gives_up]) == "So."
    assert told(sim.requests[1]) == ["CancelledError"]


def test_what_is_answered_in_place_of_a_tool_is_sent_as_what_a_tool_returns(sim):
    answers = {1: Respond("text"), 2: Respond([{"type": "text", "text": "block"}]), 3: Respond(b"x"), 4: Respond(None)}
    sim.script(asks(*[use("add", n, a=n) for n in answers]), Reply())
    answer = invoke_with_tools("?", [add], before_tool=lambda _, arguments: answers[arguments["a"]])
    said = told(sim.requests[1])
    assert said[0] == "text"
    assert said[1][0]["text"] == "block"
    assert said[2].startswith("The tool returned what cannot be sent: bytes")
    assert said[3] is None
    assert [call.outcome for call in answer.tool_calls] == ["answered", "answered", "error", "answered"]
    assert {call.started for call in answer.tool_calls} == {None}


def test_arguments_that_were_changed_are_checked_too(sim):
    sim.script(asks(use("add", 1, a=1), use("nope")), Reply())
    asked = []
    answer = invoke_with_tools("?", [add], before_tool=lambda name, _: asked.append(name) or {"a": "x"})
    assert told(sim.requests[1])[0].startswith("The arguments do not fit")
    assert asked == ["add"]  # what is not there is not asked about
    assert [call.outcome for call in answer.tool_calls] == ["error", "error"]


@pytest.mark.parametrize("ask", [directly, in_fan_out])
def test_ctrl_c_where_a_person_is_asked_ends_the_call(sim, ask):
    def before(name, arguments):
        raise KeyboardInterrupt

    sim.script(asks(use("add", a=1)))
    with pytest.raises(KeyboardInterrupt):
        ask("?", tools=[add], before_tool=before)
    assert len(sim.requests) == 1


def test_the_model_in_whose_place_another_is_asked_forces_no_tool_in_a_later_turn(sim):
    sim.script(asks(use("add", a=1)), Reply(fault="not_found"), asks(use("add", 2, a=1)), Reply(text="3"))
    others = {"fallback_models": ["claude-sonnet-4-6"], "tool_choice": {"type": "any"}}
    answer = invoke_with_tools("?", [add], model="claude-opus-5", **others)
    assert [request.body["tool_choice"]["type"] for request in sim.requests] == ["any", "auto", "auto", "auto"]
    assert [attempt.model for attempt in answer.attempts] == ["claude-opus-5"] * 2 + ["claude-sonnet-4-6"] * 2


def test_an_answer_is_mended_by_the_model_that_gave_it(sim):
    sim.script(Reply(fault="not_found"), Reply(text="no"), Reply(text='{"a":1}'))
    options = {"output": OBJECT, "output_retries": 1, "fallback_models": ["claude-sonnet-4-6"]}
    answer = invoke_with_tools("?", [add], model="claude-opus-5", **options)
    assert answer.output == {"a": 1}
    assert [attempt.model for attempt in answer.attempts] == ["claude-opus-5"] + ["claude-sonnet-4-6"] * 2


@every_driver
def test_each_request_reads_all_that_was_sent_before_from_the_cache(sim, ask):
    sim.script(*[asks(*[use("look", 10 * n + i, n=n) for i in range(5)]) for n in range(4)], Reply())
    answer = ask("word " * 3000, tools=[look], system="You look.")
    used = [attempt.usage for attempt in answer.attempts]
    for before, after in itertools.pairwise(used):
        assert after.cache_read_input_tokens == before.cache_read_input_tokens + before.cache_creation_input_tokens > 0
    assert max(str(request.body).count("cache_control") for request in sim.requests) <= 4


def test_an_answer_is_mended_from_the_cache(sim):
    sim.script(asks(use("look", n=1)), Reply(text="no"), asks(use("look", 2, n=2)), Reply(text='{"a":1}'))
    answer = invoke_with_tools("word " * 3000, [look], output=OBJECT, output_retries=1)
    used = [attempt.usage for attempt in answer.attempts]
    assert answer.output == {"a": 1}
    assert used[2].cache_read_input_tokens == used[1].cache_read_input_tokens + used[1].cache_creation_input_tokens
    assert used[3].cache_read_input_tokens >= used[2].cache_read_input_tokens
    assert go_on(sim, answer)


def test_the_model_in_whose_place_another_is_asked_leaves_it_to_write_the_cache(sim):
    sim.script(Reply(fault="not_found"), asks(use("look", n=1)), Reply())
    answer = invoke_with_tools("word " * 3000, [look], model="claude-opus-5", fallback_models=["claude-sonnet-4-6"])
    used = [attempt.usage for attempt in answer.attempts]
    assert used[2].cache_read_input_tokens == used[1].cache_creation_input_tokens > 0


def test_a_pause_in_a_later_turn_counts_as_no_turn(sim):
    pause = Reply(text="Wait. ", fault="pause_turn")
    sim.script(asks(use("add", 1, a=1)), pause, asks(use("add", 2, a=2), text="Now. "), pause, Reply(text="Done."))
    answer = invoke_with_tools("?", [add], max_iterations=3)
    assert answer == "Wait. Done."
    assert len(sim.requests) == 5
    assert uses_and_results(answer.messages) == (["toolu_add_1", "toolu_add_2"],) * 2
    assert go_on(sim, answer)


def test_a_callback_that_raises_ends_the_call_with_what_was_done(sim):
    def stops(chunk):
        if "Done" in chunk:
            raise LookupError("enough")

    sim.script(asks(use("add", a=1), text="First. "), Reply(text="Done now."))
    with pytest.raises(LookupError, match="enough"):
        invoke_with_tools("?", [add], callback=stops)
    assert len(sim.requests) == 2


def test_a_failure_in_a_later_turn_that_has_said_nothing_is_tried_again_though_an_earlier_one_was_heard(sim):
    heard = []
    sim.script(asks(use("add", a=1), text="First. "), Reply(fault="overloaded", retry_after=0.001), Reply(text="Done."))
    assert invoke_with_tools("?", [add], callback=heard.append) == "Done."
    assert "".join(heard) == "First. Done."


def test_a_fan_out_streams_the_texts_of_all_turns_to_their_own_callbacks(sim):
    heard = {0: "", 1: ""}

    def hear(n):
        return lambda chunk: heard.__setitem__(n, heard[n] + chunk)

    for n in heard:
        sim.script(asks(use("add", n, a=n), text=f"Look {n}. "), Reply(text=f"Done {n}."), matching=f"PROMPT {n}")
    prompts = [{"prompt": f"PROMPT {n}", "tools": [add]} for n in heard]
    answers = claude_client.invoke_parallel_streaming(prompts, callbacks=[hear(0), hear(1)])
    assert answers == ["Done 0.", "Done 1."]
    assert heard == {0: "Look 0. Done 0.", 1: "Look 1. Done 1."}


def test_prompts_of_a_fan_out_have_tools_of_their_own_or_none(sim):
    for n in range(3):
        asked = use("add", n, a=n) if n else use("look", n=0)
        sim.script(asks(asked), Reply(text="So."), matching=f"P{n}")
    prompts = [{"prompt": "P0", "tools": [look]}, {"prompt": "P1"}, {"prompt": "P2", "tools": None}]
    answers = invoke_parallel(prompts, tools=[add], return_exceptions=True)
    assert [len(answer.tool_calls) for answer in answers] == [1, 1, 0]
    assert answers[2].stop_reason == "tool_use"


def test_prompts_that_are_equal_are_each_asked_where_they_run_tools(sim):
    sim.script(asks(use("add", 1, a=1)), asks(use("add", 2, a=1)))
    answers = invoke_parallel([{"prompt": "?"}] * 2, tools=[add], share_identical=True, max_workers=1)
    assert len(answers) == 2
    assert len(sim.requests) == 4


def test_a_stop_after_failures_in_a_row_counts_what_tools_have_ended(sim):
    def stop() -> None:
        raise StopTools("no more")

    sim.script(*[asks(use("stop", n)) for n in range(4)])
    options = {"max_workers": 1, "stop_after": 2, "return_exceptions": True}
    answers = invoke_parallel([{"prompt": "?"}] * 4, tools=[stop], **options)
    assert [error.kind for error in answers] == ["tool"] * 4
    assert len(sim.requests) == 2


def test_a_limiter_lets_others_send_while_tools_run(sim):
    limiter = ConcurrencyLimiter(global_limit=1)
    met = threading.Barrier(2)

    def meet() -> None:
        met.wait(LONG)  # both are here at once, with one slot between them

    sim.script(asks(use("meet", 1)), asks(use("meet", 2)))
    options = {"max_workers": 2, "concurrency_limiter": limiter}
    answers = invoke_parallel_managed([{"prompt": "?"}] * 2, tools=[meet], **options)
    assert [len(answer.tool_calls) for answer in answers] == [1, 1]


def test_a_run_that_is_resumed_asks_again_what_its_tools_had_ended(sim, tmp_path):
    fatal = [True]

    def sometimes() -> str:
        if fatal[0]:
            raise StopTools("not yet")
        return "now"

    sim.script(asks(use("sometimes", 1)))
    run = {"journal": tmp_path / "j", "tools": [sometimes]}
    first = invoke_parallel_managed([{"prompt": "?"}], **run)
    assert first.errors[0].kind == "tool"
    fatal.clear()
    fatal.append(False)
    sim.script(asks(use("sometimes", 2)), Reply(text="So."))
    assert invoke_parallel_managed([{"prompt": "?"}], **run) == ["So."]
    assert len(sim.requests) == 3


def test_the_definitions_of_tools_are_a_part_of_the_estimate(sim):
    without = estimate_cost([{"prompt": "?"}])
    with_tools = estimate_cost([{"prompt": "?"}], tools=[add])
    of_prompt = estimate_cost([{"prompt": "?", "tools": [tool(add)]}])
    assert with_tools.usage_low == of_prompt.usage_low
    assert with_tools.usage_low.input_tokens > without.usage_low.input_tokens + 20
    assert {request.path for request in sim.requests} == {"/v1/messages/count_tokens"}


def test_a_batch_of_prompts_with_tools_is_refused_before_any_request(sim):
    results = invoke_batch([{"prompt": "?"}, {"prompt": "?", "tools": []}], tools=[add])
    assert results.errors[0].kind == "invalid_request"
    assert isinstance(results.errors[0].__cause__, ValueError)
    assert "a batch runs no tools" in str(results.errors[0])
    assert results[1] is not None
    bodies = [request.body for request in sim.requests if request.method == "POST" and "requests" in request.body]
    assert [len(body["requests"]) for body in bodies] == [1]


def test_tools_that_are_empty_or_none_make_a_plain_call(sim):
    for tools in ([], None):
        assert invoke_claude("?", tools=tools).tool_calls == ()
    assert invoke_with_tools("?", ()).messages == ()


USES = ["add", "bad", "fails", "nope", "late", "stop", "interrupt"]
FAULTS = ["overloaded", "api_error", "pause_turn", "permission", "max_tokens", "refusal"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(
        st.one_of(st.lists(st.sampled_from(USES), min_size=1, max_size=4), st.sampled_from(FAULTS)), max_size=7
    ),
    ask=st.sampled_from(DRIVERS),
    most=st.integers(1, 4),
    at_once=st.integers(1, 3),
)
def test_bounds_hold_and_each_use_is_answered_once_and_in_order_whatever_happens(sim, script, ask, most, at_once):
    sim.reset()
    token, done = InterruptToken(), threading.Event()
    running, most_running = set(), []

    def add_up(a: int) -> int:
        running.add(threading.get_ident())
        most_running.append(len(running))
        running.discard(threading.get_ident())
        return a

    def late() -> None:
        done.wait(LONG)

    def stop() -> None:
        raise StopTools

    def interrupt() -> None:
        token.interrupt()
        done.wait(LONG)

    arguments = {"add": {"a": 1}, "bad": {"a": "x"}}
    for number, step in enumerate(script):
        if isinstance(step, str):
            text = "Wait." if step == "pause_turn" else None  # else it waits for a search, of which no script tells
            sim.script(Reply(fault=step, text=text, retry_after=0.001 if step in ("overloaded", "api_error") else None))
            continue
        names = ["add_up" if name in arguments else name for name in step]
        uses = [use(name, 10 * number + n, **arguments.get(step[n], {})) for n, name in enumerate(names)]
        sim.script(asks(*uses))
    tools = [add_up, fails, tool(late, timeout=0.005), stop, interrupt]
    try:
        ended = ask("?", token, tools=tools, max_iterations=most, max_parallel_tools=at_once)
    except ClaudeInvocationError as error:
        ended = error
    sent = len(sim.requests)
    done.set()
    assert all(request.status != 400 for request in sim.requests)
    assert max(most_running, default=0) <= at_once
    pauses = script.count("pause_turn")
    assert len([attempt for attempt in ended.attempts if attempt.outcome == "ok"]) <= most + pauses
    asked, answered = uses_and_results(ended.messages)
    assert asked == answered
    ran = [call.tool_use_id for call in ended.tool_calls]
    assert ran == asked[: len(ran)]
    assert len(ran) == len(asked) or ended.kind == "max_iterations"
    if token.is_interrupted():
        assert ended.kind in ("interrupted", "tool")
    assert len(sim.requests) == sent
    if ended.messages:
        assert go_on(sim, ended)
