"""A call ends by its deadline, whatever keeps it going."""

import threading
import time

import httpx
import pytest

from claude_client import (
    ClaudeInvocationError,
    ConversationThread,
    InterruptToken,
    invoke_claude,
    invoke_parallel,
    set_default_client,
)
from claude_client.simulator import Reply
from helpers import end, start, text_block
from orchestration import invoke_parallel_managed
from servers import Scripted, in_chunks, that_never_accepts, that_says_nothing

SOON = 0.1  # seconds
LATER = 1.0  # in which something is seen to come first
LONG = 60.0


def late(call, *args, deadline=SOON, **options):
    """The error of a call that ends at its deadline, and not long after."""
    began = time.monotonic()
    with pytest.raises(ClaudeInvocationError, match="deadline") as caught:
        call(*args, deadline=deadline, **options)
    assert time.monotonic() - began < LONG / 2
    assert (caught.value.kind, caught.value.retryable) == ("timeout", False)
    return caught.value


@pytest.mark.parametrize("streaming", [False, True])
def test_a_server_that_says_nothing(monkeypatch, streaming):
    with that_says_nothing() as (port, _):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{port}")
        late(invoke_claude, "hi", streaming=streaming, timeout=LONG)
        set_default_client(None)


def test_a_server_that_does_not_accept(monkeypatch):
    with that_never_accepts() as port:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{port}")
        late(invoke_claude, "hi", timeout=LONG)


def test_a_stream_that_only_lives_by_its_pings(sim):
    sim.script(Reply(text="one two three", fault="silent_with_pings", ping_interval=0.01))
    failed = late(invoke_claude, "hi", deadline=LATER, streaming=True, timeout=LONG)
    assert "one" in failed.partial_text
    assert failed.usage.input_tokens
    assert len(sim.requests) == 1


def test_a_transport_that_nobody_can_end_is_left_at_its_next_event(api):
    def slowly():
        yield start()
        yield from text_block("half")
        threading.Event().wait(LATER)
        yield from text_block("more", index=1)

    api.answers(httpx.Response(200, content=slowly(), headers={"content-type": "text/event-stream"}))
    assert late(invoke_claude, "hi", deadline=LATER, streaming=True).partial_text == "half"


def test_a_retry_that_could_not_end_in_time_is_not_waited_for(sim):
    sim.script(Reply(fault="overloaded", retry_after=LONG))
    failed = late(invoke_claude, "hi", deadline=LONG - 1, max_retries=50)
    assert failed.__cause__.kind == "overloaded"
    assert len(sim.requests) == 1


def test_a_wait_at_the_gate(sim):
    sim.script(*[Reply(fault="rate_limit", retry_after=50.0)] * 20)
    invoke_parallel([{"prompt": "hi"}] * 20, max_retries=0, return_exceptions=True, deadline=LATER)
    late(invoke_claude, "hi")
    began = time.monotonic()
    results = invoke_parallel([{"prompt": "hi"}] * 3, deadline=SOON, return_exceptions=True)
    assert time.monotonic() - began < LONG / 2
    assert {failed.kind for failed in results} == {"timeout"}


def test_what_waits_for_a_worker_ends_on_time_too(sim):
    others_ended = threading.Event()
    sim.script(Reply(text="slow", until=others_ended))
    told = []

    def on_result(index, _):
        told.append(index)
        if len(told) == 3:
            others_ended.set()

    prompts = [{"prompt": "slow"}, *[{"prompt": "hi", "deadline": SOON}] * 3]
    results = invoke_parallel(prompts, max_workers=1, return_exceptions=True, on_result=on_result)
    assert results[0] == "slow"
    assert [failed.kind for failed in results[1:]] == ["timeout"] * 3
    assert told == [1, 2, 3, 0]
    assert len(sim.requests) == 1


def test_a_managed_run_fails_what_is_late_and_goes_on(sim):
    sim.script_by(lambda request: Reply(fault="silent") if "slow" in str(request.body) else Reply(text="done"))
    results = invoke_parallel_managed([{"prompt": "slow", "deadline": SOON}, {"prompt": "quick"}])
    assert (results.errors[0].kind, results[1]) == ("timeout", "done")
    assert results.tracker.summary() == {"failed": 1, "completed": 1}


def test_a_turn_of_a_conversation(sim):
    sim.script(Reply(fault="silent"), Reply(text="done"))
    thread = ConversationThread(deadline=LATER)
    with pytest.raises(ClaudeInvocationError, match="deadline"):
        thread.send("hi")
    assert thread.send("hi") == "done"


def test_a_call_that_ends_in_time_is_as_ever(sim):
    assert invoke_claude("hi", deadline=LONG)
    assert not invoke_parallel([{"prompt": "hi"}] * 3, deadline=LONG).errors


def test_an_answer_is_not_lost_to_a_server_that_keeps_its_connection_open(monkeypatch):

    with Scripted(in_chunks(start(), *text_block("whole"), *end(), ended=False)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        assert invoke_claude("hi", streaming=True, deadline=LONG) == "whole"
        set_default_client(None)


@pytest.mark.parametrize("deadline", [0, -1, float("inf"), float("nan"), "soon", True])
def test_a_deadline_is_a_number_of_seconds(deadline):
    with pytest.raises(ValueError, match="deadline must be a number of seconds above 0, got"):
        invoke_claude("hi", deadline=deadline)


def test_a_turn_that_waits_for_another_threads(sim):
    thread, inside, done = ConversationThread(deadline=LATER), threading.Event(), threading.Event()

    def listen(_):
        inside.set()
        done.wait(LONG)

    def turn():
        with pytest.raises(ClaudeInvocationError, match="deadline"):
            thread.send("a", callback=listen)

    other = threading.Thread(target=turn)
    other.start()
    inside.wait(LONG)
    for more in ({}, {"interrupt_token": InterruptToken()}):
        with pytest.raises(ClaudeInvocationError, match="deadline"):
            thread.send("b", **more)
    assert len(sim.requests) == 1
    done.set()
    other.join(LONG)
