"""What is known of the rate limits."""

from __future__ import annotations

import time

from claude_client._gates.clients import gates_of
from claude_client._sdk.client import NoCredentialsError, shared_client
from claude_client._values.rate_limit import RateLimit


def rate_limits() -> list[RateLimit]:
    """
    Return what is known of each rate limit that calls of this process have met or may meet: one for each model that was
    asked, in the order in which they were first. Nothing is sent.

    Where limits are shared by a file, all processes that share it are in the numbers. The list is empty before the
    first call, and after `set_default_client`.
    """
    try:
        with shared_client() as client:
            return gates_of(client)[0].limits(time.monotonic())
    except NoCredentialsError:
        return []
