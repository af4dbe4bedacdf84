"""What the installed `anthropic` SDK takes. It is imported at the first call, not by `import claude_client`."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anthropic
    from anthropic.types import Message


@cache
def create_parameters() -> frozenset[str]:
    """The names that the installed SDK's `messages.create` takes."""
    from anthropic.resources.messages import Messages

    return frozenset(inspect.signature(Messages.create).parameters) - {"self", "stream"}


def message_of(fields: Mapping[str, Any]) -> Message:
    """The installed SDK's message with *fields* as the API sends them; what it does not know is kept."""
    from anthropic.types import Message

    return Message.construct(**fields)


def new_client(*, api_key: str | None = None, auth_token: str | None = None) -> anthropic.Anthropic:
    """A client with the SDK's own defaults, but no retries: those are ours."""
    import anthropic

    http_client = anthropic.DefaultHttpxClient()
    client = anthropic.Anthropic(api_key=api_key, auth_token=auth_token, http_client=http_client, max_retries=0)
    if client.auth_token:  # SDKs before 2.x read it from the environment beside a key
        client.auth_token = client.auth_token.strip()
    return client
