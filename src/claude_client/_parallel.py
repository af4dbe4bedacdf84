"""Fan-outs: many prompts at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ._call import run
from ._errors import ClaudeInvocationError
from ._request import DEFAULT_MODEL, Request, build_requests, whole_number
from ._response import ClaudeResponse
from ._results import ParallelInvocationError, Results
from ._types import Content

_log = logging.getLogger("claude_client")

MOST_WORKERS = 10


def invoke_parallel(
    prompts: Sequence[Mapping[str, Any]],
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    max_retries: int = 2,
    timeout: float | None = None,
    return_exceptions: bool = False,
) -> Results:
    """
    Ask all *prompts* at once and return their answers in the same order.

    One failure never costs another prompt's answer: all are asked to the end.

    Args:
        prompts:
            Dicts with a `prompt` (or `messages`) and any parameter of `invoke_claude` for that prompt alone. A
            `task_id` or `category` is allowed and not sent.

        model, max_tokens, max_retries, timeout: For prompts that do not set their own, as in `invoke_claude`.

        max_workers: Most requests under way at once, at most 10; more is clamped, with a logged warning.

        shared_system: A system prompt for all. A prompt's own `system` follows it.

        cache_shared_system: Put a cache breakpoint at the end of *shared_system*.

        return_exceptions: Put errors into the list, in their prompts' places, instead of raising.

    Raises:
        ValueError: For bad input, before any request, naming the prompt (`prompts[2]: ...`) and what was got.
        ParallelInvocationError: Once all have ended and at least one failed, with `.results` and `.errors`.
    """
    requests = build_requests(
        prompts,
        shared_system=shared_system,
        cache_shared_system=cache_shared_system,
        model=model,
        max_tokens=max_tokens,
        max_retries=max_retries,
        timeout=timeout,
    )
    with ThreadPoolExecutor(_workers(max_workers), thread_name_prefix="claude_client") as pool:
        outcomes = [*pool.map(_outcome, requests)]
    errors = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, ClaudeInvocationError)}
    if return_exceptions:
        return Results(outcomes, errors)
    results = Results([None if i in errors else outcome for i, outcome in enumerate(outcomes)], errors)
    if errors:
        raise ParallelInvocationError.of(results) from errors[min(errors)]
    return results


def _workers(asked: int) -> int:
    if whole_number("max_workers", asked, 1) <= MOST_WORKERS:
        return asked
    _log.warning("max_workers=%d is more than the %d allowed: working with %d", asked, MOST_WORKERS, MOST_WORKERS)
    return MOST_WORKERS


def _outcome(request: Request) -> ClaudeResponse | ClaudeInvocationError:
    try:
        return run(request)
    except ClaudeInvocationError as error:
        return error
