"""The outcomes of a run in a file, so that the same call, made again, asks only for the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from claude_client import ClaudeResponse
from claude_client._values.fingerprint import fingerprint
from claude_client._values.output import OutputType, output_in
from claude_client._values.text import whole

from ._journal_file import JournalError, JournalFile, refusing
from ._journal_rows import Row

if TYPE_CHECKING:
    from claude_client._values.request import Request
    from claude_client._verbs.fan_out import Outcome


class Journal:
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
        self._keys = _keys_of(requests)
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
        import sqlite3

        if not self._file.is_open:
            raise JournalError(f"The journal {self._file.path} is not open in this process")
        try:
            self._file.add(index, Row.of(*self._keys[index], outcome))
        except (sqlite3.Error, TypeError, ValueError) as failed:
            raise JournalError(
                f"The answer to prompts[{index}] could not be stored in the journal {self._file.path}: {failed}"
            ) from failed

    def keep_all(self, outcomes: Mapping[int, Outcome]) -> None:
        """Store the *outcomes* of requests, by index, all at once, as `keep` stores one. Raises like it."""
        import sqlite3

        try:
            self._file.add_all([Row.of(*self._keys[index], outcome) for index, outcome in outcomes.items()])
        except (sqlite3.Error, TypeError, ValueError) as failed:
            raise JournalError(
                f"Answers of a batch could not be stored in the journal {self._file.path}: {failed}"
            ) from failed

    def batches(self) -> list[tuple[int, dict[str, Any]]]:
        """The batches that were noted and not dropped, each with its number."""
        import json

        return [(number, json.loads(told)) for number, told in self._file.batches()]

    def add_batch(self, told: Mapping[str, Any]) -> int:
        """Note a batch that is about to be created, and return its number."""
        import json

        return self._file.add_batch(json.dumps(told))

    def set_batch(self, number: int, told: Mapping[str, Any]) -> None:
        """Note what is known of a batch now."""
        import json

        self._file.set_batch(number, json.dumps(told))

    def drop_batch(self, number: int) -> None:
        """Forget a batch: all that it had is stored, or it was never created."""
        self._file.set_batch(number, None)

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


def _keys_of(requests: Sequence[Request]) -> list[tuple[str, str | None, int]]:
    """The fingerprint and `task_id` of each request, and the number of requests before it with the same two."""
    before: Counter[tuple[str, str | None]] = Counter()
    keys = []
    for i, request in enumerate(requests):
        try:
            same = (fingerprint(request), None if request.task_id is None else whole(request.task_id))
        except ValueError as unknown:
            raise ValueError(f"prompts[{i}]: {unknown}") from unknown
        keys.append((*same, before[same]))
        before[same] += 1
    return keys


def _reads(answer: ClaudeResponse, output: OutputType) -> bool:
    """Read the `output` of *answer*; return whether it could be."""
    with suppress(Exception):  # also of people's own validators, which may be others now
        answer.output = output_in(answer, output)
        return True
    return False
