"""The picture of a run: what it says is read from its SVG; how it looks was looked at in a browser."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_client import (
    ClaudeInvocationError,
    ConversationThread,
    Results,
    StopTools,
    Timeline,
    Usage,
    invoke_parallel,
)
from claude_client._values.phases import Lane, accepted, bands_of, lanes_of, spans_of, under_way
from claude_client._values.record import AttemptRecord, ToolRecord
from claude_client._values.tasks import task_of
from claude_client.simulator import Reply
from orchestration import invoke_parallel_managed

SVG = "{http://www.w3.org/2000/svg}"
CONTEXT = "shared, " * 1250  # 2,500 tokens by the simulator's count


def picture(timeline):
    """The root of its SVG."""
    page = timeline._repr_html_()
    return ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


def titles(timeline):
    """What is said of each row."""
    return [title.text for title in picture(timeline).iter(f"{SVG}title")]


def legend(timeline):
    """What the colours and marks are said to be."""
    return [
        text.text for group in picture(timeline).findall(f"{SVG}g[@transform]") for text in group.iter(f"{SVG}text")
    ]


def record(queued=0.0, sent=1.0, first_byte=2.0, first_text=None, ended=3.0, outcome="ok", status=200, **more):
    times = {"queued": queued, "sent": sent, "first_byte": first_byte, "first_text": first_text, "ended": ended}
    return AttemptRecord("claude-sonnet-4-6", Usage(), outcome, status, **times, **more)


def lane(*attempts, name="task", outcome="ok"):
    return Lane(name, outcome, attempts, Usage(10, 5))


def test_a_request_is_shown_as_its_waits_in_a_row_and_then_as_what_had_come():
    attempt = record(waited={"worker": 0.25, "rate limit": 0.5, "retry": 0.25}, first_text=2.5)
    assert [*spans_of(attempt, 0.0)] == [
        ("retry", 0.0, 0.25),
        ("rate limit", 0.25, 0.75),
        ("worker", 0.75, 1.0),
        ("first byte", 1.0, 2.0),
        ("first text", 2.0, 2.5),
        ("answer", 2.5, 3.0),
    ]
    assert [*spans_of(record(first_byte=None), 0.0)] == [("first byte", 1.0, 3.0)]
    assert [*spans_of(record(), 1.0)] == [("first byte", 0.0, 1.0), ("answer", 1.0, 2.0)]
    assert [*spans_of(record(sent=None, waited={"outage": 2.0}), 0.0)] == [("outage", 0.0, 2.0)]


def test_the_lines_above_tell_requests_under_way_and_accepted():
    lanes = [lane(record()), lane(record(sent=2.0, first_byte=2.5, ended=4.0)), lane(record(status=529, outcome="x"))]
    lanes.append(lane(record(sent=None, first_byte=None, status=None)))
    assert under_way(lanes, 0.0) == [(1.0, 2), (2.0, 3), (3.0, 1), (4.0, 0)]
    assert accepted(lanes, 0.0, 2.0, 2) == [0.0, 1.0]


def test_a_row_tells_its_numbers_where_the_pointer_rests():
    attempts = [
        record(outcome="overloaded", status=529, first_byte=None, ended=1.5),
        record(queued=1.5, sent=2.0, ended=3.0, waited={"retry": 0.5}),
    ]
    (said,) = titles(Timeline("The run", [lane(*attempts, name="my task")], []))
    assert said.splitlines() == [
        "my task: ok",
        "request 1, claude-sonnet-4-6: took 500 ms, overloaded",
        "request 2, claude-sonnet-4-6: waited 500 ms for retry; took 1 s, ok",
        "tokens: 10 in (0 read, 0 written), 5 out",
    ]


def test_the_legend_names_what_is_there_and_nothing_else():
    quick = Timeline("The run", [lane(record(first_byte=None))], [])
    tokens = ["read from the cache", "written to the cache", "other input", "output"]
    assert legend(quick) == ["sent, nothing has come yet", *tokens]
    kinds = [
        record(outcome="rate_limit"),
        record(outcome="interrupted"),
        record(outcome="overloaded"),
        record(waited={"limiter": 1.0})._replace(usage=Usage(cache_creation_input_tokens=5)),
        record(waited={"cache writer": 1.0}),
    ]
    marks = ["429", "ended from outside", "failed", "wrote the cache"]
    phases = [
        "waits for a slot of the limiter",
        "waits for the cache to be written",
        "sent, nothing has come yet",
        "the text comes",
    ]
    assert legend(Timeline("The run", [lane(kind) for kind in kinds], [])) == [*phases, *marks, *tokens]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"&<', "\x1b[31m", "\u202egnp", "\ud800", "]]>"])
def test_nothing_that_a_task_is_named_is_obeyed(name, tmp_path):
    timeline = Timeline("The run", [lane(record(), name=name)], [name], note=name)
    (said,) = titles(timeline)
    assert said.startswith(name.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\ud800", "\ufffd"))
    timeline.save(tmp_path / "run.html")
    assert "<script>" not in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_prompts_and_answers_are_not_in_it(sim):
    sim.script(Reply(text="the answer"), Reply(fault="refusal"))
    results = invoke_parallel([{"prompt": "the question"}] * 2, return_exceptions=True)
    page = results.timeline()._repr_html_()
    assert not re.search("the answer|the question", page)
    assert sorted(said.split("\n")[0] for said in titles(results.timeline())) in (
        ["prompts[0]: ok", "prompts[1]: refusal"],
        ["prompts[0]: refusal", "prompts[1]: ok"],
    )


def test_the_picture_of_a_run_is_told_in_words_too(sim):
    asked = [{"prompt": str(n), "task_id": f"task-{n}"} for n in range(3)]
    results = invoke_parallel_managed(asked, shared_system=CONTEXT, cache_shared_system=True)
    timeline = results.timeline()
    said = picture(timeline).get("aria-label")
    assert said.startswith("The run. took ")
    assert "3 answered" in timeline._repr_html_()
    assert "wrote the cache" in legend(timeline)
    assert repr(timeline) == "<Timeline of The run: it shows in a notebook, and save(path) writes it>"


def test_a_file_of_it_is_a_whole_page_that_needs_nothing_else(sim, tmp_path):
    invoke_parallel([{"prompt": "hi"}]).timeline().save(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r"(src|href)=|@import|url\(", page)


@pytest.mark.once
def test_ten_thousand_tasks_are_one_picture():
    lanes = [lane(record(sent=n / 100, ended=n / 100 + 1, first_byte=None)) for n in range(10_000)]
    timeline = Timeline("The run", lanes, [])
    assert len(timeline._repr_html_()) < 500_000
    assert (len(titles(timeline)), titles(timeline)[0]) == (200, "tasks 1 to 50 as they began")


def test_a_shared_row_shows_what_most_of_its_tasks_did_and_each_failure():
    waiting = [lane(record(sent=2.0, first_byte=None, ended=3.0, waited={"worker": 2.0})) for _ in range(2)]
    failing = lane(record(sent=0.0, first_byte=None, ended=3.0, outcome="timeout"), outcome="timeout")
    (band,) = bands_of([*waiting, failing], 1, 0.0, 3.0)
    assert [(span.phase, round(span.start, 6), round(span.end, 6)) for span in band.spans] == [
        ("worker", 0.0, 2.0),
        ("first byte", 2.0, 3.0),
    ]
    assert (band.first, band.last, band.failed, [round(time) for time in band.failures]) == (0, 2, 1, [3])
    many = [*waiting * 150, failing]
    assert titles(Timeline("The run", many, []))[-1].endswith(", 1 failed")
    assert "failed" in legend(Timeline("The run", many, []))


def test_tasks_that_were_not_asked_have_an_empty_row():
    unsent = Results([None], {0: ClaudeInvocationError("no", kind="interrupted")})
    assert "No request was made." in unsent.timeline()._repr_html_()
    timeline = Timeline("The run", [lane(record()), lane(outcome="interrupted", name="late")], [])
    assert titles(timeline)[1].startswith("late: interrupted")


def test_a_conversation_has_a_picture_of_its_turns(sim):
    sim.script(Reply(), Reply(fault="refusal"), Reply())
    thread = ConversationThread(system=CONTEXT)
    assert "No request was made." in thread.timeline()._repr_html_()
    thread.send("a")
    with pytest.raises(ClaudeInvocationError):
        thread.send("b")
    thread.send("c")
    timeline = thread.timeline()
    assert [said.split("\n")[0] for said in titles(timeline)] == ["turn 1: ok", "turn 2: refusal", "turn 3: ok"]
    assert "2 turns, the time between them left out" in timeline._repr_html_()
    assert "wrote the cache" in legend(timeline)


def below(name, tool_use_id, queued, ended, **more):
    path = (name,) if isinstance(name, str) else name
    ids = (tool_use_id,) if isinstance(tool_use_id, str) else tool_use_id
    return record(queued, queued, queued + 0.25, None, ended, path=path, tool_use_ids=ids, **more)


# A call that asks for two tools at once, each of which asks, one of them through a tool of its own.
TREE = [
    record(0.0, 0.0, 0.5, None, 1.0),
    below("late", "a", 2.0, 3.0),
    below(("late", "deep"), ("a", "c"), 3.0, 4.0),
    below("early", "b", 1.5, 2.5, outcome="overloaded"),
    record(5.0, 5.0, 5.5, None, 6.0),
]
TOOLS = [
    ToolRecord("first", "a", 1.0, 4.5, "ok", 1.0),
    ToolRecord("look", "c", 3.0, 4.25, "ok", 3.0, ("late",), ("a",)),
    ToolRecord("second", "b", 1.25, 3.0, "error", 1.0),
    ToolRecord("third", "d", None, None, "refused", 1.0),
]


def test_what_a_tool_has_asked_has_rows_of_its_own_below_its_call_in_the_order_of_their_start():
    lanes = [*lanes_of(task_of("task", "ok", TREE, TOOLS)), lane(record(), name="other")]
    assert [(one.above, one.name, one.outcome) for one in lanes] == [
        ((), "task", "ok"),
        (("task",), "early", "overloaded"),
        (("task",), "late", "ok"),
        (("task", "late"), "deep", "ok"),
        ((), "other", "ok"),
    ]
    assert [span.phase for span in lanes[0].spans(0.0)] == ["tool", *["first byte", "answer"] * 2]
    assert next((span.start, span.end) for span in lanes[0].spans(1.0)) == (0.0, 3.5)
    assert sum(len(one.attempts) for one in lanes[:4]) == len(TREE)
    assert max(count for _, count in under_way(lanes, 0.0)) == 3
    assert accepted(lanes, 0.0, 6.0, 1) == [pytest.approx(1.0)]
    timeline = Timeline("The run", lanes, [])
    assert [said.split("\n")[0] for said in titles(timeline)] == [
        "task: ok",
        "task / early: overloaded",
        "task / late: ok",
        "task / late / deep: ok",
        "other: ok",
    ]
    assert titles(timeline)[0].splitlines()[3:6] == [
        "tool first: took 3.5 s, ok",
        "tool second: took 1.75 s, error",
        "tool third: not run, refused",
    ]
    assert "a tool runs" in legend(timeline)
    names = [text for text in picture(timeline).iter(f"{SVG}text") if text.text in {"task", "early", "late", "deep"}]
    assert [float(text.get("x")) for text in names] == [4.0, 15.0, 15.0, 26.0]


def test_tools_that_do_not_overlap_are_bars_of_their_own_and_a_row_lasts_until_its_last_tool():
    calls = (ToolRecord("a", "1", 1.0, 2.0), ToolRecord("b", "2", 4.0, 9.0), ToolRecord("c", "3", 1.5, 1.75))
    one = lane(record(0.0, 0.0, 0.5, None, 1.0))._replace(tool_calls=calls)
    tools = [(span.start, span.end) for span in one.spans(0.0) if span.phase == "tool"]
    assert (tools, one.ended) == ([(1.0, 2.0), (4.0, 9.0)], 9.0)
    (band,) = bands_of([one], 1, 0.0, 9.0)
    assert [span.phase for span in band.spans if span.phase == "tool"] == ["tool", "tool"]
    assert "a tool runs" in legend(Timeline("The run", [one] * 201, []))
    assert "a tool runs" not in legend(Timeline("The run", [lane(record())], []))


def asking(name, arguments):
    use = {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": arguments}
    return Reply(content=[use], stop_reason="tool_use")


def ask(word: str) -> str:
    """Ask two at once."""
    return " ".join(invoke_parallel([{"prompt": word, "task_id": f"below-{n}"} for n in range(2)]))


def test_a_run_with_tools_and_a_conversation_with_them_show_what_those_asked(sim):
    sim.script(asking("ask", {"word": "a"}))
    run = invoke_parallel([{"prompt": "go", "tools": [ask], "task_id": "above"}]).timeline()
    sim.script(asking("ask", {"word": "a"}), Reply(text="1"), Reply(text="2"), Reply(fault="refusal"))
    thread = ConversationThread(tools=[ask])
    with pytest.raises(ClaudeInvocationError):
        thread.send("go")
    thread.send("and on")
    first_lines = [said.split("\n")[0] for said in titles(run)]
    assert first_lines[0] == "above: ok"
    assert sorted(first_lines[1:]) == ["above / below-0: ok", "above / below-1: ok"]
    assert titles(run)[0].count("request ") == 2
    first_lines = [said.split("\n")[0] for said in titles(thread.timeline())]
    assert (first_lines[0], first_lines[3]) == ("turn 1: refusal", "turn 2: ok")
    assert sorted(first_lines[1:3]) == ["turn 1 / below-0: ok", "turn 1 / below-1: ok"]
    assert "a tool runs" in legend(thread.timeline())


def test_a_turn_that_a_tool_ended_is_no_good_one_though_its_requests_were(sim):
    def give_up() -> None:
        """Give up."""
        raise StopTools("there is no way")

    sim.script(asking("give_up", {}), Reply())
    thread = ConversationThread(tools=[give_up])
    with pytest.raises(ClaudeInvocationError):
        thread.send("go")
    with pytest.raises(ZeroDivisionError):
        thread.send("again", callback=lambda _: 1 / 0)
    first, second = titles(thread.timeline())
    assert first.startswith("turn 1: tool\n")
    assert second.startswith("turn 2: ")


def test_a_conversation_that_an_older_version_has_pickled_has_its_picture(sim):
    thread = ConversationThread()
    answer = thread.send("hi")
    rebuild, (settings, history, _) = thread.__reduce__()
    old = rebuild(settings, history, (answer.attempts,))
    assert (old.usage, titles(old.timeline())) == (thread.usage, titles(thread.timeline()))


TIMES = st.lists(st.floats(0, 1e6), min_size=5, max_size=5).map(sorted)


@pytest.mark.once
@given(
    st.lists(st.tuples(TIMES, st.booleans(), st.sampled_from(["ok", "timeout", "rate_limit"])), max_size=30),
    st.booleans(),
)
def test_whatever_a_run_did_there_is_a_picture_of_it(runs, many):
    lanes = []
    for (queued, sent, first_byte, first_text, ended), has_text, outcome in runs:
        text = first_text if has_text else None
        lanes.append(lane(record(queued, sent, first_byte, text, ended, outcome, waited={"worker": sent - queued})))
    lanes *= 20 if many else 1
    timeline = Timeline("The run", lanes, [])
    if lanes:
        assert len(titles(timeline)) == min(len(lanes), 200)
    else:
        assert "No request was made." in timeline._repr_html_()


def test_the_picture_alone_is_written_where_the_name_says_so(tmp_path):
    Timeline("The run", [lane(record())], []).save(tmp_path / "run.svg")
    root = ET.fromstring((tmp_path / "run.svg").read_text(encoding="utf-8"))
    assert (root.tag, root[0].tag) == (f"{SVG}svg", f"{SVG}style")


def test_a_shared_row_without_requests_is_empty():
    (band,) = bands_of([lane(outcome="interrupted")], 1, 0.0, 3.0)
    assert (band.spans, band.failed) == ([], 1)
