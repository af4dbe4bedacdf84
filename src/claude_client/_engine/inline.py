"""The driver of single calls: it sends, and waits before and between attempts, on the caller's own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext

from claude_client._engine.flow import CallFlow, Done, Send, Step, Work, log_step
from claude_client._engine.pauses import PauseLog
from claude_client._engine.telemetry import call_span
from claude_client._gates.clients import gates_of
from claude_client._gates.gate import HOLDING, Gate, Wait, admit
from claude_client._sdk.client import shared_client
from claude_client._sdk.exchange import send
from claude_client._values.attempt import Attempt
from claude_client._values.context import ending_with_tool, running
from claude_client._values.errors import ClaudeInvocationError, aborted
from claude_client._values.interrupt import InterruptToken, check_token
from claude_client._values.record import Cause
from claude_client._values.response import ClaudeResponse

_ASK_AGAIN = 0.05  # seconds until a gate that would wake other drivers is asked again


def run(flow: CallFlow, token: InterruptToken | None = None, began: float | None = None) -> ClaudeResponse:
    """
    Run *flow* to its answer. Its deadline counts from when it *began*, by `time.monotonic`; None: from now.

    Raises:
        ClaudeInvocationError: If there is no answer; of kind "interrupted" if *token* ended the call.
        TypeError: If *token* is none.
        BaseException: Whatever a callback, a signal handler or the SDK's check of its arguments raised, unchanged.
    """
    check_token(token)
    began = time.monotonic() if began is None else began
    with ending_with_tool(token) as either, call_span(flow.request, flow.name, began) as tell:
        try:
            answer = _answer(flow, either, began)
        except ClaudeInvocationError as failed:
            tell(failed)
            raise
        finally:
            if above := running():
                above.record(flow.name or above.tool, flow.attempts, flow.tool_calls)
        tell(answer)
        return answer


def _answer(flow: CallFlow, token: InterruptToken | None, began: float) -> ClaudeResponse:
    pauses = PauseLog()
    with shared_client() as client:
        gates = gates_of(client)
        step: Step = flow.open(began)
        while not isinstance(step, Done):
            if not isinstance(step, Send):
                step = _worked(step, flow, token)
                continue
            attempt = _admitted(gates, step, flow, token, pauses)
            if token is None:
                send(client, attempt)
            else:
                with token.watched_by(attempt.abort):
                    send(client, attempt)
            step = flow.step_after(attempt)
            log_step(step, flow, flow.name or "The call", logging.INFO)  # raised anyway
            if attempt.raised is not None:
                raise attempt.raised
        if isinstance(step.outcome, ClaudeInvocationError):
            raise step.outcome
        return step.outcome


def _worked(work: Work, flow: CallFlow, token: InterruptToken | None) -> Step:
    """Do *work*, and return the step after it."""
    stopped = InterruptToken()
    with token.watched_by(stopped.interrupt) if token else nullcontext():
        work.do(stopped, flow.ends_at)
    step = flow.worked(work)
    if stopped.is_interrupted():
        return Done(flow.end(aborted("interrupted")))
    return step if time.monotonic() < flow.ends_at else Done(flow.end(aborted("deadline")))


def _admitted(
    gates: Sequence[Gate], step: Send, flow: CallFlow, token: InterruptToken | None, pauses: PauseLog
) -> Attempt:
    """Wait until it is time for *step* and all *gates* let it in; return the attempt to make."""
    queued_at = now = time.monotonic()
    waited: dict[Cause, float] = {}
    wait = Wait(step.after, "retry") if step.after else None
    while True:
        if wait is not None:
            pauses.note(wait.seconds, now)
            pauses.log()
            _wait(min(wait.seconds, _ASK_AGAIN) if wait.wakes else wait.seconds, flow, token)
            before, now = now, time.monotonic()
            waited[wait.cause] = waited.get(wait.cause, 0.0) + now - before
        try:
            got = admit(gates, step.request, queued_at, now)
        except ClaudeInvocationError as refused:
            other = flow.refused(refused)
            if isinstance(other, Done):
                raise flow.end(refused) from refused.__cause__
            step, wait = other, None
            continue
        if isinstance(got, Attempt):
            got.on_text, got.waited, got.ends_at = flow.on_text, waited, flow.ends_at
            return got
        wait = got
        so_far = waited.get(wait.cause, 0.0)
        if instead := _instead_of(wait, step, flow, so_far, now):
            step, wait = instead, None
        elif wait.refusal:
            wait = wait._replace(seconds=min(wait.seconds, _patience_left(wait, step, flow, so_far)))


def _instead_of(wait: Wait, step: Send, flow: CallFlow, waited: float, now: float) -> Send | None:
    """
    The step in place of *wait*, where that is longer than the call is willing to wait: another model's.

    Raises:
        ClaudeInvocationError: If there is none.
    """
    if wait.cause in HOLDING:
        flow.held_since = now if flow.held_since is None else flow.held_since
        if flow.held_since + flow.patience < now + wait.seconds:
            return flow.ask_another()
    if not wait.refusal or _patience_left(wait, step, flow, waited) > 0:
        return None
    other = flow.refused(wait.refusal)
    if isinstance(other, Send):
        return other
    raise flow.end(wait.refusal) from wait.refusal.__cause__


def _patience_left(wait: Wait, step: Send, flow: CallFlow, waited: float) -> float:
    return step.request.retry.outage_patience - flow.waited(wait.cause) - waited


def _wait(seconds: float, flow: CallFlow, token: InterruptToken | None) -> None:
    seconds = min(seconds, max(0.0, flow.ends_at - time.monotonic()), threading.TIMEOUT_MAX)
    if token is None:
        time.sleep(seconds)
    elif token.wait(seconds):
        raise flow.end(aborted("interrupted"))
    if time.monotonic() >= flow.ends_at:
        raise flow.end(aborted("deadline"))
