"""Tools of MCP servers: real ones, over their standard input and output, and over HTTP."""

import asyncio
import builtins
import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from claude_client import ClaudeInvocationError, Context, InterruptToken, aio, invoke_parallel, invoke_with_tools
from claude_client.mcp import _all_tools, mcp_tools
from claude_client.simulator import Reply
from helpers import until
from test_tool_loop import asks, told, use

pytestmark = pytest.mark.once

SERVER = '''
import os, sys, threading
from mcp.server.mcpserver import MCPServer

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
    open(os.environ["STARTED"], "w").close()
    await anyio.sleep_forever()

@server.tool()
def die() -> str:
    """End the server."""
    os._exit(1)

server.run(*sys.argv[1:])
'''


@pytest.fixture
def command(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    return [sys.executable, str(tmp_path / "server.py")]


def parameters(command, **env):
    from mcp import StdioServerParameters

    return StdioServerParameters(command=command[0], args=command[1:], env=env)


def sessions():
    return [thread for thread in threading.enumerate() if thread.name == "claude_client mcp"]


def test_the_tools_of_a_server_are_run(sim, command):
    sim.script(asks(use("plus", 1, a=1, b=2), use("fail"), use("plus", 2, a="x", b=2)), Reply(text="3"))
    with mcp_tools(command) as tools:
        assert [one.name for one in tools] == ["plus", "fail", "wait", "die"]
        assert invoke_with_tools("?", tools) == "3"
    said = [blocks[0]["text"] for blocks in told(sim.requests[1])]
    assert said[0] == "3"
    assert said[1].startswith("Error executing tool fail")
    assert "a" in said[2]
    plus = sim.requests[0].body["tools"][0]
    assert plus["description"] == "Add two numbers."
    assert set(plus["input_schema"]["properties"]) == {"a", "b"}
    assert sessions() == []


def test_several_calls_use_one_server_at_once_and_from_any_loop(sim, command):
    sim.script(*[asks(use("plus", n, a=n, b=1)) for n in range(4)], *[Reply()] * 4)
    with mcp_tools(command, only=["plus"]) as tools:
        assert len(invoke_parallel([{"prompt": "?"}] * 3, tools=tools)) == 3
        asyncio.run(aio.invoke_with_tools("?", tools))
    assert sorted(blocks[0]["text"] for request in sim.requests for blocks in told_of(request)) == ["1", "2", "3", "4"]


def told_of(request):
    return told(request) if isinstance(request.body["messages"][-1]["content"], list) else []


def test_a_server_that_ends_fails_its_tools_and_no_call(sim, command):
    sim.script(asks(use("die")), asks(use("plus", a=1, b=2)), Reply(text="It is gone."))
    with mcp_tools(command) as tools:
        answer = invoke_with_tools("?", tools)
    assert answer == "It is gone."
    assert [call.outcome for call in answer.tool_calls] == ["error", "error"]


def test_a_tool_outside_its_block_says_that_the_server_has_ended(sim, command):
    with mcp_tools(command) as tools:
        pass
    sim.script(asks(use("plus", a=1, b=2)), Reply())
    invoke_with_tools("?", tools)
    assert told(sim.requests[1]) == ["ConnectionError: the MCP server has ended"]


def test_an_interrupt_cancels_what_the_server_does(sim, command, tmp_path):
    token = InterruptToken()
    started = tmp_path / "started"
    stopper = threading.Thread(target=lambda: (until(started.exists), token.interrupt()))
    stopper.start()
    sim.script(asks(use("wait")))
    with mcp_tools(parameters(command, STARTED=str(started))) as tools:
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_with_tools("?", tools, interrupt_token=token)
        stopper.join()
        assert caught.value.kind == "interrupted"
        sim.script(asks(use("plus", a=1, b=2)), Reply(text="3"))
        assert invoke_with_tools("?", tools) == "3"


def test_a_server_is_reached_by_a_transport_of_one_s_own(sim, command):
    from mcp.client.stdio import stdio_client

    with mcp_tools(stdio_client(parameters(command)), only=["plus"]) as tools:
        assert [one.name for one in tools] == ["plus"]


def test_what_keeps_a_server_from_starting_is_raised(command, tmp_path):
    with pytest.raises(OSError, match="No such file"), mcp_tools([str(tmp_path / "nothing")]):
        pass
    missing = "the server has no tool 'minus'; it has plus, fail"
    with pytest.raises(ValueError, match=missing), mcp_tools(command, only=["minus"]):
        pass
    assert sessions() == []


def test_a_url_is_reached_by_http(sim):
    with pytest.raises(BaseException) as caught, mcp_tools("http://127.0.0.1:9/mcp"):
        pass
    assert sessions() == []
    assert caught.value is not None


def test_ctrl_c_ends_a_server_that_says_nothing(tmp_path):
    started = tmp_path / "started"
    silent = [sys.executable, "-c", f"import sys; open({str(started)!r}, 'w').close(); sys.stdin.read()"]
    stopper = threading.Thread(target=lambda: (until(started.exists), os.kill(os.getpid(), signal.SIGINT)))
    stopper.start()
    with pytest.raises(KeyboardInterrupt), mcp_tools(silent):
        pass
    stopper.join()
    assert sessions() == []


def test_a_tool_may_be_called_by_hand(command):
    with mcp_tools(command, only=["plus"]) as (plus,):
        context = Context(tool="plus", tool_use_id="toolu_1")
        assert plus.call(context, {"a": 1, "b": 2})[0]["text"] == "3"


class Pages:
    """A session with a server that tells its tools page by page."""

    async def list_tools(self, params):
        page = int(params.cursor or 0)
        following = str(page + 1) if page < 2 else None
        return SimpleNamespace(tools=[f"tool {page}"], nextCursor=following)


def test_all_pages_of_tools_are_taken():
    assert asyncio.run(_all_tools(Pages())) == ["tool 0", "tool 1", "tool 2"]


def test_what_ends_the_block_ends_the_session(command):
    with pytest.raises(KeyError), mcp_tools(command):
        raise KeyError
    assert sessions() == []


def test_without_the_extra_an_error_says_how_to_get_it(monkeypatch, command):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "mcp":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"orchestrating-agents\[mcp\]"), mcp_tools(command):
        pass
