"""Message batches for `orchestration`: requests as their parts, and what comes back as attempts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from claude_client._engine.flow import CallFlow, Done, Outcome, Send, log_step
from claude_client._gates.budget import BudgetGate
from claude_client._gates.gate import Wait
from claude_client._sdk.batches import (
    BatchInfo,
    Within,
    cancel,
    check_client,
    create,
    created_since,
    results,
    retrieve,
)
from claude_client._sdk.client import check_credentials, shared_client
from claude_client._sdk.exchange import receive, send
from claude_client._sdk.parameters import create_arguments
from claude_client._values.attempt import Attempt, Permit
from claude_client._values.errors import ClaudeInvocationError, aborted, from_batch
from claude_client._values.request import Request

__all__ = [
    "BatchInfo",
    "CallFlow",
    "Done",
    "Outcome",
    "Send",
    "Within",
    "attempt_of",
    "cancel",
    "check_batchable",
    "check_client",
    "check_credentials",
    "create",
    "created_since",
    "log_step",
    "parts_of",
    "results",
    "retrieve",
    "shared_client",
    "tried",
]

_NOT_BATCHED = ("speed", "fallbacks", "store", "previous_thread_event_id", "cache_hint", "context_hint")


def check_batchable(request: Request) -> None:
    """Raise a ValueError for what a batch refuses, or cannot honour for one of its requests."""
    body = {**request.params, **request.extra_body}
    refused = [name for name in _NOT_BATCHED if body.get(name) is not None]
    if request.extra_body.get("max_tokens") == 0:
        refused.append("max_tokens=0")
    options = {
        "streaming": request.streaming,
        "timeout": request.timeout,
        "deadline": request.deadline,
        "extra_query": request.extra_query,
        "fallback_models": request.fallbacks,
    }
    refused += [name for name, value in options.items() if value]
    if refused:
        raise ValueError(f"{refused[0]} is not taken by a batch")


def parts_of(client: Any, request: Request) -> tuple[Mapping[str, str], dict[str, Any]]:
    """The headers that *request* asks for, which are those of a whole batch, and its own parameters."""
    arguments = create_arguments(request, client)
    headers = {name: str(value) for name, value in arguments.pop("extra_headers", {}).items()}
    body = arguments.pop("extra_body", {})
    return headers, {**arguments, **body}


def attempt_of(
    client: Any, request: Request, result: Mapping[str, Any], permits: list[Permit], submitted: float
) -> Attempt:
    """
    The attempt at *request* that a batch made, by the *result* of the API, over and settled.

    Args:
        submitted: When it was, by `time.monotonic`.
    """
    attempt = Attempt(request, submitted)
    attempt.permits = permits
    kind = result.get("type")
    if kind == "succeeded":
        attempt.sent_at, attempt.status = submitted, 200
        receive(client, attempt, result.get("message"))
    elif kind == "errored":
        attempt.sent_at = submitted
        attempt.error = from_batch(result.get("error"), ())
    elif kind == "canceled":
        attempt.error = aborted("cancelled")
    else:
        attempt.error = ClaudeInvocationError(
            "The batch expired before this request was processed" if kind == "expired" else f"The result is {kind!r}",
            kind="expired" if kind == "expired" else "invalid_response",
            retryable=True,
        )
    attempt.ended_at = time.monotonic()
    attempt.settle()
    return attempt


def tried(client: Any, request: Request, within: Within) -> ClaudeInvocationError | None:
    """What *request*, sent once within its budgets and *within* these bounds, fails with; None for an answer."""
    attempt = Attempt(request, time.monotonic())
    attempt.ends_at = within.ends_at
    try:
        got = BudgetGate().admit(request, 0.0)
    except ClaudeInvocationError as beyond:
        return beyond
    if isinstance(got, Wait):
        return None  # others have the money; it is asked for again with the batch
    attempt.permits = [got] if got else []
    with within.token.watched_by(attempt.abort) if within.token else nullcontext():
        send(client, attempt)
    return attempt.error
