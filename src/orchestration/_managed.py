"""Managed runs: every prompt is a task with a state, retries and its place in the limits, on the one engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Unpack

from claude_client import (
    Budget,
    ClaudeInvocationError,
    Content,
    InterruptToken,
    ParallelInvocationError,
    PromptOptions,
)
from claude_client._values.checks import check_callback, seconds, whole_number
from claude_client._values.errors import aborted
from claude_client._values.log import Log, told
from claude_client._values.options import ResultCallback
from claude_client._values.record import now
from claude_client._values.request import DEFAULT_MODEL, Request
from claude_client._verbs.fan_out import (
    MOST_ASKED_FOR,
    CallFlow,
    Periodic,
    Place,
    Run,
    call_back,
    check_stop_after,
    run_of,
    workers_of,
)
from claude_client._verbs.last import remember, remembered
from claude_client._verbs.progress import progress_of
from claude_client._verbs.requests import asked_of, for_all, listed, request_builder, request_or_error
from claude_client._verbs.stall import StallCallback
from task_state import TaskState, TaskTracker

from ._journal import RunJournal
from ._journal_file import JournalError
from ._limiter import ConcurrencyLimiter
from ._limiter_gate import LimiterGate
from ._reconcile import Prompt, Reconcile, drop_unwanted, identified, wanted
from ._recorder import ManagedResults, TaskRecorder
from ._retrying import patient_policy
from ._stalls import stall_watch

_log = Log("orchestration")

_WORKERS = 5  # unless somebody says otherwise


class ManagedOptions(PromptOptions, total=False):
    """Options of a managed run: those for all prompts, and those about how the run is managed."""

    #: Milliseconds before the second attempt, and at most. If left out: 1000 and 10000.
    base_delay_ms: float
    max_delay_ms: float
    reconcile: Reconcile | None
    #: Seconds. None, or left out: *reconcile* is asked once.
    reconcile_interval: float | None
    #: Seconds. None, or left out: not watched.
    stall_timeout: float | None
    on_stall: StallCallback | None
    tracker: TaskTracker | None
    journal: str | os.PathLike[str] | None
    interrupt_token: InterruptToken | None
    on_result: ResultCallback | None
    share_identical: bool
    stop_after: int | None
    progress: bool


def invoke_parallel_managed(
    prompts: Iterable[Mapping[str, Any]],
    *,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int | None = None,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    concurrency_limiter: ConcurrencyLimiter | None = None,
    **options: Unpack[ManagedOptions],
) -> ManagedResults:
    """
    Ask all *prompts* as tasks that are tracked, retried, limited by category, watched and, with a journal, resumed.

    A task that fails is None in the results, with its error in `.errors`; nothing is raised for it, nor for one that
    cannot be sent, which fails with an error of kind "invalid_request". One that waits,
    for its category or for its next attempt, holds no thread and no slot. All callbacks come on this thread; one that
    raises is logged and loses no answer, and one that takes long delays no request, only the callbacks after it, and
    the states in *tracker* with them.

    Args:
        prompts:
            As in `claude_client.invoke_parallel`, or any iterable of such dicts. Their `task_id`, unique, names the
            task; without one it is ``prompts[<index>]``. Their `category` is for *concurrency_limiter*.

        model, max_tokens, shared_system, cache_shared_system: As in `claude_client.invoke_parallel`.

        max_workers:
            Most requests under way at once, at most 1000. None: the limiter's `global_limit`, or 5 without a limiter.

        concurrency_limiter:
            Bounds what runs at once, together with all others that use the same limiter.

        options:
            Any parameter of `claude_client.invoke_claude` for all prompts that do not set their own, and what follows.

        max_retries, base_delay_ms, max_delay_ms:
            As in `invoke_with_retry`; a prompt may set its own `max_retries`. A `retry-after` of any length is waited
            for, with one line in the log where it is above a minute.

        reconcile:
            Called before anything is sent with a copy of each prompt, `task_id` included, and the tracker. It returns
            those that are wanted, changed or not. The tasks of the others are cancelled: None, and no error.

        reconcile_interval:
            Seconds after which *reconcile* is asked again, and again, about what is unfinished. What it drops then is
            stopped, in flight too; what it changes is not. None: it is asked once.

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
            A refusal is kept as well, and recalled as its error until it is dropped with `drop_from_journal`.
            A prompt is recognised by all that decides its answer and its `task_id`, wherever it stands; an edited one
            is asked again. The file holds answers, not prompts, for its owner alone. One run at a time can use it.

        interrupt_token:
            Ends the run within 100 ms. The rest has errors of kind "interrupted", and its tasks are cancelled.

        on_result:
            Called with index and answer (or error) of each task as it ends, of those too that the journal had. Not for
            those that *reconcile* drops before anything is sent.

        budget_usd, fallback_models, share_identical, stop_after, progress:
            As in `claude_client.invoke_parallel`. Tasks that the budget did not allow are cancelled, and asked when the
            same call is made again with its journal.

    Returns:
        The answers in prompt order with `.errors`, `.cancelled`, `.tracker` and `.usage`, that of earlier runs included
        where the journal had an answer; `.run_usage` is that of this run.

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
    check_kind("concurrency_limiter", concurrency_limiter, ConcurrencyLimiter)
    said = for_all(model, max_tokens, shared_system, cache_shared_system, options)
    return managed(listed(prompts), max_workers, concurrency_limiter, **said)


def invoke_parallel_with_reconciliation(
    prompts: Iterable[Mapping[str, Any]],
    *,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int | None = None,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    **options: Unpack[ManagedOptions],
) -> ManagedResults:
    """`invoke_parallel_managed` without a limiter, under a name that says what it is called for."""
    return invoke_parallel_managed(
        prompts,
        model=model,
        max_tokens=max_tokens,
        max_workers=max_workers,
        shared_system=shared_system,
        cache_shared_system=cache_shared_system,
        **options,
    )


@dataclass
class Phase:
    """
    What a run does before it asks its prompts live, if anything.

    Args:
        requests: Those of all prompts that are wanted, by index.

        asked: Those of them that have no outcome yet.

        journal: None where there is none.

        ask: Asks some of them live, to their ends.

        hold: Shows what all wait for, None: for nothing; None where nothing is shown.
    """

    requests: Mapping[int, Request]
    asked: Mapping[int, Request]
    recorder: TaskRecorder
    journal: RunJournal | None
    token: InterruptToken | None
    ask: Callable[[Mapping[int, Request]], Run]
    hold: Callable[[str | None], object] | None
    #: What was begun and is to be gone on with live, by index.
    begun: Mapping[int, CallFlow] = field(default_factory=dict)
    #: Whether it was ended by its token, and why it failed.
    interrupted: bool = False
    failure: Exception | None = None


def managed(
    prompts: Sequence[Mapping[str, Any]],
    max_workers: int | None,
    limiter: ConcurrencyLimiter | None,
    *,
    max_retries: int = 3,
    base_delay_ms: float = 1000,
    max_delay_ms: float = 10000,
    reconcile: Reconcile | None = None,
    reconcile_interval: float | None = None,
    stall_timeout: float | None = None,
    on_stall: StallCallback | None = None,
    tracker: TaskTracker | None = None,
    journal: str | os.PathLike[str] | None = None,
    interrupt_token: InterruptToken | None = None,
    on_result: ResultCallback | None = None,
    share_identical: bool = False,
    stop_after: int | None = None,
    progress: bool = False,
    budget_usd: Budget | None = None,
    before: Callable[[Phase], Mapping[int, Request]] | None = None,
    check: Callable[[Request], object] = lambda _: None,
    place: Place | None = None,
    name: str = "invoke_parallel_managed",
    **said: Any,
) -> ManagedResults:
    began = now()
    _check_callbacks(reconcile=reconcile, on_stall=on_stall, on_result=on_result)
    _check_spans(reconcile, stall_timeout=stall_timeout, reconcile_interval=reconcile_interval)
    check_kind("tracker", tracker, TaskTracker)
    check_stop_after(stop_after)
    limit = _limit_of(limiter)
    workers = workers_of(max_workers, max(MOST_ASKED_FOR, limit)) if max_workers is not None else limit or _WORKERS
    retry = patient_policy(whole_number("max_retries", max_retries, 0), base_delay_ms, max_delay_ms)
    build = request_builder(retry, max_retries=max_retries, budget_usd=budget_usd, batch=before is not None, **said)
    tasks = identified(prompts)
    tracker = _tracked(tasks, tracker, max_retries, said.get("category"))
    kept = wanted(reconcile, tasks, tracker) if reconcile else tasks
    named = {prompt["task_id"] for prompt in prompts if prompt.get("task_id") is not None}
    requests, refused = _requests(tasks, kept, named, build, tracker, check, watched=stall_timeout is not None)
    with _remembered_once_known() as known, ExitStack() as stack:
        bar = stack.enter_context(progress_of(len(tasks), workers, shown=progress))
        opened = stack.enter_context(_open(journal, requests.values(), batched=before is not None))
        places = {index: place for place, index in enumerate(requests)}
        about = asked_of(tasks.values(), said["model"], said.get("category"))
        recorder = TaskRecorder([*tasks], about, began, tracker, places, bar, on_result, budget_usd)
        with _closing(recorder):
            recorder.drop(index for index, task_id in enumerate(tasks) if task_id not in kept)
            recorder.refuse(refused)
            if opened:
                recorder.restore(opened)
        asked = {index: request for index, request in requests.items() if index not in recorder.outcomes}

        def ask(some: Mapping[int, Request]) -> Run:
            """Ask *some* of the prompts live, to their ends."""
            with ExitStack() as stack:
                run = stack.enter_context(
                    run_of(
                        _live(some),
                        max_workers=workers,
                        # Before the cache gate: a cache writer must not wait for a slot while others wait for it.
                        gates=[LimiterGate(limiter)] if limiter else [],
                        name=name,
                        on_start=recorder.started,
                        on_retry=recorder.failed,
                        on_outcomes=recorder.ended,
                        on_hold=bar.hold if bar else None,
                        share_identical=share_identical,
                        stop_after=stop_after,
                        keep=partial(recorder.keep, opened) if opened else None,
                        begun=phase.begun,
                        place=place,
                    )
                )
                stack.enter_context(_closing(recorder, run))
                indices = {task_id: index for index, task_id in enumerate(tasks) if index in some}
                stack.enter_context(recorder.obeyed_by(run, indices))
                if stall_timeout is not None:
                    stack.enter_context(stall_watch(run, stall_timeout, partial(_report_stall, [*tasks], on_stall)))
                periodic = None
                if reconcile and reconcile_interval is not None:
                    ask_again = partial(_reconcile_again, reconcile, kept, tracker, run, indices)
                    periodic = Periodic(reconcile_interval, ask_again)
                run.run(interrupt_token, periodic)
            return run

        phase = Phase(requests, asked, recorder, opened, interrupt_token, ask, bar.hold if bar else None)
        with _closing(recorder):
            left = before(phase) if before and asked else asked
        run = ask(left) if left else None
        failure = phase.failure or (run.failure if run else None)
        interrupted = phase.interrupted or bool(run and run.interrupted)
        results = remember(recorder.results(interrupted=interrupted), returned=not failure)
        known.append(results)
    if failure:
        raise ParallelInvocationError(f"The run was stopped: {told(failure)}", results=results) from failure
    return results


def recalled(
    prompts: Sequence[Mapping[str, Any]],
    journal: str | os.PathLike[str] | None,
    *,
    model: str,
    max_tokens: int,
    shared_system: Content | None,
    cache_shared_system: bool,
    **options: Any,
) -> ManagedResults:
    """What *journal* has of *prompts*, as a run would find it; the rest is as of a run that was interrupted at once."""
    said = for_all(model, max_tokens, shared_system, cache_shared_system, options)

    def ask_nothing(phase: Phase) -> Mapping[int, Request]:
        phase.interrupted = True
        phase.recorder.ended(dict.fromkeys(phase.asked, aborted("interrupted")))
        return {}

    return managed(prompts, None, None, journal=journal, before=ask_nothing, **said)


def _closing(recorder: TaskRecorder, run: Run | None = None) -> AbstractContextManager[None]:
    """
    Record and remember all outcomes if an exception ends the run; before there is one, only if Ctrl-C does: the same
    tasks may be asked again.
    """
    return remembered(partial(recorder.closed, run), BaseException if run else KeyboardInterrupt)


@contextmanager
def _remembered_once_known() -> Iterator[list[ManagedResults]]:
    """Remember the results that are put in the list, if an exception comes after that: while a journal is closed."""
    known: list[ManagedResults] = []
    try:
        yield known
    except BaseException:
        for results in known:
            with remembered(lambda results=results: results):  # type: ignore[misc]
                raise
        raise


def _limit_of(limiter: ConcurrencyLimiter | None) -> int:
    return (limiter.statistics().total.limit or 0) if limiter else 0


def _check_callbacks(**callbacks: Any) -> None:
    for name, callback in callbacks.items():
        check_callback(name, callback)


def _check_spans(reconcile: Reconcile | None, **spans: float | None) -> None:
    if reconcile is None and spans["reconcile_interval"] is not None:
        raise ValueError("reconcile_interval is given, but no reconcile to call")
    for name, span in spans.items():
        if span is not None:
            seconds(name, span)


def check_kind(name: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} or None, got {value!r}")


def _tracked(
    tasks: Mapping[str, Prompt], tracker: TaskTracker | None, max_retries: int, category: str | None
) -> TaskTracker:
    """A tracker that knows all *tasks*, as unclaimed ones; *category* is for those without their own."""
    if tracker is None:
        own = [prompt.get("max_retries") for prompt in tasks.values()]
        tracker = TaskTracker(max([max_retries, *(retries for retries in own if isinstance(retries, int))]))
    for task_id in tasks:
        if task_id in tracker and (state := tracker.get(task_id).state) is not TaskState.UNCLAIMED:
            raise ValueError(f"the tracker has a task {task_id!r} already, which is {state}")
    for task_id, prompt in tasks.items():
        if task_id not in tracker:
            tracker.add(task_id, prompt.get("category", category))
    return tracker


def _requests(
    tasks: Iterable[str],
    kept: Mapping[str, Prompt],
    named: Container[str],
    build: Callable[[int, Mapping[str, Any]], Request],
    tracker: TaskTracker,
    check: Callable[[Request], object],
    *,
    watched: bool,
) -> tuple[dict[int, Request], dict[int, ClaudeInvocationError]]:
    """
    The request of each task that is kept, by its index; streamed, where its activity is *watched*. And the errors of
    those that cannot be sent. Only ids that are *named*, by the caller, are the prompt's own. What *check* raises names
    the prompt.
    """
    requests, refused = {}, {}
    for index, task_id in enumerate(tasks):
        if task_id in kept:
            prompt = {**kept[task_id]}
            if task_id not in named:  # generated, and different in another list of prompts
                del prompt["task_id"]
            request = request_or_error(build, index, prompt)
            if isinstance(request, ClaudeInvocationError):
                refused[index] = request
                continue
            if request.retry.max_retries > tracker.max_retries:
                request = replace(request, retry=replace(request.retry, max_retries=tracker.max_retries))
            requests[index] = replace(request, streaming=True) if watched else request
    _check_each(requests, check)
    return requests, refused


def _check_each(requests: Mapping[int, Request], check: Callable[[Request], object]) -> None:
    for index, request in requests.items():
        try:
            check(request)
        except ValueError as bad:
            raise ValueError(f"prompts[{index}]: {bad}") from None


def _live(requests: Mapping[int, Request]) -> dict[int, Request]:
    return {index: replace(one, batch=False) if one.batch else one for index, one in requests.items()}


def _reconcile_again(
    reconcile: Reconcile, kept: Mapping[str, Prompt], tracker: TaskTracker, run: Run, indices: Mapping[str, int]
) -> None:
    """Have what *reconcile* drops cancelled. What has ended is not asked about, though *tracker* may not know yet."""
    ended = run.outcomes
    drop_unwanted(reconcile, {name: kept[name] for name, index in indices.items() if index not in ended}, tracker)


@contextmanager
def _open(
    path: str | os.PathLike[str] | None, requests: Iterable[Request], *, batched: bool
) -> Iterator[RunJournal | None]:
    """
    The journal of a run, open; None where it has none.

    Raises:
        JournalError: Also if batches ask some of *requests*, which would be paid twice, and the run is not *batched*.
    """
    if path is None:
        yield None
        return
    with RunJournal(path, [*requests]) as journal:
        if not batched and (notes := journal.asked_by_batches()):
            batches = ", ".join(note.id or "one that may have been created" for note in notes)
            raise JournalError(
                f"Prompts of this run are asked by batches that the journal has noted ({batches}): the same call of "
                "invoke_batch collects them, drop_batches_from_journal forgets them"
            )
        yield journal


def _report_stall(ids: Sequence[str], on_stall: StallCallback | None, index: int, idle: float) -> None:
    about = {"task_id": ids[index], "idle": round(idle, 3)}
    _log.warning("%s showed no activity for %.1f s: its attempt was ended", ids[index], idle, extra=about)
    if on_stall:
        call_back(on_stall, "on_stall", ids[index], ids[index], idle)
