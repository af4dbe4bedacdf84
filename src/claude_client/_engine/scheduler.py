"""
The scheduler of many calls: jobs, the gates they must pass, and the times at which they are tried again.

It starts no thread, waits for nothing and reads no clock. A driver asks it with `poll` for the next attempt, sends
that, and hands it back with `finished`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from claude_client._engine.flow import CallFlow, Done, Outcome, Send, Step, Work
from claude_client._gates.gate import HOLDING, Gate, Wait, admit
from claude_client._gates.holding import Holding
from claude_client._values.attempt import Attempt
from claude_client._values.errors import ClaudeInvocationError, aborted, for_unsent, reworded
from claude_client._values.kinds import FROM_OUTSIDE, Kind
from claude_client._values.record import Cause
from claude_client._values.response import shared

_NOTHING: Mapping[Cause, float] = {}

# Failures that say nothing of another call that asks the same.
_ABOUT_ONE: frozenset[Kind] = frozenset({"cancelled", "callback", "budget"})

#: Failures that every other call would share: jobs that have not started are not sent.
STOPPING: frozenset[Kind] = frozenset({"spend_limit", "billing", "authentication"})


_MOST_DEADLINES = 100  # that are kept of jobs that have ended


class Job:
    """A prompt of a run, and its next step."""

    __slots__ = ("flow", "index", "place", "question", "queued_at", "step", "waited", "waited_before")

    def __init__(self, index: int, flow: CallFlow, question: Hashable = None) -> None:
        self.index = index
        self.flow = flow
        #: What it asks: of jobs with the same question one is sent, and all get its outcome. None: it is its own.
        self.question = question
        #: The key of the group that it is in, set by the scheduler.
        self.place: Hashable = None
        #: What to do next; set by the scheduler, when the job begins.
        self.step: Send
        #: When `step` became its next step.
        self.queued_at = 0.0
        #: Seconds waited since then: its own before it joined its group, and those of the group before it joined.
        self.waited: Mapping[Cause, float] = _NOTHING
        self.waited_before: Mapping[Cause, float] = _NOTHING

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self.flow.name or f"prompts[{self.index}]"

    @property
    def group(self) -> Hashable:
        """The key of its group. Jobs of one group wait for the same things: where the first may not start, none may."""
        request = self.step.request
        return request.model, request.prefix, request.category, self.flow.patience

    def __lt__(self, other: Job) -> bool:
        return self.index < other.index


class _Group:
    """The jobs that wait for the same things, lowest index first, and how long they have waited for what."""

    def __init__(self, key: Hashable, now: float) -> None:
        self.key = key
        self.jobs: list[Job] = []
        #: Whether it is in the line of those to ask, by its first job.
        self.in_line = True
        #: When the first of them may lose its patience; in the past where that is not known.
        self.patient_until = -math.inf
        self._cause: Cause = "worker"
        self._since = now
        self._waited: Mapping[Cause, float] = {}  # by `_since`; replaced, never changed, as jobs keep it

    def add(self, job: Job, now: float) -> None:
        self._count(now)
        job.waited_before = self._waited
        self.patient_until = -math.inf
        heapq.heappush(self.jobs, job)

    def wait_for(self, cause: Cause, now: float) -> None:
        """Note that its jobs wait for *cause* from *now* on."""
        if cause != self._cause:
            self._count(now)
            self._cause = cause

    def waited(self, job: Job, now: float) -> dict[Cause, float]:
        """The seconds that *job* has waited, by cause."""
        self._count(now)
        waited = {**job.waited}
        for cause, seconds in self._waited.items():
            more = waited.get(cause, 0.0) + seconds - job.waited_before.get(cause, 0.0)
            if more > 0:
                waited[cause] = more
        return waited

    def _count(self, now: float) -> None:
        """Add the time since the last count to its current cause."""
        if now > self._since:
            passed = self._waited.get(self._cause, 0.0) + now - self._since
            self._waited = {**self._waited, self._cause: passed}
            self._since = now


class Scheduler:
    """
    Brings *jobs* to their outcomes, lowest index first, each attempt through all of *gates*.

    Not for two threads at once: a driver with several guards it by a lock. Times are seconds by one clock.

    Args:
        on_wait: Called with the seconds that a job has to wait from now on, and with the time.

        stop_after: Stop once so many jobs in a row have ended by failures of one kind. None: never for that.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        gates: Sequence[Gate],
        now: float,
        *,
        on_wait: Callable[[float, float], object] = lambda *_: None,
        stop_after: int | None = None,
    ) -> None:
        #: The outcome of each job that has ended, by index.
        self.outcomes: dict[int, Outcome] = {}
        #: Whether a limit or an outage holds jobs back, and what they wait for.
        self.holding = Holding()
        self._gates = gates
        self._on_wait = on_wait
        self._stop_after = stop_after
        # The kind of the last failure, None for an answer, and how many like it came in a row.
        self._alike: tuple[Kind | None, int] = (None, 0)
        # Jobs that have yet to start, in one of two places. One that is ended there is taken from _waiting only.
        self._waiting: dict[int, Job] = {}
        self._groups: dict[Hashable, _Group] = {}
        # Each group is in one of three places. A job in the line that is not the first of a group in it is passed over.
        self._line: list[Job] = []
        self._refused: list[_Group] = []  # to get in line again at the next poll
        self._asleep: dict[Hashable, list[_Group]] = {}  # by what wakes them
        self._due: list[tuple[float, Job]] = []
        self._held_since: dict[str, float] = {}  # models that have answered nobody since
        self._retried: dict[int, Job] = {}  # all that ever waited to be tried again
        self._under_way: dict[Attempt, Job] = {}
        self._at_work: set[Job] = set()  # those whose driver does something for them
        self._cancelled: set[int] = set()
        self._stopped: ClaudeInvocationError | None = None
        self._ended: dict[int, Outcome] = {}
        self._deadlines: list[tuple[float, Job]] = []
        self._asking: dict[Hashable, Job] = {}  # the job that is sent for each question
        self._same: dict[Hashable, list[Job]] = {}  # those that wait for its outcome
        for job in jobs:
            self.add(job, now)

    def add(self, job: Job, now: float) -> None:
        """Bring one more *job* to its outcome. Its index is its own among all that were ever added."""
        job.step, job.queued_at = job.flow.begin(now), now
        self._waiting[job.index] = job
        if self._stopped:
            self._end(job, job.flow.end(self._stopped))
            return
        if job.flow.ends_at < math.inf:
            self._drop_deadlines()
            heapq.heappush(self._deadlines, (job.flow.ends_at, job))
        if job.question is None or self._asking.setdefault(job.question, job) is job:
            self._make_ready(job, now)
        else:
            self._same.setdefault(job.question, []).append(job)

    def forget(self, index: int) -> None:
        """Keep nothing of a job that has ended."""
        self.outcomes.pop(index, None)
        self._cancelled.discard(index)

    def _drop_deadlines(self) -> None:
        """Drop those of jobs that have ended, now and then."""
        begun = (*self._under_way.values(), *self._at_work)
        if len(self._deadlines) > _MOST_DEADLINES + 2 * (len(self._waiting) + len(begun)):
            left = self._waiting.keys() | {job.index for job in begun}
            self._deadlines = [(at, job) for at, job in self._deadlines if job.index in left]
            heapq.heapify(self._deadlines)

    @property
    def over(self) -> bool:
        """True once every job has its outcome."""
        return not (self._waiting or self._under_way or self._at_work)

    @property
    def is_stopped(self) -> bool:
        """True if no other attempt will be made."""
        return self._stopped is not None

    @property
    def has_waiting(self) -> bool:
        """True while there are attempts that have yet to start."""
        return bool(self._waiting)

    def poll(self, now: float) -> tuple[Job, Attempt] | float:
        """
        Return the next attempt, let in by all gates; or the seconds after which it is worth asking again, infinite
        if nothing but a gate, another attempt's end or a stop can change anything.

        Anything a gate raises other than a `ClaudeInvocationError` comes out, with nothing changed.
        """
        self.expire(now)
        while self._due and self._due[0][0] <= now:
            due, job = heapq.heappop(self._due)
            job.waited = {"retry": due - job.queued_at, "worker": now - due}
            self._make_ready(job, now)
        soonest = self._due[0][0] - now if self._due else math.inf
        again, self._refused = self._refused, []
        for refused in again:
            self._get_in_line(refused)
        while group := self._first_in_line():
            job = group.jobs[0]
            got = self._admitted(job, group, now) if job.index in self._waiting else None
            if isinstance(got, Wait):
                seconds = self._hold(group, got, now)
                if job.index in self._waiting:
                    soonest = min(soonest, seconds)
                    self._leave_line(self._alone(group, now) if got.cause == "budget" else group, got)
                continue
            self._take_first(group)
            if isinstance(got, Attempt):
                self.holding.passes(now)
                self._start(job, got, group, now)
                for other in (group, *again):
                    if other.in_line:
                        other.wait_for("worker", now)
                return job, got
            self._go_on(job, got, group, now)
        return soonest

    def wake(self, until: Hashable) -> None:
        """Ask again for the jobs that a gate had wait for *until*."""
        self._refused += self._asleep.pop(until, ())

    def finished(self, attempt: Attempt, now: float) -> Step:
        """Take back *attempt*, which is over. Return what its job does next; `worked` takes back what is work."""
        job = self._under_way.pop(attempt)
        if attempt.answer:
            self._held_since.pop(attempt.request.model, None)
        return self._next(job, job.flow.step_after(attempt), now)

    def worked(self, job: Job, work: Work, now: float) -> Step:
        """Take back *work*, which was done for *job*. Return what that does next."""
        if job not in self._at_work:  # it was abandoned
            return Done(self.outcomes[job.index])
        self._at_work.remove(job)
        step = job.flow.worked(work)
        return self._next(job, step if now < job.flow.ends_at else Done(job.flow.end(aborted("deadline"))), now)

    def _next(self, job: Job, step: Step, now: float) -> Step:
        if not isinstance(step, Done) and self._stopped:
            step = Done(job.flow.end(self._stopped))
        elif not isinstance(step, Done) and job.index in self._cancelled:
            step = Done(job.flow.end(aborted("cancelled")))
        if isinstance(step, Done):
            self._end(job, step.outcome)
            self._stop_if_hopeless(step.outcome)
        elif not isinstance(step, Send):
            self._at_work.add(job)
        else:
            job.step, job.queued_at = step, now
            self._waiting[job.index] = self._retried[job.index] = job
            heapq.heappush(self._due, (now + step.after, job))
            self._on_wait(step.after, now)
        return step

    def _stop_if_hopeless(self, outcome: Outcome) -> None:
        """Stop if *outcome* shows that the jobs left would fail as well."""
        kind = outcome.kind if isinstance(outcome, ClaudeInvocationError) else None
        if kind in FROM_OUTSIDE:
            return
        self._alike = (kind, self._alike[1] + 1) if kind == self._alike[0] else (kind, 1)
        if not isinstance(outcome, ClaudeInvocationError) or self._stopped:
            return
        if kind in STOPPING:
            self.stop(outcome)
        elif self._alike[1] == self._stop_after:
            self.stop(reworded(outcome, f"Stopped after {self._stop_after} failures in a row, the last: {outcome}"))

    def stop(self, error: ClaudeInvocationError) -> None:
        """
        End by *error* every job that is not under way, now and later. The first error counts, and there may be very
        many jobs: those that have used nothing share it.
        """
        self._stopped = self._stopped or for_unsent(error)
        ended: dict[int, Outcome] = dict.fromkeys(sorted(self._waiting), self._stopped)
        ended.update((index, job.flow.end(self._stopped)) for index, job in self._retried.items() if index in ended)
        self.outcomes.update(ended)
        self._ended.update(ended)
        self._waiting.clear()
        for place in (self._groups, self._line, self._refused, self._asleep, self._due, self._same):
            place.clear()

    def cancel(self, index: int) -> None:
        """End a job, unless it has its outcome; if it is under way, as soon as its attempt is over."""
        self._cancelled.add(index)
        if job := self._waiting.get(index):
            self._end(job, job.flow.end(aborted("cancelled")))

    def expire(self, now: float) -> float:
        """
        End the jobs that wait and whose deadline has passed; those under way end by themselves. Return the time of the
        next deadline.
        """
        while self._deadlines and self._deadlines[0][0] <= now:
            _, job = heapq.heappop(self._deadlines)
            if job.index in self._waiting:
                self._end(job, job.flow.end(aborted("deadline")))
        return self._deadlines[0][0] if self._deadlines else math.inf

    def abandon(self) -> None:
        """End every job that has no outcome as interrupted, those under way included."""
        self.stop(aborted("interrupted"))
        while self._under_way:
            attempt, job = self._under_way.popitem()
            attempt.settle()
            self._end(job, job.flow.end(aborted("interrupted")))
        while self._at_work:
            job = self._at_work.pop()
            self._end(job, job.flow.end(aborted("interrupted")))

    def take_ended(self) -> dict[int, Outcome]:
        """Return the outcomes of the jobs that have ended since the last call, by index, in their order."""
        ended, self._ended = self._ended, {}
        return ended

    def _admitted(self, job: Job, group: _Group, now: float) -> Attempt | Wait | Send | Done:
        """The attempt of the first *job* of *group*, what that waits for, or its step if it is not to be made."""
        try:
            got = admit(self._gates, job.step.request, job.queued_at, now)
        except ClaudeInvocationError as refused:
            return job.flow.refused(refused)
        if isinstance(got, Wait):
            group.wait_for(got.cause, now)
            if got.cause in HOLDING:
                held_since = self._held_since.setdefault(job.step.request.model, now)
                if held_since + job.flow.patience < now + got.seconds:
                    return job.flow.ask_another()
            if got.refusal and job.flow.patience < math.inf and self._patience_left(job, got.cause, group, now) <= 0:
                return job.flow.refused(for_unsent(got.refusal))
        return got

    def _hold(self, group: _Group, wait: Wait, now: float) -> float:
        """Note that *group* has to *wait*, end those of its jobs that will not, and return the seconds to ask again."""
        self._on_wait(wait.seconds, now)
        if wait.cause in HOLDING:
            self.holding.wait(wait.cause, wait.seconds, now)
        if not wait.refusal:
            return wait.seconds
        self._end_impatient(group, wait.cause, wait.refusal, now)
        return min(wait.seconds, group.patient_until - now)

    def _end_impatient(self, group: _Group, cause: Cause, refusal: ClaudeInvocationError, now: float) -> None:
        """End by *refusal* the jobs of *group* that have waited for *cause* as long as they are willing to."""
        if now < group.patient_until:
            return
        group.patient_until = math.inf
        for job in group.jobs:
            left = self._patience_left(job, cause, group, now)
            if left > 0:
                group.patient_until = min(group.patient_until, now + left)
            elif job.index in self._waiting:
                self._end(job, job.flow.end(for_unsent(refusal)))

    def _patience_left(self, job: Job, cause: Cause, group: _Group, now: float) -> float:
        """Seconds that *job* is willing to wait for *cause* from *now* on."""
        waited = job.flow.waited(cause) + group.waited(job, now).get(cause, 0.0)
        return job.step.request.retry.outage_patience - waited

    def _go_on(self, job: Job, step: Send | Done | None, group: _Group, now: float) -> None:
        """Do what *job* does next without an attempt: ask another model, or end; None: it has ended already."""
        if isinstance(step, Done):
            self._end(job, step.outcome)
        elif step:
            job.waited, job.step = group.waited(job, now), step
            self._make_ready(job, now)

    def _start(self, job: Job, attempt: Attempt, group: _Group, now: float) -> None:
        attempt.on_text, attempt.ends_at = job.flow.on_text, job.flow.ends_at
        attempt.waited = group.waited(job, now)
        del self._waiting[job.index]
        self._under_way[attempt] = job

    def _make_ready(self, job: Job, now: float) -> None:
        key = job.group
        if key not in self._groups:
            self._groups[key] = _Group(key, now)
        group = self._groups[key]
        job.place = key
        group.add(job, now)
        if group.in_line and group.jobs[0] is job:
            heapq.heappush(self._line, job)

    def _first_in_line(self) -> _Group | None:
        while self._line:
            group = self._groups.get(self._line[0].place)
            if group and group.in_line and group.jobs[0] is self._line[0]:
                return group
            heapq.heappop(self._line)
        return None

    def _get_in_line(self, group: _Group) -> None:
        group.in_line = True
        heapq.heappush(self._line, group.jobs[0])

    def _leave_line(self, group: _Group, wait: Wait) -> None:
        group.in_line = False
        heapq.heappop(self._line)
        if wait.until is None:
            self._refused.append(group)
        else:
            self._asleep.setdefault(wait.until, []).append(group)

    def _alone(self, group: _Group, now: float) -> _Group:
        """The group of the first job of *group* alone: others may have room where that has none."""
        if len(group.jobs) == 1:
            return group
        job = group.jobs[0]
        self._take_first(group)
        job.waited = group.waited(job, now)
        alone = self._groups[group.key, job.index] = _Group((group.key, job.index), now)
        alone.wait_for("budget", now)
        alone.add(job, now)
        heapq.heappush(self._line, job)
        job.place = alone.key
        return alone

    def _take_first(self, group: _Group) -> None:
        heapq.heappop(group.jobs)
        heapq.heappop(self._line)
        if group.jobs:
            heapq.heappush(self._line, group.jobs[0])
        else:
            del self._groups[group.key]
            group.in_line = False

    def _end(self, job: Job, outcome: Outcome) -> None:
        self._waiting.pop(job.index, None)
        self._retried.pop(job.index, None)
        self.outcomes[job.index] = self._ended[job.index] = outcome
        if job.question is not None and self._asking.get(job.question) is job:
            del self._asking[job.question]
            self._answer_same(job.question, outcome)

    def _answer_same(self, question: Hashable, outcome: Outcome) -> None:
        """End those with the same *question* by its *outcome*; after one that says nothing of it, the next is sent."""
        same = [job for job in self._same.pop(question, ()) if job.index in self._waiting]
        if isinstance(outcome, ClaudeInvocationError) and outcome.kind in _ABOUT_ONE:
            if same:
                self._asking[question], *self._same[question] = same
                heapq.heappush(self._due, (same[0].queued_at, same[0]))
            return
        for job in same:
            self._end(job, for_unsent(outcome) if isinstance(outcome, ClaudeInvocationError) else shared(outcome))
