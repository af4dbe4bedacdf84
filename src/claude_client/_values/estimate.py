"""What a fan-out will cost, before it is sent: its tokens as they were counted, and the dollars that come of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, NamedTuple

from claude_client._values.prices import PriceBook, Way
from claude_client._values.text import dollars
from claude_client._values.usage import Usage, price_of, total

#: How long the shared part of prompts is to stay in the cache; None: not at all.
Lifetime = Literal["5m", "1h"] | None


@dataclass(frozen=True, slots=True)
class System:
    """A system prompt of their own that some prompts have."""

    tokens: int
    requests: int
    lifetime: Lifetime


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that are asked of one model in one way, and begin alike."""

    way: Way
    requests: int
    #: The tokens that all of them begin with, tools and the shared system prompt; and the fewest that the model caches.
    shared: int
    lifetime: Lifetime
    least: int
    systems: tuple[System, ...]
    #: The tokens of all messages together, the part of them that is marked for the cache, and what both may be off by.
    messages: float
    marked: float
    error: float
    #: Sum of their `max_tokens`.
    most_output: int
    #: Most requests at once.
    workers: int

    def cached(self, lifetime: Lifetime) -> Group:
        """The same with its shared part to be cached so long, and nothing else."""
        systems = tuple([replace(system, lifetime=None) for system in self.systems])
        return replace(self, lifetime=lifetime, systems=systems, marked=0.0)

    def usage(self, output: float, *, off: float = 0.0) -> Usage:
        """What it will use, with so many tokens of *output* in all, if the messages are *off* by so many tokens."""
        uses = [*self._uses(off)]
        write = sum(tokens for kind, tokens in uses if kind in {"5m", "1h"})
        return Usage(
            input_tokens=round(sum(tokens for kind, tokens in uses if kind == "plain")),
            output_tokens=round(output),
            cache_creation_input_tokens=round(write),
            cache_read_input_tokens=round(sum(tokens for kind, tokens in uses if kind == "read")),
            cache_creation_1h_input_tokens=round(sum(tokens for kind, tokens in uses if kind == "1h")),
        )

    def _uses(self, off: float) -> Iterator[tuple[str, float]]:
        """Numbers of tokens, each after how it will be billed."""
        is_cached = self.lifetime and self.requests and self.shared >= self.least
        if is_cached:  # one writes it, before the others read it
            yield from ((str(self.lifetime), self.shared), ("read", self.shared * (self.requests - 1)))
        else:
            yield "plain", self.shared * self.requests
        for system in self.systems:  # nobody waits: those that are sent first all write it
            writers = min(system.requests, self.workers) if system.lifetime else 0
            if system.lifetime and self.shared + system.tokens >= self.least:
                yield from (
                    (system.lifetime, system.tokens * writers),
                    ("read", system.tokens * (system.requests - writers)),
                )
            else:
                yield "plain", system.tokens * system.requests
        whole = self.shared + (self.messages + sum(one.tokens * one.requests for one in self.systems)) / self.requests
        marked = self.marked if whole >= self.least else 0.0
        yield from (("5m", marked), ("plain", max(0.0, self.messages - marked + off)))


class Choice(NamedTuple):
    """A way to ask the same prompts, and what it would cost in dollars, as in `Estimate`."""

    model: str
    batch: bool
    cache: Lifetime
    usd_low: float
    usd_likely: float | None
    usd_high: float


class Comparison(list["Choice"]):
    """The `Choice`s of `Estimate.compare`, the cheapest first. It prints as a table, and shows itself in a notebook."""

    def __str__(self) -> str:
        rows = [_HEAD, *map(_cells, self)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column < _TEXTS else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        from claude_client._values import html

        return html.grid(_HEAD, [_cells(choice) for choice in self], texts=_TEXTS)


_HEAD = ("model", "way", "cache", "at least", "likely", "at most")
_TEXTS = 3  # of its columns are texts


def _cells(choice: Choice) -> tuple[str, ...]:
    likely = "?" if choice.usd_likely is None else dollars(choice.usd_likely)
    way, cache = "batch" if choice.batch else "live", choice.cache or "none"
    return (choice.model, way, cache, dollars(choice.usd_low), likely, dollars(choice.usd_high))


class Output(NamedTuple):
    """Tokens that an answer is expected to have: at least, and likely. None: not known."""

    least: float = 0.0
    likely: float | None = None


class Estimate:
    """
    What a fan-out will use and cost, as `estimate_cost` found it.

    `usage_low` and `usd_low` are those of its input alone, or with the shortest answers that were expected;
    `usage_likely` and `usd_likely` those of what was expected, None where nothing was; `usage_high` and `usd_high`
    those of answers of `max_tokens` each. Retries and failures are in none of them. It prints as a table.

    Args:
        groups, output, book: The prompts as they were counted, what is known of their answers, and the prices.

        recount: Counts the same prompts for another model.

        offline: Whether tokens were guessed from characters.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        output: Output,
        book: PriceBook,
        recount: Callable[[str], Sequence[Group]],
        *,
        offline: bool = False,
    ) -> None:
        self._groups = groups
        self._output = output
        self._book = book
        self._recount = recount
        self._offline = offline

    def _of(self, groups: Sequence[Group]) -> Estimate:
        return Estimate(groups, self._output, self._book, self._recount, offline=self._offline)

    @property
    def requests(self) -> int:
        """Number of requests."""
        return sum(group.requests for group in self._groups)

    @property
    def input_error(self) -> float:
        """The input tokens by which a sample may be off, in 95 of 100 cases; 0 where all were counted."""
        return math.sqrt(sum(group.error**2 for group in self._groups))

    @property
    def usage_low(self) -> Usage:
        """Tokens at the least."""
        return total(usage for _, usage in self._usages("low"))

    @property
    def usage_likely(self) -> Usage | None:
        """Tokens that are likely; None where nothing is known of the answers."""
        return None if self._output.likely is None else total(usage for _, usage in self._usages("likely"))

    @property
    def usage_high(self) -> Usage:
        """Tokens at the most."""
        return total(usage for _, usage in self._usages("high"))

    @property
    def usd_low(self) -> float:
        """Dollars at the least."""
        return self._usd("low")

    @property
    def usd_likely(self) -> float | None:
        """Dollars that are likely; None where nothing is known of the answers."""
        return None if self._output.likely is None else self._usd("likely")

    @property
    def usd_high(self) -> float:
        """Dollars at the most."""
        return self._usd("high")

    @property
    def by_model(self) -> dict[str, Estimate]:
        """The estimate for the prompts of each model."""
        return {model: self._of(groups) for model, groups in self._by_model().items()}

    def compare(self, models: Iterable[str] = ()) -> Comparison:
        """
        The same prompts asked in other ways: with what they share cached not at all, for 5 minutes or for an hour; live
        or as a batch; and by each of *models*, besides those that they name, whose tokens are counted anew.

        Raises:
            ValueError: For a model whose price is not known.
            ClaudeInvocationError: If its tokens cannot be counted.
        """
        counted = self._by_model()
        counted |= {model: self._recount(model) for model in models if model not in counted}
        choices = [
            self._choice(model, groups, batch, lifetime)
            for model, groups in counted.items()
            for batch in (False, True)
            for lifetime in _LIFETIMES
        ]
        return Comparison(sorted(filter(None, choices), key=lambda one: (one.usd_high, one.usd_low)))

    def _by_model(self) -> dict[str, Sequence[Group]]:
        models = dict.fromkeys(group.way.model for group in self._groups)
        return {model: [group for group in self._groups if group.way.model == model] for model in models}

    def _choice(self, model: str, groups: Sequence[Group], batch: bool, lifetime: Lifetime) -> Choice | None:
        ways = [replace(group.cached(lifetime), way=group.way._replace(batch=batch)) for group in groups]
        same = self._of(ways)
        try:
            return Choice(model, batch, lifetime, same.usd_low, same.usd_likely, same.usd_high)
        except LookupError:  # as of fast mode in a batch
            return None

    def _usages(self, case: Literal["low", "likely", "high"]) -> Iterator[tuple[Group, Usage]]:
        for group in self._groups:
            sampled = group.error * {"low": -1, "likely": 0, "high": 1}[case]
            output = {
                "low": self._output.least * group.requests,
                "likely": (self._output.likely or 0.0) * group.requests,
                "high": group.most_output,
            }[case]
            yield group, group.usage(min(output, group.most_output), off=sampled)

    def _usd(self, case: Literal["low", "likely", "high"]) -> float:
        costs = []
        for group, usage in self._usages(case):
            prices = self._book.of(group.way)
            costs.append(price_of(usage, prices.rates(prices.step(usage.total_input_tokens // group.requests))))
        return float(sum(costs, Decimal()))

    def __str__(self) -> str:
        return "\n".join(f"{name:<8} {told}" for name, told in self._told())

    def _repr_html_(self) -> str:
        """The same as a table."""
        from claude_client._values import html

        return html.facts(self, self._told())

    def _told(self) -> Iterator[tuple[str, str]]:
        models = dict.fromkeys(group.way.model for group in self._groups)
        yield "requests", f"{self.requests:,} to {', '.join(models)}"
        used = self.usage_high if not self.input_error else total(group.usage(0) for group in self._groups)
        parts = {
            "written to the cache": used.cache_creation_input_tokens,
            "read from it": used.cache_read_input_tokens,
        }
        cached = "".join(f", {tokens:,} of them {what}" for what, tokens in parts.items() if tokens)
        off = " (guessed)" if self._offline else f" \u00b1 {self.input_error:,.0f}" if self.input_error else ""
        yield "input", f"{used.total_input_tokens:,} tokens{off}{cached}"
        likely = f"likely {self.usage_likely.output_tokens:,}, " if self.usage_likely else ""
        yield "output", f"{likely}at most {self.usage_high.output_tokens:,} tokens"
        expected = f"likely {dollars(self.usd_likely)}, " if self.usd_likely is not None else ""
        least = "at least" if self._output.least else "input alone"
        yield "cost", f"{expected}{least} {dollars(self.usd_low)}, at most {dollars(self.usd_high)}"


_LIFETIMES: tuple[Lifetime, ...] = (None, "5m", "1h")
