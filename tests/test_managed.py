"""Managed runs over the simulator: states, retries, limits, what is wanted, stalls, and who is told."""

import asyncio
import os
import pickle
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from claude_client import (
    ClaudeInvocationError,
    ClaudeResponse,
    InterruptToken,
    ParallelInterrupt,
    ParallelInvocationError,
    Usage,
    invoke_claude,
)
from claude_client._values.errors import fields_of
from claude_client._values.record import Asked, now
from claude_client.simulator import Reply
from helpers import until
from orchestration import (
    ConcurrencyLimiter,
    JournalError,
    ManagedResults,
    _journal_file,
    drop_from_journal,
    invoke_parallel_managed,
    invoke_parallel_with_reconciliation,
    read_journal,
)
from orchestration._recorder import TaskRecorder
from task_state import TaskState, TaskTracker

LONG = 20  # seconds after which a test gives up
QUICK = {"base_delay_ms": 1, "max_delay_ms": 1}
CONTEXT = "shared, " * 1250  # 2,500 tokens by the simulator's count


def prompts(count, **options):
    return [{"prompt": f"prompt {i}.", "task_id": f"task-{i}", **options} for i in range(count)]


def says(text):
    return Reply(text=text)


def states(tracker, task_id):
    return [state.value for state, _ in tracker.get(task_id).history]


def in_background(function, *args, **options):
    """A thread that runs *function*, and the list that its result or exception will be in."""
    came = []

    def work():
        try:
            came.append(function(*args, **options))
        except BaseException as exc:  # noqa: BLE001
            came.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, came


# States


def test_answers_come_in_prompt_order_with_a_tracker_of_every_task(sim):
    for i in range(4):
        sim.script(says(f"answer {i}"), matching=f"prompt {i}.")
    results = invoke_parallel_managed(prompts(4, category="c"))
    assert isinstance(results, ManagedResults)
    assert results == [f"answer {i}" for i in range(4)]
    assert results.tracker.summary() == {"completed": 4}
    assert states(results.tracker, "task-2") == ["unclaimed", "claimed", "running", "completed"]
    assert len(results.tracker.get_by_category("c")) == 4


def test_a_failed_attempt_goes_through_failed_and_retry_queued(sim):
    sim.script(Reply(fault="overloaded"), says("at last"))
    results = invoke_parallel_managed(prompts(1), **QUICK)
    assert results == ["at last"]
    info = results.tracker.get("task-0")
    assert [state.value for state, _ in info.history[3:6]] == ["failed", "retry_queued", "claimed"]
    assert (info.attempt, info.error.kind) == (2, "overloaded")


def test_a_task_that_fails_is_none_with_its_error_and_nothing_is_raised(sim):
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    results = invoke_parallel_managed(prompts(3), **QUICK)
    assert [answer is None for answer in results] == [False, True, False]
    assert {i: error.kind for i, error in results.errors.items()} == {1: "not_found"}
    info = results.tracker.get("task-1")
    assert (info.state, info.finished, info.attempt) == (TaskState.FAILED, True, 1)
    assert len(sim.requests) == 3


@pytest.mark.parametrize("fault", ["overloaded", "rate_limit"])
def test_max_retries_counts_every_failed_attempt(sim, fault):
    sim.script_by(lambda _: Reply(fault=fault, retry_after=0.001))
    results = invoke_parallel_managed(prompts(1), max_retries=3, **QUICK)
    assert len(sim.requests) == 4
    assert results.tracker.get("task-0").attempt == 4
    assert results.errors.keys() == {0}


def test_an_answer_that_pauses_has_one_budget_of_retries(sim):
    sim.script(Reply(fault="overloaded"), Reply(fault="pause_turn", text="one "), Reply(fault="overloaded"))
    results = invoke_parallel_managed(prompts(1), max_retries=1, **QUICK)
    assert results.errors.keys() == {0}
    assert results.errors[0].partial_text == "one "
    assert len(sim.requests) == 3


def test_a_rejection_while_others_succeed_uses_up_a_retry_here(sim):
    held = threading.Event()
    sim.script(Reply(fault="rate_limit", retry_after=0.001, until=held), matching="prompt 0.")
    run, came = in_background(invoke_parallel_managed, prompts(1), max_retries=0)
    sim.wait_for(lambda s: s.in_flight == 1)
    invoke_claude("another")
    held.set()
    run.join(LONG)
    assert came[0].errors.keys() == {0}


def test_a_pause_of_any_length_can_be_waited_for(sim):
    sim.script(Reply(fault="overloaded", retry_after=1e12))
    token, tracker = InterruptToken(), TaskTracker()
    run, came = in_background(invoke_parallel_managed, prompts(2), interrupt_token=token, tracker=tracker)
    until(lambda: tracker.summary() == {"retry_queued": 1, "completed": 1})
    token.interrupt()
    run.join(LONG)
    assert len(came[0].errors) == 1


def test_a_prompt_may_set_its_own_retries(sim):
    sim.script_by(lambda _: Reply(fault="overloaded"))
    specs = [{"prompt": "a", "task_id": "a", "max_retries": 5}, {"prompt": "b", "task_id": "b", "max_retries": 0}]
    tracker = invoke_parallel_managed(specs, max_retries=1, **QUICK).tracker
    assert (tracker.get("a").attempt, tracker.get("b").attempt) == (6, 1)


def test_a_tracker_bounds_the_retries_of_the_run(sim):
    sim.script_by(lambda _: Reply(fault="overloaded"))
    tracker = TaskTracker(max_retries=1)
    invoke_parallel_managed(prompts(1), max_retries=5, tracker=tracker, **QUICK)
    assert tracker.get("task-0").attempt == 2
    assert len(sim.requests) == 2


def test_a_tracker_is_left_as_it_was_but_for_its_tasks(sim):
    tracker = TaskTracker()
    invoke_parallel_managed(prompts(1), tracker=tracker)
    assert tracker._observers == {}


def test_a_tracker_can_be_watched(sim):
    tracker, seen = TaskTracker(), []
    tracker.add("task-0", metadata={"of": "mine"})
    tracker.on_transition(lambda task: seen.append((task.task_id, task.state.value, threading.current_thread())))
    results = invoke_parallel_managed(prompts(1), tracker=tracker)
    assert results.tracker is tracker
    assert [state for _, state, _ in seen] == ["claimed", "running", "completed"]
    assert {thread for *_, thread in seen} == {threading.current_thread()}
    assert tracker.get("task-0").metadata == {"of": "mine"}


def test_a_tracker_whose_task_is_under_way_is_refused_before_any_request(sim):
    tracker = TaskTracker()
    tracker.add("task-1")
    tracker.claim("task-1")
    with pytest.raises(ValueError, match="'task-1' already, which is claimed"):
        invoke_parallel_managed(prompts(2), tracker=tracker)
    assert "task-0" not in tracker
    assert sim.requests == ()


def test_an_answer_that_pauses_is_one_attempt(sim, caplog):
    sim.script(Reply(fault="pause_turn", text="one "), says("two"))
    results = invoke_parallel_managed(prompts(1))
    assert results == ["one two"]
    assert results.tracker.get("task-0").attempt == 1
    assert caplog.records == []


def test_cancelling_in_the_tracker_stops_a_task_wherever_it_is(sim):
    release = threading.Event()
    sim.script(Reply(fault="silent"), matching="prompt 0.")
    sim.script(Reply(fault="overloaded", retry_after=3600.0), matching="prompt 1.")
    sim.script(Reply(until=release, text="done"), matching="prompt 2.")
    tracker = TaskTracker()
    run, came = in_background(invoke_parallel_managed, prompts(4), max_workers=3, tracker=tracker)
    sim.wait_for(lambda s: len(s.requests) == 4)
    until(lambda: "task-1" in tracker and tracker.get("task-1").state is TaskState.RETRY_QUEUED)
    tracker.cancel("task-0")
    tracker.cancel("task-1")
    sim.wait_for(lambda s: s.in_flight == 1)
    release.set()
    run.join(LONG)
    (results,) = came
    assert [answer is None for answer in results] == [True, True, False, False]
    assert (results.errors, results.cancelled.keys()) == ({}, {0, 1})
    assert tracker.summary() == {"completed": 2, "cancelled": 2}


def test_somebody_else_who_moves_a_task_costs_no_answer(sim, caplog):
    release = threading.Event()
    sim.script(Reply(until=release, text="whole"))
    tracker = TaskTracker()
    run, came = in_background(invoke_parallel_managed, prompts(1), tracker=tracker)
    until(lambda: tracker.get("task-0").state is TaskState.RUNNING)
    tracker.fail("task-0")
    release.set()
    run.join(LONG)
    assert came == [["whole"]]
    assert "Somebody else moves tasks" in caplog.text


# Limits


def test_a_full_category_keeps_no_other_from_starting(sim):
    release = threading.Event()
    sim.script(*[Reply(until=release)] * 20)
    specs = [*prompts(10, category="a"), {"prompt": "b", "category": "b"}, {"prompt": "c"}]
    limiter = ConcurrencyLimiter(10, {"a": 2})
    run, came = in_background(invoke_parallel_managed, specs, max_workers=5, concurrency_limiter=limiter)
    sim.wait_for(lambda s: s.in_flight == 4)
    assert sorted(r.text for r in sim.requests) == ["b", "c", "prompt 0.", "prompt 1."]
    release.set()
    run.join(LONG)
    assert None not in came[0]
    assert limiter.statistics().total.in_use == 0


def test_a_shared_prefix_is_no_reason_for_a_full_category_to_delay_another(sim):
    limiter = ConcurrencyLimiter(10, {"a": 1})
    specs = [{"prompt": "a", "category": "a"}, {"prompt": "b", "category": "b"}, {"prompt": "c", "category": "b"}]
    with limiter.slot("a"):
        run, came = in_background(
            invoke_parallel_managed,
            specs,
            concurrency_limiter=limiter,
            shared_system=CONTEXT,
            cache_shared_system=True,
        )
        sim.wait_for(lambda s: sum(r.outcome == "answered" for r in s.requests) == 2)
    run.join(LONG)
    assert None not in came[0]
    assert sum(r.usage["cache_creation_input_tokens"] for r in sim.requests) == 2500


def test_a_task_that_waits_for_its_retry_holds_no_slot(sim):
    sim.script(Reply(fault="overloaded", retry_after=3600.0), matching="prompt 0.")
    limiter, token = ConcurrencyLimiter(1), InterruptToken()
    run, came = in_background(
        invoke_parallel_managed, prompts(4), max_workers=1, concurrency_limiter=limiter, interrupt_token=token
    )
    sim.wait_for(lambda s: len(s.requests) == 4 and s.in_flight == 0)
    assert limiter.acquire(timeout=LONG)
    limiter.release()
    token.interrupt()
    run.join(LONG)
    assert came[0].errors.keys() == {0}


def test_more_workers_than_the_limiter_allows_are_held_by_the_limiter(sim, caplog):
    release = threading.Event()
    sim.script(*[Reply(until=release)] * 12)
    specs = prompts(20)
    limiter = ConcurrencyLimiter(12)
    run, _ = in_background(invoke_parallel_managed, specs, max_workers=15, concurrency_limiter=limiter)
    sim.wait_for(lambda s: s.in_flight == 12)
    release.set()
    run.join(LONG)
    assert sim.peak_concurrency == 12
    assert caplog.records == []


def test_a_small_limiter_does_not_clamp_the_workers(sim, caplog):
    invoke_parallel_managed(prompts(3), max_workers=8, concurrency_limiter=ConcurrencyLimiter(2))
    assert caplog.records == []


def test_two_runs_and_a_thread_share_one_limiter(sim):
    limiter = ConcurrencyLimiter(2)
    with limiter.slot():
        runs = [in_background(invoke_parallel_managed, prompts(6), concurrency_limiter=limiter) for _ in range(2)]
        sim.wait_for(lambda s: len(s.requests) == 12 and s.in_flight == 0)
    for run, came in runs:
        run.join(LONG)
        assert None not in came[0]
    assert sim.peak_concurrency == 1


# What is wanted


def test_reconcile_sees_copies_with_ids_before_anything_is_sent(sim):
    specs = [{"prompt": "a"}, {"prompt": "b", "task_id": "b", "metadata": {"user_id": "u"}}]
    seen = []

    def reconcile(given, tracker):
        seen.append((given, tracker.summary(), threading.current_thread(), len(sim.requests)))
        given[1]["metadata"]["user_id"] = "changed"
        return given

    invoke_parallel_managed(specs, reconcile=reconcile)
    ((given, summary, thread, sent),) = seen
    assert [prompt["task_id"] for prompt in given] == ["prompts[0]", "b"]
    assert (summary, thread, sent) == ({"unclaimed": 2}, threading.current_thread(), 0)
    assert specs == [{"prompt": "a"}, {"prompt": "b", "task_id": "b", "metadata": {"user_id": "u"}}]


def test_what_reconcile_drops_is_cancelled_and_none(sim):
    results = invoke_parallel_with_reconciliation(prompts(3), reconcile=lambda given, _: [given[2], given[0]])
    assert [answer is None for answer in results] == [False, True, False]
    assert results.tracker.get("task-1").state is TaskState.CANCELLED
    assert (results.errors, [*results.cancelled]) == ({}, [1])
    assert len(sim.requests) == 2
    assert "  2 answered, 1 cancelled\n" in results.summary()


def test_nothing_is_asked_where_nothing_is_wanted(sim, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert invoke_parallel_managed(prompts(2), reconcile=lambda *_: []) == [None, None]
    assert sim.requests == ()


def test_what_reconcile_changes_later_is_not_asked(sim):
    kept = []

    def reconcile(given, _):
        kept.extend([{**prompt, "metadata": {"user_id": "u"}} for prompt in given])
        return kept

    def on_result(*_):
        kept[1]["metadata"]["user_id"] = "changed"

    invoke_parallel_managed(prompts(2), reconcile=reconcile, max_workers=1, on_result=on_result)
    assert [r.body["metadata"] for r in sim.requests] == [{"user_id": "u"}] * 2


def test_a_start_that_failed_can_be_made_again_with_the_same_tracker(sim, tmp_path):
    tracker = TaskTracker()
    options = {"tracker": tracker, "reconcile": lambda given, _: given[:1]}
    with pytest.raises(JournalError):
        invoke_parallel_managed(prompts(2), journal=tmp_path / "missing" / "run.sqlite", **options)
    assert invoke_parallel_managed(prompts(2), journal=tmp_path / "run.sqlite", **options)[0] is not None


def test_tasks_that_could_not_be_asked_for_want_of_a_key_can_be_asked_later(sim, monkeypatch):
    tracker = TaskTracker()
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(ValueError, match="ANTHROPIC_API_KEY"):
        invoke_parallel_managed(prompts(2), tracker=tracker)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
    assert None not in invoke_parallel_managed(prompts(2), tracker=tracker)


def test_reconcile_may_change_what_is_asked(sim):
    def reconcile(given, _):
        return [{**prompt, "prompt": f"changed {i}"} for i, prompt in enumerate(given)]

    invoke_parallel_managed(prompts(2), reconcile=reconcile)
    assert sorted(r.text for r in sim.requests) == ["changed 0", "changed 1"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([{"prompt": "x", "task_id": "nobody"}], "unknown task_id: 'nobody'"),
        ([{"prompt": "x"}], "unknown task_id: None"),
        ([{"prompt": "x", "task_id": "task-0"}] * 2, "'task-0' twice"),
        (None, "must return a list of prompts, got NoneType"),
        ([7], "unknown task_id"),
    ],
)
def test_what_reconcile_must_not_return_is_a_value_error_and_nothing_is_sent(sim, given, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_parallel_managed(prompts(2), reconcile=lambda *_: given)
    assert sim.requests == ()


def test_what_reconcile_raises_before_anything_is_sent_comes_out_unchanged(sim):
    mine = LookupError("mine")

    def reconcile(*_):
        raise mine

    with pytest.raises(LookupError) as caught:
        invoke_parallel_managed(prompts(2), reconcile=reconcile)
    assert caught.value is mine
    assert sim.requests == ()


def test_what_is_dropped_during_the_run_is_stopped_in_flight_too(sim):
    sim.script(Reply(fault="silent"), matching="prompt 1.")
    asked = []

    def reconcile(given, tracker):
        asked.append([prompt["task_id"] for prompt in given])
        if len(asked) == 1:
            return given
        sim.wait_for(lambda s: len(s.requests) >= 2)
        return [prompt for prompt in given if prompt["task_id"] not in {"task-1", "task-3"}]

    tracker = TaskTracker()
    results = invoke_parallel_managed(
        prompts(4), reconcile=reconcile, reconcile_interval=0.01, max_workers=2, tracker=tracker
    )
    assert results[1] is None
    assert 1 in results.cancelled
    assert asked[0] == [f"task-{i}" for i in range(4)]
    assert "task-1" in asked[1]
    assert tracker.get("task-1").state is TaskState.CANCELLED
    sim.wait_for(lambda s: s.in_flight == 0)


def test_finished_tasks_are_not_reconciled_again(sim):
    release = threading.Event()
    sim.script(says("done"), matching="prompt 0.")
    sim.script(Reply(until=release), matching="prompt 1.")
    asked = []

    def reconcile(given, tracker):
        asked.append([prompt["task_id"] for prompt in given])
        if asked[-1] == ["task-1"]:
            release.set()
        return given

    invoke_parallel_managed(prompts(2), reconcile=reconcile, reconcile_interval=0.005)
    assert ["task-1"] in asked


@pytest.mark.parametrize("failing", [lambda *_: 1 / 0, lambda *_: [{"task_id": "nobody"}]])
def test_what_reconcile_raises_during_the_run_is_the_cause_and_loses_nothing(sim, failing):
    release = threading.Event()
    sim.script(Reply(until=release, text="paid for"), matching="prompt 0.")
    calls = []

    def reconcile(given, tracker):
        calls.append(1)
        if len(calls) == 1:
            return given
        sim.wait_for(lambda s: s.in_flight == 1)
        return failing(given, tracker)

    def release_once_others_were_cancelled(index, answer):
        release.set()

    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel_managed(
            prompts(3),
            reconcile=reconcile,
            reconcile_interval=0.001,
            max_workers=1,
            on_result=release_once_others_were_cancelled,
        )
    assert isinstance(caught.value.__cause__, (ZeroDivisionError, ValueError))
    assert caught.value.results == ["paid for", None, None]
    assert isinstance(caught.value.results, ManagedResults)
    assert caught.value.results.tracker.is_all_terminal()
    assert len(calls) == 2


# Stalls


def test_a_stalled_attempt_is_told_once_ended_at_its_socket_and_tried_again(sim):
    sim.script(Reply(fault="silent_with_pings", ping_interval=0.01), Reply(fault="silent"), says("at last"))
    stalls = []

    def on_stall(task_id, idle):
        stalls.append((task_id, idle, threading.current_thread()))

    results = invoke_parallel_managed(prompts(1), stall_timeout=0.5, on_stall=on_stall, **QUICK)
    assert results == ["at last"]
    assert [(task_id, thread) for task_id, _, thread in stalls] == [("task-0", threading.current_thread())] * 2
    assert all(0.5 <= idle < LONG for _, idle, _ in stalls)
    info = results.tracker.get("task-0")
    assert (info.attempt, info.error.kind) == (3, "stalled")
    sim.wait_for(lambda s: s.in_flight == 0)


def test_an_attempt_that_is_over_does_not_stall(sim):
    tracker, stalls = TaskTracker(), []
    tracker.on_transition(lambda task: task.state is TaskState.RUNNING and threading.Event().wait(0.7))
    invoke_parallel_managed(
        prompts(2), tracker=tracker, stall_timeout=0.5, on_stall=lambda *stall: stalls.append(stall)
    )
    assert stalls == []


def test_a_stall_is_told_of_only_once_it_is_ended(sim):
    sim.script(Reply(fault="silent"))
    seen = []

    def on_stall(*_):
        sim.wait_for(lambda s: s.in_flight == 0)
        seen.append(1)

    assert invoke_parallel_managed(prompts(1), stall_timeout=0.5, on_stall=on_stall, **QUICK) != [None]
    assert seen == [1]


def test_watched_attempts_are_streamed_and_others_are_not(sim):
    invoke_parallel_managed([{"prompt": "a", "streaming": False}], stall_timeout=60)
    invoke_parallel_managed([{"prompt": "a"}])
    assert [request.stream for request in sim.requests] == [True, False]


def test_a_task_that_stalls_to_the_end_fails(sim):
    sim.script_by(lambda _: Reply(fault="silent"))
    results = invoke_parallel_managed(prompts(1), stall_timeout=0.05, max_retries=1, **QUICK)
    assert results.errors[0].kind == "stalled"
    assert results.tracker.get("task-0").attempt == 2


def test_waiting_at_a_gate_is_no_stall(sim):
    limiter, stalls = ConcurrencyLimiter(1), []
    with limiter.slot():
        run, came = in_background(
            invoke_parallel_managed,
            prompts(1),
            concurrency_limiter=limiter,
            stall_timeout=0.05,
            on_stall=lambda *stall: stalls.append(stall),
        )
        run.join(0.3)
        assert run.is_alive()
    run.join(LONG)
    assert came[0].tracker.get("task-0").attempt == 1
    assert stalls == []


# Whom it tells, and how it ends


def test_callbacks_that_raise_are_logged_and_lose_no_answer(sim, caplog):
    sim.script(Reply(fault="silent"), matching="prompt 0.")

    def fails(*_):
        raise LookupError("mine")

    tracker = TaskTracker()
    tracker.on_transition(fails)
    results = invoke_parallel_managed(
        prompts(3), tracker=tracker, on_result=fails, on_stall=fails, stall_timeout=0.5, **QUICK
    )
    assert None not in results
    assert tracker.summary() == {"completed": 3}
    for told in ("on_result failed for prompts[2]", "on_stall failed for task-0", "A callback for task 'task-1'"):
        assert told in caplog.text


def test_results_are_told_as_they_come_with_their_tasks_completed(sim):
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    tracker, told = TaskTracker(), {}
    results = invoke_parallel_managed(
        prompts(3),
        tracker=tracker,
        on_result=lambda i, outcome: told.update({i: (outcome, tracker.get(f"task-{i}").finished)}),
    )
    assert {i: outcome for i, (outcome, _) in told.items()} == {0: results[0], 1: results.errors[1], 2: results[2]}
    assert all(finished for _, finished in told.values())


def test_a_token_ends_the_run_with_what_was_answered(sim):
    sim.script(says("done"), matching="prompt 0.")
    sim.script(*[Reply(fault="silent")] * 3)
    token = InterruptToken()
    run, came = in_background(invoke_parallel_managed, prompts(6), max_workers=2, interrupt_token=token)
    sim.wait_for(lambda s: s.in_flight == 2 and len(s.requests) == 3)
    token.interrupt()
    run.join(LONG)
    (results,) = came
    assert (results.interrupted, results[0]) == (True, "done")
    assert {error.kind for error in results.errors.values()} == {"interrupted"}
    assert results.tracker.summary() == {"completed": 1, "cancelled": 5}


def test_ctrl_c_has_the_results_with_the_tracker(sim):
    sim.script(*[Reply(fault="silent")] * 4, matching="prompt 1.")
    told = []

    def on_result(*_):
        told.append(1)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(ParallelInterrupt) as caught:
        invoke_parallel_managed(prompts(4), max_workers=2, on_result=on_result)
    results = caught.value.results
    assert isinstance(results, ManagedResults)
    assert results[0] is not None
    assert results.errors.keys() >= {1, 3}
    assert results.tracker.is_all_terminal()
    assert len(told) == 1


@pytest.mark.parametrize("raised", [SystemExit, asyncio.CancelledError, KeyboardInterrupt])
def test_whatever_breaks_a_run_off_its_answers_are_in_the_journal(sim, tmp_path, raised):
    broken_off = threading.Event()
    sim.script(*[Reply(until=broken_off)] * 2, matching="prompt 2.")

    def on_result(index, _):
        if index == 1:
            raise raised

    with pytest.raises(raised):
        invoke_parallel_managed(prompts(4), max_workers=1, journal=tmp_path / "run.sqlite", on_result=on_result)
    answered = {r.text for r in sim.requests if r.outcome == "answered"}
    before = len(sim.requests)
    broken_off.set()
    assert None not in invoke_parallel_managed(prompts(4), journal=tmp_path / "run.sqlite")
    assert answered.isdisjoint(r.text for r in sim.requests[before:])
    assert answered >= {"prompt 0.", "prompt 1."}


@pytest.mark.parametrize("state", ["claimed", "running", "completed"])
def test_ctrl_c_in_an_observer_ends_the_run_with_its_results(sim, state):
    tracker, limiter = TaskTracker(), ConcurrencyLimiter(2)
    tracker.on_transition(lambda task: task.state == state and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(ParallelInterrupt) as caught:
        invoke_parallel_managed(prompts(4), max_workers=2, tracker=tracker, concurrency_limiter=limiter)
    assert len(caught.value.results) == 4
    assert tracker.is_all_terminal()
    assert limiter.statistics().total.in_use == 0


def test_ctrl_c_while_a_journal_is_recalled_has_the_results(sim, tmp_path):
    journal = tmp_path / "run.sqlite"
    invoke_parallel_managed(prompts(2), journal=journal)
    with pytest.raises(ParallelInterrupt) as caught:
        invoke_parallel_managed(prompts(4), journal=journal, on_result=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert len(caught.value.results) == 4
    assert caught.value.results[0] is not None


def test_a_failure_that_all_share_stops_what_has_not_started(sim):
    sim.script(says("paid for"), Reply(fault="spend_limit"))
    results = invoke_parallel_managed(prompts(30), max_workers=1)
    assert results[0] == "paid for"
    assert {error.kind for error in results.errors.values()} == {"spend_limit"}
    assert results.tracker.summary() == {"completed": 1, "failed": 1, "cancelled": 28}
    assert len(sim.requests) == 2


def test_a_prompt_that_cannot_be_sent_is_a_failed_task_and_costs_nothing(sim):
    told = []
    given = [{"prompt": "a"}, {"prompt": " "}, {"prompt": "c", "tools": [print]}]
    results = invoke_parallel_managed(given, on_result=lambda index, _: told.append(index))
    assert (results[0] is None, [*results.errors], sorted(told)) == (False, [1, 2], [0, 1, 2])
    assert {error.kind for error in results.errors.values()} == {"invalid_request"}
    assert "prompts[1]: prompt is blank" in str(results.errors[1])
    assert results.tracker.summary() == {"completed": 1, "failed": 2}
    assert len(sim.requests) == 1


def test_a_run_of_which_nothing_can_be_sent_needs_no_server(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    results = invoke_parallel_managed([{"prompt": " "}])
    assert results.tracker.summary() == {"failed": 1}


@pytest.mark.parametrize("text", ["\udce9", Path("gone.txt"), b"x"])
def test_a_prompt_that_cannot_be_copied_is_a_failed_task_too(sim, text):
    bad = {"prompt": [{"type": "text", "text": text}]}
    for reconcile in (None, lambda given, _: [{**prompt, **bad} for prompt in given]):
        results = invoke_parallel_managed([bad], reconcile=reconcile)
        assert str(results.errors[0]).startswith("invalid_request: prompts[0]: ")
    assert not sim.requests


def test_a_long_pause_is_waited_for_with_one_line_in_the_log(sim, caplog):
    sim.script(*[Reply(fault="rate_limit", retry_after=3600.0)] * 4)
    token = InterruptToken()
    run, came = in_background(invoke_parallel_managed, prompts(4), max_workers=2, interrupt_token=token)
    until(lambda: "A call has to wait" in caplog.text)
    assert run.is_alive()
    assert len(sim.requests) <= 4  # none of them a second time
    token.interrupt()
    run.join(LONG)
    assert {error.kind for error in came[0].errors.values()} == {"interrupted"}
    assert sum("A call has to wait" in record.getMessage() for record in caplog.records) == 1


def test_the_shared_context_is_paid_for_once(sim):
    results = invoke_parallel_managed(prompts(6), shared_system=CONTEXT, cache_shared_system=True)
    assert results.usage.cache_creation_input_tokens == 2500
    assert results.usage.cache_read_input_tokens == 5 * 2500


def test_progress_counts_every_task(sim, capsys):
    invoke_parallel_managed(prompts(3), progress=True, reconcile=lambda given, _: given[1:])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "2/3" in last
    assert "cancelled=1" in last


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": ["a"]}, r"prompts\[0\] is a str"),
        ({"prompts": [{"prompt": "a", "task_id": 7}]}, r"prompts\[0\]: task_id must be a non-empty str, got 7"),
        ({"prompts": [{"prompt": "a", "task_id": "x"}] * 2}, r"prompts\[1\]: the task_id 'x' is there twice"),
        ({"prompts": [{"prompt": "a", "category": 7}]}, r"prompts\[0\]: category must be"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_workers": 0}, "max_workers"),
        ({"base_delay_ms": -1}, "base_ms must be"),
        ({"max_delay_ms": float("nan")}, "max_ms must be"),
        ({"base_delay_ms": float("inf")}, "base_ms must be"),
        ({"stall_timeout": 0}, "stall_timeout must be"),
        ({"reconcile_interval": 1}, "no reconcile to call"),
        ({"reconcile_interval": -1, "reconcile": print}, "reconcile_interval must be"),
        ({"journal": " "}, "journal must be"),
    ],
)
def test_bad_input_is_a_value_error_before_any_request(sim, options, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_parallel_managed(**{"prompts": prompts(2), **options})
    assert sim.requests == ()


@pytest.mark.parametrize("name", ["reconcile", "on_stall", "on_result", "concurrency_limiter", "tracker"])
def test_what_is_of_the_wrong_kind_is_a_type_error_before_any_request(sim, name):
    with pytest.raises(TypeError, match=name):
        invoke_parallel_managed(prompts(2), **{name: 7})
    assert sim.requests == ()


def test_results_pickle_with_their_tracker(sim):
    sim.script(Reply(fault="not_found"))
    results = invoke_parallel_managed(prompts(2), max_workers=1)
    copied = pickle.loads(pickle.dumps(results))
    assert copied == results
    assert copied.errors[0].kind == "not_found"
    assert copied.tracker.summary() == {"completed": 1, "failed": 1}


def test_the_example_of_the_seed(sim):
    def should_run(prompt):
        return prompt["task_id"] != "perf-2"

    limiter = ConcurrencyLimiter(global_limit=10, category_limits={"security": 3, "perf": 3})

    def reconcile(prompts, tracker):
        return [p for p in prompts if should_run(p)]

    results = invoke_parallel_managed(
        prompts=[
            {"prompt": "Security review...", "task_id": "sec-1", "category": "security"},
            {"prompt": "Perf review...", "task_id": "perf-1", "category": "perf"},
            {"prompt": "Perf review...", "task_id": "perf-2", "category": "perf"},
        ],
        reconcile=reconcile,
        concurrency_limiter=limiter,
        max_retries=3,
        stall_timeout=60.0,
        on_stall=lambda tid, idle: print(f"{tid} stalled"),
    )
    assert [answer is None for answer in results] == [False, False, True]


# Journals


def test_the_same_call_with_the_same_journal_asks_only_for_the_rest(sim, tmp_path):
    journal = tmp_path / "run.sqlite"
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    first = invoke_parallel_managed(prompts(3), journal=journal)
    assert first[1] is None
    told = []
    second = invoke_parallel_managed(prompts(3), journal=journal, on_result=lambda i, _: told.append(i))
    assert [second[0], second[2]] == [first[0], first[2]]
    assert second[1] is not None
    assert [r.text for r in sim.requests[3:]] == ["prompt 1."]
    assert second.tracker.summary() == {"completed": 3}
    assert (first.recalled, second.recalled) == (set(), {0, 2})
    assert sorted(told) == [0, 1, 2]
    assert second[0].usage == first[0].usage


def test_what_this_run_used_is_told_beside_the_whole(sim, tmp_path):
    pytest.importorskip("genai_prices")
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    ask = partial(invoke_parallel_managed, prompts(3), journal=tmp_path / "run.sqlite")
    first, second, third = ask(), ask(), ask()
    assert (first.run_usage, first.run_cost_usd) == (first.usage, first.cost_usd)
    assert (second.run_usage, second.run_cost_usd) == (second[1].usage, second[1].cost_usd)
    assert second.cost_usd == pytest.approx(first.cost_usd + second.run_cost_usd)
    assert (third.usage, third.run_usage, third.run_cost_usd) == (second.usage, Usage(), 0)
    assert "  3 answered; 2 recalled from the journal\n" in second.summary()


def test_a_refusal_that_is_recalled_costs_what_it_cost_and_was_not_started_here(sim, tmp_path):
    pytest.importorskip("genai_prices")
    sim.script(Reply(stop_reason="refusal"))
    first, again = (invoke_parallel_managed(prompts(1), journal=tmp_path / "run.sqlite") for _ in range(2))
    assert (again.usage, again.cost_usd) == (first.usage, first.cost_usd)
    assert first.cost_usd > 0
    assert (again.run_usage, again.run_cost_usd) == (Usage(), 0)
    task = again.tracker.get("task-0")
    assert (task.state, task.finished, task.attempt, task.started_at) == (TaskState.FAILED, True, 0, None)
    assert task.error is again.errors[0]


def test_what_was_recalled_was_not_started_here(sim, tmp_path):
    first = invoke_parallel_managed(prompts(1), journal=tmp_path / "run.sqlite").tracker.get("task-0")
    again = invoke_parallel_managed(prompts(1), journal=tmp_path / "run.sqlite").tracker.get("task-0")
    assert (first.attempt, again.attempt) == (1, 0)
    assert first.started_at is not None
    assert again.started_at is None


def test_a_run_that_a_journal_answers_whole_needs_neither_key_nor_server(sim, tmp_path, monkeypatch):
    first = invoke_parallel_managed(prompts(3), journal=tmp_path / "run.sqlite")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert invoke_parallel_managed(prompts(3), journal=tmp_path / "run.sqlite", progress=True) == first
    assert len(sim.requests) == 3


def test_prompts_without_ids_are_recognised_wherever_they_stand(sim, tmp_path):
    journal = tmp_path / "run.sqlite"
    first = invoke_parallel_managed([{"prompt": "a"}, {"prompt": "b"}], journal=journal)
    second = invoke_parallel_managed([{"prompt": "new"}, {"prompt": "a"}, {"prompt": "edited b"}], journal=journal)
    assert second[1] == first[0]
    assert sorted(r.text for r in sim.requests[2:]) == ["edited b", "new"]


def test_a_task_id_of_the_caller_is_its_own_whatever_it_looks_like(sim, tmp_path):
    asked = [{"prompt": str(i), "task_id": f"prompts[{i}]"} for i in range(3)]
    journal = tmp_path / "run.sqlite"
    invoke_parallel_managed(asked, journal=journal)
    assert None not in invoke_parallel_managed(asked[::-1], journal=journal)
    assert len(sim.requests) == 3
    assert [entry.task_id for entry in read_journal(journal)].count(None) == 0


def test_a_generated_id_is_no_task_id_of_the_caller(sim, tmp_path):
    journal = tmp_path / "run.sqlite"
    invoke_parallel_managed([{"prompt": "a"}, {"prompt": "b"}], journal=journal)
    assert [entry.task_id for entry in read_journal(journal)] == [None, None]
    invoke_parallel_managed([{"prompt": "a", "task_id": "prompts[0]"}, {"prompt": "b"}], journal=journal)
    assert [request.text for request in sim.requests[2:]] == ["a"]


def test_a_refusal_is_paid_for_once_until_it_is_dropped(sim, tmp_path):
    journal = tmp_path / "run.sqlite"
    sim.script(Reply(fault="refusal"), matching="prompt 1.")
    first = invoke_parallel_managed(prompts(3), journal=journal)
    told = []
    second = invoke_parallel_managed(prompts(3), journal=journal, on_result=lambda i, _: told.append(i))
    assert len(sim.requests) == 3
    assert (second.recalled, sorted(told)) == ({0, 1, 2}, [0, 1, 2])
    assert [fields_of(results.errors[1]) for results in (first, second)] == [fields_of(first.errors[1])] * 2
    assert (str(second.errors[1]), second.errors[1].kind) == (str(first.errors[1]), "refusal")
    assert (second.usage, second[0], second[1]) == (first.usage, first[0], None)
    assert states(second.tracker, "task-1")[-1] == "failed"
    refused = [entry for entry in read_journal(journal) if isinstance(entry.outcome, ClaudeInvocationError)]
    assert drop_from_journal(journal, refused) == 1
    assert None not in invoke_parallel_managed(prompts(3), journal=journal)
    assert [request.text for request in sim.requests[3:]] == ["prompt 1."]


def test_no_other_failure_is_kept(sim, tmp_path):
    sim.script(Reply(fault="not_found"), matching="prompt 0.")
    invoke_parallel_managed(prompts(1), journal=tmp_path / "run.sqlite")
    assert read_journal(tmp_path / "run.sqlite") == []


def test_what_reconcile_drops_can_be_asked_later(sim, tmp_path):
    journal = tmp_path / "run.sqlite"
    invoke_parallel_managed(prompts(3), journal=journal, reconcile=lambda given, _: given[:1])
    results = invoke_parallel_managed(prompts(3), journal=journal)
    assert None not in results
    assert len(sim.requests) == 3


def test_a_second_run_on_a_journal_is_refused_at_once(sim, tmp_path):
    release = threading.Event()
    sim.script(Reply(until=release))
    run, came = in_background(invoke_parallel_managed, prompts(1), journal=tmp_path / "run.sqlite")
    sim.wait_for(lambda s: s.in_flight == 1)
    with pytest.raises(JournalError, match="in use by another run"):
        invoke_parallel_managed(prompts(1), journal=tmp_path / "run.sqlite")
    release.set()
    run.join(LONG)
    assert None not in came[0]


def test_answers_in_hand_at_ctrl_c_are_in_the_journal(sim, tmp_path):
    sim.script(Reply(fault="silent"), matching="prompt 3.")

    def on_result(*_):
        sim.wait_for(lambda s: "prompt 3." in [r.text for r in s.requests])
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(ParallelInterrupt) as caught:
        invoke_parallel_managed(prompts(4), journal=tmp_path / "run.sqlite", on_result=on_result)
    had = [i for i, answer in enumerate(caught.value.results) if answer is not None]
    before = len(sim.requests)
    assert None not in invoke_parallel_managed(prompts(4), journal=tmp_path / "run.sqlite")
    # As a set: a request that the interrupt ended on its way may be counted late.
    assert {r.text for r in sim.requests[before:]} == {f"prompt {i}." for i in range(4) if i not in had}


def test_a_journal_that_is_full_stops_the_run_and_loses_no_answer(sim, tmp_path):
    journal = tmp_path / "run.sqlite"
    invoke_parallel_managed(prompts(1), journal=journal)

    full = threading.Event()

    def on_result(index, _):
        if index == 1:  # as on a full disk
            _journal_file._open[str(journal)]._db.execute("PRAGMA max_page_count = 1")
            full.set()

    for i in (2, 3):
        sim.script(Reply(text="long " * 5000, until=full), matching=f"prompt {i}.")
    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel_managed(prompts(6), journal=journal, max_workers=1, on_result=on_result)
    assert isinstance(caught.value.__cause__, JournalError)
    results = caught.value.results
    assert [answer is None for answer in results] == [False, False, False, True, True, True]
    assert results[2].startswith("long ")
    assert results.tracker.get("task-2").state is TaskState.FAILED
    again = invoke_parallel_managed(prompts(6), journal=journal, max_workers=1)
    assert None not in again
    assert [r.text for r in sim.requests[3:]] == [f"prompt {i}." for i in (2, 3, 4, 5)]


def test_an_observer_that_ends_the_program_while_a_journal_is_restored_ends_it(sim, tmp_path):
    invoke_parallel_managed(prompts(2), journal=tmp_path / "run.sqlite")

    def leave(*_):
        raise SystemExit

    tracker = TaskTracker()
    tracker.on_transition(leave)
    with pytest.raises(SystemExit):
        invoke_parallel_managed(prompts(4), journal=tmp_path / "run.sqlite", tracker=tracker)
    assert tracker.get("task-3").state is TaskState.UNCLAIMED  # nothing was sent: it may be asked again
    assert len(sim.requests) == 2


def test_what_a_prompt_may_say_a_managed_run_may_say_for_all(sim):
    invoke_parallel_managed(
        [{"prompt": "a"}, {"prompt": "b", "system": "mine"}], system="ours", stop_sequences=["x"], max_workers=1
    )
    assert [request.body["system"] for request in sim.requests] == ["ours", "mine"]
    assert {request.body["stop_sequences"][0] for request in sim.requests} == {"x"}
    with pytest.raises(TypeError, match="unknown parameter 'jornal'"):
        invoke_parallel_managed(prompts(1), jornal="x")


def test_of_attempts_in_flight_only_those_are_stalled_that_show_no_activity(sim):
    release = threading.Event()
    sim.script(Reply(fault="silent"), matching="prompt 0.")
    sim.script(Reply(until=release, text="late"), matching="prompt 1.")
    stalls = []

    def on_stall(task_id, _):
        stalls.append(task_id)
        release.set()

    results = invoke_parallel_managed(prompts(2), stall_timeout=0.3, on_stall=on_stall, **QUICK)
    assert None not in results
    assert stalls[0] in {"task-0", "task-1"}


def test_all_tasks_cancelled_before_anything_is_sent_are_results_too(sim):
    tracker, told = TaskTracker(), []

    def reconcile(given, tracker):
        for prompt in given:
            tracker.cancel(prompt["task_id"])
        return given

    results = invoke_parallel_managed(
        prompts(2), tracker=tracker, reconcile=reconcile, on_result=lambda i, _: told.append(i)
    )
    assert results == [None, None]
    assert results.cancelled.keys() == {*told} == {0, 1}
    assert sim.requests == ()


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_whatever_breaks_a_run_off_every_task_has_its_end(sim, raised):
    tracker = TaskTracker()
    sim.script(Reply(fault="not_found"), matching="prompt 3.")

    def on_result(*_):
        until(lambda: len(sim.requests) == 20)
        raise raised

    with pytest.raises(raised):
        invoke_parallel_managed(prompts(20), tracker=tracker, on_result=on_result)
    assert tracker.is_all_terminal()
    assert tracker.summary().get("completed", 0) >= 10


def test_a_category_said_for_all_is_that_of_the_tasks(sim):
    results = invoke_parallel_managed([{"prompt": "a"}, {"prompt": "b", "category": "own"}], category="ours")
    assert [info.category for info in results.tracker.get_by_state("completed")] == ["ours", "own"]
    with pytest.raises(ValueError, match="category must be a str"):
        invoke_parallel_managed([{"prompt": "a"}], category=3)


def test_reconcile_is_asked_though_callbacks_are_slow_and_not_about_what_is_answered(sim):
    asked, release = [], threading.Event()
    sim.script(Reply(until=release), matching="prompt 2.")

    def reconcile(given, _):
        asked.append([prompt["task_id"] for prompt in given])
        if asked[-1] == ["task-2"]:  # though the tracker has not been told of the others' answers
            release.set()
        return given

    def on_result(*_):
        until(lambda: len(sim.requests) == 3)

    invoke_parallel_managed(prompts(3), reconcile=reconcile, reconcile_interval=0.001, on_result=on_result)
    assert asked[0] == ["task-0", "task-1", "task-2"]
    assert ["task-2"] in asked


def test_answers_are_in_the_journal_while_a_callback_takes_its_time(sim, tmp_path):
    path = tmp_path / "run.sqlite"

    def kept():
        ((count,),) = _journal_file._open[str(path)]._db.execute("SELECT count(*) FROM answers")
        return count

    seen = []

    def on_result(*_):
        if not seen:
            until(lambda: kept() == 12)
            seen.append(kept())

    invoke_parallel_managed(prompts(12), journal=path, on_result=on_result)
    assert seen == [12]


@pytest.mark.parametrize(("options", "at_once"), [({}, 12), ({"max_workers": 11}, 11)])
def test_a_limiter_alone_says_how_many_run_at_once(sim, options, at_once):
    sim.script_by(lambda _: Reply(fault="silent"))
    token = InterruptToken()
    managed = partial(invoke_parallel_managed, prompts(20), concurrency_limiter=ConcurrencyLimiter(12), **options)
    run = threading.Thread(target=managed, kwargs={"interrupt_token": token})
    run.start()
    until(lambda: len(sim.requests) == at_once)
    token.interrupt()
    run.join(LONG)
    assert len(sim.requests) == at_once


def test_a_run_that_stops_after_failures_cancels_what_has_not_begun(sim):
    sim.script_by(lambda _: Reply(fault="not_found"))
    asked = [{"prompt": str(n)} for n in range(9)]
    results = invoke_parallel_managed(asked, max_workers=1, stop_after=2)
    assert (len(sim.requests), results.tracker.summary()) == (2, {"failed": 2, "cancelled": 7})


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no str")


def test_an_error_without_a_message_that_reconcile_raises_stops_the_run_in_order(sim):
    sim.script_by(lambda _: Reply(fault="silent"))
    asked = []

    def reconcile(given, _):
        asked.append(1)
        if len(asked) > 1:
            sim.script_by(lambda _: Reply(text="late"))
            raise MuteError
        return given

    with pytest.raises(ParallelInvocationError, match="a MuteError without a message") as stopped:
        invoke_parallel_managed(
            prompts(9), reconcile=reconcile, reconcile_interval=0.05, stall_timeout=0.2, max_retries=0
        )
    assert len(stopped.value.results) == 9


def test_an_answer_whose_start_a_ctrl_c_cut_in_two_is_a_completed_task():
    tracker = TaskTracker()
    recorder = TaskRecorder(["a"], [Asked("a")], now(), tracker, {0: 0}, None, None)
    tracker.add("a")
    tracker.claim("a")  # and there the Ctrl-C came
    recorder.ended({0: ClaudeResponse("paid")})
    assert states(tracker, "a") == ["unclaimed", "claimed", "running", "completed"]


def test_a_number_of_failures_to_stop_after_that_is_none_is_refused_before_a_journal_is_made(sim, tmp_path):
    with pytest.raises(ValueError, match="stop_after must be a whole number of at least 1, got 0"):
        invoke_parallel_managed(prompts(1), stop_after=0, journal=tmp_path / "journal")
    assert not (tmp_path / "journal").exists()
