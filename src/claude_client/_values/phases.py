"""What prompts spent their time on, from the records of their requests: a timeline without its looks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from claude_client._values.record import AttemptRecord, Cause, ToolRecord, end_of
from claude_client._values.tasks import Task
from claude_client._values.usage import Usage, total

#: What a prompt does at a moment: it waits for something, for the head of its answer, for its first text, it reads, or
#: tools of it run.
Phase = Cause | Literal["first byte", "first text", "answer", "tool"]

# In the order in which they mostly come; the record has only their sums.
_WAITS: tuple[Cause, ...] = (
    "retry",
    "outage",
    "rate limit",
    "limiter",
    "budget",
    "cache writer",
    "first answer",
    "worker",
)
_CELLS = 300  # of a band, along the time


class Span(NamedTuple):
    """A phase of a request. Times are seconds from the start of the picture."""

    phase: Phase
    start: float
    end: float


class Lane(NamedTuple):
    """A prompt, a turn of a conversation, or a task that a tool of one of them asked for."""

    name: str
    #: "ok", or the kind of the error it ended with.
    outcome: str
    #: Its own requests, and what they used.
    attempts: tuple[AttemptRecord, ...]
    usage: Usage
    #: By how much its times are moved, so that it stands after the lane before; 0 where all are of one run.
    moved: float = 0.0
    #: The uses of tools that its answers asked for.
    tool_calls: tuple[ToolRecord, ...] = ()
    #: The names of what it is a task of, the outermost first.
    above: tuple[str, ...] = ()

    @property
    def started(self) -> float | None:
        """When its first request was queued."""
        return self.attempts[0].queued if self.attempts else None

    @property
    def ended(self) -> float | None:
        """When its last request, or its last tool, was over."""
        return end_of(self.attempts, self.tool_calls)

    def spans(self, origin: float) -> Iterator[Span]:
        """Its phases in seconds from *origin*: those of its tools, of which several may be one, then its requests'."""
        runs = [(call.started, call.ended) for call in self.tool_calls if call.started and call.ended]
        for start, end in _joined(sorted(runs)):
            yield Span("tool", start - origin, end - origin)
        for attempt in self.attempts:
            yield from spans_of(attempt, origin)


def lanes_of(task: Task, moved: float = 0.0, above: tuple[str, ...] = ()) -> Iterator[Lane]:
    """The lane of *task*, and then those of the tasks that its tools asked for, in the order in which they began."""
    used = total(attempt.usage for attempt in task.own)
    calls = tuple([use.record for use in task.uses])
    yield Lane(task.name, task.outcome, task.own, used, moved, calls, above)
    below = (one for use in task.uses for one in use.tasks)
    for one in sorted(below, key=lambda one: one.started):
        yield from lanes_of(one, moved, (*above, task.name))


def _joined(runs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """*runs*, which are in the order in which they began, with those that overlap as one."""
    joined: list[tuple[float, float]] = []
    for start, end in runs:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def spans_of(attempt: AttemptRecord, origin: float) -> Iterator[Span]:
    """The phases of *attempt*, one after another, in seconds from *origin*."""
    at = (attempt.queued or 0.0) - origin
    for cause in _WAITS:
        if seconds := attempt.waited.get(cause):
            yield Span(cause, at, at + seconds)
            at += seconds
    if attempt.sent is None or attempt.ended is None:
        return
    at = attempt.sent - origin
    ends: dict[Phase, float | None] = {"first byte": attempt.first_byte, "first text": attempt.first_text}
    ends["answer" if attempt.first_byte is not None else "first byte"] = attempt.ended
    for phase, end in ends.items():
        if end is not None:
            yield Span(phase, at, end - origin)
            at = end - origin


class Band(NamedTuple):
    """Many lanes in one: what most of them do at each moment."""

    first: int
    last: int
    spans: Sequence[Span]
    #: When requests of them failed, in seconds from the start; and the number of lanes that failed for good.
    failures: Sequence[float]
    failed: int


def bands_of(lanes: Sequence[Lane], bands: int, origin: float, length: float) -> Iterator[Band]:
    """*lanes*, which are in the order in which they began, as so many *bands* of a picture that is *length* seconds."""
    cell = length / _CELLS
    for number in range(bands):
        first, last = (len(lanes) * n // bands for n in (number, number + 1))
        cells: Mapping[int, Counter[Phase]] = defaultdict(Counter)
        failures = set()
        for lane in lanes[first:last]:
            for span in lane.spans(origin):
                for index in range(int(span.start / cell), min(int(span.end / cell), _CELLS - 1) + 1):
                    inside = min(span.end, (index + 1) * cell) - max(span.start, index * cell)
                    cells[index][span.phase] += max(inside, 0.0)  # type: ignore[assignment]
            for attempt in lane.attempts:
                if attempt.outcome != "ok" and attempt.ended is not None:
                    failures.add(min(int((attempt.ended - origin) / cell), _CELLS - 1))
        failed = sum(lane.outcome != "ok" for lane in lanes[first:last])
        yield Band(
            first, last - 1, [*_merged(cells, cell)], [(index + 0.5) * cell for index in sorted(failures)], failed
        )


def _merged(cells: Mapping[int, Counter[Phase]], cell: float) -> Iterator[Span]:
    """The phase that has most of each cell, as spans."""
    open_span: Span | None = None
    for index in sorted(cells):
        phase = max(cells[index], key=cells[index].__getitem__)
        start, end = index * cell, (index + 1) * cell
        if open_span and open_span.phase == phase and abs(open_span.end - start) < cell / 2:
            open_span = open_span._replace(end=end)
            continue
        if open_span:
            yield open_span
        open_span = Span(phase, start, end)
    if open_span:
        yield open_span


def under_way(lanes: Iterable[Lane], origin: float) -> list[tuple[float, float]]:
    """How many requests were under way from which time on."""
    changes: Counter[float] = Counter()
    for lane in lanes:
        for attempt in lane.attempts:
            if attempt.sent is not None and attempt.ended is not None:
                changes[attempt.sent - origin] += 1
                changes[attempt.ended - origin] -= 1
    level, steps = 0.0, []
    for time in sorted(changes):
        level += changes[time]
        steps.append((time, level))
    return steps


def accepted(lanes: Iterable[Lane], origin: float, width: float, number: int) -> list[float]:
    """The requests that the API accepted, by the second, in so many parts of a picture, each *width* seconds."""
    counts = [0.0] * number
    for lane in lanes:
        for attempt in lane.attempts:
            if attempt.status == 200 and attempt.first_byte is not None:
                counts[min(int((attempt.first_byte - origin) / width), number - 1)] += 1 / width
    return counts
