"""The same verbs for coroutines: cancelled within 100 ms, with callbacks on the loop, which is never blocked."""

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

import claude_client
import orchestration.aio
from claude_client import ClaudeInvocationError, InterruptToken, ParallelInvocationError, aio, last_results
from claude_client._verbs import in_thread
from claude_client.simulator import Reply
from helpers import until
from orchestration import Agent, BatchHandle
from task_state import TaskTracker


def prompts_of(number):
    return [{"prompt": f"say {n}", "task_id": f"task-{n}"} for n in range(number)]


async def in_flight(sim, number):
    """Wait until so many requests are in flight, without blocking the loop."""
    await asyncio.to_thread(sim.wait_for, lambda sim: sim.in_flight == number)


@pytest.fixture
def never(sim):
    """Have every request wait for ever."""
    sim.script_by(lambda _: Reply(until=threading.Event()))


def run(coroutine):
    return asyncio.run(coroutine)


# The same


def test_a_call_is_the_same(sim):
    async def main():
        answer = await aio.invoke_claude("say 1", "claude-haiku-4-5", "S", 50, output=int, metadata={"user_id": "u"})
        assert answer.output == 0
        with pytest.raises(ValueError, match="max_tokens must be"):
            await aio.invoke_claude("say 1", max_tokens=0)
        with pytest.raises(TypeError, match="unknown parameter 'odd'"):
            await aio.invoke_claude("say 1", odd=1)
        sim.script(Reply(fault="invalid_request"))
        with pytest.raises(ClaudeInvocationError) as failed:
            await aio.invoke_claude("say 1")
        assert failed.value.kind == "invalid_request"

    run(main())
    assert sim.requests[0].body["system"] == "S"


def test_a_fan_out_is_the_same(sim):
    heard = []

    async def on_result(index, _):
        await asyncio.sleep(0)
        heard.append((index, threading.current_thread()))

    async def main():
        results = await aio.invoke_parallel(prompts_of(7), "claude-haiku-4-5", 50, 3, "S", on_result=on_result)
        assert all(results)
        sim.script(Reply(fault="invalid_request"))
        with pytest.raises(ParallelInvocationError):
            await aio.invoke_parallel(prompts_of(2))
        assert all(await aio.invoke_parallel(prompts_of(2), on_result=None))

    run(main())
    assert sorted(index for index, _ in heard) == list(range(7))
    assert {thread for _, thread in heard} == {threading.main_thread()}


@pytest.mark.parametrize("raised", [ZeroDivisionError, asyncio.CancelledError])
def test_a_callback_that_raises_costs_no_answer(sim, caplog, raised):
    async def on_result(index, _):
        raise raised

    async def main():
        assert all(await aio.invoke_parallel(prompts_of(2), on_result=on_result))

    run(main())
    assert "on_result failed" in caplog.text


def test_a_stream_gives_its_chunks_and_its_answer(sim):
    sim.script(Reply(text="one two three"), Reply(text="one two three"), Reply(text="5"))

    async def main():
        stream = aio.invoke_claude_streaming("say it", max_tokens=50)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunks) == await stream.response() == "one two three"
        assert len(chunks) > 1
        assert [chunk async for chunk in stream] == []
        async with aio.invoke_claude_streaming("say it") as unheard:
            assert await unheard.response() == "one two three"
        partial = []

        async def on_output(value):
            partial.append(value)

        assert (await aio.invoke_claude_streaming("a number", output=int, on_output=on_output).response()).output == 5
        assert partial[-1] == 5

    run(main())


def test_a_stream_that_breaks_raises_where_it_is_iterated(sim):
    sim.script(Reply(text="one two three four", fault="cut", after_chunks=2))

    async def main():
        stream = aio.invoke_claude_streaming("say it", max_retries=0)
        chunks = []
        failed = None
        try:
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401
        except ClaudeInvocationError as error:
            failed = error
        assert failed
        assert failed.partial_text == "".join(chunks) != ""

    run(main())


def test_conversations_are_the_same(sim):
    async def main():
        conversation = aio.ConversationThread(system="S", max_tokens=50)
        heard = []

        async def callback(chunk):
            heard.append(chunk)

        first = await conversation.send("say 1", callback=callback)
        assert "".join(heard) == first
        fork = conversation.fork()
        await fork.send("say 2")
        assert (conversation.thread.turn_count, fork.thread.turn_count) == (1, 2)
        sim.script(Reply(text="cut", fault="max_tokens"), Reply(text=" off"))
        await conversation.send(user_message="say 3")
        assert await conversation.send_continuation()
        assert "aio <ConversationThread" in repr(conversation)

    run(main())


def test_outcomes_come_as_they_end(sim):
    heard = []

    async def prompts():
        for prompt in prompts_of(12):
            await asyncio.sleep(0)
            assert threading.current_thread() is threading.main_thread()
            yield prompt

    async def main():
        for some in (prompts(), prompts_of(12), iter(prompts_of(12))):
            outcomes = {
                index: answer
                async for index, answer in aio.as_completed(some, on_result=lambda *one: heard.append(one))
            }
            assert sorted(outcomes) == list(range(12))
        async with aio.as_completed(prompts(), window=2) as few:
            assert await anext(few)
        with pytest.raises(StopAsyncIteration):
            await anext(few)
        with pytest.raises(ValueError, match="prompts must be an iterable of dicts"):
            await anext(aio.as_completed(5))

    run(main())


def test_runs_of_orchestration_are_the_same(sim, tmp_path):
    heard = []

    async def on_batch(handle):
        heard.append(handle)

    async def reconcile(prompts, tracker):
        await asyncio.sleep(0)
        return prompts[1:]

    async def main():
        tracker = TaskTracker(max_retries=3)
        results = await orchestration.aio.invoke_parallel_managed(
            prompts_of(4), reconcile=reconcile, tracker=tracker, journal=tmp_path / "journal", on_result=lambda *_: None
        )
        assert [answer is not None for answer in results] == [False, True, True, True]
        assert all(await orchestration.aio.invoke_parallel_with_reconciliation(prompts_of(2)))
        assert await orchestration.aio.invoke_with_retry("say 1")
        batched = await orchestration.aio.invoke_batch(
            prompts_of(3), check_first=False, poll_interval=0.01, on_batch=on_batch
        )
        assert all(batched)
        assert isinstance(heard[0], BatchHandle)
        assert all(await orchestration.aio.collect_batch(heard[0]))

    run(main())


def test_agents_and_their_workflows_are_the_same(sim):
    heard = []

    async def told(index, _):
        heard.append(index)

    async def callback(chunk):
        heard.append(chunk)

    async def main():
        experts = {"a": Agent(), "b": Agent()}
        debated = await orchestration.aio.debate(experts, "Tabs or spaces?", 2, Agent(), on_result=told)
        assert (len(debated.rounds), sorted(debated.answers)) == (2, ["a", "b"])
        assert sorted(heard) == [0, 0, 0, 1, 1]
        read = await orchestration.aio.map_reduce(["one", "two"], "What is it?", on_result=told)
        assert read.answer
        heard.clear()
        assert await orchestration.aio.ask(Agent(memory=True), "say 1", callback=callback) == "".join(heard)

    run(main())


# Stopping


@pytest.mark.parametrize(
    "verb",
    [
        lambda: orchestration.aio.ask(Agent(), "say 1"),
        lambda: orchestration.aio.debate({"a": Agent()}, "Tabs?"),
        lambda: aio.invoke_claude("say 1"),
        lambda: aio.invoke_parallel(prompts_of(3)),
        lambda: aio.invoke_claude_streaming("say 1").response(),
        lambda: anext(aio.invoke_claude_streaming("say 1")),
        lambda: anext(aio.as_completed(prompts_of(3))),
        lambda: aio.ConversationThread().send("say 1"),
        lambda: orchestration.aio.invoke_parallel_managed(prompts_of(3)),
    ],
)
def test_a_task_that_is_cancelled_ends_its_requests_and_frees_its_threads(sim, never, verb):
    async def main():
        task = asyncio.ensure_future(verb())
        await asyncio.to_thread(sim.wait_for, lambda sim: sim.in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await in_flight(sim, 0)

    run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "claude_client worker"]


def test_a_timeout_and_a_failing_group_end_requests(sim, never):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await aio.invoke_claude("say 1")

        async def fail():
            await asyncio.to_thread(sim.wait_for, lambda sim: sim.in_flight >= 2)
            raise ZeroDivisionError

        async def all_at_once():
            async with asyncio.TaskGroup() as group:
                group.create_task(aio.invoke_claude("say 1"))
                group.create_task(aio.invoke_parallel(prompts_of(1)))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await all_at_once()
        await in_flight(sim, 0)

    run(main())


def test_a_fan_out_that_is_cancelled_leaves_what_was_answered_in_the_last_results(sim):
    sim.script_by(lambda request: Reply() if "say 0" in str(request.body) else Reply(until=threading.Event()))

    async def main():
        answered = asyncio.Event()
        task = asyncio.ensure_future(aio.invoke_parallel(prompts_of(3), on_result=lambda *_: answered.set()))
        await answered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert [answer is not None for answer in last_results()] == [True, False, False]


def test_an_iterable_that_waits_is_cancelled_with_its_outcomes(sim):
    async def main():
        begun = asyncio.Event()

        async def prompts():
            begun.set()
            await asyncio.Event().wait()
            yield

        task = asyncio.ensure_future(anext(aio.as_completed(prompts())))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_tokens_work_too(sim, never):
    async def main():
        token = InterruptToken()
        calls = [
            asyncio.ensure_future(aio.invoke_claude("say 1", interrupt_token=token)),
            asyncio.ensure_future(aio.invoke_parallel(prompts_of(1), interrupt_token=token)),
        ]
        outcomes = aio.as_completed(prompts_of(1), interrupt_token=token)
        taken = asyncio.ensure_future(anext(outcomes))
        await in_flight(sim, 3)
        token.interrupt()
        failed, results = await asyncio.gather(*calls, return_exceptions=True)
        assert failed.kind == results.errors[0].kind == (await taken)[1].kind == "interrupted"
        await outcomes.aclose()
        for call in (aio.invoke_claude, lambda _, **more: aio.invoke_parallel(prompts_of(1), **more)):
            with pytest.raises(TypeError, match="interrupt_token must be an InterruptToken or None, got 'no token'"):
                await call("say 1", interrupt_token="no token")

    run(main())


def test_a_stream_that_nobody_has_any_more_is_ended(sim, never):
    async def main():
        stream = aio.invoke_claude_streaming("say 1")
        waiting = asyncio.ensure_future(asyncio.wait_for(anext(stream), 0.2))
        with pytest.raises(TimeoutError):
            await waiting
        await in_flight(sim, 0)
        left = aio.invoke_claude_streaming("say 1")
        left._begun()
        await in_flight(sim, 1)
        del left
        gc.collect()
        await in_flight(sim, 0)

    run(main())


def test_what_nobody_took_anything_of_has_asked_nothing(sim):
    async def main():
        stream = aio.invoke_claude_streaming("say 1")
        await stream.aclose()
        async with aio.as_completed(prompts_of(3)):
            pass

    run(main())
    assert not sim.requests


def test_a_task_that_is_cancelled_twice_ends_all_the_same(sim, never, caplog):
    async def main():
        task = asyncio.ensure_future(aio.invoke_claude("say 1"))
        await in_flight(sim, 1)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        await in_flight(sim, 0)

    run(main())
    assert not caplog.records


def test_a_browser_that_leaves_ends_the_request_behind_its_page(sim):
    sim.script_by(lambda request: Reply(text="word " * 500, pause=threading.Event(), after_chunks=3))
    page = Starlette(routes=[Route("/", lambda _: StreamingResponse(aio.invoke_claude_streaming("say it")))])
    server = uvicorn.Server(uvicorn.Config(page, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    async def visit(client):
        async with client.stream("GET", url) as response:
            return await anext(response.aiter_text())

    async def main():
        async with httpx.AsyncClient() as client:
            assert all(await asyncio.gather(*(visit(client) for _ in range(20))))
            await in_flight(sim, 0)

    run(main())
    server.should_exit = True
    thread.join()


# Loops and contexts


@pytest.fixture
def held(sim):
    """What every answer waits for."""
    free = threading.Event()
    sim.script_by(lambda _: Reply(until=free))
    return free


def test_the_loop_is_never_blocked(sim, held):
    async def main():
        calls = asyncio.gather(
            *(aio.invoke_claude(f"say {n}") for n in range(20)),
            aio.invoke_parallel(prompts_of(20), max_workers=5),
            aio.ConversationThread().send("say 1"),
        )
        await in_flight(sim, 20 + 5 + 1)
        held.set()  # by the loop, which any of them would have blocked for ever
        await calls

    run(main())
    assert len(sim.requests) == 41


def test_calls_wait_for_nobody(sim, held):
    async def main():
        calls = asyncio.gather(*(aio.invoke_claude(f"say {n}") for n in range(60)))
        await in_flight(sim, 60)
        held.set()
        await calls

    run(main())


def test_many_loops_one_after_another_and_at_once(sim):
    async def main():
        assert await aio.invoke_claude("say 1")
        assert all([answer async for _, answer in aio.as_completed(prompts_of(3))])

    run(main())
    run(main())
    threads = [threading.Thread(target=run, args=[main()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sim.requests) == 6 * 4


def test_context_variables_follow(sim):
    variable, seen = contextvars.ContextVar("variable"), []

    async def on_result(*_):
        seen.append(variable.get())

    async def main():
        variable.set("here")
        await aio.invoke_parallel(prompts_of(1), on_result=on_result)
        stream = aio.invoke_claude_streaming("say 1")
        assert await stream.response()

    run(main())
    assert seen == ["here"]


def test_a_loop_that_is_gone_is_told_nothing(sim):
    done = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(in_thread.in_thread(lambda interrupt_token: done.wait(20), (), {}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        loop.stop()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(main())
    loop.run_forever()
    loop.close()
    done.set()
    assert task.done()
    assert claude_client.invoke_claude("say 1")


# What ends where, and what it leaves


def test_of_two_that_wait_for_an_answer_one_may_give_up(sim):
    release = threading.Event()
    sim.script(Reply(until=release, text="whole"))

    async def main():
        stream = aio.invoke_claude_streaming("say 1")

        async def chunks():
            return [chunk async for chunk in stream]

        patient, iterating = asyncio.create_task(stream.response()), asyncio.create_task(chunks())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.response(), 0.01)
        release.set()
        assert await patient == "".join(await iterating) == "whole"

    run(main())


def test_a_stream_that_was_closed_is_not_taken_for_a_whole_answer(sim, never):
    async def main():
        stream = aio.invoke_claude_streaming("say 1")
        waiting = asyncio.create_task(stream.response())
        await in_flight(sim, 1)
        await stream.aclose()
        for ended in (waiting, stream.response(), anext(stream)):
            with pytest.raises(ClaudeInvocationError) as failed:
                await ended
            assert failed.value.kind == "interrupted"
        unbegun = aio.invoke_claude_streaming("say 1")
        await unbegun.aclose()
        with pytest.raises(ClaudeInvocationError, match="interrupted"):
            await unbegun.response()

    run(main())


def test_outcomes_that_were_closed_before_they_began_do_not_begin(sim):
    async def main():
        async with aio.as_completed(prompts_of(3)) as outcomes:
            pass
        assert [pair async for pair in outcomes] == []

    run(main())
    assert sim.requests == ()


def test_what_ended_the_outcomes_is_raised_once():
    def broken():
        raise LookupError("no more")
        yield

    async def main():
        outcomes = aio.as_completed(broken())
        with pytest.raises(LookupError):
            await anext(outcomes)
        assert [pair async for pair in outcomes] == []

    run(main())


def test_an_iterable_that_ends_before_it_begins_is_an_error(sim):
    class Odd:
        def __iter__(self):
            return next(iter([]))

    async def main():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await anext(aio.as_completed(Odd()))

    run(main())


def test_no_more_is_drawn_than_the_window_has(sim):
    drawn = []

    def prompts():
        for prompt in prompts_of(20):
            drawn.append(prompt)
            yield prompt

    async def main():
        async with aio.as_completed(prompts(), max_workers=1, window=2) as outcomes:
            await anext(outcomes)
            await in_flight(sim, 0)
            assert len(drawn) == 2

    run(main())


def test_outcomes_are_given_while_the_next_prompt_is_waited_for(sim):
    token = InterruptToken()

    async def main():
        answered = asyncio.Event()

        async def prompts():
            yield {"prompt": "say 1"}
            await answered.wait()  # as one that depends on the answer
            yield {"prompt": "say 2"}
            await asyncio.Event().wait()

        given = []
        async for index, _ in aio.as_completed(prompts(), interrupt_token=token):
            given.append(index)
            answered.set()
            if len(given) == 2:
                token.interrupt()
        assert given == [0, 1]

    run(main())


def test_a_generator_of_prompts_is_one_task(sim):
    variable = contextvars.ContextVar("variable", default=0)
    seen, closed = [], []

    async def prompts():
        try:
            async with asyncio.timeout(None) as limit:
                for number in range(3):
                    variable.set(variable.get() + 1)
                    seen.append(variable.get())
                    yield {"prompt": f"say {number}"}
                limit.reschedule(asyncio.get_running_loop().time())
                await asyncio.Event().wait()
        finally:
            closed.append(1)

    async def main():
        outcomes = aio.as_completed(prompts())
        assert sorted([(await anext(outcomes))[0] for _ in range(3)]) == [0, 1, 2]
        with pytest.raises(TimeoutError):
            await anext(outcomes)
        outcomes = aio.as_completed(prompts())
        await anext(outcomes)
        await outcomes.aclose()
        assert closed == [1, 1]

    run(main())
    assert seen[:3] == [1, 2, 3]


def test_a_generator_that_blocks_is_not_waited_for_long(sim):
    began, release = threading.Event(), threading.Event()

    def prompts():
        began.set()
        release.wait(60)
        yield {"prompt": "say 1"}

    async def main():
        task = asyncio.create_task(anext(aio.as_completed(prompts())))
        await asyncio.to_thread(began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not release.is_set()

    run(main())
    release.set()


def test_a_turn_within_a_callback_of_the_conversation_is_refused(sim):
    async def main():
        thread = aio.ConversationThread()

        async def again(_):
            await thread.send("again")

        with pytest.raises(RuntimeError, match="whose turn is not over"):
            await thread.send("say 1", callback=again)
        other = aio.ConversationThread()
        assert await thread.send("say 1", callback=lambda _: other.send("say 2"))
        assert (thread.thread.turn_count, other.thread.turn_count >= 1) == (1, True)
        await thread.clear()
        assert thread.thread.turn_count == 0

    run(main())


def test_a_slow_callback_is_cancelled_with_its_run_and_not_said_to_have_failed(sim, caplog):
    async def main():
        began = asyncio.Event()

        async def on_result(*_):
            began.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(aio.invoke_parallel(prompts_of(2), on_result=on_result))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert "on_result failed" not in caplog.text


def test_a_stream_takes_no_callback():
    with pytest.raises(TypeError, match="takes no callback"):
        aio.invoke_claude_streaming("say 1", callback=print)


def test_where_there_are_no_threads_it_is_said(sim):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no threads")))
        with pytest.raises(RuntimeError, match="no thread can be started"):
            run(aio.invoke_claude("say 1"))
    assert run(aio.invoke_claude("say 1"))


def test_where_there_are_few_threads_calls_wait_for_each_other(monkeypatch):
    start, done, starter = threading.Thread.start, [], in_thread._Starter()
    over = threading.Event()

    def start_one(thread):
        if done or threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no threads")
        done.append("began")
        for number in (2, 3):  # which come while the first thread is started
            starter.start(partial(done.append, number))
        starter.start(over.set)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    starter.start(partial(done.append, 1))
    assert over.wait(20)
    assert done == ["began", 1, 2, 3]


def test_a_callback_of_what_has_ended_is_not_called():
    called = []

    async def main():
        loop = asyncio.get_running_loop()
        link = in_thread.Link(loop)
        call_soon, loop.call_soon_threadsafe = loop.call_soon_threadsafe, lambda *args: (link.end(), call_soon(*args))
        relayed = link.relay(called.append)
        assert await asyncio.to_thread(relayed, None) is None  # it ended as the callback was about to be called
        loop.call_soon_threadsafe = call_soon
        assert relayed("later") is None

    run(main())
    assert "later" not in called


def test_a_callback_that_is_under_way_ends_with_its_call():
    async def main():
        began, ended = asyncio.Event(), asyncio.Event()

        async def waits():
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        link = in_thread.Link(asyncio.get_running_loop())
        calling = asyncio.ensure_future(asyncio.to_thread(link.relay(waits)))
        await began.wait()
        await asyncio.to_thread(until, lambda: link._under_way)
        link.end()
        assert await calling is None
        await ended.wait()

    run(main())


def test_prompts_may_come_from_any_asynchronous_iterable(sim):
    class Two:
        left = 2

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return {"prompt": "say 1"}

    async def main():
        assert len([pair async for pair in aio.as_completed(Two())]) == 2

    run(main())


def test_outcomes_that_are_closed_while_somebody_waits_for_them_just_end(sim, never):
    async def main():
        async def take(outcomes):
            return [pair async for pair in outcomes]

        outcomes = aio.as_completed(prompts_of(2))
        waiting = asyncio.create_task(take(outcomes))
        await in_flight(sim, 2)
        await outcomes.aclose()
        assert await waiting == []
        stream = aio.invoke_claude_streaming("say 1")
        waiting = asyncio.create_task(take(stream))
        await in_flight(sim, 1)
        await stream.aclose()
        with pytest.raises(ClaudeInvocationError, match="interrupted"):
            await waiting

    run(main())


ENDS = """
import asyncio, os, signal, sys, threading
from claude_client import aio, as_completed
prompts = [{"prompt": f"say {n}"} for n in range(50)]
async def wait(*_): await asyncio.Event().wait()
def stop(): os.kill(os.getpid(), signal.SIGINT)
def plainly(coroutine):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(coroutine)
"""

NAMED = """
outcomes = as_completed(prompts)
for index, _ in outcomes:
    break
print("done")
"""

NAMED_IN_A_LOOP = """
async def main():
    outcomes = aio.as_completed(prompts)
    async for index, _ in outcomes:
        raise LookupError("done")
try:
    asyncio.run(main())
except LookupError as failed:
    print(failed)
"""

CALLBACK = """
async def on_result(*_):
    stop()
    await wait()
try:
    plainly(aio.invoke_parallel(prompts, on_result=on_result))
except KeyboardInterrupt:
    print("done")
"""

DRAWING = """
async def endless():
    yield prompts[0]
    yield prompts[1]
    stop()
    await wait()
async def main():
    async for _ in aio.as_completed(endless()): pass
try:
    plainly(main())
except KeyboardInterrupt:
    print("done")
"""

SINGLE = """
async def main():
    task = asyncio.create_task(aio.invoke_claude("never"))
    await asyncio.sleep(0)
    stop()
    await task
try:
    plainly(main())
except KeyboardInterrupt:
    print("done")
"""


@pytest.mark.long
@pytest.mark.parametrize("code", [NAMED, NAMED_IN_A_LOOP, CALLBACK, DRAWING, SINGLE])
def test_the_interpreter_ends_whatever_was_under_way(sim, code):
    sim.script(Reply(fault="silent"), matching="never")
    environment = {**os.environ, "PYTHONPATH": str(Path(claude_client.__file__).parent.parent)}
    ended = subprocess.run(
        [sys.executable, "-c", ENDS + code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr
