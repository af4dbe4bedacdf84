"""What tokens cost: the list prices of models, as genai-prices knows them, and those that a caller names."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from claude_client._values.checks import number

#: What inference in the US alone adds to the price of all tokens. genai-prices does not know it.
_US_SURCHARGE = Decimal("1.1")

_MILLION = 1_000_000


class Rates(NamedTuple):
    """Dollars per token of each kind, and per web search."""

    input: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal
    output: Decimal
    web_search: Decimal


class Way(NamedTuple):
    """The model that is asked, and how: what decides its prices."""

    model: str
    fast: bool = False
    batch: bool = False
    in_us: bool = False


class Prices(Protocol):
    """The prices of one way to ask."""

    def step(self, prompt: int) -> int:
        """The number of the step of prices that a *prompt* of so many tokens is on, 0 for the lowest."""

    def rates(self, step: int) -> Rates:
        """The rates on that *step*."""


class ListPrices:
    """
    The list prices of a way to ask.

    Raises:
        LookupError: If they are not known.
        ImportError: Without the `cost` extra.
    """

    def __init__(self, way: Way) -> None:
        try:
            from genai_prices import Usage, calc_price
        except ImportError as missing:
            raise ImportError("costs need genai-prices: pip install genai-prices") from missing
        if way.fast and way.batch:
            raise LookupError("there is no fast mode in batches")
        provider, name = _listed(way.model)
        context = {"speed": "fast"} if way.fast else {"processing": "batch"} if way.batch else {}
        self._prices = calc_price(Usage(), name, provider_id=provider, price_context=context).model_price
        if context and self._prices == calc_price(Usage(), name, provider_id=provider).model_price:
            raise LookupError(f"no price of {way.model} for {context}")
        self._in_us = way.in_us
        self._steps = sorted(
            {tier.start for price in vars(self._prices).values() for tier in getattr(price, "tiers", ())}
        )

    def step(self, prompt: int) -> int:
        return bisect_left(self._steps, prompt)

    def rates(self, step: int) -> Rates:
        rates = _rates(tuple(self._on(step).items()))
        return _in_us(rates) if self._in_us else rates

    def _on(self, step: int) -> dict[str, Decimal | None]:
        """The prices on *step*, by the names of genai-prices."""
        from genai_prices.types import TieredPrices

        passed = self._steps[:step]
        return {
            name: next((tier.price for tier in reversed(price.tiers) if tier.start in passed), price.base)
            if isinstance(price, TieredPrices)
            else price
            for name, price in vars(self._prices).items()
        }


class GivenPrices:
    """
    The prices of a way to ask, as a caller has given them: the same for prompts of any length, half of them in a batch.

    Raises:
        LookupError: For fast mode, whose prices nobody has given.
    """

    def __init__(self, given: Rates, way: Way) -> None:
        if way.fast:
            raise LookupError(f"no price of {way.model} in fast mode was given")
        half = Rates(*(rate / 2 for rate in given))._replace(web_search=given.web_search)
        rates = half if way.batch else given
        self._rates = _in_us(rates) if way.in_us else rates

    def step(self, prompt: int) -> int:  # noqa: ARG002 - there is one
        return 0

    def rates(self, step: int) -> Rates:  # noqa: ARG002
        return self._rates


class PriceBook:
    """
    The prices of all models for as long as it is kept: those *given*, and the list prices.

    Args:
        given: Dollars per million tokens, by model: `input` and `output`, and, where they are not 1.25, 2 and 0.1 times
            that of input, `cache_write`, `cache_write_1h` and `cache_read`. They go before list prices.

    Raises:
        ValueError: For prices that are none; the message names them.
    """

    def __init__(self, given: Mapping[str, Mapping[str, float]] | None = None) -> None:
        if not isinstance(given, Mapping | None):
            raise ValueError(f"prices must be a dict of models, got {given!r}")
        self._given = {model: _given_rates(model, prices) for model, prices in (given or {}).items()}
        self._known: dict[Way, Prices] = {}

    def gives(self, model: str) -> bool:
        """Whether the prices of *model* were given."""
        return model in self._given

    def of(self, way: Way) -> Prices:
        """
        The prices of *way*.

        Raises:
            LookupError: If they are not known.
            ImportError: Without the `cost` extra, where they were not given.
        """
        if way not in self._known:
            given = self._given.get(way.model)
            self._known[way] = ListPrices(way) if given is None else GivenPrices(given, way)
        return self._known[way]


_GIVEN = {"input", "output", "cache_write", "cache_write_1h", "cache_read"}


def _given_rates(model: str, prices: Any) -> Rates:
    if not isinstance(prices, Mapping) or not {"input", "output"} <= prices.keys() <= _GIVEN:
        raise ValueError(
            f"prices[{model!r}] must have 'input' and 'output', and may have 'cache_write', 'cache_write_1h' and "
            f"'cache_read', in dollars per million tokens, got {prices!r}"
        )
    dollars = {
        name: Decimal(str(number(f"prices[{model!r}][{name!r}]", price, 0, _MILLION))) / _MILLION
        for name, price in prices.items()
    }
    plain = dollars["input"]
    return Rates(
        input=plain,
        cache_write=dollars.get("cache_write", plain * 5 / 4),
        cache_write_1h=dollars.get("cache_write_1h", plain * 2),
        cache_read=dollars.get("cache_read", plain / 10),
        output=dollars["output"],
        web_search=Decimal("0.01"),
    )


@lru_cache(maxsize=256)
def _rates(prices: tuple[tuple[str, Decimal | None], ...]) -> Rates:
    """What a token of each kind costs by *prices*, in which what costs the same as another may be left out."""
    from genai_prices import extract_usage
    from genai_prices.types import ModelPrice

    model_price = ModelPrice(**dict(prices))

    def price(**usage: Any) -> Decimal:
        counts = extract_usage({"usage": {"input_tokens": 0, "output_tokens": 0, **usage}}, provider_id="anthropic")
        return Decimal(model_price.calc_price(counts.usage)["total_price"]) / _MILLION

    def written(*, lasting_an_hour: bool) -> Decimal:
        split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
        split["ephemeral_1h_input_tokens" if lasting_an_hour else "ephemeral_5m_input_tokens"] = _MILLION
        return price(cache_creation_input_tokens=_MILLION, cache_creation=split)

    return Rates(
        input=price(input_tokens=_MILLION),
        cache_write=written(lasting_an_hour=False),
        cache_write_1h=written(lasting_an_hour=True),
        cache_read=price(cache_read_input_tokens=_MILLION),
        output=price(output_tokens=_MILLION),
        web_search=price(server_tool_use={"web_search_requests": _MILLION}),
    )


def _in_us(rates: Rates) -> Rates:
    tokens = Rates(*(rate * _US_SURCHARGE for rate in rates))
    return tokens._replace(web_search=rates.web_search)


def _listed(model: str) -> tuple[str, str]:
    """The seller of *model* and its name there; Bedrock and Vertex have their own, and longer ones around them."""
    name = model.rpartition("/")[2]
    if re.match(r"([\w-]+\.)?anthropic\.claude", name):
        return "aws", name
    return "google" if "@" in name or name != model else "anthropic", name
