"""Another model where one cannot answer, and one request where many ask the same."""

import threading

import anthropic
import pytest

from claude_client import (
    ClaudeInvocationError,
    ConversationThread,
    InterruptToken,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    invoke_parallel_streaming,
    rate_limits,
    set_default_client,
)
from claude_client._engine.flow import CallFlow
from claude_client._engine.scheduler import Job, Scheduler
from claude_client._gates.gate import Wait
from claude_client._values.errors import aborted
from claude_client._values.fingerprint import question_of
from claude_client._values.request import build
from claude_client.simulator import Reply, Simulator
from helpers import event, stream
from orchestration import ConcurrencyLimiter, invoke_parallel_managed
from task_state import TaskState

ASKED, OTHER = "claude-sonnet-4-6", "claude-haiku-4-5"
AT_ONCE = {"max_retries": 0, "outage_patience": 0, "fallback_models": [OTHER]}


def tried(outcome):
    return [(attempt.model, attempt.outcome) for attempt in outcome.attempts]


def failing(*kinds, of=ASKED):
    """A function for `script_by` that fails requests to one model."""
    left = list(kinds)
    return lambda request: Reply(fault=left.pop(0)) if left and request.body["model"] == of else None


@pytest.fixture
def failing_model(sim):
    """A model that is always overloaded."""
    sim.script_by(lambda request: Reply(fault="overloaded") if request.body["model"] == ASKED else None)
    return sim


# Which failures ask another model


@pytest.mark.parametrize("fault", ["overloaded", "api_error", "timeout", "not_found", "early_end", "rate_limit"])
def test_the_next_model_is_asked_where_one_cannot_answer(sim, fault):
    sim.script(Reply(fault=fault))
    answer = invoke_claude("hi", streaming=fault == "early_end", fallback_after=0.5, **AT_ONCE)
    assert answer.model == OTHER
    assert [model for model, _ in tried(answer)] == [ASKED, OTHER]
    assert sim.requests[1].body["messages"] == sim.requests[0].body["messages"]


@pytest.mark.parametrize("fault", ["invalid_request", "refusal", "authentication", "permission", "spend_limit"])
def test_what_another_model_would_not_mend_is_the_end(sim, fault):
    sim.script(Reply(fault=fault))
    with pytest.raises(ClaudeInvocationError):
        invoke_claude("hi", **AT_ONCE)
    assert len(sim.requests) == 1


def test_a_network_that_is_down_is_no_fault_of_the_model(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude("hi", **AT_ONCE)
    assert tried(failed.value) == [(ASKED, "connection")]


def test_each_model_has_all_retries_and_the_last_error_is_raised(sim, slept):
    sim.script(*[Reply(fault="overloaded")] * 4)
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude("hi", max_retries=1, outage_patience=0, fallback_models=[OTHER])
    assert tried(failed.value) == [(ASKED, "overloaded")] * 2 + [(OTHER, "overloaded")] * 2
    assert len(slept) == 2


def test_several_models_are_asked_in_their_order(sim):
    sim.script(Reply(fault="overloaded"), Reply(fault="not_found"))
    answer = invoke_claude("hi", **{**AT_ONCE, "fallback_models": [OTHER, "claude-opus-4-6"]})
    assert [model for model, _ in tried(answer)] == [ASKED, OTHER, "claude-opus-4-6"]


def test_parameters_of_its_own_replace_those_of_the_prompt_and_none_drops_one(sim):
    sim.script(Reply(fault="overloaded"))
    other = {"model": OTHER, "thinking": None, "max_tokens": 50, "temperature": 0.5}
    options = {"system": "S", "cache_system": True, "thinking": {"type": "adaptive"}, "stop_sequences": ["x"]}
    invoke_claude("hi", **options, **{**AT_ONCE, "fallback_models": [other]})
    first, second = (dict(request.body) for request in sim.requests)
    assert first.pop("thinking")
    assert second == {**first, "model": OTHER, "max_tokens": 50, "temperature": 0.5}


def test_a_callback_that_has_heard_text_does_not_hear_another_answer(api):
    begun = [
        event(
            "message_start",
            message={"type": "message", "role": "assistant", "model": ASKED, "content": [], "usage": {}},
        ),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
    ]
    api.answers(stream(*begun))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude_streaming("hi", lambda _: None, **AT_ONCE)
    assert (failed.value.kind, failed.value.partial_text, len(api.requests)) == ("incomplete_stream", "Hel", 1)


def test_what_is_said_of_it_is_logged(sim, caplog):
    caplog.set_level("INFO", "claude_client")
    sim.script(Reply(fault="overloaded"))
    invoke_claude("hi", **AT_ONCE)
    assert f"The call: attempt 1 failed, {OTHER} is asked next: 529" in caplog.text


# A model that is held back


def test_a_pause_that_is_longer_than_the_patience_asks_another_at_once(sim):
    sim.script_by(lambda request: Reply(fault="rate_limit", retry_after=50) if request.body["model"] == ASKED else None)
    prompts = [{"prompt": f"q{n}"} for n in range(6)]
    for run in (invoke_parallel, invoke_parallel_managed):
        results = run(prompts, fallback_models=[OTHER], fallback_after=20)
        assert {answer.model for answer in results} == {OTHER}
    assert invoke_claude("hi", fallback_models=[OTHER], fallback_after=20).model == OTHER
    assert len([request for request in sim.requests if request.body["model"] == ASKED]) <= 6


class HeldBack:
    """A gate that holds one model back for as long as it is told."""

    def __init__(self, seconds):
        self.seconds = seconds

    def would_wait(self, request, now):
        return None

    def admit(self, request, now):
        return Wait(self.seconds, "rate limit") if request.model == ASKED else None


def test_short_waits_add_up_to_the_patience():
    flows = [CallFlow(build(prompt="hi", fallback_models=[OTHER], fallback_after=30)) for _ in range(2)]
    scheduler = Scheduler([Job(i, flow) for i, flow in enumerate(flows)], [HeldBack(10.0)], 0.0)
    assert scheduler.poll(0.0) == 10.0
    assert scheduler.poll(10.0) == 10.0
    assert scheduler.poll(20.0) == 10.0
    job, attempt = scheduler.poll(20.5)
    assert (job.index, attempt.request.model) == (0, OTHER)
    assert attempt.waited["rate limit"] == 20.5
    assert scheduler.poll(20.5)[1].request.model == OTHER


def test_a_pause_that_a_plain_call_would_not_wait_for_asks_another(sim):
    sim.script_by(lambda request: Reply(fault="rate_limit", retry_after=90) if request.body["model"] == ASKED else None)
    invoke_parallel([{"prompt": f"q{n}"} for n in range(5)], max_retries=0, return_exceptions=True)
    shut_by = len(sim.requests)
    for run in (invoke_claude, lambda prompt, **options: invoke_parallel([{"prompt": prompt}], **options)[0]):
        assert run("hi", fallback_models=[OTHER], fallback_after=1000).model == OTHER
    assert [request.body["model"] for request in sim.requests] == [ASKED] * shut_by + [OTHER] * 2


def test_an_outage_that_outlasts_the_patience_asks_another(failing_model):
    while not any(limit.held_back for limit in rate_limits()):
        with pytest.raises(ClaudeInvocationError):
            invoke_claude("hi", max_retries=0, outage_patience=0)
    asked = len(failing_model.requests)
    for run in (invoke_claude, lambda prompt, **options: invoke_parallel([{"prompt": prompt}] * 3, **options)[2]):
        answer = run("hi", fallback_after=1000, **{**AT_ONCE, "outage_patience": 0.001})
        assert answer.model == OTHER
    assert len(failing_model.requests) > asked


class Probed(HeldBack):
    """... and lets a request through now and then, to see whether the outage is over."""

    def admit(self, request, now):
        return Wait(3.0, "outage") if request.model == ASKED and now % 10 else None


def test_a_probe_that_fails_does_not_begin_the_patience_anew():
    flows = [CallFlow(build(prompt="hi", fallback_models=[OTHER], fallback_after=25)) for _ in range(4)]
    scheduler = Scheduler([Job(i, flow) for i, flow in enumerate(flows)], [Probed(3.0)], 1.0)
    for now in (10.0, 20.0):
        assert scheduler.poll(now - 1) == 3.0
        _, probe = scheduler.poll(now)
        probe.error = ClaudeInvocationError("no", kind="overloaded", retryable=True)
        probe.settle()
        scheduler.finished(probe, now + 0.5)
    asked = [scheduler.poll(33.0)[1].request.model for _ in range(4)]
    assert asked == [OTHER] * 4


def test_without_another_model_it_waits_on():
    scheduler = Scheduler([Job(0, CallFlow(build(prompt="hi")))], [HeldBack(1e6)], 0.0)
    assert scheduler.poll(0.0) == 1e6
    assert scheduler.poll(1e6) == 1e6


# Runs and conversations


def test_a_fan_out_writes_the_shared_prompt_once_for_each_model(failing_model):
    prompts = [{"prompt": f"q{n}"} for n in range(5)]
    results = invoke_parallel(prompts, shared_system="w " * 10_000, cache_shared_system=True, **AT_ONCE)
    written = [answer.usage.cache_creation_input_tokens > 0 for answer in results]
    assert written.count(True) == 1
    assert sum(answer.usage.cache_read_input_tokens > 0 for answer in results) == 4


def test_a_prompt_may_have_models_of_its_own(failing_model):
    prompts = [{"prompt": "a", "fallback_models": [{"model": "claude-opus-4-6"}]}, {"prompt": "b"}]
    results = invoke_parallel(prompts, **AT_ONCE)
    assert [answer.model for answer in results] == ["claude-opus-4-6", OTHER]


def test_a_task_that_another_model_answers_is_completed(failing_model, tmp_path):
    options = {**AT_ONCE, "journal": tmp_path / "journal"}
    results = invoke_parallel_managed([{"prompt": "a", "task_id": "t"}], base_delay_ms=1, **options)
    assert results.tracker.get("t").state is TaskState.COMPLETED
    asked = len(failing_model.requests)
    again = invoke_parallel_managed([{"prompt": "a", "task_id": "t"}], journal=tmp_path / "journal")
    assert (again[0].model, len(failing_model.requests)) == (OTHER, asked)


def test_a_turn_may_be_answered_by_another_model(failing_model):
    thread = ConversationThread("S", **AT_ONCE)
    assert thread.send("hi").model == OTHER
    assert thread.send("more").model == OTHER
    assert failing_model.requests[-1].body["messages"][0]["content"]


def test_output_holds_for_the_other_model_as_well(failing_model):
    assert invoke_claude("hi", output=int, **AT_ONCE).output == 0


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("claude-x", "fallback_models must be a list of models, got 'claude-x'"),
        ([5], r"fallback_models\[0\] must be a model, or a dict with a 'model', got 5"),
        ([{"max_tokens": 5}], r"fallback_models\[0\] must be a model"),
        ([{"model": "m", "system": "S"}], r"fallback_models\[0\] has 'system', which is the same for all models"),
        ([{"model": "m", "max_tokens": 0}], r"fallback_models\[0\]: max_tokens must be a whole number"),
    ],
)
def test_bad_models_are_named_before_any_request(api, said, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_claude("hi", fallback_models=said)
    with pytest.raises(ValueError, match=problem):
        invoke_parallel([{"prompt": "hi"}], fallback_models=said)
    with pytest.raises(ValueError, match="extra_body has a 'model', and fallback_models name others"):
        invoke_claude("hi", fallback_models=["m"], extra_body={"model": "n"})
    with pytest.raises(ValueError, match="fallback_after must be a number"):
        invoke_claude("hi", fallback_models=["m"], fallback_after=-1)
    assert not api.requests


def test_an_unknown_parameter_of_a_model_is_named(api):
    models = [{"model": "m", "max_token": 5}]
    with pytest.raises(TypeError, match="unknown parameter 'max_token'; did you mean 'max_tokens'"):
        invoke_claude("hi", fallback_models=models)
    with pytest.raises(ValueError, match=r"prompts\[0\] has an unknown key 'max_token' in fallback_models"):
        invoke_parallel([{"prompt": "hi", "fallback_models": models}])
    assert not api.requests


# One question asked once


def prompts_of(texts):
    return [{"prompt": text} for text in texts]


@pytest.mark.parametrize("run", [invoke_parallel, invoke_parallel_managed])
def test_equal_prompts_are_sent_once_and_each_has_the_answer(sim, run):
    heard = []
    results = run(prompts_of("abcabca"), share_identical=True, on_result=lambda *one: heard.append(one))
    assert len(sim.requests) == 3
    assert [str(answer)[-1] for answer in results] == list("abcabca")
    assert sorted(index for index, _ in heard) == list(range(7))
    assert results.usage.output_tokens == sum(request.usage["output_tokens"] for request in sim.requests)
    assert results[3].attempts == ()
    assert results[3].message is results[0].message


def test_they_are_each_asked_unless_one_says_so(sim):
    invoke_parallel(prompts_of("aa"))
    assert len(sim.requests) == 2


def test_prompts_that_differ_in_anything_that_decides_the_answer_are_each_asked(sim):
    prompts = [
        {"prompt": "a"},
        {"prompt": "a", "max_tokens": 50},
        {"prompt": "a", "system": "S"},
        {"prompt": "a", "output": int},
        {"prompt": "a", "extra_headers": {"anthropic-beta": "x"}},
        {"prompt": "a", "fallback_models": [OTHER]},
        {"prompt": "a", "max_retries": 0},
        {"prompt": "a", "timeout": 50},
        {"prompt": "a", "task_id": "other name", "category": "c"},
    ]
    invoke_parallel(prompts, share_identical=True)
    assert len(sim.requests) == len(prompts) - 1


def test_outputs_are_shared_as_well(sim):
    assert invoke_parallel(prompts_of("aa"), output=int, share_identical=True).outputs == [0, 0]
    assert len(sim.requests) == 1


def test_a_failure_is_shared_and_told_of_each(sim):
    sim.script(Reply(fault="invalid_request"))
    results = invoke_parallel(prompts_of("aaa"), share_identical=True, return_exceptions=True)
    assert [error.kind for error in results] == ["invalid_request"] * 3
    assert [len(error.attempts) for error in results] == [1, 0, 0]
    assert len(sim.requests) == 1


def test_prompts_with_callbacks_are_each_asked(sim):
    heard = [[], [], []]
    callbacks = [heard[0].append, heard[1].append, None]
    invoke_parallel_streaming(prompts_of("aaa"), callbacks, share_identical=True)
    assert len(sim.requests) == 3
    assert "".join(heard[0]) == "".join(heard[1])


def test_a_task_that_is_cancelled_leaves_the_question_to_the_next(sim):
    begun = threading.Event()
    sim.script(Reply(until=begun))
    prompts = [{"prompt": "a", "task_id": name} for name in ("one", "two", "three")]

    def wanted(prompts, tracker):
        return [prompt for prompt in prompts if prompt["task_id"] != "one" or not sim.requests]

    results = invoke_parallel_managed(prompts, share_identical=True, reconcile=wanted, reconcile_interval=0.01)
    begun.set()
    assert results.cancelled.keys() == {0}
    assert results[1] == results[2]
    assert len(sim.requests) == 2


def test_a_journal_has_the_answer_of_each(sim, tmp_path):
    for recalled in (set(), {0, 1, 2}):
        results = invoke_parallel_managed(prompts_of("aab"), share_identical=True, journal=tmp_path / "journal")
        assert results.recalled == recalled
    assert len(sim.requests) == 2


def test_an_interrupt_ends_those_that_wait_for_another(sim):
    token = InterruptToken()
    sim.script(Reply(fault="silent"))
    thread = threading.Thread(target=lambda: (sim.wait_for(lambda sim: sim.in_flight == 1), token.interrupt()))
    thread.start()
    results = invoke_parallel(prompts_of("aaa"), share_identical=True, interrupt_token=token)
    thread.join()
    assert [error.kind for error in results.errors.values()] == ["interrupted"] * 3


def test_of_the_same_question_the_next_is_sent_where_the_first_says_nothing_of_it():
    flows = [CallFlow(build(prompt="a")) for _ in range(4)]
    scheduler = Scheduler([Job(i, flow, "question") for i, flow in enumerate(flows)], (), 0.0)
    job, attempt = scheduler.poll(0.0)
    assert (job.index, scheduler.poll(0.0)) == (0, float("inf"))
    scheduler.cancel(1)
    scheduler.cancel(0)
    attempt.error = aborted("cancelled")
    attempt.settle()
    scheduler.finished(attempt, 1.0)
    job, second = scheduler.poll(1.0)
    assert job.index == 2
    second.error = ClaudeInvocationError("no", kind="invalid_request")
    second.settle()
    scheduler.finished(second, 2.0)
    assert scheduler.over
    assert [scheduler.outcomes[i].kind for i in range(4)] == [
        "cancelled",
        "cancelled",
        "invalid_request",
        "invalid_request",
    ]


def test_a_question_that_nobody_else_asks_may_be_cancelled(sim):
    scheduler = Scheduler([Job(0, CallFlow(build(prompt="a")), "question")], (), 0.0)
    scheduler.cancel(0)
    assert scheduler.outcomes[0].kind == "cancelled"


def test_a_prompt_whose_file_is_gone_is_a_question_of_its_own(sim, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    source = {"type": "base64", "media_type": "image/png", "data": picture}
    request = build(prompt=[{"type": "image", "source": source}])
    assert question_of(request) is not None
    picture.unlink()
    assert question_of(request) is None


def test_a_limiter_holds_one_slot_for_all_that_ask_the_same(sim):
    limiter = ConcurrencyLimiter(global_limit=1)
    results = invoke_parallel_managed(prompts_of("aaaa"), share_identical=True, concurrency_limiter=limiter)
    assert all(results)
    assert limiter.statistics().total.in_use == 0


def test_the_apis_own_fallback_is_passed_through_and_priced_by_the_model_that_answered():
    pytest.importorskip("genai_prices")
    with Simulator() as own:
        set_default_client(anthropic.Anthropic(base_url=own.base_url, api_key="k", max_retries=0))
        usage = {
            "iterations": [
                {"type": "message", "model": ASKED, "input_tokens": 1000, "output_tokens": 100},
                {"type": "fallback_message", "model": "claude-opus-4-6", "input_tokens": 1000, "output_tokens": 200},
            ]
        }
        own.script(Reply(text="hi", usage=usage))
        answer = invoke_claude("hi", extra_headers={"anthropic-beta": "server-side-fallback-2026-07-01"})
        assert answer.cost_usd == pytest.approx((1000 * 3 + 100 * 15 + 1000 * 5 + 200 * 25) / 1e6)
