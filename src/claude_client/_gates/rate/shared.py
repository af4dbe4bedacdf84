"""A file by which the processes of a host share their gates: a record for each, read and written under a lock."""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from pathlib import Path
from threading import Lock
from typing import Any

from claude_client._gates.rate.state import State

_log = logging.getLogger("claude_client")

_MAGIC = b"claude_client limits 1"
_PAGE = 4096  # of the header and of each record: a process that is killed while it writes a page has written it or not
_KEY_SIZE = 32
_HEAD = struct.Struct(f"={_KEY_SIZE}sId")  # the key, the checksum of the numbers, the time of writing


class SharedFile:
    """
    The file at *path*, made where there is none, for its owner alone.

    Args:
        numbers: How many numbers a record has.

    Raises:
        OSError: If it cannot be used, or the system has no `flock`.
    """

    def __init__(self, path: str | os.PathLike[str], numbers: int) -> None:
        try:
            import fcntl
        except ImportError as missing:  # no coverage: only on Windows
            raise OSError("limits can be shared only on systems with flock, and this one has none") from missing
        self.path = Path(path).absolute()
        self._fcntl: Any = fcntl
        self._numbers = struct.Struct(f"={numbers}d")
        self._header = b"%s, %d numbers\n" % (_MAGIC, numbers)
        self._threads = Lock()  # the lock of the file is the process's: it does not keep threads apart
        self._places: dict[bytes, int] = {}
        self._file = -1
        while not self._is_locked():
            self.close()
        self._fcntl.flock(self._file, self._fcntl.LOCK_UN)

    def acquire(self, key: bytes) -> tuple[float, ...] | None:
        """
        Wait until no other thread or process has it. Return the numbers in the record of *key*; None if there are
        none that can be used.

        Raises:
            OSError: If it cannot be used. It is not acquired then.
        """
        self._threads.acquire()
        try:
            while not self._is_locked():
                self.close()
            return self._read(key)
        except BaseException:
            self.close()  # and with that, unlock it
            self._threads.release()
            raise

    def release(self, key: bytes, numbers: list[float]) -> None:
        """
        Replace the record of *key*, and let others have it.

        Raises:
            OSError: If it could not be written. It is released then, too.
        """
        body = self._numbers.pack(*numbers)
        try:
            os.pwrite(self._file, _HEAD.pack(key, zlib.crc32(body), time.monotonic()) + body, self._place(key))
        finally:
            self._fcntl.flock(self._file, self._fcntl.LOCK_UN)
            self._threads.release()

    def after_fork(self) -> None:  # no coverage: in a forked child
        """
        Close what was opened before the fork: its lock would be held for as long as any process has it open. It is
        opened again when it is next acquired.
        """
        self._threads = Lock()
        self.close()

    def close(self) -> None:
        """Close it for this process. It is opened again when it is next acquired."""
        self._places.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self, key: bytes) -> tuple[float, ...] | None:
        page = os.pread(self._file, _HEAD.size + self._numbers.size, self._place(key))
        if len(page) < _HEAD.size + self._numbers.size:
            return None
        found, checksum, written_at = _HEAD.unpack_from(page)
        body = page[_HEAD.size :]
        # A time to come is of another boot of this machine, or of another machine.
        if found != key or checksum != zlib.crc32(body) or written_at > time.monotonic():
            return None
        return self._numbers.unpack(body)

    def _is_locked(self) -> bool:
        """Lock the file of that name, and return whether it is one of ours, and still has that name."""
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self._fcntl.flock(self._file, self._fcntl.LOCK_EX)
        if not os.fstat(self._file).st_nlink:  # somebody has removed it
            return False
        if self._places:
            return True
        return self._is_ours()

    def _is_ours(self) -> bool:
        header = os.pread(self._file, len(self._header), 0)
        if not header:
            os.fchmod(self._file, 0o600)
            os.pwrite(self._file, self._header, 0)
        elif header != self._header:
            aside = self.path.with_name(f"{self.path.name}.unusable")
            if os.path.samestat(os.fstat(self._file), self.path.stat()):  # nobody else has done it meanwhile
                self.path.replace(aside)
                what = "of another version" if header.startswith(_MAGIC) else "broken"
                _log.warning("The file of limits %s is %s: it is now %s, and a new one begins", self.path, what, aside)
            return False
        return True

    def _place(self, key: bytes) -> int:
        """The offset of the record of *key*: where it is, or where the file ends."""
        if key not in self._places:
            place = _PAGE
            while (found := os.pread(self._file, _KEY_SIZE, place)) and found != key:
                place += _PAGE
            self._places[key] = place
        return self._places[key]


class SharedLock:
    """
    The lock of a gate that processes share. When it is acquired, *state* becomes what the record of *key* in *file*
    says; when it is released, the record becomes what *state* is. If the file fails, it locks this process alone.
    """

    def __init__(self, file: SharedFile, key: bytes, state: State) -> None:
        self._file = file
        self._key = key
        self._state = state
        self._lock = Lock()  # guards what follows, and the state where the file has failed
        self._fails = False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._fails:
            return
        try:
            numbers = self._file.acquire(self._key)
        except OSError as failed:
            self._go_alone(failed)
        else:
            if numbers:
                self._state.restore(numbers)

    def __exit__(self, *exc_info: object) -> None:
        try:
            if not self._fails:
                self._file.release(self._key, self._state.numbers())
        except OSError as failed:
            self._go_alone(failed)
        finally:
            self._lock.release()

    def _go_alone(self, failed: OSError) -> None:
        self._fails = True
        _log.warning("Limits are no longer shared by %s: %s", self._file.path, failed)
