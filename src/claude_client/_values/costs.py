"""What the prompts of a run have cost in all, and what became of the money."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.prices import PriceBook, Way
from claude_client._values.response import ClaudeResponse
from claude_client._values.text import dollars
from claude_client._values.usage import Bill, exact_cost_of


class Costs(NamedTuple):
    """Dollars by list prices."""

    total: float
    by_model: dict[str, float]
    #: What was saved by reading from the cache, less what writing to it cost more.
    saved_by_cache: float
    #: What requests cost whose answers are of no use: of prompts that failed, and those that were made again.
    wasted: float

    def __str__(self) -> str:
        parts = {"saved by the cache": self.saved_by_cache, "wasted": self.wasted}
        told = ", ".join(f"{dollars(part)} {what}" for what, part in parts.items() if part)
        return f"{dollars(self.total)} ({told})" if told else dollars(self.total)


def costs_of(outcomes: Iterable[ClaudeResponse | ClaudeInvocationError | None]) -> Costs | None:
    """
    The costs of *outcomes*; None if a price is not known.

    Raises:
        ImportError: Without the `cost` extra.
    """
    book = PriceBook()
    bills: defaultdict[str, list[Bill]] = defaultdict(list)
    wasted: list[Bill] = []
    for outcome in outcomes:
        for attempt in outcome.attempts if outcome is not None else ():
            for bill in attempt.bills:
                bills[bill.model].append(bill)
            if isinstance(outcome, ClaudeInvocationError) or attempt.outcome != "ok":
                wasted += attempt.bills
    try:
        by_model = {model: exact_cost_of(of_model, book) for model, of_model in bills.items()}
        saved = sum((_saved(bill, book) for of_model in bills.values() for bill in of_model), Decimal())
        return Costs(
            float(sum(by_model.values())),
            {model: float(cost) for model, cost in by_model.items() if cost},
            float(saved),
            float(exact_cost_of(wasted, book)),
        )
    except LookupError:
        return None


def _saved(bill: Bill, book: PriceBook) -> Decimal:
    usage = bill.usage
    if not (usage.cache_read_input_tokens or usage.cache_creation_input_tokens):
        return Decimal()
    prices = book.of(Way(bill.model, bill.fast, bill.batch, bill.in_us))
    rates = prices.rates(prices.step(usage.total_input_tokens))
    written_1h = usage.cache_creation_1h_input_tokens
    return (
        usage.cache_read_input_tokens * (rates.input - rates.cache_read)
        - max(0, usage.cache_creation_input_tokens - written_1h) * (rates.cache_write - rates.input)
        - written_1h * (rates.cache_write_1h - rates.input)
    )
