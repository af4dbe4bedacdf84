"""Tools in coroutines: they run on the caller's loop, and end with its task."""

import asyncio
import threading

import pytest

from claude_client import (
    ClaudeInvocationError,
    Context,
    ConversationThread,
    Respond,
    aio,
    invoke_parallel,
    invoke_with_tools,
)
from claude_client.simulator import Reply
from orchestration import aio as managed_aio
from test_tool_loop import add, asks, told, use

pytestmark = pytest.mark.once


def run(main):
    return asyncio.run(asyncio.wait_for(main(), 20))


def test_coroutine_functions_run_on_the_loop_that_awaits_the_call(sim):
    async def main():
        loops = []

        async def look() -> str:
            """Look."""
            loops.append(asyncio.get_running_loop())
            return "seen"

        for ask in (
            lambda: aio.invoke_with_tools("?", [look, add]),
            lambda: aio.invoke_claude("?", tools=[look]),
            lambda: aio.invoke_parallel([{"prompt": "?"}], tools=[look]),
            lambda: aio.ConversationThread(tools=[look]).send("?"),
            lambda: managed_aio.invoke_parallel_managed([{"prompt": "?"}], tools=[look]),
        ):
            sim.script(asks(use("look")), Reply(text="It."))
            answer = await ask()
            assert str(answer if isinstance(answer, str) else answer[0]) == "It."
            assert told(sim.requests[-1]) == ["seen"]
        assert loops == [asyncio.get_running_loop()] * 5

    run(main)


def test_a_tool_may_await_calls_of_its_own(sim):
    async def main():
        async def ask(context: Context) -> str:
            """Ask."""
            answers = await aio.invoke_parallel([{"prompt": "sub"}] * 2)
            return f"{answers[0]} {context.depth}"

        sim.script(Reply(text="s"), Reply(text="s"), matching="sub")
        sim.script(asks(use("ask")), Reply(text="out"), matching="top")
        answer = await aio.invoke_with_tools("top", [ask])
        assert told(sim.requests[-1]) == ["s 1"]
        assert sorted(attempt.path for attempt in answer.attempts) == [(), (), ("prompts[0]",), ("prompts[1]",)]

    run(main)


def test_asking_before_a_tool_may_be_awaited(sim):
    async def main():
        async def before(name, arguments):
            await asyncio.sleep(0)
            return Respond(f"{name}: {arguments['a']}")

        sim.script(asks(use("add", a=1)), Reply())
        await aio.invoke_with_tools("?", [add], before_tool=before)
        assert told(sim.requests[1]) == ["add: 1"]

    run(main)


def test_making_room_may_be_awaited(sim):
    async def main():
        async def shorten(messages):
            await asyncio.sleep(0)
            return messages[-1:]

        thread = aio.ConversationThread(max_context_tokens=2000, on_full=shorten)
        sim.script(Reply(text="y" * 6000), Reply(text="Yes."))
        await thread.send("First?")
        assert await thread.send("x" * 3000) == "Yes."

    run(main)


def test_a_task_that_is_cancelled_cancels_its_tools(sim):
    async def main():
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            """Wait."""
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        sim.script(asks(use("wait")))
        task = asyncio.ensure_future(aio.invoke_with_tools("?", [wait]))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await cancelled.wait()
        assert len(sim.requests) == 1

    run(main)


def test_nothing_is_run_that_was_asked_about_as_the_task_was_cancelled(sim):
    ran = threading.Event()

    async def main():
        asked = asyncio.Event()

        async def before(name, arguments):
            asked.set()
            await asyncio.Event().wait()

        def run_it() -> None:
            ran.set()

        sim.script(asks(use("run_it")))
        task = asyncio.ensure_future(aio.invoke_with_tools("?", [run_it], before_tool=before))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert not ran.is_set()


def test_the_loop_is_free_while_tools_that_block_run(sim):
    async def main():
        loop, begun, done = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def block() -> bool:
            """Block."""
            loop.call_soon_threadsafe(begun.set)
            return done.wait(20)

        sim.script(asks(use("block")), Reply())
        task = asyncio.ensure_future(aio.invoke_with_tools("?", [block]))
        await begun.wait()
        done.set()
        await task
        assert told(sim.requests[1]) == ["true"]

    run(main)


def test_errors_come_out_as_they_are(sim):
    async def main():
        sim.script(*[asks(use("add", n, a=1)) for n in range(2)])
        with pytest.raises(ClaudeInvocationError) as caught:
            await aio.invoke_with_tools("?", [add], max_iterations=2)
        assert caught.value.kind == "max_iterations"

    run(main)


async def answers_itself(name, arguments):
    await asyncio.sleep(0)
    return Respond("by hand")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: aio.invoke_claude("?", tools=[add], before_tool=answers_itself),
        lambda: aio.invoke_parallel([{"prompt": "?", "before_tool": answers_itself}], tools=[add]),
        lambda: aio.invoke_claude_streaming("?", tools=[add], before_tool=answers_itself).response(),
        lambda: aio.ConversationThread(tools=[add], before_tool=answers_itself).send("?"),
        lambda: managed_aio.invoke_parallel_managed([{"prompt": "?"}], tools=[add], before_tool=answers_itself),
        lambda: all_of(aio.as_completed([{"prompt": "?"}], tools=[add], before_tool=answers_itself)),
    ],
)
def test_asking_may_be_awaited_wherever_it_was_said(sim, ask):
    sim.script(asks(use("add", a=1)), Reply())

    async def main():
        await ask()

    run(main)
    assert told(sim.requests[1]) == ["by hand"]


async def all_of(outcomes):
    return [outcome async for outcome in outcomes]


def test_what_decides_is_called_on_the_loop(sim):
    threads = []

    def before(name, arguments):
        threads.append(threading.current_thread())

    sim.script(asks(use("add", a=1)), Reply())
    run(lambda: aio.invoke_with_tools("?", [add], before_tool=before))
    assert threads == [threading.current_thread()]


def test_a_verb_that_blocks_awaits_no_decision(sim):
    sim.script(asks(use("add", a=1)))
    with pytest.raises(ClaudeInvocationError, match=r"before_tool is a coroutine function, .*aio") as caught:
        invoke_with_tools("?", [add], before_tool=answers_itself)
    assert caught.value.kind == "tool"

    class Later:
        def __await__(self):
            raise NotImplementedError

    thread = ConversationThread(max_context_tokens=2000, on_full=lambda messages: Later())
    sim.script(Reply(text="y" * 6000))
    thread.send("First?")
    with pytest.raises(ClaudeInvocationError, match="on_full is a coroutine function") as caught:
        thread.send("x" * 3000)
    assert caught.value.kind == "callback"


def test_a_deadline_ends_a_decision_that_is_awaited(sim):
    ran, ended = [], threading.Event()

    async def before(name, arguments):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def run_it() -> None:
        ran.append(1)

    sim.script(asks(use("run_it")))

    async def main():
        with pytest.raises(ClaudeInvocationError) as caught:
            await aio.invoke_with_tools("?", [run_it], before_tool=before, deadline=0.3)
        assert caught.value.kind == "timeout"
        assert caught.value.tool_calls[0].outcome == "interrupted"

    run(main)
    assert ran == []
    assert ended.wait(20)


@pytest.mark.parametrize("raised", [TimeoutError, asyncio.CancelledError, KeyError])
def test_a_decision_that_fails_ends_the_call(sim, raised):
    async def before(name, arguments):
        raise raised

    async def main():
        sim.script(asks(use("add", 1, a=1), use("add", 2, a=1)))
        with pytest.raises(ClaudeInvocationError) as caught:
            await aio.invoke_with_tools("?", [add], before_tool=before)
        assert caught.value.kind == "tool"
        assert [call.outcome for call in caught.value.tool_calls] == ["error", "interrupted"]

    run(main)


@pytest.mark.parametrize(
    "ask",
    [
        lambda tools: invoke_with_tools("sub", tools),
        lambda tools: invoke_parallel([{"prompt": "sub", "tools": tools}])[0],
    ],
)
@pytest.mark.parametrize("way", ["blocks the loop", "on a thread"])
def test_a_tool_may_call_verbs_that_block_and_have_asynchronous_tools(sim, ask, way):
    loops = []

    async def look() -> str:
        loops.append(asyncio.get_running_loop())
        return "seen"

    def on_a_thread() -> str:
        return str(ask([look]))

    async def on_the_loop() -> str:
        return str(ask([look]))

    async def main():
        outer = on_the_loop if way == "blocks the loop" else on_a_thread
        sim.script(asks(use("look")), Reply(text="inner"), matching="sub")
        sim.script(asks(use(outer.__name__)), Reply(text="outer"), matching="top")
        assert await aio.invoke_with_tools("top", [outer]) == "outer"
        assert told(sim.requests[-1]) == ["inner"]
        assert (loops == [asyncio.get_running_loop()]) is (way == "on a thread")

    run(main)


def test_an_asynchronous_tool_may_await_a_call_with_asynchronous_tools(sim):
    async def look() -> str:
        return "seen"

    async def outer() -> str:
        return str(await aio.invoke_with_tools("sub", [look]))

    async def main():
        sim.script(asks(use("look")), Reply(text="inner"), matching="sub")
        sim.script(asks(use("outer")), Reply(text="outer"), matching="top")
        assert await aio.invoke_with_tools("top", [outer]) == "outer"
        assert told(sim.requests[-1]) == ["inner"]

    run(main)


def test_many_calls_at_once_share_one_loop(sim):
    together = asyncio.Barrier(20)

    async def meet() -> str:
        await together.wait()
        return "met"

    async def main():
        sim.script_by(lambda request: Reply() if told_to(request) else asks(use("meet")))
        answers = await asyncio.gather(*[aio.invoke_with_tools("?", [meet]) for _ in range(20)])
        assert [answer.tool_calls[0].outcome for answer in answers] == ["ok"] * 20

    run(main)


def told_to(request):
    return isinstance(request.body["messages"][-1]["content"], list) and told(request)
