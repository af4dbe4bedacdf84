"""The engine on calls and gates made for the test: what is entered is left, and what is asked is not taken."""

import contextlib
import math
import threading

import pytest

from claude_client import ClaudeInvocationError, ClaudeResponse
from claude_client._call import Again
from claude_client._dispatch import Job, Run

LONG = 20  # seconds after which a test gives up


class Call:
    """A call that ends as it is told: each of *ends* is for one attempt."""

    def __init__(self, *ends, waits=(), shut=()):
        self._ends, self._waits, self._shut = [*ends], [*waits], [*shut]

    def wait(self):
        return self._waits.pop(0) if self._waits else 0.0

    def enter(self):
        came = self._shut.pop(0) if self._shut else 0.0
        if isinstance(came, Exception):
            raise came
        return came

    def attempt(self, operation):
        end = self._ends.pop(0) if self._ends else ClaudeResponse("done")
        end = end(operation) if callable(end) else end
        if isinstance(end, Exception):
            raise end
        return end

    def outcome_of(self, exc, operation):
        return exc

    def ended_by(self, error):
        return error


class Gate:
    """A gate that notes who went through, and refuses as often as it is told."""

    def __init__(self, *, refuses=0):
        self.inside, self.entered, self.left = 0, 0, 0
        self._refuses = refuses

    def waking(self, wake):
        return contextlib.nullcontext()

    def wait(self, job):
        return 0.0

    def enter(self, job):
        if self._refuses:
            self._refuses -= 1
            return 0.001
        self.inside += 1
        self.entered += 1
        return 0.0

    def leave(self, job):
        self.inside -= 1
        self.left += 1

    def done(self, job):
        assert self.inside >= 0


def outcomes(*calls, **options):
    run = Run([Job(i, call) for i, call in enumerate(calls)], max_workers=2, **options)
    run.to_the_end()
    return run.outcomes


def test_what_was_entered_is_left_where_a_later_gate_refuses():
    first, second = Gate(), Gate(refuses=3)
    assert outcomes(Call(), gates=[first, second]) == {0: "done"}
    assert (first.entered, first.left, second.entered) == (4, 4, 1)


def test_what_was_entered_is_left_where_the_rate_gate_refuses():
    gate = Gate()
    assert outcomes(Call(shut=[0.001, 0.001]), gates=[gate]) == {0: "done"}
    assert (gate.entered, gate.left) == (3, 3)


def test_what_was_entered_is_left_where_the_rate_gate_is_shut_for_too_long():
    gate, shut = Gate(), ClaudeInvocationError("shut", kind="rate_limit")
    assert outcomes(Call(shut=[shut]), Call(), gates=[gate]) == {0: shut, 1: "done"}
    assert gate.inside == 0


def test_nothing_is_entered_while_there_is_a_wait_elsewhere():
    gate = Gate()
    assert outcomes(Call(waits=[0.001, 0.001, 0.001]), gates=[gate]) == {0: "done"}
    assert (gate.entered, gate.left) == (1, 1)


def test_a_job_leaves_its_gates_between_two_attempts():
    gate = Gate()
    failed = ClaudeInvocationError("no", retryable=True)
    assert outcomes(Call(Again(0.0, failed), Again(0.0)), gates=[gate]) == {0: "done"}
    assert (gate.entered, gate.left) == (3, 3)


def test_only_failed_attempts_are_told_as_retries():
    failed, starts, retries = ClaudeInvocationError("no", retryable=True), [], []
    outcomes(
        Call(Again(0.0, failed), Again(0.0)),
        on_start=starts.append,
        on_retry=lambda index, error: retries.append((index, error)),
    )
    assert starts == [0, 0, 0]
    assert retries == [(0, failed)]


def test_a_job_cancelled_as_it_starts_is_ended_at_once():
    ends = []

    def attempt(operation):
        ends.append(operation.ended)
        return ClaudeInvocationError("cancelled", kind="cancelled")

    run = Run([Job(0, Call(attempt)), Job(1, Call())], max_workers=2)
    start = run._start

    def cancelled_before(job, pool):
        if job.index == 0:
            run.cancel(0)
        start(job, pool)

    run._start = cancelled_before
    run.to_the_end()
    assert ends == ["cancelled"]
    assert run.outcomes[1] == "done"


def test_a_job_that_waits_is_cancelled_and_never_starts():
    started = []
    entered, release = threading.Event(), threading.Event()

    def hold(_):
        entered.set()
        assert release.wait(LONG)
        return ClaudeResponse("held")

    calls = [Call(hold), Call(hold), Call(Again(3600.0)), Call()]
    run = Run([Job(i, call) for i, call in enumerate(calls)], max_workers=1, on_start=started.append)
    running = threading.Thread(target=run.to_the_end)
    running.start()
    assert entered.wait(LONG)
    run.cancel(1)
    run.cancel(3)
    run.cancel(99)
    release.set()
    while 2 not in started:
        assert running.is_alive()
    run.cancel(2)
    running.join(LONG)
    assert started == [0, 2]
    assert {i: getattr(outcome, "kind", outcome) for i, outcome in run.outcomes.items()} == {
        0: "held",
        1: "cancelled",
        2: "cancelled",
        3: "cancelled",
    }


def test_a_stopped_run_lets_what_is_under_way_come_to_its_end():
    stopped = ClaudeInvocationError("stopped", kind="interrupted")

    def stop(_):
        run.stop(stopped)
        run.stop(ClaudeInvocationError("too late"))
        return ClaudeResponse("whole")

    run = Run([Job(0, Call(stop)), Job(1, Call()), Job(2, Call())], max_workers=1)
    run.to_the_end()
    assert run.outcomes[0] == "whole"
    assert [str(run.outcomes[i]) for i in (1, 2)] == ["stopped", "stopped"]
    assert not run.interrupted


def test_chores_are_done_when_they_are_due_and_not_after_ctrl_c():
    times, done = [], []

    def chore(under_way):
        done.append(len(under_way))
        if len(done) == 3:
            raise KeyboardInterrupt
        times.append(1)
        return 0.0

    def until_ended(operation):
        while not operation.ended:
            pass
        return ClaudeInvocationError("interrupted", kind="interrupted")

    run = Run([Job(0, Call(until_ended))], max_workers=1, chores=[chore])
    with pytest.raises(KeyboardInterrupt):
        run.to_the_end()
    assert done == [1, 1, 1]
    assert run.outcomes[0].kind == "interrupted"


def test_a_long_pause_is_told_once_and_only_where_nothing_is_under_way(caplog):
    release = threading.Event()

    def hold(_):
        assert release.wait(LONG)
        return ClaudeResponse("held")

    run = Run([Job(0, Call(hold)), Job(1, Call(Again(3600.0)))], max_workers=2)
    running = threading.Thread(target=run.to_the_end)
    running.start()
    for _ in range(5):
        run.wake()
    assert "Nothing is sent" not in caplog.text
    release.set()
    while "Nothing is sent" not in caplog.text:
        assert running.is_alive()
    for _ in range(5):
        run.wake()
    run.interrupt()
    running.join(LONG)
    assert caplog.text.count("Nothing is sent") == 1


def test_a_job_nobody_lets_in_waits_until_it_is_woken():
    open_ = threading.Event()

    class Shut(Gate):
        def waking(self, wake):
            self.wake = wake
            return contextlib.nullcontext()

        def wait(self, job):
            return 0.0 if open_.is_set() else math.inf

    gate = Shut()
    run = Run([Job(0, Call())], max_workers=1, gates=[gate])
    running = threading.Thread(target=run.to_the_end)
    running.start()
    open_.set()
    while running.is_alive():
        with contextlib.suppress(AttributeError):
            gate.wake()
    assert run.outcomes == {0: "done"}
