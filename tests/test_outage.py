"""What happens while the server answers nobody: the breaker as numbers, and runs against the simulator."""

import io
import itertools
import logging
import math
import re
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_client import ClaudeInvocationError, InterruptToken, invoke_claude, invoke_parallel, rate_limits
from claude_client._engine.flow import CallFlow
from claude_client._engine.scheduler import Job, Scheduler
from claude_client._gates.gate import Wait
from claude_client._gates.rate.gate import RateGate
from claude_client._gates.rate.outage import Breaker
from claude_client._values.attempt import Attempt
from claude_client.simulator import Limits, Reply, Simulator
from orchestration import invoke_parallel_managed
from simulation import PATIENT, request_of

DOWN = ClaudeInvocationError("529 overloaded_error: Overloaded", kind="overloaded", status_code=529, retryable=True)


def breaker():
    return Breaker(chance=lambda: 0.0)


def opened(at=0.0):
    tripped = breaker()
    for number in range(4):
        tripped.failed(number, number, at, None)
    return tripped


def prompts(count):
    return [{"prompt": f"prompt {i}."} for i in range(count)]


# The breaker


def test_failures_of_many_prompts_in_a_row_open_it_and_those_of_one_do_not():
    assert opened().is_open
    single = breaker()
    for number in range(20):
        single.failed(number, 1, 0.0, None)
    assert not single.is_open


def test_an_answer_between_keeps_it_closed():
    mixed = breaker()
    for number in range(9):
        mixed.failed(number, number, 0.0, None)
        if number % 3 == 2:
            mixed.answered()
    assert not mixed.is_open


def test_where_much_fails_anyway_a_longer_row_is_needed():
    flaky = breaker()
    number = 0
    for _ in range(40):
        for _ in range(2):
            flaky.failed(number, number, 0.0, None)
            number += 1
        flaky.answered()
        number += 3
    row = 0
    while not flaky.is_open:
        flaky.failed(number, number, 0.0, None)
        number, row = number + 1, row + 1
    assert 6 <= row <= 20


def test_it_half_opens_for_one_probe_at_a_time_after_ever_longer_waits():
    tripped, waits, now = opened(), [], 0.0
    for number in range(10, 30):
        waits.append(tripped.wait(now))
        now += waits[-1]
        assert tripped.wait(now) <= 0
        tripped.give(number, now)
        assert 0 < tripped.wait(now) <= 0.25
        tripped.failed(number, number, now, None)
    assert waits[:6] == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.5, 0.625])
    assert waits[-1] == 8.0
    assert waits == sorted(waits)


def test_a_probe_waits_at_least_as_long_as_the_server_says_but_not_for_minutes():
    tripped = breaker()
    for number in range(4):
        tripped.failed(number, number, 0.0, 3.0)
    assert tripped.wait(0.0) == 3.0
    tripped.give(9, 3.0)
    tripped.failed(9, 9, 3.0, 600.0)
    assert tripped.wait(3.0) == 8.0


def test_the_first_answer_closes_it_and_the_next_outage_begins_anew():
    tripped = opened()
    tripped.give(9, 0.5)
    tripped.failed(9, 9, 0.5, None)
    tripped.answered()
    assert (tripped.is_open, tripped.wait(0.6), tripped.since) == (False, 0.0, math.inf)
    for number in range(4):
        tripped.failed(number, number, 100.0, None)
    assert (tripped.wait(100.0), tripped.since) == (0.5, 100.0)


def test_a_late_failure_of_an_older_request_does_not_move_the_next_probe():
    tripped = opened()
    tripped.failed(2, 2, 0.4, None)
    assert tripped.wait(0.4) == pytest.approx(0.1)


def test_a_probe_of_which_nothing_is_heard_is_replaced():
    tripped = opened()
    tripped.give(9, 0.5)
    tripped.withdrawn(3, 0.6)
    assert tripped.wait(0.6) > 0
    tripped.withdrawn(9, 0.6)
    assert tripped.wait(0.6) <= 0


def test_probes_that_neither_fail_nor_are_answered_are_joined_by_more_and_more():
    tripped, times, now = opened(), [], 0.5
    for number in range(9, 25):
        while tripped.wait(now) > 0:
            now += tripped.wait(now)
        tripped.give(number, now)
        times.append(now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] == pytest.approx(2.0)
    assert gaps == sorted(gaps, reverse=True)
    assert times[10] - times[0] < 5
    tripped.failed(20, 20, now, None)
    assert tripped.wait(now) > 0.5
    tripped.failed(21, 21, now, None)  # of the same probing
    tripped.give(30, now + 3)
    assert tripped.wait(now + 3) == 0.25


def test_an_outage_of_long_ago_is_forgotten():
    for before in (breaker(), opened()):
        before.failed(4, 4, 0.0, None)
        assert before.wait(7200.0) == 0.0
        for number in range(10, 14):
            assert not before.is_open
            before.failed(number, number, 7200.0, None)
        assert (before.wait(7200.0), before.since) == (0.5, 7200.0)


@given(st.lists(st.tuples(st.sampled_from(["give", "fail", "late", "answer", "leave"]), st.floats(0, 5)), max_size=60))
def test_in_any_order_there_is_a_next_probe(events):
    tripped, now, number = opened(), 0.0, 4
    for event, later in events:
        now += later
        if event == "give" and tripped.wait(now) <= 0:
            number += 1
            tripped.give(number, now)
        elif event == "fail":
            tripped.failed(number, number, now, None)
        elif event == "late":
            tripped.failed(0, number + 7, now, None)
        elif event == "leave":
            tripped.withdrawn(number, now)
        elif event == "answer":
            tripped.answered()
    assert tripped.wait(now + 31) <= 0


# The gate


def failing(gate, count=4):
    permits = [gate.admit(request_of(), 0.0) for _ in range(count)]
    return [gate.on_failure(permit, 0.0, DOWN) for permit in permits]


def test_a_failure_costs_no_retry_once_all_fail_until_patience_is_over():
    gate = RateGate("m", chance=lambda: 0.0)
    requests = [request_of() for _ in range(8)]
    permits = [gate.admit(request, 0.0) for request in requests]
    assert [gate.on_failure(permit, 0.0, DOWN) for permit in permits] == [True] * 3 + [False] * 5
    probe = gate.admit(requests[0], 0.5)
    assert gate.on_failure(probe, 60.0, DOWN) is False
    probe = gate.admit(requests[0], 70.0)
    assert gate.on_failure(probe, 70.0, DOWN) is True


def test_those_that_wait_are_told_what_to_end_with():
    gate = RateGate("m", chance=lambda: 0.0)
    requests = [request_of() for _ in range(4)]
    for permit in [gate.admit(request, 0.0) for request in requests]:
        gate.on_failure(permit, 0.0, DOWN)
    wait = gate.would_wait(request_of(), 0.25)
    assert isinstance(wait, Wait)
    assert (wait.seconds, wait.cause) == (0.25, "outage")
    assert (wait.refusal.kind, wait.refusal.retryable, wait.refusal.__cause__) == ("overloaded", True, DOWN)
    assert "529 overloaded_error" in str(wait.refusal)
    assert gate.limit(0.25).held_back == "an outage, overloaded"


# Runs


@pytest.fixture
def outage(request, monkeypatch):
    """A simulator that is overloaded for so many seconds."""
    with Simulator(limits=Limits(overloaded_for=request.param)) as sim:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        yield sim


@pytest.mark.once
def test_slow_answers_after_an_outage_cost_nobody_their_patience(monkeypatch):
    with Simulator(latency=1.6) as sim:
        sim.script(*[Reply(fault="overloaded")] * 5)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        assert None not in invoke_parallel(prompts(5), max_workers=4, outage_patience=1.2)
        answered = [request for request in sim.requests if request.outcome == "answered"]
    assert answered[0].stream  # the probe, so that it is known early to be answered


@pytest.mark.once
@pytest.mark.parametrize("outage", [0.4], indirect=True)
@pytest.mark.parametrize("fan_out", [invoke_parallel, invoke_parallel_managed])
def test_an_outage_loses_no_prompt_and_is_met_by_few_requests(outage, fan_out):
    assert None not in fan_out(prompts(40), max_workers=5)
    assert len([request for request in outage.requests if request.status == 529]) <= 12


def test_after_its_patience_a_run_ends_and_says_why(sim):
    sim.script_by(lambda _: Reply(fault="overloaded"))
    results = invoke_parallel(prompts(300), return_exceptions=True, outage_patience=0.3, max_retries=0)
    assert {error.kind for error in results.errors.values()} == {"overloaded"}
    assert "No request to claude-sonnet-4-6 has been answered" in str(results.errors[299])
    assert len(sim.requests) < 30


def test_without_patience_it_ends_at_once(sim):
    sim.script_by(lambda _: Reply(fault="api_error"))
    results = invoke_parallel(prompts(50), return_exceptions=True, outage_patience=0, max_retries=0)
    assert {error.kind for error in results.errors.values()} == {"server_error"}
    assert len(sim.requests) < 12


def test_a_server_that_refuses_connections_is_an_outage(monkeypatch):
    with Simulator() as sim:
        gone = sim.base_url
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", gone)
    results = invoke_parallel(prompts(100), return_exceptions=True, outage_patience=0.3, max_retries=0)
    assert {error.kind for error in results.errors.values()} == {"connection"}
    assert rate_limits()[0].admitted < 30


def test_a_single_call_in_an_outage_uses_its_retries_as_ever(sim):
    sim.script_by(lambda _: Reply(fault="overloaded", retry_after=0.001))
    with pytest.raises(ClaudeInvocationError, match="529"):
        invoke_claude("hi")
    assert len(sim.requests) == 3


@pytest.mark.once
def test_single_calls_of_many_threads_wait_for_each_others_probes(sim):
    up = threading.Event()
    sim.script_by(lambda _: None if up.is_set() else Reply(fault="overloaded", retry_after=0.001))
    answers, refused = [], []

    def ask():
        try:
            answers.append(invoke_claude("hi", max_retries=3))
        except ClaudeInvocationError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    sim.wait_for(lambda s: len(s.requests) >= 12)
    up.set()
    for thread in threads:
        thread.join(30)
    assert (len(answers), refused) == (12, [])


def test_a_call_that_waits_out_an_outage_ends_when_its_patience_does(sim):
    sim.script_by(lambda _: Reply(fault="overloaded", retry_after=8.0))  # so long no probe goes
    invoke_parallel(prompts(5), return_exceptions=True, outage_patience=0.2, max_retries=0)
    with pytest.raises(ClaudeInvocationError, match="was not sent") as refused:
        invoke_claude("hi", outage_patience=0.1, max_retries=0)
    assert isinstance(refused.value.__cause__, ClaudeInvocationError)


def test_patience_counts_all_waiting_of_a_prompt():
    flow = CallFlow(request_of())
    attempt = Attempt(flow.begin(0.0).request, 0.0)
    attempt.waited = {"outage": 40.0, "worker": 3.0}
    attempt.error, attempt.costs_retry = DOWN, False
    scheduler = Scheduler([Job(0, flow)], [NeverOpen()], 0.0)
    flow.advance(attempt)
    assert scheduler.poll(0.0) == 20.0
    assert scheduler.poll(19.0) == 1.0
    assert scheduler.poll(20.0) == math.inf
    assert scheduler.outcomes[0].kind == "overloaded"


def test_each_of_a_queue_has_its_own_patience():
    patience = [60.0, 10.0, 600.0, 10.0]
    retries = [replace(PATIENT, outage_patience=seconds) for seconds in patience]
    jobs = [Job(index, CallFlow(request_of(retry=retry))) for index, retry in enumerate(retries)]
    scheduler = Scheduler(jobs, [NeverOpen()], 0.0)
    ended = {
        now: (scheduler.poll(now), [*scheduler.take_ended()])[1] for now in (0.0, 9.0, 10.0, 59.0, 60.0, 599.0, 600.0)
    }
    assert ended == {0.0: [], 9.0: [], 10.0: [1, 3], 59.0: [], 60.0: [0], 599.0: [], 600.0: [2]}


class NeverOpen:
    """A gate in an outage without end."""

    def admit(self, request, now):
        return Wait(1000.0, "outage", refusal=DOWN)


def test_an_interrupt_ends_a_run_that_waits_for_the_end_of_an_outage(sim):
    sim.script_by(lambda _: Reply(fault="overloaded"))
    token, came = InterruptToken(), []
    run = threading.Thread(
        target=lambda: came.append(invoke_parallel(prompts(50), interrupt_token=token, return_exceptions=True))
    )
    run.start()
    sim.wait_for(lambda s: len(s.requests) >= 6)
    token.interrupt()
    run.join(5)
    assert came[0].interrupted


def test_the_log_says_when_an_outage_holds_calls_back(sim, caplog):
    caplog.set_level(logging.INFO, "claude_client")
    sim.script_by(lambda _: Reply(fault="overloaded"))
    invoke_parallel(prompts(30), return_exceptions=True, outage_patience=0.2, max_retries=0)
    held = [record.getMessage() for record in caplog.records if "held back" in record.getMessage()]
    assert held == ["Calls to claude-sonnet-4-6 are held back: an outage, overloaded"]


@pytest.mark.parametrize("fan_out", [invoke_parallel, invoke_parallel_managed])
def test_the_progress_bar_shows_that_all_wait(sim, monkeypatch, fan_out):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    sim.script_by(lambda _: Reply(fault="overloaded"))
    token = InterruptToken()
    run = threading.Thread(
        target=fan_out, args=[prompts(30)], kwargs={"progress": True, "interrupt_token": token, "max_workers": 8}
    )
    run.start()
    sim.wait_for(lambda _: "waits for=outage" in shown.getvalue())  # asked again at each probe
    token.interrupt()
    run.join(10)


@pytest.mark.once
@pytest.mark.parametrize("fan_out", [invoke_parallel, invoke_parallel_managed])
def test_the_progress_bar_tells_how_many_wait_and_how_long_by_the_pace(monkeypatch, fan_out):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with Simulator(limits=Limits(requests_per_second=5, request_burst=1)) as sim:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        token = InterruptToken()
        options = {"progress": True, "interrupt_token": token, "max_workers": 2}
        run = threading.Thread(target=fan_out, args=[prompts(300)], kwargs=options)
        run.start()
        told = re.compile(r"waits for=rate limit \(29\d prompts, [\d.]+ (s|min) left\)")
        sim.wait_for(lambda _: told.search(shown.getvalue()))
        token.interrupt()
        run.join(10)
