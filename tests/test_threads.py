"""The driver of many calls: its threads, its callbacks, and how it ends, over an SDK client made for the test."""

import contextlib
import logging
import math
import signal
import sys
import threading
from types import SimpleNamespace

import anthropic
import pytest
from anthropic.types import Message

from claude_client import ClaudeInvocationError, InterruptToken
from claude_client._engine.flow import CallFlow
from claude_client._engine.scheduler import Job
from claude_client._engine.threads import Periodic, Run
from claude_client._gates.gate import Wait
from claude_client._values.request import build
from claude_client._values.retry import RetryPolicy
from helpers import message, until

LONG = 20  # seconds after which a test gives up


class Client:
    """An SDK client: *answer* gets the prompt, on the thread of the attempt, and returns the text or raises."""

    def __init__(self, answer=lambda prompt: prompt):
        self._answer = answer
        self.messages = self
        self.asked, self.most_at_once, self._now = [], 0, 0
        self._lock = threading.Lock()

    def create(self, *, messages, **_):
        prompt = messages[0]["content"]
        with self._lock:
            self.asked.append(prompt)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return Message.construct(**message(self._answer(prompt)))
        finally:
            with self._lock:
                self._now -= 1


class Gate:
    """A gate that lets everybody in, and knows who is inside. *breaks* names what raises in it, and what it raises."""

    def __init__(self, **breaks):
        self.inside, self.breaks, self.admitted = [], breaks, 0

    def waking(self, wake):
        self.wake = wake
        return contextlib.nullcontext()

    def would_wait(self, request, now):
        self.break_at("would_wait")

    def admit(self, request, now):
        self.break_at("admit")
        self.admitted += 1
        permit = SimpleNamespace(on_event=lambda *_: self.break_at("on_event"), settle=lambda _: self.leave(permit))
        self.inside.append(permit)
        return permit

    def leave(self, permit):
        self.inside.remove(permit)
        self.break_at("settle")

    def break_at(self, where):
        if where in self.breaks and self.admitted:
            raise self.breaks[where]


def run_of(count, client=None, **options):
    jobs = [Job(i, CallFlow(build(prompt=f"{i}", **options.pop("request", {})))) for i in range(count)]
    return Run(client or Client(), jobs, **{"max_workers": 3, **options})


def each(callback):
    """*callback*, with index and outcome of each job, as an `on_outcomes`."""
    return lambda outcomes: [callback(index, outcome) for index, outcome in outcomes.items()]


def kinds(run):
    return {i: getattr(outcome, "kind", str(outcome)) for i, outcome in run.outcomes.items()}


# Threads


def test_every_job_gets_its_own_answer_and_no_thread_is_left():
    before = threading.active_count()
    run = run_of(200, max_workers=8)
    run.run()
    assert run.outcomes == {i: f"{i}" for i in range(200)}
    assert threading.active_count() == before


def test_as_many_are_under_way_as_there_are_workers_and_never_more():
    full = threading.Barrier(4)
    client = Client(lambda prompt: (full.wait(LONG) and prompt) or prompt)
    run_of(40, client, max_workers=4).run()
    assert client.most_at_once == 4


def test_no_more_threads_are_started_than_there_is_work_for():
    seen = []
    run = run_of(2, Client(lambda prompt: seen.append(threading.active_count()) or prompt), max_workers=100)
    before = threading.active_count()
    run.run()
    assert max(seen) <= before + 2


def test_a_slow_callback_delays_no_request():
    client, waited = Client(), []

    def on_outcome(*_):
        if not waited:
            until(lambda: len(client.asked) == 30)
            waited.append(1)

    run_of(30, client, on_outcomes=on_outcome).run()
    assert waited


def test_a_job_that_waits_for_its_retry_holds_no_thread():
    failed = []

    def answer(prompt):
        if prompt == "0" and not failed:
            failed.append(1)
            raise OSError("gone")
        return prompt

    told = []
    run_of(4, Client(broken(answer)), max_workers=1, on_outcomes=told.extend).run()
    assert told == [1, 2, 3, 0]


def broken(answer):
    """*answer*, whose OSErrors are the network's."""

    def ask(prompt):
        try:
            return answer(prompt)
        except OSError as gone:
            raise anthropic.APIConnectionError(request=None) from gone

    return ask


@pytest.mark.parametrize("to_be_had", [1, 2])
def test_where_no_more_threads_can_be_had_those_there_are_do_all(monkeypatch, to_be_had):
    started, start = [], threading.Thread.start

    def start_some(thread):
        if len(started) == to_be_had:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    run = run_of(20)
    run.run()
    assert kinds(run) == {i: f"{i}" for i in range(20)}


def test_where_no_thread_can_be_had_at_all_the_error_says_so(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    run = run_of(2)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run.run()
    assert kinds(run) == {0: "interrupted", 1: "interrupted"}


def test_a_run_of_nothing_is_over_at_once():
    run = run_of(0)
    run.run()
    assert run.outcomes == {}


# Gates


def test_who_nobody_lets_in_waits_until_the_gate_wakes():
    open_ = threading.Event()

    class Shut(Gate):
        def admit(self, request, now):
            return super().admit(request, now) if open_.is_set() else Wait(math.inf, "limiter")

    gate = Shut()
    run = run_of(5, gates=[gate])
    running = threading.Thread(target=run.run)
    running.start()
    until(lambda: hasattr(gate, "wake"))
    open_.set()
    gate.wake()
    running.join(LONG)
    assert run.outcomes == {i: f"{i}" for i in range(5)}


def test_many_who_rest_are_woken_one_after_another():
    """Whoever takes what a gate lets in has the next look, so that one call to wake is enough for all."""
    room = [0]

    class Narrow(Gate):
        def admit(self, request, now):
            if not room[0]:
                return Wait(math.inf, "limiter")
            room[0] -= 1
            return super().admit(request, now)

    gate = Narrow()
    run = run_of(40, gates=[gate], max_workers=8)
    running = threading.Thread(target=run.run)
    running.start()
    for _ in range(8):
        until(lambda: room[0] == 0)
        room[0] = 5
        gate.wake()
    running.join(LONG)
    assert len(run.outcomes) == 40


@pytest.mark.parametrize("where", ["would_wait", "admit"])
@pytest.mark.parametrize("raised", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_whatever_a_gate_raises_the_run_ends_with_all_there_is_and_gives_all_back(where, raised):
    first, second = Gate(), Gate(**{where: raised()})
    run = run_of(20, gates=[first, second])
    with pytest.raises(raised):
        run.run()
    assert run.outcomes.keys() == {*range(20)}
    assert {kind for i, kind in kinds(run).items() if kind != f"{i}"} == {"interrupted"}
    assert (first.inside, second.inside) == ([], [])


def test_a_run_that_is_left_says_what_a_gate_raised_meanwhile():
    run = Run(Client(), None, max_workers=1, gates=[Gate(admit=ZeroDivisionError())])

    def ask_and_leave():
        with run.running():
            for index in range(2):
                run.add(Job(index, CallFlow(build(prompt=f"{index}"))))
            until(lambda: run.interrupted)

    with pytest.raises(ZeroDivisionError):
        ask_and_leave()
    assert kinds(run) == {0: "0", 1: "interrupted"}


@pytest.mark.parametrize("where", ["on_event", "settle"])
def test_what_a_permit_raises_is_logged_and_costs_no_answer(where, caplog):
    gates = [Gate(), Gate(**{where: ZeroDivisionError()}), Gate()]
    run = run_of(5, gates=gates)
    run.run()
    assert run.outcomes == {i: f"{i}" for i in range(5)}
    assert [gate.inside for gate in gates] == [[], [], []]
    assert "A gate failed" in caplog.text


# Callbacks


def test_callbacks_come_on_the_callers_thread_and_those_of_a_job_in_order():
    told, failing = [], ["1"]

    def answer(prompt):
        if prompt in failing:
            failing.remove(prompt)
            raise OSError("gone")
        return prompt

    def note(what):
        return lambda index, *_: told.append((index, what, threading.current_thread()))

    hooks = {"on_start": note("start"), "on_retry": note("retry"), "on_outcomes": each(note("outcome"))}
    run_of(3, Client(broken(answer)), **hooks).run()
    assert {thread for *_, thread in told} == {threading.current_thread()}
    assert [what for index, what, _ in told if index == 1] == ["start", "retry", "start", "outcome"]


@pytest.mark.parametrize("hook", ["on_start", "on_retry", "on_outcomes"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_whatever_a_callback_raises_the_run_ends_with_all_there_is(hook, raised):
    def answer(prompt):
        if prompt == "1":
            raise OSError("gone")
        return prompt

    def break_off(*_):
        raise raised

    gate = Gate()
    run = run_of(6, Client(broken(answer)), gates=[gate], **{hook: break_off})
    with pytest.raises(raised):
        run.run()
    assert run.outcomes.keys() == {*range(6)}
    assert gate.inside == []


def test_an_answer_that_has_come_is_not_lost_to_ctrl_c():
    def on_start(_):
        until(lambda: 0 in run.outcomes)
        raise KeyboardInterrupt

    told = []
    run = run_of(2, on_start=on_start, on_outcomes=lambda *_: told.append(1))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.outcomes[0] == "0"
    assert told == []


def test_an_answer_is_kept_before_anybody_is_told_of_it():
    kept, told = {}, []
    run = run_of(20, keep=kept.__setitem__, on_outcomes=each(lambda i, outcome: told.append(kept[i] is outcome)))
    run.run()
    assert told == [True] * 20


def test_jobs_that_never_started_end_together_in_one_event_with_one_error():
    told = []

    def answer(prompt):
        run.interrupt()
        return prompt

    run = run_of(5000, Client(answer), max_workers=1, on_outcomes=told.append)
    run.run()
    assert {index for outcomes in told for index in outcomes} == {*range(5000)}
    assert max(map(len, told)) == 4999
    assert len({id(run.outcomes[index]) for index in range(1, 5000)}) == 1


def test_what_cannot_keep_an_answer_stops_the_run_and_costs_no_answer():
    def keep(index, _):
        if index == 1:
            raise ZeroDivisionError("full")

    run = run_of(5, keep=keep, max_workers=1)
    run.run()
    assert isinstance(run.failure, ZeroDivisionError)
    assert kinds(run) == {0: "0", 1: "1", 2: "interrupted", 3: "interrupted", 4: "interrupted"}
    assert "full" in str(run.outcomes[4])


def test_something_periodic_is_done_on_the_callers_thread_until_it_fails():
    done, enough = [], threading.Event()

    def action():
        if not client.asked:
            return
        done.append(threading.current_thread())
        if len(done) == 3:
            enough.set()
            raise LookupError("no more")

    client = Client(lambda prompt: enough.wait(LONG) and prompt)
    run = run_of(1, client)
    run.run(periodic=Periodic(0.001, action))
    assert done == [threading.current_thread()] * 3
    assert isinstance(run.failure, LookupError)
    assert run.outcomes == {0: "0"}


# From outside


def test_an_interrupt_before_the_start_sends_nothing():
    token, client = InterruptToken(), Client()
    token.interrupt()
    run = run_of(5, client)
    run.run(token)
    assert run.interrupted
    assert {*kinds(run).values()} == {"interrupted"}
    assert client.asked == []


def test_a_stopped_run_lets_what_is_under_way_come_to_its_end():
    stopped = ClaudeInvocationError("stopped", kind="interrupted")

    def answer(prompt):
        run.stop(stopped)
        run.stop(ClaudeInvocationError("too late"))
        return prompt

    run = run_of(3, Client(answer), max_workers=1)
    run.run()
    assert [str(run.outcomes[i]) for i in range(3)] == ["0", *["interrupted: stopped"] * 2]
    assert not run.interrupted


def test_a_job_that_waits_is_cancelled_at_once_and_never_starts():
    entered, release, told = threading.Event(), threading.Event(), []

    def answer(prompt):
        entered.set()
        assert release.wait(LONG)
        return prompt

    client = Client(answer)
    run = run_of(3, client, max_workers=1, on_outcomes=told.extend)
    running = threading.Thread(target=run.run)
    running.start()
    assert entered.wait(LONG)
    run.cancel(1)
    run.cancel(99)
    until(lambda: told == [1])
    release.set()
    running.join(LONG)
    assert kinds(run) == {0: "0", 1: "cancelled", 2: "2"}
    assert client.asked == ["0", "2"]


def test_a_long_pause_is_told_once_for_all_who_wait_for_it(caplog):
    class Shut(Gate):
        def admit(self, request, now):
            return Wait(3600.0, "rate limit")

    gate, token = Shut(), InterruptToken()
    run = run_of(5, gates=[gate])
    running = threading.Thread(target=run.run, args=[token])
    running.start()
    until(lambda: "A call has to wait" in caplog.text)
    for _ in range(5):
        gate.wake()
    token.interrupt()
    running.join(LONG)
    assert caplog.text.count("A call has to wait") == 1


def test_a_second_ctrl_c_while_the_run_ends_loses_nothing():
    main, pressed = threading.main_thread().ident, []

    def answer(prompt):
        until(lambda: told)
        signal.pthread_kill(main, signal.SIGINT)
        until(lambda: run.interrupted)
        signal.pthread_kill(main, signal.SIGINT)
        until(lambda: len(pressed) == 2)
        return prompt

    def press(*_):
        pressed.append(1)
        raise KeyboardInterrupt

    told, usual = [], signal.signal(signal.SIGINT, press)
    try:
        run = run_of(3, Client(answer), max_workers=1, on_start=told.append)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    finally:
        signal.signal(signal.SIGINT, usual)
    assert kinds(run) == {0: "0", 1: "interrupted", 2: "interrupted"}


@pytest.mark.parametrize("started", [True, False])
def test_ctrl_c_while_the_first_thread_is_started_ends_the_run(monkeypatch, started):
    start = threading.Thread.start

    def break_off(thread):
        if started:
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", break_off)
    before = threading.active_count()
    run = run_of(3)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert {*kinds(run).values()} == {"interrupted"}
    assert threading.active_count() == before


def test_a_run_in_another_thread_ends_with_the_main_thread_as_by_ctrl_c():
    def answer(prompt):
        run.end_with_main_thread()
        return prompt

    run = run_of(3, Client(answer), max_workers=1)
    with pytest.raises(KeyboardInterrupt, match="the main thread has ended"):
        run.run()
    assert run.outcomes.keys() == {0, 1, 2}


def test_a_gate_that_wakes_in_the_moment_in_which_it_refuses_is_asked_again():
    class Hasty(Gate):
        def admit(self, request, now):
            if not self.breaks:
                self.breaks = {"nothing": None}
                self.wake()
                return Wait(math.inf, "limiter")
            return super().admit(request, now)

    run = run_of(3, gates=[Hasty()])
    run.run()
    assert len(run.outcomes) == 3


def test_an_error_whose_text_fails_too_is_a_failure_of_its_own_call_only():
    class AwfulError(Exception):
        def __repr__(self):
            raise self

    def fails(_):
        raise AwfulError

    jobs = [Job(i, CallFlow(build(prompt=f"{i}", streaming=False), fails if i == 1 else None)) for i in range(3)]
    run = Run(
        Client(lambda prompt: (_ for _ in ()).throw(AwfulError()) if prompt == "1" else prompt), jobs, max_workers=2
    )
    run.run()
    assert kinds(run) == {0: "0", 1: "invalid_request", 2: "2"}
    assert str(run.outcomes[1]).endswith("AwfulError")


@pytest.mark.parametrize(
    ("raised", "cause"),
    [
        (TypeError("create() got an unexpected keyword argument"), TypeError),
        (TypeError("Could not resolve authentication method. Expected ..."), ValueError),
        (type("CredentialsError", (Exception,), {})("nothing there"), ValueError),
    ],
)
def test_what_the_sdk_raises_before_it_sends_is_the_cause(raised, cause):
    def refuse(_):
        raise raised

    run = run_of(1, Client(refuse))
    run.run()
    assert kinds(run) == {0: "invalid_request"}
    assert isinstance(run.outcomes[0].__cause__, cause)


def test_a_retry_is_told_before_the_next_attempt_though_that_is_made_at_once():
    failing, told = {f"{i}" for i in range(200)}, []

    def answer(prompt):
        if prompt in failing:
            failing.discard(prompt)
            raise OSError("gone")
        return prompt

    at_once = RetryPolicy(base_ms=0, max_ms=0)
    jobs = [Job(i, CallFlow(build(prompt=f"{i}", retry=at_once))) for i in range(200)]
    hooks = {name: lambda index, *_, name=name: told.append((index, name)) for name in ("on_start", "on_retry")}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        Run(
            Client(broken(answer)),
            jobs,
            max_workers=8,
            on_outcomes=each(lambda i, _: told.append((i, "outcome"))),
            **hooks,
        ).run()
    finally:
        sys.setswitchinterval(interval)
    for i in range(200):
        assert [name for index, name in told if index == i] == ["on_start", "on_retry", "on_start", "outcome"]


def test_what_was_cancelled_before_the_run_is_told_too():
    told = []
    run = run_of(2, on_outcomes=each(lambda index, outcome: told.append((index, outcome.kind))))
    run.cancel(1)
    run.cancel(0)
    run.run()
    assert told == [(1, "cancelled"), (0, "cancelled")]


def test_a_log_handler_may_use_the_run():
    class Cancelling(logging.Handler):
        def emit(self, record):
            run.cancel(2)

    logger, handler = logging.getLogger("claude_client"), Cancelling()
    failed = []

    def answer(prompt):
        if prompt == "0" and not failed:
            failed.append(1)
            raise OSError("gone")
        return prompt

    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        run = run_of(3, Client(broken(answer)), max_workers=1)
        run.run()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert run.outcomes[0] == "0"


def test_whoever_breaks_a_run_off_its_threads_are_at_rest_before_the_gates_are_left():
    class Left(Gate):
        @contextlib.contextmanager
        def waking(self, wake):
            try:
                yield
            finally:
                self.left = len(self.inside), run.under_way

    def break_off(_):
        raise SystemExit

    gate = Left()
    run = run_of(20, gates=[gate], on_start=break_off)
    with pytest.raises(SystemExit):
        run.run()
    assert gate.left == (0, [])


def test_ctrl_c_in_the_last_moment_comes_out_though_all_is_answered(monkeypatch):
    join, pressed = threading.Thread.join, []

    def interrupted_once(thread, timeout=None):
        if not pressed:
            pressed.append(1)
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted_once)
    run = run_of(3)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert kinds(run) == {0: "0", 1: "1", 2: "2"}
