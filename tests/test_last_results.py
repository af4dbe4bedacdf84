"""Whatever ends a fan-out: its exception comes out as itself, and what was answered can be had."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest

from claude_client import ParallelInterrupt, ParallelInvocationError, Results, invoke_parallel, last_results
from claude_client._verbs.last import remember, remembered
from claude_client.simulator import Reply
from orchestration import invoke_parallel_managed
from task_state import TaskState

VERBS = [invoke_parallel, invoke_parallel_managed]


def prompts(count):
    return [{"prompt": f"prompt {i}."} for i in range(count)]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("raised", [SystemExit, GeneratorExit, type("OursError", (BaseException,), {})])
def test_what_ends_a_fan_out_comes_out_as_itself_and_the_answers_can_be_had(sim, verb, raised):
    def end(index, _):
        if index == 2:
            raise raised("enough")

    with pytest.raises(raised, match="enough") as caught:
        verb(prompts(30), max_workers=1, on_result=end)
    kept = last_results()
    assert kept.interrupted
    answered = [answer is not None for answer in kept]
    assert answered[:3] == [True] * 3
    assert kept.errors.keys() == {i for i, is_answered in enumerate(answered) if not is_answered}
    assert caught.value.__notes__ == [f"{sum(answered)} of 30 prompts answered; last_results() has them"]
    if verb is invoke_parallel_managed:
        assert kept.tracker.is_all_terminal()
        assert len(kept.tracker.get_by_state(TaskState.COMPLETED)) == sum(answered)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("raised", [SystemExit("stopped"), TimeoutError("too long")])
def test_what_a_signal_handler_raises_comes_out_and_the_answers_can_be_had(sim, verb, raised):
    """The signal comes while the run waits for what nobody answers before."""

    def handle(*_):
        raise raised

    def kill():
        sim.wait_for(lambda s: len(s.requests) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    usual = signal.signal(signal.SIGTERM, handle)
    sim.script(Reply(latency=60.0), matching="prompt 1.")
    killing = threading.Thread(target=kill)
    killing.start()
    try:
        with pytest.raises(type(raised)) as caught:
            verb(prompts(3), max_workers=1)
    finally:
        killing.join()
        signal.signal(signal.SIGTERM, usual)
    assert caught.value is raised
    assert last_results()[0] is not None
    assert [error.kind for error in last_results().errors.values()] == ["interrupted"] * 2


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_says_what_was_kept_and_where(sim, verb):
    def press(index, _):
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(ParallelInterrupt) as caught:
        verb(prompts(20), max_workers=1, on_result=press)
    kept = caught.value.results
    answered = sum(answer is not None for answer in kept)
    assert str(caught.value) == (
        f"Interrupted: {answered} of 20 prompts answered; they are in .results and last_results()"
    )
    assert last_results() is kept
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_returned_is_had_as_long_as_anybody_keeps_it(sim, verb):
    results = verb(prompts(2))
    assert last_results() is results
    del results
    gc.collect()
    assert last_results() is None


def test_what_is_raised_for_failed_prompts_is_kept_until_the_next_fan_out(sim):
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    with pytest.raises(ParallelInvocationError):
        invoke_parallel(prompts(3))
    gc.collect()
    assert [answer is None for answer in last_results()] == [False, True, False]
    results = invoke_parallel(prompts(1))
    assert last_results() is results


def test_bad_input_changes_nothing(sim):
    results = invoke_parallel(prompts(1))
    with pytest.raises(ValueError, match=r"prompts\[0\]"):
        invoke_parallel([{"prompt": ""}])
    assert last_results() is results


def test_another_signal_while_the_books_are_closed_is_ignored():
    pressed = []

    def results():
        if len(pressed) < 3:
            pressed.append(1)
            raise KeyboardInterrupt
        return Results(["a"])

    with pytest.raises(SystemExit), remembered(results):
        sys.exit()
    assert last_results() == ["a"]
    remember(Results())


def test_books_that_cannot_be_closed_are_no_endless_wait():
    def results():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), remembered(results):
        sys.exit()


@pytest.mark.long
@pytest.mark.once
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_a_callback_forks_is_refused_the_rest_of_the_run(sim):
    ask = """
import os
from claude_client import invoke_parallel
from orchestration import invoke_parallel_managed

parent = os.getpid()
for verb in (invoke_parallel, invoke_parallel_managed):
    children = []

    def fork(index, _):
        if not children and os.getpid() == parent:
            children.append(os.fork())

    try:
        results = verb([{"prompt": str(i)} for i in range(20)], on_result=fork)
    except RuntimeError as refused:
        os._exit(7 if "a callback forked" in str(refused) else 8)
    _, status = os.waitpid(children[0], 0)
    print(os.waitstatus_to_exitcode(status), None not in results)
"""
    ran = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "7 True\n" * 2


def test_ctrl_c_while_the_journal_is_closed_gives_the_results(sim, tmp_path):
    fired = []

    def at_close(frame, event, _):
        code = frame.f_code
        if not fired and event == "call" and code.co_name == "__exit__" and "_journal" in code.co_filename:
            fired.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    def run():
        before = sys.getprofile()
        sys.setprofile(at_close)
        try:
            invoke_parallel_managed([{"prompt": str(n)} for n in range(5)], journal=tmp_path / "journal")
        finally:
            sys.setprofile(before)

    with pytest.raises(ParallelInterrupt) as stopped:
        run()
    assert None not in stopped.value.results
    assert last_results() == stopped.value.results
    assert "5 of 5 prompts answered" in str(stopped.value)


CHILDREN = """
import os, threading
from claude_client import ConversationThread, InterruptToken, invoke_parallel_streaming
from orchestration import ConcurrencyLimiter, invoke_parallel_managed

def child(call):
    if (pid := os.fork()) == 0:
        call()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

token = InterruptToken()
thread, limiter, held = ConversationThread(), ConcurrencyLimiter(1), threading.Event()
threading.Thread(target=lambda: [limiter.acquire(), held.set()]).start()
held.wait()
print(child(lambda: invoke_parallel_managed([{"prompt": "a"}], concurrency_limiter=limiter)))

inside, done = threading.Event(), threading.Event()
turn = threading.Thread(target=thread.send, args=("b",), kwargs={"callback": lambda _: [inside.set(), done.wait()]})
turn.start()
inside.wait()
print(child(lambda: thread.send("c")))
done.set()
turn.join()

parent, forked = os.getpid(), []
def fork(_):
    if not forked:
        forked.append(os.fork())
answers = invoke_parallel_streaming([{"prompt": "d"}, {"prompt": "e"}], [fork, None])
print(os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]), None not in answers)
"""


@pytest.mark.long
@pytest.mark.once
def test_a_forked_child_waits_for_no_turn_or_slot_of_its_parent(sim):
    run = [sys.executable, "-W", "ignore", "-c", CHILDREN]
    ran = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "0\n0\n1 True\n"
    assert "a callback forked this process" in ran.stderr
