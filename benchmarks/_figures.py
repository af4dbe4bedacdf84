"""What the program tells: figures, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_COLUMNS = ("what", "this library", "raw SDK", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of a table, in words."""

    what: str
    ours: str
    raw: str = "\u2013"
    target: str = ""
    #: Whether the README has this row too.
    in_readme: bool = False


def at_most(limit: float, measured: float, unit: str = "x", digits: int = 2) -> str:
    """A target that *measured*, rounded as the table shows it, is held against."""
    return judged(f"\u2264 {limit:.{digits}f}{unit}", met=round(measured, digits) <= limit)


def judged(target: str, *, met: bool) -> str:
    return target if met else f"{target}: **missed**"


def table(figures: Iterable[Figure]) -> str:
    """A table in Markdown that can be read in a terminal too."""
    rows = [_COLUMNS, *((figure.what, figure.ours, figure.raw, figure.target) for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *body])
