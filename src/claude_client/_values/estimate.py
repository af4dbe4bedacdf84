"""What a fan-out will cost, before it is sent: its prompts as they were counted, and the dollars that come of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, NamedTuple

from claude_client._values.checks import text
from claude_client._values.layout import Lifetime
from claude_client._values.prices import PriceBook, Way
from claude_client._values.text import dollars
from claude_client._values.usage import Usage, price_of, total

#: What of a prompt is cached: as it was asked, or what it shares with others, for so long.
Caching = Lifetime | Literal["as asked"]


class Counted(NamedTuple):
    """A piece of a prompt, counted."""

    tokens: float
    #: What is equal for prompts that are equal up to its end.
    prefix: bytes
    lifetime: Lifetime
    #: Whether it is of what comes before the messages.
    is_beginning: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt."""

    way: Way
    pieces: Sequence[Counted]
    #: The fewest tokens that its model caches.
    least: int
    #: Whether others that share its beginning wait until one has written it.
    is_primed: bool
    most_output: int


class _Uses(NamedTuple):
    """Tokens of a prompt, by how they are billed."""

    plain: float = 0.0
    written_5m: float = 0.0
    written_1h: float = 0.0
    read: float = 0.0

    @property
    def all(self) -> float:
        return sum(self)


def _uses_of(rows: Sequence[Row], workers: int) -> Iterator[_Uses]:
    """
    What the cache does for each of *rows*, asked in their order by so many *workers*: what one has written, those read
    that are not sent before its answer has begun.
    """
    written: dict[tuple[Way, bytes], int] = {}
    for number, row in enumerate(rows):
        marked = [place for place, piece in enumerate(row.pieces) if piece.lifetime]
        ends = [0.0]
        for piece in row.pieces:
            ends.append(ends[-1] + piece.tokens)
        reach = marked[-1] + 1 if marked else 0
        read = 0
        for place in range(reach):
            writer = written.get((row.way, row.pieces[place].prefix))
            waits = row.is_primed and row.pieces[place].is_beginning
            if writer is not None and (waits or writer + workers <= number):
                read = place + 1
        by_lifetime = {"5m": 0.0, "1h": 0.0}
        start = ends[read]
        for place in marked:
            if place >= read and ends[place + 1] >= row.least:
                by_lifetime[row.pieces[place].lifetime or "5m"] += ends[place + 1] - start
                start = ends[place + 1]
                written.setdefault((row.way, row.pieces[place].prefix), number)
        yield _Uses(ends[-1] - start, by_lifetime["5m"], by_lifetime["1h"], ends[read])


def _cached(rows: Sequence[Row], lifetime: Lifetime) -> list[Row]:
    """*rows* with what they share before their messages cached so long, and nothing else."""
    beginnings = [max((i for i, piece in enumerate(row.pieces) if piece.is_beginning), default=None) for row in rows]
    shared = Counter(
        (row.way, row.pieces[place].prefix) for row, place in zip(rows, beginnings, strict=True) if place is not None
    )
    return [
        replace(
            row,
            is_primed=True,
            pieces=[
                piece._replace(lifetime=lifetime if at == place and shared[row.way, piece.prefix] > 1 else None)
                for at, piece in enumerate(row.pieces)
            ],
        )
        for row, place in zip(rows, beginnings, strict=True)
    ]


class Choice(NamedTuple):
    """A way to ask the same prompts, and what it would cost in dollars, as in `Estimate`."""

    model: str
    batch: bool
    cache: Caching
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
        rows: The prompts as they were counted.

        errors: By how many tokens those of each model may be off, in 95 of 100 cases.

        output, book, workers: What is known of their answers, the prices, and how many are asked at once.

        recount: Counts the same prompts for another model.

        offline: Whether tokens were guessed from characters.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        errors: Mapping[str, float],
        output: Output,
        book: PriceBook,
        workers: int,
        recount: Callable[[str], tuple[Sequence[Row], Mapping[str, float]]],
        *,
        offline: bool = False,
    ) -> None:
        self._rows = rows
        self._errors = errors
        self._output = output
        self._book = book
        self._workers = workers
        self._recount = recount
        self._offline = offline

    def _of(self, rows: Sequence[Row], errors: Mapping[str, float] | None = None) -> Estimate:
        models = {row.way.model for row in rows}
        known = {model: error for model, error in (errors or self._errors).items() if model in models}
        return Estimate(rows, known, self._output, self._book, self._workers, self._recount, offline=self._offline)

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self._rows)

    @property
    def input_error(self) -> float:
        """The input tokens by which a sample may be off, in 95 of 100 cases; 0 where all were counted."""
        return math.sqrt(sum(error**2 for error in self._errors.values()))

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
        return {model: self._of(rows) for model, rows in self._by_model().items()}

    def compare(self, models: Iterable[str] = ()) -> Comparison:
        """
        The same prompts asked in other ways: with their cache as asked; with what they share before their messages
        cached not at all, for 5 minutes or for an hour; live or as a batch; and by each of *models*, besides those that
        they name, whose tokens are counted anew.

        Raises:
            ValueError: For a model whose price is not known.
            ClaudeInvocationError: If its tokens cannot be counted.
        """
        estimates = self.by_model
        for model in models:
            if text("a model", model) not in estimates:
                estimates[model] = self._of(*self._recount(model))
        choices = [
            estimate._choice(model, batch, caching)  # noqa: SLF001 - it is another of these
            for model, estimate in estimates.items()
            for batch in (False, True)
            for caching in _CACHINGS
        ]
        return Comparison(sorted(filter(None, choices), key=lambda one: (one.usd_high, one.usd_low)))

    def _by_model(self) -> dict[str, list[Row]]:
        rows: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self._rows:
            rows[row.way.model].append(row)
        return rows

    def _choice(self, model: str, batch: bool, caching: Caching) -> Choice | None:
        rows = [replace(row, way=row.way._replace(batch=batch)) for row in self._rows]
        if caching != "as asked":
            rows = _cached(rows, caching)
        same = self._of(rows)
        try:
            return Choice(model, batch, caching, same.usd_low, same.usd_likely, same.usd_high)
        except LookupError:  # as of fast mode in a batch
            return None

    def _usages(self, case: Literal["low", "likely", "high"]) -> Iterator[tuple[tuple[Way, int], Usage]]:
        """The tokens of prompts that are asked in one way, on one step of its prices."""
        uses: defaultdict[tuple[Way, int], list[tuple[_Uses, float]]] = defaultdict(list)
        for row, used in zip(self._rows, _uses_of(self._rows, self._workers), strict=True):
            output = {"low": self._output.least, "likely": self._output.likely or 0.0, "high": math.inf}[case]
            step = self._book.of(row.way).step(round(used.all))
            uses[row.way, step].append((used, min(output, row.most_output)))
        off = {model: error * {"low": -1, "likely": 0, "high": 1}[case] for model, error in self._errors.items()}
        for (way, step), together in uses.items():
            plain, written_5m, written_1h, read = map(sum, zip(*(used for used, _ in together), strict=True))
            yield (
                (way, step),
                Usage(
                    input_tokens=max(0, round(plain + off.pop(way.model, 0.0))),
                    output_tokens=round(sum(output for _, output in together)),
                    cache_creation_input_tokens=round(written_5m + written_1h),
                    cache_read_input_tokens=round(read),
                    cache_creation_1h_input_tokens=round(written_1h),
                ),
            )

    def _usd(self, case: Literal["low", "likely", "high"]) -> float:
        costs = (price_of(usage, self._book.of(way).rates(step)) for (way, step), usage in self._usages(case))
        return float(sum(costs, Decimal()))

    def __str__(self) -> str:
        return "\n".join(f"{name:<8} {told}" for name, told in self._told())

    def _repr_html_(self) -> str:
        """The same as a table."""
        from claude_client._values import html

        return html.facts(self, self._told())

    def _told(self) -> Iterator[tuple[str, str]]:
        yield "requests", f"{self.requests:,} to {', '.join(self._by_model())}"
        used = total(usage for _, usage in self._usages("likely"))
        parts = {
            "written to the cache": used.cache_creation_input_tokens,
            "read from it": used.cache_read_input_tokens,
        }
        cached = "".join(f", {tokens:,} of them {what}" for what, tokens in parts.items() if tokens)
        off = " (guessed)" if self._offline else f" \u00b1 {self.input_error:,.0f}" if self.input_error else ""
        yield "input", f"{used.total_input_tokens:,} tokens{off}{cached}"
        likely = f"likely {used.output_tokens:,}, " if self._output.likely is not None else ""
        yield "output", f"{likely}at most {self.usage_high.output_tokens:,} tokens"
        expected = f"likely {dollars(self.usd_likely)}, " if self.usd_likely is not None else ""
        least = "at least" if self._output.least else "input alone"
        yield "cost", f"{expected}{least} {dollars(self.usd_low)}, at most {dollars(self.usd_high)}"


_CACHINGS: tuple[Caching, ...] = ("as asked", None, "5m", "1h")
