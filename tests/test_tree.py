"""What was done for a prompt, as a tree: of calls in tools of calls in tools, and of records that are made by hand."""

import pickle
import re
import sys
import threading

import pytest

from claude_client import (
    ClaudeInvocationError,
    ClaudeResponse,
    Results,
    StopTools,
    Tree,
    Usage,
    invoke_claude,
    invoke_parallel,
    invoke_with_tools,
    tool,
)
from claude_client._values.record import AttemptRecord, ToolRecord, made_again
from claude_client._values.tasks import task_of
from claude_client.simulator import Reply
from helpers import Page
from orchestration import invoke_parallel_managed

pytestmark = pytest.mark.once

OVERLOADED = Reply(fault="overloaded", retry_after=0.001)


def asking(name, *inputs, after="toolu"):
    """An answer that asks for a tool with each of *inputs*."""
    uses = [
        {"type": "tool_use", "id": f"{after}_{name}_{number}", "name": name, "input": arguments}
        for number, arguments in enumerate(inputs)
    ]
    return Reply(content=uses, stop_reason="tool_use")


def by_prompt(*asked):
    """For `script_by`: with what a prompt is answered first, by a word of it; once there are results, a text."""

    def reply(request):
        first, *more = request.body["messages"]
        said = str(first["content"])
        return next((answer for prompt, answer in asked if prompt in said and not more), Reply(text="done"))

    return reply


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return " ".join(invoke_parallel([{"prompt": f"{word} {n}", "task_id": f"{word}-{n}"} for n in range(2)]))


@tool
def research(topic: str) -> str:
    """Look into a topic."""
    return invoke_with_tools(f"look into {topic}", [look_up], task_id=f"research {topic}")


THREE_LEVELS = by_prompt(
    ("survey", asking("research", {"topic": "ants"}, {"topic": "bees"})),
    ("look into ants", asking("look_up", {"word": "anthill"})),
    ("look into bees", asking("look_up", {"word": "hive"})),
)


def shape(tree):
    """Its lines, without what differs from run to run."""
    lines = str(tree).splitlines()
    return [re.sub(r"( · ([\d.]+ (ms|s|min)|[\d,]+ in, [\d,]+ out|\$[\d.]+))+$", "", line) for line in lines]


ANTS = [
    "tool research: ok · 4 requests",
    "└─ research ants: ok · 4 requests",
    "   ├─ claude-sonnet-4-6: ok",
    "   ├─ tool look_up: ok · 2 requests",
    "   │  ├─ anthill-0: ok · claude-sonnet-4-6",
    "   │  └─ anthill-1: ok · claude-sonnet-4-6",
    "   └─ claude-sonnet-4-6: ok",
]
BEES = [line.replace("ants", "bees").replace("anthill", "hive") for line in ANTS]


def branch(lines, stem="│  "):
    return [f"├─ {lines[0]}", *(stem + line for line in lines[1:])]


def without_times(lines):
    return [re.sub(r"(: \w+) · [\d.]+ (ms|s)(?= · \d+ request)", r"\1", line) for line in lines]


def in_order_of_names(lines):
    """*lines*, as what was asked at once may have begun in any order."""
    return [re.sub(r"(anthill|hive)-\d", r"\1-?", line) for line in lines]


def test_turns_tools_and_what_they_asked_stand_below_one_another(sim):
    sim.script_by(THREE_LEVELS)
    answer = invoke_with_tools("survey", [research])
    expected = [
        "The call: ok · 10 requests",
        "├─ claude-sonnet-4-6: ok",
        *branch(ANTS),
        *branch(BEES),
        "└─ claude-sonnet-4-6: ok",
    ]
    assert in_order_of_names(without_times(shape(answer.tree()))) == in_order_of_names(expected)
    assert len(sim.requests) == len(answer.attempts) == 10


@pytest.mark.parametrize("run", [invoke_parallel, invoke_parallel_managed])
def test_a_run_is_the_tree_of_its_prompts(sim, run):
    sim.script_by(THREE_LEVELS)
    asked = [{"prompt": "survey", "task_id": "first", "tools": [research]}, {"prompt": "plain"}]
    tree = without_times(shape(run(asked, max_workers=1).tree()))
    assert tree[:3] == [
        "The run · 2 prompts · 11 requests",
        "├─ first: ok · 10 requests",
        "│  ├─ claude-sonnet-4-6: ok",
    ]
    assert tree[-1] == "└─ prompts[1]: ok · claude-sonnet-4-6"


def test_the_records_say_which_use_of_which_tool_had_a_request_made(sim):
    sim.script_by(THREE_LEVELS)
    answer = pickle.loads(pickle.dumps(invoke_with_tools("survey", [research])))
    made = {(attempt.path, attempt.tool_use_ids) for attempt in answer.attempts}
    assert made == {
        ((), ()),
        (("research ants",), ("toolu_research_0",)),
        (("research ants", "anthill-0"), ("toolu_research_0", "toolu_look_up_0")),
        (("research ants", "anthill-1"), ("toolu_research_0", "toolu_look_up_0")),
        (("research bees",), ("toolu_research_1",)),
        (("research bees", "hive-0"), ("toolu_research_1", "toolu_look_up_0")),
        (("research bees", "hive-1"), ("toolu_research_1", "toolu_look_up_0")),
    }
    calls = [(call.name, call.path, call.tool_use_ids) for call in answer.tool_calls]
    assert calls == [
        ("research", (), ()),
        ("look_up", ("research ants",), ("toolu_research_0",)),
        ("research", (), ()),
        ("look_up", ("research bees",), ("toolu_research_1",)),
    ]


def test_the_tree_of_an_answer_that_a_journal_had_is_the_same(sim, tmp_path):
    sim.script_by(THREE_LEVELS)
    asked = [{"prompt": "survey", "task_id": "first", "tools": [research]}]
    first, second = (invoke_parallel_managed(asked, journal=tmp_path / "run.db") for _ in range(2))
    assert second.recalled == {0}
    assert str(second.tree()) == str(first.tree())
    assert without_times(shape(second.tree()))[1] == "└─ first: ok · 10 requests"


def test_a_call_that_a_tool_ended_shows_how_far_it_had_come(sim):
    def give_up() -> None:
        """Give up."""
        invoke_claude("is there a way?", task_id="last try")
        raise StopTools("there is none")

    sim.script_by(by_prompt(("survey", asking("give_up", {}))))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_with_tools("survey", [give_up])
    assert without_times(shape(failed.value.tree())) == [
        "The call: tool · 2 requests",
        "├─ claude-sonnet-4-6: ok",
        "└─ tool give_up: error · 1 request",
        "   └─ last try: ok · claude-sonnet-4-6",
    ]


def test_the_error_of_a_run_has_what_its_first_failed_prompt_had_done(sim):
    def give_up() -> None:
        """Give up."""
        raise StopTools("there is no way")

    sim.script_by(by_prompt(("survey", asking("give_up", {}))))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_parallel([{"prompt": "survey", "tools": [give_up]}])
    assert shape(failed.value.tree())[-1] == "└─ tool give_up: error"
    assert len(failed.value.messages) == 3


def test_a_tool_that_was_not_run_has_no_time_and_stands_after_the_turn_that_asked_for_it(sim):
    sim.script(asking("look_up", {"word": "a"}, after="one"), asking("look_up", {"word": "b"}, after="two"), Reply())
    answer = invoke_with_tools("survey", [look_up], before_tool=lambda *_: False)
    assert shape(answer.tree()) == [
        "The call: ok · 3 requests",
        "├─ claude-sonnet-4-6: ok",
        "├─ tool look_up: refused",
        "├─ claude-sonnet-4-6: ok",
        "├─ tool look_up: refused",
        "└─ claude-sonnet-4-6: ok",
    ]
    assert [call.took for call in answer.tool_calls] == [None, None]


def test_tools_of_one_name_that_ask_at_once_keep_their_requests_apart(sim):
    both = threading.Barrier(2)

    def ask(word: str) -> str:
        """Ask."""
        both.wait(10)
        return invoke_claude(word)

    sim.script_by(by_prompt(("survey", asking("ask", {"word": "a"}, {"word": "b"}))))
    answer = invoke_with_tools("survey", [ask])
    assert (
        without_times(shape(answer.tree()))[2:6]
        == [
            "├─ tool ask: ok · 1 request",
            "│  └─ ask: ok · claude-sonnet-4-6",
        ]
        * 2
    )


# Of records by hand.


def record(queued=0.0, ended=1.0, outcome="ok", output_tokens=5, **more):
    usage = Usage(input_tokens=10, output_tokens=output_tokens)
    return AttemptRecord("claude-sonnet-4-6", usage, outcome, queued=queued, sent=queued, ended=ended, **more)


def answer_of(*attempts, tool_calls=()):
    answer = ClaudeResponse("x")
    answer.attempts, answer.tool_calls = attempts, tool_calls
    return answer


def test_each_line_has_the_sums_of_what_is_below_it(monkeypatch):
    below = {"path": ("task",), "tool_use_ids": ("t",)}
    attempts = [record(), record(2.0, 3.0, output_tokens=1000, **below), record(4.0, 5.5)]
    calls = [ToolRecord("work", "t", 1.5, 3.5, "ok", 1.0)]
    answer = answer_of(*attempts, tool_calls=calls)
    pytest.importorskip("genai_prices")
    assert str(answer.tree()).splitlines() == [
        "The call: ok · 3 requests · 30 in, 1,010 out · $0.0152",
        "├─ claude-sonnet-4-6: ok · 1 s · 10 in, 5 out · $0.000105",
        "├─ tool work: ok · 2 s · 1 request · 10 in, 1,000 out · $0.0150",
        "│  └─ task: ok · claude-sonnet-4-6 · 1 s · 10 in, 1,000 out · $0.0150",
        "└─ claude-sonnet-4-6: ok · 1.5 s · 10 in, 5 out · $0.000105",
    ]
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert "$" not in str(answer.tree())


def test_records_of_a_tool_that_is_not_known_are_in_the_tree_all_the_same():
    tree = answer_of(record(), record(1.0, 2.0, path=("task",))).tree()
    assert shape(tree)[-2:] == ["└─ tool a tool: ok · 1 request", "   └─ task: ok · claude-sonnet-4-6"]
    deep = task_of("x", None, [record(path=("a", "b"), tool_use_ids=("1", "2"))])
    assert (deep.outcome, deep.uses[0].tasks[0].outcome) == ("ok", "ok")
    assert deep.started == 0.0
    assert task_of("x", None, []).started == 0.0


def test_prompts_without_an_answer_are_lines_of_the_tree():
    unsent = record()._replace(sent=None, outcome="interrupted")
    failed = ClaudeInvocationError("no", kind="interrupted")
    failed.attempts = (unsent,)
    tree = Results([None, None], {0: failed}).tree()
    assert shape(tree) == [
        "The run · 2 prompts · 1 request",
        "├─ prompts[0]: interrupted · claude-sonnet-4-6 · not sent",
        "└─ prompts[1]: no answer · 0 requests",
    ]
    assert repr(tree) == str(tree)
    assert isinstance(tree, Tree)


NASTY = ["</details><script>alert(1)</script>", '"&<', "\x1b[31m", "\u202egnp", "\ud800", "two\nlines"]


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_that_a_task_or_a_tool_is_named_is_obeyed(nasty):
    below = record(path=(nasty,), tool_use_ids=("t",))
    tree = answer_of(record(), below, tool_calls=[ToolRecord(nasty, "t", outcome=nasty)]).tree()
    shown = nasty.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\ud800", "\ufffd").replace("\n", " ")
    assert f"tool {shown}" in str(tree)
    assert len(str(tree).splitlines()) == 4
    page = Page(tree._repr_html_())
    assert page.of("bdi")[2:] == [f"tool {shown}", shown]


def test_in_a_notebook_each_line_folds_what_is_below_it(sim):
    sim.script_by(THREE_LEVELS)
    tree = invoke_with_tools("survey", [research]).tree()
    page = Page(tree._repr_html_())
    lines = [line.lstrip("├─└│ ") for line in str(tree).splitlines()]
    assert sorted(page.of("summary") + [text for text in page.of("div") if text in lines]) == sorted(lines)


def test_what_failed_is_bold_in_a_notebook():
    tree = answer_of(record(outcome="overloaded"), record(1.0, 2.0)).tree()
    assert Page(tree._repr_html_()).of("strong") == ["overloaded"]
    assert Page(answer_of(record()).tree()._repr_html_()).of("summary") == []


def test_of_many_prompts_a_notebook_shows_the_first_and_has_them_folded():
    tree = Results([answer_of(record(), record(1.0, 2.0)) for _ in range(150)]).tree()
    page = tree._repr_html_()
    assert Page(page).of("em") == ["50 more: print() shows them"]
    assert page.count("<details") == 101
    assert page.count("open>") == 1
    assert len(str(tree).splitlines()) == 451


def test_prompts_and_answers_are_not_in_it(sim):
    sim.script(Reply(text="the answer"))
    tree = invoke_claude("the question").tree()
    assert not re.search("the answer|the question", str(tree) + tree._repr_html_())


# What is no retry.


def test_the_turns_of_a_loop_are_no_retries_and_waste_nothing(sim):
    sim.script_by(THREE_LEVELS)
    results = invoke_parallel([{"prompt": "survey", "tools": [research]}])
    (row,) = results.to_dicts()
    assert (row["attempts"], row["retries"], row["tool_calls"], row["wasted_usd"]) == (10, 0, 4, 0.0)
    assert "made again" not in results.summary()
    assert row["request_id"] == results[0].request_id


def test_failures_that_were_made_again_are_counted_for_each_task(sim):
    def ask(word: str) -> str:
        """Ask."""
        return invoke_claude(word)

    turn = asking("ask", {"word": "a"})
    sim.script(OVERLOADED, turn, OVERLOADED, Reply(fault="not_found"), Reply(text="done"))
    results = invoke_parallel([{"prompt": "survey", "tools": [ask]}])
    (row,) = results.to_dicts()
    assert (row["attempts"], row["retries"]) == (5, 2)
    assert "made again: 2 after overloaded" in results.summary()


def test_what_failed_for_good_in_a_tool_was_not_made_again():
    below = {"path": ("task",), "tool_use_ids": ("t",)}
    attempts = [record(outcome="timeout"), record(), record(outcome="overloaded", **below), record()]
    assert [attempt.outcome for attempt in made_again(attempts)] == ["timeout"]


def test_the_times_of_a_prompt_are_those_of_its_own_requests(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    below = {"path": ("task",), "tool_use_ids": ("t",), "waited": {"rate limit": 50.0}}
    attempts = [record(waited={"worker": 2.0, "retry": 0.0}), record(2.0, 9.0, request_id="req_below", **below)]
    answer = answer_of(*attempts, tool_calls=[ToolRecord("work", "t", 1.5, 10.0, "ok", 1.0)])
    (row,) = Results([answer]).to_dicts()
    assert (row["waited"], row["took"], row["request_id"]) == (2.0, 10.0, None)
    assert [line for line in Results([answer]).summary().splitlines() if "waited" in line or "latency" in line] == [
        "latency 1 s (p95 7 s, longest 7 s)",
        "waited for worker 2 s (p95 2 s, longest 2 s)",
        "waited for rate limit 50 s (p95 50 s, longest 50 s)",
    ]


def test_the_log_numbers_the_requests_of_a_call_without_those_of_its_tools(sim, caplog):
    caplog.set_level("INFO", "claude_client")

    def ask(word: str) -> str:
        """Ask."""
        return invoke_claude(word)

    sim.script(asking("ask", {"word": "a"}), Reply(text="inner"), OVERLOADED, Reply(text="done"))
    invoke_with_tools("survey", [ask])
    (told,) = [one for one in caplog.records if "failed" in one.getMessage()]
    assert (told.attempt, told.kind) == (2, "overloaded")
    assert "attempt 2 failed" in told.getMessage()
