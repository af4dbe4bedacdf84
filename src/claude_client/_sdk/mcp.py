"""Sessions with MCP servers, by either major of the `mcp` package, and what the SDK's helpers make of their tools."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, TextIO


class Server(NamedTuple):
    """An MCP server, and how to reach it."""

    #: An open session; or what makes the two streams of a new one.
    given: Any
    headers: Mapping[str, str] | None = None
    errlog: TextIO | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a session, on an event loop of the caller's."""
        from mcp import ClientSession

        return isinstance(self.given, ClientSession)


def server_of(given: Any, headers: Mapping[str, str] | None, errlog: TextIO | None) -> Server:
    """
    The server that is *given*; nothing is started.

    Raises:
        ImportError: Without the package.
        ValueError: For what is none, and for headers of what is not reached by HTTP.
    """
    try:
        from mcp import ClientSession, StdioServerParameters
    except ImportError as missing:
        raise ImportError("mcp_tools needs the package of MCP: pip install mcp") from missing
    is_url = isinstance(given, str) and given.startswith(("http://", "https://"))
    if headers is not None and not is_url:
        raise ValueError("headers are for a server that is reached by a URL")
    if not is_url and isinstance(given, (str, Sequence)):
        command = shlex.split(given) if isinstance(given, str) else [*given]
        if not command or not all(isinstance(part, str) for part in command):
            raise ValueError(f"the command of an MCP server must be a list of texts, got {given!r:.100}")
        given = StdioServerParameters(command=command[0], args=command[1:])
    known = (str, StdioServerParameters, ClientSession, AbstractAsyncContextManager)
    if not isinstance(given, known):
        raise ValueError(f"an MCP server must be a command, a URL or a session, got {given!r:.100}")
    return Server(given, headers, errlog)


@asynccontextmanager
async def session_with(server: Server) -> AsyncIterator[Any]:
    """A session with *server* that is ready for calls, for a block; one that was open stays open."""
    from mcp import ClientSession

    if server.is_open:
        yield server.given
        return
    async with AsyncExitStack() as stack:
        read, write, *_ = await stack.enter_async_context(await _transport(server, stack))
        session = await stack.enter_async_context(ClientSession(read, write))
        await session.initialize()
        yield session


async def _transport(server: Server, stack: AsyncExitStack) -> Any:
    from mcp import StdioServerParameters
    from mcp.client import stdio, streamable_http

    if isinstance(server.given, str):
        makers: Any = streamable_http
        client = makers.create_mcp_http_client(headers=server.headers and dict(server.headers))
        return makers.streamable_http_client(server.given, http_client=await stack.enter_async_context(client))
    if isinstance(server.given, StdioServerParameters):
        errlog = server.errlog or sys.__stderr__ or sys.stderr  # a notebook's is no file
        return stdio.stdio_client(server.given, errlog)
    return server.given


async def tools_of(session: Any) -> list[Any]:
    """The SDK's tools for those of the server, of all its pages."""
    from anthropic.lib.tools.mcp import async_mcp_tool
    from mcp.types import PaginatedRequestParams

    readable: Any = _Readable(session)
    tools: list[Any] = []
    more: dict[str, Any] = {}
    while True:
        page = await session.list_tools(**more)
        tools += [async_mcp_tool(one, readable) for one in page.tools]
        cursor = getattr(page, "next_cursor", None) or getattr(page, "nextCursor", None)
        if not cursor:
            return tools
        more = {"params": PaginatedRequestParams(cursor=cursor)}


class _Readable:
    """A session whose results have only what the SDK's helpers can read, and words for the rest."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        result = await self._session.call_tool(name, arguments)
        return result.model_copy(update={"content": [_in_words(part) for part in result.content]})


def _in_words(part: Any) -> Any:
    """*part* of a result, or a text that says what it was."""
    from anthropic.lib.tools.mcp import UnsupportedMCPValueError, mcp_content
    from mcp.types import TextContent

    try:
        mcp_content(part)
    except (UnsupportedMCPValueError, UnicodeDecodeError):
        about = part.model_dump(mode="json", exclude_none=True, exclude={"data", "resource"})
        said = ", ".join(f"{name}: {value}" for name, value in about.items() if name != "type")
        return TextContent(type="text", text=f"[{part.type}, which cannot be shown: {said}]")
    return part


def is_gone(failure: BaseException) -> bool:
    """Whether a call has failed because its server has ended."""
    import anyio

    return isinstance(failure, (anyio.ClosedResourceError, anyio.BrokenResourceError)) or (
        type(failure).__name__ in ("McpError", "MCPError") and str(failure) == "Connection closed"
    )
