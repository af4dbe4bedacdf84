"""The plan of a run by batches: what is tried live first, what batches are to do, and what is asked live at last."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal

from claude_client import ClaudeInvocationError, Kind
from claude_client._gates.prefix import with_prefixes
from claude_client._values.checks import seconds
from claude_client._values.errors import aborted
from claude_client._values.log import Log
from claude_client._values.request import Request
from claude_client._verbs.batches import Outcome, Within, check_credentials, shared_client, tried
from claude_client._verbs.fan_out import call_back

from ._batch_handle import BatchHandle
from ._batch_requests import shapes_of
from ._batch_run import BatchRun
from ._journal_file import JournalError
from ._keys import digest_of
from ._managed import Phase

_log = Log("orchestration")

#: How the shared prompt gets into the cache before the batches read it; None: as they come to it.
Primer = Literal["live", "batch"]

_CANCEL_WITHIN = 60.0  # seconds to wait, after an interrupt, until batches that are cancelled have ended
_MARGIN = 0.1  # of the time until `finish_by`, for what is then asked live
_MOST_MARGIN = 3600.0  # seconds
# Failures of a request that was sent to see whether it is taken, which do not say that it is not.
_SAYS_NOTHING: frozenset[Kind] = frozenset({"refusal", "invalid_output", "pause_limit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    How the prompts of a run are asked by batches.

    Args:
        check_first, primer, poll_interval, cancel_on_interrupt, on_batch: As of `invoke_batch`.
    """

    check_first: bool
    primer: Primer | None
    poll_interval: float | None
    cancel_on_interrupt: bool
    #: When what is left is asked live, by `time.monotonic`, and the seconds that are left for that; infinite: never.
    until: float
    margin: float
    on_batch: Callable[[BatchHandle], object] | None

    def ask(self, phase: Phase) -> Mapping[int, Request]:
        """Ask the prompts of *phase* by batches, and return those that are to be asked live."""
        with shared_client() as client:
            check_credentials(client, [request.extra_headers for request in phase.asked.values()])
            first: Mapping[int, Request] = {}
            batches: BatchRun | None = None
            if not (phase.journal and phase.journal.asked_by_batches()):  # else all of it was begun before
                first = self._firsts(phase)
                self._try_out(client, phase, first if self.primer == "live" else {})
                if first and self.primer == "live" and not phase.interrupted:
                    run = phase.ask(first)
                    phase.interrupted, phase.failure, first = run.interrupted, run.failure, {}
            for some in (first, phase.asked):
                asked = _without(some, phase.recorder.outcomes)
                if asked and not (phase.interrupted or phase.failure):
                    batches = self._ask_by_batches(client, phase, asked, batches)
            if batches is None or phase.interrupted or phase.failure:
                return {}
            return {index: phase.asked[index] for index in batches.left}

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
                _check_live(client, shape, Within(phase.token, self.until))
                if phase.token and phase.token.is_interrupted():
                    phase.interrupted = True
                    return

    def _ask_by_batches(
        self, client: Any, phase: Phase, asked: Mapping[int, Request], before: BatchRun | None
    ) -> BatchRun:
        run = BatchRun(
            client,
            asked,
            _digests_of(phase),
            earlier=before.handle if before else None,
            journal=phase.journal,
            started=phase.recorder.started,
            failed=phase.recorder.failed,
            ended=lambda outcomes: self._ended(phase, outcomes),
            is_cancelled=phase.recorder.is_cancelled,
            on_handle=self._told,
            on_look=partial(_show, phase),
            token=phase.token,
            poll_interval=self.poll_interval,
            until=self.until,
        )
        try:
            self._run(run, phase)
        except (ClaudeInvocationError, JournalError) as failed:
            phase.failure = failed
        except KeyboardInterrupt:
            run.look_for_the_last()
            phase.recorder.batches = run.handle
            if self.cancel_on_interrupt and not run.interrupted:  # else they are being cancelled, and this ends it
                run.cancel(_CANCEL_WITHIN)
            raise
        finally:
            phase.begun = run.leave()
            if phase.hold:
                phase.hold(None)
        if phase.failure or phase.interrupted:
            phase.recorder.batches = run.handle if run.handle.batches else None
            phase.recorder.ended(dict.fromkeys(run.left, aborted("interrupted")))
        return run

    def _run(self, run: BatchRun, phase: Phase) -> None:
        run.run()
        phase.interrupted = run.interrupted
        if run.left and (not run.interrupted or self.cancel_on_interrupt):
            run.cancel(_CANCEL_WITHIN if run.interrupted else self.margin / 2)

    def _ended(self, phase: Phase, outcomes: Mapping[int, Outcome]) -> None:
        try:
            if phase.journal:
                phase.recorder.keep_all(phase.journal, outcomes)
        finally:  # they are there, whatever the journal says
            phase.recorder.ended(outcomes)

    def _told(self, handle: BatchHandle) -> None:
        if self.on_batch:
            call_back(self.on_batch, "on_batch", "a batch", handle)


def _digests_of(phase: Phase) -> list[str]:
    """What tells each prompt from the others; "" for those that are not asked. The same for the same journal only."""
    if phase.journal:
        by_index = dict(zip(phase.requests, phase.journal.digests, strict=True))
    else:
        run = secrets.token_hex()
        by_index = {index: digest_of(f"{run}-{index}") for index in phase.requests}
    return [by_index.get(index, "") for index in range(phase.recorder.prompts)]


def _show(phase: Phase, created: int, ended: int) -> None:
    if phase.hold:
        phase.hold(f"{created} batches, of which {ended} have ended")


def _without(requests: Mapping[int, Request], outcomes: Mapping[int, Outcome]) -> dict[int, Request]:
    return {index: request for index, request in requests.items() if index not in outcomes}


def _check_live(client: Any, request: Request, within: Within) -> None:
    """
    Send *request* live for the shortest of answers.

    Raises:
        ClaudeInvocationError: If the API does not take it.
    """
    thinking = request.params.get("thinking") or {}
    shortest = replace(request, max_tokens=int(thinking.get("budget_tokens", 0)) + 1, output=None, batch=False)
    error = tried(client, shortest, within)
    if error and error.kind == "interrupted":
        return
    if error and (error.retryable or error.kind == "timeout"):
        _log.warning(
            "Whether the API takes prompts such as %s could not be checked: %s", request.task_id or "these", error
        )
    elif error and error.kind not in _SAYS_NOTHING:
        raise error


def time_left(finish_by: float | datetime | None) -> tuple[float, float]:
    """Seconds until it is time to ask live, and seconds that are left for that then."""
    if finish_by is None:
        return math.inf, math.inf
    if isinstance(finish_by, datetime):
        left = (finish_by - datetime.now(finish_by.tzinfo)).total_seconds()
        if left <= 0:
            raise ValueError(f"finish_by is in the past: {finish_by}")
    else:
        left = seconds("finish_by", finish_by)
    margin = min(_MARGIN * left, _MOST_MARGIN)
    return left - margin, margin
