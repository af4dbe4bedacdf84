"""Agents, the tool that delegates to them, and the small workflows of several agents."""

from __future__ import annotations

import json
import threading
from typing import NamedTuple

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from claude_client import (
    Budget,
    ClaudeInvocationError,
    Context,
    InterruptToken,
    StopTools,
    Tool,
    invoke_parallel,
    invoke_with_tools,
    rate_limits,
    set_default_client,
)
from claude_client.simulator import Reply, Simulator
from helpers import KEY, until
from orchestration import Agent, ConcurrencyLimiter, debate, delegate_tool, map_reduce

pytestmark = pytest.mark.once


def delegating(*tasks, name="delegate"):
    """A turn that delegates *tasks*, each an agent and what it is to do."""
    return Reply(tool_use=(name, {"tasks": [{"agent": agent, "task": task} for agent, task in tasks]}))


def asked(request):
    """What the user said first."""
    content = request.body["messages"][0]["content"]
    return content if isinstance(content, str) else "\n".join(block.get("text", "") for block in content)


def results_in(request):
    """What the last delegation gave, as the model is told it."""
    (block,) = request.body["messages"][-1]["content"]
    return json.loads(block["content"])


def by_turns(turns):
    """A script: for each first message, the replies to the turns of its call. None is the simulated answer."""

    def reply(request):
        turn = len(request.body["messages"]) // 2
        replies = turns.get(asked(request), [])
        return replies[turn] if turn < len(replies) else None

    return reply


def ended_by(call):
    """The answer of *call*, or its error."""
    try:
        return call()
    except ClaudeInvocationError as failed:
        return failed


def settle():
    """Wait until no run has a thread left to send with."""
    until(lambda: not any(thread.name == "claude_client worker" for thread in threading.enumerate()))


class Counted(TypedDict):
    n: int


# An agent.


def test_an_agent_is_asked_as_it_says(sim):
    agent = Agent("You count.", name="counter", model="claude-haiku-4-5-20251001", max_tokens=99, top_k=3)
    assert "How many?" in agent.ask("How many?")
    body = sim.requests[0].body
    said = (body["system"], body["model"], body["max_tokens"], body["top_k"])
    assert said == ("You count.", "claude-haiku-4-5-20251001", 99, 3)
    assert "tools" not in body


def test_a_question_may_say_otherwise_for_itself(sim):
    agent = Agent("You count.", max_tokens=99, output=int)
    sim.script(Reply(text='"seven"'), Reply(text="7"))
    assert agent.ask("How many?", output=str, max_tokens=5).output == "seven"
    assert agent.ask("How many?").output == 7
    assert [request.body["max_tokens"] for request in sim.requests] == [5, 99]


def test_an_agent_streams_to_a_callback(sim):
    heard = []
    answer = Agent().ask("Say it.", callback=heard.append)
    assert "".join(heard) == answer


def test_an_agent_uses_its_tools(sim):
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    sim.script(Reply(tool_use=("add", {"a": 1, "b": 2})), Reply(text="3"))
    assert Agent(tools=[add]).ask("1 + 2?").tool_calls[0].name == "add"


def test_an_agent_without_memory_forgets_and_one_with_it_remembers(sim):
    forgets, remembers = Agent("A"), Agent("B", memory=True)
    for agent in (forgets, remembers):
        agent.ask("First.")
        agent.ask("Second.")
    assert [len(request.body["messages"]) for request in sim.requests] == [1, 1, 1, 3]
    assert forgets.thread is None
    assert remembers.thread.turn_count == 2


def test_a_question_is_ended_by_its_token():
    token = InterruptToken()
    token.interrupt()
    for agent in (Agent(), Agent(memory=True)):
        with pytest.raises(ClaudeInvocationError) as failed:
            agent.ask("Hello", interrupt_token=token)
        assert failed.value.kind == "interrupted"


def test_the_budget_of_an_agent_is_one_for_all_that_it_is_asked(sim):
    agent = Agent(max_tokens=100, budget_usd=0.0019)
    agent.ask("One.")
    with pytest.raises(ClaudeInvocationError) as failed:
        agent.ask("Two.")
    assert failed.value.kind == "budget"
    assert len(sim.requests) == 1


def test_experts_on_one_shared_context_are_one_line(sim):
    experts = [Agent("You look for abuse.", name="security"), Agent("You look for what is slow.", name="speed")]
    reviews = invoke_parallel([expert.prompt("Review.") for expert in experts], shared_system="Some code.")
    assert len(reviews) == 2
    assert [row["task_id"] for row in reviews.to_dicts()] == ["security", "speed"]
    assert all("Some code." in request.text for request in sim.requests)


def test_an_agent_shows_its_name_and_no_more():
    assert repr(Agent("secret", name="reader")) == "<Agent 'reader', claude-sonnet-4-6>"
    assert repr(Agent()) == "<Agent, claude-sonnet-4-6>"
    assert Agent().prompt("Hi") == {**Agent().prompt("Hi")}
    assert "task_id" not in Agent().prompt("Hi")


@pytest.mark.parametrize(
    "bad", [{"max_tokens": 0}, {"name": " "}, {"description": ""}, {"tools": [3]}, {"system": 3}, {"output": dict}]
)
def test_an_agent_that_could_not_be_asked_is_refused(bad):
    with pytest.raises(ValueError):
        Agent(**bad)


def test_an_unknown_option_of_an_agent_is_a_type_error():
    with pytest.raises(TypeError):
        Agent(tols=[])
    with pytest.raises(TypeError):
        Agent(memory=True).ask("Hi", deadline=3.0)


# Delegation.


def test_tasks_are_done_at_once_over_a_shared_context_and_told_in_order(sim):
    sim.script_by(
        by_turns(
            {
                "Go.": [delegating(("reader", "A"), ("writer", "B"), ("reader", "C")), Reply(text="Done.")],
                "A": [Reply(text="a")],
                "B": [Reply(text='{"n": 1}')],
                "C": [Reply(text="c", stop_reason="max_tokens")],
            }
        )
    )
    agents = {
        "reader": Agent("You read.", description="Reads."),
        "writer": Agent("You write.", output=Counted),
    }
    tool = delegate_tool(agents, shared_system="The context.", max_depth=1)
    answer = invoke_with_tools("Go.", [tool])
    assert answer == "Done."
    first, *parts, last = sim.requests
    assert results_in(last) == [
        {"agent": "reader", "task": "A", "answer": "a"},
        {"agent": "writer", "task": "B", "answer": {"n": 1}},
        {"agent": "reader", "task": "C", "answer": "c", "truncated": True},
    ]
    assert {request.body["system"][0]["text"] for request in parts} == {"The context."}
    assert all("cache_control" in request.body["system"][0] for request in parts)
    assert not any("tools" in request.body for request in parts)
    assert {record.path for record in answer.attempts} == {(), ("reader-1",), ("writer-1",), ("reader-2",)}
    assert answer.cost_usd == pytest.approx(sum(record_cost(answer)))
    described = first.body["tools"][0]
    assert "- reader: Reads." in described["description"]
    assert "- writer: writer" in described["description"]
    assert "reader" in json.dumps(described["input_schema"])


def record_cost(answer):
    from claude_client._values.record import cost_of_attempts

    return [cost_of_attempts([record]) for record in answer.attempts]


def test_a_failed_task_is_told_and_ends_nothing(sim):
    sim.script_by(
        by_turns(
            {
                "Go.": [delegating(("reader", "A"), ("reader", "B"), ("reader", " ")), Reply(text="Done.")],
                "A": [Reply(text="half", fault="refusal")],
            }
        )
    )
    answer = invoke_with_tools("Go.", [delegate_tool({"reader": Agent()}, max_retries=0)])
    refused, answered, blank = results_in(sim.requests[-1])
    assert refused["error"]["kind"] == "refusal"
    assert refused["partial_text"] == "half"
    assert "answer" in answered
    assert blank["error"]["kind"] == "invalid_request"
    assert "partial_text" not in blank
    assert answer == "Done."


def test_a_failed_task_shows_no_secret(sim):
    def stop() -> None:
        """Stop."""
        raise StopTools(f"The key is {KEY}")

    sim.script_by(
        by_turns({"Go.": [delegating(("reader", "A")), Reply(text="Done.")], "A": [Reply(tool_use=("stop", {}))]})
    )
    invoke_with_tools("Go.", [delegate_tool({"reader": Agent(tools=[stop])})])
    (failed,) = results_in(sim.requests[-1])
    assert failed["error"]["kind"] == "tool"
    assert "[redacted]" in failed["error"]["message"]
    assert KEY not in str([request.body for request in sim.requests])


def test_agents_delegate_up_to_the_depth(sim):
    sim.script_by(
        by_turns(
            {
                "Go.": [delegating(("lead", "A"), ("lead", "B"))],
                "A": [delegating(("lead", "A1"), ("lead", "A2"))],
                "A1": [delegating(("lead", "too deep"))],
            }
        )
    )
    answer = invoke_with_tools("Go.", [delegate_tool({"lead": Agent()}, max_depth=2)])
    has_tool = {asked(request): "tools" in request.body for request in sim.requests}
    assert has_tool == {"Go.": True, "A": True, "B": True, "A1": False, "A2": False}
    paths = {record.path for record in answer.attempts}
    assert paths == {(), ("lead-1",), ("lead-2",), ("lead-1", "lead-3"), ("lead-1", "lead-4")}


def test_where_depth_is_used_up_from_above_the_model_is_told(sim):
    inner = delegate_tool({"reader": Agent()}, max_depth=1)

    def outer() -> str:
        """Ask."""
        return invoke_with_tools("Inside.", [inner])

    sim.script_by(
        by_turns({"Go.": [Reply(tool_use=("outer", {}))], "Inside.": [delegating(("reader", "A")), Reply(text="I.")]})
    )
    invoke_with_tools("Go.", [outer])
    refused = next(r for r in sim.requests if asked(r) == "Inside." and len(r.body["messages"]) == 3)
    (block,) = refused.body["messages"][-1]["content"]
    assert block["is_error"]
    assert "max_depth" in block["content"]
    assert "A" not in map(asked, sim.requests)


def test_more_tasks_than_are_left_in_the_whole_tree_are_refused_before_any_is_begun(sim):
    sim.script_by(
        by_turns(
            {
                "Go.": [delegating(("lead", "A"), ("lead", "B")), delegating(("lead", "C")), Reply(text="Done.")],
                "A": [delegating(("lead", "A1"), ("lead", "A2")), delegating(("lead", "A3")), Reply(text="a")],
            }
        )
    )
    tool = delegate_tool({"lead": Agent()}, max_tasks=3)
    for _ in range(2):  # each call has its own
        sim.requests_before = len(sim.requests) if hasattr(sim, "requests_before") else 0
        invoke_with_tools("Go.", [tool])
        seen = sim.requests[sim.requests_before :]
        assert [asked(r) for r in seen if asked(r) in {"A1", "A2", "A3", "C"}] == ["A3"]
        told = [
            b["content"]
            for r in seen
            for b in r.body["messages"][-1]["content"]
            if isinstance(b, dict) and b.get("is_error")
        ]
        assert len(told) == 2
        assert "1 are left of 3" in told[0]
        assert "Ask for fewer." in told[0]
        assert "0 are left of 3" in told[1]


def test_no_tasks_and_unknown_agents_are_told_to_the_model(sim):
    sim.script_by(by_turns({"Go.": [delegating(), delegating(("nobody", "A")), Reply(text="Done.")]}))
    invoke_with_tools("Go.", [delegate_tool({"reader": Agent(), "writer": Agent()})])
    told = [request.body["messages"][-1]["content"][0]["content"] for request in sim.requests[1:]]
    assert "no tasks" in told[0]
    assert "'reader' or 'writer'" in told[1]


def test_an_agent_that_can_delegate_already_keeps_its_own_tool(sim):
    own = delegate_tool({"helper": Agent()}, name="delegate")
    tool = delegate_tool(
        {"lead": Agent(tools=[own]), "reader": Agent(tools=[{"type": "web_search_20250305", "name": "web_search"}])}
    )
    sim.script_by(by_turns({"Go.": [delegating(("lead", "A"), ("reader", "B"))]}))
    invoke_with_tools("Go.", [tool])
    named = {asked(r): [one["name"] for one in r.body["tools"]] for r in sim.requests}
    assert named["A"] == ["delegate"]
    assert named["B"] == ["web_search", "delegate"]
    lead = next(r for r in sim.requests if asked(r) == "A")
    assert "helper" in json.dumps(lead.body["tools"])


@pytest.mark.parametrize(
    "bad",
    [
        {"agents": {}},
        {"agents": {"a": 3}},
        {"agents": {"a": Agent(memory=True)}},
        {"agents": [Agent()]},
        {"agents": [Agent(name="a"), Agent(name="a")]},
        {"max_depth": 0},
        {"max_tasks": 0},
        {"max_workers": 0},
        {"max_retries": -1},
        {"stall_timeout": 0},
        {"shared_system": 3},
        {"name": ""},
        {"shared_system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}] * 5},
    ],
)
def test_a_tool_that_could_not_delegate_is_refused(bad):
    with pytest.raises(ValueError):
        delegate_tool(**{"agents": {"reader": Agent()}, **bad})


def test_what_is_no_limiter_is_a_type_error():
    with pytest.raises(TypeError):
        delegate_tool({"reader": Agent()}, concurrency_limiter=3)


def test_the_tool_describes_itself_in_other_words_if_told_to():
    tool = delegate_tool({"reader": Agent(description="Reads.")}, name="ask", description="Ask people.")
    assert isinstance(tool, Tool)
    assert (tool.name, tool.description) == ("ask", "Ask people.\n- reader: Reads.")


def test_a_context_that_is_made_by_hand_is_a_tree_of_its_own(sim):
    tool = delegate_tool({"reader": Agent()}, max_tasks=1)
    for number in range(2):
        context = Context(tool="delegate", tool_use_id=str(number))
        (told,) = tool.call(context, {"tasks": [{"agent": "reader", "task": "A"}]})
        assert "answer" in told


# One budget, deadline, token and gate for all.


def test_a_tree_is_paid_from_one_budget_and_never_spends_more(sim):
    sim.script_by(
        by_turns(
            {
                "Go.": [delegating(*[("lead", f"part {n}") for n in range(6)])],
                **{f"part {n}": [delegating(("lead", f"piece {n}"))] for n in range(6)},
            }
        )
    )
    budget = Budget(0.025)
    tool = delegate_tool({"lead": Agent(max_tokens=200)}, max_retries=0)
    ended = ended_by(lambda: invoke_with_tools("Go.", [tool], max_tokens=200, budget_usd=budget))
    assert getattr(ended, "kind", "budget") == "budget"
    assert len(sim.requests) < 1 + 2 * 6 + 6 + 1
    assert ended.cost_usd == pytest.approx(budget.state.spent)
    assert budget.state.spent <= 0.025
    assert budget.state.reserved == 0


def test_a_tree_keeps_the_deadline_of_the_call(sim):
    never = threading.Event()
    sim.script_by(
        by_turns(
            {
                "Go.": [delegating(("lead", "A"))],
                "A": [delegating(("lead", "B"))],
                "B": [Reply(until=never)],
            }
        )
    )
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_with_tools("Go.", [delegate_tool({"lead": Agent()})], deadline=0.5)
    assert failed.value.kind == "timeout"
    settle()
    assert [asked(request) for request in sim.requests] in (["Go."], ["Go.", "A"], ["Go.", "A", "B"])
    never.set()


def test_an_interrupt_ends_all_levels_and_nothing_is_sent_after_it(sim):
    held, token, ended = threading.Event(), InterruptToken(), []
    leads = [("lead", f"part {n}") for n in range(3)]
    sim.script_by(
        by_turns(
            {
                "Go.": [delegating(*leads)],
                **{task: [delegating(("lead", f"{task} a"), ("lead", f"{task} b"))] for _, task in leads},
                **{f"{task} {letter}": [Reply(until=held)] for _, task in leads for letter in "ab"},
            }
        )
    )

    def call():
        with pytest.raises(ClaudeInvocationError) as failed:
            invoke_with_tools("Go.", [delegate_tool({"lead": Agent()})], interrupt_token=token)
        ended.append(failed.value)

    thread = threading.Thread(target=call)
    thread.start()
    sim.wait_for(lambda sim: sim.in_flight == 6)
    token.interrupt()
    before = len(sim.requests)
    held.set()
    thread.join()
    settle()
    assert ended[0].kind == "interrupted"
    assert before == len(sim.requests) == 1 + 3 + 6


def test_all_levels_pass_the_one_rate_gate_of_the_process(sim):
    sim.script(Reply(fault="rate_limit", retry_after=0.01), matching="the first piece")
    sim.script_by(
        by_turns({"Go.": [delegating(("lead", "A"))], "A": [delegating(("lead", "the first piece"), ("lead", "B"))]})
    )
    answer = invoke_with_tools("Go.", [delegate_tool({"lead": Agent()})])
    (limit,) = rate_limits()
    assert (limit.admitted, limit.rejected) == (len(sim.requests), 1)
    assert [record.outcome for record in answer.attempts].count("rate_limit") == 1


def test_a_limiter_bounds_what_the_whole_tree_asks_at_once(sim):
    turns = {"Go.": [delegating(*[("lead", f"part {n}") for n in range(4)])]}
    turns |= {f"part {n}": [delegating(("lead", f"{n} a"), ("lead", f"{n} b"))] for n in range(4)}
    sim.script_by(by_turns(turns))
    limiter = ConcurrencyLimiter(8, {"lead": 2})
    answer = invoke_with_tools("Go.", [delegate_tool({"lead": Agent()}, concurrency_limiter=limiter)])
    assert len(answer.attempts) == 2 + 2 * 4 + 8
    assert sim.peak_concurrency <= 2


# Any tree.


class Node(NamedTuple):
    """A task: the parts that it delegates, and how its first or last turn fails."""

    parts: tuple
    fault: str | None = None

    def replies(self, name):
        """The turns of each call of this tree, by their first messages."""
        parts = [f"{name}.{number}" for number in range(len(self.parts))]
        turns = [delegating(*[("lead", part) for part in parts])] if parts else []
        found = {name: [*turns, Reply(fault=self.fault)]}
        for part, node in zip(parts, self.parts, strict=True):
            found |= node.replies(part)
        return found


faults = st.sampled_from([None, None, None, "refusal", "max_tokens", "early_end", "context_window", "permission"])
nodes = st.recursive(
    st.builds(Node, st.just(()), faults),
    lambda parts: st.builds(Node, st.lists(parts, max_size=3).map(tuple), faults),
    max_leaves=12,
)


def test_whatever_a_tree_does_it_keeps_its_bounds(sim):
    @given(
        st.lists(nodes, min_size=1, max_size=3).map(tuple),
        st.integers(1, 3),
        st.integers(1, 12),
        st.sampled_from([None, 0.004, 0.02]),
        st.integers(1, 5),
    )
    def holds(parts, max_depth, max_tasks, usd, workers):
        sim.reset()
        sim.script_by(by_turns(Node(parts).replies("t")))
        budget = None if usd is None else Budget(usd)
        agents = {"lead": Agent(max_tokens=100)}
        tool = delegate_tool(
            agents,
            max_depth=max_depth,
            max_tasks=max_tasks,
            max_workers=workers,
            max_retries=0,
            cache_shared_system=False,
        )
        ended = ended_by(lambda: invoke_with_tools("t", [tool], max_tokens=100, max_retries=0, budget_usd=budget))
        names = [asked(request) for request in sim.requests]
        assert all(name.count(".") <= max_depth for name in names)
        assert len({*names} - {"t"}) <= max_tasks
        assert all(request.status != 400 for request in sim.requests)
        assert len(ended.attempts) == len(names)
        assert all(len(record.path) == name_depth for record, name_depth in depths(ended, names))
        if budget:
            assert budget.state.spent + budget.state.reserved <= usd  # something stays reserved for answers that broke
            assert ended.cost_usd == pytest.approx(budget.state.spent)

    holds()


def depths(ended, names):
    """Each attempt, with the depth of a request, both in the order of their depths."""
    return zip(sorted(ended.attempts, key=lambda one: len(one.path)), sorted(n.count(".") for n in names), strict=True)


def test_wherever_a_tree_is_interrupted_no_request_begins_afterwards(sim):
    @given(st.lists(nodes, min_size=1, max_size=3).map(tuple), st.integers(1, 10))
    def holds(parts, last):
        sim.reset()
        token, turns = InterruptToken(), by_turns(Node(parts).replies("t"))

        def reply(request):
            if len(sim.requests) >= last:
                token.interrupt()
            return turns(request)

        sim.script_by(reply)
        tool = delegate_tool({"lead": Agent()}, max_workers=1, max_retries=0)
        ended = ended_by(lambda: invoke_with_tools("t", [tool], max_retries=0, interrupt_token=token))
        settle()
        assert len(sim.requests) <= last
        assert all(request.status != 400 for request in sim.requests)
        if token.is_interrupted():
            assert ended.kind == "interrupted"
            assert len(sim.requests) == last
        if isinstance(ended, ClaudeInvocationError) and ended.messages:
            sim.script_by(lambda _: Reply(text="Done."))  # the history can be gone on with
            assert invoke_with_tools(None, [tool], messages=ended.messages) == "Done."

    holds()


# A debate.


def test_in_a_debate_all_see_what_each_has_said_last_and_the_judge_sees_it_all(sim):
    agents = {"pro": Agent("You are for it."), "con": Agent("You are against it.")}
    said = {("for", 1): "Yes.", ("for", 2): "Still yes.", ("against", 1): "No.", ("against", 2): "Rather no."}

    def reply(request):
        side = "against" if "against it" in request.text else "for"
        if "You judge." in request.text:
            return Reply(text="It depends.")
        return Reply(text=said[side, 2 if "round 2" in request.text else 1])

    sim.script_by(reply)
    debated = debate(agents, "Is it so?", judge=Agent("You judge."), shared_system="The rules.")
    assert debated.names == ("pro", "con")
    assert [[*answers] for answers in debated.rounds] == [["Yes.", "No."], ["Still yes.", "Rather no."]]
    assert debated.answers == {"pro": "Still yes.", "con": "Rather no."}
    assert debated.verdict == "It depends."
    second, last = sim.requests[2].text, sim.requests[-1].text
    assert all(answer in second for answer in ("Is it so?", "Yes.", "No."))
    assert all(answer in last for answer in said.values())
    assert all("The rules." in request.text for request in sim.requests)
    assert len(debated.results) == 3
    assert debated.usage.output_tokens == sum(results.usage.output_tokens for results in debated.results)
    assert debated.cost_usd == pytest.approx(sum(results.cost_usd for results in debated.results))


def test_an_agent_that_fails_in_a_round_is_heard_in_the_next(sim):
    sim.script(Reply(fault="refusal"), matching="You are shy.")
    debated = debate([Agent("You are shy.", name="shy"), Agent(name="loud")], "Is it so?")
    assert debated.rounds[0].errors[0].kind == "refusal"
    assert debated.rounds[1][0] is not None
    assert debated.verdict is None
    assert debated.judged is None


def test_a_debate_in_which_nobody_answers_is_over(sim):
    sim.script_by(lambda _: Reply(fault="refusal"))
    debated = debate({"a": Agent(), "b": Agent()}, "Is it so?", judge=Agent())
    assert len(debated.rounds) == 1
    assert len(sim.requests) == 2
    assert debated.answers == {}


def test_an_interrupted_debate_has_what_was_said_and_no_verdict(sim):
    token = InterruptToken()
    ended = debate(
        {"a": Agent(), "b": Agent()},
        "Is it so?",
        judge=Agent(),
        interrupt_token=token,
        max_workers=1,
        on_result=lambda *_: token.interrupt(),
    )
    assert len(ended.rounds) == 1
    assert ended.rounds[0].interrupted
    assert ended.rounds[0][0] is not None
    assert ended.verdict is None


def test_a_judge_that_fails_is_told(sim):
    sim.script(Reply(fault="refusal"), matching="You judge.")
    debated = debate({"a": Agent()}, "Is it so?", rounds=1, judge=Agent("You judge."))
    assert debated.verdict is None
    assert debated.judged.errors[0].kind == "refusal"


def test_a_debate_that_is_held_again_with_its_journal_asks_nothing(sim, tmp_path):
    for _ in range(2):
        debated = debate({"a": Agent(), "b": Agent()}, "So?", judge=Agent(), journal=tmp_path / "debate.journal")
    assert len(sim.requests) == 5
    assert debated.verdict


def test_the_budget_of_a_debate_is_one_for_all_rounds(sim):
    agent = Agent(max_tokens=100)
    debated = debate({"a": agent}, "So?", rounds=5, budget_usd=0.0025)
    assert debated.rounds[-1].out_of_budget
    assert len(debated.rounds) > 1
    assert debated.cost_usd <= 0.0025


def test_a_price_that_is_not_known_makes_that_of_the_whole_unknown():
    with Simulator(models=["nobody-1"]) as sim:
        agents = {"a": Agent(model="nobody-1", extra_headers={"x-a": "b"})}
        with anthropic.Anthropic(api_key=KEY, base_url=sim.base_url) as client:
            set_default_client(client)
            assert debate(agents, "So?", rounds=1).cost_usd is None


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"topic": " "}, {"agents": []}, {"judge": Agent(memory=True)}])
def test_a_debate_that_cannot_be_held_is_refused(bad):
    with pytest.raises(ValueError):
        debate(**{"agents": {"a": Agent()}, "topic": "So?", **bad})


# A question to many documents.


def test_the_answers_of_all_documents_become_one_level_by_level(sim):
    documents = (f"text {n}" for n in range(7))
    done = map_reduce(documents, "What is in it?", fan_in=3, reader=Agent("You read."), reducer=Agent("You merge."))
    assert [len(results) for results in done.results] == [7, 3, 1]
    assert done.answer == done.reduced[-1][0]
    assert done.failed == {}
    first = next(request.text for request in sim.requests if "text 0" in request.text)
    assert first.index("text 0") < first.index("What is in it?")
    assert [row["task_id"] for row in done.mapped.to_dicts()][:2] == ["document-1", "document-2"]
    assert [row["task_id"] for row in done.reduced[0].to_dicts()] == ["level-1-1", "level-1-2", "level-1-3"]
    assert "could not be read" not in sim.requests[-1].text
    assert ["You merge." in request.text for request in sim.requests] == [False] * 7 + [True] * 4


def test_an_answer_that_is_left_over_is_not_reduced_alone(sim):
    done = map_reduce(["a", "b", "c"], "What?", fan_in=2)
    assert [len(results) for results in done.results] == [3, 1, 1]
    assert done.answer is not None


def test_the_answer_of_a_single_document_is_the_answer(sim):
    done = map_reduce([[{"type": "text", "text": "One."}]], "What?")
    assert done.answer == done.mapped[0]
    assert done.reduced == ()


def test_documents_that_fail_are_told_to_the_caller_and_to_the_model(sim):
    sim.script(Reply(fault="refusal"), matching="bad text")
    done = map_reduce(["a", "bad text", "c"], "What?")
    assert {index: error.kind for index, error in done.failed.items()} == {1: "refusal"}
    assert "1 of 3 documents could not be read" in sim.requests[-1].text
    assert done.answer is not None


def test_where_all_documents_fail_there_is_no_answer(sim):
    sim.script_by(lambda _: Reply(fault="refusal"))
    done = map_reduce(["a", "b"], "What?")
    assert done.answer is None
    assert len(done.failed) == 2


def test_a_reduction_that_fails_loses_nothing_and_is_gone_on_with_by_the_journal(sim, tmp_path):
    sim.script(Reply(fault="invalid_request"), matching="merge them")
    for expected in (None, 1):
        done = map_reduce(["a", "b"], "What?", "merge them", journal=tmp_path / "documents.journal")
        assert (done.answer is None) == (expected is None)
        assert None not in done.mapped
    assert len(sim.requests) == 2 + 1 + 1


def test_an_interrupted_question_has_the_answers_so_far_and_no_answer(sim):
    token = InterruptToken()
    done = map_reduce(
        ["a", "b", "c"], "What?", max_workers=1, interrupt_token=token, on_result=lambda *_: token.interrupt()
    )
    assert done.answer is None
    assert done.mapped[0] is not None
    assert done.reduced == ()


@pytest.mark.parametrize(
    "bad",
    [
        *[{"documents": documents} for documents in ("a text", 3, [], [None])],
        *[{"question": ""}, {"reduce": " "}, {"fan_in": 1}],
        *[{"reader": Agent(memory=True)}, {"reducer": Agent(memory=True)}, {"reader": 3}],
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(bad, sim):
    with pytest.raises(ValueError):
        map_reduce(**{"documents": ["a", "b"], "question": "What?", **bad})
    assert not sim.requests
