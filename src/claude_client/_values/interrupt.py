"""
Ending a call from another thread, whatever its own thread is blocked on.

A read that blocks in one thread is ended from another by shutting its socket down; closing it is not enough. So
around everything that may block, a thread tells the `Operation` it is running which socket it is about to block on
(`_network` does), and `Operation.end` shuts that socket down.

Not reached by this: looking up a host's name, a callback of the user's while it runs, the first import of the SDK.
Tried on Linux only. A client that was brought with a transport of its own is ended at its next byte.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import socket

_T = TypeVar("_T")

Ending = Literal["interrupted", "stalled", "cancelled"]


class InterruptToken:
    """
    Ends the calls it was given to. One token may serve any number of calls and runs, one after another or at once.

    Every method may be called from any thread, `interrupt` also from a signal handler.
    """

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
        """Whether `interrupt` was called, and `reset` not since."""
        return self._interrupted

    def reset(self) -> None:
        """Make the token fit for use again. What it has ended stays ended."""
        self._interrupted = False

    @contextmanager
    def watched_by(self, watcher: Callable[[], object]) -> Iterator[None]:
        """Call *watcher* at each interrupt, on the thread that interrupts; at once if that has happened."""
        key = object()
        self._watchers[key] = watcher
        try:
            if self._interrupted:
                watcher()
            yield
        finally:
            del self._watchers[key]

    def wait(self, seconds: float) -> bool:
        """Wait until *seconds* have passed or there is an interrupt; whether there was."""
        woken: SimpleQueue[None] = SimpleQueue()
        with self.watched_by(lambda: woken.put(None)), suppress(Empty):
            woken.get(timeout=min(seconds, threading.TIMEOUT_MAX))
            return True
        return False

    def __repr__(self) -> str:
        return f"<InterruptToken {'interrupted' if self._interrupted else 'not interrupted'}>"


class Operation:
    """One attempt as others see it: they can end it, and are told how far it is. Safe from any thread."""

    def __init__(self) -> None:
        #: Whether a stream is wanted for its own sake: `on_begin` then comes as early as can be.
        self.must_stream = False
        #: Called with the status of the answer and its headers about rate limits (their names in lower case), on the
        #: thread of the attempt, before its body is read.
        self.on_headers: Callable[[int, Mapping[str, str]], object] | None = None
        #: Called on the thread of the attempt once the answer has begun: what it wrote to the cache can be read.
        self.on_begin: Callable[[], object] | None = None
        #: Called on the thread of the attempt when that is over, however it went.
        self.on_end: Callable[[], object] | None = None
        #: When it was sent, or the last event of its stream arrived, by `time.monotonic`; None before it is sent.
        self.alive_at: float | None = None
        #: What has arrived of a stream, as far as it was read.
        self.streamed: Any = None
        # Guards the two below, so that no socket is closed, and its number given away, while it is shut down.
        # Reentrant, as a signal handler may end what its own thread is about to block on.
        self._lock = threading.RLock()
        #: Whether the server has answered, with whatever status.
        self.answered = False
        self._blocked_on: socket.socket | None = None
        self._ended: Ending | None = None
        self._around: Operation | None = None

    @property
    def ended(self) -> Ending | None:
        """How it was ended from outside; None if it was not."""
        return self._ended

    def end(self, how: Ending = "interrupted") -> None:
        """Have whatever it is blocked on fail now, and whatever it would block on later."""
        with self._lock:
            self._ended = self._ended or how
            if self._blocked_on is not None:
                _shut_down(self._blocked_on)

    def __enter__(self) -> None:
        """Be the operation of this thread; one it is in the middle of comes back afterwards."""
        self._around = current_operation()
        _thread.operation = self

    def __exit__(self, *exc_info: object) -> None:
        _thread.operation = self._around

    def block_on(self, sock: socket.socket) -> None:
        """Say that this thread may now block on *sock*, until `unblock`. What had arrived by the end still counts."""
        with self._lock:
            if self._ended:
                raise EndedError(f"the call was {self._ended}")
            self._blocked_on = sock

    def hear(self, status: int, limits: Mapping[str, str]) -> None:
        """The head of the answer has arrived."""
        self.answered = True
        if self.on_headers:
            self.on_headers(status, limits)

    def unblock(self) -> None:
        """Say that this thread no longer blocks."""
        with self._lock:
            self._blocked_on = None


class EndedError(Exception):
    """The operation of this thread was ended; what it was about to do is not begun."""


class _Thread(threading.local):
    operation: Operation | None = None


_thread = _Thread()


def _shut_down(sock: socket.socket) -> None:
    import socket

    with suppress(OSError):  # not connected yet, or closed by the other side
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # the plain one, also of a TLS socket, which must not unwrap


def current_operation() -> Operation | None:
    """The one that this thread is running."""
    return _thread.operation


def interruptibly(sock: socket.socket, block: Callable[..., _T], *args: Any) -> _T:
    """What *block* returns, which may block on *sock* unless the operation of this thread is ended."""
    operation = _thread.operation
    if operation is None:
        return block(*args)
    operation.block_on(sock)
    try:
        return block(*args)
    finally:
        operation.unblock()
