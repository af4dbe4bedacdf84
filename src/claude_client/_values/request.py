"""The request value that every call becomes, and the only place that knows what is valid in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from claude_client._values.breakpoints import MOST_BREAKPOINTS, count_breakpoints, marked
from claude_client._values.budget import Budget, budget_of
from claude_client._values.checks import number, seconds, text, type_name, whole_number
from claude_client._values.content import (
    Block,
    as_blocks,
    content_blocks,
    has_files,
    json_values,
    message_list,
    size,
    to_json_value,
    user_turn,
)
from claude_client._values.context import running
from claude_client._values.loop import Loop, LoopOptions, loop_of
from claude_client._values.models import lacks_structured_output, most_output
from claude_client._values.options import Content
from claude_client._values.output import OutputType, output_of
from claude_client._values.retry import PLAIN, RetryPolicy

DEFAULT_MODEL = "claude-sonnet-4-6"

# The SDK expects more tokens than these to take over ten minutes, and refuses them without a stream.
_MOST_IN_ONE_PIECE = 128_000 * 10 // 60
_CHARACTERS_PER_TOKEN = 4

#: Seconds that calls wait at the most for a sign of life of the one that writes their prefix to the cache.
CACHE_PATIENCE = 20.0

#: Seconds for which a model may be held back until the next is asked, where there is one.
FALLBACK_AFTER = 30.0

_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt prefix that ends in a cache breakpoint. Equal prefixes share one cache entry."""

    digest: bytes
    #: Seconds that the API keeps the entry after each use.
    lifetime: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call, valid as far as can be known before it is sent. Build it with `build`; change nothing in it."""

    model: str
    max_tokens: int
    messages: list[Block]
    system: str | list[Block] | None = None
    #: Everything else for the API, sampling included, under the API's names.
    params: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold a key
    extra_query: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Seconds, or the SDK's Timeout; None leaves it to the client.
    timeout: Any = None
    retry: RetryPolicy = PLAIN
    streaming: bool = False
    #: Whether there are paths of files in its messages or system prompt, which are read when it is sent.
    has_files: bool = False
    #: How many of the first blocks of `system` are shared with other requests.
    shared_blocks: int = 0
    #: The prefix that it shares with other requests of its fan-out, if waiting until one has written it pays.
    prefix: Prefix | None = None
    #: Seconds without a sign of life of the call that writes it, after which another may.
    cache_patience: float = CACHE_PATIENCE
    #: Seconds that all of it may take, waits and retries included; None: any time.
    deadline: float | None = None
    #: How often the API has rejected it with a 429 so far.
    refused: int = 0
    task_id: str | None = None
    category: str | None = None
    #: What its answer is to be, which is in `params` too; None for a text.
    output: OutputType | None = None
    output_retries: int = 0
    #: What it may cost, with all that shares them: money has to be free in each.
    budgets: tuple[Budget, ...] = ()
    #: Whether it is asked as one of a batch.
    batch: bool = False
    #: What to ask in its place, one after another, if its model cannot answer: requests of which `in_place_of` takes
    #: what is about the model.
    fallbacks: tuple[Request, ...] = ()
    #: Seconds for which its model may be held back until the next is asked.
    fallback_after: float = FALLBACK_AFTER
    #: Whether an answer that was cut off is asked for again with more `max_tokens`.
    grow_max_tokens: bool = False
    #: How it goes on by itself; None: it ends with its answer.
    loop: Loop | None = None

    @property
    def must_stream(self) -> bool:
        """True if a stream was asked for, or the answer may be longer than the SDK takes in one piece."""
        return self.streaming or self.max_tokens > _MOST_IN_ONE_PIECE

    @property
    def estimated_tokens(self) -> int:
        """The input tokens, roughly: a quarter of the characters of all text. The rate gate corrects it."""
        return (size(self.messages) + size(self.system)) // _CHARACTERS_PER_TOKEN

    def continued(self, content: Sequence[Block]) -> Request:
        """The request that lets a paused answer go on: the same, with *content* as the assistant's turn so far."""
        return replace(self, messages=[*self.messages, {"role": "assistant", "content": list(content)}])

    def mended(self, answer: str, problem: str) -> Request:
        """The request to answer again, as what is wrong with the *answer* is the *problem*."""
        again = f"That answer cannot be used: {problem}\nAnswer again, as a whole, without it."
        more = [{"role": "assistant", "content": answer}, {"role": "user", "content": again}]
        return replace(self, messages=[*self.messages, *more])

    @property
    def most_output_tokens(self) -> Any:
        """The `max_tokens` that it is sent with."""
        return self.extra_body.get("max_tokens", self.max_tokens)

    def in_place_of(self, asked: Request) -> Request:
        """The request that asks the model of this one, in its way, for what was *asked*."""
        return replace(
            asked,
            model=self.model,
            max_tokens=self.max_tokens,
            params=self.params,
            extra_headers=self.extra_headers,
            extra_query=self.extra_query,
            extra_body=self.extra_body,
            output=self.output,
            prefix=self.prefix,
            fallbacks=(),
            refused=0,
        )

    def grown(self) -> Request | None:
        """
        The same with four times the `max_tokens`, or as many as the model takes; None where it has those, or its body
        is the caller's.
        """
        most = max(self.max_tokens, most_output(self.model))
        is_most = self.max_tokens == most or "max_tokens" in self.extra_body
        return None if is_most else replace(self, max_tokens=min(4 * self.max_tokens, most))

    def sharing(self, shared: Sequence[Block]) -> Request:
        """
        The same with *shared* before its own system prompt.

        Raises:
            ValueError: If it has more cache breakpoints then than the API takes.
        """
        if not shared:
            return self
        request = replace(self, system=[*shared, *as_blocks(self.system)], shared_blocks=len(shared))
        check_breakpoints(request)
        return request


def build(
    *,
    fallback_models: Sequence[str | Mapping[str, Any]] = (),
    fallback_after: float = FALLBACK_AFTER,
    **options: Any,
) -> Request:
    """
    A valid `Request` of *options*, as `_build` takes them, and what to ask in its place.

    Args:
        fallback_models: Names of models, or dicts with a `model` and the options that are others for it.

        fallback_after: Seconds for which a model may be held back until the next is asked.

    Raises:
        ValueError: For a value that cannot be sent; the message shows it.
    """
    request = _build(**options)
    if not fallback_models:
        return request
    if "model" in request.extra_body:
        raise ValueError("extra_body has a 'model', and fallback_models name others: say the first as model=")
    if isinstance(fallback_models, (str, Mapping)) or not isinstance(fallback_models, Sequence):
        raise ValueError(f"fallback_models must be a list of models, got {fallback_models!r}")
    of_model = {name: value for name, value in options.items() if name not in _NOT_OF_A_MODEL}
    if "output_config" not in request.params:
        of_model |= {name: request.params[name] for name in of_model if name in request.params}
    fallbacks = [_fallback(i, model, of_model) for i, model in enumerate(fallback_models)]
    return replace(
        request, fallbacks=tuple(fallbacks), fallback_after=number("fallback_after", fallback_after, 0, math.inf)
    )


def _fallback(i: int, said: Any, options: Mapping[str, Any]) -> Request:
    own = {"model": said} if isinstance(said, str) else said
    where = f"fallback_models[{i}]"
    if not isinstance(own, Mapping) or "model" not in own:
        raise ValueError(f"{where} must be a model, or a dict with a 'model', got {said!r}")
    if wrong := own.keys() & _NOT_OF_A_MODEL:
        raise ValueError(f"{where} has {min(wrong)!r}, which is the same for all models of a prompt")
    options = {name: value for name, value in {**options, **own}.items() if name not in own or value is not None}
    try:
        return _build(prompt="what was asked", **options)
    except ValueError as bad:
        raise ValueError(f"{where}: {bad}") from bad.__cause__


# What a fallback has of the request in whose place it is asked.
_NOT_OF_A_MODEL = {"prompt", "messages", "system", "cache_system", "cache_prompt", "streaming", "budget_usd"}
_NOT_OF_A_MODEL |= {"max_retries", "outage_patience", "cache_patience", "retry", "timeout", "deadline", "task_id"}
_NOT_OF_A_MODEL |= {"category", "output_retries", "grow_max_tokens", "fallback_models", "fallback_after"}
_NOT_OF_A_MODEL |= {*LoopOptions._fields}


def _build(
    *,
    prompt: Content | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    max_retries: int = PLAIN.max_retries,
    outage_patience: float | None = None,
    cache_patience: float = CACHE_PATIENCE,
    retry: RetryPolicy = PLAIN,
    timeout: Any = None,
    deadline: float | None = None,
    task_id: str | None = None,
    category: str | None = None,
    output: Any = None,
    output_retries: int = 0,
    grow_max_tokens: bool = False,
    budget_usd: Any = None,
    batch: bool = False,
    tools: Any = None,
    extra_headers: Mapping[str, Any] | None = None,
    extra_query: Mapping[str, Any] | None = None,
    extra_body: Mapping[str, Any] | None = None,
    **params: Any,
) -> Request:
    """
    A valid `Request` that shares nothing with the caller's objects. *params* are those of `LoopOptions`; all others are
    taken as they are.

    Args:
        retry: The policy of retries; *max_retries*, and *outage_patience* unless None, replace its own.

    Raises:
        ValueError: For a value that cannot be sent; the message shows it.
    """
    if temperature != 1.0 or isinstance(temperature, bool):  # the API's default; newer models refuse the parameter
        params["temperature"] = number("temperature", temperature, 0, 1)
    wanted = output_of(output)
    if wanted:
        _check_takes_output(text("model", model))
        params["output_config"] = _with_format(params.get("output_config"), wanted)
    above = running()
    going_on = {name: params.pop(name) for name in LoopOptions._fields if name in params} if params else {}
    loop = None
    if tools is not None or going_on:
        loop, definitions = loop_of(tools, model, LoopOptions(**going_on), above.depth if above else 0)
        if tools is not None:
            params["tools"] = definitions
    turns, blocks = _messages(prompt, messages, mark=cache_prompt), system_blocks(system, mark=cache_system)
    budget = budget_of(budget_usd)
    budgets = (budget,) if budget else ()
    is_text = messages is None and isinstance(prompt, str) and isinstance(system, str | None)
    request = Request(
        model=text("model", model),
        max_tokens=whole_number("max_tokens", max_tokens, 1),
        messages=turns,
        system=blocks,
        has_files=not is_text and (has_files(turns) or has_files(blocks)),
        params=json_values(params) if params else _NONE,
        extra_headers=_NONE if extra_headers is None else _headers(extra_headers),
        extra_query=_NONE if extra_query is None else _mapping("extra_query", extra_query),
        extra_body=_NONE if extra_body is None else _extra_body(extra_body),
        timeout=_timeout(timeout),
        retry=retry.but(
            max_retries=whole_number("max_retries", max_retries, 0),
            outage_patience=outage_patience if outage_patience is None else _patience(outage_patience),
        ),
        cache_patience=seconds("cache_patience", cache_patience),
        deadline=deadline if deadline is None else seconds("deadline", deadline),
        streaming=bool(streaming),
        task_id=task_id,
        category=_category(category),
        output=wanted,
        output_retries=whole_number("output_retries", output_retries, 0),
        grow_max_tokens=bool(grow_max_tokens),
        budgets=budgets if above is None else tuple(dict.fromkeys((*budgets, *above.budgets))),
        batch=batch,
        loop=loop,
    )
    if batch and loop:
        raise ValueError("a batch runs no tools and sends one request for each prompt: ask prompts with tools live")
    if params or extra_body or not is_text:
        check_breakpoints(request)  # texts have none but the two that may have been added here
    return request


def system_blocks(system: Content | None, *, mark: bool, name: str = "system") -> str | list[Block] | None:
    """*system* copied and, with *mark*, ending in a cache breakpoint."""
    if system is None or isinstance(system, str):
        plain: str | None = to_json_value(system)
        return marked(as_blocks(plain)) if mark else plain if plain and plain.strip() else None
    blocks = content_blocks(name, system)
    return marked(blocks) if mark else blocks


def check_breakpoints(request: Request) -> int:
    """
    Count the cache breakpoints of *request*.

    Raises:
        ValueError: If those are more than the API takes.
    """
    automatic = 1 if request.params.get("cache_control") or request.extra_body.get("cache_control") else 0
    parts = (request.params.get("tools"), request.system, request.messages)
    found = automatic + sum([count_breakpoints(part) for part in parts if part])
    if found > MOST_BREAKPOINTS:
        raise ValueError(f"at most {MOST_BREAKPOINTS} cache breakpoints are allowed, got {found}")
    return found


def _check_takes_output(model: str) -> None:
    if lacks_structured_output(model):
        raise ValueError(
            f"{model} has no structured output, which models have from 4.5 on: ask it for JSON in the prompt, and read "
            "the answer with extract_json()"
        )


def _with_format(config: Any, wanted: OutputType) -> dict[str, Any]:
    """The `output_config` that asks for *wanted*, beside what else *config* says."""
    if not isinstance(config, Mapping | None):
        raise ValueError(f"output_config must be a dict, got {type_name(config)}")
    if config and config.get("format") is not None:
        raise ValueError("output= and output_config={'format': ...} both say what the answer is to be: say one")
    return {**(config or {}), "format": {"type": "json_schema", "schema": wanted.schema}}


def _messages(prompt: Any, messages: Any, *, mark: bool) -> list[Block]:
    turns = [user_turn(prompt)] if messages is None else message_list(messages)
    if mark:
        last = turns[-1]
        turns[-1] = {**last, "content": marked(as_blocks(last["content"]))}
    return turns


def _headers(value: Any) -> Mapping[str, Any]:
    for name, item in _checked_mapping("extra_headers", value).items():
        if not isinstance(name, str) or not (isinstance(item, str) or type(item).__name__ == "Omit"):
            raise ValueError(f"extra_headers must have texts as names and values, got {type_name(item)} for {name!r}")
    return _mapping("extra_headers", value)


def _extra_body(value: Any) -> Mapping[str, Any]:
    body = _mapping("extra_body", value)
    if "stream" in body:
        raise ValueError("extra_body must not set 'stream': use streaming=True or invoke_claude_streaming()")
    return body


def _timeout(value: Any) -> Any:
    if value is None or type(value).__name__ == "Timeout":
        return value
    return seconds("timeout", value)


def _patience(value: Any) -> float:
    return number("outage_patience", value, 0, math.inf)


def _category(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"category must be a str or None, got {value!r}")


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    """A copy of *value*."""
    mapping = _checked_mapping(name, value)
    try:
        return json_values(mapping)
    except ValueError as bad:
        raise ValueError(f"{name}: {bad}") from bad.__cause__


def _checked_mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a dict, got {type_name(value)}")
    return value
