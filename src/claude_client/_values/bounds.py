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
    cache where it is marked for that, as many tokens answered as it allows, in the US where it does not say, as a
    workspace may have it so.

    Raises:
        LookupError: If the price of a model that may answer is not known.
        ImportError: Without the `cost` extra.
    """
    body = body_of(request)
    tokens = most_input_tokens(request)
    lifetimes = set(_lifetimes(body))
    cost = Decimal()
    for way, most in _models_of(request, body):
        prices = book.of(way._replace(in_us=body.get("inference_geo") in {None, "us"}))
        rates = prices.rates(prices.step(tokens))
        cost += tokens * _dearest(rates, lifetimes) + most * rates.output
    return cost


def body_of(request: Request) -> Mapping[str, Any]:
    """What *request* asks, as it is sent: the caller's own body replaces parts of it."""
    asked = {"model": request.model, "max_tokens": request.max_tokens, "messages": request.messages}
    return {**asked, "system": request.system, **request.params, **request.extra_body}


def ways_of(request: Request) -> list[Way]:
    """The model of *request*, and those that the API itself may ask in its place, each with how it is asked."""
    return [way for way, _ in _models_of(request, body_of(request))]


def most_input_tokens(request: Request) -> int:
    """
    The most tokens that the prompt of *request* can have: no text has more than bytes.

    What the tools of the API read is not in it.
    """
    body = body_of(request)
    others = {name: value for name, value in body.items() if name not in {"messages", "system", "model", "max_tokens"}}
    tokens = _most_tokens(body["messages"]) + _most_tokens(body["system"])
    if others:
        tokens += _OF_TOOLS + len(json.dumps(others, default=str).encode())
    return int(min(tokens, MOST_INPUT))


def is_unbounded(request: Request) -> str | None:
    """What *request* asks for that has no bound that is known before, as tools of the API; None for nothing."""
    body = body_of(request)
    for name in ("mcp_servers", "context_management"):
        if body.get(name):
            return name
    if isinstance(body.get("fallbacks"), str):
        return f"fallbacks={body['fallbacks']!r}"
    tools = body.get("tools") or ()
    types = [str(tool.get("type") or "custom") for tool in tools if isinstance(tool, Mapping)]
    return next((f"the tool {kind}" for kind in types if not kind.startswith(_OURS)), None)


def _models_of(request: Request, body: Mapping[str, Any]) -> list[tuple[Way, int]]:
    """Each model that may be asked, and how, with the most tokens that it answers."""
    model, most = body["model"], body["max_tokens"]
    most = most if isinstance(most, int) else request.max_tokens
    fast, in_us = body.get("speed") == "fast", body.get("inference_geo") == "us"
    asked = [(model if isinstance(model, str) else request.model, most)]
    others = body.get("fallbacks")
    for other in others if isinstance(others, (list, tuple)) else ():
        own = other if isinstance(other, Mapping) else {"model": other}
        if isinstance(own.get("model"), str):
            asked.append((own["model"], own["max_tokens"] if isinstance(own.get("max_tokens"), int) else most))
    return [(Way(name, fast, request.batch, in_us), tokens) for name, tokens in asked]


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


def _lifetimes(body: Mapping[str, Any]) -> Iterator[str]:
    """How long the cached parts of *body* are to be kept; nothing where none is marked."""
    automatic = {"cache_control": body.get("cache_control")}
    yield from _marks([body.get("tools"), body["system"], body["messages"], automatic])


def _marks(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from _marks(item)
    elif isinstance(part, dict):
        if mark := part.get("cache_control"):
            yield str(mark.get("ttl", "5m") if isinstance(mark, Mapping) else "1h")
        yield from _marks(part.get("content"))
