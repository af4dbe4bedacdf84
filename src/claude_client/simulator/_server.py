"""The thread that serves: its event loop, its listening socket, its certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from ._app import build_app
from ._connection import Connection
from ._state import State

_KEEP_ALIVE = 3600  # seconds; longer than any client keeps a connection, so that none is closed under it
_BACKLOG = 2048
_ACCEPTING_STEPS = 2  # turns of the loop from an accepted socket to a connection that can be aborted


class Server:
    """
    A listening socket and the thread that serves it, from construction to `stop`.

    Args:
        tls: Serve https; `ca_file` then names the PEM file of the certificate's issuer.

    Raises:
        OSError: If the port is taken.

        ImportError: If *tls* is asked for and trustme is not installed.
    """

    def __init__(self, state: State, port: int, *, tls: bool) -> None:
        self._state = state
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        with ExitStack() as resources:
            self.ca_file: str | None = None
            self._context: ssl.SSLContext | None = None
            if tls:
                self._context, self.ca_file = _certificate(resources)
            self._socket = resources.enter_context(_listening_socket(port))
            scheme = "https" if tls else "http"
            self.base_url = f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}"
            thread = threading.Thread(target=self._run, name="claude-simulator", daemon=True)
            thread.start()
            resources.callback(thread.join)
            self._loop = self._started.result()
            self._resources = resources.pop_all()

    def stop(self) -> None:
        """Abort every connection, and return when the thread has ended."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._resources.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            if self._started.done():  # no coverage: a fault of the simulator while it runs
                raise
            self._started.set_exception(exc)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server_state = ServerState()
        connect = partial(Connection, self._state, config=_config(self._state), server_state=server_state)
        server = await loop.create_server(connect, sock=self._socket, ssl=self._context, backlog=_BACKLOG)
        self._started.set_result(loop)
        await self._stopping.wait()
        await self._close(server, server_state.connections)

    async def _close(self, server: asyncio.Server, connections: Collection[Any]) -> None:
        # Closed at once, the server would leak the sockets it accepted in this turn of the loop.
        asyncio.get_running_loop().remove_reader(self._socket)
        for _ in range(_ACCEPTING_STEPS):
            await asyncio.sleep(0)
        server.close()
        while connections:
            for connection in tuple(connections):
                connection.transport.abort()
            await asyncio.sleep(0)
        # What is left are TLS handshakes: asyncio.run cancels them, which closes their sockets.


def _listening_socket(port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is spelled out: 40 ms an answer otherwise.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _config(state: State) -> Config:
    return Config(
        build_app(state),
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
    )


def _certificate(resources: ExitStack) -> tuple[ssl.SSLContext, str]:
    """A server's context for 127.0.0.1, and the PEM file of its issuer, removed with *resources*."""
    try:
        import trustme
    except ModuleNotFoundError as exc:
        raise ImportError("tls needs trustme: pip install trustme") from exc
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context, resources.enter_context(authority.cert_pem.tempfile())
