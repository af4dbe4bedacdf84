"""One request on its way to a whole answer: its attempts, and the turns of an answer that pauses."""

from __future__ import annotations

import logging
import time
from typing import Any

from ._errors import ClaudeInvocationError
from ._prompts import plain
from ._request import Request
from ._response import ClaudeResponse, text_of, total
from ._retry import RetryPolicy, next_delay
from ._transport import Answer, send
from ._types import TextCallback
from ._usage import Usage

_log = logging.getLogger("claude_client")

#: How often an answer may pause (the API's `pause_turn`) and be continued.
MOST_PAUSES = 10

_TRUNCATED = "The answer was cut off (%s, %d output tokens): .truncated is set"


class Call:
    """
    Makes one attempt after another until there is a whole answer. Not for use by two threads at once.

    It never waits: `attempt` says how long to wait, and the caller decides how.
    """

    def __init__(self, request: Request, on_text: TextCallback | None = None) -> None:
        self._request = self._asked = request
        self._on_text = on_text and self._guarded(on_text)
        self._callbacks_error: BaseException | None = None
        self._policy = RetryPolicy(max_retries=request.max_retries)
        self._attempt = 0
        self._turns: list[Answer] = []
        self._used: list[Usage] = []  # by each attempt, whole or not

    def attempt(self) -> ClaudeResponse | float:
        """
        Make one request. Returns the answer, or else the seconds to wait before the next attempt.

        Raises:
            ClaudeInvocationError:
                When there will be no answer. Its `partial_text` and `usage` are those of all turns.
        """
        self._attempt += 1
        try:
            return self._take(send(self._request, self._on_text))
        except ClaudeInvocationError as error:
            if error is self._callbacks_error:
                raise
            self._used.append(error.usage)
            delay = self._delay_after(error)
            if delay is None:
                error.usage = total(self._used)
                error.partial_text = text_of(self._content()) + error.partial_text
                raise
            return delay

    def _guarded(self, on_text: TextCallback) -> TextCallback:
        """*on_text*, noting what it raises: an error of a nested call must not be taken for one of ours."""

        def give(text: str) -> None:
            try:
                on_text(text)
            except BaseException as exc:
                self._callbacks_error = exc
                raise

        return give

    def _delay_after(self, error: ClaudeInvocationError) -> float | None:
        if self._on_text and error.partial_text:  # a callback must not be told the same text twice
            return None
        delay = next_delay(error, self._attempt, self._policy)
        if delay is not None:
            _log.info("Attempt %d failed, the next in %.1f s: %s", self._attempt, delay, error)
        return delay

    def _take(self, answer: Answer) -> ClaudeResponse | float:
        self._turns.append(answer)
        self._used.append(answer.usage)
        if answer.message.stop_reason == "pause_turn":
            self._continue(answer)
            return 0.0
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
        self._request = self._asked.continued(plain(self._content()))
        self._attempt = 0

    def _joined(self) -> ClaudeResponse:
        last = self._turns[-1]
        message = last.message
        if len(self._turns) > 1:
            message = message.model_copy(update={"content": self._content()})
        return ClaudeResponse(text_of(message.content), message, last.request_id, self._used)

    def _content(self) -> list[Any]:
        """The blocks of all turns."""
        return [block for turn in self._turns for block in turn.message.content]


def run(request: Request, on_text: TextCallback | None = None) -> ClaudeResponse:
    """The answer to *request*, waiting on this thread between attempts."""
    call = Call(request, on_text)
    while isinstance(outcome := call.attempt(), float):
        time.sleep(outcome)
    return outcome


def _tell(response: ClaudeResponse) -> None:
    if response.truncated:
        _log.warning(_TRUNCATED, response.stop_reason, response.usage.output_tokens)
    elif response.stop_reason == "tool_use":
        _log.info("The model asks for a tool: see .message.content")
