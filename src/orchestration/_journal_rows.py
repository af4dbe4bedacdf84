"""The rows of a journal's table, each with a checksum, and what can be read of them in a damaged file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from claude_client._values.fingerprint import to_json
from claude_client._verbs.stored import from_stored, to_stored

if TYPE_CHECKING:
    import sqlite3

    from claude_client._verbs.fan_out import Outcome

#: Raised with every change after which older versions could not read the answers, or the fingerprints are others.
#: The first had no checksums.
FORMAT = 2

INSERT = "INSERT INTO answers VALUES (?, ?, ?, ?, ?)"

# As bytes: what is damaged need not be text.
_CELLS = "CAST(asked AS BLOB), CAST(task_id AS BLOB), CAST(nth AS BLOB), CAST(answer AS BLOB)"
_MOST_ROWS_OF_A_PAGE = 64  # of 4096 bytes: an answer takes some hundreds


class Row(NamedTuple):
    """The outcome of one request."""

    #: The `fingerprint` of the request, its `task_id`, and the number of requests before it with the same two.
    asked: str
    task_id: str | None
    nth: int
    answer: str
    checksum: bytes

    @classmethod
    def of(cls, asked: str, task_id: str | None, nth: int, outcome: Outcome) -> Self:
        """
        The row to be stored.

        Raises:
            TypeError, ValueError: If it cannot be written.
        """
        import json

        answer = json.dumps(to_stored(outcome), separators=(",", ":"), default=to_json)
        said = (asked, task_id, str(nth), answer)
        return cls(asked, task_id, nth, answer, _checksum([None if text is None else text.encode() for text in said]))

    @property
    def outcome(self) -> Outcome:
        """The answer or the refusal."""
        import json

        return from_stored(json.loads(self.answer))


def make_table(db: sqlite3.Connection) -> None:
    """Make the table, in a file that has none."""
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute(
        "CREATE TABLE answers "
        "(asked TEXT NOT NULL, task_id TEXT, nth INTEGER NOT NULL, answer TEXT NOT NULL, checksum BLOB NOT NULL)"
    )


def make_batches(db: sqlite3.Connection) -> None:
    """Make the table of batches where there is none: older versions, which have none, leave it alone."""
    db.execute("CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY AUTOINCREMENT, told TEXT NOT NULL)")


def rows_in(db: sqlite3.Connection) -> Iterator[Row | None]:
    """Every row; None for each that is damaged."""
    return _rows(db, has_checksums(db))


def _rows(db: sqlite3.Connection, checked: bool, where: str = "", values: tuple[int, ...] = ()) -> Iterator[Row | None]:
    cells = f"{_CELLS}, {'CAST(checksum AS BLOB)' if checked else 'NULL'}"
    for *said, checksum in db.execute(f"SELECT {cells} FROM answers {where}", values):  # noqa: S608 - ours
        yield _row(said, checksum, checked=checked)


def has_checksums(db: sqlite3.Connection) -> bool:
    """Whether it is not of the first format."""
    return any(name == "checksum" for _, name, *_ in db.execute("PRAGMA table_info(answers)"))


def _row(said: Sequence[bytes | None], checksum: bytes | None, *, checked: bool) -> Row | None:
    """The row of these cells; None if it is damaged, which without a checksum is seen only where it cannot be read."""
    if checked and checksum != _checksum(said):
        return None
    try:
        asked, task_id, nth, answer = [None if cell is None else cell.decode() for cell in said]
        row = Row(str(asked), task_id, int(str(nth)), str(answer), _checksum(said))
        if not checked:
            _ = row.outcome
    except Exception:  # noqa: BLE001 - whatever a damaged answer leads to
        return None
    return row


def _checksum(said: Iterable[bytes | None]) -> bytes:
    import hashlib

    return hashlib.sha256(b"\n".join([b"-" if cell is None else b"=" + cell for cell in said])).digest()[:16]


def damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises: Python cannot always decode what SQLite says of it."""
    import sqlite3

    return sqlite3.Error, UnicodeDecodeError


def whole_rows(path: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows that are whole in a damaged journal, which is left as it is."""
    with suppress(*damage()), _damaged(path) as db:
        checked = has_checksums(db)
        for number in range(1, _last_number(db) + 1):
            with suppress(*damage()):
                yield from filter(None, _rows(db, checked, "WHERE rowid = ?", (number,)))


def whole_batches(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """The numbers and texts of batches that can be read in a damaged journal, which is left as it is."""
    found: list[tuple[int, str]] = []
    with suppress(*damage()), _damaged(path) as db:
        found.extend(db.execute("SELECT number, told FROM batches ORDER BY number"))
    return found


@contextmanager
def _damaged(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    """A damaged journal, opened so that it is left as it is."""
    import sqlite3

    uri = f"{Path(path).resolve().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        db.execute("PRAGMA writable_schema = ON")  # else SQLite reads nothing of a file that was cut
        yield db


def _last_number(db: sqlite3.Connection) -> int:
    """The number of the last row, or one that cannot be less."""
    most = 0
    with suppress(*damage()):
        ((pages,),) = db.execute("PRAGMA page_count")
        most = pages * _MOST_ROWS_OF_A_PAGE
        ((last,),) = db.execute("SELECT coalesce(max(rowid), 0) FROM answers")
        most = min(most, last)
    return most
