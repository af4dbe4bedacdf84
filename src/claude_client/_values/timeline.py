"""The picture of a run or a conversation: one SVG in HTML, that needs nothing else and shows on light and on dark."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from claude_client._values.kinds import FROM_OUTSIDE
from claude_client._values.phases import Lane, Phase, Span, accepted, bands_of, under_way
from claude_client._values.text import printable, whole
from claude_client._values.text import span as told

_MOST_ROWS = 200  # above which tasks share a band
_LEFT, _CHART, _RIGHT = 150, 720, 170  # widths of names, of the picture and of the tokens
_GRAPH = 46  # height of a line above the rows
_GRAPHS = 2 * (_GRAPH + 18)
_PARTS = 120  # of the line of accepted requests

# Colours that people tell apart who see fewer of them (Okabe and Ito's, mostly), and that stand out on light and dark.
_LOOKS: Mapping[Phase, tuple[str, str]] = {
    "worker": ("#999999", "waits for its turn"),
    "retry": ("#a0785a", "waits to try again"),
    "outage": ("#d55e00", "waits for the server to answer anybody"),
    "rate limit": ("#e69f00", "waits for the rate limit"),
    "budget": ("#7d4fa8", "waits for money of its budget"),
    "limiter": ("#cc79a7", "waits for a slot of the limiter"),
    "cache writer": ("#56b4e9", "waits for the cache to be written"),
    "first answer": ("#b8a800", "waits for a first answer"),
    "first byte": ("#0072b2", "sent, nothing has come yet"),
    "first text": ("#7a9fd0", "the answer has begun"),
    "answer": ("#009e73", "the text comes"),
}
_SENT: tuple[Phase, ...] = ("first byte", "first text", "answer")
_BAD = "#d55e00"
_TOKENS = {
    "read from the cache": "#56b4e9",
    "written to the cache": "#e69f00",
    "other input": "#999999",
    "output": "#009e73",
}

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>:root{{color-scheme:light dark}}body{{margin:1.5rem;background:Canvas;color:CanvasText}}</style></head>
<body>{picture}
<p style="font:13px system-ui,sans-serif"><label>Size <input type="range" min="100" max="500" value="100"
oninput="document.querySelector('svg').style.width=this.value+'%'"></label></p></body></html>
"""


# Of a picture that has no page to take its colours from.
_SVG_LOOKS = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"


_NOTHING = (
    '<svg role="img" viewBox="0 0 300 20" xmlns="http://www.w3.org/2000/svg" style="height:20px;display:block" '
    'font-size="12" fill="currentColor"><text y="14">No request was made.</text></svg>'
)


class Timeline:
    """
    A picture of what a run or a conversation did when. It shows itself in a notebook; `save` writes it to a file.

    A row for each prompt, or turn: thin bars are waits, thick ones requests, and their colours say for what, or how
    far; hollow ones are tools that run. What a tool has asked has rows of its own, indented below that of the call the
    tool is of. Of more than 200 rows several are one, in the order in which they began: it shows what most of them did.
    It has no text of prompts or answers in it.
    """

    def __init__(self, title: str, lanes: Sequence[Lane], foot: Iterable[str], *, note: str = "") -> None:
        self._title = title
        self._lanes = lanes
        self._foot = [*foot]
        self._note = note

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write it to the file *path*, as HTML in UTF-8 that needs nothing else; as SVG, the picture alone, where the name
        ends in `.svg`. The file is replaced.
        """
        if str(path).endswith(".svg"):
            page = self._svg().replace(">", f">{_SVG_LOOKS}", 1)
        else:
            page = _PAGE.format(title=_text(self._title), picture=self._repr_html_())
        Path(path).write_text(page, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<Timeline of {self._title}: it shows in a notebook, and save(path) writes it>"

    def _repr_html_(self) -> str:
        foot = "".join(f"<div>{_text(line)}</div>" for line in [self._note, *self._foot] if line)
        return (
            '<div style="font:13px system-ui,sans-serif;overflow-x:auto">'
            f"<div><strong>{_text(self._title)}</strong></div>{foot}{self._svg()}</div>"
        )

    def _svg(self) -> str:
        times = [time - lane.moved for lane in self._lanes for time in (lane.started, lane.ended) if time is not None]
        if not times:
            return _NOTHING
        origin, length = min(times), max(max(times) - min(times), 1e-3)
        drawing = _Drawing(origin, length, self._lanes)
        said = _text(f"{self._title}. {', '.join(self._foot)}")
        width, height = _LEFT + _CHART + _RIGHT, drawing.height
        return (
            f'<svg role="img" aria-label="{said}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" '
            'style="width:100%;min-width:640px;display:block" font-family="system-ui,sans-serif" font-size="11" '
            f'fill="currentColor">{"".join(drawing.parts())}</svg>'
        )


class _Drawing:
    """The elements of the picture of *lanes*, which begins at *origin* and is *length* seconds long."""

    def __init__(self, origin: float, length: float, lanes: Sequence[Lane]) -> None:
        self._origin = origin
        self._length = length
        self._in_order = [*lanes]
        self._is_condensed = len(lanes) > _MOST_ROWS
        if self._is_condensed:
            self._in_order.sort(key=lambda lane: math.inf if lane.started is None else lane.started)
        self._rows = min(len(lanes), _MOST_ROWS)
        self._row = 16.0 if self._rows <= 40 else 7.0 if self._rows <= 100 else 4.0
        self._has_graphs = not any(lane.moved for lane in lanes)
        self._top = (_GRAPHS if self._has_graphs else 0) + 20
        self._is_nested = any(lane.above for lane in lanes)
        self._phases: dict[Phase, None] = {}
        self._marks: dict[str, None] = {}

    @property
    def height(self) -> float:
        return self._top + self._rows * self._row + 30 + 18 * 5

    def parts(self) -> Iterator[str]:
        yield from self._axis()
        if self._has_graphs:
            yield from self._graphs()
        if self._is_condensed:
            yield from self._bands()
        else:
            yield from self._lanes()
        yield from self._legend()

    def _x(self, seconds: float) -> float:
        return round(_LEFT + _CHART * seconds / self._length, 2)

    def _axis(self) -> Iterator[str]:
        bottom = self._top + self._rows * self._row
        for seconds in _ticks(self._length):
            x = self._x(seconds)
            yield f'<path d="M{x} {self._top - 4}V{bottom}" stroke="currentColor" stroke-opacity=".15"/>'
            yield f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{_tick(seconds)}</text>'

    def _graphs(self) -> Iterator[str]:
        yield from self._graph(0, "requests under way", under_way(self._in_order, self._origin))
        width = self._length / _PARTS
        counts = accepted(self._in_order, self._origin, width, _PARTS)
        yield from self._graph(1, "accepted per second", [(index * width, count) for index, count in enumerate(counts)])

    def _graph(self, number: int, name: str, steps: Sequence[tuple[float, float]]) -> Iterator[str]:
        """A line that has each of the values from its time on; of several on one spot, the highest."""
        base = (number + 1) * (_GRAPH + 18) - 8
        most = max([value for _, value in steps] + [1e-9])
        highest: dict[float, float] = {}
        for time, value in steps:
            x = round(self._x(time), 1)
            highest[x] = max(highest.get(x, 0.0), value)
        line = "".join(f"H{x}V{base - _GRAPH * value / most:.1f}" for x, value in highest.items())
        path = f"M{_LEFT} {base}{line}H{_LEFT + _CHART}V{base}"
        middle = base - _GRAPH // 2
        yield f'<path d="{path}" fill="#0072b2" fill-opacity=".25" stroke="#0072b2"/>'
        yield f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{name}</text>'
        yield f'<text x="{_LEFT - 8}" y="{middle + 13}" text-anchor="end" opacity=".7">up to {most:,.3g}</text>'

    def _lanes(self) -> Iterator[str]:
        most = max([lane.usage.total_input_tokens + lane.usage.output_tokens for lane in self._in_order] + [1])
        for index, lane in enumerate(self._in_order):
            y = self._top + index * self._row
            yield f"<g><title>{_text(_told(lane))}</title>"
            yield f'<rect x="0" y="{y}" width="{_LEFT + _CHART + _RIGHT}" height="{self._row}" fill-opacity="0"/>'
            if self._row >= 10:
                yield self._name(lane, y + self._row - 5)
            for span in lane.spans(self._origin + lane.moved):
                yield self._bar(span, y)
            for attempt in lane.attempts:
                if attempt.sent is not None and attempt.wrote_cache:
                    yield self._mark("wrote the cache", self._x(attempt.sent - self._origin - lane.moved), y)
                if attempt.outcome != "ok" and attempt.ended is not None:
                    yield self._mark(_mark_of(attempt.outcome), self._x(attempt.ended - self._origin - lane.moved), y)
            yield from self._tokens(lane, y, most)
            yield "</g>"

    def _name(self, lane: Lane, y: float) -> str:
        """Its name beside its row; where some are tasks of others, those begin further to the right."""
        depth = min(len(lane.above), 6)
        most = 22 - 2 * depth
        name = lane.name if len(lane.name) <= most else lane.name[: most - 1] + "\u2026"
        x, anchor = (4 + 11 * depth, "start") if self._is_nested else (_LEFT - 8, "end")
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{_text(name)}</text>'

    def _bands(self) -> Iterator[str]:
        for index, band in enumerate(bands_of(self._in_order, self._rows, self._origin, self._length)):
            y = self._top + index * self._row
            failed = f", {band.failed} failed" if band.failed else ""
            yield f"<g><title>tasks {band.first + 1:,} to {band.last + 1:,} as they began{failed}</title>"
            yield from (self._bar(span, y) for span in band.spans)
            for time in band.failures:
                self._marks["failed"] = None
                yield _rect(self._x(time), y, 2, self._row, _BAD)
            yield "</g>"

    def _bar(self, span: Span, y: float) -> str:
        self._phases[span.phase] = None
        thick = self._row * (0.8 if span.phase in _SENT else 0.35)
        x = self._x(span.start)
        if span.phase == "tool":
            return _hollow(x, y + self._row * 0.2, max(self._x(span.end) - x, 0.3), self._row * 0.6)
        return _rect(x, y + (self._row - thick) / 2, max(self._x(span.end) - x, 0.3), thick, _LOOKS[span.phase][0])

    def _mark(self, what: str, x: float, y: float) -> str:
        self._marks[what] = None
        return _drawn(what, x, y + self._row / 2, min(self._row, 12) / 2.4)

    def _tokens(self, lane: Lane, y: float, most: int) -> Iterator[str]:
        used = lane.usage
        counts = (used.cache_read_input_tokens, used.cache_creation_input_tokens, used.input_tokens, used.output_tokens)
        x = float(_LEFT + _CHART + 14)
        for colour, count in zip(_TOKENS.values(), counts, strict=True):
            if count:
                width = (_RIGHT - 24) * count / most
                yield _rect(x, y + self._row * 0.2, width, self._row * 0.6, colour)
                x += width

    def _legend(self) -> Iterator[str]:
        y = self._top + self._rows * self._row + 34
        phases = [phase for phase in _LOOKS if phase in self._phases]
        entries = [
            (_rect(0, -8, 14, 9 if phase in _SENT else 4, _LOOKS[phase][0]), _LOOKS[phase][1]) for phase in phases
        ]
        if "tool" in self._phases:
            entries.append((_hollow(0, -8, 14, 8), "a tool runs"))
        entries += [(_drawn(what, 7, -4, 5), what) for what in self._marks]
        yield from _in_columns(entries, 0, y, 4, (_LEFT + _CHART) / 4)
        if not self._is_condensed:
            x = _LEFT + _CHART + 14
            yield f'<text x="{x}" y="{self._top - 8}">tokens</text>'
            kinds = [(_rect(0, -8, 9, 9, colour), what) for what, colour in _TOKENS.items()]
            yield from _in_columns(kinds, x, y, 1, _RIGHT)


def _in_columns(entries: Sequence[tuple[str, str]], x: float, y: float, columns: int, width: float) -> Iterator[str]:
    for index, (drawn, said) in enumerate(entries):
        left, top = x + index % columns * width, y + index // columns * 18
        yield f'<g transform="translate({left:.1f} {top:.1f})">{drawn}<text x="20">{said}</text></g>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}"/>'


def _hollow(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill-opacity=".12" '
        'stroke="currentColor" stroke-opacity=".7" stroke-width=".8"/>'
    )


def _drawn(what: str, x: float, y: float, r: float) -> str:
    """A mark: their shapes differ as well as their colours."""
    left, top, size = x - r, y - r, 2 * r
    path, looks = {
        "wrote the cache": (f"M{x} {top}l{r} {r}l{-r} {r}l{-r} {-r}z", 'fill="#e69f00" stroke="currentColor"'),
        "429": (f"M{x} {top}l{r} {size}h{-size}z", f'fill="{_BAD}"'),
        "ended from outside": (f"M{left} {top}h{size}v{size}h{-size}z", f'fill="none" stroke="{_BAD}"'),
        "failed": (f"M{left} {top}l{size} {size}m0 {-size}l{-size} {size}", f'stroke="{_BAD}" stroke-width="2"'),
    }[what]
    return f'<path d="{path}" {looks}/>'


def _mark_of(outcome: str) -> str:
    if outcome in FROM_OUTSIDE:
        return "ended from outside"
    return "429" if outcome == "rate_limit" else "failed"


def _told(lane: Lane) -> str:
    """What is said of *lane* where the pointer rests on it, and to who cannot see it."""
    used = lane.usage
    lines = [f"{' / '.join([*lane.above, lane.name])}: {lane.outcome}"]
    for number, attempt in enumerate(lane.attempts, 1):
        waits = [f"{told(seconds)} for {cause}" for cause, seconds in attempt.waited.items() if seconds >= 0.001]
        waited = f"waited {', '.join(waits)}; " if waits else ""
        took = "not sent" if attempt.took is None else f"took {told(attempt.took)}"
        lines.append(f"request {number}, {attempt.model}: {waited}{took}, {attempt.outcome}")
    for call in lane.tool_calls:
        took = "not run" if call.took is None else f"took {told(call.took)}"
        lines += [f"tool {call.name}: {took}, {call.outcome}"]
    read, written = used.cache_read_input_tokens, used.cache_creation_input_tokens
    lines.append(
        f"tokens: {used.total_input_tokens:,} in ({read:,} read, {written:,} written), {used.output_tokens:,} out"
    )
    return "\n".join(lines)


def _ticks(length: float) -> Iterator[float]:
    """Round seconds, some eight of them."""
    rough = length / 8
    unit = 10 ** math.floor(math.log10(rough))
    step = next(step for step in (unit, 2 * unit, 5 * unit, 10 * unit) if step >= rough)
    if step > 20:
        step = next(step for step in (30, 60, 120, 300, 600, 1800, 3600, 7200, 86400, math.inf) if step >= rough)
    return (index * step for index in range(int(length / step) + 1)) if step < math.inf else iter((0.0, length))


def _tick(seconds: float) -> str:
    if seconds >= 60:
        return f"{seconds / 60:.3g} min"
    return f"{seconds * 1e3:.3g} ms" if 0 < seconds < 0.1 else f"{seconds:.3g} s"


def _text(value: str) -> str:
    return escape(whole(printable(value)))
