"""The one door to the network: one request in, one message out, every failure in our terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from . import _errors
from ._client import forget_credentials, no_credentials, shared_client
from ._errors import ClaudeInvocationError
from ._request import Request
from ._response import text_of
from ._stream import StreamedMessage
from ._types import TextCallback
from ._usage import Usage

if TYPE_CHECKING:
    from anthropic.types import Message

_T = TypeVar("_T")

_SECRET_ATTRIBUTES = ("api_key", "auth_token", "aws_secret_key", "aws_session_token", "access_token")
_SECRET_HEADERS = ("authorization", "x-api-key", "api-key", "proxy-authorization", "cookie")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole message and the id of its request."""

    message: Message
    request_id: str | None

    @property
    def usage(self) -> Usage:
        return Usage.of(self.message.usage)


def send(request: Request, on_text: TextCallback | None = None) -> Answer:
    """
    Make *request* once and return the whole message.

    *on_text* gets each chunk of text on this thread. What it raises ends the stream and comes out unchanged.

    Raises:
        ClaudeInvocationError: If there is no whole answer; a refusal is one.
        ValueError: If there are no credentials.
    """
    with shared_client() as client:
        params = request.to_params()
        if on_text is None and not request.streaming:
            answer = _create(client, params)
            if answer is not None:
                return answer
        return _stream(client, params, on_text)


def _create(client: Any, params: dict[str, Any]) -> Answer | None:
    """The answer in one piece; None where the SDK, before sending, says that it takes a stream."""
    try:
        response = _sent(client, params, client.messages.with_raw_response.create)
    except ValueError as refused:
        if "Streaming is required" in str(refused):
            return None
        raise
    return _whole(_translated(client, params, response.parse), response.headers.get("request-id"))


def _stream(client: Any, params: dict[str, Any], on_text: TextCallback | None) -> Answer:
    streamed = StreamedMessage()
    with _sent(client, {**params, "stream": True}, client.messages.create) as stream:
        request_id = stream.response.headers.get("request-id")
        for text in _texts(client, params, stream, streamed):
            if text and on_text:
                on_text(text)
    if not streamed.complete:
        raise ClaudeInvocationError(
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
    return _whole(_translated(client, params, streamed.message), request_id)


def _texts(client: Any, params: dict[str, Any], stream: Any, streamed: StreamedMessage) -> Iterator[str]:
    """The text of each event. Only reading is covered here, so that a callback's own errors stay what they are."""
    try:
        for event in stream:
            yield streamed.add(event)
    except Exception as exc:  # noqa: BLE001 - whatever reading raises, the answer cannot be read
        error = _errors.from_sdk(exc, _secrets(client, params, exc), partial_text=streamed.text, usage=streamed.usage)
    else:
        return
    raise error from error.__cause__


def _sent(client: Any, params: dict[str, Any], create: Callable[..., _T]) -> _T:
    """The response to *params*. An error that is not the API's or the network's is the SDK refusing them."""
    try:
        return create(**params)
    except TypeError as exc:
        if "Could not resolve authentication method" not in str(exc):
            raise
        error: Exception = no_credentials(exc)
    except Exception as exc:
        if _is_missing_credentials(exc):
            error = no_credentials(exc)
        elif _is_from_sdk(exc) or _errors.shows(exc, _secrets(client, params, exc)):
            error = _errors.from_sdk(exc, _secrets(client, params, exc))
        else:
            raise
    if isinstance(error, ClaudeInvocationError) and error.kind == "authentication":
        forget_credentials()
    raise error from error.__cause__


def _translated(client: Any, params: dict[str, Any], read: Callable[[], _T]) -> _T:
    """What *read* makes of an answer that has arrived; whatever it raises, the answer cannot be read."""
    try:
        return read()
    except Exception as exc:  # noqa: BLE001
        error = _errors.from_sdk(exc, _secrets(client, params, exc))
    raise error from error.__cause__


def _whole(message: Any, request_id: str | None) -> Answer:
    """*message* as an answer, unless it is none, the model refused, or it has not said why it stopped."""
    # The SDK hands a body that is no message over as a str, or as a message without content.
    if getattr(message, "type", None) != "message" or not isinstance(getattr(message, "content", None), list):
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
            details=details.to_dict() if details is not None else None,
            request_id=request_id,
            partial_text=text_of(message.content),
            usage=answer.usage,
        )
    return answer


def _unfit(problem: str, request_id: str | None) -> ClaudeInvocationError:
    return ClaudeInvocationError(
        problem, kind="invalid_response", status_code=200, request_id=request_id, retryable=True
    )


def _refusal(details: Any) -> str:
    category = getattr(details, "category", None)
    explanation = getattr(details, "explanation", None)
    return "The model refused" + (f" ({category})" if category else "") + (f": {explanation}" if explanation else "")


def _is_from_sdk(exc: Exception) -> bool:
    """Whether the SDK or its httpx raised *exc* about the exchange, rather than about the arguments."""
    return any(cls.__name__ in ("AnthropicError", "HTTPError", "StreamError") for cls in type(exc).__mro__)


def _is_missing_credentials(exc: Exception) -> bool:
    return any(cls.__name__ == "CredentialsError" for cls in type(exc).__mro__)


def _secrets(client: Any, params: dict[str, Any], exc: Exception) -> list[str]:
    """Every credential that the text of *exc* could show: the client's, and those of the request as it was sent."""
    found = [getattr(client, name, None) for name in _SECRET_ATTRIBUTES]
    request = vars(exc).get("request") or vars(exc).get("_request")  # httpx's property raises where it is unset
    sent = getattr(request, "headers", {})
    for headers in (sent, getattr(client, "_custom_headers", {}), params.get("extra_headers", {})):
        found += [value for name, value in headers.items() if name.lower() in _SECRET_HEADERS]
    return [secret.removeprefix("Bearer ") for secret in found if isinstance(secret, str) and secret]
