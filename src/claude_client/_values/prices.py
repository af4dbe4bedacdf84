"""The list prices of models, as genai-prices knows them."""

from __future__ import annotations

import re
from bisect import bisect_left
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

#: What inference in the US alone adds to the price of all tokens. genai-prices does not know it.
_US_SURCHARGE = Decimal("0.1")


class ListPrices:
    """
    The prices of a model for requests in fast mode, in a batch or in the US alone, or for plain ones.

    Raises:
        LookupError: If they are not known.
        ImportError: Without the `cost` extra.
    """

    def __init__(self, model: str, fast: bool, batch: bool, in_us: bool) -> None:
        try:
            from genai_prices import Usage, calc_price
        except ImportError as missing:
            raise ImportError("costs need genai-prices: pip install genai-prices") from missing
        provider, name = _listed(model)
        context = {"speed": "fast"} if fast else {"processing": "batch"} if batch else {}
        self._prices = calc_price(Usage(), name, provider_id=provider, price_context=context).model_price
        if context and self._prices == calc_price(Usage(), name, provider_id=provider).model_price:
            raise LookupError(f"no price of {model} for {context}")
        self._surcharge = _US_SURCHARGE if in_us else 0
        self._steps = sorted(
            {tier.start for price in vars(self._prices).values() for tier in getattr(price, "tiers", ())}
        )

    def step(self, prompt: int) -> int:
        """The number of the step of prices that a *prompt* of so many tokens is on, 0 for the lowest."""
        return bisect_left(self._steps, prompt)

    def price(self, usage: dict[str, Any], step: int) -> Decimal:
        """The price in dollars of a *usage* of the API, or of the sum of several that are on one *step*."""
        from genai_prices import extract_usage

        counts = extract_usage({"usage": usage}, provider_id="anthropic").usage
        found = self._on(step).calc_price(counts)
        return found["total_price"] + self._surcharge * (found["input_price"] + found["output_price"])

    def _on(self, step: int) -> ModelPrice:
        from genai_prices.types import ModelPrice, TieredPrices

        passed = self._steps[:step]
        return ModelPrice(
            **{
                name: next((tier.price for tier in reversed(price.tiers) if tier.start in passed), price.base)
                if isinstance(price, TieredPrices)
                else price
                for name, price in vars(self._prices).items()
            }
        )


def _listed(model: str) -> tuple[str, str]:
    """The seller of *model* and its name there; Bedrock and Vertex have their own, and longer ones around them."""
    name = model.rpartition("/")[2]
    if re.match(r"([\w-]+\.)?anthropic\.claude", name):
        return "aws", name
    return "google" if "@" in name or name != model else "anthropic", name
