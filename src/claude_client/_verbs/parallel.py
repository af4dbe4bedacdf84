"""Fan-outs: many prompts at once. Each verb is its policy over one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

from claude_client._values.budget import Budget
from claude_client._values.checks import check_callback
from claude_client._values.interrupt import InterruptToken
from claude_client._values.options import Content, FanOutOptions, ResultCallback, TextCallback
from claude_client._values.partial import with_partial_output
from claude_client._values.record import RunRecord, now
from claude_client._values.request import DEFAULT_MODEL, Request
from claude_client._values.results import ParallelInvocationError, Results
from claude_client._verbs.fan_out import (
    MOST_WORKERS,
    Outcome,
    Run,
    check_stop_after,
    report_outcomes,
    run_of,
    workers_of,
)
from claude_client._verbs.last import remember, remembered
from claude_client._verbs.progress import progress_of
from claude_client._verbs.requests import asked_of, build_requests, for_all


def invoke_parallel(
    prompts: Sequence[Mapping[str, Any]],
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[FanOutOptions],
) -> Results:
    """
    Ask all *prompts* at once and return their answers in the same order.

    One failure never costs another prompt's answer: all are asked to the end. Only a failure that every other would
    share (a spend limit, a refused key) stops what has not started, with the same error.

    Args:
        prompts:
            Dicts with a `prompt` (or `messages`) and any parameter of `invoke_claude` for that prompt alone. A
            `task_id` or `category` is allowed and not sent.

        model, max_tokens: For prompts that do not set their own, as in `invoke_claude`.

        max_workers:
            Most requests under way at once, at most 10; more is clamped, with a logged warning. For more:
            `as_completed`, `claude_client.aio` and managed runs take up to 1000.

        shared_system: A system prompt for all. A prompt's own `system` follows it.

        cache_shared_system:
            Put a cache breakpoint at the end of *shared_system*. One request then goes first, and the others follow
            as soon as its answer begins, so that the shared part is paid for once and read from the cache after that.

        interrupt_token:
            Ends the run when it is interrupted, within 100 ms. The answers there are are returned and nothing is
            raised; the rest has errors of kind "interrupted" in `.errors`, with what had arrived.

        options:
            Any parameter of `invoke_claude` for all prompts that do not set their own: `system`, `temperature`,
            `max_retries=2`, `timeout`, `tools` ...
            `return_exceptions=False`: put errors into the list, in their prompts' places, instead of raising. A prompt
            that cannot be sent is then an error of kind "invalid_request", and the others are asked.
            `on_result=None`: called with index and answer (or error) of each prompt as it arrives, on this thread. It
            delays no request; what it raises is logged.
            `budget_usd=None`: dollars that all of it may cost; what does not fit ends with kind "budget", and then
            nothing is raised for any. `fallback_models=[...]`: models to ask where the one before cannot answer.
            `share_identical=False`: ask once what is equal in all that decides the answer.
            `stop_after=None`: stop once so many prompts in a row have ended by failures of one kind; what has not begun
            then ends by the same, unsent.
            `progress=False`: show a bar of what was answered or has failed, with failures, tokens, the share read from
            the cache, and what an early end left over. Needs the `progress` extra.

    Raises:
        ValueError: For bad input, before any request, naming each bad prompt (`prompts[2]: ...`) and what was got; or
            if there are no credentials, naming every place looked at.
        TypeError: For an unknown option.
        ImportError: For *progress* without its extra, before any request.
        ParallelInvocationError: Once all have ended and at least one failed, with `.results` and `.errors`.
        ParallelInterrupt: On Ctrl-C, a KeyboardInterrupt with `.results`.
        BaseException: Whatever else a signal handler raises, or *on_result* that is no `Exception`, as itself. What was
            answered is in `last_results()` then.
    """
    said = for_all(model, max_tokens, shared_system, cache_shared_system, options)
    return fan_out(prompts, max_workers, interrupt_token, **said)


def invoke_parallel_streaming(
    prompts: Sequence[Mapping[str, Any]],
    callbacks: Sequence[TextCallback | None] | None = None,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    interrupt_token: InterruptToken | None = None,
    on_output: Callable[[int, Any], object] | None = None,
    **options: Unpack[FanOutOptions],
) -> Results:
    """
    Like `invoke_parallel`, and call `callbacks[i]` with each chunk of text of `prompts[i]` as it arrives.

    Args:
        callbacks:
            One for each prompt, or None for a prompt nobody listens to. Each is called in order and by one thread at a
            time, but not by this one, and two of them may run at once. One that raises fails its own prompt only, with
            an error of kind "callback" whose cause it is. None to stream without looking.

        on_output:
            Called with the index of a prompt, and with what there is so far of its answer as data (`output=`), as in
            `invoke_claude_streaming`; after its callback, on the same thread.

    Raises:
        ValueError: Also if there are not as many callbacks as prompts.
        TypeError: Also if one cannot be called.
    """
    said = for_all(model, max_tokens, shared_system, cache_shared_system, {"streaming": True, **options})
    return fan_out(prompts, max_workers, interrupt_token, callbacks, on_output, **said)


def invoke_parallel_interruptible(
    prompts: Sequence[Mapping[str, Any]],
    interrupt_token: InterruptToken | None = None,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    **options: Unpack[FanOutOptions],
) -> Results:
    """
    Like `invoke_parallel` with an *interrupt_token*: a prompt that is unfinished when it is interrupted gives None.

    It is the same run, for whom the token is what matters: a second name, and a place for the token.

    From `interrupt()` to the return it takes at most 100 ms, whether requests are queued, connecting, waiting for the
    first byte, in the middle of a stream or between attempts; the server sees their connections close. Looking up a
    host's name and callbacks while they run are not reached.
    """
    return invoke_parallel(
        prompts,
        model,
        max_tokens,
        max_workers,
        shared_system,
        cache_shared_system,
        interrupt_token=interrupt_token,
        **options,
    )


def fan_out(
    prompts: Sequence[Mapping[str, Any]],
    max_workers: int,
    token: InterruptToken | None,
    callbacks: Sequence[TextCallback | None] | None = None,
    on_output: Callable[[int, Any], object] | None = None,
    *,
    return_exceptions: bool = False,
    on_result: ResultCallback | None = None,
    share_identical: bool = False,
    stop_after: int | None = None,
    progress: bool = False,
    budget_usd: Budget | None = None,
    most_workers: int = MOST_WORKERS,
    **said: Any,
) -> Results:
    """The fan-out behind all its verbs, with as many workers as *most_workers* allows."""
    began = now()
    built = build_requests(prompts, return_exceptions=return_exceptions, budget_usd=budget_usd, **said)
    callbacks = _checked_callbacks(callbacks, len(built))
    check_callback("on_output", on_output)
    if on_output:
        listeners = callbacks or [None] * len(built)
        callbacks = [with_partial_output(one, partial(on_output, index)) for index, one in enumerate(listeners)]
    check_callback("on_result", on_result)
    check_stop_after(stop_after)
    workers = workers_of(max_workers, most_workers)
    asked = {index: request for index, request in enumerate(built) if isinstance(request, Request)}
    about = asked_of(prompts, said["model"], said.get("category"))
    outcomes: dict[int, Outcome] = {index: bad for index, bad in enumerate(built) if not isinstance(bad, Request)}

    def results_of(run: Run | None, *, interrupted: bool) -> Results:
        ended = {**outcomes, **(run.outcomes if run else {})}
        state = budget_usd.state if budget_usd else None
        return Results.of(ended, interrupted=interrupted, run=RunRecord(began, now(), about, state))

    with progress_of(len(built), workers, shown=progress) as bar:
        show = partial(report_outcomes, move_bar=bar, on_result=on_result) if bar or on_result else None
        hold = bar.hold if bar else None
        report_outcomes(outcomes, bar, on_result)
        if asked:
            with (
                run_of(
                    asked,
                    callbacks=callbacks,
                    max_workers=workers,
                    on_outcomes=show,
                    on_hold=hold,
                    share_identical=share_identical,
                    stop_after=stop_after,
                    name="invoke_parallel",
                ) as run,
                remembered(lambda: results_of(run, interrupted=True)),
            ):
                run.run(token)
                results = results_of(run, interrupted=run.interrupted)
        else:
            results = results_of(None, interrupted=False)
    if return_exceptions:
        results = results.with_errors()
    raising = bool(results.errors) and not (results.interrupted or results.out_of_budget or return_exceptions)
    remember(results, returned=not raising)
    if raising:
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
