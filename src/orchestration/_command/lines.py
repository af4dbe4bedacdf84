"""JSON Lines: prompts as they are read, and answers as they are written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from claude_client import Results
from claude_client._values.record import Asked
from claude_client._values.table import Outcome, line_of

#: Names the standard input, or output.
STANDARD = "-"

_MOST_NAMED = 10  # bad lines in one message


class Prompt(NamedTuple):
    """A prompt, and the line that it stands in."""

    spec: Mapping[str, Any]
    line: str


def read_prompts(path: str) -> list[Prompt]:
    """
    The prompts in the file *path*, or of the standard input: one JSON object in each line that is not blank.

    Raises:
        ValueError: Naming the lines that have none.
        OSError: If it cannot be read.
    """
    name = "standard input" if path == STANDARD else path
    content = sys.stdin.buffer.read() if path == STANDARD else Path(path).read_bytes()
    prompts, bad = [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                prompts.append(Prompt(_object_in(line), f"{name}, line {number}"))
            except ValueError as unreadable:
                bad.append(f"{name}, line {number}: {unreadable}")
    refuse(bad)
    if not prompts:
        raise ValueError(f"{name} has no prompt: there is nothing to ask")
    return prompts


def refuse(bad: Sequence[str]) -> None:
    """
    Raise if there are *bad* lines.

    Raises:
        ValueError: With what is wrong with the first ones.
    """
    if bad:
        more = [f"and {len(bad) - _MOST_NAMED} more"] if len(bad) > _MOST_NAMED else []
        raise ValueError("\n".join([*bad[:_MOST_NAMED], *more]))


def _object_in(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(), parse_constant=_no_number)
    except UnicodeDecodeError as wrong:
        raise ValueError(f"it is not UTF-8: {wrong}") from None
    except json.JSONDecodeError as wrong:
        raise ValueError(f"it is not JSON: {wrong.msg}, at character {wrong.colno}") from None
    if not isinstance(value, dict):
        raise ValueError(f'a prompt is a JSON object such as {{"prompt": "Hello"}}, got a {type(value).__name__}')
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


class Answers:
    """
    Writes a line for each prompt, whatever became of it, as `take` and at last `finish` are told.

    Lines come as answers do, or in the order of the prompts. In order, a file is written at the end, whole or not at
    all, and replaced only then; the standard output, or a pipe, gets each line once all those before it are known.

    Args:
        path: A file, or `STANDARD`.

        asked: What each prompt said of itself.

        on_failure: Called once if nothing more can be written. `failure` then says why.
    """

    def __init__(self, path: str, asked: Sequence[Asked], *, in_order: bool, on_failure: Callable[[], object]) -> None:
        self.failure: OSError | None = None
        self._path = path
        self._asked = asked
        self._on_failure = on_failure
        self._in_order = in_order
        self._at_once = in_order and is_of_files(path)
        self._known: dict[int, Outcome | None] = {}
        self._written: set[int] = set()
        self._file: BinaryIO

    def __enter__(self) -> Self:
        """
        Open the file, so that one that cannot be written is known before anything is paid. What it has stays.

        Raises:
            OSError: If it cannot be opened.
        """
        if self._path == STANDARD:
            self._file = sys.stdout.buffer
        elif self._at_once:
            self._file = Path(self._part).open("wb")
        else:
            self._file = Path(self._path).open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        if self._path != STANDARD:
            with suppress(OSError):  # what could not be written is in `failure`
                self._file.close()
        if self._at_once:
            Path(self._part).unlink(missing_ok=True)

    def take(self, index: int, outcome: Outcome | None) -> None:
        """Write the *outcome* of prompt *index*, once it may be written."""
        if self._at_once or self.failure:
            return
        try:
            if not self._written and is_of_files(self._path):
                self._file.truncate(0)
            self._known[index] = outcome
            due = len(self._written) if self._in_order else index
            while due in self._known:
                self._write(due, self._known.pop(due))
                due += 1
        except OSError as failed:
            self._fail(failed)

    def finish(self, results: Results) -> None:
        """Write all of *results* that is not written yet."""
        if self.failure:
            return
        outcomes = [results.errors.get(i) or results.cancelled.get(i) or results[i] for i in range(len(results))]
        if not self._at_once:
            for index, outcome in enumerate(outcomes):
                if index not in self._written:
                    self.take(index, outcome)
            return
        try:
            for index, outcome in enumerate(outcomes):
                self._file.write(self._line(index, outcome))
            self._file.close()
            Path(self._part).replace(os.path.realpath(self._path))
        except OSError as failed:
            self._fail(failed)

    @property
    def _part(self) -> str:
        return f"{os.path.realpath(self._path)}.part"

    def _write(self, index: int, outcome: Outcome | None) -> None:
        self._file.write(self._line(index, outcome))
        self._written.add(index)  # before a Ctrl-C may end the flush
        self._file.flush()

    def _line(self, index: int, outcome: Outcome | None) -> bytes:
        said = json.dumps(line_of(index, outcome, self._asked[index]), ensure_ascii=False, default=repr)
        return said.encode(errors="backslashreplace") + b"\n"  # of half a surrogate pair: what JSON writes for it

    def _fail(self, failed: OSError) -> None:
        self.failure = failed
        if self._path == STANDARD:  # else the interpreter fails once more, when it flushes what is left
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self._on_failure()


def is_of_files(path: str) -> bool:
    """Whether *path* is, or can be, that of a file: not of the standard output, a device or a pipe."""
    return path != STANDARD and (Path(path).is_file() or not Path(path).exists())
