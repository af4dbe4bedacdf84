"""Sends a request on the SDK's client and fills in its attempt, with the answer or with one of our errors."""

from __future__ import annotations

import base64
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from claude_client._sdk.answer import contents_of, message_from, refusal, unusable
from claude_client._sdk.client import forget_credentials, no_credentials
from claude_client._sdk.events import events_of
from claude_client._sdk.foreign import detach, foreign, is_of_provider
from claude_client._sdk.parameters import create_arguments, message_of
from claude_client._sdk.stream import StreamedMessage
from claude_client._sdk.tokens import current_token, renew
from claude_client._values.attempt import Answer, Attempt
from claude_client._values.errors import ClaudeInvocationError, aborted, from_sdk
from claude_client._values.redaction import holds_secret, without, without_secrets
from claude_client._values.request import Request
from claude_client._values.response import text_of
from claude_client._values.usage import total

T = TypeVar("T")

_SECRET_ATTRIBUTES = ("api_key", "auth_token", "aws_secret_key", "aws_session_token", "access_token")


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
            exchange = _Exchange(client, create_arguments(attempt.request, client), attempt)
            streamed = attempt.on_text or attempt.must_stream or attempt.request.must_stream
            answer = exchange.stream() if streamed else exchange.create()
            attempt.usage = total(bill.usage for bill in attempt.bills)
            attempt.answer = answer
    except BaseException as exc:  # noqa: BLE001 - every exception ends the attempt, and is kept there
        _end_with(attempt, exc)
    finally:
        attempt.ended_at = time.monotonic()
        attempt.settle()


def count_tokens(client: Any, request: Request) -> int:
    """
    The tokens of the prompt of *request*, as the API counts them on the SDK's *client*.

    Raises:
        ValueError: If the client cannot count.
        ClaudeInvocationError: As of a request that has failed.
    """
    if not hasattr(client.messages, "count_tokens"):
        raise ValueError(f"{type(client).__name__} counts no tokens: estimate_cost(offline=True) guesses them")
    taken = inspect.signature(client.messages.count_tokens).parameters.keys() - {"extra_body"}
    arguments = {name: value for name, value in create_arguments(request, client).items() if name in taken}
    return int(ask(client, client.messages.count_tokens, Attempt(request, 0.0), **arguments).input_tokens)


def ask(client: Any, call: Callable[..., T], attempt: Attempt, **arguments: Any) -> T:
    """
    What *call*, of the SDK's *client*, answers; *attempt* may end it from another thread.

    Raises:
        ClaudeInvocationError: As of a request that has failed.
    """
    with attempt:
        answer: T = _Exchange(client, arguments, attempt, call)._sent()  # noqa: SLF001
        return answer


def receive(client: Any, attempt: Attempt, fields: Any) -> None:
    """Fill in *attempt*, which was sent another way, by the message that *fields* are. Raises nothing."""
    try:
        message = attempt.message = message_of(fields) if isinstance(fields, dict) else fields
        attempt.answer = _Exchange(client, {}, attempt)._answer(message, None)  # noqa: SLF001
        attempt.usage = total(bill.usage for bill in attempt.bills)
    except Exception as exc:  # noqa: BLE001 - every exception ends the attempt, and is kept there
        _end_with(attempt, exc)


def _end_with(attempt: Attempt, exc: BaseException) -> None:
    callback = exc is attempt.raised
    if isinstance(exc, ClaudeInvocationError) and not callback:
        # Without the frames in here, whose locals hold what the server sent and what it was sent.
        attempt.error, attempt.usage = exc.with_traceback(None), exc.usage
        return
    text, attempt.usage = contents_of(attempt.streamed)
    attempt.raised = exc
    attempt.error = ClaudeInvocationError(
        f"{'The callback raised' if callback else 'The request could not be made:'} {_safe_repr(exc)}",
        kind="callback" if callback else "invalid_request",
        partial_text=text,
        usage=attempt.usage,
    )
    attempt.error.__cause__ = exc


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
    arguments: dict[str, Any] = field(repr=False)  # may hold a key
    attempt: Attempt
    #: What of the SDK sends it; None: its `messages.create`.
    call: Callable[..., Any] | None = None
    #: The exception that was being handled when it began, which no failure of it is about.
    before: BaseException | None = field(default_factory=sys.exception, repr=False)

    def create(self) -> Answer:
        """Send the request and return the answer, received in one piece."""
        message = self.attempt.message = self._sent()
        self.attempt.tell("begun")
        return self._answer(message, self._clean_id(getattr(message, "_request_id", None)))

    def stream(self) -> Answer:
        """Send the request and return the answer, received as a stream."""
        self.arguments["stream"] = True
        with closing(self._sent()) as stream:
            request_id = self._clean_id(stream.response.headers.get("request-id"))
            if "application/json" in stream.response.headers.get("content-type", ""):
                return self._unstreamed(stream.response, request_id)
            streamed = self.attempt.streamed = StreamedMessage()
            for text in self._texts(stream, streamed, request_id):
                if text:
                    self._call_back(text)
        if not streamed.complete:
            raise self._ended_early(streamed, request_id)
        return self._answer(streamed, request_id)

    def _unstreamed(self, response: Any, request_id: str | None) -> Answer:
        """The answer of a server that was asked for a stream, and sends it in one piece all the same."""
        try:
            body = json.loads(response.read())
            message = self.attempt.message = message_of(body) if isinstance(body, dict) else body
        except Exception as exc:  # noqa: BLE001 - whatever reading raises, the answer cannot be read
            error = self._failure(exc, request_id=request_id)
        else:
            self.attempt.tell("begun")
            answer = self._answer(message, request_id)
            if text := text_of(answer.message.content):
                self._call_back(text)
            return answer
        raise error from error.__cause__

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
            for event in events_of(stream, lambda: streamed.stopped):
                attempt.last_event_at = time.monotonic()
                attempt.check_deadline(attempt.last_event_at)
                yield streamed.add(event)
                if event["type"] == "message_start":
                    attempt.tell("begun")
        except Exception as exc:  # noqa: BLE001 - whatever reading raises, the answer cannot be read
            error = self._failure(exc, streamed, request_id)
            if streamed.complete and isinstance(error, ClaudeInvocationError):  # so that nothing of it is missing
                return
        else:
            return
        raise error from error.__cause__

    def _sent(self) -> Any:
        """Send the request; return the SDK's message or stream. An error before both may be about the arguments."""
        try:
            return self._sent_with_new_token()
        except Exception as exc:
            detach(exc, self.before)
            if self.attempt.status is None and not _is_about_the_exchange(exc):
                raise
            error = no_credentials(exc) if _is_missing_credentials(exc) else self._failure(exc)
        raise error from error.__cause__

    def _sent_with_new_token(self) -> Any:
        """Send the request; once more, with a new token, if it had one that was refused and can be renewed."""
        call = self.call or self.client.messages.create
        try:
            return call(**self.arguments)
        except Exception as exc:
            if getattr(exc, "status_code", None) != 401 or not renew(self.client, exc):
                raise
        return call(**self.arguments)

    def _answer(self, arrived: Any, request_id: str | None) -> Answer:
        """The answer that has *arrived*, in one piece or streamed."""
        try:
            message = message_from(arrived)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is about what the server sent
            problem = exc
        else:
            if message.stop_reason == "refusal":
                raise refusal(message, request_id)
            return Answer(message, request_id)
        secrets = self._secrets(problem)
        error = unusable(arrived, problem, secrets, request_id)
        self._note_refused_credentials(error)
        raise error from without_secrets(problem, secrets)

    def _failure(
        self, exc: Exception, streamed: StreamedMessage | None = None, request_id: str | None = None
    ) -> BaseException:
        """What to raise for *exc*: our error, or the exception of a signal handler that it stands for."""
        text, usage = contents_of(streamed)
        if self.attempt.aborted:
            return aborted(self.attempt.aborted, partial_text=text, usage=usage)
        detach(exc, self.before)
        if (raised := foreign(exc)) is not None:
            return raised
        answered = self.attempt.status is not None
        error = from_sdk(
            exc, self._secrets(exc), answered=answered, of_provider=is_of_provider(exc), partial_text=text, usage=usage
        )
        error.request_id = error.request_id or request_id
        self._note_refused_credentials(error)
        return error

    def _note_refused_credentials(self, error: ClaudeInvocationError) -> None:
        if error.kind == "authentication":
            forget_credentials(self.client)

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

    def _clean_id(self, request_id: str | None) -> str | None:
        """*request_id*, which a server may have made of anything."""
        if request_id is None or request_id.startswith("req_"):
            return request_id
        return without(request_id, self._secrets())

    def _secrets(self, exc: Exception | None = None) -> list[str]:
        """Every credential that the text of *exc* could show: the client's, and those of the request as it was sent."""
        kept = {} if exc is None else vars(exc)
        request = kept.get("request") or kept.get("_request")  # httpx's property raises where it is unset
        sent = getattr(request, "headers", {})
        own = [self.arguments.get(name, {}) for name in ("extra_headers", "extra_query")]
        return secrets_of(self.client, sent, *own)


def secrets_of(client: Any, *named: Mapping[str, Any]) -> list[str]:
    """The credentials of *client*, and those among other *named* values."""
    found = [getattr(client, name, None) for name in _SECRET_ATTRIBUTES] + [current_token(client)]
    for values in (*named, getattr(client, "_custom_headers", {}), getattr(client, "_custom_query", {})):
        found += [value for name, value in values.items() if holds_secret(name)]
    return [part for secret in found if isinstance(secret, str) for part in _parts_of(secret)]


def _parts_of(secret: str) -> Iterator[str]:
    """The value of a header that holds a *secret*, and what of it is one by itself."""
    scheme, _, rest = secret.partition(" ")
    yield rest if scheme == "Bearer" else secret
    if scheme == "Basic":
        yield rest
        with suppress(ValueError):
            yield base64.b64decode(rest).decode().partition(":")[2]
    for cookie in secret.split(";") if ";" in secret or "=" in secret else ():
        yield cookie.partition("=")[2].strip()


def _is_about_the_exchange(exc: Exception) -> bool:
    """Return whether the SDK, its httpx, an abort or a credential provider raised *exc*, not a check of arguments."""
    names = {cls.__name__ for cls in type(exc).__mro__}
    about = names & {"AnthropicError", "HTTPError", "StreamError", "AbortedError", "UnicodeError"}
    return bool(about) or _is_missing_credentials(exc) or is_of_provider(exc)


def _is_missing_credentials(exc: Exception) -> bool:
    unresolved = isinstance(exc, TypeError) and "Could not resolve authentication method" in str(exc)
    return unresolved or "CredentialsError" in (cls.__name__ for cls in type(exc).__mro__)
