"""The life of a task: each move of the table, no other, and one winner for each."""

import copy
import dataclasses
import json
import operator
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from helpers import Page
from task_state import InvalidTransitionError, TaskState, TaskTracker

pytestmark = pytest.mark.once

MOVES = ["claim", "start", "complete", "fail", "retry", "cancel"]
TARGETS = dict(zip(MOVES, ["claimed", "running", "completed", "failed", "retry_queued", "cancelled"], strict=True))
LEGAL = {
    "unclaimed": {"claim", "cancel"},
    "claimed": {"start", "cancel"},
    "running": {"complete", "fail", "cancel"},
    "failed": {"retry", "cancel"},
    "retry_queued": {"claim", "cancel"},
    "completed": set(),
    "cancelled": set(),
}
WAYS = {
    "unclaimed": [],
    "claimed": ["claim"],
    "running": ["claim", "start"],
    "completed": ["claim", "start", "complete"],
    "failed": ["claim", "start", "fail"],
    "retry_queued": ["claim", "start", "fail", "retry"],
    "cancelled": ["cancel"],
}


@pytest.fixture
def tracker():
    return TaskTracker()


def go(tracker, *moves, task_id="t"):
    """The task after *moves*, added first where it is new."""
    info = tracker.get(task_id) if task_id in tracker else tracker.add(task_id)
    for move in moves:
        info = getattr(tracker, move)(task_id)
    return info


def fail_until_finished(tracker):
    """The task, finished by failing as often as it may."""
    info = go(tracker, "claim", "start", "fail")
    while not info.finished:
        info = go(tracker, "retry", "claim", "start", "fail")
    return info


def test_the_documented_example_runs():
    tracker = TaskTracker(max_retries=3)
    tracker.add("task-1", category="security")
    tracker.claim("task-1")
    tracker.start("task-1")
    tracker.complete("task-1")
    go(tracker, "claim", "start", task_id="task-2")
    tracker.fail("task-2", error="timeout")
    tracker.retry("task-2")
    tracker.claim("task-2")
    assert tracker.active_count(category="security") == 0
    assert tracker.get_by_state(TaskState.RUNNING) == []
    assert tracker.summary() == {"claimed": 1, "completed": 1}


@pytest.mark.parametrize("by_state", [False, True], ids=["by method", "by state"])
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", WAYS)
def test_a_task_makes_the_moves_of_the_table_and_no_other(tracker, state, move, by_state):
    before = go(tracker, *WAYS[state])
    assert before.state == state

    def moved():
        return tracker.transition("t", TARGETS[move]) if by_state else getattr(tracker, move)("t")

    if move in LEGAL[state]:
        after = moved()
        assert after == tracker.get("t")
        assert after.state == TARGETS[move]
        assert after.attempt == before.attempt + (move == "start")
    else:
        with pytest.raises(InvalidTransitionError, match=f"'t' cannot go from {state} to {TARGETS[move]}"):
            moved()
        assert tracker.get("t") == before


@pytest.mark.parametrize("state", WAYS)
def test_nothing_goes_back_to_unclaimed(tracker, state):
    go(tracker, *WAYS[state])
    with pytest.raises(InvalidTransitionError):
        tracker.transition("t", TaskState.UNCLAIMED)


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_max_retries_are_those_after_the_first_attempt(max_retries):
    tracker = TaskTracker(max_retries)
    info = fail_until_finished(tracker)
    assert info.attempt == max_retries + 1
    assert info.state is TaskState.FAILED


@pytest.mark.parametrize("how", ["final", "retries used up"])
def test_a_task_failed_for_good_is_finished(tracker, how):
    if how == "final":
        go(tracker, "claim", "start")
        info = tracker.fail("t", "a bad request", final=True)
    else:
        info = fail_until_finished(tracker)
    assert info.finished
    assert tracker.active_count() == 0
    assert tracker.is_all_terminal()
    for target in ("retry_queued", "cancelled"):
        with pytest.raises(RuntimeError, match="no retry is left"):
            tracker.transition("t", target)
    assert tracker.get("t") == info


def test_active_count_counts_what_is_not_finished(tracker):
    for state, way in WAYS.items():
        tracker.add(state, category=state[0])
        go(tracker, *way, task_id=state)
    assert tracker.active_count() == 5
    assert tracker.active_count("c") == 1
    assert tracker.active_count("nothing") == 0
    assert not tracker.is_all_terminal()


def test_tasks_are_found_by_state_and_category_in_the_order_added(tracker):
    for task_id, category in [("b", "x"), ("a", "x"), ("c", None)]:
        tracker.add(task_id, category)
    tracker.claim("c")
    assert [info.task_id for info in tracker.get_by_state("unclaimed")] == ["b", "a"]
    assert [info.task_id for info in tracker.get_by_category("x")] == ["b", "a"]
    assert [info.task_id for info in tracker.get_by_category(None)] == ["c"]


def test_an_empty_tracker_is_true_and_all_terminal(tracker):
    assert tracker
    assert len(tracker) == 0
    assert "t" not in tracker
    assert tracker.summary() == {}
    assert tracker.is_all_terminal()
    assert repr(tracker) == "<TaskTracker without tasks>"
    go(tracker)
    assert len(tracker) == 1
    assert "t" in tracker
    assert repr(tracker) == "<TaskTracker 1 unclaimed>"


def test_times_are_those_of_the_clock():
    times = iter(range(10, 100))
    tracker = TaskTracker(clock=lambda: next(times))
    info = go(tracker)
    assert (info.added_at, info.started_at, info.finished_at) == (10, None, None)
    info = go(tracker, "claim", "start", "fail", "retry", "claim", "start", "complete")
    assert (info.added_at, info.started_at, info.finished_at) == (10, 16, 17)
    states = ["unclaimed", "claimed", "running", "failed", "retry_queued", "claimed", "running", "completed"]
    assert info.history == tuple(zip(states, range(10, 18), strict=True))


@pytest.mark.parametrize("error", ["timeout", OSError("gone"), None])
def test_the_last_error_is_kept_as_given(tracker, error):
    go(tracker, "claim", "start")
    assert tracker.fail("t", error).error is error
    assert go(tracker, "retry", "claim", "start", "complete").error is error


def test_a_snapshot_is_frozen_and_its_metadata_a_copy(tracker):
    given = {"a": 1}
    info = tracker.add("t", metadata=given)
    given["a"] = 2
    assert info.metadata == {"a": 1}
    with pytest.raises(TypeError):
        info.metadata["a"] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.state = TaskState.RUNNING
    tracker.claim("t")
    assert info.state is TaskState.UNCLAIMED
    assert {info, tracker.get("t")} == {info, tracker.get("t")}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(a=2),
        lambda m: m.pop("a"),
        lambda m: m.popitem(),
        lambda m: m.clear(),
        lambda m: m.setdefault("b", 2),
        lambda m: operator.ior(m, {"b": 2}),
        lambda m: operator.delitem(m, "a"),
    ],
)
def test_metadata_refuses_every_change(tracker, change):
    info = tracker.add("t", metadata={"a": 1})
    with pytest.raises(TypeError, match="the metadata of a task cannot be changed"):
        change(info.metadata)
    assert info.metadata == {"a": 1}


def test_a_task_becomes_a_dict_as_for_a_table_or_for_json(tracker):
    tracker.add("t", metadata={"a": [1]})
    as_dict = dataclasses.asdict(tracker.get("t"))
    assert as_dict["metadata"] == {"a": [1]}
    assert json.loads(json.dumps(as_dict))["state"] == "unclaimed"
    assert copy.deepcopy(tracker.get("t")) == tracker.get("t")


def test_a_task_that_is_recalled_was_never_started(tracker):
    tracker.add("t")
    info = tracker.recall("t")
    assert (info.state, info.finished, info.attempt) == (TaskState.COMPLETED, True, 0)
    assert info.started_at is None
    assert info.finished_at is not None


@pytest.mark.parametrize("before", [["claim"], ["claim", "start"], ["cancel"], ["recall"]])
def test_only_an_unclaimed_task_is_recalled(tracker, before):
    tracker.add("t")
    go(tracker, *before)
    with pytest.raises(InvalidTransitionError):
        tracker.recall("t")


def test_an_unclaimed_task_does_not_complete_by_itself(tracker):
    tracker.add("t")
    with pytest.raises(InvalidTransitionError):
        tracker.complete("t")


def test_a_notebook_shows_the_tasks_those_that_failed_first():
    tracker = TaskTracker()
    for i in range(150):
        tracker.add(f"<b>{i}", "\u202ec")
    for move in ("claim", "start"):
        getattr(tracker, move)("<b>120")
    tracker.fail("<b>120", ValueError("<script>\ud800"))
    page = Page(tracker._repr_html_())
    cells = page.of("td")
    assert cells[:10] == ["<b>120", "\u202ec", "failed", "1", "<script>?", "<b>0", "\u202ec", "unclaimed", "0", ""]
    assert len(cells) == 5 * 100
    assert page.of("strong", "em") == ["149 unclaimed, 1 failed", "50 more"]
    assert page.of("th") == ["task", "category", "state", "attempt", "error"]
    assert Page(TaskTracker()._repr_html_()).of("strong") == ["no tasks"]


@pytest.mark.parametrize("method", [*MOVES, "get"])
def test_an_unknown_task_is_a_key_error(tracker, method):
    with pytest.raises(KeyError, match="there is no task 'who'"):
        getattr(tracker, method)("who")


def test_a_task_is_added_once(tracker):
    before = go(tracker, "claim")
    with pytest.raises(ValueError, match="there is a task 't' already"):
        tracker.add("t")
    assert tracker.get("t") == before


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda t: TaskTracker(-1), "max_retries"),
        (lambda t: TaskTracker(1.5), "max_retries"),
        (lambda t: TaskTracker(True), "max_retries"),
        (lambda t: t.add(""), "task_id"),
        (lambda t: t.add(7), "task_id"),
        (lambda t: t.add("n", category=7), "category"),
        (lambda t: t.add("n", metadata="m"), "metadata"),
        (lambda t: t.fail("t", error=7), "error"),
        (lambda t: t.transition("t", "asleep"), "asleep"),
        (lambda t: t.get_by_state("asleep"), "asleep"),
        (lambda t: t.on_transition(None), "callback"),
    ],
)
def test_bad_input_is_a_value_error_that_names_it(tracker, call, named):
    go(tracker, "claim", "start")
    with pytest.raises(ValueError, match=named):
        call(tracker)
    assert len(tracker) == 1


def test_an_invalid_transition_says_what_and_survives_pickling(tracker):
    go(tracker)
    with pytest.raises(InvalidTransitionError) as raised:
        tracker.complete("t")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.task_id, again.from_state, again.to_state) == ("t", TaskState.UNCLAIMED, TaskState.COMPLETED)
    assert str(again) == str(raised.value) == "task 't' cannot go from unclaimed to completed"


def test_observers_hear_each_move_in_the_order_they_registered(tracker):
    heard = []
    tracker.on_transition(lambda info: heard.append(("first", info, threading.current_thread())))
    tracker.on_transition(lambda info: heard.append(("second", info, threading.current_thread())))
    here = threading.current_thread()
    go(tracker)
    assert heard == []
    claimed, started = go(tracker, "claim"), go(tracker, "start")
    with pytest.raises(InvalidTransitionError):
        tracker.claim("t")
    assert heard == [(who, info, here) for info in (claimed, started) for who in ("first", "second")]


def test_an_observer_that_raises_is_logged_and_breaks_nothing(tracker, caplog):
    heard = []
    tracker.on_transition(lambda _: 1 / 0)
    tracker.on_transition(heard.append)
    assert heard == [go(tracker, "claim")] == [tracker.get("t")]
    assert "A callback for task 't' failed; the task is claimed all the same" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_observer_may_use_the_tracker(tracker):
    def start(info):
        if info.state is TaskState.CLAIMED:
            tracker.start(info.task_id)

    tracker.on_transition(start)
    assert go(tracker, "claim").state is TaskState.CLAIMED
    assert tracker.get("t").state is TaskState.RUNNING


def test_an_observer_that_stopped_hears_no_more_and_the_others_do(tracker):
    heard = []
    stop = tracker.on_transition(heard.append)
    tracker.on_transition(heard.append)
    stop()
    stop()
    assert heard == [go(tracker, "claim")]


def test_of_many_threads_one_wins_each_move():
    tracker, threads, tasks = TaskTracker(), 8, [str(i) for i in range(50)]
    for task_id in tasks:
        tracker.add(task_id)
    together = threading.Barrier(threads, timeout=10)

    def win(move):
        won = []
        together.wait()
        for task_id in tasks:
            try:
                won.append(getattr(tracker, move)(task_id).task_id)
            except InvalidTransitionError:
                continue
        return won

    with ThreadPoolExecutor(threads) as pool:
        for move in ("claim", "start", "fail", "retry"):
            wins = [future.result(10) for future in [pool.submit(win, move) for _ in range(threads)]]
            assert sorted(task_id for won in wins for task_id in won) == sorted(tasks)
    assert tracker.summary() == {"retry_queued": 50}


class Life(RuleBasedStateMachine):
    """The tracker beside a model of its own."""

    tasks = Bundle("tasks")

    def __init__(self):
        super().__init__()
        self.tracker = TaskTracker(max_retries=1)
        self.heard = []
        self.tracker.on_transition(self.heard.append)
        self.model = {}

    @rule(target=tasks, category=st.sampled_from([None, "a", "b"]))
    def add(self, category):
        task_id = f"task-{len(self.model)}"
        self.tracker.add(task_id, category)
        self.model[task_id] = {"category": category, "states": ["unclaimed"], "final": False}
        return task_id

    @rule(task_id=tasks, move=st.sampled_from(MOVES), by_state=st.booleans())
    def move(self, task_id, move, by_state):
        args = (task_id, TARGETS[move]) if by_state else (task_id,)
        self.step(task_id, move, getattr(self.tracker, "transition" if by_state else move), *args)

    @rule(task_id=tasks)
    def fail_finally(self, task_id):
        if self.step(task_id, "fail", self.tracker.fail, task_id, "no", final=True):
            self.model[task_id]["final"] = True

    def step(self, task_id, move, call, *args, **options):
        states = self.model[task_id]["states"]
        legal = move in LEGAL[states[-1]] and not self.finished(task_id)
        try:
            call(*args, **options)
        except InvalidTransitionError:
            assert not legal
        else:
            assert legal
            states.append(TARGETS[move])
            assert self.heard.pop() == self.tracker.get(task_id)
        return legal

    def finished(self, task_id):
        model = self.model[task_id]
        failed_for_good = model["states"][-1] == "failed" and (model["final"] or model["states"].count("running") == 2)
        return model["states"][-1] in {"completed", "cancelled"} or failed_for_good

    @invariant()
    def every_task_is_as_the_model_says(self):
        for task_id, model in self.model.items():
            info = self.tracker.get(task_id)
            assert [state for state, _ in info.history] == model["states"]
            assert info.state == model["states"][-1]
            assert info.attempt == model["states"].count("running")
            assert info.finished == self.finished(task_id)

    @invariant()
    def the_counts_are_those_of_the_model(self):
        now = [model["states"][-1] for model in self.model.values()]
        active = [self.model[task_id]["category"] for task_id in self.model if not self.finished(task_id)]
        assert self.heard == []
        assert self.tracker.summary() == {state: now.count(state) for state in now}
        assert self.tracker.active_count() == len(active)
        assert self.tracker.active_count("a") == active.count("a")
        assert self.tracker.is_all_terminal() == (not active)


TestAnyLife = Life.TestCase


def test_a_tracker_and_its_tasks_pickle_without_observers():
    tracker = TaskTracker(max_retries=1)
    tracker.add("a", "c", {"of": "mine"})
    tracker.on_transition(lambda _: pytest.fail("an observer of the original"))
    copied = pickle.loads(pickle.dumps(tracker))
    assert copied.get("a") == tracker.get("a")
    copied.claim("a")
    assert (copied.summary(), tracker.summary()) == ({"claimed": 1}, {"unclaimed": 1})
    with pytest.raises(TypeError):
        copied.get("a").metadata["of"] = "another"


def test_many_are_cancelled_at_once_and_are_as_if_each_had_been():
    at = iter(range(100))
    tracker = TaskTracker(clock=lambda: next(at))
    for task_id in ("new", "running", "done", "gone"):
        tracker.add(task_id)
    go(tracker, *WAYS["running"], task_id="running")
    done = go(tracker, *WAYS["completed"], task_id="done")
    gone = go(tracker, "cancel", task_id="gone")
    tracker.cancel_all(["new", "running", "done", "gone"])
    time = next(at)
    tracker.cancel_all(["running"])
    assert tracker.is_all_terminal()
    assert tracker.get("done") == done
    assert tracker.get("gone") == gone
    assert (tracker.get("new").state, tracker.get("new").finished_at) == ("cancelled", time - 1)
    assert tracker.get("running").history[-1] == ("cancelled", time - 1)
    with pytest.raises(InvalidTransitionError):
        tracker.claim("new")


def test_many_cannot_be_cancelled_where_one_is_unknown(tracker):
    tracker.add("t")
    with pytest.raises(KeyError, match="there is no task 'x'"):
        tracker.cancel_all(["t", "x"])
    assert tracker.get("t").state == "unclaimed"


def test_who_watches_is_told_of_each_of_many(tracker):
    told = []
    tracker.add("a")
    tracker.add("b")
    go(tracker, *WAYS["completed"], task_id="done")
    tracker.on_transition(lambda task: told.append((task.task_id, task.state)))
    tracker.cancel_all(["a", "done", "b"])
    assert told == [("a", "cancelled"), ("b", "cancelled")]
