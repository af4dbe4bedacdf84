"""A single call with the backoff of managed runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from claude_client import ApiParams, Budget, ClaudeResponse, Content, InterruptToken
from claude_client._values.redaction import hide_headers
from claude_client._values.request import DEFAULT_MODEL
from claude_client._values.response import Data
from claude_client._values.retry import RetryPolicy, compute_backoff_delay
from claude_client._verbs.invoke import ask
from claude_client._verbs.requests import build_request

if TYPE_CHECKING:
    from typing_extensions import TypeForm

#: Seconds that a task waits at the most while everybody fails.
OUTAGE_PATIENCE = 600.0
CONTINUATION_MS = compute_backoff_delay(1, is_continuation=True) * 1000


def patient_policy(max_retries: int, base_delay_ms: float, max_delay_ms: float) -> RetryPolicy:
    """
    The retry policy of this package: at most *max_retries*, for any reason, and any `retry-after` is waited for.

    Raises:
        ValueError: If a delay is negative.
    """
    compute_backoff_delay(1, base_ms=base_delay_ms, max_ms=max_delay_ms)
    return RetryPolicy(
        max_retries=max_retries,
        base_ms=base_delay_ms,
        max_ms=max_delay_ms,
        longest_retry_after=math.inf,
        outage_patience=OUTAGE_PATIENCE,
        retries_per_turn=False,
    )


@overload
def invoke_with_retry(
    prompt: Content | None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    *,
    output: TypeForm[Data],
    max_retries: int = 3,
    base_delay_ms: float = 1000,
    max_delay_ms: float = 10000,
    is_continuation: bool = False,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    messages: Sequence[Mapping[str, Any]] | None = None,
    timeout: float | None = None,
    outage_patience: float | None = None,
    deadline: float | None = None,
    budget_usd: float | Budget | None = None,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[ApiParams],
) -> ClaudeResponse[Data]: ...
@overload
def invoke_with_retry(
    prompt: Content | None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    *,
    output: Mapping[str, Any] | None = None,
    max_retries: int = 3,
    base_delay_ms: float = 1000,
    max_delay_ms: float = 10000,
    is_continuation: bool = False,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    messages: Sequence[Mapping[str, Any]] | None = None,
    timeout: float | None = None,
    outage_patience: float | None = None,
    deadline: float | None = None,
    budget_usd: float | Budget | None = None,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[ApiParams],
) -> ClaudeResponse: ...
def invoke_with_retry(
    prompt: Content | None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    *,
    output: Any = None,
    max_retries: int = 3,
    base_delay_ms: float = 1000,
    max_delay_ms: float = 10000,
    is_continuation: bool = False,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    messages: Sequence[Mapping[str, Any]] | None = None,
    timeout: float | None = None,
    outage_patience: float | None = None,
    deadline: float | None = None,
    budget_usd: float | Budget | None = None,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[ApiParams],
) -> ClaudeResponse:
    """
    Like `claude_client.invoke_claude`, with more patience: a pause that the API asks for is waited for however long
    it is, with one line in the log where it is above a minute.

    Args:
        max_retries: How often to try again after a failure that may pass; 3 makes four requests at the most.

        base_delay_ms, max_delay_ms:
            Milliseconds to wait after the first failure, doubled after each other, and at the most; up to a quarter is
            added at random, but nothing above *max_delay_ms*. A `retry-after` of the API goes before them.

        outage_patience, deadline, budget_usd: As in `claude_client.CallOptions`. None for the first: 600.

        is_continuation: The call goes on with work that is under way: always wait 1 second.

    Raises:
        ValueError: For bad input, before any request, or if there are no credentials.
        ClaudeInvocationError: If there is no whole answer. What cannot succeed is not tried again.
    """
    hide_headers(options)
    policy = patient_policy(max_retries, base_delay_ms, max_delay_ms)
    if is_continuation:
        policy = patient_policy(max_retries, CONTINUATION_MS, CONTINUATION_MS)
    request = build_request(
        policy,
        prompt=prompt,
        model=model,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        streaming=streaming,
        cache_system=cache_system,
        cache_prompt=cache_prompt,
        messages=messages,
        max_retries=max_retries,
        timeout=timeout,
        outage_patience=outage_patience,
        deadline=deadline,
        budget_usd=budget_usd,
        output=output,
        **options,
    )
    return ask(request, token=interrupt_token)
