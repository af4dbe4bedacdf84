"""The answers of a run in a SQLite file, so that the same call, made again, asks only for the rest."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from claude_client import ClaudeResponse
from claude_client._values.breakpoints import unmarked
from claude_client._values.content import as_blocks, loaded
from claude_client._verbs.stored import from_stored, to_stored

if TYPE_CHECKING:
    import json
    import sqlite3
    from collections.abc import Iterator

    from claude_client._values.request import Request

#: Raised with every change after which older versions could not read the answers, or the fingerprints are others.
FORMAT = 1
APPLICATION_ID = 0x4F41674A  # "OAgJ"; SQLite has a place for it in its files

_MAGIC = b"SQLite format 3\0"
_USER_VERSION = slice(60, 64)
_APPLICATION_ID = slice(68, 72)

# The journals open in this process, by path. Closing any other descriptor of a file would take SQLite's lock off it,
# so none of these may be opened a second time, not even to read.
_open: dict[str, Journal] = {}


class JournalError(RuntimeError):
    """A journal cannot be used, or could not store an answer."""


class Journal:
    """
    Keeps the answers to *requests* in the file *path*, and reads those of earlier runs.

    An answer is found again by the `fingerprint` and the `task_id` of its request. Of several requests that are the
    same, each has its own answer, in their order; one that has none gets what is left over. Answers that nobody asks
    for now stay in the file.

    The file is made where there is none, for its owner alone to read. It holds the answers in plain text, each with
    its `task_id` and a hash of what was asked; no prompt and no key. In use, and after its process was killed, it goes
    together with a second file, `<path>-wal`.

    One run at a time can use it, from any of its threads; the lock ends with the process. Of two that open it at the
    very same moment both may be refused.

    Raises:
        ValueError: For a blank *path*, or a request with a file that can no longer be read.
    """

    def __init__(self, path: str | os.PathLike[str], requests: Sequence[Request]) -> None:
        if not os.fspath(path).strip():
            raise ValueError(f"journal must be the path of a file, got {path!r}")
        self._path = os.path.realpath(path)
        self._keys = _keys(requests)
        self._pid: int | None = None  # of the process that has it open
        self._db_lock = threading.Lock()  # guards the connection while answers are kept
        self._db: sqlite3.Connection
        self._closing: ExitStack
        #: The answers of earlier runs, by the index of their request.
        self.answered: dict[int, ClaudeResponse] = {}

    def __enter__(self) -> Self:
        """
        Open the file, lock it and read it.

        Raises:
            JournalError: If another run uses it, it cannot be written, is no journal or has a newer format. It is
                unchanged then.
        """
        import sqlite3

        if self._pid or _open.setdefault(self._path, self) is not self:
            raise JournalError(f"The journal {self._path} is in use by another run")
        with ExitStack() as closing, _refusing(self._path):
            closing.callback(_open.pop, self._path)
            _check(self._path)
            self._db = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            closing.callback(self._db.close)
            _lock(self._db)
            self.answered = {index: self._read(row) for index, row in self._found()}
            self._closing = closing.pop_all()
        self._pid = os.getpid()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid == os.getpid():
            self._pid = None
            self._closing.close()
        elif self._pid:  # no coverage: in a forked child
            _never_close(self._db)

    def keep(self, index: int, response: ClaudeResponse) -> None:
        """
        Store the answer to request *index*. When this returns it is on the disk: not even a power cut loses it. Any
        thread may call this.

        Raises:
            JournalError: If it could not be stored, as on a full disk; what was stored before stays.
        """
        if self._pid != os.getpid():
            raise JournalError(f"The journal {self._path} is not open in this process")
        try:
            row = (*self._keys[index], _written(response))
            with self._db_lock:
                self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", row)
        except (self._db.Error, TypeError, ValueError) as failed:
            raise JournalError(
                f"The answer to prompts[{index}] could not be stored in the journal {self._path}: {failed}"
            ) from failed

    def _found(self) -> Iterator[tuple[int, int]]:
        """The index and row of each request that has an answer."""
        stored: dict[tuple[str, str | None], dict[int, int]] = {}
        for row, asked, task_id, nth in self._db.execute("SELECT rowid, asked, task_id, nth FROM answers"):
            stored.setdefault((asked, task_id), {})[nth] = row
        rest = []
        for index, (asked, task_id, nth) in enumerate(self._keys):
            rows = stored.get((asked, task_id), {})
            if nth in rows:
                yield index, rows.pop(nth)
            elif rows:
                rest.append((index, rows))
        for index, rows in rest:  # there were more of the same, and an earlier one had no answer
            if rows:
                yield index, rows.pop(min(rows))

    def _read(self, row: int) -> ClaudeResponse:
        import json

        ((text,),) = self._db.execute("SELECT answer FROM answers WHERE rowid = ?", (row,))
        return from_stored(json.loads(text))


def fingerprint(request: Request) -> str:
    """
    A hash of all in *request* that the answer depends on: its body and its `extra_query`.

    Headers, time limits, retries, streaming, `task_id` and category do not count. Nor do cache breakpoints: they change
    the price and not the answer, so what was paid for without caching is not asked again with it. The same on every
    SDK, Python and machine.

    Raises:
        ValueError: If a file in it can no longer be read.
    """
    import hashlib

    said: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "system": unmarked(as_blocks(request.system)),
        "messages": [unmarked({**turn, "content": as_blocks(turn["content"])}) for turn in request.messages],
        **request.params,
        **request.extra_body,
        "extra_query": request.extra_query,
    }
    if request.has_files:
        said = loaded(said)
    said["tools"] = unmarked(said.get("tools"))
    said.pop("cache_control", None)
    lines = [f"{name}={_encoder().encode(value)}\n" for name, value in sorted(said.items()) if not _is_omitted(value)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _keys(requests: Sequence[Request]) -> list[tuple[str, str | None, int]]:
    """The fingerprint and `task_id` of each request, and the number of requests before it with the same two."""
    before: Counter[tuple[str, str | None]] = Counter()
    keys = []
    for i, request in enumerate(requests):
        try:
            same = (fingerprint(request), request.task_id)
        except ValueError as unknown:
            raise ValueError(f"prompts[{i}]: {unknown}") from unknown
        keys.append((*same, before[same]))
        before[same] += 1
    return keys


@cache
def _encoder() -> json.JSONEncoder:
    import json

    return json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"), default=_convert)


def _convert(value: Any) -> Any:
    """The JSON value for *value*, which is not JSON: as the SDK would send it."""
    import datetime as dt

    if isinstance(value, dt.date):
        return value.isoformat()
    if _is_omitted(value):
        return None
    raise TypeError(f"it holds a {type(value).__name__}")


def _is_omitted(value: Any) -> bool:
    return type(value).__name__ in {"Omit", "NotGiven"}


def _written(response: ClaudeResponse) -> str:
    import json

    return json.dumps(to_stored(response), separators=(",", ":"), default=_convert)


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turn errors of the file at *path* into a `JournalError`."""
    import sqlite3

    try:
        yield
    except OSError as exc:
        raise JournalError(f"The journal {path} cannot be opened: {exc.strerror}") from exc
    except sqlite3.Error as exc:
        if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise JournalError(f"The journal {path} is in use by another run") from exc
        raise JournalError(f"The journal {path} cannot be used: {exc}") from exc


def _check(path: str) -> None:
    """
    Raise unless the file at *path* is a journal or empty; make it where there is none.

    Not read by SQLite, which changes a file that it opens: it may recover it, or make a `-wal` beside it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        head = os.pread(descriptor, 100, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"a device"
    finally:
        os.close(descriptor)
    if not head:
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
    db.execute("BEGIN EXCLUSIVE")
    ((owner,),) = db.execute("PRAGMA application_id")
    if owner != APPLICATION_ID:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute(
            "CREATE TABLE answers (asked TEXT NOT NULL, task_id TEXT, nth INTEGER NOT NULL, answer TEXT NOT NULL)"
        )
    db.execute("COMMIT")
    # Not before: what _check looks for must be in the file itself.
    db.execute("PRAGMA journal_mode = WAL")
    # NORMAL would spare half a millisecond per answer, and lose the last ones in a power cut.
    db.execute("PRAGMA synchronous = FULL")


def _never_close(db: sqlite3.Connection) -> None:  # no coverage: in a forked child
    """In a forked child, keep SQLite from ending what is the parent's: it would delete the `-wal` under its hands."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
