"""What people do with a journal that no run uses: read it, drop entries, save what is whole of a damaged one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from claude_client import ClaudeInvocationError, ClaudeResponse

from ._batch_note import Note
from ._journal_file import DamagedJournalError, JournalError, JournalFile, refusing
from ._journal_rows import whole_batches, whole_rows


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An outcome that a journal has."""

    #: None if the prompt had none.
    task_id: str | None
    #: The answer, or the error of a model that refused.
    outcome: ClaudeResponse | ClaudeInvocationError
    #: Names the entry in its journal.
    key: str


def read_journal(path: str | os.PathLike[str]) -> list[JournalEntry]:
    """
    All entries of the journal at *path*, in the order in which they were stored.

    Raises:
        JournalError: If a run uses it, it is not there, is no journal or is damaged.
    """
    with refusing(path), JournalFile(path, make=False) as file:
        return [JournalEntry(row.task_id, row.outcome, row.checksum.hex()) for row in file.rows()]


def drop_from_journal(path: str | os.PathLike[str], entries: Iterable[JournalEntry]) -> int:
    """
    Remove *entries*, of `read_journal`, from the journal at *path*: the next run asks their prompts again.

    Returns:
        How many were there.

    Raises:
        JournalError: As in `read_journal`, or if it cannot be written.
    """
    with refusing(path), JournalFile(path, make=False) as file:
        return file.drop([bytes.fromhex(entry.key) for entry in entries])


def drop_batches_from_journal(path: str | os.PathLike[str]) -> list[str]:
    """
    Forget all batches that the journal at *path* has noted and that were not collected: for those that are gone, as
    after 29 days, or that somebody deleted. The next run asks their prompts again, so what they answer is paid twice.

    Returns:
        The ids of those that were created, for the record.

    Raises:
        JournalError: As in `read_journal`, or if it cannot be written.
    """
    with refusing(path), JournalFile(path, make=False) as file:
        batches = file.batches()
        file.drop_batches(number for number, _ in batches)
    return [note.id for note in _readable(batches) if note.id]


def salvage_journal(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> int:
    """
    Write all entries that are whole in the damaged journal at *path* to a new one at *to*, and what it has noted of
    batches that are not collected. The damaged one stays.

    Returns:
        How many entries were saved.

    Raises:
        JournalError: If a run uses the journal at *path*, it is not there or is no journal; or if there is something
            at *to*.
    """
    try:
        with refusing(path), JournalFile(path, make=False) as file:
            rows, batches = [*file.rows()], file.batches()
    except DamagedJournalError:
        rows, batches = [*whole_rows(path)], whole_batches(path)
    if Path(to).exists():
        raise JournalError(f"{to} is there already: the entries would be mixed")
    with refusing(to), JournalFile(to) as new:
        new.add_all(rows)
        for note in _readable(batches):
            new.set_batch(None, note.to_json())
    return len(rows)


def _readable(batches: Iterable[tuple[int, str]]) -> Iterator[Note]:
    for number, told in batches:
        with suppress(ValueError, TypeError, KeyError):
            yield Note.from_json(told, number)
