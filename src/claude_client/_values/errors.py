"""
Our errors, and the one place where the SDK's errors become ours.

    Exception
    ├── ClaudeInvocationError          a request was made and there is no whole answer
    │   └── ParallelInvocationError    ... for at least one prompt of a fan-out (`_results`)
    ├── ValueError, TypeError          misuse, raised before any request
    └── whatever a callback raises     comes out unchanged
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from claude_client._values.kinds import FINAL, TRANSIENT, Kind, chain, class_names, field, kind_of, kind_without_status
from claude_client._values.record import AttemptRecord, ToolRecord, cost_of_attempts
from claude_client._values.redaction import scrubbed, without, without_secrets
from claude_client._values.tasks import task_of
from claude_client._values.text import printable
from claude_client._values.tree import Tree, tree_of
from claude_client._values.usage import Usage, total

# The API's longest limits are by the month.
_LONGEST_PAUSE = 31 * 24 * 3600.0


class ClaudeInvocationError(Exception):
    """
    A request that gave no whole answer. The SDK's error, where there was one, is its `__cause__`.

    Nothing in it shows the API key, and its cause was cleaned of it; a cause that cannot be is left out.
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
        super().__init__(printable(message))
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

    #: The requests that it took, in their order, each with its times and what it used. Empty if none was made.
    attempts: tuple[AttemptRecord, ...] = ()
    #: The uses of tools that it took, in the order in which the model asked for them.
    tool_calls: tuple[ToolRecord, ...] = ()
    #: The conversation up to the failure of a call with tools, to go on from: the API takes it as it is, with a result
    #: for each tool that was asked for. Empty for other calls.
    messages: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        """The message, and the kind where it does not say that."""
        message = super().__str__()
        return message if self.kind in message else printable(f"{self.kind}: {message}")

    @property
    def cost_usd(self) -> float | None:
        """
        The price of `usage` in dollars, as that of an answer; by the model asked for, where none answered.

        Raises:
            ImportError: Without the `cost` extra.
        """
        return cost_of_attempts(self.attempts)

    def tree(self) -> Tree:
        """What was done until it failed, as a tree: as that of an answer."""
        return tree_of(task_of("The call", self.kind, self.attempts, self.tool_calls))

    def _repr_html_(self) -> str:
        """What went wrong, and what had arrived, as a table."""
        from claude_client._values import html

        used = self.usage
        told = ("kind", "status_code", "request_id", "retry_after", "partial_text")
        tokens = f"{used.total_input_tokens:,} in, {used.output_tokens:,} out"
        return html.facts(
            self, [("message", str(self)), *((name, getattr(self, name)) for name in told), ("tokens", tokens)]
        )


_FIELDS = ("kind", "status_code", "details", "request_id", "retry_after", "retryable", "partial_text", "usage")


def fields_of(error: ClaudeInvocationError) -> dict[str, Any]:
    """Everything about *error* but its message, as the constructor takes it."""
    return {name: getattr(error, name) for name in _FIELDS}


def with_totals(
    error: ClaudeInvocationError, attempts: Sequence[AttemptRecord], said_before: str = ""
) -> ClaudeInvocationError:
    """
    A copy of *error*, which others may end with too, as the end of a call that took *attempts*, and whose earlier turns
    gave the text *said_before*.
    """
    totals = {
        "usage": total(attempt.usage for attempt in attempts),
        "partial_text": said_before + error.partial_text,
        "attempts": (*attempts,),
    }
    return _copy(error, totals).with_traceback(error.__traceback__)


def for_unsent(error: ClaudeInvocationError) -> ClaudeInvocationError:
    """The failure *error* of one call as the end of others that made no request of their own."""
    return _copy(error, {"partial_text": "", "usage": Usage(), "attempts": (), "tool_calls": (), "messages": ()})


def reworded(error: ClaudeInvocationError, message: str) -> ClaudeInvocationError:
    """A copy of *error* that says *message*."""
    copy = _copy(error, {})
    copy.args = (printable(message),)
    return copy


def _copy(error: ClaudeInvocationError, other: Mapping[str, Any]) -> ClaudeInvocationError:
    copy = ClaudeInvocationError.__new__(ClaudeInvocationError, *error.args)  # a queue may need very many
    copy.__dict__.update(error.__dict__)
    copy.__dict__.update(other)
    copy.__cause__ = error.__cause__
    return copy


#: Why an attempt was ended before its time.
AbortReason = Literal["interrupted", "stalled", "cancelled", "deadline"]

_ABORTED: Mapping[AbortReason, str] = {
    "interrupted": "The call was interrupted",
    "stalled": "The call was ended, as it showed no activity",
    "cancelled": "The call was cancelled",
    "deadline": "The call had not ended by its deadline",
}


def aborted(reason: AbortReason, **arrived: Any) -> ClaudeInvocationError:
    """The error for a call that was ended from outside, with what had *arrived* by then."""
    kind: Kind = "timeout" if reason == "deadline" else reason
    return ClaudeInvocationError(_ABORTED[reason], kind=kind, retryable=reason == "stalled", **arrived)


def from_sdk(
    exc: Exception,
    secrets: Sequence[str],
    *,
    answered: bool = False,
    of_provider: bool = False,
    partial_text: str = "",
    usage: Usage | None = None,
) -> ClaudeInvocationError:
    """
    Our error for whatever the SDK raised; raise it outside the handler, or *exc* stays its `__context__`.

    Args:
        secrets: What may not be seen anywhere. *exc*, which becomes the cause, is changed so that it shows none.

        answered: Whether the head of an answer had come: an error that is not the network's is then about the answer.

        of_provider: Whether it was raised by what gives out credentials.
    """
    for link in chain(exc):
        if isinstance(link, ClaudeInvocationError):
            return link
    body = getattr(exc, "body", None)
    status = getattr(exc, "status_code", None)
    error = _error(
        lambda kind: _message(exc, kind, status, body, answered=answered),
        kind_without_status(exc, answered=answered, of_provider=of_provider) if status is None else None,
        body,
        secrets,
        status_code=status,
        headers=getattr(getattr(exc, "response", None), "headers", None) or {},
        partial_text=partial_text,
        usage=usage or Usage(),
    )
    error.__cause__ = None if _quotes_a_header(exc) and not answered else without_secrets(exc, secrets)
    return error


def from_body(
    body: Any, secrets: Sequence[str], problem: str, *, request_id: str | None = None, **arrived: Any
) -> ClaudeInvocationError:
    """Our error for a *body* with status 200 that is no answer: it tells of an error itself, or has the *problem*."""
    said = field(body, "error", "message")
    return _error(
        lambda kind: f"200 {field(body, 'error', 'type') or kind}: {said}" if said else problem,
        None if said else "invalid_response",
        body,
        secrets,
        status_code=200,
        headers={"request-id": request_id} if request_id else {},
        **arrived,
    )


def from_batch(body: Any, secrets: Sequence[str]) -> ClaudeInvocationError:
    """Our error for the *body* of a request of a batch that the API could not answer. It has the status of its type."""
    named = str(field(body, "error", "type"))
    said = field(body, "error", "message")
    return _error(
        lambda kind: f"{named or kind}: {said}",
        None,
        body,
        secrets,
        status_code=_STATUS_OF_TYPE.get(named, 500),
        headers={},
    )


_STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def _error(
    message: Callable[[Kind], str],
    kind: Kind | None,
    body: Any,
    secrets: Sequence[str],
    *,
    status_code: int | None,
    headers: Mapping[str, str],
    **arrived: Any,
) -> ClaudeInvocationError:
    """The error that *body* and *headers* tell of, with none of *secrets* in it. *kind*, if not None, is known."""
    kind = kind or kind_of(status_code or 0, headers, body)
    said = headers.get("x-should-retry")
    return ClaudeInvocationError(
        without(message(kind), secrets),
        kind=kind,
        status_code=status_code,
        details=scrubbed(body, secrets),
        request_id=scrubbed(headers.get("request-id") or field(body, "request_id"), secrets),
        retry_after=_retry_after(headers),
        retryable=kind not in FINAL and (said == "true" or (said != "false" and kind in TRANSIENT)),
        **arrived,
    )


def _quotes_a_header(exc: BaseException) -> bool:
    """Return whether *exc* is about a header that cannot be sent: it quotes that, and it may well be the key."""
    return bool(class_names(exc) & {"LocalProtocolError", "UnicodeError"})


def _message(exc: Exception, kind: Kind, status: int | None, body: Any, *, answered: bool) -> str:
    said = field(body, "error", "message") or field(body, "message")
    if status is not None:
        about = f"{status} {field(body, 'error', 'type') or kind}"
        return f"{about}: {said}" if said else f"{about}: {exc}"
    if not answered and _quotes_a_header(exc):
        return f"{kind}: a header of the request, perhaps the key, has characters that cannot be sent"
    reason = next((link for link in chain(exc) if not isinstance(link, type(exc))), exc)  # below the SDK's own
    about = "The answer cannot be read" if kind == "invalid_response" else kind
    return f"{about}: {type(reason).__name__}: {reason}".removesuffix(": ")


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
