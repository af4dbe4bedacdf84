"""Slots in total and per category, and the line of those who wait for one."""

import contextlib
import dataclasses
import math
import pickle
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from claude_client._engine.flow import CallFlow
from claude_client._engine.scheduler import Job
from claude_client._engine.threads import Run
from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt
from claude_client._values.request import Request
from helpers import Page, until
from orchestration import ConcurrencyLimiter, Occupancy, invoke_parallel_managed
from orchestration._limiter_gate import LimiterGate

pytestmark = pytest.mark.once


@pytest.fixture
def pool():
    with ThreadPoolExecutor(20) as pool:
        yield pool


def waits(pool, limiter, category=None, **options):
    """A thread that has begun to wait for a slot, as the future of `acquire`."""
    before = limiter.statistics().total.waiting
    future = pool.submit(limiter.acquire, category, **options)
    until(lambda: limiter.statistics().total.waiting > before)
    return future


def in_use(limiter, category=None):
    total = limiter.statistics().categories.get(category)
    return total.in_use if total else 0


def idle(limiter):
    total = limiter.statistics().total
    return (total.in_use, total.waiting) == (0, 0)


def test_both_limits_hold():
    limiter = ConcurrencyLimiter(3, {"a": 1, "b": 2})
    assert [limiter.try_acquire(category) for category in ("a", "a", "b", "b", None, "c")] == [
        *(True, False, True, True, False, False)
    ]
    limiter.release("b")
    assert limiter.try_acquire("a") is False
    assert limiter.try_acquire("other") is True


def test_limits_hold_among_threads(pool):
    limiter, inside, most, lock = ConcurrencyLimiter(4, {"a": 2}), Counter(), Counter(), threading.Lock()
    together = threading.Barrier(10, timeout=10)

    def work(category):
        together.wait()
        for _ in range(30):
            with limiter.slot(category):
                with lock:
                    inside.update({"all": 1, category: 1})
                    most.update({name: inside[name] - most[name] for name in inside if inside[name] > most[name]})
                with lock:
                    inside.subtract({"all": 1, category: 1})

    for future in [pool.submit(work, category) for category in "ab" * 5]:
        future.result(10)
    assert most["all"] <= 4
    assert most["a"] <= 2
    assert idle(limiter)


def test_who_waits_for_a_full_category_holds_nothing_and_delays_nobody(pool):
    limiter = ConcurrencyLimiter(3, {"a": 1})
    limiter.acquire("a")
    waiting = [waits(pool, limiter, "a") for _ in range(2)]
    assert limiter.statistics().total == Occupancy(limit=3, in_use=1, waiting=2)
    assert limiter.acquire("b", timeout=0)
    assert limiter.acquire(timeout=0)
    late = waits(pool, limiter, "b")
    limiter.release()
    assert late.result(10)
    for future in waiting:
        limiter.release("a")
        assert future.result(10)


def test_those_who_wait_are_served_in_the_order_they_came(pool):
    limiter = ConcurrencyLimiter(1)
    limiter.acquire()
    waiting = [waits(pool, limiter, category) for category in ("x", None, "y", "x")]
    for i, category in enumerate([None, "x", None, "y"]):
        assert not any(future.done() for future in waiting[i:])
        limiter.release(category)
        assert waiting[i].result(10)


def test_acquire_waits_no_longer_than_its_timeout():
    limiter = ConcurrencyLimiter(1)
    assert limiter.acquire(timeout=0)
    assert not limiter.acquire(timeout=0)
    assert not limiter.acquire(timeout=0.001)
    assert limiter.statistics().total == Occupancy(limit=1, in_use=1, waiting=0)


@pytest.mark.parametrize("timeout", [1e30, math.inf])
def test_acquire_may_wait_longer_than_any_lock_can(pool, timeout):
    limiter = ConcurrencyLimiter(1)
    limiter.acquire()
    waiting = waits(pool, limiter, timeout=timeout)
    limiter.release()
    assert waiting.result(10)


@pytest.mark.parametrize("timeout", [-1, math.nan, "1"])
def test_a_timeout_that_is_none_is_a_value_error(timeout):
    with pytest.raises(ValueError, match="timeout"):
        ConcurrencyLimiter().acquire(timeout=timeout)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2", True, None])
def test_a_limit_is_a_whole_number_from_1(limit):
    with pytest.raises(ValueError, match="global_limit must be a whole number of at least 1, got"):
        ConcurrencyLimiter(limit)
    with pytest.raises(ValueError, match=r"category_limits\['a'\] must be a whole number of at least 1, got"):
        ConcurrencyLimiter(1, {"a": limit})


def test_category_limits_are_a_mapping_that_is_copied():
    with pytest.raises(ValueError, match="category_limits must be a mapping"):
        ConcurrencyLimiter(1, ["a"])
    limits = {"a": 1}
    limiter = ConcurrencyLimiter(2, limits)
    limits["a"] = 2
    assert [limiter.try_acquire("a") for _ in range(2)] == [True, False]


def test_releasing_what_is_not_held_is_a_runtime_error():
    limiter = ConcurrencyLimiter()
    limiter.acquire("a")
    with pytest.raises(RuntimeError, match="cannot release a slot without a category: none is held"):
        limiter.release()
    with pytest.raises(RuntimeError, match="cannot release a slot of category 'b': none is held"):
        limiter.release("b")
    limiter.release("a")
    with pytest.raises(RuntimeError):
        limiter.release("a")


def test_a_slot_that_is_kept_for_another_cannot_be_released():
    limiter = ConcurrencyLimiter(1, hold_seconds=math.inf)
    limiter.acquire()
    with limiter.waking(print) as ask:
        ask(None)
        limiter.release()
        with pytest.raises(RuntimeError):
            limiter.release()
        assert ask(None)


def test_slot_gives_back_also_after_an_error():
    limiter = ConcurrencyLimiter(1)

    def fail():
        with limiter.slot("a"):
            assert in_use(limiter, "a") == 1
            raise OSError

    with pytest.raises(OSError):
        fail()
    assert idle(limiter)


def test_ctrl_c_while_waiting_leaves_nothing_behind(pool):
    limiter = ConcurrencyLimiter(1)
    limiter.acquire()

    def press():
        until(lambda: limiter.statistics().total.waiting)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    pool.submit(press)
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire()
    assert limiter.statistics().total == Occupancy(limit=1, in_use=1, waiting=0)
    assert not limiter.try_acquire()


def test_ctrl_c_when_the_slot_has_just_come_gives_it_to_the_next(pool, monkeypatch):
    limiter = ConcurrencyLimiter(1)
    limiter.acquire()

    late = []

    class Turn(threading.Event):
        def wait(self, timeout=None):
            once.undo()
            late.append(waits(pool, limiter))
            limiter.release()
            raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(threading, "Event", Turn)
        with pytest.raises(KeyboardInterrupt):
            limiter.acquire()
    assert late[0].result(10)
    assert limiter.statistics().total == Occupancy(limit=1, in_use=1, waiting=0)


def test_statistics_are_a_frozen_value():
    limiter = ConcurrencyLimiter(4, {"a": 2})
    limiter.acquire("a")
    limiter.acquire()
    limiter.acquire("b")
    now = limiter.statistics()
    assert now.total == Occupancy(limit=4, in_use=3, waiting=0)
    assert now.categories == {"a": Occupancy(2, 1, 0), "b": Occupancy(None, 1, 0), None: Occupancy(None, 1, 0)}
    limiter.release("a")
    assert now.total.in_use == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        now.total = None
    assert dataclasses.asdict(now)["categories"][None] == {"limit": None, "in_use": 1, "waiting": 0}
    assert pickle.loads(pickle.dumps(now)) == now


def test_a_notebook_shows_each_category_and_the_sums():
    limiter = ConcurrencyLimiter(4, {"<b>": 2})
    limiter.acquire("<b>")
    limiter.acquire()
    cells = Page(limiter._repr_html_()).of("th", "td")
    assert [cells[i : i + 4] for i in range(0, len(cells), 4)] == [
        ["in use", "of", "waiting", "category"],
        ["1", "2", "0", "<b>"],
        ["1", "", "0", "no category"],
        ["2", "4", "0", "all"],
    ]


def test_repr_tells_what_is_in_use():
    limiter = ConcurrencyLimiter(2, {"a": 1})
    limiter.acquire("a")
    assert repr(limiter) == "<ConcurrencyLimiter 1 of 2 in use, 0 waiting; 'a' 1 of 1 in use, 0 waiting>"


# Runs, which ask again when they are woken


def test_who_was_refused_is_woken_once_it_is_its_turn_and_nobody_else():
    limiter, woken = ConcurrencyLimiter(2, {"a": 1}, hold_seconds=math.inf), []
    with limiter.waking(lambda: woken.append(1)) as ask, limiter.waking(lambda: woken.append(2)) as ask_too:
        assert ask("a")
        assert not ask_too("a")
        assert ask("b")
        limiter.release("b")
        assert woken == []
        limiter.release("a")
        assert woken == [2]
        assert not ask("a")
        assert ask_too("a")
        assert woken == [2]
        limiter.release("a")
        assert woken == [2, 1]


def test_who_gives_a_slot_back_unused_is_not_woken_for_it():
    limiter, woken = ConcurrencyLimiter(1), []
    with limiter.waking(lambda: woken.append(1)) as ask:
        for _ in range(3):
            assert ask(None)
            limiter.release()
    assert woken == []


def test_wake_may_ask_at_once():
    limiter, taken = ConcurrencyLimiter(1, hold_seconds=math.inf), []
    limiter.acquire()
    with limiter.waking(lambda: taken.append(ask(None))) as ask:
        assert not ask(None)
        limiter.release()
    assert taken == [True]
    assert limiter.statistics().total.in_use == 1


def test_try_acquire_overtakes_neither_threads_nor_runs(pool):
    limiter = ConcurrencyLimiter(1, hold_seconds=math.inf)
    limiter.acquire()
    thread = waits(pool, limiter)
    with limiter.waking(lambda: None) as ask:
        assert not ask(None)
        limiter.release()
        assert not limiter.try_acquire()
        assert not ask(None)
        assert thread.result(10)
        limiter.release()
        assert not limiter.try_acquire()
        assert ask(None)


def test_threads_do_not_overtake_a_run(pool):
    limiter = ConcurrencyLimiter(1, hold_seconds=math.inf)
    limiter.acquire()
    with limiter.waking(lambda: None) as ask:
        assert not ask(None)
        thread = waits(pool, limiter)
        limiter.release()
        assert not thread.done()
        assert ask(None)
        assert not ask(None)
        limiter.release()
        assert thread.result(10)


def test_a_run_that_does_not_come_for_its_slot_loses_it_to_the_next(pool):
    limiter, woken = ConcurrencyLimiter(1, hold_seconds=0.001), threading.Event()
    limiter.acquire()
    with limiter.waking(lambda: None) as ask, limiter.waking(woken.set) as ask_too:
        assert not ask(None)
        thread = waits(pool, limiter)
        limiter.release()
        assert thread.result(10)
        assert not ask(None)
        assert not ask_too(None)
        limiter.release()
        assert woken.wait(10)


def test_who_comes_when_a_slot_is_kept_already_gets_it_if_it_is_not_wanted(pool):
    limiter = ConcurrencyLimiter(1, hold_seconds=0.001)
    limiter.acquire()
    with limiter.waking(lambda: None) as ask:
        assert not ask(None)
        limiter.release()
        assert pool.submit(limiter.acquire).result(10)


def test_a_run_that_ends_leaves_its_place_and_its_turn_to_the_next(pool):
    limiter = ConcurrencyLimiter(1, hold_seconds=math.inf)
    limiter.acquire()
    with limiter.waking(lambda: None) as ask:
        assert not ask(None)
        assert not ask("a")
        thread = waits(pool, limiter)
        limiter.release()
        assert not thread.done()
    assert thread.result(10)
    assert limiter.statistics().total == Occupancy(limit=1, in_use=1, waiting=0)


def test_a_slot_is_still_kept_where_no_more_threads_can_be_started(pool, monkeypatch):
    limiter = ConcurrencyLimiter(1)
    limiter.acquire()
    with limiter.waking(lambda: None) as ask:
        assert not ask(None)
        thread = waits(pool, limiter)
        with monkeypatch.context() as ending:
            ending.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError))
            limiter.release()
    assert thread.result(10)


def test_what_is_kept_for_a_run_takes_nothing_from_other_categories():
    limiter = ConcurrencyLimiter(3, {"a": 1}, hold_seconds=60.0)
    limiter.acquire("a")
    with limiter.waking(lambda: None) as ask, limiter.waking(lambda: None) as ask_too:
        assert not ask("a")
        limiter.release("a")
        assert limiter.try_acquire("b")
        assert ask_too("b")
        assert not limiter.try_acquire("b")
        assert ask("a")


def test_a_run_refused_while_a_slot_was_kept_for_another_gets_its_turn_all_the_same():
    limiter, woken = ConcurrencyLimiter(1, hold_seconds=60.0), threading.Event()
    limiter.acquire()
    with limiter.waking(lambda: None) as ask, limiter.waking(woken.set) as ask_too:
        assert not ask(None)
        limiter.release()
        assert not ask_too(None)
        assert ask(None)
        limiter.release()
        assert woken.wait(10)
        assert ask_too(None)


def test_a_run_that_comes_late_gets_its_slot_if_nobody_else_came():
    limiter = ConcurrencyLimiter(1, hold_seconds=0.0)
    limiter.acquire()
    with limiter.waking(lambda: None) as ask:
        assert not ask(None)
        limiter.release()
        assert ask(None)


def test_a_thread_that_came_while_a_slot_was_kept_for_a_run_is_next_at_once(pool):
    limiter = ConcurrencyLimiter(1, hold_seconds=60.0)
    limiter.acquire()
    with limiter.waking(lambda: None) as ask:
        assert not ask(None)
        limiter.release()
        thread = waits(pool, limiter)
        assert ask(None)
        limiter.release()
        assert thread.result(10)


def run_of(limiter, categories, text="a"):
    """How many of the prompts of a managed run were answered."""
    prompts = [{"prompt": text, "category": category} for category in categories]
    results = invoke_parallel_managed(prompts, max_workers=3, concurrency_limiter=limiter)
    return sum(result is not None for result in results)


def test_runs_come_to_their_ends_beside_threads_that_never_rest_and_these_go_on_too(sim, pool):
    limiter, ended, turns = ConcurrencyLimiter(2, {"a": 1}), threading.Event(), Counter()

    def never_rest(name):
        while not ended.is_set():
            with limiter.slot("a"):
                turns[name] += 1

    threads = [pool.submit(never_rest, name) for name in range(4)]
    try:
        until(lambda: len(turns) == 4)
        before = Counter(turns)
        runs = [pool.submit(run_of, limiter, "abab" * 5) for _ in range(2)]
        assert all(run.result(20) == 20 for run in runs)
        until(lambda: all(turns[name] > before[name] for name in range(4)))
    finally:
        ended.set()
    for thread in threads:
        thread.result(10)
    assert idle(limiter)


def test_a_later_run_does_not_wait_for_the_end_of_an_earlier_one(sim, pool):
    limiter = ConcurrencyLimiter(1, hold_seconds=math.inf)
    limiter.acquire()
    earlier = pool.submit(run_of, limiter, [None] * 20, "earlier")
    until(lambda: limiter.statistics().total.waiting == 1)
    later = pool.submit(run_of, limiter, [None], "later")
    until(lambda: limiter.statistics().total.waiting == 2)
    limiter.release()
    assert earlier.result(10) == 20
    assert later.result(10) == 1
    assert [request.text for request in sim.requests] == ["earlier", "later"] + ["earlier"] * 19


def test_runs_held_up_elsewhere_take_no_slot_and_wake_nobody():
    limiter, woken = ConcurrencyLimiter(1), []

    class Shut:
        """A gate that lets nobody in, and counts how often it is asked."""

        asked = 0

        def would_wait(self, request, now):
            self.asked += 1
            return Wait(math.inf, "rate limit")

        @contextlib.contextmanager
        def waking(self, wake):
            self.wake = wake
            yield

    with limiter.waking(lambda: woken.append(1)) as ask:
        assert ask("a")
        assert not ask("b")  # so that whatever is given back would wake
        gates = [Shut(), Shut()]
        jobs = [Job(i, CallFlow(Request(model="m", max_tokens=1, messages=[]))) for i in range(3)]
        runs = [Run(None, jobs, max_workers=3, gates=[LimiterGate(limiter), gate]) for gate in gates]
        threads = [threading.Thread(target=run.run) for run in runs]
        for thread, gate in zip(threads, gates, strict=True):
            thread.start()
            until(lambda gate=gate: gate.asked)
            for _ in range(20):
                before = gate.asked
                gate.wake()
                until(lambda gate=gate, before=before: gate.asked > before)
        assert limiter.statistics().total == Occupancy(limit=1, in_use=1, waiting=1)
        assert woken == []
        for run, thread in zip(runs, threads, strict=True):
            run.interrupt()
            thread.join(20)
        assert min(gate.asked for gate in gates) > 20
        assert max(gate.asked for gate in gates) < 100
        limiter.release("a")
        assert woken == [1]


def test_who_gave_up_leaves_no_trace_and_keeps_nobody_from_their_turn(pool):
    limiter = ConcurrencyLimiter(2, {"a": 1, "b": 1})
    limiter.acquire("a")
    assert not any(limiter.try_acquire("a") for _ in range(100))
    with limiter.waking(lambda: None) as ask:
        assert not ask("a")
        first = waits(pool, limiter, "a")
    limiter.acquire("b")
    assert not any(limiter.try_acquire(category) for category in "ab" * 100)
    limiter.release("a")
    assert first.result(20)
    for category in "ab":
        limiter.release(category)
    assert idle(limiter)


LIMITS = {"a": 1, "b": 2}
CATEGORIES = st.sampled_from([None, "a", "b"])
RUNS = st.integers(0, 1)


class AnyOrder(RuleBasedStateMachine):
    """Two runs, and others who do not wait, beside lists of what is held and of who stands in the line."""

    def __init__(self):
        super().__init__()
        self.limiter = ConcurrencyLimiter(3, LIMITS, hold_seconds=math.inf)
        self.held = []
        self.line = []  # of (run, category)
        self.kept = []  # those of the line for whom a slot is kept
        self.woken, self.must_wake = [], []
        self.runs, self.asks = {}, {}
        for run in range(2):
            self.begin(run)

    def begin(self, run):
        self.runs[run] = self.limiter.waking(lambda: self.woken.append(run))
        self.asks[run] = self.runs[run].__enter__()

    def teardown(self):
        for run in self.runs.values():
            run.__exit__(None, None, None)

    def room(self, category):
        taken = self.held + [of for _, of in self.kept]
        return len(taken) < 3 and taken.count(category) < LIMITS.get(category, 3)

    def keep(self, asking=None):
        for place in self.line:
            if place not in self.kept and self.room(place[1]):
                self.kept.append(place)
                self.must_wake += [place[0]] if place != asking else []

    @rule(category=CATEGORIES)
    def try_acquire(self, category):
        room = self.room(category)
        assert self.limiter.try_acquire(category) == room
        self.held += [category] if room else []

    @rule(run=RUNS, category=CATEGORIES)
    def ask(self, run, category):
        place = (run, category)
        if place not in self.line:
            self.line.append(place)
        self.keep(asking=place)
        came = place in self.kept
        assert self.asks[run](category) == came
        if came:
            self.line.remove(place)
            self.kept.remove(place)
            self.held.append(category)

    @rule(category=CATEGORIES)
    def release(self, category):
        if category in self.held:
            self.limiter.release(category)
            self.held.remove(category)
            self.keep()
        else:
            with pytest.raises(RuntimeError):
                self.limiter.release(category)

    @rule(run=RUNS)
    def another_run_takes_its_place(self, run):
        self.runs[run].__exit__(None, None, None)
        self.line = [place for place in self.line if place[0] != run]
        self.kept = [place for place in self.kept if place[0] != run]
        self.keep()
        self.begin(run)

    @invariant()
    def it_is_as_the_model_says(self):
        now = self.limiter.statistics()
        assert now.total == Occupancy(3, len(self.held), len(self.line))
        for category, one in now.categories.items():
            waiting = [of for _, of in self.line].count(category)
            assert one == Occupancy(LIMITS.get(category), self.held.count(category), waiting)

    @invariant()
    def each_whose_turn_came_was_woken_once(self):
        assert self.woken == self.must_wake

    @invariant()
    def nobody_waits_who_could_go(self):
        assert not any(self.room(category) for place in self.line if place not in self.kept for category in place[1:])


TestAnyOrder = AnyOrder.TestCase


def test_a_gate_promises_no_slot_and_gives_one_if_there_is_one():
    limiter = ConcurrencyLimiter(1, {"a": 1})
    gate, of_a = LimiterGate(limiter), Request(model="m", max_tokens=1, messages=[], category="a")
    with gate.waking(lambda _: None):
        assert gate.would_wait(of_a, 0.0) is None
        permit = gate.admit(of_a, 0.0)
        assert gate.admit(of_a, 0.0) == Wait(math.inf, "limiter", wakes=True, until=("slot", "a"))
        permit.on_event(Attempt(of_a, 0.0), "head")
        permit.settle(Attempt(of_a, 0.0))
        assert idle(limiter) is False  # the run stands in the line still
    assert idle(limiter)
