"""
Our errors, and the one place where the SDK's errors become ours.

    Exception
    ├── ClaudeInvocationError          a request was made and there is no whole answer
    │   └── ParallelInvocationError    ... for at least one prompt of a fan-out (`_results`)
    ├── ValueError, TypeError          misuse, raised before any request
    └── whatever a callback raises     comes out unchanged
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from claude_client._values.usage import Usage

Kind = Literal[
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "request_too_large",
    "billing",
    "spend_limit",
    "rate_limit",
    "conflict",
    "overloaded",
    "server_error",
    "timeout",
    "connection",
    "incomplete_stream",
    "invalid_response",
    "refusal",
    "pause_limit",
    "interrupted",
    "stalled",
    "cancelled",
    "callback",
]

#: Kinds that may succeed when sent again unchanged.
TRANSIENT: frozenset[Kind] = frozenset(
    {
        "rate_limit",
        "conflict",
        "overloaded",
        "server_error",
        "timeout",
        "connection",
        "incomplete_stream",
        "invalid_response",
    }
)
# The API's longest limits are by the month.
_LONGEST_PAUSE = 31 * 24 * 3600.0

#: Kinds that no header can make worth sending again.
FINAL: frozenset[Kind] = frozenset({"billing", "spend_limit"})

_KIND_OF_CODE: Mapping[str, Kind] = {
    "enforced_spend_limit_reached": "spend_limit",
    "contract_spend_limit_reached": "spend_limit",
    "linked_organization_spend_limit_reached": "spend_limit",
    "linked_organization_billing_unavailable": "billing",
    "organization_on_hold": "permission",
}
_KIND_OF_TYPE: Mapping[str, Kind] = {
    "invalid_request_error": "invalid_request",
    "authentication_error": "authentication",
    "billing_error": "billing",
    "permission_error": "permission",
    "not_found_error": "not_found",
    "conflict_error": "conflict",
    "request_too_large": "request_too_large",
    "rate_limit_error": "rate_limit",
    "api_error": "server_error",
    "timeout_error": "timeout",
    "overloaded_error": "overloaded",
}
_KIND_OF_STATUS: Mapping[int, Kind] = {
    401: "authentication",
    402: "billing",
    403: "permission",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    413: "request_too_large",
    429: "rate_limit",
    504: "timeout",
    529: "overloaded",
}
# A spend limit that the customer set arrives as a plain 400 that only its message tells apart.
_CUSTOMERS_LIMIT = re.compile(r"reached your specified .*usage limits", re.IGNORECASE)


class ClaudeInvocationError(Exception):
    """
    A request that gave no whole answer. The SDK's error, where there was one, is its `__cause__`.

    No text in it holds the API key; a cause that would show it is left out.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = "invalid_request",
        status_code: int | None = None,
        details: Any = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        retryable: bool = False,
        partial_text: str = "",
        usage: Usage = Usage(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(message)
        #: What went wrong, in one word of `Kind`.
        self.kind: Kind = kind
        #: The HTTP status; None where there was no response. 200 for an error inside a stream.
        self.status_code = status_code
        #: The API's error body; for a refusal its `stop_details`; None where there is neither.
        self.details = details
        #: The API's id of the failed request, to name to its support.
        self.request_id = request_id
        #: Seconds the API asked to wait; None where it did not say, or nothing that can be meant.
        self.retry_after = retry_after
        #: Whether sending the same request again may succeed.
        self.retryable = retryable
        #: The text that had arrived before the failure.
        self.partial_text = partial_text
        #: What the failed request is known to have used, as far as the API had said.
        self.usage = usage


_FIELDS = ("kind", "status_code", "details", "request_id", "retry_after", "retryable", "partial_text", "usage")


def fields_of(error: ClaudeInvocationError) -> dict[str, Any]:
    """Everything about *error* but its message, as the constructor takes it."""
    return {name: getattr(error, name) for name in _FIELDS}


def with_totals(error: ClaudeInvocationError, usage: Usage, said_before: str = "") -> ClaudeInvocationError:
    """*error* as the end of a call that used *usage* in all, and whose earlier turns gave the text *said_before*."""
    if usage == error.usage and not said_before:
        return error
    totals = {"usage": usage, "partial_text": said_before + error.partial_text}
    return _copy(error, totals).with_traceback(error.__traceback__)


def for_unsent(error: ClaudeInvocationError) -> ClaudeInvocationError:
    """The failure *error* of one call as the end of others that made no request of their own."""
    return _copy(error, {"partial_text": "", "usage": Usage()})


def _copy(error: ClaudeInvocationError, other: Mapping[str, Any]) -> ClaudeInvocationError:
    copy = ClaudeInvocationError.__new__(ClaudeInvocationError, *error.args)  # a queue may need very many
    copy.__dict__.update(error.__dict__)
    copy.__dict__.update(other)
    copy.__cause__ = error.__cause__
    return copy


#: Why an attempt was ended from outside.
AbortReason = Literal["interrupted", "stalled", "cancelled"]

_ABORTED: Mapping[AbortReason, str] = {
    "interrupted": "The call was interrupted",
    "stalled": "The call was ended, as it showed no activity",
    "cancelled": "The call was cancelled",
}


def aborted(reason: AbortReason, **arrived: Any) -> ClaudeInvocationError:
    """The error for a call that was ended from outside, with what had *arrived* by then."""
    return ClaudeInvocationError(_ABORTED[reason], kind=reason, retryable=reason == "stalled", **arrived)


def from_sdk(
    exc: Exception, secrets: Sequence[str], *, partial_text: str = "", usage: Usage | None = None
) -> ClaudeInvocationError:
    """
    Our error for whatever the SDK raised; raise it outside the handler, or *exc* stays its `__context__`.

    An error that is neither the API's nor the network's means that the answer could not be read. The cause is
    set only where its text shows none of *secrets*.
    """
    response = getattr(exc, "response", None)
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    body = getattr(exc, "body", None)
    status = getattr(exc, "status_code", None)
    kind = _kind(exc, status, body)
    said = headers.get("x-should-retry")
    error = ClaudeInvocationError(
        _without(_message(exc, kind, status, body), secrets),
        kind=kind,
        status_code=status,
        details=_scrubbed(body, secrets),
        request_id=headers.get("request-id") or _field(body, "request_id"),
        retry_after=_retry_after(headers),
        retryable=kind not in FINAL and (said == "true" or (said != "false" and kind in TRANSIENT)),
        partial_text=partial_text,
        usage=usage or Usage(),
    )
    error.__cause__ = None if _quotes_a_header(exc) or shows(exc, secrets) else exc
    return error


def shows(exc: BaseException, secrets: Sequence[str]) -> bool:
    """Return whether the text of *exc*, or of any error in its chain, holds one of *secrets* or a piece of one."""
    text = "\n".join(f"{link}\n{link!r}" for link in _chain(exc))
    return any(piece in text for secret in secrets for piece in _pieces(secret))


def _kind(exc: Exception, status: int | None, body: Any) -> Kind:
    if status is None:
        return _kind_without_status(exc)
    message = str(_field(body, "error", "message") or "")
    if status == 400 and _CUSTOMERS_LIMIT.search(message):
        return "spend_limit"
    return (
        _KIND_OF_CODE.get(str(_field(body, "error", "details", "error_code")))
        or _KIND_OF_TYPE.get(str(_field(body, "error", "type")))
        or _KIND_OF_STATUS.get(status)
        or ("invalid_request" if 400 <= status < 500 else "server_error" if status >= 500 else "invalid_response")
    )


def _kind_without_status(exc: Exception) -> Kind:
    """The kind by class name, as httpx or httpx2 may be under the SDK and neither is imported for this."""
    names = _names(exc)
    if names & {"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "UnicodeError"}:
        return "invalid_request"
    if names & {"APITimeoutError", "TimeoutException"}:
        return "timeout"
    if names & {"TransportError", "OSError", "RetryableError"}:
        return "connection"
    if "APIConnectionError" in names:
        return "invalid_request"
    if "AnthropicError" in names and "APIError" not in names:  # a token could not be had
        return "authentication"
    return "invalid_response"


def _names(exc: BaseException) -> set[str]:
    return {cls.__name__ for link in _chain(exc) for cls in type(link).__mro__}


def _quotes_a_header(exc: BaseException) -> bool:
    """Return whether *exc* is about a header that cannot be sent: it quotes that, and it may well be the key."""
    return bool(_names(exc) & {"LocalProtocolError", "UnicodeError"})


def _message(exc: Exception, kind: Kind, status: int | None, body: Any) -> str:
    said = _field(body, "error", "message")
    if status is not None:
        about = f"{status} {_field(body, 'error', 'type') or kind}"
        return f"{about}: {said}" if said else f"{about}: {exc}"
    if _quotes_a_header(exc):
        return f"{kind}: a header of the request, perhaps the key, has characters that cannot be sent"
    reason = next((link for link in _chain(exc) if not isinstance(link, type(exc))), exc)  # below the SDK's own
    about = "The answer cannot be read" if kind == "invalid_response" else kind
    return f"{about}: {type(reason).__name__}: {reason}".removesuffix(": ")


def _chain(exc: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = exc
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """
    The seconds in `retry-after-ms`, else in `retry-after` as a number or an HTTP date. None if they are unusable, or
    mean nothing: no pause at all, or one that is longer than any limit's.
    """
    return next((seconds for seconds in _pauses(headers) if 0 < seconds <= _LONGEST_PAUSE), None)


def _pauses(headers: Mapping[str, str]) -> Iterator[float]:
    """The seconds in *headers*, in all the ways in which they can be read."""
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(ValueError):
            yield float(headers.get(name, "")) / scale
    from email.utils import mktime_tz, parsedate_tz  # slow to import, and seldom needed

    with suppress(ValueError, OverflowError):  # a year that no calendar has
        if date := parsedate_tz(headers.get("retry-after", "")):
            yield mktime_tz(date) - time.time()


def _field(body: Any, *path: str) -> Any:
    for name in path:
        body = body.get(name) if isinstance(body, Mapping) else None
    return body


def _pieces(secret: str) -> set[str]:
    """*secret* as a text may show it: as it is, escaped, or cut where a character is not plain."""
    plain = re.split(r"[^\x21-\x7e]+", secret)
    return {piece for piece in (secret, repr(secret)[1:-1], *plain) if len(piece) > 5 or piece == secret}


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        for piece in sorted(_pieces(secret), key=len, reverse=True):
            text = text.replace(piece, "[redacted]")
    return text


def _scrubbed(value: Any, secrets: Sequence[str]) -> Any:
    """*value*, a JSON body, with every text cleaned."""
    if isinstance(value, str):
        return _without(value, secrets)
    if isinstance(value, Mapping):
        return {key: _scrubbed(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item, secrets) for item in value]
    return value
