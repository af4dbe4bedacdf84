"""The most that a request can use and cost, before it is sent: bounds rather than guesses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from claude_client._values.prices import PriceBook, Rates, Way

if TYPE_CHECKING:
    from claude_client._values.request import Request

#: No model takes a longer prompt.
MOST_INPUT = 1_000_000

_OF_A_BLOCK = 16  # tokens around the text of a block or a message
_OF_TOOLS = 1_500  # tokens of the API's own about tools, and about the form of an answer
_OF_AN_IMAGE = 5_000  # the API scales larger ones down
_TEXTS = {"text", "content"}  # sources of a document whose tokens are those of the text in them
# Tools with a type that the caller runs; what other such tools read is the API's to know.
_OURS = ("custom", "bash_", "text_editor_", "computer_", "memory_")


def worst_cost(request: Request, book: PriceBook) -> Decimal:
    """
    The most dollars that an attempt at *request* can cost by the prices of *book*: all of its prompt written to the
    cache where it is marked for that, and as many tokens answered as it allows.

    Raises:
        LookupError: If the price of a model that may answer is not known.
        ImportError: Without the `cost` extra.
    """
    tokens = most_input_tokens(request)
    body = {"max_tokens": request.max_tokens, **request.params, **request.extra_body}
    lifetimes = set(_lifetimes(request))
    cost = Decimal()
    for way in ways_of(request):
        prices = book.of(way)
        rates = prices.rates(prices.step(tokens))
        cost += tokens * _dearest(rates, lifetimes) + int(body["max_tokens"]) * rates.output
    return cost


def ways_of(request: Request) -> list[Way]:
    """The model of *request*, and those that the API itself may ask in its place, each with how it is asked."""
    body = {"model": request.model, **request.params, **request.extra_body}
    others = body.get("fallbacks")
    named = [other.get("model") if isinstance(other, Mapping) else other for other in others or ()]
    models = [body["model"], *(model for model in named if isinstance(model, str))]
    fast, in_us = body.get("speed") == "fast", body.get("inference_geo") == "us"
    return [Way(model, fast, request.batch, in_us) for model in models]


def most_input_tokens(request: Request) -> int:
    """
    The most tokens that the prompt of *request* can have: no text has more than bytes.

    What the tools of the API read is not in it.
    """
    others = {**request.params, **request.extra_body}
    tokens = _most_tokens(request.messages) + _most_tokens(request.system)
    if others:
        tokens += _OF_TOOLS + len(json.dumps(others, default=str).encode())
    return int(min(tokens, MOST_INPUT))


def has_unbounded_tools(request: Request) -> bool:
    """Whether *request* has tools of the API, whose results are input that nobody knows before."""
    tools = request.params.get("tools") or request.extra_body.get("tools") or ()
    return any(isinstance(tool, Mapping) and not str(tool.get("type") or "custom").startswith(_OURS) for tool in tools)


def _most_tokens(part: Any) -> float:
    if isinstance(part, str):
        return len(part.encode(errors="replace"))
    if isinstance(part, list):
        return sum(map(_most_tokens, part))
    if isinstance(part, dict):
        return _most_tokens_of_block(part)
    return MOST_INPUT if isinstance(part, os.PathLike) else _OF_A_BLOCK


def _most_tokens_of_block(block: dict[str, Any]) -> float:
    if block.get("type") == "image":
        return _OF_AN_IMAGE
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") not in _TEXTS:
        return MOST_INPUT  # a file whose pages nobody has counted
    return _OF_A_BLOCK + sum(map(_most_tokens, block.values()))


def _dearest(rates: Rates, lifetimes: set[str]) -> Decimal:
    written = [rates.cache_write_1h if lifetime == "1h" else rates.cache_write for lifetime in lifetimes]
    return max(rates.input, *written, rates.input)


def _lifetimes(request: Request) -> Iterator[str]:
    """How long the cached parts of *request* are to be kept; nothing where none is marked."""
    yield from _marks([request.params.get("tools"), request.system, request.messages])
    for body in (request.params, request.extra_body):
        if mark := body.get("cache_control"):
            yield str(mark.get("ttl", "5m"))


def _marks(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from _marks(item)
    elif isinstance(part, dict):
        if mark := part.get("cache_control"):
            yield str(mark.get("ttl", "5m"))
        yield from _marks(part.get("content"))
