"""What the detector takes for a stall, and whom it tells. Time is a number here; only the monitor's thread is real."""

import logging
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from claude_client import StallDetector
from claude_client._values.attempt import Attempt
from claude_client._values.request import build
from helpers import until
from orchestration._stalls import stall_watch

SOON = 0.001  # seconds between looks, where a monitor runs
LONG = 20  # seconds after which a test gives up


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Told:
    """An on_stall that remembers, and can be waited for."""

    def __init__(self):
        self.stalls = []
        self.threads = []
        self._more = threading.Condition()

    def __call__(self, task_id, idle):
        with self._more:
            self.stalls.append((task_id, idle))
            self.threads.append(threading.current_thread())
            self._more.notify_all()

    def wait_for(self, count):
        with self._more:
            assert self._more.wait_for(lambda: len(self.stalls) >= count, LONG)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def detector(clock, told):
    detector = StallDetector(60.0, told, clock=clock)
    yield detector
    detector.stop_monitoring()


def monitors():
    return [thread for thread in threading.enumerate() if thread.name == "claude_client stall monitor"]


def test_silence_of_timeout_seconds_is_a_stall(detector, clock):
    detector.register("a")
    clock.now = 59.9
    assert detector.check_stalled() == []
    clock.now = 60.0
    assert detector.check_stalled() == [("a", 60.0)]


def test_a_heartbeat_ends_a_stall(detector, clock):
    detector.register("a")
    clock.now = 100
    detector.heartbeat("a")
    assert detector.check_stalled() == []


def test_the_longest_stalled_comes_first(detector, clock):
    for name in "abc":
        detector.register(name)
    clock.now = 10
    detector.heartbeat("a")
    clock.now = 75
    assert [name for name, _ in detector.check_stalled()] == ["b", "c", "a"]


def test_registering_again_begins_anew(detector, clock):
    detector.register("a")
    clock.now = 100
    detector.register("a")
    assert detector.check_stalled() == []


def test_who_is_unregistered_is_not_watched(detector, clock):
    detector.register("a")
    detector.unregister("a")
    clock.now = 100
    assert detector.check_stalled() == []


@pytest.mark.parametrize("method", ["heartbeat", "unregister"])
def test_an_unknown_task_is_a_key_error(detector, method):
    with pytest.raises(KeyError, match="nobody"):
        getattr(detector, method)("nobody")


def test_watch_lasts_as_long_as_its_block(detector, clock):
    with detector.watch("a"):
        clock.now = 60
        assert detector.check_stalled() == [("a", 60.0)]
    assert detector.check_stalled() == []


def test_watch_ends_with_an_error_too(detector, clock):
    with pytest.raises(ZeroDivisionError), detector.watch("a"):
        clock.now = 60 / 0
    clock.now = 60
    assert detector.check_stalled() == []


def test_watch_ends_well_where_the_task_was_unregistered_inside(detector):
    with detector.watch("a"):
        detector.unregister("a")


def test_the_monitor_tells_of_a_stall_on_its_own_thread(detector, clock, told):
    detector.register("a")
    detector.start_monitoring(SOON)
    clock.now = 61.5
    told.wait_for(1)
    assert told.stalls == [("a", 61.5)]
    assert told.threads == monitors()


def test_a_stall_is_told_once_and_again_only_after_a_heartbeat_and_a_new_stall(detector, clock, told):
    detector.register("a")
    detector.start_monitoring(SOON)
    clock.now = 60
    told.wait_for(1)
    clock.now = 200
    detector.register("other")
    clock.now = 260
    told.wait_for(2)
    assert told.stalls[1][0] == "other"  # and not "a" again, which was looked at before or in the same round
    detector.heartbeat("a")
    clock.now = 320
    told.wait_for(3)
    assert told.stalls[2] == ("a", 60.0)


def test_a_callback_may_use_the_detector(clock):
    done = threading.Event()

    def on_stall(task_id, idle):
        detector.heartbeat(task_id)
        detector.unregister(task_id)
        assert detector.check_stalled() == []
        done.set()

    detector = StallDetector(60.0, on_stall, clock=clock)
    detector.register("a")
    clock.now = 60
    detector.start_monitoring(SOON)
    assert done.wait(LONG)
    detector.stop_monitoring()


def test_a_callback_that_raises_is_logged_and_the_monitor_goes_on(detector, clock, told, caplog):
    def on_stall(task_id, idle):
        told(task_id, idle)
        raise ZeroDivisionError("oops")

    detector._on_stall = on_stall
    detector.register("a")
    detector.register("b")
    clock.now = 60
    detector.start_monitoring(SOON)
    told.wait_for(2)
    detector.stop_monitoring()
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError] * 2


def test_without_a_callback_stalls_are_logged(clock, caplog):
    logged = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: logged.set()
    logger = logging.getLogger("claude_client")
    logger.addHandler(handler)
    try:
        with StallDetector(60.0, clock=clock) as detector:
            detector.register("a")
            clock.now = 60
            detector.start_monitoring(SOON)
            assert logged.wait(LONG)
    finally:
        logger.removeHandler(handler)
    assert "a has shown no activity for 60.0 s" in caplog.text


def test_monitoring_may_be_stopped_from_the_callback(clock):
    stopped = threading.Event()

    def on_stall(task_id, idle):
        detector.stop_monitoring()
        stopped.set()

    detector = StallDetector(60.0, on_stall, clock=clock)
    detector.register("a")
    clock.now = 60
    detector.start_monitoring(SOON)
    (monitor,) = monitors()
    assert stopped.wait(LONG)
    monitor.join(LONG)
    assert not monitor.is_alive()


def test_stop_waits_for_a_callback_that_is_running(clock):
    entered, release, events = threading.Event(), threading.Event(), []

    def on_stall(task_id, idle):
        entered.set()
        assert release.wait(LONG)
        events.append("called back")

    detector = StallDetector(60.0, on_stall, clock=clock)
    detector.register("a")
    clock.now = 60
    detector.start_monitoring(SOON)
    assert entered.wait(LONG)
    stopping = threading.Thread(target=lambda: (detector.stop_monitoring(), events.append("stopped")))
    stopping.start()
    release.set()
    stopping.join(LONG)
    assert events == ["called back", "stopped"]


def test_every_stop_waits_for_a_callback_that_is_running(clock):
    entered, release, events = threading.Event(), threading.Event(), []

    def on_stall(task_id, idle):
        detector.stop_monitoring()
        entered.set()
        assert release.wait(LONG)
        events.append("called back")

    with StallDetector(60.0, on_stall, clock=clock) as detector:
        detector.register("a")
        clock.now = 60
        detector.start_monitoring(SOON)
        assert entered.wait(LONG)
        threading.Timer(0.01, release.set).start()
    events.append("stopped")
    assert events == ["called back", "stopped"]


def test_a_callback_that_exits_is_logged_and_the_monitor_goes_on(clock, told, caplog):
    def on_stall(task_id, idle):
        told(task_id, idle)
        raise SystemExit

    with StallDetector(60.0, on_stall, clock=clock) as detector:
        detector.register("a")
        detector.register("b")
        clock.now = 60
        detector.start_monitoring(SOON)
        told.wait_for(2)
    assert len(caplog.records) == 2


def test_a_context_manager_looks_often_enough_for_its_timeout(told):
    with StallDetector(0.004, told) as detector:
        detector.register("a")
        told.wait_for(1)


def test_what_is_watched_cannot_be_watched_again(detector):
    with detector.watch("a"), pytest.raises(ValueError, match="'a' is watched already"), detector.watch("a"):
        pass


def test_a_signal_handler_may_use_it(detector):
    signal.signal(signal.SIGUSR1, lambda *_: (detector.heartbeat("a"), detector.stop_monitoring()))
    try:
        detector.register("a")
        with detector._lock:
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_any_interval_can_be_asked_for(detector):
    detector.start_monitoring(1e12)
    detector.stop_monitoring()
    assert monitors() == []


def test_starting_again_during_a_slow_callback_leaves_one_monitor(clock):
    entered, release = threading.Event(), threading.Event()

    def on_stall(task_id, idle):
        entered.set()
        assert release.wait(LONG)

    detector = StallDetector(60.0, on_stall, clock=clock)
    detector.register("a")
    clock.now = 60
    detector.start_monitoring(SOON)
    assert entered.wait(LONG)
    restarting = threading.Thread(target=lambda: detector.start_monitoring(SOON))
    restarting.start()
    assert len(monitors()) == 1
    release.set()
    restarting.join(LONG)
    assert len(monitors()) == 1
    detector.stop_monitoring()
    assert monitors() == []


def test_many_threads_that_start_and_stop_leave_no_monitor(detector):
    together = threading.Barrier(8)

    def use():
        together.wait(LONG)
        for _ in range(20):
            detector.start_monitoring(SOON)
            detector.stop_monitoring()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    detector.stop_monitoring()
    for monitor in monitors():
        monitor.join(LONG)
    assert monitors() == []


def test_a_stall_that_a_stopped_monitor_did_not_tell_is_told_by_the_next(detector, clock, told):
    detector.register("a")
    clock.now = 60
    detector.start_monitoring(1e6)
    detector.stop_monitoring()
    detector.start_monitoring(SOON)
    told.wait_for(1)


def test_a_context_manager_monitors_for_the_length_of_its_block(detector):
    with detector as entered:
        assert entered is detector
        assert len(monitors()) == 1
    assert monitors() == []


def test_stopping_without_a_monitor_does_nothing(detector):
    detector.stop_monitoring()


@pytest.mark.parametrize("bad", [0, -1, float("inf"), float("nan"), "60", None, True])
def test_bad_seconds_are_a_value_error(bad):
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
        StallDetector(bad)
    with pytest.raises(ValueError, match="poll_interval must be"):
        StallDetector().start_monitoring(bad)
    assert monitors() == []


def test_a_callback_that_cannot_be_called_is_a_type_error():
    with pytest.raises(TypeError, match="on_stall must be callable"):
        StallDetector(1.0, "print")


def test_it_says_what_it_is(detector):
    detector.register("a")
    assert repr(detector) == "<StallDetector timeout=60 s, 1 watched, not monitored>"


def test_the_example_of_the_seed(capsys):
    def handle_stall(task_id, idle_seconds):
        print(f"Task {task_id} stalled for {idle_seconds:.1f}s")

    detector = StallDetector(timeout=60.0, on_stall=handle_stall)
    detector.register("task-1")
    detector.start_monitoring(poll_interval=5.0)
    detector.heartbeat("task-1")
    detector.unregister("task-1")
    detector.stop_monitoring()
    assert capsys.readouterr().out == ""


def test_an_attempt_that_is_over_or_ended_already_is_not_stalled():
    """Of attempts under way those are looked at that are still waited for."""
    asked = build(prompt="hi")
    stalled, over, ended, unsent = (Attempt(asked, 0.0) for _ in range(4))
    for attempt in (stalled, over, ended):
        attempt.last_event_at = time.monotonic() - 100.0
    over.ended_at = time.monotonic()
    ended.abort("cancelled")
    told = []
    attempts = [(attempt, i) for i, attempt in enumerate((stalled, over, ended, unsent))]
    run = SimpleNamespace(under_way=attempts, post=lambda event: event())
    with stall_watch(run, 50.0, lambda index, idle: told.append((index, idle))):
        until(lambda: told)
    assert [index for index, _ in told] == [0]
    assert told[0][1] >= 100.0
    assert [attempt.aborted for attempt, _ in attempts] == ["stalled", None, "cancelled", None]
