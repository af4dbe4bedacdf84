"""Notices tasks that show no activity."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from claude_client._values.checks import check_callback, seconds
from claude_client._values.log import Log

_log = Log("claude_client")

#: Called with a task's id and the seconds since its last activity.
StallCallback = Callable[[str, float], object]


@dataclass(slots=True)
class _Watched:
    """The time of the last activity of a task, and whether its stall since then was reported."""

    last_activity_at: float
    reported: bool = False


@dataclass(frozen=True, slots=True)
class _Monitor:
    thread: threading.Thread
    stop: threading.Event


class StallDetector:
    """
    Calls back when a task has been silent for too long.

    It only reports; it ends nothing. Every method may be called from any thread, also from *on_stall* or a signal
    handler. As a context manager it monitors for the length of the block, often enough for its *timeout*.

    Args:
        timeout: Seconds of silence that count as a stall.

        on_stall:
            Called with task id and idle seconds, once for each stall: again only after a heartbeat and another
            *timeout* of silence. It runs on the monitor's thread; what it raises is logged, and the monitor goes on. It
            may still come in the moment in which its task is unregistered. None: stalls are logged as warnings.

        clock: Seconds from any origin.

    Raises:
        ValueError: If *timeout* is not above 0.
        TypeError: If *on_stall* cannot be called.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_lock",
        "_monitor",
        "_on_stall",
        "_timeout",
        "_watched",
    )

    def __init__(
        self,
        timeout: float = 60.0,
        on_stall: StallCallback | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout = seconds("timeout", timeout)
        check_callback("on_stall", on_stall)
        self._on_stall = on_stall or _log_stall
        self._clock = clock
        self._lock = threading.RLock()  # guards the two below; a signal handler may interrupt who holds it
        self._watched: dict[str, _Watched] = {}
        self._monitor: _Monitor | None = None

    def register(self, task_id: str) -> None:
        """Watch *task_id* from now on; if it is watched already, its time begins anew."""
        with self._lock:
            self._watched[task_id] = _Watched(self._clock())

    def heartbeat(self, task_id: str) -> None:
        """
        Note that *task_id* is active now.

        Raises:
            KeyError: If it is not registered.
        """
        with self._lock:
            if task_id not in self._watched:
                raise KeyError(task_id)
            self._watched[task_id] = _Watched(self._clock())

    def unregister(self, task_id: str) -> None:
        """
        Watch *task_id* no longer.

        Raises:
            KeyError: If it is not registered.
        """
        with self._lock:
            del self._watched[task_id]

    @contextmanager
    def watch(self, task_id: str) -> Iterator[None]:
        """
        Watch *task_id* for the length of a `with` block.

        Raises:
            ValueError: If it is watched already.
        """
        with self._lock:
            if task_id in self._watched:
                raise ValueError(f"{task_id!r} is watched already")
            self.register(task_id)
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(task_id, None)

    def check_stalled(self) -> list[tuple[str, float]]:
        """The tasks that are stalled now and their idle seconds, longest first. Calls nobody back."""
        with self._lock:
            now = self._clock()
            stalled = [(task_id, now - watched.last_activity_at) for task_id, watched in self._watched.items()]
        return sorted((each for each in stalled if each[1] >= self._timeout), key=lambda each: -each[1])

    def start_monitoring(self, poll_interval: float = 5.0) -> None:
        """
        Look for stalls every *poll_interval* seconds, on a daemon thread. There is at most one monitor: another call
        replaces it, and waits for a callback that is running, unless called from one.

        Raises:
            ValueError: If *poll_interval* is not above 0.
        """
        interval = min(seconds("poll_interval", poll_interval), threading.TIMEOUT_MAX)
        self.stop_monitoring()
        stop = threading.Event()
        thread = threading.Thread(
            target=self._look_until, args=(stop, interval), name="claude_client stall monitor", daemon=True
        )
        with self._lock:  # its first callback may want to stop it
            thread.start()
            before, self._monitor = self._monitor, _Monitor(thread, stop)
        _end(before)  # that of a thread which has started one meanwhile

    def stop_monitoring(self) -> None:
        """Stop looking for stalls. Waits for a callback that is running, unless called from one."""
        with self._lock:
            monitor = self._monitor
        _end(monitor)

    def __enter__(self) -> Self:
        self.start_monitoring(min(5.0, self._timeout / 4))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop_monitoring()

    def __repr__(self) -> str:
        with self._lock:
            monitored = "monitored" if self._monitor and not self._monitor.stop.is_set() else "not monitored"
            return f"<StallDetector timeout={self._timeout:g} s, {len(self._watched)} watched, {monitored}>"

    def _look_until(self, stop: threading.Event, poll_interval: float) -> None:
        while not stop.wait(poll_interval):
            for task_id, _ in self.check_stalled():
                if not stop.is_set() and (idle := self._newly_stalled(task_id)):
                    self._report(task_id, idle)

    def _newly_stalled(self, task_id: str) -> float:
        """The idle seconds of a stall not reported before, which then counts as reported; else 0."""
        with self._lock:
            watched = self._watched.get(task_id)
            idle = self._clock() - watched.last_activity_at if watched else 0.0
            if watched is None or watched.reported or idle < self._timeout:
                return 0.0
            watched.reported = True
            return idle

    def _report(self, task_id: str, idle: float) -> None:
        try:
            self._on_stall(task_id, idle)
        except (Exception, SystemExit):  # noqa: BLE001 - a user's callback
            _log.exception("on_stall failed for %s", task_id)


def _log_stall(task_id: str, idle: float) -> None:
    _log.warning("%s has shown no activity for %.1f s", task_id, idle)


def _end(monitor: _Monitor | None) -> None:
    if monitor:
        monitor.stop.set()
        if monitor.thread is not threading.current_thread():
            monitor.thread.join()
