"""What calls, their tools and the calls of those have done, as a tree of lines with the sums of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from claude_client._values.prices import PriceBook
from claude_client._values.record import AttemptRecord, cost_of_attempts
from claude_client._values.tasks import Task, Use
from claude_client._values.text import dollars, printable, span, whole
from claude_client._values.usage import total


class Node(NamedTuple):
    """A line of a tree, and those below it."""

    name: str
    #: How it ended; empty where there is nothing to say of that.
    outcome: str
    facts: Sequence[str]
    below: Sequence[Node] = ()

    def __str__(self) -> str:
        ended = f": {self.outcome}" if self.outcome else ""
        return " \u00b7 ".join([f"{self.name}{ended}", *self.facts])

    @property
    def size(self) -> int:
        """The number of its lines."""
        return 1 + sum(node.size for node in self.below)


class Tree:
    """
    What calls have done, as a tree: the turns of each, with the tools that they asked for between them, below a tool
    the tasks that were asked for it, and so on. Each line has the sums of all below it: requests, tokens and, with the
    `cost` extra, dollars.

    `str()` of it is a text for a terminal, which has a line for each; in a notebook it is HTML with folds. It has no
    text of prompts or answers in it.
    """

    def __init__(self, root: Node) -> None:
        self._root = root

    def __str__(self) -> str:
        return "\n".join([str(self._root), *_lines(self._root.below, "")])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same, in which each line folds what is below it."""
        from claude_client._values import html

        return html.tree(self._root)


def tree_of(task: Task) -> Tree:
    """The tree of a single call."""
    return Tree(_Growing().of_task(task))


def tree_of_run(tasks: Sequence[Task]) -> Tree:
    """The tree of a run of all these *tasks*."""
    growing = _Growing()
    sums = growing.sums([attempt for task in tasks for attempt in task.attempts])
    return Tree(Node("The run", "", [_number(len(tasks), "prompt"), *sums], [*map(growing.of_task, tasks)]))


class _Growing:
    """Makes the lines of one tree, by one book of prices."""

    def __init__(self) -> None:
        self._book = PriceBook()

    def of_task(self, task: Task) -> Node:
        name, outcome = _shown(task.name), _shown(task.outcome)
        if len(task.own) == 1 and not task.uses:
            return Node(name, outcome, [_shown(task.own[0].model), *self._facts(task.own[0])])
        below = [self._of_use(step) if isinstance(step, Use) else self._of_attempt(step) for step in task.steps()]
        return Node(name, outcome, self.sums(task.attempts), below)

    def sums(self, attempts: Sequence[AttemptRecord]) -> list[str]:
        return [_number(len(attempts), "request"), *self._used(attempts)]

    def _of_use(self, use: Use) -> Node:
        record, attempts = use.record, use.attempts
        facts = [] if record.took is None else [span(record.took)]
        facts += self.sums(attempts) if attempts else ()
        return Node(f"tool {_shown(record.name)}", _shown(record.outcome), facts, [*map(self.of_task, use.tasks)])

    def _of_attempt(self, attempt: AttemptRecord) -> Node:
        return Node(_shown(attempt.model), attempt.outcome, self._facts(attempt))

    def _facts(self, attempt: AttemptRecord) -> list[str]:
        took = "not sent" if attempt.took is None else span(attempt.took)
        return [took, *self._used([attempt])]

    def _used(self, attempts: Sequence[AttemptRecord]) -> Iterator[str]:
        used = total(attempt.usage for attempt in attempts)
        yield f"{used.total_input_tokens:,} in, {used.output_tokens:,} out"
        with suppress(ImportError):  # without the `cost` extra
            if cost := cost_of_attempts(attempts, self._book):
                yield dollars(cost)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _shown(name: str) -> str:
    return whole(printable(" ".join(name.split())))


def _lines(nodes: Sequence[Node], before: str) -> Iterator[str]:
    for number, node in enumerate(nodes, 1):
        branch, stem = ("\u2514\u2500 ", "   ") if number == len(nodes) else ("\u251c\u2500 ", "\u2502  ")
        yield f"{before}{branch}{node}"
        yield from _lines(node.below, before + stem)
