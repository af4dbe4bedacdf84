"""Tokens of the SDK's credential providers, which may be refused before their time and then be renewed."""

from __future__ import annotations

from typing import Any


def current_token(client: Any) -> str | None:
    """The token that *client* uses now; None if it has none that can be renewed."""
    cached = getattr(getattr(client, "_token_cache", None), "_cached", None)
    return getattr(cached, "token", None)


def renew(client: Any, refused: Any) -> bool:
    """
    After the error *refused* with status 401, return whether another attempt would go with another token.

    The SDK does that in its own loop of retries, which we do not use. Of many calls that are refused at once, the first
    has the token renewed, and the others find that it is.
    """
    cache = getattr(client, "_token_cache", None)
    if cache is None:
        return False
    token = current_token(client)
    if token is None or refused.request.headers.get("authorization") == f"Bearer {token}":
        cache.invalidate()
    return True
