"""The tokens that calls have used, and what they cost."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any, NamedTuple

from claude_client._values.prices import PriceBook, Prices, Rates, Way


@dataclass(frozen=True, slots=True)
class Usage:
    """
    Tokens used by one call or, added up, by many. Counts the API leaves out are 0.

    The numbers are the API's own. Its `input_tokens` are only those after the last cache breakpoint;
    `total_input_tokens` is the whole prompt.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    #: The part of `cache_creation_input_tokens` that was written to stay for an hour.
    cache_creation_1h_input_tokens: int = 0
    web_search_requests: int = 0

    @classmethod
    def of(cls, usage: Any) -> Usage:
        """All that the SDK's `usage` object says is billed. What is missing, or is no count, is 0."""
        return total(part for _, part in _parts(_fields_of(usage)))

    @property
    def total_input_tokens(self) -> int:
        """Number of tokens of the prompt: read from the cache, written to it, and neither."""
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens

    def __add__(self, other: Usage) -> Usage:
        return total((self, other))

    def cost_usd(self, model: str) -> float | None:
        """
        The price in dollars at *model*'s list price as genai-prices knows it; None for a model it does not know.

        As of one request in the standard way: some models cost more above a length of the prompt. The `cost_usd` of
        answers, results and conversations knows of each request how it was asked, and who answered.

        Raises:
            ImportError: Without the `cost` extra.
        """
        return cost_of([Bill(model, self)])

    def _repr_html_(self) -> str:
        """The counts as a table."""
        from claude_client._values import html

        return html.facts(self, ((field.name, getattr(self, field.name)) for field in fields(self)))


_counts = attrgetter(*(field.name for field in fields(Usage)))
_NO_USAGE = Usage()


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of *usages*."""
    first, *more = usages = [*usages] or [_NO_USAGE]
    return Usage(*map(sum, zip(*map(_counts, usages), strict=True))) if more else first


class Bill(NamedTuple):
    """Tokens of one request that have the prices of one model."""

    model: str
    usage: Usage
    #: Whether it was asked in fast mode, in a batch, or to stay in the US, which all have prices of their own.
    fast: bool = False
    batch: bool = False
    in_us: bool = False


def bills_of(message: Any, model: str, params: Mapping[str, Any]) -> tuple[Bill, ...]:
    """
    The bills for a request.

    Args:
        message: The API's message, or its fields, as far as it has arrived; None where nothing has.

        model, params: What was asked for; it counts where the message does not say.
    """
    said = _fields_of(message)
    used = _fields_of(said.get("usage"))
    fast, in_us = (
        (used.get(name) or params.get(name)) == value for name, value in (("speed", "fast"), ("inference_geo", "us"))
    )
    batch = used.get("service_tier") == "batch"
    answered = said.get("model")
    return tuple([Bill(_name(model, by or answered), part, fast, batch, in_us) for by, part in _parts(used)])


def cost_of(bills: Iterable[Bill], book: PriceBook | None = None) -> float | None:
    """
    The list price of *bills* in dollars, summed exactly and rounded once; None if one is not known. By *book*, which
    looks each price up once, for those that ask often.

    Raises:
        ImportError: Without the `cost` extra.
    """
    try:
        return float(exact_cost_of(bills, book or PriceBook()))
    except LookupError:
        return None


def exact_cost_of(bills: Iterable[Bill], book: PriceBook) -> Decimal:
    """
    The price of *bills* in dollars by the prices of *book*.

    Raises:
        LookupError: If one is not known.
        ImportError: Without the `cost` extra.
    """
    alike: defaultdict[Way, list[Usage]] = defaultdict(list)
    for model, usage, fast, batch, in_us in bills:
        if usage != _NO_USAGE:
            alike[Way(model, fast, batch, in_us)].append(usage)
    return sum((_price_of_all(book.of(way), usages) for way, usages in alike.items()), Decimal())


def _price_of_all(prices: Prices, usages: Iterable[Usage]) -> Decimal:
    """The price of requests that were asked in one way. Those whose prompts are on one step are priced as one."""
    steps: defaultdict[int, list[Usage]] = defaultdict(list)
    for usage in usages:
        steps[prices.step(usage.total_input_tokens)].append(usage)
    return sum((price_of(total(on_step), prices.rates(step)) for step, on_step in steps.items()), Decimal())


def price_of(usage: Usage, rates: Rates) -> Decimal:
    """The price of *usage* in dollars at *rates*."""
    written_1h = usage.cache_creation_1h_input_tokens
    return (
        usage.input_tokens * rates.input
        + max(0, usage.cache_creation_input_tokens - written_1h) * rates.cache_write
        + written_1h * rates.cache_write_1h
        + usage.cache_read_input_tokens * rates.cache_read
        + usage.output_tokens * rates.output
        + usage.web_search_requests * rates.web_search
    )


def _name(asked: str, answered: Any) -> str:
    """The name to look up: that of the model that *answered*, and where, if it was *asked* at Bedrock."""
    if not isinstance(answered, str):
        return asked
    at_bedrock = re.search(r"(?:[\w-]+\.)?anthropic\.(?=claude)", asked)
    return at_bedrock[0] + answered if at_bedrock and answered.startswith("claude") else answered


def _parts(said: Mapping[str, Any]) -> list[tuple[Any, Usage]]:
    """
    The billed parts of the API's usage *said*, each after the model that it names; None: the one that answered.

    Where there are `iterations`, they are all that was sampled. The counts beside them leave out what compacted the
    prompt and what another model advised.
    """
    iterations = said.get("iterations")
    if not isinstance(iterations, list) or not iterations:
        return [(None, _usage(said))]
    parts = [(part.get("model"), _usage(part)) for part in map(_fields_of, iterations)]
    return [(None, Usage(web_search_requests=_searches(said))), *parts]


def _usage(said: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=_count(said.get("input_tokens")),
        output_tokens=_count(said.get("output_tokens")),
        cache_creation_input_tokens=_count(said.get("cache_creation_input_tokens")),
        cache_read_input_tokens=_count(said.get("cache_read_input_tokens")),
        cache_creation_1h_input_tokens=_count(_fields_of(said.get("cache_creation")).get("ephemeral_1h_input_tokens")),
        web_search_requests=_searches(said),
    )


def _searches(said: Mapping[str, Any]) -> int:
    return _count(_fields_of(said.get("server_tool_use")).get("web_search_requests"))


def _fields_of(said: Any) -> Mapping[str, Any]:
    """The fields of an object of the SDK, those that it does not know included, or of the dict it was made of."""
    if isinstance(said, dict):
        return said
    fields: Mapping[str, Any] = getattr(said, "__dict__", {})
    unknown = getattr(said, "__pydantic_extra__", None)
    return {**fields, **unknown} if unknown else fields


def _count(said: Any) -> int:
    """*said* if it is a count, else 0: a text or an infinity must not get into sums, nor into the rate gate."""
    return said if type(said) is int and said > 0 else 0
