"""The rate gate, on a clock that only the test moves, and against the simulator's own limits."""

import contextlib
import gc
import heapq
import itertools
import math
import os
import random
import re
import threading
import time
import warnings
import weakref
from collections import deque
from datetime import UTC, datetime

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_client import ClaudeInvocationError
from claude_client._gates.clients import gates_of
from claude_client._gates.gate import Wait
from claude_client._gates.rate import RateGate, RatePermit
from claude_client._values.request import Request
from claude_client._values.retry import RetryPolicy
from claude_client.simulator import Limits
from claude_client.simulator._errors import RejectedError
from claude_client.simulator._limits import Limiter


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def request_of(tokens, retry=RetryPolicy()):  # noqa: B008 - frozen
    return Request(model="m", max_tokens=1, messages=[], retry=retry, system="x" * 4 * tokens)


class Gate:
    """A rate gate beside a clock, told of requests by their tokens and of their ends by one word each."""

    def __init__(self, clock=Clock(), **options):  # noqa: B008 - one that stands still
        self.gate = RateGate(**options)
        self.clock = clock

    def enter(self, tokens, *, patient=False):
        """A permit, or the seconds to wait."""
        retry = RetryPolicy(longest_retry_after=math.inf) if patient else RetryPolicy()
        got = self.gate.admit(request_of(tokens, retry), self.clock())
        return got.seconds if isinstance(got, Wait) else got

    def heard(self, permit, headers):
        self.gate.on_response(permit, self.clock(), headers)

    def counted(self, permit, tokens):
        self.gate.record_usage(permit, tokens)

    def rejected(self, permit, retry_after, headers):
        return self.gate.on_rejection(permit, self.clock(), retry_after, headers)

    def left(self, permit):
        self.gate.release(permit)

    @property
    def pace(self):
        return self.gate.pace

    def __repr__(self):
        return repr(self.gate)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gate(clock):
    return Gate(clock, jitter=lambda: 0.0)


@pytest.fixture
def seasoned(gate):
    """A gate that has heard an answer without headers."""
    gate.heard(gate.enter(1), {})
    return gate


def requests(remaining, limit=50):
    return {
        "anthropic-ratelimit-requests-limit": str(limit),
        "anthropic-ratelimit-requests-remaining": str(remaining),
    }


def tokens(remaining, limit=10_000):
    return {
        "anthropic-ratelimit-input-tokens-limit": str(limit),
        "anthropic-ratelimit-input-tokens-remaining": str(remaining),
    }


def passes(gate, most, input_tokens=1):
    """What the gate gives now, to *most* who ask."""
    given_now = []
    while len(given_now) < most and isinstance(passed := gate.enter(input_tokens), RatePermit):
        given_now.append(passed)
    return given_now


def times(gate, clock, count):
    """When the next *count* pass, each asking again as told."""
    found = []
    while len(found) < count:
        if isinstance(wait := gate.enter(1), float):
            clock.now += wait
        else:
            found.append(clock.now)
    return found


# A gate that knows of no limit


def test_ten_pass_a_fresh_gate_at_once(gate):
    assert len(passes(gate, 50)) == 10


def test_a_crowd_before_any_answer_follows_closely(gate, clock):
    assert times(gate, clock, 50)[-1] < 0.4


def test_after_an_answer_nothing_is_held_back(seasoned):
    assert len(passes(seasoned, 1000)) == 1000


def test_fast_calls_on_ten_workers_are_not_held_up():
    assert simulated(Limits(), calls=400, latency=(0.05, 0.05), net=(0, 0)).time == pytest.approx(2.0)


# A rejection


def test_a_rejection_shuts_it_for_everyone(seasoned, clock):
    seasoned.rejected(seasoned.enter(1), 7.0, {})
    assert seasoned.enter(1) == 7.0
    clock.now = 6.9
    assert isinstance(seasoned.enter(1), float)
    clock.now = 7.0
    assert isinstance(seasoned.enter(1), RatePermit)


@given(st.floats(0.01, 60), st.floats(0, 1), st.integers(1, 12))
def test_nobody_passes_in_a_pause_and_no_two_together_after(pause, share, sent):
    clock = Clock()
    gate = Gate(clock, jitter=lambda: share)
    for passed in passes(gate, sent):
        gate.rejected(passed, pause, {})
    found = times(gate, clock, 20)
    assert found[0] >= pause
    assert all(later - earlier > 0.001 for earlier, later in itertools.pairwise(found))


def test_reopening_is_put_off_by_a_share_of_a_gap(clock):
    gate = Gate(clock, jitter=lambda: 0.5)
    gate.rejected(gate.enter(1), 1.0, {})
    assert times(gate, clock, 1) == [pytest.approx(1.05)]


def test_the_longest_pause_asked_for_counts(seasoned, clock):
    first, second, third = passes(seasoned, 3)
    seasoned.rejected(first, 2.0, {})
    clock.now = 0.5
    seasoned.rejected(second, 5.0, {})
    seasoned.rejected(third, 1.0, {})
    assert seasoned.enter(1) == 5.0


def test_without_retry_after_the_pause_doubles_until_something_succeeds(seasoned, clock):
    pauses = []
    for _ in range(5):
        seasoned.rejected(passed_at(seasoned, clock), None, {})
        pauses.append(seasoned.enter(1))
    assert pauses == pytest.approx([1, 2, 4, 8, 10])
    seasoned.heard(passed_at(seasoned, clock), {})
    seasoned.rejected(passed_at(seasoned, clock), None, {})
    assert seasoned.enter(1) == pytest.approx(1.0)


def passed_at(gate, clock):
    """The next pass there is."""
    while isinstance(passed := gate.enter(1), float):
        clock.now += passed
    return passed


def test_a_straggler_only_lengthens_the_pause(seasoned, clock):
    first, second = passes(seasoned, 2)
    seasoned.rejected(first, 1.0, {})
    rate = seasoned.pace
    seasoned.rejected(second, 1.0, {})
    assert seasoned.pace == rate


def test_a_straggler_without_retry_after_is_no_second_pause(seasoned):
    first, second, third = passes(seasoned, 3)
    seasoned.rejected(first, None, {})
    seasoned.heard(third, {})
    seasoned.rejected(second, None, {})
    assert seasoned.enter(1) == 1.0


def test_each_rejection_slows_the_pace(seasoned, clock):
    seasoned.rejected(passed_at(seasoned, clock), 1.0, {})
    rates = []
    for _ in range(5):
        times(seasoned, clock, 40)
        before = seasoned.pace
        seasoned.rejected(passed_at(seasoned, clock), 1.0, {})
        rates.append(seasoned.pace / before)
    assert max(rates) < 1


def test_the_pace_grows_back(seasoned, clock):
    for _ in range(2):
        seasoned.rejected(passed_at(seasoned, clock), 1.0, {})
        times(seasoned, clock, 20)
    rate = seasoned.pace
    start = clock.now
    while clock.now < start + 10:
        times(seasoned, clock, 1)
    assert seasoned.pace == pytest.approx(rate * 1.02**10, rel=0.02)


def test_a_pace_that_grew_fast_enough_is_forgotten(seasoned, clock):
    seasoned.rejected(seasoned.enter(1), 1.0, {})
    times(seasoned, clock, 1000)
    assert len(passes(seasoned, 100)) == 100


def test_an_idle_gate_does_not_quicken(seasoned, clock):
    seasoned.rejected(seasoned.enter(1), 1.0, {})
    clock.now = 1000.0
    assert len(passes(seasoned, 10)) == 1


def test_a_rejection_costs_a_retry_only_if_nothing_else_succeeds(seasoned):
    first, second, third = passes(seasoned, 3)
    assert not seasoned.rejected(first, 1.0, {})
    seasoned.heard(second, {})
    assert seasoned.rejected(third, 1.0, {})


def test_a_success_before_the_pass_does_not_count(seasoned):
    seasoned.heard(seasoned.enter(1), {})
    assert not seasoned.rejected(seasoned.enter(1), 1.0, {})


# A long pause


def test_a_pause_of_more_than_a_minute_is_not_waited_for(seasoned, clock):
    seasoned.rejected(seasoned.enter(1), 3600.0, {})
    clock.now = 600.0
    with pytest.raises(ClaudeInvocationError, match="another 3000 s to go, and calls wait 60 s at most") as caught:
        seasoned.enter(1)
    error = caught.value
    assert (error.kind, error.retry_after, error.retryable, error.status_code) == ("rate_limit", 3000.0, True, None)


def test_its_last_minute_is(seasoned, clock):
    seasoned.rejected(seasoned.enter(1), 3600.0, {})
    clock.now = 3540.0
    assert seasoned.enter(1) == 60.0


def test_the_patient_are_told_how_long(seasoned):
    seasoned.rejected(seasoned.enter(1), 3600.0, {})
    assert seasoned.enter(1, patient=True) == 3600.0


def test_a_long_pause_does_not_make_the_next_gaps_long(seasoned, clock):
    for _ in range(2):
        seasoned.rejected(seasoned.enter(1, patient=True), 3600.0, {})
        clock.now += 3601.0
    start = clock.now
    assert times(seasoned, clock, 3)[-1] - start < 20


# Headers


def test_what_is_surely_left_passes_at_once(gate):
    gate.heard(gate.enter(1), requests(49))
    assert 40 < len(passes(gate, 100)) < 50


def test_what_is_in_flight_is_not_left(gate):
    first, *_ = passes(gate, 10)
    gate.heard(first, requests(12))
    assert len(passes(gate, 100)) < 3


def test_nothing_left_is_waited_for(gate):
    gate.heard(gate.enter(1), requests(0))
    assert 0 < gate.enter(1) <= 0.25


def test_the_newest_request_wins(gate, clock):
    older, _, newer = passes(gate, 3)
    clock.now = 0.1
    latest = gate.enter(1)
    gate.heard(latest, requests(0))
    gate.heard(older, requests(40))
    gate.heard(newer, requests(40))
    assert isinstance(gate.enter(1), float)


def test_of_two_sent_together_the_lower_counts(gate):
    first, second = passes(gate, 2)
    gate.heard(second, requests(40))
    gate.heard(first, requests(0))
    assert isinstance(gate.enter(1), float)


def test_the_rate_is_learnt_from_how_remaining_moves(gate, clock):
    bucket = Limiter(Limits(requests_per_second=8, request_burst=50), 0.0)
    for _ in range(200):
        clock.now += 0.1
        if isinstance(passed := gate.enter(1), RatePermit):
            bucket.admit(1, clock.now)
            gate.heard(passed, bucket.headers(clock.now))
    learnt = float(re.search(r"requests .*?\+([\d.]+)/s", repr(gate))[1])
    assert learnt == pytest.approx(8, rel=0.15)


def test_a_limit_that_changes_is_learnt_anew(gate, clock):
    gate.heard(gate.enter(1), requests(0))
    clock.now = 1.0
    gate.heard(gate.enter(1), requests(990, limit=1000))
    assert len(passes(gate, 100)) == 100


def test_a_given_back_request_was_never_taken(gate):
    first, second = passes(gate, 2)
    gate.heard(first, requests(2))
    assert isinstance(gate.enter(1), float)
    gate.left(second)
    assert isinstance(gate.enter(1), RatePermit)


def test_a_pass_ends_once(gate):
    first, second, third = passes(gate, 3)
    gate.heard(first, requests(3))
    gate.left(first)
    gate.heard(first, requests(50))
    gate.rejected(first, 1.0, {})
    assert isinstance(gate.enter(1), float)
    for passed in (second, third):
        gate.left(passed)
        gate.left(passed)
    assert len(passes(gate, 10)) == 2


@pytest.mark.parametrize("odd", ["", "many", "-1", "1e3", "9" * 40, "½"])
def test_headers_that_cannot_be_read_are_none(gate, odd):
    gate.heard(gate.enter(1), requests(odd))
    gate.heard(gate.enter(1), requests(0, limit=odd))
    assert len(passes(gate, 100)) == 100


def test_the_reset_header_is_not_believed(gate):
    gate.heard(gate.enter(1), requests(0) | {"anthropic-ratelimit-requests-reset": "2000-01-01T00:00:00Z"})
    assert isinstance(gate.enter(1), float)


def test_headers_of_a_rejection_count_too(seasoned, clock):
    seasoned.rejected(seasoned.enter(1), 1.0, requests(0))
    assert "requests 0 of 50" in repr(seasoned)


def test_a_rejection_that_headers_do_not_explain_sets_a_pace_they_do_not_lift(gate, clock):
    gate.heard(gate.enter(1), requests(49))
    gate.rejected(gate.enter(1), 1.0, requests(48))
    gate.heard(passed_at(gate, clock), requests(47))
    assert len(passes(gate, 10)) == 0


def test_a_rejection_that_headers_explain_sets_one_they_do(gate, clock):
    gate.heard(gate.enter(1), requests(0, limit=5000))
    gate.rejected(passed_at(gate, clock), 1.0, requests(0, limit=5000))
    gate.heard(passed_at(gate, clock), requests(4000, limit=5000))
    times(gate, clock, 1)
    assert len(passes(gate, 10)) == 10


def test_a_wrong_idea_of_the_limit_does_not_hold_for_ever(gate, clock):
    gate.heard(gate.enter(1), tokens(0, limit=10**9))
    gate.counted(passed_at(gate, clock), 10**6)
    assert times(gate, clock, 3)[-1] < 60


def test_a_straggler_after_the_reopening_lets_nobody_in_at_once(seasoned, clock):
    first, second = passes(seasoned, 2)
    seasoned.rejected(first, 1.0, {})
    clock.now = 1.0
    assert isinstance(seasoned.enter(1), RatePermit)
    seasoned.rejected(second, 0.0, {})
    assert isinstance(seasoned.enter(1), float)


# Input tokens


def test_tokens_are_waited_for(gate):
    gate.heard(gate.enter(2000), tokens(5001))
    assert len(passes(gate, 10, input_tokens=2000)) == 1


def test_a_guess_is_calibrated_by_what_was_counted(gate):
    first = gate.enter(100)
    gate.heard(first, tokens(9999))
    gate.counted(first, 1000)
    assert gate.enter(200).tokens == 2000


def test_what_was_counted_counts_at_once(gate):
    first, second = passes(gate, 2, input_tokens=4000)
    gate.heard(first, tokens(8001))
    assert isinstance(gate.enter(4000), float)
    gate.counted(second, 10)
    assert isinstance(gate.enter(4000), RatePermit)


def test_a_bucket_rounded_to_thousands_is_not_trusted_to_its_last_token(gate):
    gate.heard(gate.enter(1), tokens(1000))
    assert isinstance(gate.enter(600), float)


def test_a_request_larger_than_the_bucket_waits_until_it_is_full(gate, clock):
    gate.heard(gate.enter(1), tokens(4999))
    assert isinstance(gate.enter(100_000), float)
    clock.now = 100.0
    assert isinstance(gate.enter(100_000), RatePermit)


def test_no_tokens_are_a_guess_too(gate):
    gate.heard(gate.enter(0), tokens(0))
    assert gate.enter(0) != 0


# The registry


@pytest.fixture
def clients():
    with anthropic.Anthropic(api_key="a") as one, anthropic.Anthropic(api_key="a") as other:
        yield one, other


def test_all_calls_of_a_client_pass_the_same_gates_and_each_model_has_its_own_pace(clients):
    one, other = clients
    assert gates_of(one) is gates_of(one)
    assert gates_of(one) is not gates_of(other)
    rates = gates_of(one)[0]
    assert rates.of("m") is rates.of("m")
    assert rates.of("m") is not rates.of("n")


def test_gates_are_forgotten_with_their_client():
    client = anthropic.Anthropic(api_key="a")
    gate = weakref.ref(gates_of(client)[0])
    client.close()
    del client
    gc.collect()
    assert gate() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_begins_afresh_though_its_parent_was_in_the_middle_of_asking(clients):
    (rates, _), forked, over = gates_of(clients[0]), threading.Event(), []

    class InTheMiddle(Request):
        """A request whose size is asked for, under the gate's lock, while the process is forked."""

        @property
        def estimated_tokens(self):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: fork in a process with threads
                child = os.fork()
            if child == 0:
                threading.Timer(10, os._exit, [2]).start()
                got = gates_of(clients[0])[0].admit(request_of(1), 0.0)
                os._exit(int(not isinstance(got, RatePermit)))
            over.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            forked.set()
            return 1

    rates.of("m").on_response(rates.admit(request_of(1), 0.0), 0.0, tokens(10_000))  # sizes count from then on
    rates.admit(InTheMiddle(model="m", max_tokens=1, messages=[]), 0.0)
    assert forked.is_set()
    assert over[0] == 0


def test_a_wait_of_nothing_is_no_reason_to_slow_down(seasoned):
    for _ in range(20):
        assert seasoned.rejected(seasoned.enter(1), 0.0, {}) is False
    assert all(isinstance(seasoned.enter(1), RatePermit) for _ in range(50))


def test_a_short_wait_slows_down_less_than_a_long_one(clock):
    rates = []
    for pause in (0.01, 1.0):
        gate = Gate(clock, jitter=lambda: 0.0)
        for _ in range(30):
            clock.now += 2.0
            gate.rejected(gate.enter(1), pause, {})
        rates.append(gate.pace)
    assert rates[0] >= 50
    assert rates[1] < 5


# Threads, and any order of events


def test_many_threads_lose_nothing():
    gate = Gate(time.monotonic)
    gate.heard(gate.enter(1), {})
    barrier, numbers, failed = threading.Barrier(8), [], []

    def use(seed):
        chance = random.Random(seed)
        barrier.wait(10)
        try:
            for _ in range(300):
                if isinstance(passed := gate.enter(10), float):
                    continue
                numbers.append(passed.number)
                end(gate, passed, chance)
        except Exception as exc:  # noqa: BLE001
            failed.append(exc)

    threads = [threading.Thread(target=use, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not failed
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert "0 in flight" in repr(gate)


def end(gate, passed, chance):
    what = chance.random()
    if what < 0.01:
        gate.rejected(passed, 0.0, requests(chance.randrange(1000), limit=1000))
    elif what < 0.1:
        gate.left(passed)
    else:
        gate.heard(passed, requests(chance.randrange(900, 1000), limit=1000) if what < 0.9 else {})
        gate.counted(passed, chance.randrange(20))


class AnyOrder(RuleBasedStateMachine):
    """Whatever is told in whatever order, the promises hold."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.gate = Gate(self.clock, jitter=lambda: 0.3)
        self.flying, self.answered = [], []
        self.shut_until = 0.0
        self.numbers = itertools.count()

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule(guess=st.integers(0, 10_000))
    def asks(self, guess):
        got = self.gate.enter(guess, patient=True)
        if isinstance(got, float):
            assert got > 0
        else:
            assert self.clock.now >= self.shut_until
            assert got.number == next(self.numbers)
            self.flying.append(got)

    @rule()
    def asks_as_told(self):
        for _ in range(200):
            if isinstance(got := self.gate.enter(1, patient=True), RatePermit):
                assert got.number == next(self.numbers)
                self.flying.append(got)
                return
            self.clock.now += got
        pytest.fail("nobody ever passes")

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), headers=st.sampled_from([{}, requests(0), requests(49), tokens(3000), tokens(0)]))
    def is_heard(self, data, headers):
        passed = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.gate.heard(passed, headers)
        self.answered.append(passed)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), pause=st.none() | st.floats(0, 100), headers=st.sampled_from([{}, requests(0), tokens(0)]))
    def is_rejected(self, data, pause, headers):
        passed = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.gate.rejected(passed, pause, headers)
        self.shut_until = max(self.shut_until, self.clock.now + (1.0 if pause is None else pause))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def is_left(self, data):
        self.gate.left(self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1))))

    @precondition(lambda self: self.answered)
    @rule(used=st.integers(0, 20_000))
    def is_counted(self, used):
        self.gate.counted(self.answered.pop(), used)

    @invariant()
    def the_books_balance(self):
        assert f"{len(self.flying)} in flight" in repr(self.gate)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# Against the simulator's limits


class Simulation:
    """
    A run of many calls on a few workers: a loop that asks the gate, a server with limits, and time that jumps.

    Args:
        at_answer: Whether headers tell of when the answer begins (as our simulator does), or of when it was let in.

        rounded: Whether tokens that remain are told in thousands.

        foreign: Requests per second that others take from the same limit.
    """

    def __init__(
        self, limits, *, calls=300, workers=10, seed=0, latency=(0.05, 0.2), net=(0.001, 0.004),
        at_answer=True, rounded=False, sizes=(10, 10), guess=1.0, foreign=0.0,
    ):  # fmt: skip
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.gate = Gate(self.clock, jitter=self.chance.random)
        self.server = Limiter(limits, 0.0, wall_clock=lambda: datetime(2026, 11, 22, tzinfo=UTC))
        self.sizes = [self.chance.randint(*sizes) for _ in range(calls)]
        self.latency, self.net, self.at_answer, self.rounded, self.guess = latency, net, at_answer, rounded, guess
        self.foreign = foreign
        self.waiting = deque(range(calls))
        self.retries = dict.fromkeys(range(calls), 2)
        self.idle, self.unanswered, self.lost, self.rejections = workers, calls, 0, 0
        self.events, self.order = [], itertools.count()
        self.alarm = -1.0

    @property
    def time(self):
        return self.clock.now

    def later(self, span, event, *args):
        due = self.clock.now + self.chance.uniform(*span)
        heapq.heappush(self.events, (due, next(self.order), event, args))

    def run(self):
        self.later((0, 0), self.ask)
        if self.foreign:
            self.later((0, 1 / self.foreign), self.intrude)
        while self.unanswered and self.time < 1000:
            self.clock.now, _, event, args = heapq.heappop(self.events)
            event(*args)
        return self

    def ask(self):
        while self.idle and self.waiting:
            passed = self.gate.enter(int(self.sizes[self.waiting[0]] * self.guess))
            if isinstance(passed, float):
                self.wake_in(passed)
                return
            self.idle -= 1
            self.later(self.net, self.arrive, self.waiting.popleft(), passed)

    def wake_in(self, wait):
        if not self.time < self.alarm <= self.time + wait:
            self.alarm = self.time + wait
            self.later((wait, wait), self.ask)

    def arrive(self, call, passed):
        try:
            self.server.admit(self.sizes[call], self.time)
        except RejectedError as error:
            self.later(self.net, self.reject, call, passed, error.rejection.retry_after, self.headers())
        else:
            self.later(self.latency, self.answer, call, passed, self.headers())

    def answer(self, call, passed, headers):
        self.later(self.net, self.finish, call, passed, self.headers() if self.at_answer else headers)

    def finish(self, call, passed, headers):
        self.gate.heard(passed, headers)
        self.gate.counted(passed, self.sizes[call])
        self.unanswered -= 1
        self.idle += 1
        self.ask()

    def reject(self, call, passed, retry_after, headers):
        self.rejections += 1
        self.retries[call] -= not self.gate.rejected(passed, retry_after, headers)
        self.lost += self.retries[call] < 0
        self.waiting.appendleft(call)
        self.idle += 1
        self.ask()

    def intrude(self):
        with contextlib.suppress(RejectedError):
            self.server.admit(1, self.time)
        self.later((0, 2 / self.foreign), self.intrude)

    def headers(self):
        headers = self.server.headers(self.time)
        name = "anthropic-ratelimit-input-tokens-remaining"
        if self.rounded and name in headers:
            headers[name] = str(round(int(headers[name]), -3))
        return headers


def simulated(limits, **options):
    return Simulation(limits, **options).run()


def by_requests(rate=20, burst=5, **options):
    return Limits(requests_per_second=rate, request_burst=burst, **options)


def by_tokens(rate=20_000, burst=10_000, **options):
    return Limits(input_tokens_per_second=rate, input_token_burst=burst, **options)


def worst(limits, ideal, seeds=4, **options):
    """The longest time, as a multiple of the *ideal* one, and the most rejections. No call may be lost."""
    runs = [simulated(limits, seed=seed, **options) for seed in range(seeds)]
    assert not any(run.lost for run in runs)
    return max(run.time / ideal(run) for run in runs), max(run.rejections for run in runs)


def requests_ideal(rate=20, burst=5):
    return lambda run: (len(run.sizes) - burst) / rate


def tokens_ideal(rate=20_000, burst=10_000):
    return lambda run: (sum(run.sizes) - burst) / rate


SOME = (500, 1500)


@pytest.mark.parametrize("workers", [5, 10, 50])
@pytest.mark.parametrize("at_answer", [True, False])
def test_headers_keep_to_a_request_limit(at_answer, workers):
    time, rejections = worst(by_requests(), requests_ideal(), workers=workers, at_answer=at_answer)
    assert (time <= 1.12, rejections <= 5) == (True, True), (time, rejections)


def test_the_figure_for_headers_has_room():
    time, rejections = worst(by_requests(), requests_ideal(), seeds=15)
    assert (time <= 1.09, rejections <= 5) == (True, True), (time, rejections)


@pytest.mark.parametrize("options", [{}, {"rounded": True}, {"guess": 0.5}, {"at_answer": False, "rounded": True}])
def test_headers_keep_to_a_token_limit(options):
    time, rejections = worst(by_tokens(), tokens_ideal(), sizes=SOME, **options)
    assert (time <= 1.15, rejections <= 5) == (True, True), (time, rejections)


@pytest.mark.parametrize(
    ("limits", "ideal", "options"),
    [
        (by_requests(2), requests_ideal(2), {"seeds": 2}),
        (by_requests(burst=50), requests_ideal(burst=50), {}),
        (by_requests(burst=50), requests_ideal(14, 50), {"foreign": 6.0}),
        (by_tokens(2000), tokens_ideal(2000), {"sizes": SOME, "seeds": 2}),
    ],
)
def test_headers_keep_to_other_limits(limits, ideal, options):
    time, rejections = worst(limits, ideal, **{"seeds": 5, **options})
    assert (time <= 1.15, rejections <= 6) == (True, True), (time, rejections)


@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize(
    ("limits", "ideal", "options"),
    [
        (by_requests, requests_ideal(), {}),
        (by_requests, requests_ideal(), {"workers": 50}),
        (by_tokens, tokens_ideal(), {"sizes": SOME}),
    ],
)
def test_rejections_alone_keep_to_a_limit(limits, ideal, options, retry_after):
    time, rejections = worst(limits(headers=False, retry_after=retry_after), ideal, **options)
    assert (time <= 1.4, rejections <= 10) == (True, True), (time, rejections)


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("burst", [1, 2, 3])
def test_tiny_bursts_lose_nothing(burst, headers):
    time, rejections = worst(by_requests(burst=burst, headers=headers), requests_ideal(burst=burst), seeds=3)
    assert (time <= 1.6, rejections <= 20) == (True, True), (time, rejections)


def test_a_late_rejection_once_the_pace_is_forgotten_only_lengthens_the_pause(seasoned, clock):
    early, late = passes(seasoned, 2)
    seasoned.rejected(early, 1.0, {})
    times(seasoned, clock, 2000)
    assert seasoned.pace is None
    seasoned.rejected(late, 5.0, {})
    assert seasoned.pace is None
    assert seasoned.enter(1) == 5.0
