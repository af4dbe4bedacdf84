"""What people do with a journal besides running: read it, drop entries, save what is whole of a damaged one."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from claude_client import ClaudeInvocationError, ClaudeResponse

from ._batch_note import Note
from ._journal_file import DamagedJournalError, JournalError, JournalFile, readable, refusing
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

    @property
    def kind(self) -> str:
        """The kind of the error; "ok" for an answer."""
        return self.outcome.kind if isinstance(self.outcome, ClaudeInvocationError) else "ok"


class Journal:
    """
    What stands in the journal at *path*. Nothing is opened between calls, and each reads or changes what is there then.

    Raises:
        JournalError: From each method, if it is not there, is no journal, or is damaged. From those that change it also
            if a run uses it; from those that read only if that is one of this process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

    def entries(
        self, *, task_ids: Container[str | None] | None = None, kinds: Container[str] | None = None
    ) -> list[JournalEntry]:
        """
        The entries, in the order in which they were stored: all, or those whose `task_id` and whose `kind` are among
        those that are given.
        """
        with readable(self.path) as path, refusing(path), JournalFile(path, make=False) as file:
            entries = [JournalEntry(row.task_id, row.outcome, row.checksum.hex()) for row in file.rows()]
        return [
            entry
            for entry in entries
            if (task_ids is None or entry.task_id in task_ids) and (kinds is None or entry.kind in kinds)
        ]

    def batches(self) -> list[str]:
        """The ids of the batches that were created and not collected."""
        with readable(self.path) as path, refusing(path), JournalFile(path, make=False) as file:
            return _ids_of(file.batches())

    def drop(self, entries: Iterable[JournalEntry]) -> int:
        """Remove *entries*: the next run asks their prompts again. Returns how many were there."""
        with refusing(self.path), JournalFile(self.path, make=False) as file:
            return file.drop([bytes.fromhex(entry.key) for entry in entries])

    def drop_batches(self) -> list[str]:
        """
        Forget all batches that were noted and not collected: for those that are gone, as after 29 days, or that
        somebody deleted. The next run asks their prompts again, so what they answer is paid twice.

        Returns:
            The ids of those that were created, for the record.
        """
        with refusing(self.path), JournalFile(self.path, make=False) as file:
            batches = file.batches()
            file.drop_batches(number for number, _ in batches)
        return _ids_of(batches)

    def salvage(self, to: str | os.PathLike[str]) -> int:
        """
        Write all entries that are whole, of a damaged journal too, to a new one at *to*, and what is noted of batches
        that are not collected. This one stays.

        Returns:
            How many entries were saved.

        Raises:
            JournalError: Also if there is something at *to*.
        """
        try:
            with refusing(self.path), JournalFile(self.path, make=False) as file:
                rows, batches = [*file.rows()], file.batches()
        except DamagedJournalError:
            rows, batches = [*whole_rows(self.path)], whole_batches(self.path)
        if Path(to).exists():
            raise JournalError(f"{to} is there already: the entries would be mixed")
        with refusing(to), JournalFile(to) as new:
            new.add_all(rows)
            for note in _readable(batches):
                new.set_batch(None, note.to_json())
        return len(rows)


def read_journal(path: str | os.PathLike[str]) -> list[JournalEntry]:
    """`Journal.entries` of the journal at *path*, all of them. Raises as that does."""
    return Journal(path).entries()


def drop_from_journal(path: str | os.PathLike[str], entries: Iterable[JournalEntry]) -> int:
    """`Journal.drop` of *entries*. Raises as that does."""
    return Journal(path).drop(entries)


def drop_batches_from_journal(path: str | os.PathLike[str]) -> list[str]:
    """`Journal.drop_batches` of the journal at *path*. Raises as that does."""
    return Journal(path).drop_batches()


def salvage_journal(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> int:
    """`Journal.salvage` of the journal at *path*. Raises as that does."""
    return Journal(path).salvage(to)


def _ids_of(batches: Iterable[tuple[int, str]]) -> list[str]:
    return [note.id for note in _readable(batches) if note.id]


def _readable(batches: Iterable[tuple[int, str]]) -> Iterator[Note]:
    for number, told in batches:
        with suppress(ValueError, TypeError, KeyError):
            yield Note.from_json(told, number)
