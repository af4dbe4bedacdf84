"""
Ending a call from another thread, whatever its own thread is blocked on.

A read that blocks in one thread is ended from another by shutting its socket down; closing it is not enough. So the
streams of the SDK's connection pool are wrapped: around everything that may block, each tells the `Operation` that its
thread is running which socket it is about to block on, and `Operation.end` shuts that socket down.

Not reached by this: looking up a host's name, a callback of the user's while it runs, the first import of the SDK.
Tried on Linux only. A client that was brought with a transport of its own is ended at its next byte.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import Any, Literal

Ending = Literal["interrupted", "stalled"]


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
            woken.get(timeout=seconds)
            return True
        return False

    def __repr__(self) -> str:
        return f"<InterruptToken {'interrupted' if self._interrupted else 'not interrupted'}>"


class Operation:
    """One attempt as others see it: they can end it, and are told how far it is. Safe from any thread."""

    def __init__(
        self,
        *,
        must_stream: bool = False,
        on_headers: Callable[[int, Mapping[str, str]], object] | None = None,
        on_begin: Callable[[], object] | None = None,
    ) -> None:
        #: Whether a stream is wanted for its own sake: *on_begin* then comes as early as can be.
        self.must_stream = must_stream
        #: Called with status and headers of the answer, on the thread of the attempt, before its body is read.
        self.on_headers = on_headers
        #: Called on the thread of the attempt once the answer has begun: what it wrote to the cache can be read.
        self.on_begin = on_begin
        # Guards the two below, so that no socket is closed, and its number given away, while it is shut down.
        # Reentrant, as a signal handler may end what its own thread is about to block on.
        self._lock = threading.RLock()
        self._blocked_on: socket.socket | None = None
        self._ended: Ending | None = None

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

    @contextmanager
    def current(self) -> Iterator[None]:
        """Be the operation of this thread; one it is in the middle of comes back afterwards."""
        before = getattr(_thread, "operation", None)
        _thread.operation = self
        try:
            yield
        finally:
            _thread.operation = before

    @contextmanager
    def blocking_on(self, sock: socket.socket) -> Iterator[None]:
        """Say that this thread may now block on *sock*. What had arrived when the operation ended still counts."""
        with self._lock:
            if self._ended:
                raise EndedError(f"the call was {self._ended}")
            self._blocked_on = sock
        try:
            yield
        finally:
            with self._lock:
                self._blocked_on = None


class EndedError(Exception):
    """The operation of this thread was ended; what it was about to do is not begun."""


_thread = threading.local()


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # not connected yet, or closed by the other side
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # the plain one, also of a TLS socket, which must not unwrap


def _blocking_on(sock: Any) -> Any:
    operation: Operation | None = getattr(_thread, "operation", None)
    return nullcontext() if operation is None else operation.blocking_on(sock)


def make_interruptible(client: Any) -> None:
    """Wrap the network of every pool of an SDK client, proxies included; leave a transport of another make alone."""
    http_client = getattr(client, "_client", None)
    transports = [getattr(http_client, "_transport", None), *getattr(http_client, "_mounts", {}).values()]
    for transport in transports:
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if type(backend).__name__ == "SyncBackend":
            pool._network_backend = _Backend(backend)  # type: ignore[union-attr]  # noqa: SLF001 - no public way


class _Backend:
    """httpcore's network, with streams that can be ended. A duck: its base classes are httpcore's or httpcore2's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        name = type(inner).__module__.partition(".")[0]  # httpcore or httpcore2
        self._httpcore: Any = importlib.import_module(f"{name}._backends.sync")

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        core = self._httpcore
        with core.map_exceptions({socket.timeout: core.ConnectTimeout, OSError: core.ConnectError}):
            sock = _connect(host, port, timeout, local_address)
            for option in (*(socket_options or ()), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)):
                sock.setsockopt(*option)
        return _Stream(core.SyncStream(sock))

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(self._inner.connect_unix_socket(*args, **kwargs))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream:
    """A stream of httpcore that can be ended."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._socket: socket.socket = inner.get_extra_info("socket")
        self.close = inner.close
        self.get_extra_info = inner.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _blocking_on(self._socket):
            data: bytes = self._inner.read(max_bytes, timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _blocking_on(self._socket):
            self._inner.write(buffer, timeout)

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        # The handshake takes the socket away from its object; a duplicate still reaches the connection.
        with socket.socket(fileno=os.dup(self._socket.fileno())) as duplicate, _blocking_on(duplicate):
            return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))


def _connect(host: str, port: int, timeout: float | None, local_address: str | None) -> socket.socket:
    """As `socket.create_connection`, which hides its socket until it is connected."""
    refused: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            if local_address is not None:
                sock.bind((local_address, 0))
            with _blocking_on(sock):
                sock.connect(address)
        except OSError as exc:
            sock.close()
            refused = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise refused or OSError(f"no address found for {host}")
