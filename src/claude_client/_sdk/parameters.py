"""The parameters and types of the installed `anthropic` SDK. It is imported at the first call, not with us."""

from __future__ import annotations

import base64
import inspect
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from claude_client._values.content import loaded

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anthropic
    from anthropic.types import Message

    from claude_client._values.request import Request

C = TypeVar("C")

_SAMPLING = ("temperature", "top_p", "top_k")
# The last API version that takes sampling parameters. Lower case: SDK 0.x would send another spelling beside its own.
_SAMPLING_VERSION = {"anthropic-version": "2023-06-01"}
# ... and as the clients of these clouds say it, in the body.
_SAMPLING_VERSIONS = {"AnthropicBedrock": "bedrock-2023-05-31", "AnthropicVertex": "vertex-2023-10-16"}
# Parameters that newer SDKs send as a header rather than in the body.
_HEADERS = {"user_profile_id": "anthropic-user-profile-id", "workspace_id": "anthropic-workspace-id"}
_OUR_HEADERS = {*_SAMPLING_VERSION, *_HEADERS.values()}


@cache
def create_parameters() -> frozenset[str]:
    """The names that the installed SDK's `messages.create` takes."""
    from anthropic.resources.messages import Messages

    return frozenset(inspect.signature(Messages.create).parameters) - {"self", "stream"}


def create_arguments(request: Request, client: Any) -> dict[str, Any]:
    """The keyword arguments for the `create` of *client*: parameters that its SDK does not know go into the body."""
    messages, system = request.messages, request.system
    if request.has_files:
        messages, system = loaded(messages), loaded(system)
    sent: dict[str, Any] = {"model": request.model, "max_tokens": request.max_tokens, "messages": messages}
    if system:
        sent["system"] = system
    if request.timeout is not None:
        sent["timeout"] = request.timeout
    if request.extra_query:
        sent["extra_query"] = {**request.extra_query}
    if request.params or request.extra_body or request.extra_headers:
        _place_the_rest(request, sent, client)
    return sent


def _place_the_rest(request: Request, sent: dict[str, Any], client: Any) -> None:
    """Put each parameter and extra of *request* into *sent*, or into the extra body or headers in it."""
    body: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    known = create_parameters() if request.params else frozenset()
    for name, value in request.params.items():
        if name in known and name not in _SAMPLING:
            sent[name] = value
        elif name in _HEADERS:  # no coverage: newer SDKs know them all
            headers[_HEADERS[name]] = value
        else:
            body[name] = value
    body.update(request.extra_body)
    if any(name in body for name in _SAMPLING):
        headers.update(_SAMPLING_VERSION)
        for version in filter(None, (_SAMPLING_VERSIONS.get(cls.__name__) for cls in type(client).__mro__)):
            body.setdefault("anthropic_version", version)
    # The caller's replace ours, so they are spelled like ours; the SDK knows others by spelling.
    own = {name.lower() if name.lower() in _OUR_HEADERS else name: item for name, item in request.extra_headers.items()}
    headers.update(own)
    if body:
        sent["extra_body"] = body
    if headers:
        sent["extra_headers"] = headers


def message_of(fields: Mapping[str, Any]) -> Message:
    """The installed SDK's message with *fields* as the API sends them; fields that it does not know are kept."""
    from anthropic.types import Message

    try:
        return Message.model_validate(fields, strict=True)  # as the SDK's own, in a tenth of its time
    except ValueError:  # something is new, or missing
        return Message.construct(**fields)


def new_client(*, api_key: str | None = None, auth_token: str | None = None) -> anthropic.Anthropic:
    """A client with the SDK's own defaults, but no retries: those are ours; and every connection may be used again."""
    import anthropic

    most = anthropic.DEFAULT_CONNECTION_LIMITS
    limits = type(most)(
        max_connections=most.max_connections,
        max_keepalive_connections=most.max_connections,
        keepalive_expiry=most.keepalive_expiry,
    )
    http_client = anthropic.DefaultHttpxClient(limits=limits)
    client = anthropic.Anthropic(api_key=api_key, auth_token=auth_token, http_client=http_client, max_retries=0)
    if client.auth_token:  # SDKs before 2.x read it from the environment beside a key
        client.auth_token = client.auth_token.strip()
    return without_userinfo(client)


def without_userinfo(client: C) -> C:
    """*client*, or one like it that sends the password of its base URL as a header: what logs show of a URL has it."""
    url: Any = getattr(client, "base_url", None)
    if not getattr(url, "userinfo", b""):
        return client
    said = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    headers = {"Authorization": f"Basic {said}"}  # as the HTTP client does itself, in place of any other
    other: C = client.with_options(base_url=url.copy_with(userinfo=b""), default_headers=headers)  # type: ignore[attr-defined]
    return other
