"""The rate gate and its parts as numbers, on a clock that only the test moves. See test_rate_situations."""

import gc
import itertools
import logging
import math
import os
import random
import threading
import time
import warnings
import weakref

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_client import ClaudeInvocationError, RateLimit, invoke_claude, rate_limits
from claude_client._gates.clients import gates_of
from claude_client._gates.gate import Wait
from claude_client._gates.rate.gate import RateGate, RatePermit
from claude_client._gates.rate.gates import RateGates
from claude_client._gates.rate.pace import Pace
from claude_client._gates.rate.sends import ACCEPTED, REJECTED, Sends
from claude_client._values.request import Request
from claude_client._values.retry import RetryPolicy
from claude_client.simulator import Limits
from claude_client.simulator._limits import Limiter
from simulation import Bucket, Clock, Setting, Simulation, Unlucky, request_of

IMPATIENT = RetryPolicy()


class Gate:
    """A rate gate beside a clock, told of requests by their tokens and of their ends by one word each."""

    def __init__(self, clock, **options):
        self.gate = RateGate("m", **options)
        self.clock = clock

    def enter(self, tokens=1, **options):
        """A permit, or the seconds to wait."""
        got = self.gate.admit(request_of(tokens, **options), self.clock())
        return got.seconds if isinstance(got, Wait) else got

    def heard(self, permit, headers=None):
        self.gate.on_response(permit, self.clock(), headers or {})

    def counted(self, permit, tokens):
        self.gate.record_usage(permit, tokens)

    def rejected(self, permit, retry_after=1.0, headers=None):
        return self.gate.on_rejection(permit, self.clock(), retry_after, headers or {})

    def left(self, permit):
        self.gate.release(permit, self.clock())

    def passing(self, most=1000, tokens=1):
        """What passes now, of *most* who ask."""
        given_now = []
        while len(given_now) < most and isinstance(passed := self.enter(tokens), RatePermit):
            given_now.append(passed)
        return given_now

    def next(self):
        """The next permit there is, asking again as told."""
        while isinstance(passed := self.enter(), float):
            self.clock.now += passed
        return passed

    def shut(self, retry_after=1.0):
        """Reject what passes, until nothing does."""
        while self.gate.pace.shut_until <= self.clock.now:
            self.rejected(self.next(), retry_after)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gate(clock):
    return Gate(clock, chance=lambda: 0.0)


@pytest.fixture
def seasoned(gate):
    """A gate that has heard an answer without headers."""
    gate.heard(gate.enter())
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


# A gate that knows of no limit


def test_ten_pass_a_fresh_gate_at_once_and_a_crowd_follows_after_a_moment(gate, clock):
    assert len(gate.passing()) == 10
    for _ in range(40):
        gate.next()
    assert clock.now == pytest.approx(0.25 + 39 * 0.02)


def test_what_a_fresh_gate_spreads_is_not_held_back(gate, clock, caplog):
    caplog.set_level(logging.INFO, "claude_client")
    gate.passing()
    clock.now = 0.25
    gate.next()
    assert gate.enter() == pytest.approx(0.02)
    assert (gate.gate.limit(0.0).held_back, caplog.records) == (None, [])


def test_after_an_answer_nothing_is_held_back(seasoned):
    assert len(seasoned.passing()) == 1000


# Rejections


def test_a_single_rejection_binds_nobody_else(seasoned):
    seasoned.rejected(seasoned.enter(), 7.0)
    assert len(seasoned.passing()) == 1000


def test_a_row_of_rejections_shuts_it_for_as_long_as_the_last_says(seasoned, clock):
    seasoned.shut(7.0)
    assert seasoned.enter() == 7.0
    clock.now = 6.9
    assert isinstance(seasoned.enter(), float)
    clock.now = 7.0
    assert isinstance(seasoned.enter(), RatePermit)


def test_a_row_is_longer_where_much_is_rejected_anyway(seasoned, clock):
    def row():
        count = 0
        while isinstance(passed := seasoned.enter(), RatePermit):
            seasoned.rejected(passed)
            count += 1
        return count

    chance = random.Random(1)
    for _ in range(1000):
        permit = seasoned.next()
        if chance.random() < 0.3:
            seasoned.rejected(permit)
        else:
            seasoned.heard(permit)
        clock.now += 0.01
    unlucky = row()
    fresh = Gate(clock)
    fresh.heard(fresh.enter())
    seasoned.gate = fresh.gate
    assert (row(), unlucky > 6) == (4, True)


def test_after_a_pause_it_goes_at_a_pace_that_what_had_got_in_allows(gate, clock):
    passed = gate.passing()
    for permit in passed[5:]:
        gate.rejected(permit)
    clock.now = 1.0
    gate.next()
    assert gate.gate.limit(clock.now).pace == pytest.approx(20, rel=0.1)


def test_reopening_is_put_off_by_a_share_of_a_gap(clock):
    gate = Gate(clock, chance=lambda: 0.5)
    gate.heard(gate.enter())
    gate.shut()
    gate.next()
    assert 1.0 < clock.now < 2.0


def test_without_retry_after_the_pause_doubles_until_something_is_accepted(seasoned, clock):
    pauses = []
    for _ in range(4):
        seasoned.shut(None)
        pauses.append(seasoned.gate.pace.shut_until - clock.now)
        clock.now = seasoned.gate.pace.shut_until + 2
    assert pauses == pytest.approx([1, 2, 4, 8])
    seasoned.heard(seasoned.next())
    seasoned.shut(None)
    assert seasoned.gate.pace.shut_until - clock.now == pytest.approx(1.0)


def test_a_rejection_of_an_older_request_is_no_news(seasoned, clock):
    *stale, first = seasoned.passing(6)
    for permit in reversed(stale):
        seasoned.rejected(permit)
    shut_until = seasoned.gate.pace.shut_until
    seasoned.rejected(first, 60.0)
    assert seasoned.gate.pace.shut_until == shut_until


def test_a_pace_that_grew_fast_enough_is_forgotten(seasoned):
    seasoned.shut()
    for _ in range(1000):
        seasoned.heard(seasoned.next())
    assert len(seasoned.passing(100)) == 100


def test_an_idle_gate_does_not_quicken(seasoned, clock):
    seasoned.shut()
    clock.now = 1000.0
    assert len(seasoned.passing(10)) == 1


def test_a_limit_that_rises_eightfold_is_followed_within_ten_seconds():
    server = Bucket(5, 5, schedule=[(20, 40)])
    simulation = Simulation(server, Setting(calls=400, headers=""), seed=1).run()
    ideal = 20 + (400 - 105) / 40
    assert simulation.time < ideal + 8


def test_what_bad_luck_did_is_forgotten_within_seconds():
    server = Unlucky(0.35)
    simulation = Simulation(server, Setting(calls=3000, headers=""), seed=3)
    simulation.later(10.0, setattr, server, "share", 0.0)
    assert simulation.run().time < 10 + 3000 / 200 + 8


def test_an_old_rejection_that_was_presumed_accepted_still_counts(seasoned, clock):
    permit = seasoned.enter()
    clock.now = 5.0
    seasoned.heard(seasoned.enter())
    seasoned.rejected(permit)
    assert seasoned.gate.limit(clock.now).rejected == 1


# What a rejection costs


def test_a_rejection_costs_no_retry_where_others_are_rejected_now_and_then(seasoned):
    for number in range(60):
        permit = seasoned.enter()
        if number % 10:
            seasoned.heard(permit)
        else:
            seasoned.rejected(permit)
    costs = []
    for refused in range(8):
        costs.append(seasoned.rejected(seasoned.enter(refused=refused)))
        seasoned.heard(seasoned.enter())
    assert (costs[0], costs[-1]) == (False, True)


def test_it_does_where_others_are_not(seasoned):
    for permit in seasoned.passing(50):
        seasoned.heard(permit)
    assert seasoned.rejected(seasoned.enter())


def test_it_does_where_nobody_else_asks(gate, clock):
    assert gate.rejected(gate.enter())
    clock.now = 100.0
    assert gate.rejected(gate.enter(refused=1))


def test_it_does_not_where_all_are_rejected_until_that_has_gone_on_for_long(gate, clock):
    costs = [gate.rejected(gate.next(), 0.5) for _ in range(8)]
    assert costs == [True] + [False] * 7
    clock.now += 100
    assert gate.rejected(gate.enter(refused=12), 0.5)


def test_one_that_is_rejected_again_and_again_while_others_pass_pays_and_counts_for_nobody(seasoned, clock):
    costs = []
    for refused in range(8):
        for permit in seasoned.passing(20):
            seasoned.heard(permit)
        costs.append(seasoned.rejected(seasoned.enter(refused=refused)))
        clock.now += 0.5
    assert costs == [True] * 8
    assert len(seasoned.passing()) == 1000


# A long pause


def test_a_pause_of_more_than_a_minute_is_not_waited_for(seasoned, clock):
    seasoned.shut(3600.0)
    clock.now = 30.0
    with pytest.raises(ClaudeInvocationError, match="another 3570 s to go, and calls wait 60 s at most") as caught:
        seasoned.enter(retry=IMPATIENT)
    error = caught.value
    assert (error.kind, error.retry_after, error.retryable, error.status_code) == ("rate_limit", 3570.0, True, None)
    clock.now = 3545.0
    seasoned.enter()  # a probe
    assert seasoned.enter(retry=IMPATIENT) == 55.0


def test_in_a_long_pause_one_may_try_each_minute_and_is_believed(seasoned, clock):
    seasoned.shut(3600.0)
    clock.now = 59.0
    assert seasoned.enter() == 1.0
    clock.now = 60.0
    probe = seasoned.enter(retry=IMPATIENT)
    assert isinstance(probe, RatePermit)
    assert seasoned.enter() == 60.0
    seasoned.heard(probe)
    assert isinstance(seasoned.next(), RatePermit)
    assert clock.now < 65


def test_a_probe_that_is_rejected_prolongs_the_pause(seasoned, clock):
    seasoned.shut(100.0)
    clock.now = 70.0
    seasoned.rejected(seasoned.enter(), 100.0)
    assert seasoned.gate.pace.shut_until == 170.0


# Headers


def test_what_is_surely_left_passes_at_once(gate):
    gate.heard(gate.enter(), requests(49))
    assert 40 < len(gate.passing()) < 50


def test_what_is_in_flight_is_not_left(gate):
    first, *_ = gate.passing(10)
    gate.heard(first, requests(12))
    assert len(gate.passing()) < 3


def test_nothing_left_is_waited_for_but_not_for_long(gate, clock):
    gate.heard(gate.enter(), requests(0))
    assert 0 < gate.enter() <= 0.25
    clock.now = 0.5
    assert isinstance(gate.enter(), RatePermit)


def test_the_newest_request_wins(gate, clock):
    older, _, newer = gate.passing(3)
    clock.now = 0.1
    latest = gate.enter()
    gate.heard(latest, requests(0))
    gate.heard(older, requests(40))
    gate.heard(newer, requests(40))
    assert isinstance(gate.enter(), float)


def test_of_two_sent_together_the_lower_counts(gate):
    first, second = gate.passing(2)
    gate.heard(second, requests(40))
    gate.heard(first, requests(0))
    assert isinstance(gate.enter(), float)


def test_the_rate_is_learnt_from_how_remaining_moves(gate, clock):
    bucket = Limiter(Limits(requests_per_second=8, request_burst=50), 0.0)
    for _ in range(200):
        clock.now += 0.1
        if isinstance(passed := gate.enter(), RatePermit):
            bucket.admit(1, clock.now)
            gate.heard(passed, bucket.headers(clock.now))
    assert gate.gate.requests.rate == pytest.approx(8, rel=0.15)


def test_a_limit_that_changes_is_learnt_anew(gate, clock):
    gate.heard(gate.enter(), requests(0))
    clock.now = 1.0
    gate.heard(gate.enter(), requests(990, limit=1000))
    assert len(gate.passing(100)) == 100


def test_a_given_back_request_was_never_taken(gate):
    first, second = gate.passing(2)
    gate.heard(first, requests(2))
    assert isinstance(gate.enter(), float)
    gate.left(second)
    assert isinstance(gate.enter(), RatePermit)


def test_a_permit_ends_once(gate):
    first, second, third = gate.passing(3)
    gate.heard(first, requests(3))
    gate.left(first)
    gate.heard(first, requests(50))
    assert gate.rejected(first)
    assert isinstance(gate.enter(), float)
    for passed in (second, third):
        gate.left(passed)
        gate.left(passed)
    assert len(gate.passing(10)) == 2


@pytest.mark.parametrize("odd", ["", "many", "-1", "1e3", "9" * 40, "½"])
def test_headers_that_cannot_be_read_are_none(gate, odd):
    gate.heard(gate.enter(), requests(odd))
    gate.heard(gate.enter(), requests(0, limit=odd))
    assert len(gate.passing(100)) == 100


def test_the_reset_header_is_not_believed(gate):
    gate.heard(gate.enter(), requests(0) | {"anthropic-ratelimit-requests-reset": "2000-01-01T00:00:00Z"})
    assert isinstance(gate.enter(), float)


def test_headers_of_a_rejection_count_too(seasoned):
    seasoned.rejected(seasoned.enter(), 1.0, requests(0))
    assert seasoned.gate.limit(0.0).requests_remaining == 0


def test_rejections_that_headers_explain_set_a_pace_that_they_lift(gate, clock):
    for permit in gate.passing():
        gate.rejected(permit, 1.0, requests(0, limit=5000))
    gate.heard(gate.next(), requests(4000, limit=5000))
    gate.next()
    assert len(gate.passing(10)) == 10


def test_rejections_that_headers_do_not_explain_set_one_that_they_do_not_lift(gate, clock):
    gate.heard(gate.enter(), requests(4000, limit=5000))
    for permit in gate.passing(10):
        gate.rejected(permit, 1.0, requests(4000, limit=5000))
    gate.heard(gate.next(), requests(3999, limit=5000))
    assert len(gate.passing(10)) == 0


def test_a_wrong_idea_of_the_limit_does_not_hold_for_ever(gate, clock):
    gate.heard(gate.enter(), tokens(0, limit=10**9))
    gate.counted(gate.next(), 10**6)
    for _ in range(3):
        gate.next()
    assert clock.now < 60


def test_what_was_rejected_is_not_counted_as_taken(gate, clock):
    first, second, third = gate.passing(3)
    gate.rejected(second)
    gate.left(third)
    gate.heard(first, requests(10))
    assert gate.gate.limit(clock.now).requests_remaining == 10


def test_the_tokens_of_a_request_long_ago_are_corrected_all_the_same(gate, clock):
    old = gate.enter(100)
    for _ in range(70):
        gate.heard(gate.enter(100), tokens(9000, limit=10**6))
    remaining = gate.gate.limit(clock.now).input_tokens_remaining
    gate.counted(old, 1100)
    assert gate.gate.limit(clock.now).input_tokens_remaining == remaining


# Input tokens


def test_tokens_are_waited_for(gate):
    gate.heard(gate.enter(2000), tokens(5001))
    assert len(gate.passing(10, tokens=2000)) == 1


def test_a_guess_is_calibrated_by_what_was_counted(gate):
    first = gate.enter(100)
    gate.heard(first, tokens(9999))
    gate.counted(first, 1000)
    assert gate.enter(200).tokens == 2000


def test_what_was_counted_counts_at_once(gate):
    first, second = gate.passing(2, tokens=4000)
    gate.heard(first, tokens(8001))
    assert isinstance(gate.enter(4000), float)
    gate.counted(second, 10)
    assert isinstance(gate.enter(4000), RatePermit)


def test_a_bucket_rounded_to_thousands_is_not_trusted_to_its_last_token(gate):
    gate.heard(gate.enter(), tokens(1000))
    assert isinstance(gate.enter(600), float)


def test_a_request_larger_than_the_bucket_waits_until_it_is_full(gate, clock):
    gate.heard(gate.enter(), tokens(4999))
    assert isinstance(gate.enter(100_000), float)
    clock.now = 100.0
    assert isinstance(gate.enter(100_000), RatePermit)


def test_no_tokens_are_a_guess_too(gate):
    gate.heard(gate.enter(0), tokens(0))
    assert gate.enter(0) != 0


# What it says


def test_it_says_once_when_calls_are_held_back_and_once_when_they_no_longer_are(seasoned, clock, caplog):
    caplog.set_level(logging.INFO, "claude_client")
    seasoned.shut(2.0)
    for _ in range(5):
        seasoned.enter()
    assert [record.getMessage() for record in caplog.records] == [
        "Calls to m are held back, at 2 a second: rejected in a row, for another 2.0 s"
    ]
    for _ in range(400):
        seasoned.heard(seasoned.next())
    clock.now += 6.0
    seasoned.next()
    assert len(caplog.records) == 2
    assert caplog.records[1].getMessage().startswith("Calls to m are no longer held back, after ")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [(requests(0), "0 of 50 requests are left"), (tokens(0), "0 of 10000 input tokens are left")],
)
def test_it_says_what_the_headers_said(gate, headers, reason):
    gate.heard(gate.enter(), headers)
    assert gate.gate.would_wait(request_of(), 0.0).cause == "rate limit"
    assert gate.gate.limit(0.0).held_back == reason


def test_what_is_known_is_told_as_plain_values(gate, clock):
    assert gate.gate.limit(0.0) == RateLimit("m", None, None, None, None, None, None, None, 0, 0)
    gate.heard(gate.enter(), requests(30) | tokens(7000))
    gate.shut(5.0)
    known = gate.gate.limit(clock.now)
    assert (known.requests_limit, known.requests_remaining) == (50, 30)
    assert (known.input_tokens_limit, known.input_tokens_remaining) == (10_000, 7000)
    assert known.shut_until == pytest.approx(time.time() + 5, abs=2)
    assert known.admitted == known.rejected + 1
    assert known.pace > 0


def test_rate_limits_are_those_of_the_default_client(sim):
    assert rate_limits() == []
    invoke_claude("hi")
    invoke_claude("hi", model="claude-opus-5")
    invoke_claude("hi")
    assert [(limit.model, limit.admitted) for limit in rate_limits()] == [
        ("claude-sonnet-4-6", 2),
        ("claude-opus-5", 1),
    ]


def test_rate_limits_without_credentials_are_none(monkeypatch, tmp_path):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    assert rate_limits() == []


# The registry


@pytest.fixture
def clients():
    with anthropic.Anthropic(api_key="a") as one, anthropic.Anthropic(api_key="a") as other:
        yield one, other


def test_all_calls_of_a_client_pass_the_same_gates_and_each_model_has_its_own(clients):
    one, other = clients
    assert gates_of(one) is gates_of(one)
    assert gates_of(one) is not gates_of(other)


def test_each_model_and_each_key_of_a_request_has_its_own_gate():
    gates = RateGates()

    def gate_of(model="m", **headers):
        return gates.of(Request(model=model, max_tokens=1, messages=[], extra_headers=headers))

    assert gate_of() is gate_of() is gate_of(x_other="a")
    own = gate_of(Authorization="Bearer a")
    assert own is gate_of(authorization="Bearer a")
    assert len({id(gate) for gate in (gate_of(), gate_of("n"), own, gate_of(authorization="Bearer b"))}) == 4


def test_gates_are_forgotten_with_their_client():
    client = anthropic.Anthropic(api_key="a")
    gate = weakref.ref(gates_of(client)[0])
    client.close()
    del client
    gc.collect()
    assert gate() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_begins_afresh_though_its_parent_was_in_the_middle_of_asking(clients):
    (rates, *_), over = gates_of(clients[0]), []

    def fork():
        child = os.fork()
        if child == 0:
            threading.Timer(10, os._exit, [2]).start()
            got = gates_of(clients[0])[0].admit(request_of(), 0.0)
            os._exit(int(not isinstance(got, RatePermit)))
        over.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    rates.of(request_of()).share = lambda _, operation, *args: fork() or operation(*args)  # under the gate's lock
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: fork in a process with threads
        rates.admit(request_of(), 0.0)
    assert over == [0]


def test_what_was_taken_after_a_request_is_known_of_the_latest(gate):
    permits = gate.passing(5, tokens=100)
    gate.rejected(permits[3])
    sends = gate.gate.pace.sends
    assert [sends.taken_after(number, tokens=False) for number in (-1, 0, 2, 4)] == [4, 3, 1, 0]
    assert sends.taken_after(-1, tokens=True) == 400


def test_what_is_under_way_is_ahead_of_a_refill_by_its_densest_part():
    sends = Sends()
    for at in (0.0, 1.0, 1.9, 1.9, 1.9):
        sends.add(at, 10)
    sends.settle(sends.add(1.95, 10), REJECTED)
    assert sends.lately(2.0, 9.0, 0.0, tokens=False) == (5, 5)
    assert sends.lately(2.0, 1.5, 0.0, tokens=False) == (4, 4)
    assert sends.lately(2.0, 1.5, 5.0, tokens=False) == (4, pytest.approx(2.5))
    assert sends.lately(2.0, 1.5, 20.0, tokens=True) == (40, pytest.approx(28))
    assert sends.lately(2.0, 1.5, 100.0, tokens=False) == (4, 0)


# Threads, and any order of events


def test_many_threads_lose_nothing():
    gate = Gate(time.monotonic)
    gate.heard(gate.enter())
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
    assert gate.gate.limit(0.0).admitted == len(numbers) + 1


def end(gate, passed, chance):
    what = chance.random()
    if what < 0.01:
        gate.rejected(passed, 0.001, requests(chance.randrange(1000), limit=1000))
    elif what < 0.1:
        gate.left(passed)
    else:
        gate.heard(passed, requests(chance.randrange(900, 1000), limit=1000) if what < 0.9 else {})
        gate.counted(passed, chance.randrange(20))


class AnyOrder(RuleBasedStateMachine):
    """Whatever is told in whatever order, the promises hold; also if it is all read back from numbers on the way."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.gate = Gate(self.clock, chance=lambda: 0.3)
        self.flying, self.answered, self.pauses = [], [], []
        self.numbers = itertools.count()

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule(guess=st.integers(0, 10_000), refused=st.integers(0, 5))
    def asks(self, guess, refused):
        got = self.gate.enter(guess, refused=refused)
        if isinstance(got, float):
            assert got > 0
        else:
            assert got.number == next(self.numbers)
            self.flying.append(got)

    @rule()
    def asks_as_told(self):
        for _ in range(1000):
            if isinstance(got := self.gate.enter(), RatePermit):
                assert got.number == next(self.numbers)
                self.flying.append(got)
                return
            self.clock.now += got
        pytest.fail("nobody ever passes")

    def one_of(self, permits, data):
        return permits.pop(data.draw(st.integers(0, len(permits) - 1)))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), headers=st.sampled_from([{}, requests(0), requests(49), tokens(3000), tokens(0)]))
    def is_heard(self, data, headers):
        passed = self.one_of(self.flying, data)
        self.gate.heard(passed, headers)
        self.answered.append(passed)

    @precondition(lambda self: self.flying)
    @rule(
        data=st.data(), pause=st.none() | st.floats(0.001, 100), headers=st.sampled_from([{}, requests(0), tokens(0)])
    )
    def is_rejected(self, data, pause, headers):
        self.gate.rejected(self.one_of(self.flying, data), pause, headers)
        self.pauses.append(self.clock.now + (10.0 if pause is None else pause))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), kind=st.sampled_from(["overloaded", "connection"]))
    def fails(self, data, kind):
        passed = self.one_of(self.flying, data)
        self.gate.gate.on_failure(passed, self.clock.now, ClaudeInvocationError("down", kind=kind))
        self.gate.left(passed)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def is_left(self, data):
        self.gate.left(self.one_of(self.flying, data))

    @precondition(lambda self: self.answered)
    @rule(used=st.integers(0, 20_000))
    def is_counted(self, used):
        self.gate.counted(self.answered.pop(), used)

    @rule()
    def is_copied(self):
        numbers = self.gate.gate.numbers()
        copy = RateGate("m", chance=lambda: 0.3)
        assert copy.restore(numbers) == len(numbers)
        assert copy.numbers() == numbers
        self.gate.gate.restore(numbers)

    @invariant()
    def it_is_never_shut_for_longer_than_asked(self):
        assert self.gate.gate.pace.shut_until <= max(self.pauses, default=-math.inf)

    @invariant()
    def the_books_balance(self):
        given = self.gate.gate.admitted
        assert given == self.gate.gate.pace.sends.given


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 0.35), seed=st.integers(0, 10_000), pause=st.floats(0.2, 3))
def test_the_pace_never_falls_below_half_of_what_was_accepted_lately_and_it_ends(share, seed, pause):
    """Of what a server without any limit accepts, whatever its share of bad luck, but for pauses after rows of it."""
    chance, clock = random.Random(seed), Clock()
    pace = Pace(chance.random)
    accepted = 0
    while accepted < 400:
        wait = pace.wait(clock.now)
        if wait > 0:
            clock.now += wait
            continue
        number, rate = pace.give(clock.now), pace.rate
        clock.now += 0.004
        if chance.random() < share:
            closed = pace.shut_until
            lately = pace.sends.rate(clock.now, 20, 0.25)
            pace.rejected(number, clock.now, pause)
            if pace.shut_until == closed:
                assert pace.rate >= 0.34 * min(rate, lately) or pace.rate >= 0.34 * rate
        else:
            pace.accepted(number, clock.now)
            accepted += 1
    assert clock.now < 400


def test_a_request_of_long_ago_that_ends_says_nothing_more():
    sends = Sends()
    for number in range(100):
        assert sends.add(float(number), 1.0) == number
    assert not sends.settle(0, ACCEPTED)
