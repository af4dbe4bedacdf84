"""Which call may go next, as values: gates and attempts made for the test, and a clock that the test moves."""

import math
from types import SimpleNamespace

import pytest
from anthropic.types import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_client import ClaudeInvocationError, Usage
from claude_client._engine.flow import CallFlow
from claude_client._engine.scheduler import Job, Scheduler
from claude_client._gates.gate import Wait, admit
from claude_client._values.attempt import Answer, Attempt
from claude_client._values.request import build
from helpers import message

pytestmark = pytest.mark.once

HI = build(prompt="hi")


class Gate:
    """A gate that lets in as it is told, and knows who is inside. *peek* is what it says it would have one wait for."""

    def __init__(self, answer=None, peek=None):
        self.answer, self.peek = answer, peek
        self.asked, self.inside = 0, []

    def would_wait(self, request, now):
        return self.peek

    def admit(self, request, now):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer:
            return self.answer
        permit = SimpleNamespace(on_event=lambda *_: None, settle=lambda _: self.inside.remove(permit))
        self.inside.append(permit)
        return permit


def scheduler_of(*categories, gates=(), now=0.0, stop_after=None, **options):
    jobs = [Job(i, CallFlow(build(prompt="hi", category=category, **options))) for i, category in enumerate(categories)]
    return Scheduler(jobs, gates, now, stop_after=stop_after)


def end(scheduler, attempt, now=0.0, *, error=None, text="done", **fields):
    """Hand *attempt* back with an answer or *error*."""
    if error:
        attempt.error = ClaudeInvocationError("no", **{"kind": error, "retryable": error == "overloaded", **fields})
    else:
        said = Message.construct(**message(text, **fields))
        attempt.answer, attempt.usage = Answer(said, "req_1"), Usage.of(said.usage)
    attempt.settle()
    return scheduler.finished(attempt, now)


def start(scheduler, now=0.0):
    job, attempt = scheduler.poll(now)
    return job.index, attempt


# Gates


def test_what_one_gate_gave_is_given_back_where_a_later_one_refuses():
    first, second = Gate(), Gate(answer=Wait(3.0, "limiter"))
    assert admit([first, second], HI, 0.0, 0.0) == Wait(3.0, "limiter")
    assert (first.asked, first.inside, second.asked) == (1, [], 1)


@pytest.mark.parametrize("raised", [ClaudeInvocationError("shut"), ZeroDivisionError()])
def test_what_one_gate_gave_is_given_back_where_a_later_one_raises(raised):
    first = Gate()
    with pytest.raises(type(raised)):
        admit([first, Gate(answer=raised)], HI, 0.0, 0.0)
    assert first.inside == []


def test_nothing_is_taken_while_a_later_gate_would_have_one_wait():
    gates = [Gate(), Gate(peek=Wait(1.0, "rate limit")), Gate(peek=Wait(math.inf, "cache writer"))]
    assert admit(gates, HI, 0.0, 0.0) == Wait(math.inf, "cache writer")
    assert [gate.asked for gate in gates] == [0, 0, 0]


def test_all_permits_are_settled_with_the_attempt():
    gates = [Gate(), Gate()]
    attempt = admit(gates, HI, 0.0, 0.0)
    assert [len(gate.inside) for gate in gates] == [1, 1]
    attempt.settle()
    assert [gate.inside for gate in gates] == [[], []]


# Order and outcomes


def test_jobs_start_lowest_first_and_each_ends_with_its_outcome():
    scheduler = scheduler_of(None, None)
    (one, first), (two, second) = start(scheduler), start(scheduler)
    assert (one, two) == (0, 1)
    assert scheduler.poll(0.0) == math.inf
    end(scheduler, second, text="b")
    assert not scheduler.over
    end(scheduler, first, text="a")
    assert scheduler.over
    assert scheduler.outcomes == {0: "a", 1: "b"}
    assert [*scheduler.take_ended()] == [1, 0]
    assert scheduler.take_ended() == {}


def test_a_category_that_may_not_start_holds_up_no_other():
    class NoA(Gate):
        def admit(self, request, now):
            return Wait(5.0, "limiter") if request.category == "a" else super().admit(request, now)

    scheduler = scheduler_of("a", "a", "b", gates=[NoA()])
    assert start(scheduler)[0] == 2
    assert scheduler.poll(0.0) == 5.0


def test_who_waits_to_be_woken_is_not_asked_before():
    class Slots(Gate):
        free = frozenset()

        def admit(self, request, now):
            got = super().admit(request, now)
            if request.category in self.free:
                return got
            self.inside.remove(got)
            return Wait(math.inf, "limiter", wakes=True, until=request.category)

    gate = Slots()
    scheduler = scheduler_of(*[f"{i % 1000}" for i in range(2000)], gates=[gate])
    assert scheduler.poll(0.0) == math.inf
    assert gate.asked == 1000
    for i in reversed(range(1000)):
        assert scheduler.poll(0.0) == math.inf
        gate.free = {f"{i}"}
        scheduler.wake(f"{i}")
        (one, first), (two, second) = start(scheduler), start(scheduler)
        assert (one, two) == (i, i + 1000)
        end(scheduler, first)
        end(scheduler, second)
    scheduler.wake("0")
    assert gate.asked == 3000
    assert scheduler.over


def test_who_need_not_wait_is_asked_once_however_many_others_there_are():
    gate = Gate()
    scheduler = scheduler_of(*map(str, range(1000)), gates=[gate])
    for i in range(1000):
        assert start(scheduler)[0] == i
    assert gate.asked == 1000


def test_a_retry_goes_before_the_later_jobs_of_its_group():
    scheduler = scheduler_of("a", "b", "a")
    end(scheduler, start(scheduler)[1], 0.0, error="overloaded", retry_after=1.0)
    assert [start(scheduler, 2.0)[0] for _ in range(3)] == [0, 1, 2]
    assert scheduler.poll(2.0) == math.inf


def test_a_failed_attempt_is_made_again_when_its_time_has_come():
    scheduler = scheduler_of(None)
    step = end(scheduler, start(scheduler)[1], 10.0, error="overloaded", retry_after=2.0)
    assert (step.failed.kind, step.failures, step.after) == ("overloaded", 1, 2.0)
    assert scheduler.poll(11.0) == 1.0
    index, again = start(scheduler, 12.5)
    assert index == 0
    assert again.queued_at == 10.0
    assert again.waited == {"retry": 2.0, "worker": 0.5}


def test_a_job_that_a_gate_refuses_for_good_ends_and_the_next_is_asked():
    gate = Gate(answer=ClaudeInvocationError("shut", kind="rate_limit"))
    scheduler = scheduler_of(None, None, gates=[gate])
    assert scheduler.poll(0.0) == math.inf
    assert [str(scheduler.outcomes[i]) for i in (0, 1)] == ["rate_limit: shut"] * 2
    assert scheduler.over


def test_what_else_a_gate_raises_comes_out_and_changes_nothing():
    gate = Gate(answer=ZeroDivisionError())
    scheduler = scheduler_of(None, gates=[gate])
    with pytest.raises(ZeroDivisionError):
        scheduler.poll(0.0)
    gate.answer = None
    assert start(scheduler)[0] == 0


@pytest.mark.parametrize("kind", ["spend_limit", "billing", "authentication"])
def test_a_failure_that_all_would_share_ends_what_is_not_under_way(kind):
    scheduler = scheduler_of(*[None] * 4)
    (_, first), (_, second) = start(scheduler), start(scheduler)
    end(scheduler, first, error=kind, partial_text="half")
    assert {scheduler.outcomes[i].kind for i in (0, 2, 3)} == {kind}
    assert scheduler.outcomes[0].partial_text == "half"
    assert scheduler.outcomes[3].partial_text == ""
    end(scheduler, second, error="overloaded")
    assert scheduler.outcomes[1].kind == kind
    assert scheduler.outcomes[3] is scheduler.outcomes[2] is not scheduler.outcomes[0]
    assert len({id(scheduler.outcomes[i]) for i in (0, 1, 2)}) == 3


def test_a_stop_ends_what_waits_and_what_would_be_made_again():
    scheduler = scheduler_of(None, None, None)
    _, answered = start(scheduler)
    _, failing = start(scheduler)
    stopped = ClaudeInvocationError("stopped", kind="interrupted")
    scheduler.stop(stopped)
    scheduler.stop(ClaudeInvocationError("too late"))
    assert {i: outcome.args[0] for i, outcome in scheduler.outcomes.items()} == {2: "stopped"}
    end(scheduler, answered)
    end(scheduler, failing, error="overloaded", usage=Usage(7))
    assert scheduler.outcomes[1] is not scheduler.outcomes[2]
    assert scheduler.outcomes[0] == "done"
    assert (scheduler.outcomes[1].args[0], scheduler.outcomes[1].usage) == ("stopped", Usage())


def test_what_is_added_after_a_stop_ends_by_its_error():
    scheduler = scheduler_of()
    scheduler.stop(ClaudeInvocationError("stopped", kind="authentication"))
    scheduler.add(Job(0, CallFlow(HI)), 0.0)
    assert (scheduler.over, scheduler.poll(0.0)) == (True, math.inf)
    assert scheduler.take_ended()[0].kind == scheduler.outcomes[0].kind == "authentication"


def test_a_job_is_cancelled_wherever_it_is():
    scheduler = scheduler_of(*[None] * 4)
    _, ending = start(scheduler)
    _, retried = start(scheduler)
    _, under_way = start(scheduler)
    end(scheduler, retried, error="overloaded")
    for index in (1, 2, 3, 99):
        scheduler.cancel(index)
    assert {i: outcome.kind for i, outcome in scheduler.outcomes.items()} == {1: "cancelled", 3: "cancelled"}
    end(scheduler, under_way, error="overloaded")
    assert scheduler.outcomes[2].kind == "cancelled"
    end(scheduler, ending)
    scheduler.cancel(0)
    assert scheduler.outcomes[0] == "done"
    assert scheduler.over


def test_who_is_abandoned_is_interrupted_also_under_way():
    gate = Gate()
    scheduler = scheduler_of(None, None, gates=[gate])
    start(scheduler)
    scheduler.abandon()
    assert gate.inside == []
    assert {outcome.kind for outcome in scheduler.outcomes.values()} == {"interrupted"}
    assert scheduler.over


# What was waited for


def test_waits_are_told_by_what_for_and_add_up():
    gate = Gate()
    scheduler = scheduler_of(None, None, gates=[gate], now=0.0)
    start(scheduler, 0.0)
    gate.answer = Wait(2.0, "rate limit")
    scheduler.poll(1.0)  # a worker was free only now
    gate.answer = Wait(math.inf, "cache writer")
    scheduler.poll(3.0)
    gate.answer = None
    _, attempt = start(scheduler, 7.0)
    assert attempt.waited == {"worker": 1.0, "rate limit": 2.0, "cache writer": 4.0}
    assert sum(attempt.waited.values()) == 7.0 - attempt.queued_at


def test_every_wait_is_told_to_who_wants_to_log_it():
    waits = []
    jobs = [Job(0, CallFlow(HI))]
    gate = Gate(answer=Wait(70.0, "rate limit"))
    scheduler = Scheduler(jobs, [gate], 0.0, on_wait=lambda seconds, now: waits.append((seconds, now)))
    scheduler.poll(1.0)
    gate.answer = None
    end(scheduler, start(scheduler, 2.0)[1], 3.0, error="overloaded", retry_after=9.0)
    assert waits == [(70.0, 1.0), (9.0, 3.0)]


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: every job has one outcome, nothing is held, waits add up."""

    def __init__(self):
        super().__init__()
        self.now, self.gates = 0.0, [Gate(), Gate()]
        self.scheduler = scheduler_of(*"aabbc" * 2, gates=self.gates, max_retries=3)
        self.under_way, self.told = [], []

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(
        gate=st.integers(0, 1),
        answer=st.sampled_from(
            [None, Wait(1.0, "limiter"), Wait(math.inf, "rate limit"), Wait(math.inf, "limiter", until="woken")]
        ),
        peek=st.sampled_from([None, Wait(2.0, "rate limit")]),
    )
    def a_gate_changes_its_mind(self, gate, answer, peek):
        self.gates[gate].answer, self.gates[gate].peek = answer, peek
        self.scheduler.wake("woken")

    @rule()
    def polls(self):
        found = self.scheduler.poll(self.now)
        if isinstance(found, float):
            assert found >= 0
        else:
            _, attempt = found
            assert sum(attempt.waited.values()) == pytest.approx(self.now - attempt.queued_at)
            self.under_way.append(attempt)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), how=st.sampled_from([None, "overloaded", "invalid_request"]))
    def an_attempt_ends(self, data, how):
        attempt = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        end(self.scheduler, attempt, self.now, error=how)

    @rule(index=st.integers(0, 9))
    def one_is_cancelled(self, index):
        self.scheduler.cancel(index)

    @rule()
    def outcomes_are_taken(self):
        self.told += self.scheduler.take_ended()
        assert len(self.told) == len({*self.told})

    @invariant()
    def only_what_is_under_way_is_inside(self):
        assert [len(gate.inside) for gate in self.gates] == [len(self.under_way)] * 2

    def teardown(self):
        for gate in self.gates:
            gate.answer = gate.peek = None
        self.scheduler.wake("woken")
        while not self.scheduler.over:
            for attempt in self.under_way:
                end(self.scheduler, attempt, self.now)
            self.under_way = []
            self.now += 1000.0
            found = self.scheduler.poll(self.now)
            self.under_way += [] if isinstance(found, float) else [found[1]]
        self.outcomes_are_taken()
        assert self.scheduler.outcomes.keys() == {*self.told} == {*range(10)}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_attempt_that_nobody_has_ended_is_an_interrupted_one():
    scheduler = scheduler_of(None)
    _, attempt = start(scheduler)
    assert isinstance(attempt, Attempt)
    scheduler.finished(attempt, 1.0)
    assert scheduler.outcomes[0].kind == "interrupted"


@pytest.mark.parametrize(
    ("kinds", "stops"),
    [
        (["overloaded"] * 3, True),
        (["overloaded", "overloaded", None, "overloaded"], False),
        (["overloaded", "overloaded", "timeout", "overloaded"], False),
        (["overloaded", "cancelled", "overloaded", "overloaded"], True),
        (["timeout", "overloaded", "overloaded", "overloaded"], True),
    ],
)
def test_so_many_like_failures_in_a_row_end_what_has_not_begun(kinds, stops):
    scheduler = scheduler_of(*[None] * 9, stop_after=3)
    for kind in kinds:
        _, attempt = start(scheduler)
        end(scheduler, attempt, error=kind, retryable=False)
    assert scheduler.over is stops
    if stops:
        assert str(scheduler.outcomes[8]) == "Stopped after 3 failures in a row, the last: overloaded: no"
        assert (scheduler.outcomes[8].kind, scheduler.outcomes[8].usage) == ("overloaded", Usage())


def test_unless_asked_for_no_number_of_like_failures_ends_a_run():
    scheduler = scheduler_of(*[None] * 9)
    for _ in range(8):
        end(scheduler, start(scheduler)[1], error="overloaded", retryable=False)
    assert not scheduler.over


def test_work_for_a_job_that_was_abandoned_changes_nothing():
    scheduler = scheduler_of(None)
    start(scheduler)
    scheduler.abandon()
    job = Job(0, CallFlow(build(prompt="hi")))
    step = scheduler.worked(job, SimpleNamespace(), 1.0)
    assert step.outcome.kind == "interrupted"
