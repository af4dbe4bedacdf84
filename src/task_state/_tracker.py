"""The table of states, and the tracker that holds tasks to it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ._html import table_of

_log = logging.getLogger("task_state")


class TaskState(StrEnum):
    """State of a task in its life."""

    UNCLAIMED = "unclaimed"
    CLAIMED = "claimed"
    RUNNING = "running"
    COMPLETED = "completed"
    #: Finished only where no retry is left: see `TaskInfo.finished`.
    FAILED = "failed"
    RETRY_QUEUED = "retry_queued"
    CANCELLED = "cancelled"


# Where a task may go from each state. Nothing leaves a finished one, which a failed one may be.
_NEXT: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.UNCLAIMED: frozenset({TaskState.CLAIMED, TaskState.CANCELLED}),
    TaskState.CLAIMED: frozenset({TaskState.RUNNING, TaskState.CANCELLED}),
    TaskState.RUNNING: frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.COMPLETED: frozenset(),
    TaskState.FAILED: frozenset({TaskState.RETRY_QUEUED, TaskState.CANCELLED}),
    TaskState.RETRY_QUEUED: frozenset({TaskState.CLAIMED, TaskState.CANCELLED}),
    TaskState.CANCELLED: frozenset(),
}


class InvalidTransitionError(RuntimeError):
    """A task cannot go from the state it is in to the one asked for; it stays where it is."""

    def __init__(self, task_id: str, from_state: TaskState, to_state: TaskState, reason: str = "") -> None:
        super().__init__(task_id, from_state, to_state, reason)
        self.task_id = task_id
        self.from_state = from_state
        self.to_state = to_state
        #: Why, where the two states do not say it; else empty.
        self.reason = reason

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"task {self.task_id!r} cannot go from {self.from_state} to {self.to_state}{because}"


class _ReadOnly(dict[str, Any]):
    """A dict that refuses changes. Whatever copies, encodes or tabulates dicts takes it for one."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the metadata of a task cannot be changed")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return _ReadOnly, ({**self},)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Snapshot of a task at one moment. Times are seconds by the tracker's clock."""

    task_id: str
    state: TaskState
    #: Number of times it was started.
    attempt: int
    category: str | None
    #: A read-only copy of what it was added with; the values in it are not copied.
    metadata: Mapping[str, Any] = field(hash=False)
    #: The error of the last attempt that failed, as it was given to `TaskTracker.fail`; else None.
    error: str | BaseException | None
    #: Whether it moves no more: completed, cancelled, or failed with no retry left.
    finished: bool
    #: Each state it has been in and the time it got there, from the first to that of now.
    history: tuple[tuple[TaskState, float], ...]

    @property
    def added_at(self) -> float:
        """The time it was added."""
        return self.history[0][1]

    @property
    def started_at(self) -> float | None:
        """The time its last attempt was started; None before the first, and for what was recalled."""
        return next((at for state, at in reversed(self.history) if state is TaskState.RUNNING), None)

    @property
    def finished_at(self) -> float | None:
        """The time it was finished; None while it is not."""
        return self.history[-1][1] if self.finished else None


def _moved(
    info: TaskInfo, target: TaskState, at: float, error: str | BaseException | None, *, finished: bool
) -> TaskInfo:
    return TaskInfo(
        info.task_id,
        target,
        info.attempt + (target is TaskState.RUNNING),
        info.category,
        info.metadata,
        error,
        finished,
        (*info.history, (target, at)),
    )


class TaskTracker:
    """
    Knows the state of each task, and allows only the moves of the table: a task is added, claimed, started, and
    completes or fails; a failed one may be queued for a retry and claimed again; what is not finished may be cancelled.

    Every method may be called from any thread. Of many that ask for the same move, one makes it and the others get an
    `InvalidTransitionError`.

    All that move a task return it as it is then, and raise:

    - `KeyError`: There is no such task.
    - `InvalidTransitionError`: It cannot go there from where it is.

    It pickles and copies without its observers.

    Args:
        max_retries: Most retries of a task after its first attempt. One that fails after them is finished.

        clock:
            Gives the times in `TaskInfo`, in seconds. The default is the time of day, for `datetime.fromtimestamp`
            to read; where spans matter more, pass `time.monotonic`, which nobody can set back.

    Raises:
        ValueError: *max_retries* is not a whole number from 0.
    """

    __slots__ = (
        "__weakref__",
        "_cancelled_at",
        "_clock",
        "_lock",
        "_max_retries",
        "_observers",
        "_tasks",
    )

    def __init__(self, max_retries: int = 3, *, clock: Callable[[], float] = time.time) -> None:
        if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
            raise ValueError(f"max_retries must be a whole number from 0, got {max_retries!r}")
        self._max_retries = max_retries
        self._clock = clock
        self._lock = threading.Lock()  # guards the three below
        self._tasks: dict[str, TaskInfo] = {}
        self._cancelled_at: dict[str, float] = {}  # of those that are cancelled in `_tasks` when they are looked at
        self._observers: dict[object, Callable[[TaskInfo], object]] = {}

    @property
    def max_retries(self) -> int:
        """Most retries of a task after its first attempt."""
        return self._max_retries

    def add(self, task_id: str, category: str | None = None, metadata: Mapping[str, Any] | None = None) -> TaskInfo:
        """
        Track a new task, which is unclaimed.

        Raises:
            ValueError: There is a task of that id, or an argument is not what it should be.
        """
        if not isinstance(task_id, str) or not task_id:
            raise ValueError(f"task_id must be a non-empty string, got {task_id!r}")
        if category is not None and not isinstance(category, str):
            raise ValueError(f"category must be a string or None, got {category!r}")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ValueError(f"metadata must be a mapping or None, got {metadata!r}")
        copied = _ReadOnly(metadata or {})
        with self._lock:
            if task_id in self._tasks:
                raise ValueError(f"there is a task {task_id!r} already")
            history = ((TaskState.UNCLAIMED, self._clock()),)
            info = TaskInfo(task_id, TaskState.UNCLAIMED, 0, category, copied, None, finished=False, history=history)
            self._tasks[task_id] = info
        return info

    def claim(self, task_id: str) -> TaskInfo:
        """Take an unclaimed or retry-queued task for oneself."""
        return self._move(task_id, TaskState.CLAIMED)

    def start(self, task_id: str) -> TaskInfo:
        """Begin the next attempt of a claimed task."""
        return self._move(task_id, TaskState.RUNNING)

    def complete(self, task_id: str) -> TaskInfo:
        """End a running task well."""
        return self._move(task_id, TaskState.COMPLETED)

    def recall(self, task_id: str, error: BaseException | None = None) -> TaskInfo:
        """Finish an unclaimed task of which the result, or the *error*, is there from an earlier run."""
        target = TaskState.COMPLETED if error is None else TaskState.FAILED
        return self._move(task_id, target, error, final=True, recalled=True)

    def fail(self, task_id: str, error: str | BaseException | None = None, *, final: bool = False) -> TaskInfo:
        """
        End the attempt of a running task badly.

        Args:
            error: What went wrong, for `TaskInfo.error`.

            final: Another attempt would fail too, so the task is finished whatever retries are left.

        Raises:
            ValueError: *error* is something else.
        """
        if error is not None and not isinstance(error, (str, BaseException)):
            raise ValueError(f"error must be a string, an exception or None, got {error!r}")
        return self._move(task_id, TaskState.FAILED, error, final=final)

    def retry(self, task_id: str) -> TaskInfo:
        """Queue a failed task for another attempt; an `InvalidTransitionError` where no retry is left."""
        return self._move(task_id, TaskState.RETRY_QUEUED)

    def cancel(self, task_id: str) -> TaskInfo:
        """End a task that is not finished. What runs for it is not stopped by that."""
        return self._move(task_id, TaskState.CANCELLED)

    def cancel_all(self, task_ids: Iterable[str]) -> None:
        """
        Cancel those of *task_ids* that are not finished; in a moment, be they very many, where nobody watches.

        Raises:
            KeyError: There is no task of one of the ids. None is cancelled then.
        """
        with self._lock:
            cancelled = dict.fromkeys(task_ids, self._clock())
            if not cancelled.keys() <= self._tasks.keys():
                raise KeyError(f"there is no task {min(cancelled.keys() - self._tasks.keys())!r}")
            if not self._observers:
                for task_id in cancelled.keys() & self._cancelled_at.keys():
                    del cancelled[task_id]
                self._cancelled_at.update(cancelled)
                return
        for task_id in cancelled:
            with suppress(InvalidTransitionError):  # it is finished
                self.cancel(task_id)

    def transition(self, task_id: str, state: TaskState | str) -> TaskInfo:
        """
        Move a task to *state*, as the method of that move would.

        Raises:
            ValueError: There is no such state.
        """
        return self._move(task_id, TaskState(state))

    def get(self, task_id: str) -> TaskInfo:
        """The task as it is now; a `KeyError` where there is none of that id."""
        with self._lock:
            return self._info(task_id)

    def get_by_state(self, state: TaskState | str) -> list[TaskInfo]:
        """Return all tasks in *state*, in the order they were added; a `ValueError` where there is no such state."""
        wanted = TaskState(state)
        return [info for info in self._all() if info.state is wanted]

    def get_by_category(self, category: str | None) -> list[TaskInfo]:
        """Return all tasks of *category*, in the order they were added; None: those without one."""
        return [info for info in self._all() if info.category == category]

    def active_count(self, category: str | None = None) -> int:
        """Count the tasks of *category* that are not finished; None: of all."""
        return sum(not info.finished for info in self._all() if category is None or info.category == category)

    def is_all_terminal(self) -> bool:
        """Return whether every task is finished."""
        return all(info.finished for info in self._all())

    def summary(self) -> dict[str, int]:
        """Count the tasks in each state that occurs: ``{"running": 2, "completed": 1}``."""
        counts = Counter(info.state for info in self._all())
        return {state.value: counts[state] for state in TaskState if counts[state]}

    def on_transition(self, callback: Callable[[TaskInfo], object]) -> Callable[[], None]:
        """
        Call *callback* with the task after each move from now on. Where it came from is ``info.history[-2]``.

        It is called on the thread that made the move, before that move returns, and under no lock: it may use the
        tracker. Of several callbacks the first registered is called first. The moves of one thread arrive in their
        order; those of several threads may overlap, and their histories tell which came first. What a callback
        raises is logged, and changes nothing else.

        Returns:
            A function that ends this. Another thread that made a move just before may still be calling.
        """
        if not callable(callback):
            raise ValueError(f"callback must be callable, got {callback!r}")
        key = object()
        with self._lock:
            self._observers[key] = callback

        def stop() -> None:
            with self._lock:
                self._observers.pop(key, None)

        return stop

    def __len__(self) -> int:
        with self._lock:
            return len(self._tasks)

    def __bool__(self) -> bool:
        """True, also without tasks: ``tracker or TaskTracker()`` must not replace a new one."""
        return True

    def __contains__(self, task_id: object) -> bool:
        with self._lock:
            return task_id in self._tasks

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.summary().items())
        return f"<TaskTracker {counts or 'without tasks'}>"

    def _repr_html_(self) -> str:
        """The tasks as a table, with the number in each state; of more than 100, those that failed and the first."""
        tasks = sorted(self._all(), key=lambda info: info.state is not TaskState.FAILED)
        return table_of(self.summary(), tasks)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            tasks = {task_id: self._info(task_id) for task_id in self._tasks}
            return {"_max_retries": self._max_retries, "_clock": self._clock, "_tasks": tasks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._cancelled_at = {}
        self._lock = threading.Lock()
        self._observers = {}

    def _move(
        self,
        task_id: str,
        target: TaskState,
        error: str | BaseException | None = None,
        *,
        final: bool = False,
        recalled: bool = False,
    ) -> TaskInfo:
        with self._lock:
            info = self._info(task_id)
            allowed = info.state is TaskState.UNCLAIMED if recalled else target in _NEXT[info.state]
            if info.finished or not allowed:
                no_retry = info.finished and info.state is TaskState.FAILED
                reason = "it failed for good, and no retry is left" if no_retry else ""
                raise InvalidTransitionError(task_id, info.state, target, reason)
            failed_for_good = target is TaskState.FAILED and (final or info.attempt > self._max_retries)
            told = error if target is TaskState.FAILED else info.error
            info = _moved(info, target, self._clock(), told, finished=failed_for_good or not _NEXT[target])
            self._tasks[task_id] = info
            observers = [*self._observers.values()]
        for observer in observers:
            try:
                observer(info)
            except Exception:  # noqa: BLE001 - a user's callback
                with suppress(Exception):  # a handler of the log may fail as well
                    _log.exception("A callback for task %r failed; the task is %s all the same", task_id, target)
        return info

    def _info(self, task_id: str) -> TaskInfo:
        """The task of that id, or a `KeyError`. The caller holds the lock."""
        if task_id in self._cancelled_at:
            info, at = self._tasks[task_id], self._cancelled_at.pop(task_id)
            if not info.finished:
                self._tasks[task_id] = _moved(info, TaskState.CANCELLED, at, info.error, finished=True)
        try:
            return self._tasks[task_id]
        except KeyError:
            raise KeyError(f"there is no task {task_id!r}") from None

    def _all(self) -> list[TaskInfo]:
        with self._lock:
            return [self._info(task_id) for task_id in self._tasks]
