"""Small workflows of many agents: a debate in rounds, and a question to many documents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Unpack

from claude_client import ClaudeInvocationError, ClaudeResponse, Content, Usage
from claude_client._values.budget import budget_of
from claude_client._values.checks import text, type_name, whole_number
from claude_client._values.content import Block, as_blocks, user_turn
from claude_client._values.redaction import hide_headers
from claude_client._values.usage import total

from ._agents import Agent, by_name, called
from ._managed import ManagedOptions, invoke_parallel_managed
from ._recorder import ManagedResults

_DEBATED = (
    "What was said to this so far:\n\n{said}\n\nThis is round {number} of a debate. You are {name}. Answer the others: "
    "say where they are right, where they are wrong and why, and what you hold now."
)
_JUDGED = (
    "What was said to this in a debate, round by round:\n\n{said}\n\nSay what the debate has come to: what they agree "
    "on, what stays open, and who has the better reasons."
)
MERGED = (
    "Make one answer of these: say each thing once, leave out nothing that matters, and name what they disagree on."
)


class _Stages(ABC):
    """Several fan-outs, one after another."""

    @property
    @abstractmethod
    def results(self) -> tuple[ManagedResults, ...]:
        """All fan-outs, in their order."""

    @property
    def usage(self) -> Usage:
        """Tokens used by all of it, failures included."""
        return total(results.usage for results in self.results)

    @property
    def cost_usd(self) -> float | None:
        """
        The price of `usage` in dollars; None for a model that is not known.

        Raises:
            ImportError: Without the `cost` extra.
        """
        costs = [results.cost_usd for results in self.results]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


@dataclass(frozen=True)
class Debate(_Stages):
    """What became of a debate."""

    #: The names of the agents, in the order of the answers of a round.
    names: tuple[str, ...]
    #: The answers of each round, with its errors.
    rounds: tuple[ManagedResults, ...]
    #: The judge's answer, or its error, as the only result; None where there was none to ask, or nothing to judge.
    judged: ManagedResults | None = None

    @property
    def answers(self) -> dict[str, ClaudeResponse]:
        """The last answer of each agent that has given one, by its name."""
        return {self.names[index]: said for answers in self.rounds for index, said in _answered(answers)}

    @property
    def verdict(self) -> ClaudeResponse | None:
        """The judge's answer; None where there is none."""
        return next((answer for _, answer in _answered(self.judged or ())), None)

    @property
    def results(self) -> tuple[ManagedResults, ...]:
        """All fan-outs, in their order."""
        return (*self.rounds, *([self.judged] if self.judged is not None else []))


def debate(
    agents: Mapping[str, Agent] | Iterable[Agent],
    topic: Content,
    rounds: int = 2,
    judge: Agent | None = None,
    *,
    shared_system: Content | None = None,
    cache_shared_system: bool = True,
    **options: Unpack[ManagedOptions],
) -> Debate:
    """
    Have *agents* discuss *topic*: in each round all are asked at once, and see what each has said last.

    An agent that fails in a round is heard in the next. It ends before its time if it is interrupted, or if nobody has
    answered in a round; there is no verdict then.

    Args:
        agents: With names, or by their names.

        rounds: How often all are asked.

        judge: Who is asked at the end, with all that was said. None: nobody.

        shared_system, cache_shared_system, options:
            Of each round, as in `invoke_parallel_managed`; a `budget_usd` is one for all. Tasks are called
            ``<name>-<round>``, and the judge's ``judge``, so that with a `journal` the same call goes on.

    Raises:
        ValueError: For bad input, such as agents with a memory.
        ParallelInvocationError, ParallelInterrupt: As `invoke_parallel_managed`, with the results of that round.
    """
    named = by_name(agents)
    ask = _asking(shared_system, cache_shared_system, options)
    about = _blocks("topic", topic)
    judge = judge and called("judge", judge)
    so_far = Debate((*named,), ())
    for number in range(1, whole_number("rounds", rounds, 1) + 1):
        said = _as_text(so_far.answers.items())
        prompts = [
            agent.prompt([*about, *as_blocks(_round_of(name, number, said))], task_id=f"{name}-{number}")
            for name, agent in named.items()
        ]
        answers = ask(prompts)
        so_far = replace(so_far, rounds=(*so_far.rounds, answers))
        if answers.interrupted or not any(_answered(answers)):
            return so_far
    if judge is None:
        return so_far
    return replace(so_far, judged=ask([judge.prompt([*about, *as_blocks(_judged(so_far))])]))


def _round_of(name: str, number: int, said: str) -> str:
    return _DEBATED.format(said=said, number=number, name=name) if said else ""


def _judged(debated: Debate) -> str:
    said = (
        (f"{debated.names[index]}, round {number}", answer)
        for number, answers in enumerate(debated.rounds, 1)
        for index, answer in _answered(answers)
    )
    return _JUDGED.format(said=_as_text(said))


@dataclass(frozen=True)
class MapReduce(_Stages):
    """What became of a question to many documents."""

    #: The answer of each document, in their order, with the errors of those that have none.
    mapped: ManagedResults
    #: What these were made into, level by level; the last is one answer, unless it failed.
    reduced: tuple[ManagedResults, ...] = ()
    #: The one answer; None where there is none: all documents failed, or one of the reductions.
    answer: ClaudeResponse | None = None

    @property
    def failed(self) -> dict[int, ClaudeInvocationError]:
        """The error of each document that is not in the answer, by its index."""
        return {**self.mapped.errors, **self.mapped.cancelled}

    @property
    def results(self) -> tuple[ManagedResults, ...]:
        """All fan-outs, in their order."""
        return (self.mapped, *self.reduced)


def map_reduce(
    documents: Iterable[Content],
    question: str,
    reduce: str = MERGED,
    fan_in: int = 20,
    *,
    reader: Agent | None = None,
    reducer: Agent | None = None,
    shared_system: Content | None = None,
    cache_shared_system: bool = True,
    **options: Unpack[ManagedOptions],
) -> MapReduce:
    """
    Ask *question* of each of *documents* at once, then make one answer of the answers, level by level.

    Documents that fail are in `.failed`, and the last reduction is told how many there are. If a reduction fails there
    is no `.answer`: all that was paid for is in the results, and in the `journal`, with which the same call goes on.

    Args:
        documents: Texts, or lists of content blocks.

        reduce: What to do with several answers.

        fan_in: Answers that are made into one at the most, from 2.

        reader, reducer: Who is asked of a document, and who reduces. None: the default model, and the reader.

        shared_system, cache_shared_system, options:
            Of each level, as in `invoke_parallel_managed`; a `budget_usd` is one for all. Tasks are called
            ``document-<n>`` and ``level-<n>-<n>``, from 1.

    Raises:
        ValueError: For bad input, such as agents with a memory, or no documents.
        ParallelInvocationError, ParallelInterrupt: As `invoke_parallel_managed`, with the results of that level.
    """
    whole_number("fan_in", fan_in, 2)
    reader = reader or Agent()
    read, merge = called("reader", reader), called("reducer", reducer or reader)
    ask = _asking(shared_system, cache_shared_system, options)
    asked, task = as_blocks(text("question", question)), as_blocks(text("reduce", reduce))
    mapped = ask(
        [read.prompt([*one, *asked], task_id=f"document-{i}") for i, one in enumerate(_documents(documents), 1)]
    )
    answers, levels = [answer for _, answer in _answered(mapped)], [mapped]
    while len(answers) > 1 and not levels[-1].interrupted:
        groups, alone = _groups(answers, fan_in)
        lacking = as_blocks(_lacking(mapped)) if len(answers) <= fan_in else []
        prompts = [[*asked, *as_blocks(_as_text(enumerate(group, 1))), *lacking, *task] for group in groups]
        merged = ask([merge.prompt(one, task_id=f"level-{len(levels)}-{i}") for i, one in enumerate(prompts, 1)])
        levels.append(merged)
        answers = [*alone, *(answer for _, answer in _answered(merged))]
        if len(answers) < len(alone) + len(groups):
            return MapReduce(mapped, (*levels[1:],))
    is_whole = len(answers) == 1 and not mapped.interrupted
    return MapReduce(mapped, (*levels[1:],), answers[0] if is_whole else None)


def _asking(
    shared_system: Content | None, cache_shared_system: bool, options: Mapping[str, Any]
) -> Callable[[Sequence[Mapping[str, Any]]], ManagedResults]:
    """What asks prompts, with one budget for all of them."""
    said = {**options, "budget_usd": budget_of(options.get("budget_usd"))}
    hide_headers(said)
    return partial(
        invoke_parallel_managed, shared_system=shared_system, cache_shared_system=cache_shared_system, **said
    )


def _documents(documents: Iterable[Content]) -> Iterator[list[Block]]:
    if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
        raise ValueError(f"documents must be several texts or lists of content blocks, got {type_name(documents)}")
    for i, one in enumerate(documents):
        yield _blocks(f"documents[{i}]", f"<document>\n{one}\n</document>" if isinstance(one, str) else one)


def _lacking(mapped: ManagedResults) -> str:
    """What to say of the documents without an answer."""
    failed = len(MapReduce(mapped).failed)
    return f"{failed} of {len(mapped)} documents could not be read, and are in none of these." if failed else ""


def _blocks(name: str, content: Content) -> list[Block]:
    """*content* as blocks, or a ValueError."""
    return as_blocks(user_turn(content, name)["content"])


def _groups(
    answers: Sequence[ClaudeResponse], most: int
) -> tuple[list[Sequence[ClaudeResponse]], Sequence[ClaudeResponse]]:
    """*answers* in as few groups of at most *most* as can be, of about one size; and those that are left alone."""
    number = -(-len(answers) // most)
    groups = [answers[len(answers) * i // number : len(answers) * (i + 1) // number] for i in range(number)]
    return [group for group in groups if len(group) > 1], [group[0] for group in groups if len(group) == 1]


def _answered(results: Iterable[object]) -> Iterator[tuple[int, ClaudeResponse]]:
    return ((index, answer) for index, answer in enumerate(results) if isinstance(answer, ClaudeResponse))


def _as_text(said: Iterable[tuple[object, str]]) -> str:
    return "\n\n".join(f'<answer by="{who}">\n{answer}\n</answer>' for who, answer in said)
