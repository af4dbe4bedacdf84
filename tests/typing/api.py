"""How people use the library, for type checkers. Checked by `mypy --strict`, never run."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, assert_type

import anthropic

from claude_client import (
    ClaudeInvocationError,
    ClaudeResponse,
    ConversationThread,
    FanOutOptions,
    InterruptToken,
    ParallelInvocationError,
    PromptSpec,
    Results,
    Tool,
    Usage,
    aio,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    invoke_parallel_interruptible,
    invoke_parallel_streaming,
    invoke_with_tools,
    set_default_client,
)
from claude_client.mcp import mcp_tools
from orchestration import (
    Agent,
    ConcurrencyLimiter,
    Debate,
    JournalEntry,
    ManagedResults,
    MapReduce,
    Occupancy,
    debate,
    delegate_tool,
    drop_from_journal,
    invoke_parallel_managed,
    invoke_with_retry,
    map_reduce,
    read_journal,
)
from orchestration import aio as managed_aio
from task_state import TaskInfo, TaskState, TaskTracker

answer = invoke_claude("hi", thinking={"type": "adaptive"}, tools=[{"name": "t", "input_schema": {}}], top_p=0.5)
assert_type(answer, ClaudeResponse)
as_text: str = answer
assert_type(answer.usage, Usage)
assert_type(answer.message, anthropic.types.Message)
assert_type(answer.cost_usd, float | None)

blocks = [{"type": "text", "text": "hi"}]
invoke_claude(blocks, system=blocks, messages=[{"role": "user", "content": blocks}])
invoke_claude_streaming("hi", callback=print)
invoke_claude_streaming("hi", callback=[""].append)

prompts = [{"prompt": "a"}, {"prompt": "b", "system": "s"}]
assert_type(invoke_parallel(prompts, shared_system="S", cache_shared_system=True), Results)
invoke_parallel(prompts, temperature=0.2, system=blocks, tools=[], max_retries=1, return_exceptions=True, progress=True)
invoke_parallel(prompts, on_result=lambda index, outcome: print(index, outcome.usage))
options: FanOutOptions = {"temperature": 0.2, "stop_sequences": ["x"]}
invoke_parallel_interruptible(prompts, InterruptToken(), **options)
invoke_parallel_streaming(prompts, [print, None], **options)
assert_type(invoke_parallel_managed(prompts, temperature=0.2, journal="run.sqlite"), ManagedResults)
assert_type(read_journal("run.sqlite"), list[JournalEntry])
assert_type(drop_from_journal("run.sqlite", read_journal("run.sqlite")[:1]), int)
checked: list[PromptSpec] = [{"prompt": "a", "max_tokens": 5}]
for one in invoke_parallel(checked):
    if isinstance(one, ClaudeResponse):
        print(one.stop_reason)

try:
    invoke_parallel(prompts)
except ParallelInvocationError as failed:
    assert_type(failed.errors[0], ClaudeInvocationError)

set_default_client(anthropic.Anthropic())
set_default_client(None)

invoke_claude("hi", temprature=0.5)  # type: ignore[call-overload]
invoke_claude("hi", stream=True)  # type: ignore[call-overload]
invoke_parallel(prompts, temprature=0.5)  # type: ignore[call-arg]
invoke_parallel(prompts, temperature="hot")  # type: ignore[arg-type]
invoke_parallel_managed(prompts, jornal="run.sqlite")  # type: ignore[call-arg]
invoke_claude_streaming("hi", callback="print")  # type: ignore[call-overload]


def look_up(city: str) -> str:
    return city


async def asks_first(name: str, arguments: dict[str, Any]) -> bool:
    return name == "look_up" and bool(arguments)


async def with_tools() -> None:
    assert_type(await aio.invoke_with_tools("hi", [look_up], before_tool=asks_first), ClaudeResponse)
    assert_type((await aio.invoke_with_tools("hi", [look_up], output=int)).output, int)
    await aio.invoke_parallel(prompts, tools=[look_up], before_tool=asks_first)
    assert_type(await aio.invoke_claude("hi", "claude-haiku-4-5", cache_prompt=True), ClaudeResponse)
    assert_type((await aio.invoke_claude("hi", output=list[str], max_retries=0)).output, list[str])
    await aio.invoke_claude("hi", temprature=0.5)  # type: ignore[call-overload]
    await aio.invoke_with_tools("hi", [look_up], max_iteration=5)  # type: ignore[call-overload]
    assert_type(await aio.invoke_claude_streaming("hi", temperature=0).response(), ClaudeResponse)
    aio.invoke_claude_streaming("hi", callback=print)  # type: ignore[call-arg]
    aio.ConversationThread(max_turn=3)  # type: ignore[call-arg]
    conversation = aio.ConversationThread("S", max_turns=3)
    assert_type((await conversation.send("hi", output=int)).output, int)
    assert_type(await conversation.send_continuation(max_tokens=5), ClaudeResponse)
    await conversation.send("hi", max_token=5)  # type: ignore[call-overload]
    assert_type(await managed_aio.ask(Agent(), "hi", max_tokens=5), ClaudeResponse)
    assert_type(await managed_aio.debate([Agent(name="a")], "hi", rounds=1), Debate)
    await managed_aio.map_reduce(["a"], "hi", fan_out=5)  # type: ignore[call-arg]
    async with mcp_tools("server --quiet", prefix="s_") as remote:
        assert_type(remote, list[Tool])
        await aio.ConversationThread(tools=remote).send("hi")


with mcp_tools(["server"], only=["a"], timeout=3) as found:
    assert_type(invoke_with_tools("hi", [*found, look_up], output=int), ClaudeResponse[int])

tracker = TaskTracker(max_retries=3)
assert_type(tracker.add("t", category="c", metadata={"a": 1}), TaskInfo)
assert_type(tracker.get_by_state(TaskState.RUNNING), list[TaskInfo])
assert_type(tracker.summary(), dict[str, int])
tracker.on_transition(print)()

limiter = ConcurrencyLimiter(global_limit=10, category_limits={"security": 3})
with limiter.slot("security"):
    assert_type(limiter.statistics().total, Occupancy)
assert_type(limiter.acquire(timeout=1), bool)


class Ticket(TypedDict):
    title: str


assert_type(invoke_claude("hi", output=Ticket).output, Ticket)
assert_type(invoke_claude("hi", output=list[Ticket]).output, list[Ticket])
assert_type(invoke_claude("hi", output=Literal["a", "b"]).output, Literal["a", "b"])
assert_type(invoke_claude("hi", output=Ticket | int).output, Ticket | int)
assert_type(invoke_claude("hi", output={"type": "object"}).output, Any)
assert_type(invoke_claude_streaming("hi", print, output=Ticket, on_output=print).output, Ticket)
assert_type(invoke_with_retry("hi", output=Ticket).output, Ticket)
assert_type(ConversationThread().send("hi", output=Ticket), ClaudeResponse[Ticket])
assert_type(ConversationThread(output=Ticket).send_continuation(output=int).output, int)
text_of_it: str = invoke_claude("hi", output=Ticket)
invoke_claude("hi", output=3)  # type: ignore[call-overload]
invoke_parallel(prompts, output=Ticket, output_retries=1, grow_max_tokens=True)

reader = Agent("You read.", name="reader", tools=[delegate_tool({"helper": Agent()})], budget_usd=1.0)
assert_type(reader.ask("So?", deadline=3.0), ClaudeResponse)
assert_type(debate([reader], "So?", judge=reader, journal="debate.sqlite"), Debate)
assert_type(map_reduce(("a", "b"), "What?", reader=reader), MapReduce)
Agent("You read.", tols=[])  # type: ignore[call-arg]
