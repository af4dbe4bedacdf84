"""Sends a request on the SDK's client and fills in its attempt, with the answer or with one of our errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from claude_client._sdk.client import forget_credentials, no_credentials
from claude_client._sdk.parameters import create_arguments
from claude_client._sdk.stream import StreamedMessage
from claude_client._values.attempt import Answer, Attempt
from claude_client._values.content import to_json_value
from claude_client._values.errors import ClaudeInvocationError, aborted, from_sdk
from claude_client._values.response import text_of
from claude_client._values.usage import Usage

_SECRET_ATTRIBUTES = ("api_key", "auth_token", "aws_secret_key", "aws_session_token", "access_token")
# Parts of header names that hold a secret: gateways have names of their own for it.
_SECRET_WORDS = ("auth", "key", "token", "secret", "cookie")


def send(client: Any, attempt: Attempt) -> None:
    """
    Send the request of *attempt* once on the SDK's *client*, and record how it went. Raises nothing.

    The attempt then has an answer or an error; a refusal is an error. An exception of its callback, of the SDK's own
    checks of arguments or of a signal handler is in `raised` too, unchanged. Its permits are settled.
    """
    try:
        with attempt:
            attempt.sent_at = attempt.last_event_at = time.monotonic()
            attempt.tell("sending")
            exchange = _Exchange(client, create_arguments(attempt.request), attempt)
            streamed = attempt.on_text or attempt.must_stream or attempt.request.must_stream
            answer = exchange.stream() if streamed else exchange.create()
            attempt.usage = Usage.of(answer.message.usage)
            attempt.answer = answer
    except BaseException as exc:  # noqa: BLE001 - every exception ends the attempt, and is kept there
        _end_with(attempt, exc)
    finally:
        attempt.ended_at = time.monotonic()
        attempt.settle()


def _end_with(attempt: Attempt, exc: BaseException) -> None:
    callback = exc is attempt.raised
    if isinstance(exc, ClaudeInvocationError) and not callback:
        attempt.error, attempt.usage = exc, exc.usage
        return
    text, attempt.usage = _arrived(attempt)
    attempt.raised = exc
    attempt.error = ClaudeInvocationError(
        f"{'The callback raised' if callback else 'The request could not be made:'} {_safe_repr(exc)}",
        kind="callback" if callback else "invalid_request",
        partial_text=text,
        usage=attempt.usage,
    )
    attempt.error.__cause__ = exc


def _arrived(attempt: Attempt) -> tuple[str, Usage]:
    """The text and usage that had arrived of a stream, as far as they can be read."""
    text, usage = "", Usage()
    if attempt.streamed:
        with suppress(Exception):
            text = attempt.streamed.text
        with suppress(Exception):
            usage = attempt.streamed.usage
    return text, usage


def _safe_repr(exc: BaseException) -> str:
    """*exc* as part of a message. Its `repr` is foreign code and may fail; the type name then stands for it."""
    try:
        return repr(exc)
    except Exception:  # noqa: BLE001
        return type(exc).__name__


@dataclass(slots=True)
class _Exchange:
    """The exchange of a request and its answer on a client."""

    client: Any
    arguments: dict[str, Any]
    attempt: Attempt

    def create(self) -> Answer:
        """Send the request and return the answer, received in one piece."""
        message = self._sent()
        self.attempt.tell("begun")
        return self._answer(message, getattr(message, "_request_id", None))

    def stream(self) -> Answer:
        """Send the request and return the answer, received as a stream."""
        attempt = self.attempt
        streamed = attempt.streamed = StreamedMessage()
        self.arguments["stream"] = True
        with closing(self._sent()) as stream:
            request_id = stream.response.headers.get("request-id")
            for text in self._texts(stream, streamed, request_id):
                if text:
                    self._call_back(text)
        if not streamed.complete:
            raise self._ended_early(streamed, request_id)
        return self._answer(streamed, request_id)

    def _call_back(self, text: str) -> None:
        """Give *text* to the callback and keep what it raises: an error of a nested call must not be taken for ours."""
        attempt = self.attempt
        if attempt.first_text_at is None:
            attempt.first_text_at = attempt.last_event_at
        if attempt.on_text:
            try:
                attempt.on_text(text)
            except BaseException as exc:
                attempt.raised = exc
                raise

    def _texts(self, stream: Any, streamed: StreamedMessage, request_id: str | None) -> Iterator[str]:
        """The text of each event. Only errors of reading are translated: those of a callback stay what they are."""
        attempt = self.attempt
        try:
            for event in stream:  # pings are not among them: the SDK takes them out
                attempt.last_event_at = time.monotonic()
                yield streamed.add(event)
                if event.type == "message_start":
                    attempt.tell("begun")
        except Exception as exc:  # noqa: BLE001 - whatever reading raises, the answer cannot be read
            error = self._failure(exc, streamed)
            error.request_id = error.request_id or request_id
        else:
            return
        raise error from error.__cause__

    def _sent(self) -> Any:
        """Send the request; return the SDK's message or stream. An error before both may be about the arguments."""
        try:
            return self.client.messages.create(**self.arguments)
        except TypeError as exc:
            if "Could not resolve authentication method" not in str(exc):
                raise
            error: Exception = no_credentials(exc)
        except Exception as exc:
            if _is_missing_credentials(exc):
                error = no_credentials(exc)
            elif self.attempt.status is not None or _is_about_the_exchange(exc):
                error = self._failure(exc)
            else:
                raise
        raise error from error.__cause__

    def _answer(self, arrived: Any, request_id: str | None) -> Answer:
        """The answer that has *arrived*, in one piece or streamed; any other error means that it cannot be read."""
        try:
            return _checked_answer(arrived.message() if isinstance(arrived, StreamedMessage) else arrived, request_id)
        except ClaudeInvocationError:
            raise
        except Exception as exc:  # noqa: BLE001
            error = self._failure(exc)
        raise error from error.__cause__

    def _failure(self, exc: Exception, streamed: StreamedMessage | None = None) -> ClaudeInvocationError:
        arrived: dict[str, Any] = {"partial_text": streamed.text, "usage": streamed.usage} if streamed else {}
        if self.attempt.aborted:
            return aborted(self.attempt.aborted, **arrived)
        error = from_sdk(exc, self._secrets(exc), **arrived)
        if error.kind == "authentication":
            forget_credentials(self.client)
        return error

    def _ended_early(self, streamed: StreamedMessage, request_id: str | None) -> ClaudeInvocationError:
        if self.attempt.aborted:
            return aborted(self.attempt.aborted, partial_text=streamed.text, usage=streamed.usage)
        return ClaudeInvocationError(
            "The stream ended early: the answer is not whole"
            if streamed.begun
            else "The stream ended without an answer",
            kind="incomplete_stream",
            status_code=200,
            request_id=request_id,
            retryable=True,
            partial_text=streamed.text,
            usage=streamed.usage,
        )

    def _secrets(self, exc: Exception) -> list[str]:
        """Every credential that the text of *exc* could show: the client's, and those of the request as it was sent."""
        found = [getattr(self.client, name, None) for name in _SECRET_ATTRIBUTES]
        request = vars(exc).get("request") or vars(exc).get("_request")  # httpx's property raises where it is unset
        sent = getattr(request, "headers", {})
        for headers in (sent, getattr(self.client, "_custom_headers", {}), self.arguments.get("extra_headers", {})):
            found += [value for name, value in headers.items() if any(word in name.lower() for word in _SECRET_WORDS)]
        return [secret.removeprefix("Bearer ") for secret in found if isinstance(secret, str) and secret]


def _checked_answer(message: Any, request_id: str | None) -> Answer:
    """*message* as an answer; an error if it is no message, a refusal, or without a stop reason."""
    # The SDK checks nothing: a body that is no message comes as a str, or as a message without what makes it one.
    if getattr(message, "type", None) != "message" or not all(map(_is_block, message.content)):
        raise _unfit("The answer cannot be read: it is no message", request_id)
    if message.stop_reason is None:
        raise _unfit("The answer is not whole: it has no stop reason", request_id)
    answer = Answer(message, request_id)
    if message.stop_reason == "refusal":
        details = getattr(message, "stop_details", None)
        raise ClaudeInvocationError(
            _refusal(details),
            kind="refusal",
            status_code=200,
            details=to_json_value(details),
            request_id=request_id,
            partial_text=text_of(message.content),
            usage=Usage.of(message.usage),
        )
    return answer


def _is_block(block: Any) -> bool:
    return isinstance(block.type, str) and (block.type != "text" or isinstance(block.text, str))


def _unfit(problem: str, request_id: str | None) -> ClaudeInvocationError:
    return ClaudeInvocationError(
        problem, kind="invalid_response", status_code=200, request_id=request_id, retryable=True
    )


def _refusal(details: Any) -> str:
    category = getattr(details, "category", None)
    explanation = getattr(details, "explanation", None)
    return "The model refused" + (f" ({category})" if category else "") + (f": {explanation}" if explanation else "")


def _is_about_the_exchange(exc: Exception) -> bool:
    """Return whether the SDK, its httpx or an abort raised *exc*, rather than a check of the arguments."""
    names = {cls.__name__ for cls in type(exc).__mro__}
    return bool(names & {"AnthropicError", "HTTPError", "StreamError", "AbortedError", "UnicodeError"})


def _is_missing_credentials(exc: Exception) -> bool:
    return any(cls.__name__ == "CredentialsError" for cls in type(exc).__mro__)
