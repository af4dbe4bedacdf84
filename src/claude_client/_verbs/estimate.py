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
from functools import partial
from typing import Any, Unpack

from claude_client._gates.prefix import minimum_tokens, with_prefixes
from claude_client._sdk.client import check_credentials, shared_client
from claude_client._sdk.exchange import count_tokens
from claude_client._values.bounds import ways_of
from claude_client._values.checks import number, whole_number
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.estimate import Counted, Estimate, Output, Row
from claude_client._values.fingerprint import question_of
from claude_client._values.layout import Piece, bare_of, pieces_of
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
    asked = with_prefixes([replace(one, batch=batch) for one in requests if isinstance(one, Request)])
    if is_shared:
        asked = list({question_of(one) or index: one for index, one in enumerate(asked)}.values())
    for request in asked:
        _check_price(request, book)
    workers = workers_of(max_workers)

    def counted(chosen: Sequence[Request]) -> tuple[Sequence[Row], Mapping[str, float]]:
        if offline:
            return _counted(chosen, _guess, sample, seed)
        with shared_client() as client:
            check_credentials(client, [request.extra_headers for request in chosen])
            return _counted(chosen, lambda one: _count(client, one), sample, seed)

    def recount(other: str) -> tuple[Sequence[Row], Mapping[str, float]]:
        _check_price(replace(asked[0], model=other, params={}, extra_body={}), book)
        return counted(with_prefixes([replace(request, model=other, prefix=None) for request in asked]))

    return Estimate(*counted(asked), output, book, workers, recount, offline=offline)


def _expected(expected_output: float | None, like: Iterable[Any] | None) -> Output:
    if expected_output is not None:
        return Output(0.0, number("expected_output", expected_output, 0, math.inf))
    if like is None:
        return Output()
    if not isinstance(like, Iterable):
        raise ValueError(f"like must be results or the entries of a journal, got {like!r}")
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


def _counted(
    requests: Sequence[Request], count: Counter, sample: int, seed: int
) -> tuple[Sequence[Row], Mapping[str, float]]:
    """*requests*, counted: of the pieces of one kind that are unlike each other, all, or a sample for each model."""
    pieces = [pieces_of(request) for request in requests]
    alike: defaultdict[tuple[str, str], dict[bytes, tuple[Request, Sequence[Piece]]]] = defaultdict(dict)
    for request, parts in zip(requests, pieces, strict=True):
        for place, piece in enumerate(parts):
            alike[ways_of(request)[0].model, piece.kind].setdefault(piece.own, (request, parts[: place + 1]))
    tokens: dict[tuple[str, bytes], float] = {}
    errors: defaultdict[str, float] = defaultdict(float)
    with ThreadPoolExecutor(_COUNTS_AT_ONCE) as pool:
        bare: dict[str, int] = {}
        for request in requests:
            model = ways_of(request)[0].model
            if model not in bare:
                bare[model] = count(bare_of(request))
        for (model, _kind), distinct in alike.items():
            chosen = [*distinct]
            if len(chosen) > sample:
                chosen = random.Random(seed).sample(chosen, max(sample, 2))  # noqa: S311 - it is a sample
            found = [*pool.map(partial(_tokens_of, bare=bare[model], count=count), [distinct[own] for own in chosen])]
            tokens.update(((model, own), float(one)) for own, one in zip(chosen, found, strict=True))
            left = len(distinct) - len(chosen)
            if left:
                mean = statistics.fmean(found)
                tokens.update(((model, own), mean) for own in distinct if (model, own) not in tokens)
                spread = statistics.stdev(found) * math.sqrt(left / (len(chosen) * len(distinct)))
                errors[model] = math.hypot(errors[model], _SURE * spread * len(distinct))
    return [_row(request, parts, tokens) for request, parts in zip(requests, pieces, strict=True)], errors


def _tokens_of(found: tuple[Request, Sequence[Piece]], bare: int, count: Counter) -> int:
    """The tokens of the last piece of a request that was *found*: those of one that has it, less what else that has."""
    request, (*before, piece) = found
    whole = count(piece.alone(request))
    if piece.kind != "messages":
        return whole - bare
    return whole - (count(before[-1].alone(request)) if before and before[-1].kind == "messages" else 0)


def _row(request: Request, parts: Sequence[Piece], tokens: Mapping[tuple[str, bytes], float]) -> Row:
    way = ways_of(request)[0]
    return Row(
        way=way,
        pieces=[
            Counted(tokens[way.model, piece.own], piece.prefix, piece.lifetime, piece.kind != "messages")
            for piece in parts
        ],
        least=minimum_tokens(way.model),
        is_primed=request.prefix is not None,
        most_output=int(request.most_output_tokens or request.max_tokens),
    )


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
