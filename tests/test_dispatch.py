"""The engine of all fan-outs, over the simulator: order, workers, nothing lost, callbacks, contexts."""

import contextvars
import random
import threading

import anthropic
import pytest

from claude_client import (
    ClaudeInvocationError,
    ParallelInvocationError,
    invoke_claude,
    invoke_parallel,
    invoke_parallel_interruptible,
    invoke_parallel_streaming,
    set_default_client,
)
from claude_client.simulator import Limits, Reply, Simulator


def prompts(count, **options):
    return [{"prompt": f"prompt {i}.", **options} for i in range(count)]


def says(text):
    return Reply(text=text)


VARIANTS = [invoke_parallel, invoke_parallel_streaming, invoke_parallel_interruptible]


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_variants_take_every_option_in_the_prompts(sim, variant):
    one = {
        "prompt": "a",
        "model": "claude-opus-4-6",
        "max_tokens": 7,
        "system": "s",
        "temperature": 0.5,
        "cache_prompt": True,
        "tools": [{"name": "t", "input_schema": {"type": "object"}}],
        "timeout": 9.0,
        "max_retries": 0,
        "streaming": True,
        "task_id": "x",
        "category": "y",
    }
    assert len(variant([one, {"prompt": "", "messages": [{"role": "user", "content": "b"}]}])) == 2
    first = next(request for request in sim.requests if request.body["model"] == "claude-opus-4-6")
    assert (first.body["max_tokens"], first.body["temperature"], first.stream) == (7, 0.5, True)
    assert first.headers["x-stainless-read-timeout"] == "9.0"


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_variants_keep_the_answers_beside_a_failure(sim, variant):
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    with pytest.raises(ParallelInvocationError) as caught:
        variant(prompts(3))
    assert [answer is None for answer in caught.value.results] == [False, True, False]
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    assert isinstance(variant(prompts(3), return_exceptions=True)[1], ClaudeInvocationError)


def test_jobs_start_in_prompt_order(sim):
    invoke_parallel(prompts(8), max_workers=1)
    assert [request.body["messages"][0]["content"] for request in sim.requests] == [p["prompt"] for p in prompts(8)]


def test_never_more_are_under_way_than_there_are_workers(sim):
    release = threading.Event()
    sim.script(*[Reply(until=release)] * 3)
    run = threading.Thread(target=invoke_parallel, args=[prompts(20)], kwargs={"max_workers": 3})
    run.start()
    sim.wait_for(lambda s: s.in_flight == 3)
    release.set()
    run.join(20)
    assert sim.peak_concurrency == 3


def test_a_job_that_waits_for_its_retry_holds_no_thread(sim):
    sim.script(Reply(fault="overloaded", retry_after=0.5), says("late"), matching="prompt 0.")
    order = []
    results = invoke_parallel(prompts(4), max_workers=1, on_result=lambda i, _: order.append(i))
    assert order == [1, 2, 3, 0]
    assert results[0] == "late"


def test_results_are_told_as_they_arrive_on_the_calling_thread(sim):
    sim.script(Reply(fault="not_found"), matching="prompt 1.")
    told = []
    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel(prompts(3), on_result=lambda i, r: told.append((i, r, threading.current_thread())))
    assert {i for i, _, _ in told} == {0, 1, 2}
    assert {thread for _, _, thread in told} == {threading.main_thread()}
    results = caught.value.results
    assert all(outcome is (caught.value.errors[i] if i == 1 else results[i]) for i, outcome, _ in told)


def test_a_result_callback_that_raises_is_logged_and_loses_nothing(sim, caplog):
    results = invoke_parallel(prompts(3), on_result=lambda i, _: 1 / (i - 1))
    assert None not in results
    assert "on_result failed for prompts[1]" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("fault", ["spend_limit", "authentication", "billing"])
def test_a_failure_all_would_share_stops_what_has_not_started(sim, fault):
    sim.script(says("paid for"), Reply(fault=fault))
    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel(prompts(30), max_workers=1)
    assert len(sim.requests) == 2
    assert caught.value.results[0] == "paid for"
    assert caught.value.errors.keys() == {*range(1, 30)}
    assert {(e.kind, str(e), e.status_code) for e in caught.value.errors.values()} == {
        (caught.value.kind, str(caught.value.errors[1]), caught.value.errors[1].status_code)
    }


def test_a_spend_limit_ends_a_wait_for_a_retry_too(sim):
    sim.script(Reply(fault="overloaded", retry_after=30.0), matching="prompt 0.")
    sim.script(Reply(fault="spend_limit"), matching="prompt 1.")
    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel(prompts(2), max_workers=1)
    assert {error.kind for error in caught.value.errors.values()} == {"spend_limit"}


def test_a_wait_too_long_ends_the_call_that_was_rejected_and_no_other(sim):
    sim.script(says("paid for"), Reply(fault="rate_limit", retry_after=3600.0))
    results = invoke_parallel(prompts(6), max_workers=1, return_exceptions=True)
    assert results[0] == "paid for"
    assert {index: (error.kind, error.retry_after) for index, error in results.errors.items()} == {
        1: ("rate_limit", 3600.0)
    }
    assert len(sim.requests) == 6


def test_a_wait_too_long_for_all_ends_the_calls_queued_at_the_gate(sim):
    rejection = Reply(fault="rate_limit", retry_after=3600.0)
    sim.script_by(lambda request: None if request.body["model"] == "claude-opus-5" else rejection)
    results = invoke_parallel(prompts(60), max_workers=1, return_exceptions=True)
    assert [(error.kind, error.retry_after > 3500) for error in results.errors.values()] == [("rate_limit", True)] * 60
    assert len(sim.requests) < 10
    with pytest.raises(ClaudeInvocationError, match="wait"):
        invoke_claude("another call to the same model")
    assert invoke_claude("one to another model", model="claude-opus-5")


def test_rejections_that_all_meet_use_up_no_retries():
    with (
        Simulator(limits=Limits(unlucky=0.3)) as sim,
        anthropic.Anthropic(api_key="k", base_url=sim.base_url) as client,
    ):
        set_default_client(client)
        sim.script_by(lambda _: None)
        results = invoke_parallel(prompts(60), max_workers=10, max_retries=1, return_exceptions=True)
    assert len(results.errors) <= 1


def test_a_rejection_that_nobody_else_meets_uses_up_a_retry(sim):
    sim.script(*[Reply(fault="rate_limit", retry_after=0.001)] * 3)
    with pytest.raises(ClaudeInvocationError):
        invoke_claude("A", max_retries=1)
    assert len(sim.requests) == 2


def test_jobs_run_in_a_copy_of_the_callers_context(sim):
    name = contextvars.ContextVar("name", default="unset")
    name.set("the caller's")
    seen = []

    def callback(_):
        seen.append(name.get())
        name.set("changed")

    invoke_parallel_streaming(prompts(3), [callback, None, callback])
    assert seen.count("the caller's") == 2
    assert name.get() == "the caller's"


def test_each_callback_hears_its_own_prompt_in_order(sim):
    for i in range(5):
        sim.script(says(" ".join(f"{i}-{word}" for word in range(50))), matching=f"prompt {i}.")
    heard = [[] for _ in range(5)]
    results = invoke_parallel_streaming(prompts(5), [chunks.append for chunks in heard])
    assert ["".join(chunks) for chunks in heard] == results
    assert results[3].startswith("3-0 3-1 ")


def test_a_callback_that_raises_fails_its_own_prompt_only(sim):
    def fails(_):
        raise LookupError("mine")

    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel_streaming(prompts(3), [None, fails, None])
    assert caught.value.errors.keys() == {1}
    assert caught.value.errors[1].kind == "callback"
    assert isinstance(caught.value.errors[1].__cause__, LookupError)
    assert len(sim.requests) == 3


@pytest.mark.parametrize(
    ("callbacks", "problem"),
    [([print], "one for each of the 2 prompts, got 1"), (print, "got a builtin_function_or_method")],
)
def test_callbacks_that_do_not_fit_are_refused_before_any_request(sim, callbacks, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_parallel_streaming(prompts(2), callbacks)
    assert sim.requests == ()


def test_a_callback_that_cannot_be_called_is_refused_before_any_request(sim):
    with pytest.raises(TypeError, match=r"callbacks\[1\] must be callable"):
        invoke_parallel_streaming(prompts(2), [print, "print"])
    with pytest.raises(TypeError, match="on_result must be callable"):
        invoke_parallel(prompts(2), on_result="print")
    assert sim.requests == ()


def test_a_callback_that_raises_our_own_error_fails_its_own_prompt_only(sim):
    def fails(_):
        raise ClaudeInvocationError("of a nested call", kind="authentication")

    results = invoke_parallel_streaming(prompts(4), [fails, None, None, None], max_workers=1, return_exceptions=True)
    assert {i: error.kind for i, error in results.errors.items()} == {0: "callback"}
    assert results.errors[0].usage.input_tokens > 0
    assert results.errors[0].partial_text


def test_a_long_queue_refused_at_the_gate_ends_without_recursion(sim):
    sim.script_by(lambda _: Reply(fault="rate_limit", retry_after=120.0))
    results = invoke_parallel(prompts(3000), return_exceptions=True)
    assert len(results.errors) == 3000


def test_a_fan_out_in_a_callback_of_a_fan_out_works(sim):
    inner = []
    invoke_parallel(prompts(2), on_result=lambda *_: inner.extend(invoke_parallel(prompts(2))))
    assert len(inner) == 4


def test_a_call_in_a_streaming_callback_works(sim):
    inner = []
    results = invoke_parallel_streaming(prompts(2), [lambda _: inner.append(invoke_claude("inner"))] * 2)
    assert None not in results
    assert len(inner) >= 2


def test_ten_threads_may_fan_out_at_once(sim):
    outcomes = []

    def fan_out(name):
        expected = [f"{name} {i}" for i in range(10)]
        for text in expected:
            sim.script(says(text), matching=f"[{text}]")
        outcomes.append(invoke_parallel([{"prompt": f"[{text}]"} for text in expected]) == expected)

    threads = [threading.Thread(target=fan_out, args=[f"thread {i}"]) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [True] * 10


def test_no_thread_is_left_running(sim):
    before = threading.active_count()
    invoke_parallel(prompts(8), max_workers=8)
    assert threading.active_count() == before


FAULTS = [
    Reply(fault="rate_limit", retry_after=0.0011),
    Reply(fault="overloaded", retry_after=0.001),
    Reply(fault="api_error", retry_after=0.001),
    Reply(fault="cut_before_headers"),
    Reply(fault="cut"),
    Reply(fault="early_end"),
    Reply(fault="error_event"),
    Reply(fault="malformed"),
]


@pytest.mark.parametrize("seed", range(3))
def test_every_prompt_gets_its_own_right_answer_whatever_goes_wrong(sim, seed):
    draw = random.Random(seed)
    for i in range(40):
        if draw.random() < 0.5:
            sim.script(draw.choice(FAULTS), matching=f"prompt {i}.")
        sim.script(says(f"answer {i}"), matching=f"prompt {i}.")
    results = invoke_parallel(prompts(40, streaming=draw.random() < 0.5), max_workers=8, max_retries=5)
    assert results == [f"answer {i}" for i in range(40)]
