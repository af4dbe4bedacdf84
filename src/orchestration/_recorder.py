"""The record of the tasks of one run: their states, their answers, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from claude_client import Budget, ClaudeInvocationError, ClaudeResponse, Results, Usage
from claude_client._values.errors import aborted
from claude_client._values.kinds import FROM_OUTSIDE
from claude_client._values.log import Log
from claude_client._values.record import Asked, RunRecord, now
from claude_client._values.results import Item
from claude_client._verbs.fan_out import Outcome, Run, report_outcomes
from task_state import InvalidTransitionError, TaskInfo, TaskState, TaskTracker

from ._batch_handle import BatchHandle
from ._journal import RunJournal

_log = Log("orchestration")

_NOT_STARTED = frozenset({TaskState.UNCLAIMED, TaskState.CLAIMED, TaskState.RETRY_QUEUED})


class ManagedResults(Results):
    """
    The `Results` of a managed run. None stands for what failed or was cancelled; `tracker` knows which. A task that is
    cancelled in the moment in which its answer arrives keeps the answer: it is paid for.
    """

    def __init__(
        self,
        answers: Iterable[Item] = (),
        errors: Mapping[int, ClaudeInvocationError] | None = None,
        *,
        cancelled: Mapping[int, ClaudeInvocationError] | None = None,
        interrupted: bool = False,
        run: RunRecord | None = None,
        tracker: TaskTracker | None = None,
        recalled: Iterable[int] = (),
        batches: BatchHandle | None = None,
    ) -> None:
        super().__init__(answers, errors, cancelled=cancelled, interrupted=interrupted, run=run)
        #: The tracker with the state and history of every task.
        self.tracker: TaskTracker = TaskTracker() if tracker is None else tracker
        #: The prompts, by index, whose answers or refusals the journal had from an earlier run.
        self.recalled: frozenset[int] = frozenset(recalled)
        #: Of a run by batches that was ended before they were: what it takes to collect them; else None.
        self.batches = batches

    @property
    def run_usage(self) -> Usage:
        """Tokens used by this run alone; `usage` has those of earlier runs for the answers that were recalled."""
        return self._usage_of(self._of_this_run)

    @property
    def run_cost_usd(self) -> float | None:
        """
        The price of `run_usage` in dollars; None for a model that is not known.

        Raises:
            ImportError: Without the `cost` extra.
        """
        return self._cost_of(self._of_this_run)

    @property
    def _of_this_run(self) -> Sequence[int]:
        return [index for index in range(len(self)) if index not in self.recalled]

    def _counts(self) -> str:
        return super()._counts() + (f"; {len(self.recalled)} recalled from the journal" if self.recalled else "")


class TaskRecorder:
    """
    Records what becomes of the tasks of a run: an answer is in the journal before its task counts as completed.

    All methods but `keep` are called on the thread that asked for the run.

    Args:
        ids: The id of each prompt's task.

        asked, began, budget: For the record of the run.

        places: The place of each request in the journal, by its index.

        move_bar, on_result: Same as in `report_outcomes`, which is called once an outcome is recorded.
    """

    def __init__(
        self,
        ids: Sequence[str],
        asked: Sequence[Asked],
        began: float,
        tracker: TaskTracker,
        places: Mapping[int, int],
        move_bar: Callable[[Outcome], object] | None,
        on_result: Callable[[int, Outcome], object] | None,
        budget: Budget | None = None,
    ) -> None:
        self._ids = ids
        self._asked = asked
        self._began = began
        self._tracker = tracker
        self._places = places
        self._move_bar = move_bar
        self._on_result = on_result
        self._budget = budget
        self._unkept: dict[int, Exception] = {}
        self._recalled: set[int] = set()
        self._run: Run | None = None
        self._stop_looking: Callable[[], None]
        #: The batches that are left to be collected; None where there are none.
        self.batches: BatchHandle | None = None
        #: The outcome of each task that has ended, by its index.
        self.outcomes: dict[int, Outcome] = {}

    @property
    def prompts(self) -> int:
        """How many prompts the run has."""
        return len(self._ids)

    def is_cancelled(self, index: int) -> bool:
        """Whether somebody has cancelled the task in the tracker."""
        return self._state(index) is TaskState.CANCELLED

    def drop(self, indices: Iterable[int]) -> None:
        """Cancel the tasks of *indices*, which are not wanted; *on_result* is not called for them."""
        dropped = {index: aborted("cancelled") for index in indices}
        self._tracker.cancel_all(self._ids[index] for index in dropped)
        self.outcomes.update(dropped)
        report_outcomes(dropped, self._move_bar, None)

    def refuse(self, refused: Mapping[int, ClaudeInvocationError]) -> None:
        """Fail the tasks whose prompts cannot be sent."""
        for index, error in refused.items():
            self.started(index)
            self.ended({index: error})

    def restore(self, journal: RunJournal) -> None:
        """End the tasks whose outcomes are in *journal*, in prompt order."""
        for index, place in self._places.items():
            if place in journal.answered:
                self._recalled.add(index)
                outcome = journal.answered[place]
                self._move(index, self._tracker.recall, outcome if isinstance(outcome, ClaudeInvocationError) else None)
                self._tell({index: outcome})

    @contextmanager
    def obeyed_by(self, run: Run, indices: Mapping[str, int]) -> Iterator[None]:
        """Cancel the job of each task, by its id in *indices*, that anybody cancels in the tracker."""

        def look(task: TaskInfo) -> None:
            index = indices.get(task.task_id)
            if task.state is TaskState.CANCELLED and index is not None and index not in run.outcomes:
                run.cancel(index)

        self._run, self._stop_looking = run, self._tracker.on_transition(look)
        try:
            for task_id in indices:
                look(self._tracker.get(task_id))
            yield
        finally:
            self._stop_looking()

    def started(self, index: int) -> None:
        """Record the start of an attempt. A request that continues a paused answer belongs to the same attempt."""
        if self._state(index) is TaskState.RUNNING:
            return
        if self._state(index) is not TaskState.CLAIMED:  # else a Ctrl-C came between the two moves
            self._move(index, self._tracker.claim)
        self._move(index, self._tracker.start)

    def failed(self, index: int, error: ClaudeInvocationError) -> None:
        """Record that an attempt has failed, and that there will be another."""
        self._move(index, self._tracker.fail, error)
        self._move(index, self._tracker.retry)

    def keep(self, journal: RunJournal, index: int, outcome: Outcome) -> None:
        """
        Store *outcome* in *journal*, before *on_result* is called with it, if it is an answer or a refusal: what was
        paid for, and would come again. From any thread.

        Raises:
            JournalError: If it could not be stored. It will be in the results all the same.
        """
        if not _is_kept(outcome):
            return
        try:
            journal.keep(self._places[index], outcome)
        except Exception as failed:
            self._unkept[index] = failed
            raise

    def keep_all(self, journal: RunJournal, outcomes: Mapping[int, Outcome]) -> None:
        """Store those of *outcomes* in *journal* that `keep` would, all at once."""
        journal.keep_all({self._places[index]: outcome for index, outcome in outcomes.items() if _is_kept(outcome)})

    def ended(self, outcomes: Mapping[int, Outcome]) -> None:
        """Record the final outcomes of tasks."""
        if self._run and self._run.interrupted:  # all jobs end anyway, and very many may be cancelled now
            self._stop_looking()
        cancelled = []
        for index, outcome in outcomes.items():
            if index in self._unkept:
                self._move(index, self._tracker.fail, self._unkept[index], final=True)
            elif isinstance(outcome, ClaudeResponse):
                if self._state(index) in _NOT_STARTED:  # a Ctrl-C came while its start was recorded
                    self.started(index)
                self._move(index, self._tracker.complete)
            elif outcome.kind not in FROM_OUTSIDE and self._state(index) is TaskState.RUNNING:
                self._move(index, self._tracker.fail, outcome, final=True)
            else:
                cancelled.append(self._ids[index])
        self._tracker.cancel_all(cancelled)
        self._tell(outcomes)

    def _tell(self, outcomes: Mapping[int, Outcome]) -> None:
        self.outcomes.update(outcomes)
        report_outcomes(outcomes, self._move_bar, self._on_result)

    def closed(self, run: Run | None) -> ManagedResults:
        """
        The *run* was broken off, or None was begun: record what it ended with, tell nobody, and return all outcomes.
        May be called again where it was broken off too.
        """
        self._move_bar = self._on_result = None
        outcomes = run.outcomes if run else {}
        interrupted = aborted("interrupted")
        if run:
            run.drain()
        left = (index for index in range(len(self._ids)) if index not in self.outcomes)
        self.ended({index: outcomes.get(index, interrupted) for index in left})
        return self.results(interrupted=True)

    def results(self, *, interrupted: bool = False) -> ManagedResults:
        """Return all outcomes as the caller gets them."""
        return ManagedResults.of(
            self.outcomes,
            interrupted=interrupted,
            run=RunRecord(self._began, now(), self._asked, self._budget.state if self._budget else None),
            tracker=self._tracker,
            recalled=self._recalled,
            batches=self.batches,
        )

    def _state(self, index: int) -> TaskState:
        return self._tracker.get(self._ids[index]).state

    def _move(self, index: int, move: Callable[..., TaskInfo], *args: Any, **options: Any) -> None:
        """Make a move, unless somebody else has moved the task: then it stays where it is, and its answer is kept."""
        try:
            move(self._ids[index], *args, **options)
        except InvalidTransitionError as moved:
            if moved.from_state not in {TaskState.CANCELLED, moved.to_state}:
                _log.warning("Somebody else moves tasks of a run: %s", moved)


def _is_kept(outcome: Outcome) -> bool:
    """Whether a journal keeps *outcome*: it was paid for, and would come again."""
    return not isinstance(outcome, ClaudeInvocationError) or outcome.kind == "refusal"
