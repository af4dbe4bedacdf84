"""Tools in coroutines: they run on the caller's loop, and end with its task."""

import asyncio
import threading

import pytest

from claude_client import ClaudeInvocationError, Context, Respond, aio
from claude_client.simulator import Reply
from orchestration import aio as managed_aio
from test_tool_loop import add, asks, told, use


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
            lambda: aio.invoke_parallel([{"prompt": "?"}], tools=[look]),
            lambda: aio.ConversationThread(tools=[look]).send("?"),
            lambda: managed_aio.invoke_parallel_managed([{"prompt": "?"}], tools=[look]),
        ):
            sim.script(asks(use("look")), Reply(text="It."))
            answer = await ask()
            assert str(answer if isinstance(answer, str) else answer[0]) == "It."
            assert told(sim.requests[-1]) == ["seen"]
        assert loops == [asyncio.get_running_loop()] * 4

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
