"""What is known of the tasks of one run: their states, their answers, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from claude_client import ClaudeInvocationError, ClaudeResponse, Results
from claude_client._engine.threads import Outcome, Run
from claude_client._sdk.exchange import ended
from claude_client._values.request import Request
from task_state import InvalidTransitionError, TaskInfo, TaskState, TaskTracker

from ._journal import Journal, JournalError

_log = logging.getLogger("orchestration")


class ManagedResults(Results):
    """
    The `Results` of a managed run. None stands for what failed or was cancelled; `tracker` knows which. A task that is
    cancelled in the moment in which its answer arrives keeps the answer: it is paid for.
    """

    #: The state of every task, and what became of it.
    tracker: TaskTracker
    #: The prompts, by index, whose answers the journal had from an earlier run.
    recalled: frozenset[int]


class Books:
    """
    Books what becomes of the tasks of a run: an answer is in the journal before its task counts as completed.

    Args:
        ids: The id of each prompt's task.

        on_outcome: Called with each outcome once it is booked.

        on_result: Called with index and outcome after that. What it raises is logged.
    """

    def __init__(
        self,
        ids: Sequence[str],
        tracker: TaskTracker,
        on_outcome: Callable[[Outcome], object],
        on_result: Callable[[int, Outcome], object] | None,
    ) -> None:
        self._ids = ids
        self._tracker = tracker
        self._on_outcome = on_outcome
        self._on_result = on_result
        self._keep: Callable[[int, ClaudeResponse], object] = lambda *_: None
        self._recalled: set[int] = set()
        #: What became of each task, by its index.
        self.outcomes: dict[int, Outcome] = {}
        #: Why the run was to be stopped; None if it was not.
        self.failure: Exception | None = None
        #: The run, once there is one.
        self.run: Run | None = None

    def opened(self, journal: Journal | None, requests: Mapping[int, Request]) -> dict[int, Request]:
        """
        What of *requests* is to be asked. The tasks that are not among them are dropped, and those are over that
        *journal* has the answers of, in their order; all others will be kept in it.
        """
        for index in range(len(self._ids)):
            if index not in requests:
                self._move(index, self._tracker.cancel)
                self._note(index, ended("cancelled"))
        if journal:
            indices = [*requests]
            places = {index: place for place, index in enumerate(indices)}
            self._keep = lambda index, answer: journal.keep(places[index], answer)
            for place, answer in journal.answered.items():
                self._recall(indices[place], answer)
        return {index: request for index, request in requests.items() if index not in self.outcomes}

    def fail(self, failure: Exception) -> None:
        """Stop the run because of *failure*."""
        self.failure = self.failure or failure
        if self.run:
            self.run.stop(ClaudeInvocationError(f"The run was stopped: {failure}", kind="interrupted"))

    def started(self, index: int) -> None:
        """An attempt is made. One that goes on with an answer that paused is the same still."""
        if self._state(index) is not TaskState.RUNNING:
            self._move(index, self._tracker.claim)
            self._move(index, self._tracker.start)

    def failed(self, index: int, error: ClaudeInvocationError) -> None:
        """An attempt has failed, and there will be another."""
        self._move(index, self._tracker.fail, error)
        self._move(index, self._tracker.retry)

    def ended(self, index: int, outcome: Outcome) -> None:
        """A task has its outcome, for good."""
        if isinstance(outcome, ClaudeResponse):
            self._answered(index, outcome)
        elif self._state(index) is TaskState.RUNNING and outcome.kind not in {"interrupted", "cancelled"}:
            self._move(index, self._tracker.fail, outcome, final=True)
        else:
            self._move(index, self._tracker.cancel)
        self._note(index, outcome)
        self._tell(index, outcome)

    def close(self) -> None:
        """All was broken off: book what it ended with, and tell nobody. Another Ctrl-C does not keep it from that."""
        self._on_result = None
        settled = self.run.settled() if self.run else {}
        while len(self.outcomes) < len(self._ids):
            with suppress(KeyboardInterrupt):
                for index in range(len(self._ids)):
                    if index not in self.outcomes:
                        self.ended(index, settled.get(index, ended("interrupted")))

    def results(self, *, interrupted: bool = False) -> ManagedResults:
        """All outcomes as the caller gets them."""
        results = ManagedResults.of(self.outcomes, interrupted=interrupted)
        results.tracker = self._tracker
        results.recalled = frozenset(self._recalled)
        return results

    def _recall(self, index: int, answer: ClaudeResponse) -> None:
        """An earlier run was given *answer*."""
        self._recalled.add(index)
        self.started(index)
        self._move(index, self._tracker.complete)
        self._note(index, answer)
        self._tell(index, answer)

    def _answered(self, index: int, answer: ClaudeResponse) -> None:
        try:
            self._keep(index, answer)
        except JournalError as full:
            self._move(index, self._tracker.fail, full, final=True)
            self.fail(full)
        else:
            self._move(index, self._tracker.complete)

    def _note(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self._on_outcome(outcome)

    def _tell(self, index: int, outcome: Outcome) -> None:
        if self._on_result:
            try:
                self._on_result(index, outcome)
            except Exception:  # noqa: BLE001 - a user's callback
                _log.exception("on_result failed for prompts[%d]; its outcome is kept", index)

    def _state(self, index: int) -> TaskState:
        return self._tracker.get(self._ids[index]).state

    def _move(self, index: int, move: Callable[..., TaskInfo], *args: Any, **options: Any) -> None:
        """Make a move, unless somebody else moved the task: its states are then theirs, and its answer is kept."""
        try:
            move(self._ids[index], *args, **options)
        except InvalidTransitionError as moved:
            if moved.from_state not in {TaskState.CANCELLED, moved.to_state}:
                _log.warning("Somebody else moves tasks of a run: %s", moved)
