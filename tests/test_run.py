"""The engine on calls and gates made for the test: what is entered is left, and what is asked is not taken."""

import contextlib
import math
import threading

import pytest

from claude_client import ClaudeInvocationError, ClaudeResponse
from claude_client._engine.flow import Again
from claude_client._engine.threads import Job, Run
from helpers import until

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
        self.inside, self.entered, self.left = set(), 0, 0
        self._refuses = refuses

    def waking(self, wake):
        return contextlib.nullcontext()

    def wait(self, job):
        return 0.0

    def enter(self, job):
        if self._refuses:
            self._refuses -= 1
            return 0.001
        self.inside.add(job)
        self.entered += 1
        return 0.0

    def leave(self, job):
        self.left += job in self.inside
        self.inside.discard(job)

    def done(self, job):
        assert job not in self.inside


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
    assert not gate.inside


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

    def cancelled_before(job):
        if job.index == 0:
            run.cancel(0)
        start(job)

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
    until(lambda: 2 in started)
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


def test_a_long_pause_is_told_once_for_all_who_wait_for_it(caplog):
    run = Run([Job(i, Call(Again(3600.0))) for i in range(5)], max_workers=2)
    running = threading.Thread(target=run.to_the_end)
    running.start()
    until(lambda: len(run._due) == 5)
    for _ in range(5):
        run.wake()
    run.interrupt()
    running.join(LONG)
    assert caplog.text.count("A call has to wait") == 1


def test_waiting_for_others_is_no_pause(caplog):
    class Full(Gate):
        def enter(self, job):
            return math.inf if self.inside else super().enter(job)

    outcomes(Call(), Call(Again(0.001)), Call(), gates=[Full()])
    assert "A call has to wait" not in caplog.text


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
@pytest.mark.parametrize("where", ["on_start", "on_retry", "chore", "wait", "enter", "leave", "done"])
def test_whatever_is_raised_wherever_the_run_ends_with_all_there_is(raised, where):
    calls = [Call(), Call(Again(0.0, ClaudeInvocationError("no"))), Call(), Call()]
    done = []

    def break_off(*_):
        done.append(1)
        if len(done) == 2:
            raise raised

    gate, options = Gate(), {}
    if where in {"on_start", "on_retry"}:
        options[where] = break_off
        calls.append(Call(Again(0.0, ClaudeInvocationError("no"))))
    elif where == "chore":
        options["chores"] = [lambda under_way: break_off() or math.inf]
    else:
        plain = getattr(gate, where)

        def breaking(job):
            came = plain(job)
            break_off()
            return came

        setattr(gate, where, breaking)
    run = Run([Job(i, call) for i, call in enumerate(calls)], max_workers=2, gates=[gate], **options)
    with pytest.raises(raised):
        run.to_the_end()
    assert run.outcomes.keys() == run.settled().keys() == {*range(len(calls))}
    assert not gate.inside
    assert {getattr(outcome, "kind", str(outcome)) for outcome in run.outcomes.values()} <= {"done", "interrupted"}


def test_an_answer_that_has_come_is_not_lost_to_ctrl_c():
    came = threading.Event()

    def attempt(_):
        came.set()
        return ClaudeResponse("paid for")

    def chore(under_way):
        if under_way:
            assert came.wait(LONG)
            raise KeyboardInterrupt
        return math.inf

    run = Run([Job(0, Call(attempt))], max_workers=1, chores=[chore])
    with pytest.raises(KeyboardInterrupt):
        run.to_the_end()
    assert run.outcomes == {0: "paid for"}


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
