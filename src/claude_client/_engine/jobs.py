"""Requests as the jobs of one run, and the gate that all fan-outs have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from claude_client._gates.cache import CacheGate, primed_by
from claude_client._gates.prefix import shared_prefixes
from claude_client._sdk.client import check_credentials
from claude_client._values.options import TextCallback
from claude_client._values.request import Request
from claude_client._values.retry import RetryPolicy

from .flow import Call
from .threads import Job


def jobs_of(
    client: Any,
    requests: Mapping[int, Request],
    *,
    callback_of: Callable[[int], TextCallback | None] = lambda _: None,
    policy_of: Callable[[Request], RetryPolicy | None] = lambda _: None,
) -> tuple[list[Job], CacheGate]:
    """
    A job for each of *requests*, by its index, and the gate that lets those with one prompt prefix write it once.

    Raises:
        ValueError: If there are no credentials anywhere.
    """
    check_credentials(client, [request.extra_headers for request in requests.values()])
    shared = shared_prefixes([*requests.values()])
    prefixes = {index: prefix for index, prefix in zip(requests, shared, strict=True) if prefix}
    jobs = [
        Job(
            index,
            Call(client, request, callback_of(index), policy_of(request)),
            group=(request.model, prefixes.get(index), request.category),
        )
        for index, request in requests.items()
    ]
    return jobs, CacheGate(prefixes, primed_by(client))
