"""A file by which the processes of a host share their gates: a record for each, read and written under a lock."""

from __future__ import annotations

import logging
import math
import os
import stat
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from claude_client._gates.rate.state import State
from claude_client._values.log import Log

_log = Log("claude_client")

_MAGIC = b"claude_client limits 1"
_PAGE = 4096  # of the header and of each record: a process that is killed while it writes a page has written it or not
_KEY_SIZE = 32
_HEAD = struct.Struct(f"={_KEY_SIZE}sId")  # the key, the checksum of the numbers, the time of writing

# Seconds. Nobody has the lock for a millisecond, unless stopped; who waits for longer goes on alone for a while.
_LONGEST_WAIT = 0.1
_ALONE_FOR = 1.0


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
        self.path = Path(path).expanduser().absolute()
        self._fcntl: Any = fcntl
        self._numbers = struct.Struct(f"={numbers}d")
        self._header = b"%s, %d numbers\n" % (_MAGIC, numbers)
        self._threads = Lock()  # the lock of the file is the process's: it does not keep threads apart
        self._places: dict[bytes, int] = {}
        self._file = -1
        self._is_checked = False  # its header, since it was opened
        self._alone_until = -math.inf
        self._failed = False
        self._with_lock(lambda: None)

    def __del__(self) -> None:
        with suppress(Exception):
            self._close()

    def update(self, key: bytes, state: State, operation: Callable[..., Any], *args: Any) -> Any:
        """
        Call *operation* with *args* on *state* as the record of *key* has it, and write it back.

        Where the file fails, or a process that is stopped keeps its lock, *state* is this process's own.

        Raises:
            BaseException: Whatever *operation* raised. The record is as it was then.
        """
        results = []

        def step() -> None:
            if numbers := self._read(key):
                state.restore(numbers)
            results.append(operation(*args))
            self._write(key, state.numbers())

        with self._threads:
            if not self._failed and time.monotonic() >= self._alone_until:
                try:
                    self._with_lock(step)
                except OSError as failed:
                    self._go_alone(failed)
            return results[0] if results else operation(*args)

    def after_fork(self) -> None:  # no coverage: in a forked child
        """
        Close what was opened before the fork: its lock would be held for as long as any process has it open. It is
        opened again when it is next used.
        """
        self._threads = Lock()
        self._close()

    def _with_lock(self, step: Callable[[], None]) -> None:
        """Call *step* while no other process has the file."""
        usable = False
        while not usable:
            if self._file < 0:
                self._open()
            file, flock, unlock = self._file, self._fcntl.flock, self._fcntl.LOCK_UN
            try:
                self._lock(file)
                usable = self._is_usable(file)
                if usable:
                    step()
            finally:
                # Nothing before it, not even a lookup: what a signal handler raises cannot come between.
                flock(file, unlock)
            if not usable:
                self._close()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self._is_checked = False
        self._places.clear()
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            self._close()
            raise OSError(f"limits can be shared only by a regular file, and {self.path} is none")

    def _close(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _lock(self, file: int) -> None:
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            try:
                self._fcntl.flock(file, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.0005)
            else:
                return

    def _is_usable(self, file: int) -> bool:
        """Return whether *file* is one of ours, and still has the name."""
        opened = os.fstat(file)
        try:
            if not os.path.samestat(opened, self.path.stat()):
                return False
        except FileNotFoundError:
            return False
        if not opened.st_size:
            self._places.clear()
            os.fchmod(file, 0o600)
            os.pwrite(file, self._header.ljust(_PAGE, b"\0"), 0)
        elif not self._is_checked or opened.st_size < _PAGE:
            header = os.pread(file, len(self._header), 0)
            if header != self._header or opened.st_size < _PAGE:
                self._set_aside(header)
                return False
        self._is_checked = True
        return True

    def _set_aside(self, header: bytes) -> None:
        names = (
            self.path.with_name(f"{self.path.name}.unusable{number}") for number in ("", *map(str, range(2, 1000)))
        )
        aside = next(name for name in names if not name.exists())
        self.path.rename(aside)
        what = "of another version" if header.startswith(_MAGIC) and header != self._header else "broken"
        _log.warning("The file of limits %s is %s: it is now %s, and a new one begins", self.path, what, aside)

    def _go_alone(self, failed: OSError) -> None:
        """For a while, if another process has the lock; for good, if the file fails."""
        level = logging.WARNING if self._alone_until == -math.inf else logging.DEBUG
        self._alone_until = time.monotonic() + _ALONE_FOR
        if not isinstance(failed, BlockingIOError):
            self._failed = True
            _log.warning("Limits are no longer shared by %s: %s", self.path, failed)
        else:
            _log.log(level, "A process that may be stopped keeps the file of limits %s: going on without it", self.path)

    def _read(self, key: bytes) -> tuple[float, ...] | None:
        """The numbers in the record of *key*; None if there are none that can be used."""
        page = os.pread(self._file, _HEAD.size + self._numbers.size, self._place(key))
        if len(page) < _HEAD.size + self._numbers.size:
            return None
        found, checksum, written_at = _HEAD.unpack_from(page)
        body = page[_HEAD.size :]
        # A time to come is of another boot of this machine, or of another machine.
        if found != key or checksum != zlib.crc32(body) or written_at > time.monotonic():
            return None
        return self._numbers.unpack(body)

    def _write(self, key: bytes, numbers: list[float]) -> None:
        body = self._numbers.pack(*numbers)
        os.pwrite(self._file, _HEAD.pack(key, zlib.crc32(body), time.monotonic()) + body, self._place(key))

    def _place(self, key: bytes) -> int:
        """The offset of the record of *key*: where it is, or where the file ends."""
        if key not in self._places:
            place = _PAGE
            while (found := os.pread(self._file, _KEY_SIZE, place)) and found != key:
                place += _PAGE
            self._places[key] = place
        return self._places[key]
