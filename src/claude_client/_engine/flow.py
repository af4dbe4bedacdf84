"""
The steps of one prompt: the requests that lead to its whole answer, as decisions without any I/O.

A flow takes each attempt once it is over, and returns the next step. It sends nothing, waits for nothing and reads
no clock, so any driver can run it: on the caller's thread, on many threads, or another way.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from claude_client._values.attempt import Answer, Attempt
from claude_client._values.content import to_json_value, without_blank_text
from claude_client._values.context import running
from claude_client._values.errors import ClaudeInvocationError, aborted, with_totals
from claude_client._values.interrupt import InterruptToken
from claude_client._values.kinds import FROM_OUTSIDE, Kind
from claude_client._values.log import Log, told
from claude_client._values.options import TextCallback
from claude_client._values.output import OutputType, output_in, problem_of
from claude_client._values.record import AttemptRecord, Cause, ToolRecord, own
from claude_client._values.request import Request
from claude_client._values.response import TRUNCATING, ClaudeResponse, response_of, text_of
from claude_client._values.retry import next_delay

_log = Log("claude_client")

#: How often an answer may pause (the API's `pause_turn`) and be continued.
MOST_PAUSES = 10

# How often it is asked again because the process that was to send it is gone.
_MOST_LOST = 10

# Failures that another model may not have. Without any response it is the network, which all models share.
_OF_THE_MODEL: frozenset[Kind] = frozenset(
    {
        "overloaded",
        "server_error",
        "timeout",
        "rate_limit",
        "not_found",
        "incomplete_stream",
        "invalid_response",
        "stalled",
    }
)

_PASSED_ON = "%s: attempt %d failed, %s is asked next: %s"
_FAILED = "%s: attempt %d failed, the next in %.1f s: %s"
_FAILED_FOR_GOOD = "%s: failed for good at attempt %d: %s"
_TRUNCATED = "%s: the answer was cut off (%s, %d output tokens): .truncated is set"

Outcome = ClaudeResponse | ClaudeInvocationError


class Send(NamedTuple):
    """Send this request next, after so many seconds."""

    request: Request
    after: float = 0.0
    #: Why the attempt before failed; None where it did not.
    failed: ClaudeInvocationError | None = None
    #: How many have failed so far that cost a retry, and whether that one did.
    failures: int = 0
    costs_retry: bool = True


class Done(NamedTuple):
    """There is nothing more to do."""

    outcome: Outcome


class Work(Protocol):
    """Something to do here before the next step is known: no request."""

    def do(self, stopped: InterruptToken, ends_at: float) -> None:
        """
        Do it, on the thread of a driver and within the call's context, until it is over, *stopped*, or it is *ends_at*
        by `time.monotonic`. Raises nothing but what comes from outside, such as Ctrl-C.
        """


Step = Send | Work | Done


class CallFlow:
    """
    The attempts that one prompt takes: retries, and the turns of an answer that pauses. Not for two threads at once.

    Args:
        on_text: Gets each chunk of text. An attempt that has given it some is not made again, as it would get the same
            text twice.
    """

    __slots__ = (
        "_asked",
        "_attempts",
        "_base",
        "_before",
        "_earlier",
        "_failures",
        "_fallbacks",
        "_lost",
        "_mended",
        "_request",
        "_turns",
        "ends_at",
        "held_since",
        "on_text",
    )

    def __init__(self, request: Request, on_text: TextCallback | None = None) -> None:
        self.on_text = on_text
        #: When it ends at the latest, by the clock of `begin`.
        self.ends_at = math.inf
        #: When the gates began to hold its model back, by the same clock; None: they have not.
        self.held_since: float | None = None
        self._request = self._base = self._asked = request  # to send next; what pauses go on from; what was asked for
        self._fallbacks = request.fallbacks  # that are left
        self._failures = 0  # that count against the retries
        self._lost = 0  # attempts of which nobody knows what became
        self._mended = 0  # answers that were asked for again, as they were not what was to be
        self._before = ""  # the answer that is asked for again: what there is of it, if nothing better comes
        self._turns: tuple[Answer, ...] = ()
        self._attempts: tuple[AttemptRecord, ...] = ()
        self._earlier: tuple[AttemptRecord, ...] = ()  # attempts for what is done with

    @property
    def request(self) -> Request:
        """The request that was asked for."""
        return self._asked

    @property
    def name(self) -> str | None:
        """The caller's name for it; None where there is none."""
        return self._asked.task_id

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """The attempts that are over, in their order."""
        return self._earlier + self._attempts if self._earlier else self._attempts

    @property
    def tool_calls(self) -> tuple[ToolRecord, ...]:
        """The uses of tools that are over."""
        return ()

    def waited(self, cause: Cause) -> float:
        """Seconds that its attempts so far have waited for *cause*."""
        return sum(attempt.waited.get(cause, 0.0) for attempt in self._attempts)

    def begin(self, now: float) -> Send:
        """The first step. The deadline of the request counts from *now*."""
        if self._request.deadline is not None:
            self.ends_at = now + self._request.deadline
        if above := running():
            self.ends_at = min(self.ends_at, above.ends_at)
        return Send(self._request)

    def advance(self, attempt: Attempt) -> Send | Done:
        """The step after *attempt*, which is over. There always is one: an answer that cannot be used is an error."""
        self._attempts += (attempt.record(),)
        if attempt.answer is None:
            return self._after_failure(attempt.error or aborted("interrupted"), attempt)
        self._turns += (attempt.answer,)
        try:
            if attempt.answer.message.stop_reason == "pause_turn":
                return self._after_pause(attempt.answer)
            response = self._response()
            if self._asked.output:
                return self._read(response, self._asked.output)
        except Exception as exc:  # noqa: BLE001 - an answer that cannot be used is the server's fault
            unusable = ClaudeInvocationError(
                f"The answer cannot be used: {type(exc).__name__}: {told(exc)}",
                kind="invalid_response",
                status_code=200,
                request_id=attempt.answer.request_id,
            )
            unusable.__cause__ = exc
            return Done(self.end(unusable))
        return Done(response)

    def open(self, now: float) -> Step:
        """As `begin`, for drivers that do work before any request."""
        return self.begin(now)

    def step_after(self, attempt: Attempt) -> Step:
        """As `advance`; the answer need not be the end."""
        return self.advance(attempt)

    def worked(self, work: Work) -> Step:
        """The step after *work*, which is done."""
        raise NotImplementedError(f"{work!r} is of no call with one answer")

    def live(self) -> CallFlow:
        """The same, which goes on by requests of its own where it was asked by a batch."""
        self._request, self._base, self._asked = (
            replace(request, batch=False) for request in (self._request, self._base, self._asked)
        )
        return self

    @property
    def patience(self) -> float:
        """Seconds for which its model may be held back until it would rather ask another; infinite without another."""
        return self._asked.fallback_after if self._may_ask_another else math.inf

    @property
    def _may_ask_another(self) -> bool:
        return bool(self._fallbacks) and not (self.on_text and self._turns)  # else that would hear two answers

    def refused(self, error: ClaudeInvocationError) -> Send | Done:
        """The step after *error*, for which nothing more is to be tried with this model: the next, or the end."""
        if error.kind in _OF_THE_MODEL and self._may_ask_another:
            return self.ask_another(error)
        return Done(self.end(error))

    def ask_another(self, failed: ClaudeInvocationError | None = None) -> Send:
        """Ask the next model for all of it, as the one before *failed*, or is held back."""
        fallback, *rest = self._fallbacks
        self.held_since = None
        self._before = text_of(self._content()) or self._before
        self._fallbacks, self._turns, self._failures = tuple(rest), (), 0
        self._request = self._base = fallback.in_place_of(self._asked)
        return Send(self._request, 0.0, failed, costs_retry=False)

    def end(self, error: ClaudeInvocationError) -> ClaudeInvocationError:
        """The outcome if the call ends by *error*: the same error, with the text and usage of all attempts before."""
        if not self.attempts:
            return error
        said_before = text_of(self._content()) or ("" if error.partial_text else self._before)
        return with_totals(error, self.attempts, said_before)

    def _after_failure(self, error: ClaudeInvocationError, attempt: Attempt) -> Send | Done:
        if attempt.is_lost and self._lost < _MOST_LOST:
            self._lost += 1
            return Send(self._request, 0.0, error, self._failures, costs_retry=False)
        self._failures += attempt.costs_retry
        if error.kind == "rate_limit":
            self._request = replace(self._request, refused=self._request.refused + 1)
        text_given = self.on_text is not None and bool(error.partial_text)
        delay = None if text_given or attempt.raised else next_delay(error, max(1, self._failures), self._asked.retry)
        if delay is None or (delay >= self.patience and error.kind in _OF_THE_MODEL):
            is_late = (attempt.ended_at or 0.0) >= self.ends_at
            return Done(self.end(error)) if text_given or attempt.raised or is_late else self.refused(error)
        if (attempt.ended_at or 0.0) + delay >= self.ends_at:
            late = aborted("deadline", partial_text=error.partial_text)
            late.__cause__ = error
            return Done(self.end(late))
        return Send(self._request, delay, error, self._failures, attempt.costs_retry)

    def _after_pause(self, answer: Answer) -> Send | Done:
        if len(self._turns) > MOST_PAUSES:
            return Done(
                self.end(
                    ClaudeInvocationError(
                        f"The answer paused more than {MOST_PAUSES} times",
                        kind="pause_limit",
                        status_code=200,
                        request_id=answer.request_id,
                    )
                )
            )
        self._request = self._base.continued(without_blank_text(to_json_value(self._content())))
        if self._asked.retry.retries_per_turn:
            self._failures = 0
        return Send(self._request)

    def _response(self) -> ClaudeResponse:
        message, request_id = self._turns[-1]
        if len(self._turns) > 1:
            message = message.model_copy(update={"content": self._content()})
        return response_of(message, request_id, self.attempts)

    def _read(self, response: ClaudeResponse, output: OutputType) -> Send | Done:
        """*response* with the value of its text; if that is none, the next try, or the error with all that it says."""
        if response.truncated:
            return self._after_cut(response)
        try:
            response.output = output_in(response, output)
        except Exception as invalid:  # noqa: BLE001 - also of people's own validators
            problem = problem_of(invalid)
            if self._mended < self._asked.output_retries and response.strip() and self.on_text is None:
                self._mended += 1
                asked = replace(self._base, messages=self._asked.messages)
                return self._anew(asked.mended(str(response), problem), response)
            error = self._invalid_output(response, problem)
            error.__cause__ = invalid
            return Done(error)
        return Done(response)

    def _after_cut(self, response: ClaudeResponse) -> Send | Done:
        may_grow = self._asked.grow_max_tokens and response.stop_reason == "max_tokens" and self.on_text is None
        if may_grow and (grown := self._base.grown()):
            return self._anew(grown, response)
        used, most = response.message.usage.output_tokens, self._base.most_output_tokens
        problem = f"it was cut off ({response.stop_reason}) after {used} output tokens, of {most}"
        return Done(self._invalid_output(response, problem))

    def _anew(self, request: Request, response: ClaudeResponse) -> Send:
        """Send *request*, whose answer is to stand in place of *response*."""
        self._attempts = _of_no_use(self._attempts)
        self._turns, self._before = (), str(response)
        self._request = self._base = request
        return Send(request)

    def _invalid_output(self, response: ClaudeResponse, problem: str) -> ClaudeInvocationError:
        error = ClaudeInvocationError(
            f"The answer is not what output= asked for: {problem}",
            kind="invalid_output",
            status_code=200,
            request_id=response.request_id,
        )
        self._attempts = _of_no_use(self._attempts)
        return self.end(error)

    def _content(self) -> list[Any]:
        """The blocks of all turns."""
        return [block for turn in self._turns for block in turn.message.content]


def _of_no_use(attempts: tuple[AttemptRecord, ...]) -> tuple[AttemptRecord, ...]:
    """*attempts*, whose answer is not what was to be."""
    return tuple(
        attempt._replace(outcome="invalid_output") if attempt.outcome == "ok" else attempt for attempt in attempts
    )


def log_step(step: Step, flow: CallFlow, name: str, level: int = logging.WARNING) -> None:
    """
    Log what *step* tells of the attempt of *flow* before it. For drivers, under no lock: handlers are other people's
    code.

    Args:
        name: What the call is called in the log.

        level: That of a failure that is final. What was ended from outside is none.
    """
    if isinstance(step, Send):
        if step.failed and not step.costs_retry and step.request.model != flow.attempts[-1].model:
            _log.info(
                _PASSED_ON,
                name,
                _number(flow),
                step.request.model,
                step.failed,
                extra=_extra(flow, name, delay=0.0),
            )
        elif step.failed:
            delay = round(step.after, 3)
            _log.info(_FAILED, name, _number(flow), delay, step.failed, extra=_extra(flow, name, delay=delay))
    elif not isinstance(step, Done):
        return
    elif isinstance(step.outcome, ClaudeInvocationError):
        if step.outcome.kind not in FROM_OUTSIDE:
            extra = _extra(flow, name, kind=step.outcome.kind)
            _log.log(level, _FAILED_FOR_GOOD, name, _number(flow), step.outcome, extra=extra)
    elif (reason := step.outcome.message.stop_reason) in TRUNCATING:
        _log.warning(_TRUNCATED, name, reason, step.outcome.usage.output_tokens, extra=_extra(flow, name))
    elif reason == "tool_use":
        _log.info("%s: the model asks for a tool, see .message.content", name, extra=_extra(flow, name))


def _number(flow: CallFlow) -> int:
    """How many requests *flow* has made itself: what its tools have asked is told of by itself."""
    return len(own(flow.attempts))


def _extra(flow: CallFlow, name: str, **more: object) -> dict[str, object]:
    """The fields of a record of the log about the last attempt of *flow*."""
    last = own(flow.attempts)[-1]
    kind = None if last.outcome == "ok" else last.outcome
    about = {"task_id": name, "attempt": _number(flow), "kind": kind, "request_id": last.request_id}
    return {**about, "model": last.model, **more}
