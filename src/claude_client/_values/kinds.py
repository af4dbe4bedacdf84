"""The kinds of failure, and which one a response or an exception of the SDK is of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

_Transient = Literal[
    "rate_limit",
    "conflict",
    "overloaded",
    "server_error",
    "timeout",
    "connection",
    "expired",
    "incomplete_stream",
    "invalid_response",
]
Kind = Literal[
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "request_too_large",
    "billing",
    "spend_limit",
    _Transient,
    "refusal",
    "invalid_output",
    "pause_limit",
    "max_iterations",
    "context_window",
    "tool",
    "budget",
    "interrupted",
    "stalled",
    "cancelled",
    "callback",
]

#: Kinds that may succeed when sent again unchanged.
TRANSIENT: frozenset[Kind] = frozenset(get_args(_Transient))
#: Kinds that no header can make worth sending again.
FINAL: frozenset[Kind] = frozenset({"billing", "spend_limit"})
#: Kinds that are no failure of the API's, or of what was asked.
FROM_OUTSIDE: frozenset[Kind] = frozenset({"interrupted", "cancelled", "budget"})

_KIND_OF_CODE: Mapping[str, Kind] = {
    "enforced_spend_limit_reached": "spend_limit",
    "contract_spend_limit_reached": "spend_limit",
    "linked_organization_spend_limit_reached": "spend_limit",
    "linked_organization_billing_unavailable": "billing",
    "organization_on_hold": "permission",
}
# By the names that the API, Bedrock (botocore's model of bedrock-runtime), Vertex (google.rpc.Code) and Foundry have
# for their errors, as `_plain_name` writes them.
_NAMES_OF_KIND: Mapping[Kind, str] = {
    "invalid_request": "invalidrequest validation invalidargument failedprecondition outofrange unimplemented",
    "authentication": (
        "authentication unauthenticated unauthorized unrecognizedclient expiredtoken invalidsignature "
        "missingauthenticationtoken invalidclienttokenid"
    ),
    "billing": "billing",
    "permission": "permission permissiondenied accessdenied forbidden",
    "not_found": "notfound resourcenotfound deploymentnotfound",
    "conflict": "conflict aborted alreadyexists",
    "request_too_large": "requesttoolarge",
    "rate_limit": "ratelimit ratelimitreached toomanyrequests throttling servicequotaexceeded resourceexhausted",
    "server_error": "api server internal internalserver model modelstream unknown dataloss",
    "timeout": "timeout modeltimeout deadlineexceeded",
    "overloaded": "overloaded serviceunavailable unavailable modelnotready",
}
_KIND_OF_NAME: Mapping[str, Kind] = {name: kind for kind, names in _NAMES_OF_KIND.items() for name in names.split()}
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
_ABOUT_THE_REQUEST = {"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "UnicodeError"}

# What the API says by the words of a plain 400 alone. A body of ours is JSON, so one that is not was cut on its way.
_KIND_OF_WORDS: Mapping[Kind, re.Pattern[str]] = {
    "spend_limit": re.compile(r"reached your specified .*usage limits", re.IGNORECASE),
    "billing": re.compile(r"credit balance is too low", re.IGNORECASE),
    "connection": re.compile(r"request body is not valid json", re.IGNORECASE),
    "context_window": re.compile(r"(prompt|input) is too long", re.IGNORECASE),
}


def kind_of(status: int, headers: Mapping[str, str], body: Any) -> Kind:
    """The kind of a response, by all that it says."""
    message = str(field(body, "error", "message") or "")
    if status == 400:
        for kind, words in _KIND_OF_WORDS.items():
            if words.search(message):
                return kind
    named = (_KIND_OF_NAME.get(_plain_name(name)) for name in _names_of_error(headers, body))
    return (
        _KIND_OF_CODE.get(str(field(body, "error", "details", "error_code")))
        or next(filter(None, named), None)
        or _KIND_OF_STATUS.get(status)
        or ("invalid_request" if 400 <= status < 500 else "server_error" if status >= 500 else "invalid_response")
    )


def _names_of_error(headers: Mapping[str, str], body: Any) -> list[str]:
    """The names that an API or a cloud has given to an error, wherever it says them."""
    said = (
        field(body, "error", "type"),
        field(body, "error", "status"),
        field(body, "error", "code"),
        headers.get("x-amzn-errortype"),
        field(body, "__type"),
    )
    return [name for name in said if isinstance(name, str)]


def _plain_name(name: str) -> str:
    """Amazon's may have a namespace before and a URL behind."""
    plain = name.partition(":")[0].rpartition("#")[2].replace("_", "").lower()
    return plain.removesuffix("exception").removesuffix("error")


def kind_without_status(exc: Exception, *, answered: bool, of_provider: bool) -> Kind:
    """
    The kind of an exception that came without a status, before or after the head of an answer. By class name, as httpx
    or httpx2 may be under the SDK and neither is imported for this.
    """
    names = class_names(exc)
    if not answered and names & _ABOUT_THE_REQUEST:
        return "invalid_request"
    if names & {"APITimeoutError", "TimeoutException"}:
        return "timeout"
    if names & {"TransportError", "OSError", "RetryableError"}:
        return "connection"
    if of_provider or (not answered and "AnthropicError" in names and "APIError" not in names):
        return "authentication"
    if not answered and "APIConnectionError" in names:
        return "invalid_request"
    return "invalid_response"


def class_names(exc: BaseException) -> set[str]:
    """The names of all classes of *exc* and of the errors in its chain."""
    return {cls.__name__ for link in chain(exc) for cls in type(link).__mro__}


# What the HTTP library raises before a request is on its way.
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError"}


def was_never_sent(error: BaseException) -> bool:
    """Whether it is known that nothing of the request that failed by *error*, without a response, had left."""
    return getattr(error, "kind", None) in {"invalid_request", "authentication"} or bool(class_names(error) & _NOT_SENT)


def chain(exc: BaseException, *, hidden: bool = False) -> Iterator[BaseException]:
    """*exc*, and the errors behind it; with *hidden*, those too that a traceback leaves out."""
    link: BaseException | None = exc
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (link.__context__ if hidden or not link.__suppress_context__ else None)


def field(body: Any, *path: str) -> Any:
    """What *body* has at *path*; None if there is nothing."""
    if isinstance(body, list) and body:  # so do some of Google's
        body = body[0]
    for name in path:
        body = body.get(name) if isinstance(body, Mapping) else None
    return body
