"""Tasks as a table in a notebook. It has the colours of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._tracker import TaskInfo

_COLUMNS = ("task", "category", "state", "attempt", "error")
_MOST_ROWS = 100  # a notebook keeps them all in its file


def table_of(counts: Mapping[str, int], tasks: Sequence[TaskInfo]) -> str:
    """The table of *tasks* below the *counts* of their states; of many, the first."""
    rows = [
        _row("td", info.task_id, info.category or "", info.state, info.attempt, info.error or "")
        for info in tasks[:_MOST_ROWS]
    ]
    title = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no tasks"
    more = f"<em>{len(tasks) - len(rows):,} more</em>" if len(tasks) > len(rows) else ""
    head = _row("th", *_COLUMNS)
    return (
        f"<div><strong>{title}</strong><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>{more}</div>"
    )


def _row(tag: str, *cells: object) -> str:
    start, end = f'<{tag} style="text-align:left"><bdi>', f"</bdi></{tag}>"
    texts = (escape(str(cell).encode(errors="replace").decode()) for cell in cells)
    return f"<tr>{''.join(f'{start}{text}{end}' for text in texts)}</tr>"
