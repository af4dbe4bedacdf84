"""Calls and what their tools have asked, as a tree, from the records of their requests and of their uses of tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from claude_client._values.record import AttemptRecord, ToolRecord


class Task(NamedTuple):
    """A call: that for a prompt, or one that a tool has made."""

    name: str
    #: "ok", or the kind of the error it ended with; of one that a tool has made, what its last request ended with.
    outcome: str
    #: All of its requests, and those of them that it made itself.
    attempts: tuple[AttemptRecord, ...]
    own: tuple[AttemptRecord, ...]
    #: The uses of tools that its own answers asked for.
    uses: tuple[Use, ...]

    @property
    def started(self) -> float:
        """When its first request was queued; 0 where that is not known."""
        return next((attempt.queued or 0.0 for attempt in self.attempts), 0.0)

    def steps(self) -> Iterator[AttemptRecord | Use]:
        """Its own requests and its uses of tools, each after the request whose answer asked for it."""
        left = [*self.uses]
        for attempt in self.own:
            yield attempt
            while left and (left[0].record.asked or 0.0) <= (attempt.ended or 0.0):
                yield left.pop(0)
        yield from left


class Use(NamedTuple):
    """A use of a tool, and what was asked for it."""

    record: ToolRecord
    tasks: tuple[Task, ...]

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """All requests that were made for it."""
        return tuple([attempt for task in self.tasks for attempt in task.attempts])


class _Records(NamedTuple):
    """What there is of a task and all below it."""

    attempts: list[AttemptRecord]
    tool_calls: list[ToolRecord]


def task_of(
    name: str, outcome: str | None, attempts: Iterable[AttemptRecord], tool_calls: Iterable[ToolRecord] = ()
) -> Task:
    """The task with these records. *outcome* None: that of the last request that is its own."""
    return _task(name, outcome, _Records([*attempts], [*tool_calls]), 0)


def _task(name: str, outcome: str | None, records: _Records, depth: int) -> Task:
    own = tuple([attempt for attempt in records.attempts if len(attempt.path) == depth])
    calls = [call for call in records.tool_calls if len(call.path) == depth]
    below = _below(records, depth)
    uses = [_use(call, below.pop(call.tool_use_id, {}), depth) for call in calls]
    uses += [_use(ToolRecord("a tool", unknown), tasks, depth) for unknown, tasks in below.items()]
    ended = outcome or (own[-1].outcome if own else "ok")
    return Task(name, ended, tuple(records.attempts), own, tuple(uses))


def _use(call: ToolRecord, tasks: Mapping[str, _Records], depth: int) -> Use:
    below = [_task(name, None, records, depth + 1) for name, records in tasks.items()]
    return Use(call, tuple(sorted(below, key=lambda task: task.started)))


def _below(records: _Records, depth: int) -> dict[str, dict[str, _Records]]:
    """Of *records* those of tasks below *depth*, by the use of a tool that they are of, and by their name."""
    found: dict[str, dict[str, _Records]] = {}

    def of(record: AttemptRecord | ToolRecord) -> _Records:
        used = "".join(record.tool_use_ids[depth : depth + 1])
        return found.setdefault(used, {}).setdefault(record.path[depth], _Records([], []))

    for attempt in records.attempts:
        if len(attempt.path) > depth:
            of(attempt).attempts.append(attempt)
    for call in records.tool_calls:
        if len(call.path) > depth:
            of(call).tool_calls.append(call)
    return found
