"""Fan-outs: many prompts at once. Each verb is its policy over one `Run`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from claude_client._engine.jobs import jobs_of
from claude_client._engine.threads import Outcome, Run
from claude_client._sdk.client import shared_client
from claude_client._values.interrupt import InterruptToken
from claude_client._values.options import Content, TextCallback
from claude_client._values.request import DEFAULT_MODEL, Request, build_requests, check_callback, whole_number
from claude_client._values.results import ParallelInterrupt, ParallelInvocationError, Results

from .progress import progress_of

_log = logging.getLogger("claude_client")

MOST_WORKERS = 10

ResultCallback = Callable[[int, Outcome], object]


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
    interrupt_token: InterruptToken | None = None,
    on_result: ResultCallback | None = None,
    progress: bool = False,
) -> Results:
    """
    Ask all *prompts* at once and return their answers in the same order.

    One failure never costs another prompt's answer: all are asked to the end. Only a failure that every other would
    share (a spend limit, a refused key) stops what has not started, with the same error.

    Args:
        prompts:
            Dicts with a `prompt` (or `messages`) and any parameter of `invoke_claude` for that prompt alone. A
            `task_id` or `category` is allowed and not sent.

        model, max_tokens, max_retries, timeout: For prompts that do not set their own, as in `invoke_claude`.

        max_workers: Most requests under way at once, at most 10; more is clamped, with a logged warning.

        shared_system: A system prompt for all. A prompt's own `system` follows it.

        cache_shared_system:
            Put a cache breakpoint at the end of *shared_system*. One request then goes first, and the others follow
            as soon as its answer begins, so that the shared part is paid for once and read from the cache after that.

        return_exceptions: Put errors into the list, in their prompts' places, instead of raising.

        interrupt_token:
            Ends the run when it is interrupted, within 100 ms. The answers there are are returned and nothing is
            raised; the rest has errors of kind "interrupted" in `.errors`, with what had arrived.

        on_result:
            Called with index and answer (or error) of each prompt as it arrives, on this thread. What it raises is
            logged.

        progress: Show a bar, with failures, tokens and the share read from the cache. Needs the `progress` extra.

    Raises:
        ValueError: For bad input, before any request, naming the prompt (`prompts[2]: ...`) and what was got; or if
            there are no credentials, naming every place looked at.
        ImportError: For *progress* without its extra, before any request.
        ParallelInvocationError: Once all have ended and at least one failed, with `.results` and `.errors`.
        ParallelInterrupt: On Ctrl-C, a KeyboardInterrupt with `.results`.
    """
    results = _fan_out(
        build_requests(
            prompts,
            shared_system=shared_system,
            cache_shared_system=cache_shared_system,
            model=model,
            max_tokens=max_tokens,
            max_retries=max_retries,
            timeout=timeout,
        ),
        max_workers=max_workers,
        token=interrupt_token,
        on_result=on_result,
        progress=progress,
    )
    return results.with_errors() if return_exceptions else _whole(results)


def invoke_parallel_streaming(
    prompts: Sequence[Mapping[str, Any]],
    callbacks: Sequence[TextCallback | None] | None = None,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    max_retries: int = 2,
    timeout: float | None = None,
    return_exceptions: bool = False,
    interrupt_token: InterruptToken | None = None,
    on_result: ResultCallback | None = None,
    progress: bool = False,
) -> Results:
    """
    Like `invoke_parallel`, and call `callbacks[i]` with each chunk of text of `prompts[i]` as it arrives.

    Args:
        callbacks:
            One for each prompt, or None for a prompt nobody listens to. Each is called in order and by one thread at a
            time, but not by this one, and two of them may run at once. One that raises fails its own prompt only, with
            an error of kind "callback" whose cause it is. None to stream without looking.

    Raises:
        ValueError: Also if there are not as many callbacks as prompts.
        TypeError: If one cannot be called.
    """
    requests = build_requests(
        prompts,
        shared_system=shared_system,
        cache_shared_system=cache_shared_system,
        model=model,
        max_tokens=max_tokens,
        max_retries=max_retries,
        timeout=timeout,
        streaming=True,
    )
    results = _fan_out(
        requests,
        callbacks=_checked_callbacks(callbacks, len(requests)),
        max_workers=max_workers,
        token=interrupt_token,
        on_result=on_result,
        progress=progress,
    )
    return results.with_errors() if return_exceptions else _whole(results)


def invoke_parallel_interruptible(
    prompts: Sequence[Mapping[str, Any]],
    interrupt_token: InterruptToken | None = None,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    max_retries: int = 2,
    timeout: float | None = None,
    return_exceptions: bool = False,
    on_result: ResultCallback | None = None,
    progress: bool = False,
) -> Results:
    """
    Like `invoke_parallel` with an *interrupt_token*: a prompt that is unfinished when it is interrupted gives None.

    From `interrupt()` to the return it takes at most 100 ms, whether requests are queued, connecting, waiting for the
    first byte, in the middle of a stream or between attempts; the server sees their connections close. Looking up a
    host's name and callbacks while they run are not reached.
    """
    return invoke_parallel(
        prompts,
        model=model,
        max_tokens=max_tokens,
        max_workers=max_workers,
        shared_system=shared_system,
        cache_shared_system=cache_shared_system,
        max_retries=max_retries,
        timeout=timeout,
        return_exceptions=return_exceptions,
        interrupt_token=interrupt_token,
        on_result=on_result,
        progress=progress,
    )


def _fan_out(
    requests: Sequence[Request],
    *,
    max_workers: int,
    token: InterruptToken | None,
    on_result: ResultCallback | None,
    progress: bool,
    callbacks: Sequence[TextCallback | None] | None = None,
) -> Results:
    check_callback("on_result", on_result)
    workers = workers_of(max_workers)
    with shared_client() as client, progress_of(len(requests), shown=progress) as move_bar:
        callback_of = callbacks.__getitem__ if callbacks else lambda _: None
        jobs, cache_gate = jobs_of(client, dict(enumerate(requests)), callback_of=callback_of)

        def on_outcome(index: int, outcome: Outcome) -> None:
            move_bar(outcome)
            if on_result:
                on_result(index, outcome)

        run = Run(jobs, max_workers=workers, gates=[cache_gate], on_outcome=on_outcome)
        try:
            run.to_the_end(token)
        except KeyboardInterrupt as interrupt:
            raise ParallelInterrupt(*interrupt.args, results=Results.of(run.settled(), interrupted=True)) from None
    return Results.of(run.outcomes, interrupted=run.interrupted)


def _whole(results: Results) -> Results:
    """*results*, unless a prompt failed in a run that was not interrupted."""
    if results.errors and not results.interrupted:
        raise ParallelInvocationError.of(results) from results.errors[min(results.errors)]
    return results


def _checked_callbacks(callbacks: Any, prompts: int) -> Sequence[TextCallback | None] | None:
    if callbacks is None:
        return None
    if not isinstance(callbacks, Sequence) or len(callbacks) != prompts:
        got = f"{len(callbacks)}" if isinstance(callbacks, Sequence) else f"a {type(callbacks).__name__}"
        raise ValueError(f"callbacks must be a list of one for each of the {prompts} prompts, got {got}")
    for i, callback in enumerate(callbacks):
        check_callback(f"callbacks[{i}]", callback)
    return callbacks


def workers_of(asked: int, most: int = MOST_WORKERS) -> int:
    """How many workers to have where *asked* are wanted, and *most* are allowed."""
    if whole_number("max_workers", asked, 1) <= most:
        return asked
    _log.warning("max_workers=%d is more than the %d allowed: working with %d", asked, most, most)
    return most
