"""Every kind of tool that a major of the SDK has, in one loop."""

from __future__ import annotations

import asyncio

import anthropic
import pytest
from anthropic.tools import BetaAsyncAbstractMemoryTool, BetaLocalFilesystemMemoryTool

from claude_client import Tool, aio, invoke_with_tools
from claude_client.simulator import Reply
from test_tool_loop import add, asks, results, told, use


@anthropic.beta_tool
def measure(text: str) -> str:
    """Measure a text.

    Args:
        text: What to measure.
    """
    return str(len(text))


@anthropic.beta_async_tool
async def measure_later(text: str) -> str:
    """Measure a text, some day."""
    await asyncio.sleep(0)
    return str(len(text))


async def later(n: int) -> int:
    """The number after."""
    await asyncio.sleep(0)
    return n + 1


DOUBLE = Tool(
    "double",
    "Doubles.",
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    lambda n: n * 2,
)
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}


def memory_in(folder):
    return BetaLocalFilesystemMemoryTool(base_path=str(folder))


USES = [
    use("add", a=1),
    use("later", n=1),
    use("measure", text="four"),
    use("measure_later", text="five5"),
    use("double", n=4),
    use("memory", 1, command="create", path="/memories/a.txt", file_text="kept"),
    use("measure", 2),
    use("measure_later", 2, txt="x"),
]


def check(sim):
    said = told(sim.requests[1])
    assert said[:5] == ["3", "2", "4", "5", "8"]
    assert "created" in said[5]
    assert all(one.startswith("The arguments do not fit: ") for one in said[6:])
    assert [bool(one.get("is_error")) for one in results(sim.requests[1]).values()] == [False] * 6 + [True] * 2
    tools = {one["name"]: one for one in sim.requests[0].body["tools"]}
    assert tools["web_search"] == SEARCH
    assert tools["memory"]["type"].startswith("memory_")
    assert tools["measure"]["description"] == "Measure a text."
    assert tools["measure"]["input_schema"]["properties"]["text"]["description"] == "What to measure."


def tools_of(folder):
    return [add, later, measure, measure_later, DOUBLE, memory_in(folder), SEARCH]


def test_tools_of_all_kinds_are_run_in_one_turn(sim, tmp_path):
    sim.script(asks(*USES), Reply(text="done"))
    assert invoke_with_tools("?", tools_of(tmp_path)) == "done"
    check(sim)


def test_tools_of_all_kinds_are_run_for_a_coroutine(sim, tmp_path):
    sim.script(asks(*USES), Reply(text="done"))
    assert asyncio.run(aio.invoke_with_tools("?", tools_of(tmp_path))) == "done"
    check(sim)


def test_an_asynchronous_tool_of_the_sdk_that_is_no_function_is_awaited(sim):
    class Remembers(BetaAsyncAbstractMemoryTool):
        async def view(self, command):
            return f"saw {command.path}"

        create = str_replace = insert = delete = rename = view

    sim.script(asks(use("memory", command="view", path="/memories")), Reply())
    invoke_with_tools("?", [Remembers()])
    assert told(sim.requests[1]) == ["saw /memories"]


def test_what_a_memory_refuses_is_told_to_the_model(sim, tmp_path):
    sim.script(
        asks(
            use("memory", 1, command="view", path="/memories/none.txt"),
            use("memory", 2, command="view", path="/memories/../../etc/passwd"),
            use("memory", 3, command="dance"),
        ),
        Reply(),
    )
    invoke_with_tools("?", [memory_in(tmp_path)])
    assert [block.get("is_error") for block in results(sim.requests[1]).values()] == [True] * 3


@pytest.mark.parametrize(("returned", "sent"), [(5, "5"), (None, None), ({"a": 1}, '{"a":1}'), ([1, 2], "[1,2]")])
def test_what_a_tool_of_the_sdk_returns_is_sent_on_every_major(sim, returned, sent):
    def give():
        return returned

    sim.script(asks(use("give")), Reply())
    invoke_with_tools("?", [anthropic.beta_tool(give, description="Give.")])
    assert told(sim.requests[1]) == [sent]
