"""What a fan-out ends with: the list of its answers, and the errors that carry it where it did not end well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from ._errors import ClaudeInvocationError
from ._response import ClaudeResponse, total
from ._usage import Usage

Item = ClaudeResponse | ClaudeInvocationError | None

_COLUMNS = ("", "in", "of it cached", "out", "answer")
_SHOWN = 80  # characters of an answer in a table


class Results(list["Item"]):
    """The answers of a fan-out in prompt order; None, or with `return_exceptions` the error, where a prompt failed."""

    def __init__(self, answers: Iterable[Item] = (), errors: Mapping[int, ClaudeInvocationError] | None = None) -> None:
        super().__init__(answers)
        #: The error of each prompt without an answer, by its index.
        self.errors: dict[int, ClaudeInvocationError] = dict(errors or {})
        #: What was under way of each prompt that a managed run cancelled, by its index; it is not among the errors.
        self.cancelled: dict[int, ClaudeInvocationError] = {}
        #: Whether the run was ended before its time, by its token or by Ctrl-C.
        self.interrupted = False

    @classmethod
    def of(cls, outcomes: Mapping[int, ClaudeResponse | ClaudeInvocationError], *, interrupted: bool = False) -> Self:
        """The results with None for every error among *outcomes*, which has one for each prompt."""
        errors = {i: outcome for i, outcome in sorted(outcomes.items()) if isinstance(outcome, ClaudeInvocationError)}
        results = cls([None if i in errors else outcomes[i] for i in range(len(outcomes))])
        for i, error in errors.items():
            (results.cancelled if error.kind == "cancelled" else results.errors)[i] = error
        results.interrupted = interrupted
        return results

    def with_errors(self) -> Results:
        """The same with the errors in the places of their prompts."""
        results = Results([self.errors.get(i, answer) for i, answer in enumerate(self)], self.errors)
        results.interrupted = self.interrupted
        return results

    @property
    def usage(self) -> Usage:
        """Tokens used by all prompts, answered or not, as far as the API had said; failed attempts included."""
        return total(self._usage_of(i) for i in range(len(self)))

    @property
    def cost_usd(self) -> float | None:
        """
        The price of all answers in dollars, by the list prices of genai-prices; None if it does not know a model.

        What failed prompts have used is in `usage`, but not here: their model's answer never said what it was.

        Raises:
            ImportError: Without the `cost` extra.
        """
        costs = [answer.cost_usd for answer in self if isinstance(answer, ClaudeResponse)]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def cache_share(self) -> float:
        """The part of all input tokens that was read from the cache, 0 to 1."""
        used = self.usage
        return used.cache_read_input_tokens / used.total_input_tokens if used.total_input_tokens else 0.0

    def summary(self) -> str:
        """A table for a terminal: a line for each prompt, and the sums."""
        rows = [_COLUMNS, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS) - 1)]
        return "\n".join(
            "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        import html

        head, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in (_COLUMNS, *self._rows())]
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [_row(str(i), self._usage_of(i), self._shown(i)) for i in range(len(self))]
        failed = f", {len(self.errors)} failed" if self.errors else ""
        cancelled = f", {len(self.cancelled)} cancelled" if self.cancelled else ""
        answered = len(self) - len(self.errors) - len(self.cancelled)
        return [*rows, _row("all", self.usage, f"{answered} answered{failed}{cancelled}")]

    def _usage_of(self, index: int) -> Usage:
        item = self.errors.get(index) or self.cancelled.get(index) or self[index]
        return Usage() if item is None else item.usage

    def _shown(self, index: int) -> str:
        error = self.errors.get(index) or self.cancelled.get(index)
        text = " ".join(str(self[index] if error is None else f"{error.kind}: {error}").split())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "\u2026"


class ParallelInvocationError(ClaudeInvocationError):
    """At least one prompt of a fan-out failed. Its other fields are those of the lowest failed index."""

    def __init__(self, message: str, *, results: Results | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        #: The answers in prompt order, None where a prompt failed.
        self.results = Results() if results is None else results

    @property
    def errors(self) -> dict[int, ClaudeInvocationError]:
        """The error of each failed prompt, by its index."""
        return self.results.errors

    @classmethod
    def of(cls, results: Results) -> ParallelInvocationError:
        """The error for a fan-out that ended with *results*, of which at least one is an error."""
        index = min(results.errors)
        first = results.errors[index]
        return cls(
            f"{len(results.errors)} of {len(results)} prompts failed; prompts[{index}]: {first}",
            results=results,
            **first.fields(),
        )


class ParallelInterrupt(KeyboardInterrupt):
    """Ctrl-C ended a fan-out, or the main thread ended before it."""

    def __init__(self, *args: object, results: Results | None = None) -> None:
        super().__init__(*args)
        #: What was answered until then, in prompt order; the rest is None, with errors of kind "interrupted".
        self.results = Results() if results is None else results


def _row(name: str, used: Usage, text: str) -> tuple[str, ...]:
    numbers = (used.total_input_tokens, used.cache_read_input_tokens, used.output_tokens)
    return (name, *(f"{number:,}" for number in numbers), text)
