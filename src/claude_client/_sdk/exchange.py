"""The one door to the network: one request in, one message out, every failure in our terms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from claude_client._values import errors
from claude_client._values.content import plain
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import Ending, Operation
from claude_client._values.options import TextCallback
from claude_client._values.request import Request
from claude_client._values.response import text_of
from claude_client._values.usage import Usage

from .client import forget_credentials, no_credentials
from .stream import StreamedMessage

if TYPE_CHECKING:
    from anthropic.types import Message

_SECRET_ATTRIBUTES = ("api_key", "auth_token", "aws_secret_key", "aws_session_token", "access_token")
# Gateways have names of their own for it.
_SECRET_WORDS = ("auth", "key", "token", "secret", "cookie")


class Answer(NamedTuple):
    """A whole message and the id of its request."""

    message: Message
    request_id: str | None

    @property
    def usage(self) -> Usage:
        return Usage.of(self.message.usage)


def send(client: Any, request: Request, on_text: TextCallback | None, operation: Operation) -> Answer:
    """
    Make *request* once on the SDK's *client*, as *operation*, and return the whole message.

    *on_text* gets each chunk of text on this thread. What it raises ends the stream and comes out unchanged.

    Raises:
        ClaudeInvocationError: If there is no whole answer; a refusal is one.
        ValueError: If there are no credentials.
    """
    with operation:
        operation.alive_at = time.monotonic()
        exchange = _Exchange(client, request.to_params(), operation)
        if on_text or request.must_stream or operation.must_stream:
            return exchange.stream(on_text)
        return exchange.create()


@dataclass(slots=True)
class _Exchange:
    """One request and its answer on one client."""

    client: Any
    params: dict[str, Any]
    operation: Operation

    def create(self) -> Answer:
        """The answer in one piece."""
        message = self._sent()
        self._begun()
        return self._whole(lambda: message, getattr(message, "_request_id", None))

    def stream(self, on_text: TextCallback | None) -> Answer:
        """The answer piece by piece."""
        streamed = self.operation.streamed = StreamedMessage()
        self.params["stream"] = True
        with closing(self._sent()) as stream:
            request_id = stream.response.headers.get("request-id")
            for text in self._texts(stream, streamed, request_id):
                if text and on_text:
                    on_text(text)
        if not streamed.complete:
            raise self._ended_early(streamed, request_id)
        return self._whole(streamed.message, request_id)

    def _texts(self, stream: Any, streamed: StreamedMessage, request_id: str | None) -> Iterator[str]:
        """The text of each event. Only reading is covered here: a callback's own errors stay what they are."""
        try:
            for event in stream:  # pings are not among them: the SDK takes them out
                self.operation.alive_at = time.monotonic()
                yield streamed.add(event)
                if event.type == "message_start":
                    self._begun()
        except Exception as exc:  # noqa: BLE001 - whatever reading raises, the answer cannot be read
            error = self._failure(exc, streamed)
            error.request_id = error.request_id or request_id
        else:
            return
        raise error from error.__cause__

    def _sent(self) -> Any:
        """What the SDK makes of the response. An error before there is one may be its refusal of the arguments."""
        try:
            return self.client.messages.create(**self.params)
        except TypeError as exc:
            if "Could not resolve authentication method" not in str(exc):
                raise
            error: Exception = no_credentials(exc)
        except Exception as exc:
            if _is_missing_credentials(exc):
                error = no_credentials(exc)
            elif self.operation.answered or _is_about_the_exchange(exc):
                error = self._failure(exc)
            else:
                raise
        raise error from error.__cause__

    def _whole(self, read: Callable[[], Any], request_id: str | None) -> Answer:
        """What *read* makes of an answer that has arrived; whatever else it raises, the answer cannot be read."""
        try:
            return _whole(read(), request_id)
        except ClaudeInvocationError:
            raise
        except Exception as exc:  # noqa: BLE001
            error = self._failure(exc)
        raise error from error.__cause__

    def _failure(self, exc: Exception, streamed: StreamedMessage | None = None) -> ClaudeInvocationError:
        arrived: dict[str, Any] = {"partial_text": streamed.text, "usage": streamed.usage} if streamed else {}
        if self.operation.ended:
            return ended(self.operation.ended, **arrived)
        error = errors.from_sdk(exc, self._secrets(exc), **arrived)
        if error.kind == "authentication":
            forget_credentials(self.client)
        return error

    def _ended_early(self, streamed: StreamedMessage, request_id: str | None) -> ClaudeInvocationError:
        if self.operation.ended:
            return ended(self.operation.ended, partial_text=streamed.text, usage=streamed.usage)
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

    def _begun(self) -> None:
        if self.operation.on_begin:
            self.operation.on_begin()

    def _secrets(self, exc: Exception) -> list[str]:
        """Every credential that the text of *exc* could show: the client's, and those of the request as it was sent."""
        found = [getattr(self.client, name, None) for name in _SECRET_ATTRIBUTES]
        request = vars(exc).get("request") or vars(exc).get("_request")  # httpx's property raises where it is unset
        sent = getattr(request, "headers", {})
        for headers in (sent, getattr(self.client, "_custom_headers", {}), self.params.get("extra_headers", {})):
            found += [value for name, value in headers.items() if any(word in name.lower() for word in _SECRET_WORDS)]
        return [secret.removeprefix("Bearer ") for secret in found if isinstance(secret, str) and secret]


_ENDED: Mapping[Ending, str] = {
    "interrupted": "The call was interrupted",
    "stalled": "The call was ended, as it showed no sign of life",
    "cancelled": "The call was cancelled",
}


def ended(how: Ending, **arrived: Any) -> ClaudeInvocationError:
    """The error for an operation that was ended from outside."""
    return ClaudeInvocationError(_ENDED[how], kind=how, retryable=how == "stalled", **arrived)


def _whole(message: Any, request_id: str | None) -> Answer:
    """*message* as an answer, unless it is none, the model refused, or it has not said why it stopped."""
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
            details=plain(details),
            request_id=request_id,
            partial_text=text_of(message.content),
            usage=answer.usage,
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
    """Whether the SDK, its httpx or the end of the operation raised *exc*, rather than a check of the arguments."""
    names = {cls.__name__ for cls in type(exc).__mro__}
    return bool(names & {"AnthropicError", "HTTPError", "StreamError", "EndedError", "UnicodeError"})


def _is_missing_credentials(exc: Exception) -> bool:
    return any(cls.__name__ == "CredentialsError" for cls in type(exc).__mro__)
