"""A TCP connection: that of uvicorn, extended to be cut, and to end an answer whose client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from ._state import State


class Connection(H11Protocol):
    """An HTTP/1.1 connection. Requests find it as ``scope["state"]["connection"]``."""

    def __init__(self, state: State, **kwargs: Any) -> None:
        super().__init__(app_state={"connection": self}, **kwargs)
        self.access_log = False  # uvicorn asks the logger, which anybody may have given a handler
        self._state = state
        self._answering: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection of a client."""
        super().connection_made(transport)
        self._state.connected(+1)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer under way: the client has gone, or the connection was cut."""
        super().connection_lost(exc)
        self._state.connected(-1)
        if self._answering:
            self._answering.cancel()

    @contextmanager
    def cancelling_when_lost(self) -> Iterator[None]:
        """Cancel the current task once the connection is lost."""
        # uvicorn stops reading while a large body waits, and a socket not read from is not seen to close.
        self.flow.resume_reading()
        self._answering = asyncio.current_task()
        try:
            yield
        finally:
            self._answering = None
