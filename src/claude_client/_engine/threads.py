"""
The driver of many calls at once: threads that each take the next attempt from the scheduler, send it, and hand it back.

A thread whose attempt is over takes the next itself, so nothing is passed between threads from call to call. A thread
that finds nothing to send rests; of all that rest, the last wakes when the next attempt is due. The thread that called
`Run.run` runs callbacks and nothing else, so a slow callback delays no request.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from claude_client._engine.flow import Done, Outcome, Send, Step, Work, log_step
from claude_client._engine.pauses import PauseLog
from claude_client._engine.scheduler import Job, Scheduler
from claude_client._engine.telemetry import RunSpan, count, quietly, run_span
from claude_client._gates.gate import Gate
from claude_client._sdk.exchange import send
from claude_client._values.attempt import Attempt
from claude_client._values.context import running, variables
from claude_client._values.errors import ClaudeInvocationError, aborted
from claude_client._values.interrupt import InterruptToken, check_token
from claude_client._values.log import told

T = TypeVar("T")

_MOST_TRIES = 100  # to end a run, if signals come between
_LOOK_UP = 0.5  # seconds until a signal is noticed that came in the very moment in which its thread blocked
_GRACE = 0.05  # seconds that a thread takes at the most to begin

#: Something to do on the caller's thread.
Event = Callable[[], object]


class Periodic(NamedTuple):
    """An action for the caller's thread, repeated so many seconds after it last ended."""

    seconds: float
    action: Event


class Run:
    """
    Brings *jobs* to their outcomes. Callbacks are called on the thread that calls `run`, those of a job in their order;
    an exception from one ends the run.

    Args:
        client: The SDK's.

        jobs: None: they are added while it is `running`.

        max_workers: Most attempts under way at once: so many threads are started, as they are needed.

        gates: The gates that each attempt must pass, in this order.

        on_start: Called with the index of a job that makes an attempt.

        on_retry: Called with index and error when an attempt has failed that is to be made again, at the cost of a
            retry.

        on_outcomes: Called with the outcomes of jobs that have ended, by index.

        on_hold: Called with what all wait for, "rate limit" or "outage", when they begin to; with None when they no
            longer do.

        stop_after: As in `Scheduler`.

        name: What a run of this kind is called where it is traced.

        keep: Called with index and outcome before *on_outcomes* is, on the thread that ended the job. An exception
            from it fails the run.

        send: Sends an attempt on the client, and ends it whatever happens. Raises nothing.
    """

    def __init__(
        self,
        client: Any,
        jobs: Sequence[Job] | None,
        *,
        max_workers: int,
        gates: Sequence[Gate] = (),
        on_start: Callable[[int], object] | None = None,
        on_retry: Callable[[int, ClaudeInvocationError], object] | None = None,
        on_outcomes: Callable[[Mapping[int, Outcome]], object] | None = None,
        on_hold: Callable[[str | None], object] | None = None,
        stop_after: int | None = None,
        name: str = "run",
        keep: Callable[[int, Outcome], object] | None = None,
        send: Callable[[Any, Attempt], object] = send,
    ) -> None:
        self._client = client
        self._send = send
        self._name = name
        self._max_workers = max_workers
        self._gates = gates
        self._on_start = on_start
        self._on_retry = on_retry
        self._on_outcomes = on_outcomes
        self._on_hold = on_hold
        self._held_by: str | None = None
        self._next_deadline = -math.inf
        self._process = os.getpid()
        self._keep = keep
        # The caller's context variables, so that traces and log bindings follow into the threads.
        self._context = variables()
        self._span: RunSpan | None = None
        self._above = running()  # the tool that it is run by
        self._names = {job.index: job.name for job in jobs or ()} if self._above else {}
        # None: all outcomes are posted, or a thread broke off.
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._left: SimpleQueue[None] = SimpleQueue()  # each thread says so when it ends
        self._ended_threads: set[threading.Thread] = set()
        self._lock = threading.Lock()  # guards the three below
        self._pauses = PauseLog()
        self._scheduler = Scheduler(
            jobs or (), gates, time.monotonic(), on_wait=self._pauses.note, stop_after=stop_after
        )
        self._is_open = jobs is None  # whether more may be added
        self._is_abandoned = False
        #: Leaves the `with` block of `running`, for `abandon`. Kept here, that is as alive as the threads are: else
        #: it would be left on the thread that happens to collect what nobody has any more.
        self.close: Callable[[], object] = lambda: None
        self._jobs = None if jobs is None else len(jobs)
        self._unreported = self._jobs or 0
        self._threads: list[threading.Thread] = []
        # What follows is read in single steps without the lock, which a signal handler that interrupts this run, or a
        # gate that wakes it while another run holds a lock of its own, must not wait for.
        self._under_way: dict[Attempt, int] = {}
        self._at_work: dict[InterruptToken, int] = {}
        self._resting: list[SimpleQueue[None]] = []  # each thread's bell; the last wakes when an attempt is due
        self._rung = False  # since the scheduler was last asked
        self._woken_by: SimpleQueue[Hashable] = SimpleQueue()  # for the scheduler to be told
        self._interrupted = False
        self._main_thread_ended = False
        self._broken: BaseException | None = None  # what a thread could not deal with
        #: Why the run was stopped from within; None if it was not.
        self.failure: Exception | None = None

    @property
    def outcomes(self) -> Mapping[int, Outcome]:
        """The outcome of each job that has ended, by index; of all of them once `run` has ended, however it did."""
        return self._scheduler.outcomes

    @property
    def interrupted(self) -> bool:
        """True if it was ended from outside."""
        return self._interrupted

    @property
    def is_stopped(self) -> bool:
        """True if no other job will be sent."""
        return self._interrupted or self._scheduler.is_stopped

    @property
    def _is_forked(self) -> bool:
        return self._process != os.getpid()

    @property
    def under_way(self) -> list[tuple[Attempt, int]]:
        """The attempts under way, each with the index of its job. From any thread."""
        return [*self._under_way.items()]

    def run(self, token: InterruptToken | None = None, periodic: Periodic | None = None) -> None:
        """
        Run until every job has an outcome. *token* ends the run: the jobs left then have errors of kind "interrupted".

        Raises:
            KeyboardInterrupt: On Ctrl-C, or where the main thread ends before the run.
            RuntimeError: If not a single thread can be started; or in a child that a callback has forked.
            BaseException: Whatever a callback or a gate raised. Every job has its outcome then, too.
        """
        with self.running(token):
            if not self._scheduler.over:  # else all was cancelled before
                with self._lock:
                    self._start_thread()
            if self._jobs:
                self._do_events(periodic)

    @contextmanager
    def running(self, token: InterruptToken | None = None) -> Iterator[None]:
        """Be able to send for a `with` block, at whose end all that has no outcome ends. Raises like `run`."""
        check_token(token)
        late: BaseException | None = None
        with ExitStack() as stack:
            self._span = stack.enter_context(run_span(self._name, self._jobs))
            stack.enter_context(_ending_with_the_main_thread(self))
            for gate in self._gates:
                stack.enter_context(gate.waking(self.wake))
            for one in (token, self._above and self._above.token):
                if one:
                    stack.enter_context(one.watched_by(self.interrupt))
            try:
                yield
            finally:
                for late in islice(iter(self._shut_down, None), _MOST_TRIES):  # noqa: B007 - the last counts
                    pass
        if self._broken:
            raise self._broken
        if self._main_thread_ended:
            raise KeyboardInterrupt("the main thread has ended")
        if late:
            raise late

    def add(self, job: Job) -> None:
        """
        Have one more *job* brought to its outcome.

        Raises:
            RuntimeError: If not a single thread can be started.
        """
        with self._lock:
            self._unreported += 1
            if self._above:
                self._names[job.index] = job.name
            self._scheduler.add(job, time.monotonic())
            self._next_deadline = min(self._next_deadline, job.flow.ends_at)
            ended = self._scheduler.take_ended()
            is_first = not self._threads
            if is_first:
                self._start_thread()
        self._report(ended)
        if not is_first:
            self._call_another()

    def forget(self, index: int) -> None:
        """Keep nothing of a job that has ended."""
        with self._lock:
            self._scheduler.forget(index)

    def drain(self) -> None:
        """After `run` was broken off: make the callbacks about jobs that it still had to make."""
        hooks = (self._on_start, self._on_retry, self._on_outcomes)
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, partial) and event.func in hooks:
                event()

    def interrupt(self) -> None:
        """End every attempt under way, and start no other. From any thread, also in a signal handler."""
        self._interrupted = True
        for attempt, _ in self.under_way:
            attempt.abort()
        for stopped in [*self._at_work]:
            stopped.interrupt()
        self.wake()

    def stop(self, error: ClaudeInvocationError) -> None:
        """Let attempts under way come to their end, and end all other jobs by *error*. From any thread."""
        self._change(partial(self._scheduler.stop, error))

    def fail(self, failure: Exception) -> None:
        """Stop because of *failure*. From any thread."""
        self.failure = self.failure or failure
        self.stop(ClaudeInvocationError(f"The run was stopped: {told(failure)}", kind="interrupted"))

    def cancel(self, index: int) -> None:
        """End a job, with an error of kind "cancelled", unless it has its outcome. From any thread."""
        self._change(partial(self._scheduler.cancel, index))
        for attempt, of_job in self.under_way:
            if of_job == index:
                attempt.abort("cancelled")
        for stopped, of_job in [*self._at_work.items()]:
            if of_job == index:
                stopped.interrupt()

    def end_with_main_thread(self) -> None:
        """Interrupt the run as Ctrl-C would, and let its threads end. From any thread."""
        self._main_thread_ended = True
        self._leave()

    def abandon(self) -> None:
        """
        Interrupt the run, and have the last of its threads `close` it: for a finalizer, which must wait for nobody and
        for no lock.
        """
        self._is_abandoned = True
        self._leave()

    def _leave(self) -> None:
        """Interrupt the run, and have no thread stay for more jobs. In single steps."""
        self._is_open = False
        self.interrupt()
        self._dismiss()

    def wake(self, until: Hashable = None) -> None:
        """Have the gates asked again, also for those that wait for *until*. From any thread."""
        if until is not None:
            self._woken_by.put(until)
        self._rung = True
        for bell in self._resting[-1:]:
            bell.put(None)

    def post(self, event: Event) -> None:
        """Have *event* called on the thread that called `run`. From any thread."""
        self._events.put(event)

    def _do_events(self, periodic: Periodic | None) -> None:
        due = time.monotonic() + periodic.seconds if periodic else math.inf
        while True:
            if periodic and time.monotonic() >= due:
                due = self._do(periodic)
            if not self.do_next(due - time.monotonic()):
                return

    def do_next(self, within: float = math.inf) -> bool:
        """
        Do on this thread the next thing that is to be done there: within so many seconds, or half of one, or nothing.
        Return whether there may be more: that is, unless all jobs have their outcomes, or a thread broke off.
        """
        if self._is_forked:  # no coverage: in a forked child
            raise RuntimeError("a callback forked this process: the run goes on in the parent, and not here")
        if time.monotonic() >= self._next_deadline:
            self._next_deadline = self._change(lambda: self._scheduler.expire(time.monotonic()))
        within = min(_LOOK_UP, within, self._next_deadline - time.monotonic())
        try:
            event = self._events.get(timeout=max(0.0, within))
        except Empty:
            return True
        if event is None:
            if self._broken:
                raise self._broken
            return False
        event()
        return True

    def _do(self, periodic: Periodic) -> float:
        """Do it now, and return the time to do it again. An exception from it fails the run."""
        try:
            periodic.action()
        except Exception as failed:  # noqa: BLE001 - a user's callback
            self.fail(failed)
            return math.inf
        return time.monotonic() + periodic.seconds

    def _shut_down(self) -> BaseException | None:
        """End all that still runs and join the threads; return what a signal handler raised if that came between."""
        if self._is_forked:  # no coverage: in a forked child, where there are no threads to end
            return None
        try:
            self._is_open = False
            if not self._scheduler.over:
                self.interrupt()
            else:
                self._dismiss()
            me = threading.current_thread()  # it may be the last of them
            while not self._ended_threads.issuperset(self._started()):
                with suppress(Empty):
                    self._left.get(timeout=_LOOK_UP)
            for thread in self._started():
                if thread is not me:
                    thread.join()
            self._scheduler.abandon()  # what is left where a thread broke off, or where there was none
        except BaseException as late:  # noqa: BLE001 - Ctrl-C, or whatever the handler of another signal raises
            return late
        return None

    def _started(self) -> list[threading.Thread]:
        """Return all threads that were started. Joining is not enough: after a Ctrl-C, `join` takes them for ended."""
        with self._lock:  # so that no other is about to be
            threads = [*self._threads]
        if any(thread.ident is None for thread in threads):  # a Ctrl-C came while the first was started, or before
            time.sleep(_GRACE)
        return [thread for thread in threads if thread.ident is not None]

    def _start_thread(self) -> None:
        """The caller holds the lock."""
        thread = threading.Thread(target=self._work, name="claude_client worker")
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:  # there are no more to be had
            self._threads.remove(thread)
            raise

    def _work(self) -> None:
        """Make attempts until there are no more to come. The main function of each thread."""
        try:
            while taken := self._next():
                job, attempt = taken
                if self._interrupted:  # before it could be found under way
                    attempt.abort()
                context = self._context_of(job, attempt)
                context.run(self._send, self._client, attempt)
                step = self._finish(job, attempt)
                while not isinstance(step, (Send, Done)):
                    step = context.run(self._do_work, job, step)
        except BaseException as broken:  # noqa: BLE001 - a gate's, or ours; the caller's thread raises it
            self._broken = broken
            self.interrupt()
            self._events.put(None)
        finally:
            self._ended_threads.add(threading.current_thread())
            self._left.put(None)
            if self._is_abandoned and self._ended_threads.issuperset([*self._threads]):
                with suppress(BaseException):  # of what broke off: nobody is there to be told
                    self.close()

    def _context_of(self, job: Job, attempt: Attempt) -> Context:
        context = self._context.copy()
        if self._span:
            quietly(self._span.enter, context, job.index, attempt.request, job.name, attempt.queued_at)
        return context

    def _next(self) -> tuple[Job, Attempt] | None:
        """Wait for the next attempt for this thread to send; None if the thread is not needed any more."""
        bell: SimpleQueue[None] = SimpleQueue()
        while True:
            with self._lock:
                found, more = self._poll(bell)
                ended = self._scheduler.take_ended()
            self._pauses.log()
            self._report(ended)
            if not (more or self._is_open):
                self._dismiss()
            if not isinstance(found, float):
                if more:
                    self._call_another()
                return found
            if not (more or self._is_open):
                return None
            self._rest(bell, found)

    def _poll(self, bell: SimpleQueue[None]) -> tuple[tuple[Job, Attempt] | float, bool]:
        """
        Ask the scheduler; also return whether more jobs wait. A thread that has to wait rests, with its *bell*.
        The caller holds the lock.
        """
        if bell in self._resting:
            self._resting.remove(bell)
        self._rung = False
        while not self._woken_by.empty():
            self._scheduler.wake(self._woken_by.get())
        if self._interrupted:
            self._scheduler.stop(aborted("interrupted"))
        found, more = self._scheduler.poll(time.monotonic()), self._scheduler.has_waiting
        if self._on_hold and self._scheduler.holding.reason != self._held_by:
            self._held_by = self._scheduler.holding.reason
            self.post(partial(self._on_hold, self._held_by))
        if not isinstance(found, float):
            job, attempt = found
            self._under_way[attempt] = job.index
            if self._on_start:
                self.post(partial(self._on_start, job.index))
        elif more or self._is_open:
            self._resting.append(bell)
        return found, more

    def _dismiss(self) -> None:
        """Let resting threads end: nothing waits to be sent. Jobs under way have their own threads to go on with."""
        for bell in [*self._resting]:
            bell.put(None)

    def _call_another(self) -> None:
        """Have another thread look for more to send, as this one is busy from now on."""
        with self._lock:
            resting = self._resting[-1:]
            more = not resting and len(self._threads) < self._max_workers
            if more:
                with suppress(RuntimeError):  # no more threads can be had: those there are go on
                    self._start_thread()
        for bell in resting:
            bell.put(None)

    def _rest(self, bell: SimpleQueue[None], seconds: float) -> None:
        """Wait until the bell rings or, if this is then the last resting thread, *seconds* have passed."""
        if self._rung:
            return
        try:
            bell.get(timeout=_within(seconds))
        except Empty:
            with self._lock:
                is_last = self._resting[-1] is bell
            if not is_last:
                bell.get()

    def _do_work(self, job: Job, work: Work) -> Step:
        """Do *work* for *job*, which keeps its thread meanwhile: so there is no more at once than may be."""
        stopped = InterruptToken()
        self._at_work[stopped] = job.index
        try:
            # An interrupt may have come before this could be found: there is no time left for it then.
            work.do(stopped, 0.0 if self._interrupted else job.flow.ends_at)
        finally:
            del self._at_work[stopped]

        def worked() -> Step:
            if self._interrupted:
                self._scheduler.stop(aborted("interrupted"))
            return self._scheduler.worked(job, work, time.monotonic())

        return self._go_on(job, worked)

    def _finish(self, job: Job, attempt: Attempt) -> Step:
        def finished() -> Step:
            del self._under_way[attempt]
            return self._scheduler.finished(attempt, time.monotonic())

        return self._go_on(job, finished)

    def _go_on(self, job: Job, next_step: Callable[[], Step]) -> Step:
        with self._lock:
            step = next_step()
            ended = self._scheduler.take_ended()
            if isinstance(step, Send) and step.failed and step.costs_retry and self._on_retry:
                # Before anybody can start it again.
                self.post(partial(self._on_retry, job.index, step.failed))
        log_step(step, job.flow, job.name)
        self._pauses.log()
        self._report(ended)
        return step

    def _change(self, change: Callable[[], T]) -> T:
        """Apply *change* to the scheduler under the lock, report the jobs that it ended, and return what it returns."""
        with self._lock:
            result = change()
            ended = self._scheduler.take_ended()
        self._report(ended)
        self.wake()
        return result

    def _report(self, ended: Mapping[int, Outcome]) -> None:
        """Keep the outcomes of the jobs that have *ended*, and post them to the caller's thread."""
        if not ended:
            return
        count(ended.values())
        if self._above:
            for index, outcome in ended.items():
                self._above.record(self._names.pop(index), outcome.attempts, outcome.tool_calls)
        if self._span:
            quietly(self._span.ended, ended)
        if self._keep:
            for index, outcome in ended.items():
                self._keep_outcome(index, outcome, self._keep)
        if self._on_outcomes:
            self.post(partial(self._on_outcomes, ended))
        with self._lock:
            self._unreported -= len(ended)
            if not self._unreported:
                self._events.put(None)

    def _keep_outcome(self, index: int, outcome: Outcome, keep: Callable[[int, Outcome], object]) -> None:
        try:
            keep(index, outcome)
        except Exception as failed:  # noqa: BLE001 - it is still in the outcomes
            self.fail(failed)


def _within(seconds: float) -> float | None:
    """*seconds* as a timeout: not below 0, and None for those that no clock can measure."""
    return max(0.0, seconds) if seconds < threading.TIMEOUT_MAX else None


# A run in another thread ends with the main thread. The interpreter joins all threads, whatever they are waiting for,
# before the main thread counts as ended, so a thread that joins the main thread would notice too late.
_runs: set[Run] = set()


@contextmanager
def _ending_with_the_main_thread(run: Run) -> Iterator[None]:
    _runs.add(run)
    try:
        yield
    finally:
        _runs.discard(run)


def _end_runs() -> None:  # no coverage: as the interpreter ends
    for run in [*_runs]:
        run.end_with_main_thread()


with suppress(AttributeError, RuntimeError):  # a private name; and too late where the interpreter is ending already
    threading._register_atexit(_end_runs)  # type: ignore[attr-defined]  # noqa: SLF001
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_runs.clear)  # the runs are the parent's, and so are their sockets
