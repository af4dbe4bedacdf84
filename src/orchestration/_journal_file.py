"""The file of a journal: an SQLite database that is locked and checked when it is opened, each row with a checksum."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from claude_client._verbs.stored import from_stored, to_stored

from ._fingerprint import to_json

if TYPE_CHECKING:
    import sqlite3

    from claude_client._verbs.fan_out import Outcome

#: Raised with every change after which older versions could not read the answers, or the fingerprints are others.
#: The first had no checksums.
FORMAT = 2
APPLICATION_ID = 0x4F41674A  # "OAgJ"; SQLite has a place for it in its files

_MAGIC = b"SQLite format 3\0"
_USER_VERSION = slice(60, 64)
_APPLICATION_ID = slice(68, 72)

# As bytes: what is damaged need not be text.
_CELLS = "CAST(asked AS BLOB), CAST(task_id AS BLOB), CAST(nth AS BLOB), CAST(answer AS BLOB)"
_INSERT = "INSERT INTO answers VALUES (?, ?, ?, ?, ?)"
_MOST_ROWS_OF_A_PAGE = 64  # of 4096 bytes: an answer takes some hundreds

# The journals open in this process, by path. Closing any other descriptor of a file would take SQLite's lock off it,
# so none of these may be opened a second time, not even to read.
_open: dict[str, JournalFile] = {}


class JournalError(RuntimeError):
    """A journal cannot be used, or could not store an answer."""


class DamagedJournalError(JournalError):
    """It cannot be used as a whole; some of its answers may be whole."""


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


class JournalFile:
    """
    The journal at *path*, while it is open: locked against other runs and processes, until it is closed or the process
    ends. Of two that open it at the very same moment both may be refused.

    Args:
        make: Whether to make it where there is none.
    """

    def __init__(self, path: str | os.PathLike[str], *, make: bool = True) -> None:
        if not os.fspath(path).strip():
            raise ValueError(f"journal must be the path of a file, got {path!r}")
        self.path = os.path.realpath(path)
        self._make = make
        self._pid: int | None = None  # of the process that has it open
        self._lock = threading.Lock()  # guards the connection while rows are added
        self._waiting: dict[int, Row] = {}  # to be added, by any unique number
        self._db: sqlite3.Connection
        self._closing: ExitStack

    def __enter__(self) -> Self:
        """
        Open the file, lock it and check it.

        Raises:
            JournalError: If another run uses it, it is no journal or has a newer format.
            OSError, sqlite3.Error: For all else; see `refusing`.
        """
        import sqlite3

        if self._pid or _open.setdefault(self.path, self) is not self:
            raise JournalError(f"The journal {self.path} is in use by another run")
        with ExitStack() as opening:
            opening.callback(_open.pop, self.path)
            _check_head(self.path, make=self._make)
            commits = _commits(self.path)
            self._db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            opening.callback(self._db.close)
            _lock(self._db)
            _check_end(self._db, commits, self.path)
            _check(self._db)
            if not _has_checksums(self._db):
                self._write_anew()
            self._closing = opening.pop_all()
        self._pid = os.getpid()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_open:
            self._pid = None
            self._closing.close()
        elif self._pid:  # no coverage: in a forked child
            _never_close(self._db)

    @property
    def is_open(self) -> bool:
        """Whether it is open in this process."""
        return self._pid == os.getpid()

    def rows(self) -> Iterator[Row]:
        """
        All rows, in the order in which they were stored.

        Raises:
            sqlite3.DatabaseError: At the end, if some are damaged.
        """
        import sqlite3

        damaged = 0
        for row in _rows(self._db):
            if row:
                yield row
            else:
                damaged += 1
        if damaged:
            raise sqlite3.DatabaseError(f"{damaged} of its answers are damaged")

    def add(self, number: int, row: Row) -> None:
        """
        Store *row*, and with it all that other threads want to store; it is on the disk when this returns.

        Args:
            number: Any number that no other thread gives at the same time.
        """
        import sqlite3

        self._waiting[number] = row
        with self._lock:
            if number not in self._waiting:  # another thread has stored it
                return
            together = self._waiting.copy()
            del self._waiting[number]
            try:
                self.add_all(together.values())
            except sqlite3.Error:  # one of them cannot be stored: each thread tries its own again
                self.add_all([row])
            else:
                for stored in together:
                    self._waiting.pop(stored, None)

    def add_all(self, rows: Iterable[Row]) -> None:
        """Store *rows*, or none of them if that fails."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(_INSERT, rows)

    def drop(self, checksums: Iterable[bytes]) -> int:
        """Remove the rows with these *checksums*, overwrite them, and return how many there were."""
        self._db.execute("PRAGMA secure_delete = ON")
        with self._db:
            self._db.execute("BEGIN")
            return self._db.executemany("DELETE FROM answers WHERE checksum = ?", zip(checksums)).rowcount

    def _write_anew(self) -> None:
        """Make a journal of the first format one of this."""
        rows = [*self.rows()]
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("DROP TABLE answers")
            _make_table(self._db)
            self._db.executemany(_INSERT, rows)
        self._db.execute("PRAGMA wal_checkpoint")  # older versions look for the format in the file itself


def whole_rows(path: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows that are whole in a damaged journal, which is left as it is."""
    import sqlite3

    with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        db.execute("PRAGMA writable_schema = ON")  # else SQLite reads nothing of a file that was cut
        for number in range(1, _last_number(db) + 1):
            with suppress(sqlite3.Error):
                yield from filter(None, _rows(db, number))


def _last_number(db: sqlite3.Connection) -> int:
    """The number of the last row, or one that cannot be less."""
    import sqlite3

    most = 0
    with suppress(sqlite3.Error):
        ((pages,),) = db.execute("PRAGMA page_count")
        most = pages * _MOST_ROWS_OF_A_PAGE
        ((last,),) = db.execute("SELECT coalesce(max(rowid), 0) FROM answers")
        most = min(most, last)
    return most


@contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file at *path*, once it is closed, into a `JournalError` that says what is whole."""
    import sqlite3

    path = os.path.realpath(path)
    try:
        yield
    except OSError as exc:
        raise JournalError(f"The journal {path} cannot be opened: {exc.strerror}") from exc
    except sqlite3.Error as exc:
        # Errors of Python's own, for texts that are none, have no code.
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise JournalError(f"The journal {path} is in use by another run") from exc
        whole = sum(1 for _ in whole_rows(path))
        raise DamagedJournalError(
            f"The journal {path} cannot be used: {exc}. {whole} of its answers are whole: "
            "orchestration.salvage_journal writes them to a new one"
        ) from exc


def _check_head(path: str, *, make: bool) -> None:
    """
    Raise unless the file at *path* is a journal or empty; make it where there is none.

    Not read by SQLite, which changes a file that it opens: it may recover it, or make a `-wal` beside it.
    """
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0), 0o600)
    try:
        head = os.pread(descriptor, 100, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"a device"
    finally:
        os.close(descriptor)
    if not head and not Path(f"{path}-wal").exists():
        return
    if not head.startswith(_MAGIC) or int.from_bytes(head[_APPLICATION_ID]) != APPLICATION_ID:
        raise JournalError(f"{path} is not a journal, and was left as it is")
    if (found := int.from_bytes(head[_USER_VERSION])) > FORMAT:
        raise JournalError(
            f"The journal {path} has format {found}, which is newer than {FORMAT}, the newest known here"
        )


def _commits(path: str) -> list[int]:
    """The numbers of the frames that end a transaction in the `-wal` of a process that was killed."""
    log = Path(f"{path}-wal")
    if not log.exists():
        return []
    with Path(path).open("rb") as file:
        page_size = int.from_bytes(file.read(18)[16:])
    content = log.read_bytes()
    frames = [content[start : start + 16] for start in range(32, len(content) - page_size, 24 + page_size)]
    # Each has the salts of the head, unless it was left there by an earlier round, and the size after a commit.
    return [number for number, frame in enumerate(frames, 1) if frame[8:] == content[16:24] and any(frame[4:8])]


def _check_end(db: sqlite3.Connection, commits: Sequence[int], path: str) -> None:
    """
    Raise unless SQLite has recovered these *commits*. It stops at the first that is damaged, and says nothing.

    The last may well be one that was under way when the process was killed.
    """
    ((_, recovered, _),) = db.execute("PRAGMA wal_checkpoint")
    lost = sum(number > recovered for number in commits)
    if lost > 1:
        raise JournalError(
            f"The journal {path} was damaged at its end: its last {lost} commits are lost, and will be asked again. "
            "Everything before is whole: to go on with it, open it again"
        )


def _lock(db: sqlite3.Connection) -> None:
    """Lock the file until *db* is closed or the process ends, and make the table in a new one."""
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    with db:
        db.execute("BEGIN EXCLUSIVE")
        ((owner,),) = db.execute("PRAGMA application_id")
        if owner != APPLICATION_ID:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _make_table(db)
    # Not before: what _check_head looks for must be in the file itself.
    db.execute("PRAGMA journal_mode = WAL")
    # NORMAL would spare half a millisecond per answer, and lose the last ones in a power cut.
    db.execute("PRAGMA synchronous = FULL")


def _make_table(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute(
        "CREATE TABLE answers "
        "(asked TEXT NOT NULL, task_id TEXT, nth INTEGER NOT NULL, answer TEXT NOT NULL, checksum BLOB NOT NULL)"
    )


def _check(db: sqlite3.Connection) -> None:
    """
    Check all but the rows.

    Raises:
        sqlite3.DatabaseError: If something is damaged.
    """
    import sqlite3

    for (problem,) in db.execute("PRAGMA integrity_check(1)"):
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)


def _rows(db: sqlite3.Connection, number: int | None = None) -> Iterator[Row | None]:
    """Every row, or the one with that *number*; None for each that is damaged."""
    checked = _has_checksums(db)
    cells = f"{_CELLS}, {'CAST(checksum AS BLOB)' if checked else 'NULL'}"
    where, values = ("", ()) if number is None else ("WHERE rowid = ?", (number,))
    for *said, checksum in db.execute(f"SELECT {cells} FROM answers {where}", values):  # noqa: S608 - ours
        yield _row(said, checksum, checked=checked)


def _has_checksums(db: sqlite3.Connection) -> bool:
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


def _never_close(db: sqlite3.Connection) -> None:  # no coverage: in a forked child
    """In a forked child, keep SQLite from ending what is the parent's: it would delete the `-wal` under its hands."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
