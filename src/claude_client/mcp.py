"""Tools of MCP servers, for calls that run tools. Needs the `mcp` extra."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any

from claude_client._sdk.tools import mcp_tool
from claude_client._values.context import running
from claude_client._values.tool import Tool, tool_of

__all__ = ["mcp_tools"]


@contextmanager
def mcp_tools(server: str | Sequence[str] | Any, *, only: Sequence[str] | None = None) -> Iterator[list[Tool]]:
    """
    The tools of an MCP server, to be given to any call as `tools=`, in a `with` block.

    Its session is kept on a thread of its own, so the tools may be used from any thread and any event loop, by several
    calls at once. It ends with the block; a server that was started by this ends with it, too. A server that ends
    before has its tools fail: the model is told.

    Args:
        server:
            A command and its arguments as a list, or `mcp.StdioServerParameters`: a program to start, which speaks MCP
            by its standard input and output. A URL: a server that is reached by streamable HTTP. Else a transport of
            the `mcp` package: an asynchronous context manager that gives its two streams.

        only: The names of the tools to take. None: all.

    Raises:
        ImportError: Without the `mcp` extra.
        ValueError: If the server has no tool that is named in *only*.
        Exception: What the `mcp` package raises where the server cannot be reached.
    """
    try:
        import mcp  # noqa: F401
    except ImportError as missing:
        raise ImportError("mcp_tools needs the mcp package: pip install 'orchestrating-agents[mcp]'") from missing
    session = _Session(_transport_of(server))
    try:
        session.wait()
        tools = {one.name: one for one in session.tools}
        if unknown := sorted({*(only or ())} - tools.keys()):
            raise ValueError(f"the server has no tool {unknown[0]!r}; it has {', '.join(tools)}")
        yield [one for name, one in tools.items() if only is None or name in only]
    finally:
        session.close()


class _Session:
    """A session with a server, on the event loop of a thread of its own."""

    def __init__(self, transport: AbstractAsyncContextManager[Any]) -> None:
        self.tools: list[Tool] = []
        self._transport = transport
        self._ready: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._serving = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, name="claude_client mcp", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the server has told its tools."""
        self._ready.result()

    def close(self) -> None:
        """End the session, and wait until its server has ended."""
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serving)
        except BaseException as failed:  # noqa: BLE001 - for the thread that waits, if any does still
            with suppress(InvalidStateError):
                self._ready.set_exception(failed)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        from mcp import ClientSession

        async with self._transport as (read, write, *_), ClientSession(read, write) as session:
            await session.initialize()
            self.tools = [self._tool(one, session) for one in await _all_tools(session)]
            self._ready.set_result(None)
            await asyncio.Event().wait()

    def _tool(self, described: Any, session: Any) -> Tool:
        made = tool_of(mcp_tool(described, session))
        assert made is not None  # noqa: S101 - the SDK's are tools
        call = made.run

        def run(arguments: Mapping[str, Any]) -> Any:
            return self._do(call(arguments))

        return replace(made, run=run)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What *work* gives, which is done on the loop of the session; it is cancelled where the tool is to stop."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise ConnectionError("the MCP server has ended") from None
        if (context := running()) is None:
            return future.result()
        with context.token.watched_by(future.cancel):
            return future.result()


async def _all_tools(session: Any) -> list[Any]:
    """The tools of all pages, by either major of the package."""
    from mcp.types import PaginatedRequestParams

    tools: list[Any] = []
    cursor: Any = None
    while True:
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
        tools += page.tools
        cursor = getattr(page, "next_cursor", None) or getattr(page, "nextCursor", None)
        if not cursor:
            return tools


def _transport_of(server: Any) -> AbstractAsyncContextManager[Any]:
    from mcp import StdioServerParameters
    from mcp.client import stdio, streamable_http

    if isinstance(server, str):
        names = ("streamable_http_client", "streamablehttp_client")  # of the second major, and of the first
        connect = next(getattr(streamable_http, name) for name in names if hasattr(streamable_http, name))
        made: AbstractAsyncContextManager[Any] = connect(server)
        return made
    if isinstance(server, Sequence):
        command, *arguments = server
        server = StdioServerParameters(command=command, args=arguments)
    if isinstance(server, StdioServerParameters):
        return stdio.stdio_client(server, errlog=sys.__stderr__ or sys.stderr)  # a notebook's is no file
    return server  # type: ignore[no-any-return]
