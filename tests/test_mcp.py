"""Tools of MCP servers: real ones, over their standard input and output, and over HTTP."""

import asyncio
import builtins
import os
import signal
import sys
import threading
from contextlib import contextmanager

import pytest

from claude_client import ClaudeInvocationError, InterruptToken, aio, invoke_parallel, invoke_with_tools
from claude_client.mcp import mcp_tools
from claude_client.simulator import Reply
from helpers import until
from test_tool_loop import asks, results, told, use

mcp = pytest.importorskip("mcp")

TELLS_THE_SERVER = hasattr(mcp, "MCPError")  # version 2, of what is cancelled
LONG = 20  # seconds after which a test gives up

SERVER = '''
import os, sys
from pathlib import Path

try:
    from mcp.server.mcpserver import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer
from mcp.types import AudioContent, EmbeddedResource, ImageContent, ResourceLink, TextContent

server = MCPServer("test", log_level="CRITICAL")

@server.tool()
def plus(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("no luck")

@server.tool()
async def wait() -> str:
    """Wait for ever."""
    import anyio
    Path("started").touch()
    try:
        await anyio.sleep_forever()
    finally:
        Path("cancelled").touch()

@server.tool()
def die() -> str:
    """End the server."""
    os._exit(1)

@server.tool(name="to.show", structured_output=False)
def show():
    """Show all there is."""
    text = {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "in a file"}
    return [
        TextContent(type="text", text="first"),
        ImageContent.model_validate({"type": "image", "data": "aGk=", "mimeType": "image/png"}),
        EmbeddedResource.model_validate({"type": "resource", "resource": text}),
        ResourceLink.model_validate({"type": "resource_link", "name": "b", "uri": "file:///b.txt"}),
        AudioContent.model_validate({"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}),
    ]

if __name__ == "__main__":
    server.run()
'''


@pytest.fixture
def command(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    return [sys.executable, str(tmp_path / "server.py")]


def sessions():
    return [thread for thread in threading.enumerate() if thread.name == "claude_client mcp"]


def texts(request):
    return [blocks[0]["text"] for blocks in told(request)]


def test_the_tools_of_a_server_are_run(sim, command):
    sim.script(asks(use("plus", 1, a=1, b=2), use("fail"), use("plus", 2, a="x", b=2)), Reply(text="3"))
    with mcp_tools(command) as tools:
        assert [one.name for one in tools] == ["plus", "fail", "wait", "die", "to_show"]
        assert invoke_with_tools("?", tools) == "3"
    said = texts(sim.requests[1])
    assert said[0] == "3"
    assert said[1].startswith("Error executing tool fail")
    assert "valid integer" in said[2]
    assert [block.get("is_error") for block in results(sim.requests[1]).values()] == [None, True, True]
    plus = sim.requests[0].body["tools"][0]
    assert plus["description"] == "Add two numbers."
    assert set(plus["input_schema"]["properties"]) == {"a", "b"}
    assert sessions() == []


def test_what_a_tool_shows_is_content_and_what_cannot_be_shown_is_told(sim, command):
    sim.script(asks(use("to_show")), Reply())
    with mcp_tools(command) as tools:
        invoke_with_tools("?", tools)
    (content,) = told(sim.requests[1])
    assert content[:2] == [
        {"type": "text", "text": "first"},
        {"type": "image", "source": {"type": "base64", "data": "aGk=", "media_type": "image/png"}},
    ]
    assert content[2]["source"]["data"] == "in a file"
    assert "resource_link, which cannot be shown: name: b, uri: file:///b.txt" in content[3]["text"]
    assert "audio" in content[4]["text"]
    assert "aGk=" not in content[4]["text"]


@pytest.mark.once
def test_several_calls_use_one_server_at_once_and_from_any_loop(sim, command):
    sim.script(*[asks(use("plus", n, a=n, b=1)) for n in range(4)], *[Reply()] * 4)
    with mcp_tools(command, only=["plus"]) as tools:
        assert len(invoke_parallel([{"prompt": "?"}] * 3, tools=tools)) == 3
        asyncio.run(aio.invoke_with_tools("?", tools))
    answered = [request for request in sim.requests if isinstance(request.body["messages"][-1]["content"], list)]
    assert sorted(said for request in answered for said in texts(request)) == ["1", "2", "3", "4"]


@pytest.mark.once
def test_more_is_said_of_the_tools_of_a_server(sim, command):
    with mcp_tools(command, only=["plus"], prefix="calc.", timeout=3, fatal=True, defer_loading=True) as tools:
        (plus,) = tools
        assert (plus.name, plus.timeout, plus.fatal) == ("calc_plus", 3, True)
        assert plus.run(a=1, b=2)[0]["text"] == "3"
        sim.script(asks(use("calc_plus", a=2, b=2)), Reply())
        invoke_with_tools("?", tools)
    assert sim.requests[0].body["tools"][0]["defer_loading"]
    assert texts(sim.requests[1]) == ["4"]


@pytest.mark.once
def test_a_server_that_ends_fails_its_tools_and_no_call(sim, command):
    sim.script(asks(use("die")), asks(use("plus", a=1, b=2)), Reply(text="It is gone."))
    with mcp_tools(command) as tools:
        answer = invoke_with_tools("?", tools)
    assert answer == "It is gone."
    assert [call.outcome for call in answer.tool_calls] == ["error", "error"]
    assert told(sim.requests[1]) == told(sim.requests[2]) == ["ConnectionError: the MCP server has ended"]


@pytest.mark.once
def test_a_tool_outside_its_block_says_that_the_server_has_ended(sim, command):
    with mcp_tools(command) as tools:
        pass
    sim.script(asks(use("plus", a=1, b=2)), Reply())
    invoke_with_tools("?", tools)
    assert told(sim.requests[1]) == ["ConnectionError: the MCP server has ended"]


@pytest.mark.once
def test_a_tool_that_runs_as_its_block_ends_is_not_waited_for(command, tmp_path):
    said = []

    def wait(tools):
        with pytest.raises(ConnectionError) as gone:
            tools[0].run()
        said.append(str(gone.value))

    def ends(server, loop=None):
        with mcp_tools(server, loop=loop, only=["wait"]) as tools:
            thread = threading.Thread(target=wait, args=[tools])
            thread.start()
            until((tmp_path / "started").exists)
        thread.join(LONG)
        (tmp_path / "started").unlink()

    ends(mcp.StdioServerParameters(command=command[0], args=command[1:], cwd=tmp_path))
    with open_session(command) as (session, loop):
        ends(session, loop)
    assert said == ["the MCP server has ended"] * 2


@pytest.mark.once
def test_an_interrupt_cancels_what_the_server_does(sim, command, tmp_path):
    token = InterruptToken()
    stopper = threading.Thread(target=lambda: (until((tmp_path / "started").exists), token.interrupt()))
    stopper.start()
    sim.script(asks(use("wait")))
    with mcp_tools(mcp.StdioServerParameters(command=command[0], args=command[1:], cwd=tmp_path)) as tools:
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_with_tools("?", tools, interrupt_token=token)
        stopper.join()
        assert caught.value.kind == "interrupted"
        if TELLS_THE_SERVER:
            until((tmp_path / "cancelled").exists)
        sim.script(asks(use("plus", a=1, b=2)), Reply(text="3"))
        assert invoke_with_tools("?", tools) == "3"


@pytest.mark.once
def test_coroutines_open_a_server_without_blocking_their_loop(sim, command):
    sim.script(asks(use("plus", a=1, b=2)), Reply(text="3"))

    async def main():
        async with mcp_tools(command) as tools:
            assert await aio.invoke_with_tools("?", tools) == "3"
        until(lambda: sessions() == [])
        with pytest.raises(ConnectionError, match="No such file"):
            async with mcp_tools("nothing there"):
                pass
        with pytest.raises(ConnectionError, match=r"had not started after 0\.01 seconds"):
            async with mcp_tools(silent(), start_timeout=0.01):
                pass

    asyncio.run(main())


def silent():
    return [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.mark.once
def test_a_task_that_is_cancelled_as_a_server_starts_leaves_none(command):
    async def main():
        begun = asyncio.Event()

        async def start():
            begun.set()
            async with mcp_tools(silent()):
                pass

        task = asyncio.ensure_future(start())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        until(lambda: sessions() == [])

    asyncio.run(main())


@contextmanager
def open_session(command):
    """A session on a loop of another thread, and that loop."""
    from mcp.client.stdio import stdio_client

    ready, over, found = threading.Event(), asyncio.Event(), []

    async def main():
        parameters = mcp.StdioServerParameters(command=command[0], args=command[1:])
        async with (
            stdio_client(parameters, sys.__stderr__) as streams,
            mcp.ClientSession(*streams[:2]) as session,
        ):
            await session.initialize()
            found.extend([session, asyncio.get_running_loop()])
            ready.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    assert ready.wait(LONG)
    session, loop = found
    try:
        yield session, loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(LONG)


@pytest.mark.once
def test_a_session_that_is_ended_before_it_has_begun_starts_nothing():
    session = mcp_tools(silent())._session
    session._is_over = True
    session.begin(may_wait=True)
    session.wait()
    assert not session.ready.done()


@pytest.mark.once
def test_an_open_session_stays_open(sim, command):
    sim.script(*[asks(use("plus", a=1, b=2)), Reply()] * 2)
    with open_session(command) as (session, loop):
        for _ in range(2):
            with mcp_tools(session, loop=loop) as tools:
                invoke_with_tools("?", tools)
            with pytest.raises(ConnectionError, match="has ended"):
                tools[0].run(a=1, b=2)
        with pytest.raises(RuntimeError, match="takes `async with`"), mcp_tools(session):
            pass

        async def on_its_loop():
            async with mcp_tools(session) as tools:
                with pytest.raises(RuntimeError, match="takes `async with`"), mcp_tools(session):
                    pass
                return len(tools)

        assert asyncio.run_coroutine_threadsafe(on_its_loop(), loop).result(LONG) == 5
    assert [texts(sim.requests[n]) for n in (1, 3)] == [["3"], ["3"]]
    with pytest.raises(ConnectionError, match="has ended"):
        tools[0].run(a=1, b=2)


@pytest.mark.once
def test_a_server_is_reached_by_a_transport_of_one_s_own(command):
    from mcp.client.stdio import stdio_client

    transport = stdio_client(mcp.StdioServerParameters(command=command[0], args=command[1:]), sys.__stderr__)
    with mcp_tools(transport, only=["plus"], start_timeout=None) as tools:
        assert [one.name for one in tools] == ["plus"]


@pytest.mark.once
def test_what_keeps_a_server_from_starting_is_raised(command, tmp_path):
    with pytest.raises(ConnectionError, match="No such file") as failed, mcp_tools([str(tmp_path / "nothing")]):
        pass
    assert isinstance(failed.value.__cause__, FileNotFoundError)
    with pytest.raises(ConnectionError, match="Connection closed"), mcp_tools([sys.executable, "-c", ""]):
        pass
    late = r"had not started after 0\.01 seconds"
    with pytest.raises(ConnectionError, match=late), mcp_tools(silent(), start_timeout=0.01):
        pass
    missing = "the MCP server has no tool 'minus'; it has plus, fail"
    with pytest.raises(ValueError, match=missing), mcp_tools(command, only=["minus"]):
        pass
    assert sessions() == []


@pytest.mark.once
def test_ctrl_c_ends_a_server_that_does_not_start(tmp_path):
    code = f"from pathlib import Path; Path({str(tmp_path / 'here')!r}).touch(); {silent()[-1]}"

    def press():
        until((tmp_path / "here").exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt), mcp_tools([sys.executable, "-c", code]):
        pass
    thread.join()
    assert sessions() == []


@pytest.mark.once
def test_a_url_is_reached_by_http(sim, tmp_path, monkeypatch):
    (tmp_path / "mcp_server_here.py").write_text(SERVER)
    monkeypatch.syspath_prepend(str(tmp_path))
    from mcp_server_here import server

    app, seen = server.streamable_http_app(), []

    async def noting(scope, receive, send):
        seen.append(dict(scope.get("headers", [])).get(b"x-key"))
        await app(scope, receive, send)

    sim.script(asks(use("plus", a=1, b=2)), Reply())
    with served(noting) as url, mcp_tools(f"{url}/mcp", headers={"x-key": "secret"}, only=["plus"]) as tools:
        invoke_with_tools("?", tools)
    assert texts(sim.requests[1]) == ["3"]
    assert {*seen} == {None, b"secret"}  # the first is how a server starts
    with pytest.raises(ConnectionError, match="could not be started or reached"), mcp_tools(f"{url}/mcp"):
        pass
    assert sessions() == []


@contextmanager
def served(app):
    import uvicorn

    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(LONG)


@pytest.mark.once
def test_what_ends_the_block_ends_the_session(command):
    opened = mcp_tools(command)
    with pytest.raises(KeyError), opened:
        raise KeyError
    assert sessions() == []
    with pytest.raises(RuntimeError, match="for one block"), opened:
        pass


@pytest.mark.once
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "the command of an MCP server must be a list of texts"),
        ([1], "the command of an MCP server must be a list of texts"),
        ("", "the command of an MCP server must be a list of texts"),
        (3, "an MCP server must be a command, a URL or a session, got 3"),
    ],
)
def test_what_is_no_server_is_refused(given, problem):
    with pytest.raises(ValueError, match=problem):
        mcp_tools(given)


@pytest.mark.once
def test_options_that_would_do_nothing_are_refused(command):
    with pytest.raises(ValueError, match="headers are for a server that is reached by a URL"):
        mcp_tools(command, headers={})
    with pytest.raises(ValueError, match="start_timeout must be"):
        mcp_tools(command, start_timeout=-1)


@pytest.mark.once
def test_all_pages_of_tools_are_taken():
    from mcp.types import ListToolsResult

    from claude_client._sdk.mcp import tools_of

    class Paged:
        async def list_tools(self, params=None):
            page = int(params.cursor) if params else 0
            said = {"tools": [{"name": f"t{page}", "inputSchema": {"type": "object"}}]}
            return ListToolsResult.model_validate(said | ({"nextCursor": str(page + 1)} if page < 2 else {}))

    assert [one.name for one in asyncio.run(tools_of(Paged()))] == ["t0", "t1", "t2"]


@pytest.mark.once
def test_without_the_package_an_error_says_how_to_get_it(monkeypatch, command):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "mcp":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install mcp"):
        mcp_tools(command)
    assert sessions() == []
