"""The results of a fan-out: the list of its answers, and the errors that carry it if a prompt failed."""

from __future__ import annotations

import copy
import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from claude_client._values.costs import Costs, costs_of
from claude_client._values.errors import ClaudeInvocationError, fields_of
from claude_client._values.kinds import FROM_OUTSIDE
from claude_client._values.phases import lanes_of
from claude_client._values.record import Asked, RunRecord, cost_of_attempts
from claude_client._values.response import TRUNCATING, ClaudeResponse
from claude_client._values.table import foot_of, row_of
from claude_client._values.tasks import Task, task_of
from claude_client._values.text import printable
from claude_client._values.timeline import Timeline
from claude_client._values.tree import Tree, tree_of_run
from claude_client._values.usage import Usage, total

if TYPE_CHECKING:
    from pandas import DataFrame

    from claude_client._values.budget import BudgetState

Item = ClaudeResponse | ClaudeInvocationError | None

_COLUMNS = ("", "in", "of it cached", "out", "answer")
_SHOWN = 80  # characters of an answer in a table
_MOST_ROWS = 100  # in a notebook, which keeps them all in its file


class Results(list["Item"]):
    """The answers of a fan-out in prompt order; None, or with `return_exceptions` the error, where a prompt failed."""

    def __init__(
        self,
        answers: Iterable[Item] = (),
        errors: Mapping[int, ClaudeInvocationError] | None = None,
        *,
        cancelled: Mapping[int, ClaudeInvocationError] | None = None,
        interrupted: bool = False,
        run: RunRecord | None = None,
    ) -> None:
        super().__init__(answers)
        #: The error of each prompt without an answer, by its index. Those that were stopped unsent share one.
        self.errors: dict[int, ClaudeInvocationError] = dict(errors or {})
        #: The error of each prompt that a managed run cancelled, with what had arrived, by its index; not in `errors`.
        self.cancelled: dict[int, ClaudeInvocationError] = dict(cancelled or {})
        #: Whether the run was ended before its time, by its token or by Ctrl-C.
        self.interrupted = interrupted
        self._run = run

    @classmethod
    def of(
        cls, outcomes: Mapping[int, ClaudeResponse | ClaudeInvocationError], *, interrupted: bool = False, **more: Any
    ) -> Self:
        """The results with None for every error among *outcomes*, which has one for each prompt; *more* as `cls`."""
        answers: list[Item] = [None] * len(outcomes)
        errors, cancelled = {}, {}
        for i in range(len(outcomes)):
            outcome = outcomes[i]
            if not isinstance(outcome, ClaudeInvocationError):
                answers[i] = outcome
            elif outcome.kind == "cancelled":
                cancelled[i] = outcome
            else:
                errors[i] = outcome
        return cls(answers, errors, cancelled=cancelled, interrupted=interrupted, **more)

    def with_errors(self) -> Self:
        """The same with the errors in the places of their prompts."""
        results = copy.copy(self)
        results[:] = [self.errors.get(i, answer) for i, answer in enumerate(self)]
        return results

    @property
    def started_at(self) -> datetime | None:
        """When the run began, in UTC; None for results that were made by hand."""
        return datetime.fromtimestamp(self._run.started, UTC) if self._run else None

    @property
    def took(self) -> float | None:
        """Seconds from the start of the run to its end; None for results that were made by hand."""
        return self._run.ended - self._run.started if self._run else None

    @property
    def budget(self) -> BudgetState | None:
        """What stood in its budget at its end, with what others who share it have spent; None where it had none."""
        return self._run.budget if self._run else None

    @property
    def out_of_budget(self) -> bool:
        """Whether there are prompts that its budget did not allow. They are in `errors`, of kind "budget"."""
        return any(error.kind == "budget" for error in self.errors.values())

    def to_dicts(self) -> list[dict[str, Any]]:
        """
        A flat dict of plain values for each prompt, in prompt order.

        `index`, `task_id`, `category`, `model` (that answered last, or was asked for), `text` (of an error what had
        arrived), `error` (its kind) and `message`, `stop_reason`, the tokens by their names in `Usage`, `cost_usd`,
        `saved_by_cache_usd` and `wasted_usd` as those of the results (None without the `cost` extra, or for a model
        that is not known), `request_id`, and how many there were of `attempts`, those of tools included, of `retries`,
        which are made after a failure, and of `tool_calls`.
        In seconds: `waited`, before its own requests, for whatever cause; `time_to_first_text`, from when the last of
        those was sent, None where all came in one piece; `took`, of all from the start of the run, None where nothing
        was sent.
        """
        asked = self._run.asked if self._run else [Asked()] * len(self)
        return [row_of(index, self._item(index), asked[index]) for index in range(len(self))]

    def to_pandas(self) -> DataFrame:
        """
        A DataFrame with the columns of `to_dicts`.

        Raises:
            ImportError: Without pandas.
        """
        try:
            import pandas as pd
        except ImportError as missing:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from missing
        return pd.DataFrame(self.to_dicts())

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write the dicts of `to_dicts` to the file *path*, as JSON in UTF-8, one in a line. It is replaced."""
        with Path(path).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.to_dicts())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the dicts of `to_dicts` to the file *path*, as CSV in UTF-8, with a line of names. It is replaced."""
        rows = self.to_dicts() or [row_of(0, None, Asked())]
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
            table.writeheader()
            table.writerows(rows[: len(self)])

    def tree(self) -> Tree:
        """
        What was done for each prompt, as a tree: the model's turns, the tools that they asked for between them, below
        those what they asked by this library, and so on, each with the sums of requests, tokens and dollars. It prints
        as text, and shows itself in a notebook.
        """
        return tree_of_run([self._task(index) for index in range(len(self))])

    def timeline(self) -> Timeline:
        """
        A picture of what each prompt did when. It shows itself in a notebook; `.save(path)` writes an HTML file.

        What a managed run recalled from its journal is not in it.
        """
        lanes = [lane for index in self._of_this_run for lane in lanes_of(self._task(index))]
        return Timeline("The run", lanes, self._foot(), note=self._counts())

    def _task(self, index: int) -> Task:
        item = self._item(index)
        name = (self._run.asked[index].task_id if self._run else None) or f"prompts[{index}]"
        if item is None:
            return task_of(name, "no answer", ())
        kind = item.kind if isinstance(item, ClaudeInvocationError) else "ok"
        return task_of(name, kind, item.attempts, item.tool_calls)

    @property
    def outputs(self) -> list[Any]:
        """The `output` of each answer, in prompt order; None where there is none."""
        return [item.output if isinstance(item, ClaudeResponse) else None for item in self]

    @property
    def usage(self) -> Usage:
        """Tokens used by all prompts, answered or not, as far as the API had said; failed attempts included."""
        return self._usage_of(range(len(self)))

    @property
    def cost_usd(self) -> float | None:
        """
        The price of `usage` in dollars, failed prompts and attempts included; None for a model that is not known.

        Raises:
            ImportError: Without the `cost` extra.
        """
        return self._cost_of(range(len(self)))

    @property
    def cost_by_model(self) -> dict[str, float] | None:
        """What of `cost_usd` each model cost, by its name; None if a price is not known. Raises like that."""
        costs = self._costs
        return costs.by_model if costs else None

    @property
    def saved_by_cache_usd(self) -> float | None:
        """
        Dollars that reading from the cache has saved, less what writing to it cost more than not to; None if a price is
        not known. Below 0 where more was written than read. Raises like `cost_usd`.
        """
        costs = self._costs
        return costs.saved_by_cache if costs else None

    @property
    def wasted_usd(self) -> float | None:
        """
        What of `cost_usd` bought no answer: all of prompts that failed or were interrupted, and requests that were made
        again, as far as the API had said what they used. None if a price is not known. Raises like `cost_usd`.
        """
        costs = self._costs
        return costs.wasted if costs else None

    @property
    def _costs(self) -> Costs | None:
        return costs_of(map(self._item, range(len(self))))

    @property
    def cache_share(self) -> float:
        """The part of all input tokens that was read from the cache, 0 to 1."""
        used = self.usage
        return used.cache_read_input_tokens / used.total_input_tokens if used.total_input_tokens else 0.0

    def summary(self, *, each: bool = True) -> str:
        """
        A table for a terminal: a line for *each* prompt, the sums, and below them what is known of the times.

        How long the run took, and answers by the second; the latency (of the last request of each prompt, and of each
        task of its tools, from when it was sent to its end), the time to the first text where answers were streamed,
        and what prompts waited for: half took at most the first figure, p95 is that of 95 in 100. And how many requests
        were made again, after which failures.
        """
        return "\n".join([self._table(each=each), *self._foot()])

    def _table(self, *, each: bool) -> str:
        rows = [_COLUMNS, *self._rows(each=each)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS) - 1)]
        return "\n".join(
            "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        """
        The table of `summary` with whole answers, and the cost where the `cost` extra is there.

        Of more than 100 prompts, those that failed and the first ones are shown.
        """
        from claude_client._values import html

        shown = sorted(sorted(range(len(self)), key=lambda i: i not in self.errors)[:_MOST_ROWS])
        rows = [
            (
                _numbers(str(i), _usage(self._item(i))),
                html.one_line(*_line_of(self._item(i))),
                bool(_label(self._item(i))),
            )
            for i in shown
        ]
        left = len(self) - len(shown)
        note = f"{left:,} more: summary() has a line for each" if left else ""
        sums = (_numbers("all", self.usage), " \u00b7 ".join(filter(None, [self._counts(), html.price(self)])))
        return html.table(_COLUMNS, rows, note, sums)

    def _rows(self, *, each: bool) -> list[tuple[str, ...]]:
        shown = range(len(self)) if each else ()
        rows = [(*_numbers(str(i), _usage(self._item(i))), self._shown(i)) for i in shown]
        return [*rows, (*_numbers("all", self.usage), self._counts())]

    def _foot(self) -> Iterator[str]:
        yield from foot_of([self._item(index) for index in self._of_this_run], self.took)
        if self.budget:
            yield f"budget: {self.budget}"

    @property
    def _of_this_run(self) -> Sequence[int]:
        """The prompts that this run has asked, rather than an earlier one."""
        return range(len(self))

    def _counts(self) -> str:
        ended = Counter(error.kind for error in self.errors.values())
        counts = {
            "answered": len(self) - len(self.errors) - len(self.cancelled),
            "failed": len(self.errors) - ended["interrupted"] - ended["budget"],
            "interrupted": ended["interrupted"],
            "beyond the budget": ended["budget"],
            "cancelled": len(self.cancelled),
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "answered")

    def _item(self, index: int) -> Item:
        return self.errors.get(index) or self.cancelled.get(index) or self[index]

    def _usage_of(self, indices: Iterable[int]) -> Usage:
        return total(_usage(item) for item in map(self._item, indices))

    def _cost_of(self, indices: Iterable[int]) -> float | None:
        items = map(self._item, indices)
        return cost_of_attempts(attempt for item in items if item is not None for attempt in item.attempts)

    def _shown(self, index: int) -> str:
        error = self.errors.get(index) or self.cancelled.get(index)
        text = printable(" ".join(str(self[index] if error is None else error).split()))
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "\u2026"


class ParallelInvocationError(ClaudeInvocationError):
    """At least one prompt of a fan-out failed. The other fields are those of the error with the lowest index."""

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
        error = cls(
            f"{len(results.errors)} of {len(results)} prompts failed; prompts[{index}]: {first}",
            results=results,
            **fields_of(first),
        )
        error.attempts, error.tool_calls, error.messages = first.attempts, first.tool_calls, first.messages
        return error


class ParallelInterrupt(KeyboardInterrupt):
    """Ctrl-C ended a fan-out, or the main thread ended before it."""

    def __init__(self, *args: object, results: Results | None = None) -> None:
        super().__init__(*args)
        #: The answers until then, in prompt order; the rest is None, with errors of kind "interrupted".
        self.results = Results() if results is None else results


def _usage(item: Item) -> Usage:
    return Usage() if item is None else item.usage


def _numbers(name: str, used: Usage) -> tuple[str, ...]:
    numbers = (used.total_input_tokens, used.cache_read_input_tokens, used.output_tokens)
    return (name, *(f"{number:,}" for number in numbers))


def _line_of(item: Item) -> tuple[str, str, str]:
    """The text of *item*, its label, and the text that had arrived if it is an error."""
    partial = item.partial_text if isinstance(item, ClaudeInvocationError) else ""
    return "" if item is None else str(item), _label(item), f"What had arrived:\n{partial}" if partial else ""


def _label(item: Item) -> str:
    """The reason that *item* is not a complete answer; empty if it is one."""
    if item is None:
        return "no answer"
    if isinstance(item, ClaudeInvocationError):
        return item.kind if item.kind in FROM_OUTSIDE else f"failed: {item.kind}"
    stopped = item.stop_reason
    if stopped in TRUNCATING:
        return f"cut off: {stopped}"
    return "" if item.strip() else f"no text: {stopped}"
