"""Prompts as tasks that are asked by the API's message batches, at half the price."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Unpack, get_args

from claude_client import ClaudeInvocationError, Content, InterruptToken, PromptOptions, Results
from claude_client._values.attempt import Permit
from claude_client._values.breakpoints import last_markable
from claude_client._values.checks import check_callback, seconds
from claude_client._values.content import as_blocks, content_blocks
from claude_client._values.errors import aborted
from claude_client._values.log import Log
from claude_client._values.options import ResultCallback
from claude_client._values.record import Asked, RunRecord, now
from claude_client._values.request import DEFAULT_MODEL, Request, build
from claude_client._verbs.batches import (
    CallFlow,
    Done,
    Outcome,
    attempt_of,
    check_batchable,
    check_client,
    check_credentials,
    shared_client,
)
from claude_client._verbs.fan_out import report_outcomes
from claude_client._verbs.progress import progress_of
from claude_client._verbs.requests import for_all, listed
from task_state import TaskTracker

from ._batch_handle import BatchHandle
from ._batch_note import Note
from ._batch_plan import Plan, Primer, time_left
from ._batch_requests import Told
from ._batches import Batches, unpark
from ._managed import ManagedOptions, managed
from ._reconcile import Reconcile
from ._recorder import ManagedResults

_log = Log("orchestration")

_AS_OFTEN = 100  # a prompt may have been asked again by the run that a handle is of: as often as that liked


class BatchOptions(PromptOptions, total=False):
    """Options of a run by batches: those for all prompts, and those about the run, as in `ManagedOptions`."""

    reconcile: Reconcile | None
    tracker: TaskTracker | None
    journal: str | os.PathLike[str] | None
    interrupt_token: InterruptToken | None
    on_result: ResultCallback | None
    progress: bool


#: What the API says of a request, and the money that budgets of this process have set aside for it.
_Result = tuple[Mapping[str, Any], list[Permit]]

_OF_WORKERS = (ManagedOptions.__optional_keys__ - BatchOptions.__optional_keys__) | {
    "max_workers",
    "concurrency_limiter",
}


def invoke_batch(
    prompts: Iterable[Mapping[str, Any]],
    *,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    check_first: bool = True,
    primer: Primer | None = "live",
    poll_interval: float | None = None,
    cancel_on_interrupt: bool = False,
    finish_by: float | datetime | None = None,
    on_batch: Callable[[BatchHandle], object] | None = None,
    **options: Unpack[BatchOptions],
) -> ManagedResults:
    """
    Ask all *prompts* as `invoke_parallel_managed` does, by the API's message batches: at half the price, within 24
    hours and mostly within one.

    Prompts are put into as many batches as it takes. What fails but may succeed, or expires, is asked again by another
    batch, at most `max_retries=3` times. A journal knows each batch before and after it is created, so that whatever
    ends the process, the same call collects what was asked, and asks nothing twice.

    Args:
        prompts, model, max_tokens, shared_system:
            As in `invoke_parallel_managed`. What a batch does not take, or cannot honour for one prompt, is a
            ValueError: `streaming`, `timeout`, `deadline`, `extra_query`, `fallback_models`, and the API's `speed` and
            `fallbacks`.

        cache_shared_system: Put a cache breakpoint at the end of *shared_system*, for an hour.

        check_first:
            Send one prompt of each shape live, for an answer of a token, and stop if the API does not take it: a batch
            would tell at its end. Not where a run is taken up again.

        primer:
            "live": ask the first prompt of those that share a cached one live, so that the batches find that in the
            cache; "batch": by a batch of its own, which is waited for. None: they write it as they come to it.

        poll_interval: Seconds between looks at the batches. None: from 30 seconds to 10 minutes.

        cancel_on_interrupt: Have an interrupt, or Ctrl-C, cancel the batches, and collect what they have. Else they go
            on, and the same call with the same journal, or `collect_batch`, collects them.

        finish_by:
            Seconds from now, or a time, by which all is to be answered: a tenth before that, the batches are cancelled,
            collected, and what is left is asked live, at the live price. None: it is waited for.

        on_batch: Called with the `BatchHandle` of all batches, on this thread, whenever one was created.

        options:
            Any parameter of `claude_client.invoke_claude` for all prompts, and `reconcile`, `tracker`, `journal`,
            `interrupt_token`, `on_result`, `progress`, `budget_usd` as in `invoke_parallel_managed`.

    Returns:
        As `invoke_parallel_managed`. If it was interrupted, `.batches` is the handle of what is left.

    Raises:
        ValueError: For bad input, before any request; also on a client of Bedrock, Vertex or Foundry.
        TypeError, JournalError, ParallelInterrupt: As `invoke_parallel_managed`.
        ClaudeInvocationError: If the API does not take what was checked first. No batch was created.
        ParallelInvocationError: If batches cannot be created, looked at or collected, with `.results`.
    """
    if primer is not None and primer not in get_args(Primer):
        raise ValueError(f"primer must be 'live', 'batch' or None, got {primer!r}")
    check_callback("on_batch", on_batch)
    if of_workers := options.keys() & _OF_WORKERS:
        raise TypeError(f"invoke_batch() takes no {min(of_workers)}: a batch has no workers, and nobody sees it work")
    until, margin = time_left(finish_by)
    plan = Plan(
        check_first=check_first,
        primer=primer if cache_shared_system else None,
        poll_interval=poll_interval if poll_interval is None else seconds("poll_interval", poll_interval),
        cancel_on_interrupt=cancel_on_interrupt,
        until=time.monotonic() + until,
        margin=margin,
        on_batch=on_batch,
    )
    with shared_client() as client:
        check_client(client)
    if shared_system is not None and cache_shared_system:
        shared_system = _for_an_hour(shared_system)
    said = for_all(model, max_tokens, shared_system, False, options)
    return managed(listed(prompts), None, None, before=plan.ask, check=check_batchable, **said)


def collect_batch(
    handle: BatchHandle,
    *,
    output: Any = None,
    poll_interval: float | None = None,
    interrupt_token: InterruptToken | None = None,
    on_result: ResultCallback | None = None,
    progress: bool = False,
) -> Results:
    """
    Wait for the batches of *handle*, and return their answers in the order of the prompts that were asked.

    Nothing is asked again: what failed, expired or was cancelled is an error. The run can be collected on any machine,
    with a key of its workspace, and as often as one likes within 29 days.

    Args:
        output: As what to read the answers, where the run had asked for data.

        poll_interval, interrupt_token, on_result, progress: As in `invoke_batch`.

    Raises:
        ValueError: For bad input.
        ClaudeInvocationError: If a batch cannot be looked at or collected.
    """
    if not isinstance(handle, BatchHandle):
        raise ValueError(f"handle must be a BatchHandle, got {handle!r}")
    check_callback("on_result", on_result)
    if poll_interval is not None:
        seconds("poll_interval", poll_interval)
    began = now()
    request = replace(
        build(prompt="what was asked", output=output, max_retries=_AS_OFTEN, output_retries=_AS_OFTEN), batch=True
    )
    with shared_client() as client, progress_of(handle.prompts, 1, shown=progress) as bar:
        check_client(client)
        check_credentials(client, [])
        found: dict[str, list[_Result]] = {}

        def take(note: Note, told: Told, result: Mapping[str, Any]) -> None:
            found.setdefault(told.own, []).append((result, [*unpark([note], [told.own]).values()]))

        batches = Batches(client, take, token=interrupt_token, poll_interval=poll_interval, may_miss=True)
        batches.waiting = [Note(frozenset(), 0.0, id=batch_id, is_sure=True) for batch_id in handle.batches]
        while batches.waiting and batches.wait():
            batches.collect()
        if batches.gone.keys() >= {*handle.batches} and batches.gone:
            raise next(iter(batches.gone.values()))
        missing = aborted("interrupted") if batches.waiting else next(iter(batches.gone.values()), _missing())
        outcomes = {
            index: _outcome_of(client, request, found[digest]) if digest in found else missing
            for index, digest in enumerate(handle.digests)
        }
        report_outcomes(outcomes, bar, on_result)
    run = RunRecord(began, now(), [Asked()] * handle.prompts)
    return Results.of(outcomes, interrupted=bool(batches.waiting), run=run)


def _outcome_of(client: Any, request: Request, results: Iterable[_Result]) -> Outcome:
    """What came of a prompt, by the *results* of its requests in their order."""
    flow, step = CallFlow(request), None
    for result, permits in results:
        if isinstance(step, Done):  # and it was asked again, which only the run knew
            flow = CallFlow(request)
        step = flow.advance(attempt_of(client, request, result, permits, time.monotonic()))
    if isinstance(step, Done):
        return step.outcome
    return flow.end((step and step.failed) or _unfinished())


def _unfinished() -> ClaudeInvocationError:
    return ClaudeInvocationError(
        "The answer paused, or is to be asked again: run the same call again", kind="pause_limit"
    )


def _missing() -> ClaudeInvocationError:
    return ClaudeInvocationError("The batches of the handle have no result for this prompt", kind="incomplete_stream")


def _for_an_hour(system: Content) -> Content:
    """*system* with a breakpoint at its end that keeps it in the cache for an hour; one already there stays."""
    blocks = as_blocks(system) if isinstance(system, str) else content_blocks("shared_system", system)
    place = last_markable(blocks)
    if place is None or blocks[place].get("cache_control"):
        return blocks
    marked = {**blocks[place], "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    return [*blocks[:place], marked, *blocks[place + 1 :]]
