"""What is done with a journal."""

from __future__ import annotations

import json
from argparse import Namespace

from claude_client._values.record import Asked
from claude_client._values.table import line_of
from claude_client._values.text import printable
from orchestration._journal_entries import Journal, JournalEntry

_SHOWN = 60  # characters of an answer


def list_entries(options: Namespace) -> int:
    """Print a line for each entry that is asked for."""
    rows = [("kind", "tokens", "task", "text"), *map(_cells, _entries(options))]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for kind, tokens, task, text in rows:
        print(f"{kind:<{widths[0]}}  {tokens:>{widths[1]}}  {task:<{widths[2]}}  {text}".rstrip())
    return 0


def show(options: Namespace) -> int:
    """Print each entry that is asked for as a JSON object."""
    for entry in _entries(options):
        line = line_of(0, entry.outcome, Asked(entry.task_id))
        del line["index"]
        print(json.dumps(line, default=repr))
    return 0


def drop(options: Namespace) -> int:
    """Remove the entries that are asked for."""
    if not (options.task or options.kind or options.all):
        raise ValueError("say what to drop: --task ID, --kind KIND or --all")
    print(f"{Journal(options.journal).drop(_entries(options))} dropped")
    return 0


def list_batches(options: Namespace) -> int:
    """Print the ids of the batches that were not collected."""
    for name in Journal(options.journal).batches():
        print(name)
    return 0


def forget_batches(options: Namespace) -> int:
    """Forget the batches, and print the ids of those that were created."""
    for name in Journal(options.journal).drop_batches():
        print(name)
    return 0


def salvage(options: Namespace) -> int:
    """Write what is whole to a new journal."""
    print(f"{Journal(options.journal).salvage(options.to)} saved")
    return 0


def _entries(options: Namespace) -> list[JournalEntry]:
    return Journal(options.journal).entries(task_ids=options.task, kinds=options.kind)


def _cells(entry: JournalEntry) -> tuple[str, str, str, str]:
    text = printable(" ".join(str(entry.outcome).split()))
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}\u2026"
    return (entry.kind, f"{entry.outcome.usage.output_tokens:,}", printable(entry.task_id or "-"), shown)
