"""One request on its way to a whole answer: its attempts, and the turns of an answer that pauses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from claude_client._gates.rate import Pass, gate_for
from claude_client._sdk.client import shared_client
from claude_client._sdk.exchange import Answer, ended, send
from claude_client._values.content import plain, size, without_blank_text
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import InterruptToken, Operation
from claude_client._values.options import TextCallback
from claude_client._values.request import Request
from claude_client._values.response import TRUNCATING, ClaudeResponse, text_of, total
from claude_client._values.retry import LONGEST_RETRY_AFTER, RetryPolicy, next_delay
from claude_client._values.usage import Usage

_log = logging.getLogger("claude_client")

#: How often an answer may pause (the API's `pause_turn`) and be continued.
MOST_PAUSES = 10

_TRUNCATED = "The answer was cut off (%s, %d output tokens): .truncated is set"

_CHARACTERS_PER_TOKEN = 4

_UNWATCHED: AbstractContextManager[None] = nullcontext()


class Again(NamedTuple):
    """There is no answer yet: make another attempt after so many seconds."""

    seconds: float
    #: Why the last one failed; None where the answer only paused.
    error: ClaudeInvocationError | None = None


class Call:
    """
    Makes one attempt after another until there is a whole answer. Not for use by two threads at once.

    It never waits: `enter` and `attempt` say how long to wait, and the caller decides how.

    Args:
        policy: None for that of the plain verbs, with the request's `max_retries`.

        used: Where to add what each attempt used, whole or not.
    """

    def __init__(
        self,
        client: Any,
        request: Request,
        on_text: TextCallback | None = None,
        policy: RetryPolicy | None = None,
        used: list[Usage] | None = None,
    ) -> None:
        self._client = client
        self._policy = policy
        self._patient = policy is not None and policy.patient
        self._request = self._asked = request
        self._guessed_tokens = _guess(request)
        self._gate = gate_for(client, request.model)
        self._passed: Pass | None = None
        self._limits: Mapping[str, str] = {}
        self._on_text = on_text and self._guarded(on_text)
        self._callbacks_error: BaseException | None = None
        self._failures = 0
        self._turns: list[Answer] = []
        self._used: list[Usage] = [] if used is None else used

    def enter(self) -> float:
        """
        Ask the rate gate to let one attempt pass. Returns 0 if it may be made now, else the seconds to wait.

        Raises:
            ClaudeInvocationError: If the API wants a longer pause than is waited for.
        """
        try:
            passed = self._gate.enter(self._guessed_tokens, patient=self._patient)
        except ClaudeInvocationError as shut:
            self.ended_by(shut)
            raise
        if isinstance(passed, float):
            return passed
        self._passed = passed
        return 0.0

    def wait(self) -> float:
        """
        The seconds that `enter` would give, with nothing changed.

        Raises:
            ClaudeInvocationError: As `enter`.
        """
        try:
            return self._gate.wait(self._guessed_tokens, patient=self._patient)
        except ClaudeInvocationError as shut:
            self.ended_by(shut)
            raise

    def attempt(self, operation: Operation) -> ClaudeResponse | Again:
        """
        Make one request. Returns the answer, or when to make another.

        Raises:
            ClaudeInvocationError:
                When there will be no answer. Its `partial_text` and `usage` are those of all turns.
        """
        operation.on_headers = self._heard
        try:
            return self._take(send(self._client, self._request, self._on_text, operation))
        except ClaudeInvocationError as error:
            if error is self._callbacks_error:
                self._note_streamed(operation)
                raise
            self._used.append(error.usage)
            delay = self._delay_after(error)
            if delay is None:
                self.ended_by(error)
                raise
            return Again(delay, error)
        except BaseException:
            self._note_streamed(operation)
            raise
        finally:
            if self._passed:
                self._gate.left(self._passed)  # which knows already where the server has answered

    def ended_by(self, error: ClaudeInvocationError) -> ClaudeInvocationError:
        """*error* as the end of this call, with all that had been said and used before it."""
        if self._used:
            error.usage = total(self._used)
            error.partial_text = text_of(self._content()) + error.partial_text
        return error

    def outcome_of(self, exc: BaseException, operation: Operation) -> ClaudeInvocationError:
        """The end of this call where its attempt raised *exc*: our own error, its callback's, or the SDK's refusal."""
        callback = exc is self._callbacks_error
        if isinstance(exc, ClaudeInvocationError) and not callback:
            return exc
        error = ClaudeInvocationError(
            f"{'The callback raised' if callback else 'The request could not be made:'} {exc!r}",
            kind="callback" if callback else "invalid_request",
            partial_text=operation.streamed.text if operation.streamed else "",
        )
        error.__cause__ = exc
        return self.ended_by(error)

    def _note_streamed(self, operation: Operation) -> None:
        """Count what a stream has said it used, before a callback or Ctrl-C broke it off."""
        if operation.streamed:
            self._used.append(operation.streamed.usage)

    def _guarded(self, on_text: TextCallback) -> TextCallback:
        """*on_text*, noting what it raises: an error of a nested call must not be taken for one of ours."""

        def give(text: str) -> None:
            try:
                on_text(text)
            except BaseException as exc:
                self._callbacks_error = exc
                raise

        return give

    def _heard(self, status: int, limits: Mapping[str, str]) -> None:
        self._limits = limits
        if status != 429 and self._passed:
            self._gate.heard(self._passed, limits)

    def _delay_after(self, error: ClaudeInvocationError) -> float | None:
        policy = self._policy or RetryPolicy(max_retries=self._asked.max_retries)
        self._failures += 1
        if self._waits_at_the_gate(error) and policy.forgiving:
            self._failures = max(1, self._failures - 1)
        if self._on_text and error.partial_text:  # a callback must not be told the same text twice
            return None
        delay = next_delay(error, self._failures, policy)
        if delay is not None:
            _log.info("Attempt failed, %d so far; the next in %.1f s: %s", self._failures, delay, error)
        return delay

    def _waits_at_the_gate(self, error: ClaudeInvocationError) -> bool:
        """Tell the gate how the attempt failed; whether it was only one too many, and costs no retry."""
        if self._passed is None:
            return False
        if error.kind == "rate_limit" and error.status_code == 429:
            return self._gate.rejected(self._passed, error.retry_after, self._limits)
        return False

    def _take(self, answer: Answer) -> ClaudeResponse | Again:
        self._turns.append(answer)
        used = answer.usage
        self._used.append(used)
        if self._passed:
            self._gate.counted(self._passed, used.input_tokens + used.cache_creation_input_tokens)
            self._passed = None
        if answer.message.stop_reason == "pause_turn":
            self._continue(answer)
            return Again(0.0)
        response = self._joined()
        _tell(response)
        return response

    def _continue(self, answer: Answer) -> None:
        if len(self._turns) > MOST_PAUSES:
            raise ClaudeInvocationError(
                f"The answer paused more than {MOST_PAUSES} times",
                kind="pause_limit",
                status_code=200,
                request_id=answer.request_id,
            )
        self._request = self._asked.continued(without_blank_text(plain(self._content())))
        self._guessed_tokens = _guess(self._request)
        if self._policy is None or self._policy.forgiving:
            self._failures = 0

    def _joined(self) -> ClaudeResponse:
        last = self._turns[-1]
        message = last.message
        if len(self._turns) > 1:
            message = message.model_copy(update={"content": self._content()})
        return ClaudeResponse(text_of(message.content), message, last.request_id, self._used)

    def _content(self) -> list[Any]:
        """The blocks of all turns."""
        return [block for turn in self._turns for block in turn.message.content]


def run(
    request: Request,
    on_text: TextCallback | None = None,
    token: InterruptToken | None = None,
    policy: RetryPolicy | None = None,
    used: list[Usage] | None = None,
) -> ClaudeResponse:
    """
    The answer to *request*, waiting on this thread before and between attempts. *policy* and *used* are as in `Call`.

    Raises:
        ClaudeInvocationError: If there is none; of kind "interrupted" if *token* ended the call.
    """
    with shared_client() as client:
        call = Call(client, request, on_text, policy, used)
        while True:
            while delay := call.enter():
                _wait(call, delay, token)
            operation = Operation()
            with token.watched_by(operation.end) if token else _UNWATCHED:
                outcome = call.attempt(operation)
            if isinstance(outcome, ClaudeResponse):
                return outcome
            _wait(call, outcome.seconds, token)


def _guess(request: Request) -> int:
    """Its input tokens, roughly; the rate gate learns by how much it is wrong."""
    return (size(request.messages) + size(request.system)) // _CHARACTERS_PER_TOKEN


def _wait(call: Call, seconds: float, token: InterruptToken | None) -> None:
    tell_of_pause(seconds)
    if token is None:
        time.sleep(min(seconds, threading.TIMEOUT_MAX))
    elif token.wait(seconds):
        raise call.ended_by(ended("interrupted"))


def tell_of_pause(seconds: float) -> bool:
    """Log it if *seconds* are more than a plain call would wait for the API; whether that is so."""
    long = seconds > LONGEST_RETRY_AFTER
    if long:
        _log.warning("A call has to wait %.0f s until it may be tried again", seconds)
    return long


def _tell(response: ClaudeResponse) -> None:
    reason = response.message.stop_reason
    if reason in TRUNCATING:
        _log.warning(_TRUNCATED, reason, response.usage.output_tokens)
    elif reason == "tool_use":
        _log.info("The model asks for a tool: see .message.content")
