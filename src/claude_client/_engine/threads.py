"""
The one engine for many calls at once.

The thread that runs a `Run` is its loop: it decides what may start, and waits for what has happened. The pool's
threads only ever make attempts. A job that waits, for a worker, for its time to try again or at a gate, holds no
thread and no place at any gate.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

from claude_client._sdk.exchange import ended
from claude_client._values.errors import ClaudeInvocationError, Kind
from claude_client._values.interrupt import InterruptToken, Operation
from claude_client._values.response import ClaudeResponse

from .flow import Again, Call, tell_of_pause

_log = logging.getLogger("claude_client")

Outcome = ClaudeResponse | ClaudeInvocationError

_SAME_PAUSE = 10.0  # seconds that the ends of pauses may lie apart, to count as one

#: Failures that every other call would share: what has not started is not asked.
STOPPING: frozenset[Kind] = frozenset({"spend_limit", "billing", "authentication"})


@dataclass(slots=True, eq=False)
class Job:
    """A call in a run, and the attempt that is being made or comes next."""

    index: int
    call: Call
    #: Jobs of one group wait for the same things: where the first may not start, none of them may.
    group: Hashable = None
    operation: Operation = field(default_factory=Operation)
    #: What came of the attempt, until it is dealt with. Set by the attempt's thread, so that nothing can lose it.
    came: Outcome | Again | None = None

    def __lt__(self, other: Job) -> bool:
        return self.index < other.index


class Gate(Protocol):
    """Says whether a job may start now. Asked by the thread of the run, which it must not keep waiting."""

    def wait(self, job: Job) -> float:
        """The seconds that `enter` would give, as far as can be known without entering."""

    def enter(self, job: Job) -> float:
        """Let *job* in and return 0, or else the seconds until it is worth asking again; inf: until woken."""

    def leave(self, job: Job) -> None:
        """*job* has ended its attempt or does not begin it yet. Does nothing for one that is not in."""

    def done(self, job: Job) -> None:
        """*job* has its outcome, and asks no more."""

    def waking(self, wake: Callable[[], None]) -> AbstractContextManager[object]:
        """For the length of a run: call *wake*, from any thread, whenever asking again may be worth it."""


#: Something that a run does from time to time. Called, on the thread of the run, with the attempts under way; gives the
#: time, by `time.monotonic`, to be called again at the latest.
Chore = Callable[[Collection[Job]], float]


class Run:
    """
    Runs *jobs* to their ends, lowest index first. All callbacks come on the thread of the run.

    Args:
        max_workers: Most attempts under way at once.

        gates: What a job must pass to start; it enters all of them or none, in this order.

        on_start: Called with the index of a job when it makes an attempt.

        on_retry: Called with index and error when an attempt has failed that is to be made again.

        on_outcome: Called with index and outcome of each job as it ends. What it raises is logged.

        chores: Done after each thing that happens, and when they are due.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        max_workers: int,
        gates: Sequence[Gate] = (),
        on_start: Callable[[int], object] = lambda _: None,
        on_retry: Callable[[int, ClaudeInvocationError], object] = lambda *_: None,
        on_outcome: Callable[[int, Outcome], object] | None = None,
        chores: Sequence[Chore] = (),
    ) -> None:
        #: What became of each job, by index.
        self.outcomes: dict[int, Outcome] = {}
        self._jobs = jobs
        self._max_workers = max_workers
        self._gates = gates
        self._on_start = on_start
        self._on_retry = on_retry
        self._on_outcome = on_outcome
        self._chores = chores
        self._ready: dict[Hashable, list[Job]] = {}
        self._due: list[tuple[float, Job]] = []
        self._happened: SimpleQueue[None] = SimpleQueue()
        self._pause_told = -math.inf  # until when
        # The caller's context variables, so that traces and log bindings follow into the pool's threads.
        self._context = copy_context()
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix="claude_client")
        # Guards the four below. Reentrant, as a signal handler may interrupt the thread of the run itself.
        self._lock = threading.RLock()
        self._running: set[Job] = set()
        self._cancelled: set[int] = set()
        self._stopped: ClaudeInvocationError | None = None
        self._interrupted = False
        self._main_thread_ended = False

    def to_the_end(self, token: InterruptToken | None = None) -> None:
        """
        Run until every job has an outcome. *token* ends the run: what is left then has an error of kind "interrupted".

        Raises:
            KeyboardInterrupt: On Ctrl-C, or where the main thread ends before the run; every job has its outcome then.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._pool)
                stack.enter_context(_ending_with_the_main_thread(self))
                for gate in self._gates:
                    stack.enter_context(gate.waking(self.wake))
                if token:
                    stack.enter_context(token.watched_by(self.interrupt))
                for job in self._jobs:
                    self._make_ready(job)
                while len(self.outcomes) < len(self._jobs):
                    self._loop_once()
            except BaseException:
                while not self._wound_up():
                    pass
                raise
        if self._main_thread_ended:
            raise KeyboardInterrupt("the main thread has ended")

    def settled(self) -> dict[int, Outcome]:
        """What became of each job. One that came to nothing was interrupted."""
        return {
            job.index: self.outcomes[job.index] if job.index in self.outcomes else self._in_hand(job)
            for job in self._jobs
        }

    def _in_hand(self, job: Job) -> Outcome:
        """The outcome of *job*, which has none yet, if nothing more is done for it."""
        return job.came if isinstance(job.came, Outcome) else job.call.ended_by(ended("interrupted"))

    def _wound_up(self) -> bool:
        """End everything, with nobody told any more; False if another Ctrl-C came between."""
        with suppress(KeyboardInterrupt):
            self._on_outcome = None
            self.interrupt()
            self._pool.shutdown(cancel_futures=True)  # waits for the attempts, which have come to something then
            for job in self._jobs:
                self._leave(job, self._gates)
                if job.index not in self.outcomes:
                    self._end(job, self._in_hand(job))
            return True
        return False

    @property
    def interrupted(self) -> bool:
        """Whether it was ended from outside."""
        return self._interrupted

    def interrupt(self) -> None:
        """End every attempt under way, and start no other. From any thread."""
        with self._lock:
            self._interrupted = True
            self._stopped = ended("interrupted")
            for job in self._running:
                job.operation.end()
        self.wake()

    def stop(self, error: ClaudeInvocationError) -> None:
        """Let what is under way come to its end; the rest ends by *error*. From any thread."""
        with self._lock:
            self._stopped = self._stopped or error
        self.wake()

    def cancel(self, index: int) -> None:
        """End one job, with an error of kind "cancelled", unless it has its outcome. From any thread."""
        with self._lock:
            self._cancelled.add(index)
            for job in self._running:
                if job.index == index:
                    job.operation.end("cancelled")
        self.wake()

    def end_with_main_thread(self) -> None:
        """Interrupt the run as Ctrl-C would. From any thread."""
        self._main_thread_ended = True
        self.interrupt()

    def wake(self) -> None:
        """Have the gates asked again. From any thread."""
        self._happened.put(None)

    def _loop_once(self) -> None:
        seconds = self._start_what_may()
        if len(self.outcomes) == len(self._jobs):  # the last were refused at a gate
            return
        self._wait_for_something(min(seconds, self._do_chores()))
        with self._lock:
            came = sorted(job for job in self._running if job.came is not None)
        for job in came:
            self._finish(job)
        if self._cancelled:
            self._end_cancelled()
        if self._stopped:
            self._end_waiting(self._stopped)

    def _do_chores(self) -> float:
        """Do what is due; the seconds until something is again."""
        if not self._chores:
            return math.inf
        with self._lock:
            under_way = [*self._running]
        due = min(chore(under_way) for chore in self._chores)
        return max(0.0, due - time.monotonic())

    def _tell_of_pause(self, seconds: float) -> None:
        """Once for each pause: those who are refused together are told of the same."""
        until = time.monotonic() + seconds
        if until > self._pause_told + _SAME_PAUSE and tell_of_pause(seconds):
            self._pause_told = until

    def _wait_for_something(self, seconds: float) -> None:
        """Wait until woken, at most *seconds*."""
        with suppress(Empty):
            self._happened.get(timeout=None if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX))
            while True:
                self._happened.get_nowait()

    def _start_what_may(self) -> float:
        """Start jobs until no other may; the seconds until one may without anything happening."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._make_ready(heapq.heappop(self._due)[1])
        soonest = self._due[0][0] - now if self._due else math.inf
        if self._stopped:
            return 0.0 if self._ready else soonest
        while len(self._running) < self._max_workers:
            job, wait = self._next()
            if job is None:
                return min(soonest, wait)
            self._start(job)
        return soonest

    def _next(self) -> tuple[Job | None, float]:
        """The first job that may start, which has entered all gates; else the seconds to wait for one."""
        soonest = math.inf
        for group in [job.group for job in sorted(waiting[0] for waiting in self._ready.values())]:
            wait = 0.0
            while not wait and group in self._ready:
                job = self._ready[group][0]
                try:
                    wait = self._enter(job)
                except ClaudeInvocationError as closed:
                    self._pop_ready(job)
                    self._end(job, closed)
                    continue
                if not wait:
                    self._pop_ready(job)
                    return job, 0.0
                soonest = min(soonest, wait)
        return None, soonest

    def _enter(self, job: Job) -> float:
        """Let *job* into all gates and return 0, or into none and return the seconds until asking again."""
        # Asked of all before any is entered: what is taken at one and given back would wake others for nothing.
        if wait := max((gate.wait(job) for gate in self._gates), default=0.0):
            return wait
        if wait := job.call.wait():
            self._tell_of_pause(wait)
            return wait
        for i, gate in enumerate(self._gates):
            if wait := gate.enter(job):
                self._leave(job, self._gates[:i])
                return wait
        try:
            wait = job.call.enter()
        except ClaudeInvocationError:
            self._leave(job, self._gates)
            raise
        if wait:
            self._leave(job, self._gates)
        return wait

    def _leave(self, job: Job, gates: Sequence[Gate]) -> None:
        for gate in reversed(gates):
            gate.leave(job)

    def _start(self, job: Job) -> None:
        with self._lock:
            self._running.add(job)
            if self._interrupted:
                job.operation.end()
            if job.index in self._cancelled:
                job.operation.end("cancelled")
        self._on_start(job.index)
        try:
            self._pool.submit(self._attempt, job, self._context.copy())
        except RuntimeError:  # the interpreter is ending, and starts no more threads
            job.operation.end()
            job.came = ended("interrupted")
            self.wake()

    def _attempt(self, job: Job, context: Context) -> None:
        """On a thread of the pool."""
        try:
            outcome: Outcome | Again = context.run(job.call.attempt, job.operation)
        except BaseException as exc:  # noqa: BLE001 - a callback's error is its own prompt's only
            outcome = job.call.outcome_of(exc, job.operation)
        if job.operation.on_end:
            job.operation.on_end()
        job.came = outcome
        self.wake()

    def _finish(self, job: Job) -> None:
        """Deal with what came of an attempt. Broken off anywhere, it can still be seen what that was."""
        came = job.came
        self._leave(job, self._gates)
        if isinstance(came, Again):
            if came.error:
                self._on_retry(job.index, came.error)
            self._tell_of_pause(came.seconds)
            heapq.heappush(self._due, (time.monotonic() + came.seconds, job))
            job.operation, job.came = Operation(), None
        elif came is not None:
            self._end(job, came)
        with self._lock:
            self._running.discard(job)

    def _end(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.index] = outcome
        for gate in self._gates:
            gate.done(job)
        if self._on_outcome:
            try:
                self._on_outcome(job.index, outcome)
            except Exception:  # noqa: BLE001 - a user's callback
                _log.exception("A callback for prompts[%d] failed; its outcome is kept", job.index)
        if isinstance(outcome, ClaudeInvocationError) and outcome.kind in STOPPING:
            self._end_waiting(outcome)

    def _end_waiting(self, error: ClaudeInvocationError) -> None:
        """Give every job that is not under way *error* as its outcome."""
        waiting = sorted([job for jobs in self._ready.values() for job in jobs] + [job for _, job in self._due])
        self._ready.clear()
        self._due.clear()
        for job in waiting:
            self.outcomes[job.index] = job.call.ended_by(error.again())
        for job in waiting:  # told only now: a callback may be broken off
            self._end(job, self.outcomes[job.index])

    def _end_cancelled(self) -> None:
        """Give every cancelled job that is not under way its outcome."""
        with self._lock:
            cancelled, self._cancelled = self._cancelled, {job.index for job in self._running} & self._cancelled
        gone = cancelled - self._cancelled - self.outcomes.keys()
        if not gone:
            return
        waiting = [job for jobs in self._ready.values() for job in jobs]
        self._ready.clear()
        for job in waiting:
            if job.index not in gone:
                self._make_ready(job)
        self._due = [due for due in self._due if due[1].index not in gone]
        heapq.heapify(self._due)
        for job in [job for job in self._jobs if job.index in gone]:
            self._end(job, job.call.ended_by(ended("cancelled")))

    def _make_ready(self, job: Job) -> None:
        heapq.heappush(self._ready.setdefault(job.group, []), job)

    def _pop_ready(self, job: Job) -> None:
        waiting = self._ready[job.group]
        heapq.heappop(waiting)
        if not waiting:
            del self._ready[job.group]


# A run in another thread ends with the main thread. The hook runs before that of concurrent.futures, as it is
# registered later; that one joins the pool's threads, whatever they are waiting for, and comes before the main thread
# counts as ended, so a thread that joins the main thread would notice too late.
_runs: set[Run] = set()


@contextmanager
def _ending_with_the_main_thread(run: Run) -> Iterator[None]:
    _runs.add(run)
    try:
        yield
    finally:
        _runs.discard(run)


def _end_runs() -> None:
    for run in [*_runs]:
        run.end_with_main_thread()


with suppress(AttributeError, RuntimeError):  # a private name; and too late where the interpreter is ending already
    threading._register_atexit(_end_runs)  # type: ignore[attr-defined]  # noqa: SLF001
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_runs.clear)  # the runs are the parent's, and so are their sockets
