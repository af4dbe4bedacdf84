"""What becomes of tools, and is told of them, where the call that runs them ends."""

from __future__ import annotations

import threading

import pytest

from claude_client import ClaudeInvocationError, Context, InterruptToken, StopTools, invoke_with_tools
from claude_client.simulator import Reply
from helpers import KEY

pytestmark = pytest.mark.once


def test_a_tool_is_not_run_once_before_tool_has_interrupted(sim):
    token, run = InterruptToken(), []

    def work() -> None:
        """Work."""
        run.append(1)

    sim.script(Reply(tool_use=("work", {})))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_with_tools("Go.", [work], before_tool=lambda *_: token.interrupt(), interrupt_token=token)
    assert failed.value.kind == "interrupted"
    assert run == []
    assert "before the tool was run" in failed.value.messages[-1]["content"][0]["content"]


def test_when_an_interrupt_returns_a_tool_below_a_tool_has_been_told(sim):
    token, running, told, found = InterruptToken(), threading.Event(), threading.Event(), []

    def inner(context: Context) -> None:
        """Wait."""
        found.append(context.token)
        running.set()
        told.wait(20)

    def outer() -> str:
        """Ask."""
        return invoke_with_tools("Inside.", [inner])

    sim.script(Reply(tool_use=("inner", {})), matching="Inside.")
    sim.script(Reply(tool_use=("outer", {})), matching="Go.")

    def call():
        with pytest.raises(ClaudeInvocationError):
            invoke_with_tools("Go.", [outer], interrupt_token=token)

    thread = threading.Thread(target=call)
    thread.start()
    assert running.wait(20)
    token.interrupt()
    assert found[0].is_interrupted()
    told.set()
    thread.join()


def test_all_tools_of_a_call_and_of_those_below_it_have_one_root_and_other_calls_another(sim):
    roots = []

    def inner(context: Context) -> None:
        """Look."""
        roots.append(context.root)

    def outer(context: Context) -> str:
        """Ask."""
        roots.append(context.root)
        return invoke_with_tools("Inside.", [inner])

    for _ in range(2):
        sim.script(Reply(tool_use=("inner", {})), matching="Inside.")
        sim.script(Reply(tool_use=("outer", {})), matching="Go.")
        invoke_with_tools("Go.", [outer])
    assert roots[0] is roots[1]
    assert roots[2] is roots[3]
    assert roots[0] is not roots[2]


def test_the_error_of_a_call_that_a_tool_has_ended_shows_no_key(sim):
    def stop() -> None:
        """Stop."""
        raise StopTools(f"The key is {KEY}")

    sim.script(Reply(tool_use=("stop", {})))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_with_tools("Go.", [stop])
    assert "The key is [redacted]" in str(failed.value)
