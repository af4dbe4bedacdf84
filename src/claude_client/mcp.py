"""Tools of MCP servers, for calls that run tools. Needs the extra `mcp`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

from claude_client._sdk.mcp import Server, is_gone, server_of, session_with, tools_of
from claude_client._values.checks import seconds
from claude_client._values.context import running
from claude_client._values.log import told
from claude_client._values.tool import CheckingTool, Tool, as_name

__all__ = ["mcp_tools"]


def mcp_tools(
    server: str | Sequence[str] | Any,
    *,
    only: Collection[str] | None = None,
    prefix: str = "",
    headers: Mapping[str, str] | None = None,
    errlog: TextIO | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
    start_timeout: float | None = 60.0,
    timeout: float | None = None,
    fatal: bool = False,
    **options: Any,
) -> McpTools:
    """
    The tools of an MCP server, to be given to any call as `tools=`, in a `with` or an `async with` block.

    Its session is kept on a thread of its own, so the tools may be used from any thread and any event loop, by several
    calls at once. It ends with the block, and so does a server that was started by it. A server that ends before has
    its tools fail, as do tools that are used after the block: the model is told. Where a call is interrupted, or the
    time of a tool is up, nobody waits for the server, which is told so by mcp 2.

    Args:
        server:
            A command and its arguments, or `mcp.StdioServerParameters`: a program to start, which speaks MCP by its
            standard input and output, and gets none of this program's environment but where it runs (`HOME`, `PATH`
            ...). A URL: a server that is reached by streamable HTTP. An open `mcp.ClientSession`, which stays open. Or
            a transport of the `mcp` package: an asynchronous context manager that gives its two streams.

        only: The names of the tools to take, as the server has them. None: all.

        prefix: Put before the name of each tool, to tell those of several servers apart.

        headers: Sent with each request to a URL.

        errlog: The file that the standard error of a program goes to. None: that of this program.

        loop: The event loop on which an open session is. None: the one that runs here.

        start_timeout: Seconds until a server counts as one that does not start. None: any time.

        timeout, fatal, options: Of each tool, as in `Tool`.

    Raises:
        ImportError: Without the extra `mcp`. Nothing was started, as with the next.
        ValueError: For what is no server. In the block: if the server has no tool that is named in *only*.
        ConnectionError: In the block, if the server cannot be started or reached; what failed is its cause.
    """
    if start_timeout is not None:
        seconds("start_timeout", start_timeout)
    about = {"timeout": timeout, "fatal": fatal, "options": options}
    choose = partial(_chosen, only=only, prefix=prefix, about=about)
    return McpTools(_Session(server_of(server, headers, errlog), loop), choose, start_timeout)


class McpTools:
    """
    What `mcp_tools` returns: a `with` or an `async with` block opens the session, and gives the list of its `Tool`s.

    Once only. An `async with` block waits without blocking its loop; the loop of an open session needs one.
    """

    def __init__(
        self, session: _Session, choose: Callable[[Sequence[Any], Call], list[Tool]], start_timeout: float | None
    ) -> None:
        self._session = session
        self._choose = choose
        self._start_timeout = start_timeout

    def __enter__(self) -> list[Tool]:
        self._session.begin(may_wait=False)
        try:
            return self._chosen(self._session.ready.result(self._start_timeout))
        except TimeoutError:
            self.__exit__()
            raise self._late() from None
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._session.end()
        self._session.wait()

    async def __aenter__(self) -> list[Tool]:
        self._session.begin(may_wait=True)
        try:
            ready = asyncio.wrap_future(self._session.ready)
            return self._chosen(await asyncio.wait_for(ready, self._start_timeout))
        except TimeoutError:
            await self.__aexit__()
            raise self._late() from None
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._session.end()
        await asyncio.shield(asyncio.wrap_future(self._session.ended))

    def _chosen(self, found: Sequence[Any]) -> list[Tool]:
        return self._choose(found, self._session.call)

    def _late(self) -> ConnectionError:
        return ConnectionError(f"the MCP server had not started after {self._start_timeout:g} seconds")


#: Makes a call of the SDK's tool for its arguments, and gives its result.
Call = Callable[[Callable[[Any], Coroutine[Any, Any, Any]], Mapping[str, Any]], Any]


@dataclass(eq=False)
class _Session:
    """A session with a server, on an event loop: that of a thread of its own, or of the caller's open session."""

    server: Server
    #: Where an open session is; None: where this is begun.
    loop: asyncio.AbstractEventLoop | None
    #: The SDK's tools; or why there are none.
    ready: Future[list[Any]] = field(default_factory=Future)
    ended: Future[None] = field(default_factory=Future)
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _its_loop: asyncio.AbstractEventLoop = field(init=False)
    _thread: threading.Thread | None = None
    _serving: asyncio.Task[None] | None = None
    _has_begun: bool = False
    _is_over: bool = False
    _calls: set[Future[Any]] = field(default_factory=set)  # under way

    def begin(self, *, may_wait: bool) -> None:
        """
        Raises:
            RuntimeError: If it has begun before, or has the loop of this thread, which *may_wait* for it or not.
        """
        if self._has_begun:
            raise RuntimeError("mcp_tools(...) is for one block: call it again for another")
        if not self.server.is_open:
            self._its_loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, name="claude_client mcp", daemon=True)
            self._thread.start()
        else:
            here = _running_loop()
            loop = self.loop or here
            if loop is None or (loop is here and not may_wait):
                raise RuntimeError("a session that is open takes `async with`, or its loop= on another thread")
            self._its_loop = loop
            asyncio.run_coroutine_threadsafe(self._serve(), loop)
        self._has_begun = True

    def end(self) -> None:
        """Have it end; `ended` tells when it has. From any thread."""
        self._is_over = True
        with suppress(RuntimeError):  # the loop is closed
            self._its_loop.call_soon_threadsafe(self._stop)

    def wait(self) -> None:
        """Wait until it has ended."""
        self.ended.result()
        if self._thread:
            self._thread.join()

    def _stop(self) -> None:
        self._over.set()
        if self._serving and not self.ready.done():
            self._serving.cancel()

    def _run(self) -> None:
        """The main function of the thread."""
        with asyncio.Runner(loop_factory=lambda: self._its_loop) as runner:
            runner.run(self._serve())
        self._has_ended()

    async def _serve(self) -> None:
        """Keep the session until it is over."""
        self._serving = asyncio.current_task()
        try:
            if self.ready.set_running_or_notify_cancel() and not self._is_over:
                async with session_with(self.server) as session:
                    self.ready.set_result(await tools_of(session))
                    await self._over.wait()
        except (Exception, asyncio.CancelledError) as failed:  # noqa: BLE001 - of other people's servers
            with suppress(InvalidStateError):  # it had started
                self.ready.set_exception(_not_started(failed))
        finally:
            self._is_over = True
            if self.server.is_open:
                self._has_ended()

    def _has_ended(self) -> None:
        self.ended.set_result(None)
        for future in [*self._calls]:
            future.cancel()

    def call(self, call: Callable[[Any], Coroutine[Any, Any, Any]], arguments: Mapping[str, Any]) -> Any:
        """What *call* gives for *arguments*, on the loop; it is cancelled with the tool that runs on this thread."""
        work, above = self._called(call, arguments), running()
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._its_loop)
        except RuntimeError:  # the loop is closed
            work.close()
            raise _gone() from None
        self._calls.add(future)
        if self.ended.done():
            future.cancel()
        try:
            with above.token.watched_by(future.cancel) if above else nullcontext():
                return future.result()
        except CancelledError:
            if above and above.token.is_interrupted():
                raise
            raise _gone() from None
        finally:
            self._calls.discard(future)

    async def _called(self, call: Callable[[Any], Coroutine[Any, Any, Any]], arguments: Mapping[str, Any]) -> Any:
        if self._is_over:
            raise _gone()
        try:
            return await call(arguments)
        except Exception as failed:
            if is_gone(failed):
                raise _gone() from failed
            raise


def _gone() -> ConnectionError:
    return ConnectionError("the MCP server has ended")


def _not_started(failed: BaseException) -> ConnectionError:
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    said = told(failed) or type(failed).__name__
    error = ConnectionError(f"the MCP server could not be started or reached: {said}")
    error.__cause__ = failed
    return error


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _chosen(
    found: Sequence[Any], call: Call, *, only: Collection[str] | None, prefix: str, about: dict[str, Any]
) -> list[Tool]:
    known = [one.name for one in found]
    if unknown := sorted({*(only or ())}.difference(known)):
        raise ValueError(f"the MCP server has no tool {unknown[0]!r}; it has {', '.join(known)}")
    return [_tool(one, call, prefix, about) for one in found if only is None or one.name in only]


def _tool(described: Any, call: Call, prefix: str, about: dict[str, Any]) -> Tool:
    def run(**arguments: Any) -> Any:
        return call(described.call, arguments)

    return CheckingTool(as_name(prefix + described.name), described.description, described.input_schema, run, **about)
