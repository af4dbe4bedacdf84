"""Managed runs: every prompt is a task with a state, retries and its place in the limits, on the dispatcher of all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from claude_client import Content, InterruptToken, ParallelInterrupt, ParallelInvocationError
from claude_client._engine.jobs import jobs_of
from claude_client._engine.threads import Chore, Gate, Run
from claude_client._sdk.client import shared_client
from claude_client._values.request import DEFAULT_MODEL, Request, check_callback, request_builder, seconds, whole_number
from claude_client._verbs.parallel import MOST_WORKERS, ResultCallback, workers_of
from claude_client._verbs.progress import progress_of
from claude_client._verbs.stall import StallCallback
from task_state import TaskInfo, TaskState, TaskTracker

from ._books import Books, ManagedResults
from ._journal import Journal
from ._limiter import ConcurrencyLimiter, LimiterGate
from ._reconcile import Prompt, Reconcile, Reconciliation, generated_id, identified, wanted
from ._retrying import patient_policy
from ._stalls import stall_watch

_log = logging.getLogger("orchestration")


def invoke_parallel_managed(
    prompts: Sequence[Mapping[str, Any]],
    *,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    max_retries: int = 3,
    base_delay_ms: float = 1000,
    max_delay_ms: float = 10000,
    timeout: float | None = None,
    reconcile: Reconcile | None = None,
    reconcile_interval: float | None = None,
    concurrency_limiter: ConcurrencyLimiter | None = None,
    stall_timeout: float | None = None,
    on_stall: StallCallback | None = None,
    tracker: TaskTracker | None = None,
    journal: str | os.PathLike[str] | None = None,
    interrupt_token: InterruptToken | None = None,
    on_result: ResultCallback | None = None,
    progress: bool = False,
) -> ManagedResults:
    """
    Ask all *prompts* as tasks that are tracked, retried, limited by category, watched and, with a journal, resumed.

    A task that fails is None in the results, with its error in `.errors`; nothing is raised for it. One that waits,
    for its category or for its next attempt, holds no thread and no slot. All callbacks come on this thread; one that
    raises is logged and loses no answer, and one that takes long keeps other tasks from being started.

    Args:
        prompts:
            As in `claude_client.invoke_parallel`. Their `task_id`, unique, names the task; without one it is
            ``prompts[<index>]``. Their `category` is for *concurrency_limiter*.

        model, max_tokens, shared_system, cache_shared_system, timeout, progress: As in `claude_client.invoke_parallel`.

        max_workers: Most requests under way at once: at most 10, or the limiter's `global_limit` where that is more.

        max_retries, base_delay_ms, max_delay_ms:
            As in `invoke_with_retry`; a prompt may set its own `max_retries`. A `retry-after` of any length is waited
            for, with one line in the log where it is above a minute.

        reconcile:
            Called before anything is sent with a copy of each prompt, `task_id` included, and the tracker. It returns
            those that are wanted, changed or not. The tasks of the others are cancelled: None, and no error.

        reconcile_interval:
            Seconds after which *reconcile* is asked again, and again, about what is unfinished. What it drops then is
            stopped, in flight too; what it changes is not. None: it is asked once.

        concurrency_limiter:
            Bounds what runs at once, together with all others that use the same limiter. A callback of this run must
            not wait for a slot of it: this thread gives them back.

        stall_timeout:
            Seconds without any event of the stream but pings until an attempt is ended at its socket, and counts as
            failed. All attempts are streamed for that. None: not watched.

        on_stall: Called with task id and idle seconds, once for each attempt that was ended so.

        tracker:
            Yours, to watch from any thread; cancelling a task in it stops it. It may know the tasks already, if
            unclaimed. Its `max_retries` bounds that of the run. None for a new one.

        journal:
            A file, made where there is none, that each answer is committed to before its task counts as completed.
            The same call with the same journal, after whatever ended the first, asks only for what has no answer.
            A prompt is recognised by all that decides its answer and its `task_id`, wherever it stands; an edited one
            is asked again. The file holds answers, not prompts, for its owner alone. One run at a time can use it.

        interrupt_token:
            Ends the run within 100 ms. The rest has errors of kind "interrupted", and its tasks are cancelled.

        on_result:
            Called with index and answer (or error) of each task as it ends, of those too that the journal had. Not for
            those that *reconcile* drops before anything is sent.

    Returns:
        The answers in prompt order with `.errors`, `.cancelled`, `.usage` (that of earlier runs included, where the
        journal had an answer) and `.tracker`.

    Raises:
        ValueError: For bad input, a repeated or unknown `task_id` included, or without credentials; before any request.
        TypeError: If what should be called cannot be, or a tracker or limiter is none. Before any request, too.
        JournalError: If the journal cannot be used, before any request.
        ParallelInvocationError:
            If *reconcile* raises during the run, or the journal takes no more. What was under way has come to its
            end, all answers are in `.results`, and the cause says why. What *reconcile* raises before comes out as it
            is.
        ParallelInterrupt: On Ctrl-C, a KeyboardInterrupt with `.results`.
    """
    for name, callback in (("reconcile", reconcile), ("on_stall", on_stall), ("on_result", on_result)):
        check_callback(name, callback)
    _check_kind("concurrency_limiter", concurrency_limiter, ConcurrencyLimiter)
    _check_kind("tracker", tracker, TaskTracker)
    for name, span in (("stall_timeout", stall_timeout), ("reconcile_interval", reconcile_interval)):
        if span is not None:
            seconds(name, span)
    if reconcile is None and reconcile_interval is not None:
        raise ValueError("reconcile_interval is given, but no reconcile to call")
    workers = workers_of(max_workers, max(MOST_WORKERS, _limit_of(concurrency_limiter)))
    policy = patient_policy(whole_number("max_retries", max_retries, 0), base_delay_ms, max_delay_ms)
    build = request_builder(
        shared_system=shared_system,
        cache_shared_system=cache_shared_system,
        model=model,
        max_tokens=max_tokens,
        max_retries=max_retries,
        timeout=timeout,
    )
    tasks = identified(prompts)
    tracker = _tracked(tasks, tracker, max_retries)
    kept = wanted(reconcile, tasks, tracker) if reconcile else tasks
    requests = _requests(tasks, kept, build, watched=stall_timeout is not None)
    with ExitStack() as stack:
        books = Books([*tasks], tracker, stack.enter_context(progress_of(len(tasks), shown=progress)), on_result)
        opened = stack.enter_context(Journal(journal, [*requests.values()])) if journal is not None else None
        stack.enter_context(_closing(books))
        requests = books.opened(opened, requests)
        if not requests:
            return books.results()
        jobs, cache_gate = jobs_of(
            stack.enter_context(shared_client()),
            requests,
            policy_of=lambda own: replace(policy, max_retries=min(own.max_retries, tracker.max_retries)),
        )
        gates: list[Gate] = [cache_gate]
        if concurrency_limiter:  # goes first: one that waits for a slot must not be one whom others wait for
            gates.insert(0, LimiterGate(concurrency_limiter, {i: own.category for i, own in requests.items()}))
        chores: list[Chore] = []
        if stall_timeout is not None:
            chores.append(stall_watch(stall_timeout, partial(_tell_of_stall, [*tasks], on_stall)))
        if reconcile and reconcile_interval is not None:
            chores.append(Reconciliation(reconcile, reconcile_interval, kept, tracker, books.fail))
        run = books.run = Run(
            jobs,
            max_workers=workers,
            gates=gates,
            on_start=books.started,
            on_retry=books.failed,
            on_outcome=books.ended,
            chores=chores,
        )
        stack.enter_context(
            _cancelled_by(tracker, run, {task_id: i for i, task_id in enumerate(tasks) if i in requests})
        )
        run.to_the_end(interrupt_token)
    results = books.results(interrupted=run.interrupted)
    if books.failure:
        raise ParallelInvocationError(f"The run was stopped: {books.failure}", results=results) from books.failure
    return results


def invoke_parallel_with_reconciliation(
    prompts: Sequence[Mapping[str, Any]],
    *,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    max_retries: int = 3,
    base_delay_ms: float = 1000,
    max_delay_ms: float = 10000,
    timeout: float | None = None,
    reconcile: Reconcile | None = None,
    reconcile_interval: float | None = None,
    stall_timeout: float | None = None,
    on_stall: StallCallback | None = None,
    tracker: TaskTracker | None = None,
    journal: str | os.PathLike[str] | None = None,
    interrupt_token: InterruptToken | None = None,
    on_result: ResultCallback | None = None,
    progress: bool = False,
) -> ManagedResults:
    """`invoke_parallel_managed` without a limiter."""
    return invoke_parallel_managed(
        prompts,
        model=model,
        max_tokens=max_tokens,
        max_workers=max_workers,
        shared_system=shared_system,
        cache_shared_system=cache_shared_system,
        max_retries=max_retries,
        base_delay_ms=base_delay_ms,
        max_delay_ms=max_delay_ms,
        timeout=timeout,
        reconcile=reconcile,
        reconcile_interval=reconcile_interval,
        stall_timeout=stall_timeout,
        on_stall=on_stall,
        tracker=tracker,
        journal=journal,
        interrupt_token=interrupt_token,
        on_result=on_result,
        progress=progress,
    )


@contextmanager
def _closing(books: Books) -> Iterator[None]:
    """Book all there is, whatever breaks off a run; Ctrl-C has the results with it."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        books.close()
        raise ParallelInterrupt(*interrupt.args, results=books.results(interrupted=True)) from None
    except BaseException:
        if books.run:  # else nothing was sent, and the same tasks may be asked again
            books.close()
        raise


def _limit_of(limiter: ConcurrencyLimiter | None) -> int:
    return (limiter.statistics().total.limit or 0) if limiter else 0


def _check_kind(name: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} or None, got {value!r}")


def _tracked(tasks: Mapping[str, Prompt], tracker: TaskTracker | None, max_retries: int) -> TaskTracker:
    """A tracker that knows all *tasks*, as unclaimed ones."""
    if tracker is None:
        own = [prompt.get("max_retries") for prompt in tasks.values()]
        tracker = TaskTracker(max([max_retries, *(retries for retries in own if isinstance(retries, int))]))
    for task_id in tasks:
        if task_id in tracker and (state := tracker.get(task_id).state) is not TaskState.UNCLAIMED:
            raise ValueError(f"the tracker has a task {task_id!r} already, which is {state}")
    for task_id, prompt in tasks.items():
        if task_id not in tracker:
            tracker.add(task_id, prompt.get("category"))
    return tracker


def _requests(
    tasks: Iterable[str],
    kept: Mapping[str, Prompt],
    build: Callable[[int, Mapping[str, Any]], Request],
    *,
    watched: bool,
) -> dict[int, Request]:
    """The request of each task that is kept, by its index; streamed, where signs of life are *watched* for."""
    requests = {}
    for index, task_id in enumerate(tasks):
        if task_id in kept:
            prompt = {**kept[task_id]}
            if task_id == generated_id(index):  # not the caller's, and another in another list of prompts
                del prompt["task_id"]
            request = build(index, prompt)
            requests[index] = replace(request, streaming=True) if watched else request
    return requests


@contextmanager
def _cancelled_by(tracker: TaskTracker, run: Run, indices: Mapping[str, int]) -> Iterator[None]:
    """Cancel the job of each task that is cancelled in *tracker*, by whomever."""

    def look(task: TaskInfo) -> None:
        index = indices.get(task.task_id)
        if task.state is TaskState.CANCELLED and index is not None and index not in run.outcomes:
            run.cancel(index)

    stop = tracker.on_transition(look)
    try:
        for task_id in indices:
            look(tracker.get(task_id))
        yield
    finally:
        stop()


def _tell_of_stall(ids: Sequence[str], on_stall: StallCallback | None, index: int, idle: float) -> None:
    _log.warning("%s showed no sign of life for %.1f s: its attempt was ended", ids[index], idle)
    if on_stall:
        try:
            on_stall(ids[index], idle)
        except Exception:  # noqa: BLE001 - a user's callback
            _log.exception("on_stall failed for %s", ids[index])
