"""
Ends calls from another thread, whatever their own thread is blocked on.

A read that blocks in one thread is ended from another by shutting its socket down; closing it is not enough. So
before everything that may block, a thread gives its current `Abortable` the socket that it is about to block on
(`_sdk.network` does), and `Abortable.abort` shuts that socket down.

Not reached by this: looking up a host's name, a callback of the user's while it runs, the first import of the SDK.
Tried on Linux only. A call on a client with a transport of the caller's ends at its next byte.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from claude_client._values.errors import AbortReason

if TYPE_CHECKING:
    import socket

_T = TypeVar("_T")


class InterruptToken:
    """
    Ends the calls it was given to. A token may serve any number of calls and runs, one after another or at once.

    Every method may be called from any thread, `interrupt` also from a signal handler.
    """

    __slots__ = ("__weakref__", "_interrupted", "_watchers")

    # Flags and dicts are read and changed in single steps rather than under a lock, which a signal handler that
    # interrupts its own thread could not take.

    def __init__(self) -> None:
        self._interrupted = False
        self._watchers: dict[object, Callable[[], object]] = {}

    def interrupt(self) -> None:
        """End everything this token was given to, within 100 ms, and all it is given to before a `reset`."""
        self._interrupted = True
        for watcher in [*self._watchers.values()]:
            watcher()

    def is_interrupted(self) -> bool:
        """Return whether `interrupt` was called, and `reset` not since."""
        return self._interrupted

    def reset(self) -> None:
        """Make the token usable again. Calls that it has ended stay ended."""
        self._interrupted = False

    @contextmanager
    def watched_by(self, watcher: Callable[[], object]) -> Iterator[None]:
        """Call *watcher* at each interrupt, on the thread that interrupts; at once if it is interrupted already."""
        key = object()
        self._watchers[key] = watcher
        try:
            if self._interrupted:
                watcher()
            yield
        finally:
            del self._watchers[key]

    def wait(self, seconds: float) -> bool:
        """Wait until *seconds* have passed or there is an interrupt; return whether there was."""
        woken: SimpleQueue[None] = SimpleQueue()
        with self.watched_by(lambda: woken.put(None)), suppress(Empty):
            woken.get(timeout=min(seconds, threading.TIMEOUT_MAX))
            return True
        return False

    def __repr__(self) -> str:
        return f"<InterruptToken {'interrupted' if self._interrupted else 'not interrupted'}>"


def check_token(token: Any) -> None:
    """Raise a TypeError if *token* is neither an `InterruptToken` nor None."""
    if token is not None and not isinstance(token, InterruptToken):
        raise TypeError(f"interrupt_token must be an InterruptToken or None, got {token!r}")


class Abortable:
    """Something a thread does that others can end. Every method may be called from any thread."""

    #: When it ends by itself, by `time.monotonic`.
    ends_at: float = math.inf
    #: Whether anything was written to a connection; None where that is not known.
    wrote: bool | None = None
    _blocked_on: socket.socket | None = None
    _aborted: AbortReason | None = None
    _told: Callable[[AbortReason], object] | None = None
    _around: Abortable | None = None  # of its own thread only

    def __init__(self) -> None:
        # Guards `_blocked_on` and `_aborted`, so that no socket is closed, and its number given away, while it is shut
        # down. Reentrant, as a signal handler may abort what its own thread is about to block on.
        self._lock = threading.RLock()

    @property
    def aborted(self) -> AbortReason | None:
        """The reason it was ended from outside, or by its deadline; None if it was not."""
        if self._aborted is None and time.monotonic() >= self.ends_at:
            return "deadline"
        return self._aborted

    def abort(self, reason: AbortReason = "interrupted") -> None:
        """Make the socket it is blocked on fail now, and any it would block on later. The first reason counts."""
        with self._lock:
            self._aborted = self._aborted or reason
            if self._blocked_on is not None:
                _shut_down(self._blocked_on)
            if self._told:
                self._told(self._aborted)

    def tell_of_abort(self, told: Callable[[AbortReason], object]) -> None:
        """Call *told* with the reason of an abort, on the thread that aborts; at once if there was one."""
        with self._lock:
            self._told = told
            if self._aborted:
                told(self._aborted)

    def check_deadline(self, now: float) -> None:
        """Raise if it should have ended *now*."""
        if now >= self.ends_at:
            raise AbortedError("the deadline has passed")

    def __enter__(self) -> None:
        """Become the current abortable of this thread for the `with` block; the one before comes back afterwards."""
        self._around = _thread.current
        _thread.current = self

    def __exit__(self, *exc_info: object) -> None:
        _thread.current = self._around

    def block_on(self, sock: socket.socket) -> None:
        """Note that this thread may block on *sock*, until `unblock`. Data that arrived before an abort counts."""
        with self._lock:
            if reason := self.aborted:
                raise AbortedError(f"the call was ended: {reason}")
            self._blocked_on = sock

    def unblock(self) -> None:
        """Note that this thread no longer blocks."""
        with self._lock:
            self._blocked_on = None


class AbortedError(Exception):
    """The current abortable of this thread has ended; it does not begin to block."""


class _Thread(threading.local):
    current: Abortable | None = None


_thread = _Thread()


def _shut_down(sock: socket.socket) -> None:
    import socket

    with suppress(OSError):  # not connected yet, or closed by the other side
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # the plain one, also of a TLS socket, which must not unwrap


def current() -> Abortable | None:
    """The abortable that this thread is running; None if there is none."""
    return _thread.current


def interruptibly(sock: socket.socket, block: Callable[..., _T], *args: Any) -> _T:
    """Call *block*, which may block on *sock*, and return its result; an abort of this thread's abortable ends it."""
    doing = _thread.current
    if doing is None:
        return block(*args)
    doing.block_on(sock)
    try:
        return block(*args)
    finally:
        doing.unblock()
