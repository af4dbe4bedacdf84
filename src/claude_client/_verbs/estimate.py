"""What a fan-out will cost: its prompts are counted, and nothing is asked."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Unpack

from claude_client._gates.prefix import digest_of, minimum_tokens
from claude_client._sdk.client import check_credentials, shared_client
from claude_client._sdk.exchange import count_tokens
from claude_client._values.bounds import ways_of
from claude_client._values.breakpoints import count_breakpoints
from claude_client._values.checks import number, whole_number
from claude_client._values.content import as_blocks
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.estimate import Estimate, Group, Lifetime, Output, System
from claude_client._values.fingerprint import question_of
from claude_client._values.options import Content, FanOutOptions
from claude_client._values.prices import PriceBook
from claude_client._values.request import DEFAULT_MODEL, Request
from claude_client._values.response import ClaudeResponse
from claude_client._values.retry import RetryPolicy, next_delay
from claude_client._verbs.fan_out import workers_of
from claude_client._verbs.requests import build_requests, for_all

Counter = Callable[[Request], int]

_COUNTS_AT_ONCE = 8
_RETRY = RetryPolicy(max_retries=5)
_SURE = 1.96  # standard errors either way hold in 95 of 100 cases
_OF_THE_RUN = ("return_exceptions", "on_result", "stop_after", "progress", "budget_usd", "fallback_models")


def estimate_cost(
    prompts: Sequence[Mapping[str, Any]],
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    sample: int = 50,
    seed: int = 0,
    offline: bool = False,
    expected_output: float | None = None,
    like: Iterable[Any] | None = None,
    prices: Mapping[str, Mapping[str, float]] | None = None,
    batch: bool = False,
    **options: Unpack[FanOutOptions],
) -> Estimate:
    """
    What `invoke_parallel` with the same arguments will use and cost. No model is asked.

    Prompts are counted by the API's `count_tokens`, which is free and has a rate limit of its own: what they share
    once, the rest of each, or of a sample. What tools of the API will read is not known before, nor what will fail.

    Args:
        sample: Most prompts to count of each model; the others are taken to be like those on average.

        seed: What the sample is drawn by: the same prompts and seed give the same one.

        offline: Guess tokens from characters, four to one, and send nothing at all: that needs no key.

        expected_output: Tokens that an answer is likely to have. None: see *like*.

        like: Answers of a run like this one, as `Results` or as `orchestration.read_journal` gives them: theirs are
            the likely tokens. None, and no *expected_output*: what is likely is not told.

        prices: As in `Budget`.

        batch: At the prices of message batches.

        options: As in `invoke_parallel`.

    Raises:
        ValueError: For bad input, or a model whose price is not known.
        ImportError: Without the `cost` extra.
        ClaudeInvocationError: If the tokens cannot be counted.
    """
    whole_number("sample", sample, 1)
    output = _expected(expected_output, like)
    book = PriceBook(prices)
    said = for_all(model, max_tokens, shared_system, cache_shared_system, options)
    is_shared = said.pop("share_identical", False)
    requests = build_requests(prompts, **{name: value for name, value in said.items() if name not in _OF_THE_RUN})
    asked = [replace(one, batch=batch) for one in requests if isinstance(one, Request)]
    if is_shared:
        asked = list({question_of(one) or index: one for index, one in enumerate(asked)}.values())
    for request in asked:
        _check_price(request, book)
    workers = workers_of(max_workers)

    def groups_of(chosen: Sequence[Request]) -> tuple[Group, ...]:
        if offline:
            return _counted(chosen, _guess, sample, seed, workers)
        with shared_client() as client:
            check_credentials(client, [request.extra_headers for request in chosen])
            return _counted(chosen, lambda one: _count(client, one), sample, seed, workers)

    def recount(other: str) -> tuple[Group, ...]:
        return groups_of([_checked(replace(request, model=other), book) for request in asked])

    return Estimate(groups_of(asked), output, book, recount, offline=offline)


def _expected(expected_output: float | None, like: Iterable[Any] | None) -> Output:
    if expected_output is not None:
        return Output(0.0, number("expected_output", expected_output, 0, math.inf))
    if like is None:
        return Output()
    answers = [getattr(item, "outcome", item) for item in like]
    tokens = [answer.usage.output_tokens for answer in answers if isinstance(answer, ClaudeResponse)]
    if not tokens:
        raise ValueError("like= has no answers to learn from")
    return Output(float(min(tokens)), statistics.fmean(tokens))


def _check_price(request: Request, book: PriceBook) -> None:
    try:
        for way in ways_of(request):
            book.of(way)
    except LookupError as unknown:
        raise ValueError(
            f"no price of {request.model} is known: name it, as in "
            f'prices={{"{request.model}": {{"input": 3, "output": 15}}}}'
        ) from unknown


def _checked(request: Request, book: PriceBook) -> Request:
    _check_price(request, book)
    return request


def _counted(requests: Sequence[Request], count: Counter, sample: int, seed: int, workers: int) -> tuple[Group, ...]:
    """The groups of *requests* that begin alike, counted."""
    alike: defaultdict[tuple[str, bytes], list[Request]] = defaultdict(list)
    for request in requests:
        alike[request.model, digest_of(request)].append(request)
    of_model: defaultdict[str, int] = defaultdict(int)
    for request in requests:
        of_model[request.model] += 1
    with ThreadPoolExecutor(_COUNTS_AT_ONCE) as pool:
        return tuple(
            _group(group, lambda chosen: [*pool.map(count, chosen)], share * sample, seed, workers)
            for (model, _), group in alike.items()
            for share in [len(group) / of_model[model]]
        )


def _group(
    requests: Sequence[Request],
    counts: Callable[[Sequence[Request]], list[int]],
    sample: float,
    seed: int,
    workers: int,
) -> Group:
    """
    Args:
        counts: The tokens of each of some requests.

        sample: How many of *requests* to count.
    """
    first = requests[0]
    sampled = requests
    if len(requests) > sample:
        sampled = random.Random(seed).sample(requests, max(2, math.ceil(sample)))  # noqa: S311 - it is a sample
    own = [_without_system(_without_shared(request)) for request in sampled]
    tokens = counts(own)
    # What a request has besides its messages is the same for all that begin alike, or a system prompt of its own.
    [alone, whole] = counts([_without_system(_without_shared(first)), _without_own_system(first)])
    systems = _systems(requests, counts)
    mean = statistics.fmean(tokens)
    left_out = len(requests) - len(sampled)
    error = 0.0
    if left_out:
        spread = statistics.stdev(tokens) * math.sqrt((1 / len(sampled)) * (left_out / len(requests)))
        error = _SURE * spread * len(requests)
    messages = mean * len(requests)
    share_marked = sum(bool(count_breakpoints(request.messages)) for request in requests) / len(requests)
    way = ways_of(first)[0]
    return Group(
        way=way,
        requests=len(requests),
        shared=whole - alone,
        lifetime=_lifetime([*(first.params.get("tools") or ()), *as_blocks(first.system)[: first.shared_blocks]]),
        least=minimum_tokens(first.model),
        systems=systems,
        messages=messages,
        marked=messages * share_marked,
        error=error,
        most_output=sum(int(request.most_output_tokens) for request in requests),
        workers=workers,
    )


def _systems(requests: Sequence[Request], counts: Callable[[Sequence[Request]], list[int]]) -> tuple[System, ...]:
    """The system prompts of their own that *requests* have, each counted once."""
    alike: defaultdict[str, list[Request]] = defaultdict(list)
    for request in requests:
        if own := _own_system(request):
            alike[repr(own)].append(request)
    firsts = [_without_shared(group[0]) for group in alike.values()]
    with_system, without = counts(firsts), counts([_without_system(first) for first in firsts])
    return tuple(
        System(whole - alone, len(group), _lifetime(_own_system(group[0])))
        for group, whole, alone in zip(alike.values(), with_system, without, strict=True)
    )


def _lifetime(blocks: Sequence[Any]) -> Lifetime:
    marks = [block["cache_control"] for block in blocks if isinstance(block, dict) and block.get("cache_control")]
    return None if not marks else "1h" if marks[-1].get("ttl") == "1h" else "5m"


def _own_system(request: Request) -> list[Any]:
    return as_blocks(request.system)[request.shared_blocks :]


def _without_system(request: Request) -> Request:
    return replace(request, system=None, shared_blocks=0)


def _without_own_system(request: Request) -> Request:
    shared = as_blocks(request.system)[: request.shared_blocks]
    return replace(request, system=shared or None)


def _without_shared(request: Request) -> Request:
    params = {name: value for name, value in request.params.items() if name not in {"tools", "tool_choice"}}
    return replace(request, system=_own_system(request) or None, shared_blocks=0, params=params)


def _guess(request: Request) -> int:
    import json

    tools = request.params.get("tools")
    return request.estimated_tokens + (len(json.dumps(tools, default=str)) // 4 if tools else 0)


def _count(client: Any, request: Request) -> int:
    """The tokens of *request*, however often it takes to have them counted."""
    tries = 0
    while True:
        tries += 1
        try:
            return count_tokens(client, request)
        except ClaudeInvocationError as failed:
            delay = next_delay(failed, tries, _RETRY)
            if delay is None:
                raise
            time.sleep(delay)
