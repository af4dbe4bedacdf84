"""Prompts as tasks that are asked by the API's message batches, at half the price."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Unpack, get_args

from claude_client import ClaudeInvocationError, Content, InterruptToken, Kind, PromptOptions, Results
from claude_client._gates.prefix import with_prefixes
from claude_client._values.breakpoints import last_markable
from claude_client._values.checks import check_callback, seconds
from claude_client._values.content import as_blocks, content_blocks
from claude_client._values.errors import aborted
from claude_client._values.log import Log
from claude_client._values.options import ResultCallback
from claude_client._values.record import RunRecord, now
from claude_client._values.request import DEFAULT_MODEL, Request, build
from claude_client._verbs.batches import (
    CallFlow,
    Done,
    Outcome,
    attempt_of,
    check_batchable,
    check_client,
    check_credentials,
    results,
    retrieve,
    shared_client,
    tried,
)
from claude_client._verbs.fan_out import call_back, report_outcomes
from claude_client._verbs.progress import progress_of
from claude_client._verbs.requests import for_all
from task_state import TaskTracker

from ._batch_handle import BatchHandle
from ._batch_requests import digests_of, shapes_of, told_by
from ._batch_run import FIRST_POLL, LAST_POLL, POLLS_GROW, BatchRun
from ._journal_file import JournalError
from ._managed import Phase, managed
from ._reconcile import Reconcile
from ._recorder import ManagedResults

_log = Log("orchestration")

#: How the shared prompt gets into the cache before the batches read it; None: as they come to it.
Primer = Literal["live", "batch"]

_MARGIN = 0.1  # of the time until `finish_by`, for what is then asked live
_MOST_MARGIN = 900.0  # seconds
# Failures of a request that was sent to see whether it is taken, which do not say that it is not.
_SAYS_NOTHING: frozenset[Kind] = frozenset({"refusal", "invalid_output", "pause_limit"})


class BatchOptions(PromptOptions, total=False):
    """Options of a run by batches: those for all prompts, and those about the run, as in `ManagedOptions`."""

    reconcile: Reconcile | None
    tracker: TaskTracker | None
    journal: str | os.PathLike[str] | None
    interrupt_token: InterruptToken | None
    on_result: ResultCallback | None
    progress: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    check_first: bool
    primer: Primer | None
    poll_interval: float | None
    cancel_on_interrupt: bool
    #: When what is left is asked live, by `time.monotonic`; infinite: never.
    until: float
    on_batch: Callable[[BatchHandle], object] | None

    def ask(self, phase: Phase) -> Mapping[int, Request]:
        """Ask the prompts of *phase* by batches, and return those that are to be asked live."""
        with shared_client() as client:
            first: Mapping[int, Request] = {}
            if not (phase.journal and phase.journal.batches()):  # else all of it was begun before
                first = self._firsts(phase)
                self._try_out(client, phase, first if self.primer == "live" else {})
                if first and self.primer == "live":
                    run = phase.ask(first)
                    phase.interrupted, phase.failure, first = run.interrupted, run.failure, {}
            for some in (first, phase.asked):
                if not (phase.interrupted or phase.failure):
                    left = self._ask_by_batches(client, phase, _without(some, phase.recorder.outcomes))
            return {} if phase.interrupted or phase.failure else left

    def _firsts(self, phase: Phase) -> dict[int, Request]:
        """The first prompt of each that share a cached one."""
        if self.primer is None:
            return {}
        first: dict[object, int] = {}
        for index, request in zip(phase.asked, with_prefixes([*phase.asked.values()]), strict=True):
            if request.prefix:
                first.setdefault(request.prefix, index)
        return {index: phase.asked[index] for index in first.values()}

    def _try_out(self, client: Any, phase: Phase, sent_anyway: Mapping[int, Request]) -> None:
        """Send a prompt of each shape live, but for those that are *sent_anyway*."""
        if self.check_first:
            known = shapes_of(client, sent_anyway.values())
            for shape in shapes_of(client, [*known, *phase.asked.values()])[len(known) :]:
                _check_live(client, shape)

    def _ask_by_batches(self, client: Any, phase: Phase, asked: Mapping[int, Request]) -> Mapping[int, Request]:
        if not asked:
            return {}
        run = BatchRun(
            client,
            asked,
            digests_of(phase.requests),
            prompts=len(phase.requests),
            journal=phase.journal,
            started=phase.recorder.started,
            failed=phase.recorder.failed,
            ended=lambda outcomes: self._ended(phase, outcomes),
            on_handle=self._told,
            token=phase.token,
            poll_interval=self.poll_interval,
            until=self.until,
        )
        try:
            self._run(run, phase)
        except (ClaudeInvocationError, JournalError) as failed:
            phase.failure = failed
        except KeyboardInterrupt:
            phase.recorder.batches = run.handle
            if self.cancel_on_interrupt:
                run.cancel()
            raise
        left = {index: asked[index] for index in run.left}
        if phase.failure or phase.interrupted:
            phase.recorder.batches = run.handle if run.handle.batches else None
            phase.recorder.ended(dict.fromkeys(left, aborted("interrupted")))
        return left

    def _run(self, run: BatchRun, phase: Phase) -> None:
        run.run()
        phase.interrupted = run.interrupted
        if run.left and (not run.interrupted or self.cancel_on_interrupt):
            run.cancel()

    def _ended(self, phase: Phase, outcomes: Mapping[int, Outcome]) -> None:
        try:
            if phase.journal:
                phase.recorder.keep_all(phase.journal, outcomes)
        finally:  # they are there, whatever the journal says
            phase.recorder.ended(outcomes)

    def _told(self, handle: BatchHandle) -> None:
        if self.on_batch:
            call_back(self.on_batch, "on_batch", "a batch", handle)


def _without(requests: Mapping[int, Request], outcomes: Mapping[int, Outcome]) -> dict[int, Request]:
    return {index: request for index, request in requests.items() if index not in outcomes}


def _check_live(client: Any, request: Request) -> None:
    """
    Send *request* live for the shortest of answers.

    Raises:
        ClaudeInvocationError: If the API does not take it.
    """
    thinking = request.params.get("thinking") or {}
    shortest = replace(request, max_tokens=int(thinking.get("budget_tokens", 0)) + 1, output=None)
    error = tried(client, shortest)
    if error and error.kind not in _SAYS_NOTHING and not error.retryable:
        raise error


def invoke_batch(
    prompts: Sequence[Mapping[str, Any]],
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
    plan = _Plan(
        check_first=check_first,
        primer=primer if cache_shared_system else None,
        poll_interval=poll_interval if poll_interval is None else seconds("poll_interval", poll_interval),
        cancel_on_interrupt=cancel_on_interrupt,
        until=_until(finish_by),
        on_batch=on_batch,
    )
    with shared_client() as client:
        check_client(client)
    if shared_system is not None and cache_shared_system:
        shared_system = _for_an_hour(shared_system)
    said = for_all(model, max_tokens, shared_system, False, options)
    return managed(prompts, None, None, before=plan.ask, check=check_batchable, **said)


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
    began = now()
    request = replace(build(prompt="what was asked", output=output, max_retries=0), batch=True)
    outcomes: dict[int, Outcome] = {}
    interrupted = False
    with shared_client() as client, progress_of(handle.prompts, 1, shown=progress) as bar:
        check_client(client)
        check_credentials(client, [])
        for batch_id in handle.batches:
            if interrupted or not _ended(client, batch_id, poll_interval, interrupt_token):
                interrupted = True
                break
            for line in results(client, batch_id, interrupt_token):
                index, _ = told_by(str(line.get("custom_id")))
                outcomes[index] = _outcome_of(client, request, line.get("result") or {})  # a later round's counts
        report_outcomes(outcomes, bar, on_result)
    missing = aborted("interrupted") if interrupted else _missing()
    every = {index: outcomes.get(index, missing) for index in range(handle.prompts)}
    return Results.of(every, interrupted=interrupted, run=RunRecord(began, now(), _unknown(handle.prompts)))


def _outcome_of(client: Any, request: Request, result: Mapping[str, Any]) -> Outcome:
    flow = CallFlow(request)
    attempt = attempt_of(client, request, result, [], time.monotonic())
    step = flow.advance(attempt)
    return step.outcome if isinstance(step, Done) else flow.end(attempt.error or _paused())


def _ended(client: Any, batch_id: str, poll_interval: float | None, token: InterruptToken | None) -> bool:
    """Wait for a batch to end; return whether it has."""
    pause = poll_interval or FIRST_POLL
    while not (token and token.is_interrupted()):
        if retrieve(client, batch_id, token).has_ended:
            return True
        if token:
            token.wait(pause)
        else:
            time.sleep(pause)
        pause = pause if poll_interval else min(POLLS_GROW * pause, LAST_POLL)
    return False


def _paused() -> ClaudeInvocationError:
    return ClaudeInvocationError(
        "The answer paused, or is to be asked again: run the same call again", kind="pause_limit"
    )


def _missing() -> ClaudeInvocationError:
    return ClaudeInvocationError("The batches of the handle have no result for this prompt", kind="incomplete_stream")


def _unknown(prompts: int) -> Sequence[Any]:
    from claude_client._values.record import Asked

    return [Asked()] * prompts


def _until(finish_by: float | datetime | None) -> float:
    if finish_by is None:
        return float("inf")
    if isinstance(finish_by, datetime):
        span = (finish_by - datetime.now(finish_by.tzinfo or UTC if finish_by.tzinfo else None)).total_seconds()
    else:
        span = finish_by
    seconds("finish_by", span)
    return time.monotonic() + span - min(_MARGIN * span, _MOST_MARGIN)


def _for_an_hour(system: Content) -> Content:
    """*system* with a breakpoint at its end that keeps it in the cache for an hour; one already there stays."""
    blocks = as_blocks(system) if isinstance(system, str) else content_blocks("shared_system", system)
    place = last_markable(blocks)
    if place is None or blocks[place].get("cache_control"):
        return blocks
    marked = {**blocks[place], "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    return [*blocks[:place], marked, *blocks[place + 1 :]]
