"""Valid requests from what callers say: the names they may use, and the defaults that a fan-out has for its prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from claude_client._sdk.parameters import create_parameters
from claude_client._values.budget import Budget, budget_of, ledger_of
from claude_client._values.checks import type_name
from claude_client._values.content import Block, as_blocks, loaded
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.options import Content, PromptSpec
from claude_client._values.record import Asked
from claude_client._values.redaction import hide_headers
from claude_client._values.request import Request, build, system_blocks
from claude_client._values.retry import PLAIN, RetryPolicy

_MOST_NAMED = 10  # bad prompts in one message

_PROMPT_KEYS = frozenset(PromptSpec.__annotations__)
# The keys of one prompt alone.
_OF_ONE_PROMPT = frozenset({"prompt", "messages", "task_id"})


def build_request(retry: RetryPolicy = PLAIN, /, **options: Any) -> Request:
    """
    A valid `Request` from the names that a verb takes.

    Args:
        retry: How to try again, but for the `max_retries`.

    Raises:
        ValueError: For a value that cannot be sent; the message shows it.
        TypeError: For a name that neither we nor the SDK know.
    """
    check_names(options)
    return _affordable(build(retry=retry, **options))


def build_requests(
    prompts: Sequence[Mapping[str, Any]], *, return_exceptions: bool = False, **options: Any
) -> tuple[Request | ClaudeInvocationError, ...]:
    """
    A `Request` for each of *prompts*; with *return_exceptions*, an error for one that cannot be sent. *options* are as
    in `request_builder`.

    Raises:
        ValueError: Naming all prompts that cannot be sent (`prompts[2]: ...`), and what was got; for anything but a
            non-empty sequence too.
        TypeError: For an option that neither we nor the SDK know.
    """
    builder = request_builder(**options)
    built = tuple(request_or_error(builder, index, spec) for index, spec in enumerate(prompt_list(prompts)))
    bad = [error.args[0] for error in built if isinstance(error, ClaudeInvocationError)]
    if bad and not return_exceptions:
        more = f"; and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        raise ValueError("; ".join(bad[:_MOST_NAMED]) + more)
    return built


def request_or_error(
    builder: Callable[[int, Mapping[str, Any]], Request], index: int, spec: Mapping[str, Any]
) -> Request | ClaudeInvocationError:
    """What *builder* makes of the prompt *spec*; the error, of kind "invalid_request", if it cannot be sent."""
    try:
        return builder(index, spec)
    except ValueError as bad:
        error = ClaudeInvocationError(str(bad), kind="invalid_request")
        error.__cause__ = bad
        return error


def request_builder(
    retry: RetryPolicy = PLAIN,
    /,
    *,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    budget_usd: Budget | None = None,
    batch: bool = False,
    **defaults: Any,
) -> Callable[[int, Mapping[str, Any]], Request]:
    """
    Return a function that makes the `Request` of the prompt at an index, with *defaults* for what it does not say.

    Args:
        retry: As in `build_request`.

        batch: Whether it is for a message batch.

    Raises:
        TypeError: For a default that no prompt could set.
    """
    check_names(defaults)
    for name in defaults.keys() & _OF_ONE_PROMPT:
        raise TypeError(f"{name!r} is for one prompt alone: say it in the prompt's own dict")
    shared = loaded(as_blocks(system_blocks(shared_system, mark=cache_shared_system, name="shared_system")))
    budgets = (budget_usd,) if budget_usd else ()
    return lambda index, spec: _build_one(index, spec, shared, budgets, {**defaults, "retry": retry, "batch": batch})


def for_all(
    model: str, max_tokens: int, shared_system: Content | None, cache_shared_system: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect all that a fan-out says for its prompts; a budget is one for all of them."""
    hide_headers(options)
    named = {"model": model, "max_tokens": max_tokens}
    shared = {"shared_system": shared_system, "cache_shared_system": cache_shared_system}
    return {**named, **shared, **options, "budget_usd": budget_of(options.get("budget_usd"))}


def asked_of(prompts: Iterable[Any], model: str, category: str | None) -> list[Asked]:
    """What *prompts* say of themselves, for the records of a run whose own *model* and *category* those are."""
    return [
        Asked(spec.get("task_id"), spec.get("category", category), spec.get("model", model))
        if isinstance(spec, Mapping)
        else Asked()
        for spec in prompts
    ]


def prompt_list(prompts: Any) -> Sequence[Any]:
    """
    *prompts* themselves.

    Raises:
        ValueError: For anything but a sequence with something in it.
    """
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Sequence):
        raise ValueError(f"prompts must be a list of dicts, got {type_name(prompts)}")
    if not prompts:
        raise ValueError("prompts is empty: there is nothing to ask")
    return prompts


def listed(prompts: Any) -> Any:
    """*prompts* as a list, where they are an iterable of another kind; else as they are."""
    is_other = isinstance(prompts, Iterable) and not isinstance(prompts, (str, bytes, Mapping, Sequence))
    return [*prompts] if is_other else prompts


def check_names(options: Mapping[str, Any]) -> None:
    """Raise a TypeError for the first name in *options* that neither we nor the SDK know."""
    for model in _dicts_in(options.get("fallback_models")):
        check_names(model)
    if _PROMPT_KEYS.issuperset(options):
        return
    if "stream" in options:
        raise TypeError(
            "stream= is not taken: use invoke_claude_streaming(..., callback=...), "
            "or streaming=True for the same answer in one piece"
        )
    for name in options.keys() - _PROMPT_KEYS:
        known = create_parameters() | _PROMPT_KEYS
        if name not in known:
            raise TypeError(f"unknown parameter {name!r}{_meant(name, known)}")


def _dicts_in(fallback_models: Any) -> list[Mapping[str, Any]]:
    several = fallback_models if isinstance(fallback_models, (list, tuple)) else ()
    return [one for one in several if isinstance(one, Mapping)]


def _build_one(
    index: int,
    spec: Mapping[str, Any],
    shared: Sequence[Block],
    budgets: tuple[Budget, ...],
    defaults: Mapping[str, Any],
) -> Request:
    where = f"prompts[{index}]"
    if not isinstance(spec, Mapping):
        raise ValueError(f"{where} is {type_name(spec)}, not a dict such as {{'prompt': ...}}")
    if spec.get("prompt") is None and spec.get("messages") is None:
        raise ValueError(f"{where} has no 'prompt'")
    known = _PROMPT_KEYS | (create_parameters() if spec.keys() - _PROMPT_KEYS else frozenset())
    for key in spec:
        if key not in known:
            raise ValueError(f"{where} has an unknown key {key!r}{_meant(key, known)}")
    for model in _dicts_in(spec.get("fallback_models")):
        if wrong := model.keys() - _PROMPT_KEYS - create_parameters():
            raise ValueError(f"{where} has an unknown key {min(wrong)!r} in fallback_models")
    try:
        request = build(**{**defaults, **spec}).sharing(shared)
        every = tuple(dict.fromkeys((*budgets, *request.budgets)))
        return _affordable(replace(request, budgets=every) if budgets else request)
    except ValueError as bad:
        raise ValueError(f"{where}: {bad}") from None


def _affordable(request: Request) -> Request:
    """
    *request* itself.

    Raises:
        ValueError: If it has a budget, and what it may cost cannot be known.
        ImportError: The same, without the `cost` extra.
    """
    for budget in request.budgets:
        for one in (request, *(fallback.in_place_of(request) for fallback in request.fallbacks)):
            ledger_of(budget).check(one)
    return request


def _meant(name: Any, known: frozenset[str]) -> str:
    if name == "stream":
        return ": use invoke_parallel_streaming(..., callbacks=...), or 'streaming': True for the same answer"
    import difflib

    close = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
