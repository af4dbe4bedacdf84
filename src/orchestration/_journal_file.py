"""The file of a journal: an SQLite database that is locked and checked when it is opened, each row with a checksum."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ._journal_rows import FORMAT, INSERT, Row, damage, has_checksums, make_batches, make_table, rows_in, whole_rows

if TYPE_CHECKING:
    import sqlite3

APPLICATION_ID = 0x4F41674A  # "OAgJ"; SQLite has a place for it in its files

_MAGIC = b"SQLite format 3\0"
_USER_VERSION = slice(60, 64)
_APPLICATION_ID = slice(68, 72)

# The journals open in this process, by path. Closing any other descriptor of a file would take SQLite's lock off it,
# so none of these may be opened a second time, not even to read.
_open: dict[str, JournalFile] = {}


class JournalError(RuntimeError):
    """A journal cannot be used, or could not store an answer."""


class BusyJournalError(JournalError):
    """Another run uses it."""


class DamagedJournalError(JournalError):
    """It cannot be used as a whole; some of its answers may be whole."""


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
            BusyJournalError: If another run uses it.
            JournalError: If it is no journal or has a newer format.
            OSError, sqlite3.Error: For all else; see `refusing`.
        """
        import sqlite3

        if self._pid or _open.setdefault(self.path, self) is not self:
            raise BusyJournalError(f"The journal {self.path} is in use by another run")
        with ExitStack() as opening:
            opening.callback(_open.pop, self.path)
            _check_head(self.path, make=self._make)
            self._db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            opening.callback(self._db.close)
            _lock(self._db)
            _check_end(self._db, self.path)
            _check(self._db)
            if not has_checksums(self._db):
                self._write_anew()
            make_batches(self._db)
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
        for row in rows_in(self._db):
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
            self._db.executemany(INSERT, rows)

    def batches(self) -> list[tuple[int, str]]:
        """The number and the text of each batch that was noted and not dropped."""
        return list(self._db.execute("SELECT number, told FROM batches ORDER BY number"))

    def set_batch(self, number: int | None, told: str) -> int:
        """Note a batch, or with its *number* something else of it; return that. It is on the disk then."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            done = self._db.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", (number, told))
            return int(done.lastrowid or 0)

    def drop_batches(self, numbers: Iterable[int]) -> None:
        """Forget batches."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM batches WHERE number = ?", zip(numbers))

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
            make_table(self._db)
            self._db.executemany(INSERT, rows)
        self._db.execute("PRAGMA wal_checkpoint")  # older versions look for the format in the file itself


@contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file at *path*, once it is closed, into a `JournalError` that says what is whole."""
    import sqlite3

    path = os.path.realpath(path)
    try:
        yield
    except OSError as exc:
        raise JournalError(f"The journal {path} cannot be opened: {exc.strerror}") from exc
    except damage() as exc:
        # Errors of Python's own, for texts that are none, have no code.
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise BusyJournalError(f"The journal {path} is in use by another run") from exc
        whole = sum(1 for _ in whole_rows(path))
        raise DamagedJournalError(
            f"The journal {path} cannot be used: {exc}. {whole} of its answers are whole: "
            "orchestration.salvage_journal writes them to a new one"
        ) from exc


@contextmanager
def readable(path: str | os.PathLike[str]) -> Iterator[str]:
    """
    The path of a journal to read: *path* or, while another process uses that, a copy with all that it has so far.

    Raises:
        JournalError: If it is not there, is no journal or is damaged; or if a run of this process uses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with refusing(path), JournalFile(path, make=False) as file:
                found = file.path
        except BusyJournalError:
            found = os.path.realpath(path)
            if found in _open:  # to open it another time would take its lock off it
                raise
            found = _copied(found, folder)
        yield found


def _copied(path: str, folder: str) -> str:
    """
    A copy, in *folder*, of the journal at *path*, which another process writes to.

    Raises:
        BusyJournalError: If it was written anew again and again.
    """
    copy = str(Path(folder) / "journal")
    for _ in range(10):
        # While nobody begins the log anew it has all that is, or is about to be, in the file itself.
        begun = _start_of_log(path)
        for end in ("", "-wal"):
            Path(copy + end).unlink(missing_ok=True)
            if Path(path + end).exists():
                shutil.copyfile(path + end, copy + end)
        if begun == _start_of_log(copy):
            return copy
    raise BusyJournalError(f"The journal {path} is in use by another run")


def _start_of_log(path: str) -> bytes:
    try:
        with Path(f"{path}-wal").open("rb") as log:
            return log.read(32)
    except FileNotFoundError:
        return b""


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


def _lock(db: sqlite3.Connection) -> None:
    """Lock the file until *db* is closed or the process ends, and make the table in a new one."""
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    with db:
        db.execute("BEGIN EXCLUSIVE")
        ((owner,),) = db.execute("PRAGMA application_id")
        if owner != APPLICATION_ID:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            make_table(db)
    # Not before: what _check_head looks for must be in the file itself.
    db.execute("PRAGMA journal_mode = WAL")
    # NORMAL would spare half a millisecond per answer, and lose the last ones in a power cut.
    db.execute("PRAGMA synchronous = FULL")


def _check_end(db: sqlite3.Connection, path: str) -> None:
    """
    Raise unless SQLite has recovered all commits of a process that was killed. It stops at the first that is damaged,
    and says nothing. Not so for the last: that may well have been under way.
    """
    log = Path(f"{path}-wal")
    if not log.exists():
        return
    content = log.read_bytes()
    ((page_size,),) = db.execute("PRAGMA page_size")
    ((_, recovered, _),) = db.execute("PRAGMA wal_checkpoint")
    heads = [content[start : start + 16] for start in range(32, len(content) - page_size, 24 + page_size)]
    # A commit tells the size of the file, and has the salts of the log, unless an earlier round left it there.
    lost = sum(any(head[4:8]) and head[8:] == content[16:24] for head in heads[recovered:])
    if lost > 1:
        raise JournalError(
            f"The journal {path} was damaged at its end: its last {lost} commits are lost, and will be asked again. "
            "Everything before is whole: to go on with it, open it again"
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


def _never_close(db: sqlite3.Connection) -> None:  # no coverage: in a forked child
    """In a forked child, keep SQLite from ending what is the parent's: it would delete the `-wal` under its hands."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
