"""The outcomes of a run in a file, so that the same call, made again, asks only for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

from claude_client import ClaudeResponse
from claude_client._values.output import OutputType, output_in

from ._batch_note import Note
from ._journal_file import DamagedJournalError, JournalError, JournalFile, refusing
from ._journal_rows import Row
from ._keys import keys_of

if TYPE_CHECKING:
    from claude_client._values.request import Request
    from claude_client._verbs.fan_out import Outcome


class RunJournal:
    """
    Keeps the outcomes of *requests*, answers and refusals, in the file *path*, and reads those of earlier runs.

    An outcome is found again by the `fingerprint` and the `task_id` of its request. Of several requests that are the
    same, each has its own, in their order; one that has none gets what is left over. What nobody asks for now stays in
    the file.

    The file is made where there is none, for its owner alone to read. It holds the answers in plain text, each with
    its `task_id` and a hash of what was asked; no prompt and no key. In use, and after its process was killed, it goes
    together with a second file, `<path>-wal`.

    One run at a time can use it, from any of its threads.

    Raises:
        ValueError: For a blank *path*, or a request with a file that can no longer be read.
    """

    def __init__(self, path: str | os.PathLike[str], requests: Sequence[Request]) -> None:
        self._file = JournalFile(path)
        self._keys = keys_of(requests)
        self._outputs = [request.output for request in requests]
        #: The outcomes of earlier runs, by the index of their request.
        self.answered: dict[int, Outcome] = {}

    def __enter__(self) -> Self:
        """
        Open the file, lock it and read it.

        Raises:
            JournalError: As `JournalFile` does.
        """
        with refusing(self._file.path), ExitStack() as opening:
            opening.enter_context(self._file)
            self.answered = dict(self._recalled())
            opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()

    def keep(self, index: int, outcome: Outcome) -> None:
        """
        Store the outcome of request *index*. When this returns it is on the disk: not even a power cut loses it. Any
        thread may call this.

        Raises:
            JournalError: If it could not be stored, as on a full disk; what was stored before stays.
        """
        with self._storing(f"The answer to prompts[{index}]"):
            self._file.add(index, Row.of(*self._keys[index], outcome))

    def keep_all(self, outcomes: Mapping[int, Outcome]) -> None:
        """Store the *outcomes* of requests, by index, all at once, as `keep` stores one. Raises like it."""
        with self._storing("Answers of a batch"):
            self._file.add_all([Row.of(*self._keys[index], outcome) for index, outcome in outcomes.items()])

    @property
    def digests(self) -> list[str]:
        """What tells each request from the others, in the ids of a batch."""
        return [key.digest for key in self._keys]

    def asked_by_batches(self) -> list[Note]:
        """
        The batches that were noted, and ask requests which have no outcome yet.

        Raises:
            JournalError: If what is noted of one cannot be read.
        """
        import sqlite3

        left = {key.digest for place, key in enumerate(self._keys) if place not in self.answered}
        try:
            notes = [Note.from_json(told, number) for number, told in self._file.batches()]
        except (sqlite3.Error, ValueError, TypeError, KeyError) as damaged:
            raise DamagedJournalError(
                f"What the journal {self._file.path} has noted of a batch cannot be read: {damaged!r}"
            ) from damaged
        return [note for note in notes if not left.isdisjoint(note.digests)]

    def keep_note(self, note: Note) -> None:
        """
        Note a batch that is about to be created, or what is known of it now.

        Raises:
            JournalError: If that could not be stored.
        """
        with self._storing("What is known of a batch"):
            note.number = self._file.set_batch(note.number, note.to_json())

    def drop_note(self, note: Note) -> None:
        """Forget a batch: all that it had is stored, or it was never created. Raises like `keep_note`."""
        with self._storing("That a batch is over"):
            self._file.drop_batches(filter(None, [note.number]))

    @contextmanager
    def _storing(self, what: str) -> Iterator[None]:
        import sqlite3

        if not self._file.is_open:
            raise JournalError(f"The journal {self._file.path} is not open in this process")
        try:
            yield
        except (sqlite3.Error, TypeError, ValueError) as failed:
            raise JournalError(f"{what} could not be stored in the journal {self._file.path}: {failed}") from failed

    def _recalled(self) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of earlier runs. An answer that does not read as what is asked for now is none."""
        for index, row in self._found():
            outcome, output = row.outcome, self._outputs[index]
            if output is None or not isinstance(outcome, ClaudeResponse) or _reads(outcome, output):
                yield index, outcome

    def _found(self) -> Iterator[tuple[int, Row]]:
        """The index of each request that has an outcome, and its row."""
        stored: dict[tuple[str, str | None], dict[int, Row]] = {
            (asked, task_id): {} for asked, task_id, _ in self._keys
        }
        for row in self._file.rows():
            if (row.asked, row.task_id) in stored:
                stored[row.asked, row.task_id][row.nth] = row
        rest = []
        for index, (asked, task_id, nth) in enumerate(self._keys):
            rows = stored[asked, task_id]
            if nth in rows:
                yield index, rows.pop(nth)
            elif rows:
                rest.append((index, rows))
        for index, rows in rest:  # there were more of the same, and an earlier one had no outcome
            if rows:
                yield index, rows.pop(min(rows))


def _reads(answer: ClaudeResponse, output: OutputType) -> bool:
    """Read the `output` of *answer*; return whether it could be."""
    with suppress(Exception):  # also of people's own validators, which may be others now
        answer.output = output_in(answer, output)
        return True
    return False
