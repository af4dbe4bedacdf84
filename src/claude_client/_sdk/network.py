"""The SDK's network, changed to report to the attempt of its thread and to let it be aborted."""

from __future__ import annotations

import errno
import importlib
import math
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from claude_client._sdk.foreign import foreign
from claude_client._sdk.pools import Pools
from claude_client._values.attempt import Attempt
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import current, interruptibly

_MOMENT = 0.05  # seconds
_MOST_CHUNKS_LEFT = 3


def instrument(client: Any) -> None:
    """
    Have an SDK client report to attempts the head of each answer and the sockets it may block on, proxies included.

    A transport other than httpcore's is left alone: a call that is blocked in it cannot be aborted.
    """
    http_client = getattr(client, "_client", None)
    hooks = getattr(http_client, "event_hooks", None)
    if http_client is not None and hooks is not None and _on_response not in hooks["response"]:
        http_client.event_hooks = {**hooks, "response": [*hooks["response"], _on_response]}
    transports = [getattr(http_client, "_transport", None), *getattr(http_client, "_mounts", {}).values()]
    for transport in transports:
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if type(backend).__name__ == "SyncBackend":
            pool._network_backend = _Backend(backend)  # type: ignore[union-attr]  # noqa: SLF001 - no public way
            transport._pool = Pools(pool)  # noqa: SLF001


def read_end(response: Any, chunks: Iterator[bytes]) -> None:
    """
    Read the end of a body of which no more is wanted, so that its connection can be used again. It is not waited for
    longer than a moment, nor at all where a read could not be ended.
    """
    attempt = current()
    if attempt is not None and isinstance(response.extensions.get("network_stream"), _Stream):
        attempt.ends_at = min(attempt.ends_at, time.monotonic() + _MOMENT)
        try:
            for _ in islice(chunks, _MOST_CHUNKS_LEFT):
                pass
        except Exception as exc:
            if foreign(exc) is not None:  # else the answer is whole, whatever it is
                raise


def _on_response(response: Any) -> None:
    attempt = current()
    if isinstance(attempt, Attempt):
        _refuse_to_leave(response)
        _check_for_leftovers(response)
        attempt.first_byte_at = time.monotonic()
        attempt.status, attempt.limits = response.status_code, _limits(response.headers)
        attempt.tell("head")


def _limits(headers: Any) -> dict[str, str]:
    """The rate limits in *headers*, by names in lower case. Read raw: httpx decodes all of them at each access."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in headers.raw
        if b"ratelimit" in name.lower()
    }


def _refuse_to_leave(response: Any) -> None:
    """Raise if *response* redirects to another host: prompt and credentials would go where nobody meant them to."""
    if response.status_code // 100 != 3 or not response.has_redirect_location:  # which reads all headers
        return
    here, there = response.url, response.url.join(response.headers["location"])
    if (here.scheme, here.host, here.port) != (there.scheme, there.host, there.port):
        raise ClaudeInvocationError(
            f"The server redirects to {there.scheme}://{there.netloc.decode('ascii').rpartition('@')[2]}, which is not "
            "followed: prompt and credentials would go to a host that nobody named",
            kind="invalid_response",
            status_code=response.status_code,
        )


def _check_for_leftovers(response: Any) -> None:
    """
    Have the connection of *response* closed after it if it has brought more than the answer: whoever used it next would
    take that for theirs. httpcore looks at the socket, but not at what it has read from it already.
    """
    stream = response.extensions.get("network_stream")
    if not isinstance(stream, _Stream) or stream.is_checked:
        return
    stream.is_checked = True
    with suppress(AttributeError):  # HTTP/2, which has no such leftovers
        connection = response.stream._stream._httpcore_stream._stream._connection  # noqa: SLF001 - no public way
        connection._response_closed = partial(_close_response, connection, connection._response_closed)  # noqa: SLF001


def _close_response(connection: Any, closed: Callable[[], None]) -> None:
    state = connection._h11_state  # noqa: SLF001
    if state.trailing_data[0]:
        state.send_failed()  # it is closed then, as after every failure
    closed()


class _Backend:
    """httpcore's network, with streams that can be aborted. A duck: its base classes are httpcore's or httpcore2's."""

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
        if (doing := current()) is not None:
            doing.wrote = bool(doing.wrote)
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
    """A stream of httpcore that can be aborted."""

    def __init__(self, inner: Any) -> None:
        #: Whether bytes after the end of an answer are looked for.
        self.is_checked = False
        self._inner = inner
        self._socket: socket.socket = inner.get_extra_info("socket")
        self.close = inner.close
        self.get_extra_info = inner.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = interruptibly(self._socket, self._inner.read, max_bytes, _until_end(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:  # httpcore ends each request with nothing
            if (doing := current()) is not None:
                doing.wrote = True
            interruptibly(self._socket, self._inner.write, buffer, _until_end(timeout))

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        # The handshake takes the socket away from its object; a duplicate still reaches the connection.
        with socket.socket(fileno=os.dup(self._socket.fileno())) as duplicate:
            return _Stream(
                interruptibly(duplicate, self._inner.start_tls, ssl_context, server_hostname, _until_end(timeout))
            )


def _until_end(timeout: float | None) -> float | None:
    """*timeout*, but no longer than what this thread does may still take."""
    doing = current()
    if doing is None or doing.ends_at == math.inf:
        return timeout
    left = max(doing.ends_at - time.monotonic(), 0.001)
    return left if timeout is None else min(timeout, left)


def _connect(host: str, port: int, timeout: float | None, local_address: str | None) -> socket.socket:
    """Same as `socket.create_connection`, which hides its socket until it is connected; this can be aborted."""
    refused: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            if local_address is not None:
                sock.bind((local_address, 0))
            _begin(sock, address)
            interruptibly(sock, _await_connection, sock, _until_end(timeout))
            sock.settimeout(timeout)
        except OSError as exc:
            sock.close()
            refused = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise refused or OSError(f"no address found for {host}")


def _begin(sock: socket.socket, address: Any) -> None:
    """Begin to connect. Only a connection that has begun can be shut down, so nothing may block before."""
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error not in {0, errno.EINPROGRESS, errno.EWOULDBLOCK}:
        raise OSError(error, os.strerror(error))


def _await_connection(sock: socket.socket, timeout: float | None) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        if not selector.select(timeout):
            raise TimeoutError("timed out")
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))
