"""Of the calls that share a cached prefix one goes first, and the others read what it wrote."""

import threading
import time
from dataclasses import replace

import pytest

from claude_client import ParallelInvocationError, Results, invoke_parallel, invoke_parallel_streaming
from claude_client._gates.cache import CacheGate, CachePermit
from claude_client._gates.clients import gates_of
from claude_client._gates.gate import Wait
from claude_client._gates.prefix import with_prefixes
from claude_client._sdk.client import shared_client
from claude_client._values.attempt import Attempt
from claude_client._values.request import Prefix, Request
from claude_client._verbs.invoke import ask
from claude_client._verbs.requests import build_request, build_requests
from claude_client.simulator import Reply

CONTEXT = "some code " * 1000  # 2,500 tokens, as the simulator counts


def prompts(count, **options):
    return [{"prompt": f"prompt {i}.", **options} for i in range(count)]


def fan_out(count=6, call=invoke_parallel, **options) -> Results:
    return call(prompts(count), shared_system=CONTEXT, cache_shared_system=True, max_workers=10, **options)


@pytest.mark.parametrize("call", [invoke_parallel, invoke_parallel_streaming])
def test_the_shared_context_is_written_once_and_read_by_all_others(sim, call):
    used = fan_out(30, call).usage
    assert used.cache_creation_input_tokens == 2500
    assert used.cache_read_input_tokens == 29 * 2500


def test_the_first_goes_as_a_stream_and_the_others_as_asked(sim):
    fan_out()
    assert [request.stream for request in sim.requests] == [True] + [False] * 5


def test_the_others_go_when_the_first_answer_begins_not_when_it_ends(sim):
    rest = threading.Event()
    sim.script(Reply(text="one two three", after_chunks=1, pause=rest))
    run = threading.Thread(target=fan_out, args=[6])
    run.start()
    sim.wait_for(lambda s: len(s.requests) == 6)
    rest.set()
    run.join(20)
    assert sum(request.usage["cache_read_input_tokens"] > 0 for request in sim.requests) == 5


def test_nobody_goes_before_the_first_answer_begins(sim):
    held = threading.Event()
    sim.script(Reply(until=held))
    run = threading.Thread(target=fan_out, args=[6])
    run.start()
    sim.wait_for(lambda s: s.in_flight == 1)
    assert len(sim.requests) == 1
    held.set()
    run.join(20)
    assert sim.requests[0].usage["cache_creation_input_tokens"] == 2500


@pytest.mark.parametrize("fault", ["overloaded", "cut_before_headers", "not_found", "early_end_empty"])
def test_a_first_that_fails_is_replaced_by_the_next(sim, fault):
    sim.script(Reply(fault=fault, retry_after=0.3 if fault == "overloaded" else None))
    results = fan_out(return_exceptions=True)
    assert [request.stream for request in sim.requests][:3] == [True, True, False]
    assert results.usage.cache_creation_input_tokens == 2500
    assert len([r for r in results if isinstance(r, str)]) == (5 if fault == "not_found" else 6)


def test_a_first_whose_callback_raises_has_still_written_the_cache(sim):
    callbacks = [lambda _: 1 / 0, None, None]
    results = invoke_parallel_streaming(
        prompts(3), callbacks, shared_system=CONTEXT, cache_shared_system=True, return_exceptions=True
    )
    assert results.errors.keys() == {0}
    assert sum(answer.usage.cache_read_input_tokens for answer in results[1:]) == 5000


def test_different_prefixes_go_first_side_by_side(sim):
    held = threading.Event()
    sim.script(*[Reply(until=held)] * 2)
    mixed = [*prompts(2), *prompts(2, model="claude-opus-5")]
    run = threading.Thread(
        target=invoke_parallel, args=[mixed], kwargs={"shared_system": CONTEXT, "cache_shared_system": True}
    )
    run.start()
    sim.wait_for(lambda s: s.in_flight == 2)
    assert {request.body["model"] for request in sim.requests} == {"claude-sonnet-4-6", "claude-opus-5"}
    held.set()
    run.join(20)
    assert len(sim.requests) == 4


def test_a_prefix_that_was_just_written_is_not_waited_for_again(sim):
    fan_out()
    held = threading.Event()
    sim.script(*[Reply(until=held)] * 6)
    run = threading.Thread(target=fan_out, args=[6])
    run.start()
    sim.wait_for(lambda s: s.in_flight == 6)
    held.set()
    run.join(20)
    assert not any(request.stream for request in sim.requests[6:])


def test_two_runs_at_once_write_a_common_prefix_once(sim):
    held = threading.Event()
    sim.script(Reply(until=held))
    runs = [threading.Thread(target=fan_out, args=[4]) for _ in range(2)]
    for run in runs:
        run.start()
    sim.wait_for(lambda s: s.in_flight == 1)
    held.set()
    for run in runs:
        run.join(20)
    assert sum(request.usage["cache_creation_input_tokens"] for request in sim.requests) == 2500


def test_a_first_that_fails_makes_room_while_its_own_run_is_busy_elsewhere(sim):
    fails = threading.Event()
    sim.script(Reply(fault="not_found", until=fails), matching="prompt 1.")
    inner = []

    def on_result(index, _):
        if index == 0:
            sim.wait_for(lambda s: s.in_flight >= 1)
            threading.Timer(0.05, fails.set).start()
            inner.append(fan_out(2))

    asked = [{"prompt": "other", "model": "claude-opus-5"}, {"prompt": "prompt 1."}, {"prompt": "prompt 2."}]
    options = {"shared_system": CONTEXT, "cache_shared_system": True, "return_exceptions": True}
    assert invoke_parallel(asked, on_result=on_result, **options).errors.keys() == {1}
    assert None not in inner[0]


def test_without_cache_shared_system_nobody_waits(sim):
    held = threading.Event()
    sim.script(*[Reply(until=held)] * 4)
    run = threading.Thread(target=invoke_parallel, args=[prompts(4)], kwargs={"shared_system": CONTEXT})
    run.start()
    sim.wait_for(lambda s: s.in_flight == 4)
    held.set()
    run.join(20)
    assert len(sim.requests) == 4


def prefixes(specs, context=CONTEXT, **options):
    requests = build_requests(specs, shared_system=context, cache_shared_system=True, **options)
    return [request.prefix for request in with_prefixes(requests)]


def test_a_prompts_own_system_and_messages_do_not_change_the_prefix():
    assert len({*prefixes([{"prompt": "a", "system": "x"}, {"prompt": "b", "max_tokens": 5}])}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"model": "claude-opus-5"},
        {"tools": [{"name": "t", "input_schema": {}}]},
        {"thinking": {"type": "adaptive"}},
        {"output_config": {"effort": "low"}},
        {"tool_choice": {"type": "none"}},
        {"speed": "fast"},
        {"temperature": 0.5},
        {"extra_headers": {"anthropic-version": "2023-06-01"}},
    ],
)
def test_what_makes_another_cache_entry_makes_another_prefix(other):
    found = prefixes([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", **other}, {"prompt": "d", **other}])
    assert found[0] == found[1] != found[2] == found[3]
    assert None not in found


def test_waiting_that_cannot_pay_is_not_done():
    assert prefixes(prompts(1)) == [None]
    assert prefixes(prompts(2), "x" * 1023) == [None, None]
    assert None not in prefixes(prompts(2), "x" * 1024)
    assert prefixes(prompts(2), "x" * 4000, model="claude-haiku-4-5") == [None, None]
    assert None not in prefixes(prompts(2), "x" * 600, model="claude-opus-5")
    assert None not in prefixes(prompts(2), "x", model="claude-from-the-future")
    assert None not in prefixes(prompts(2), "x", model="claude-sonnet-5-5")


def test_an_hours_mark_lives_an_hour():
    hour = [{"type": "text", "text": CONTEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert prefixes(prompts(2), hour)[0].lifetime == 3600
    assert prefixes(prompts(2))[0].lifetime == 300


PREFIX = Prefix(b"p", 300.0)
SHARING = Request(model="m", max_tokens=1, messages=[], prefix=PREFIX)


def written(gate, permit, sent_at):
    """The attempt with *permit*, sent at that time, of which the answer has begun."""
    attempt = Attempt(SHARING, 0.0)
    attempt.permits = [permit]
    attempt.sent_at = sent_at
    attempt.tell("begun")
    return attempt


def test_the_writer_goes_as_a_stream_and_all_others_wait_until_woken():
    gate = CacheGate()
    writer = gate.admit(SHARING, 0.0)
    assert gate.would_wait(SHARING, 0.0) == gate.admit(SHARING, 0.0) == Wait(20.0, "cache writer", wakes=True)
    attempt = Attempt(SHARING, 0.0)
    attempt.permits = [writer]
    attempt.tell("sending")
    assert attempt.must_stream


def test_a_writer_without_a_sign_of_life_makes_room_for_another_and_may_still_write():
    gate, patient = CacheGate(), replace(SHARING, cache_patience=100.0)
    silent = gate.admit(SHARING, 0.0)
    assert gate.admit(SHARING, 19.0) == Wait(1.0, "cache writer", wakes=True)
    assert gate.admit(patient, 20.0) == Wait(80.0, "cache writer", wakes=True)
    second = gate.admit(SHARING, 20.0)
    assert isinstance(second, CachePermit)
    assert isinstance(gate.admit(SHARING, 20.0), Wait)
    written(gate, silent, sent_at=0.0)
    assert gate.admit(SHARING, 21.0) is None
    second.settle(Attempt(SHARING, 0.0))
    assert gate.admit(SHARING, 21.0) is None


def test_a_fan_out_does_not_wait_for_ever_for_a_silent_writer(sim):
    sim.script(Reply(fault="silent"))
    with pytest.raises(ParallelInvocationError) as failed:
        fan_out(4, cache_patience=0.1, timeout=0.6, max_retries=0)
    assert failed.value.errors.keys() == {0}
    assert [request.stream for request in sim.requests][:3] == [True, True, False]


def test_a_prefix_is_written_again_once_its_lifetime_is_over_and_each_use_renews_it():
    gate = CacheGate()
    written(gate, gate.admit(SHARING, 0.0), sent_at=0.0)
    assert gate.admit(SHARING, 280.0) is None
    assert gate.admit(SHARING, 560.0) is None
    assert isinstance(gate.admit(SHARING, 900.0), CachePermit)
    assert isinstance(gate.admit(SHARING, 900.0), Wait)


def test_a_lifetime_counts_from_the_start_of_the_request_not_from_its_answer():
    gate = CacheGate()
    written(gate, gate.admit(SHARING, 0.0), sent_at=0.0)  # however late the answer began
    assert isinstance(gate.admit(SHARING, 295.0), CachePermit)


def test_who_is_let_in_and_goes_without_writing_makes_room_for_the_next_and_wakes_who_waits():
    gate, woken = CacheGate(), []
    with gate.waking(lambda: woken.append(1)):
        writer = gate.admit(SHARING, 0.0)
        writer.settle(Attempt(SHARING, 0.0))
        writer.settle(Attempt(SHARING, 0.0))
        assert woken == [1]
        second = gate.admit(SHARING, 0.0)
        assert isinstance(second, CachePermit)
        writer.settle(Attempt(SHARING, 0.0))  # it is another's to write now
        assert isinstance(gate.admit(SHARING, 0.0), Wait)
        written(gate, second, sent_at=0.0).settle()
    assert woken == [1, 1]
    assert gate.admit(SHARING, 1.0) is None


def test_what_shares_nothing_passes_without_a_permit():
    gate, alone = CacheGate(), Request(model="m", max_tokens=1, messages=[])
    assert gate.would_wait(alone, 0.0) is None
    assert gate.admit(alone, 0.0) is None


def test_what_has_expired_is_forgotten():
    gate, other = CacheGate(), Request(model="m", max_tokens=1, messages=[], prefix=Prefix(b"q", 300.0))
    written(gate, gate.admit(SHARING, 0.0), sent_at=0.0)
    written(gate, gate.admit(other, 1000.0), sent_at=1000.0)
    assert isinstance(gate.admit(SHARING, 1000.0), CachePermit)
    assert gate.admit(other, 1000.0) is None


def test_a_context_with_a_picture_may_be_long_enough():
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    marked = [{**picture, "cache_control": {"type": "ephemeral"}}]
    assert None not in prefixes(prompts(2), marked)


def test_a_single_call_waits_at_a_gate_that_names_no_time(sim):
    with shared_client() as client:
        (_, gate, _), answers = gates_of(client), []
    sharing = replace(build_request(prompt="hi"), prefix=PREFIX)
    writer = gate.admit(sharing, time.monotonic())
    call = threading.Thread(target=lambda: answers.append(ask(sharing)))
    call.start()
    call.join(0.12)  # longer than from one look at the gate to the next
    assert call.is_alive()
    assert sim.requests == ()
    writer.settle(Attempt(sharing, 0.0))
    call.join(20)
    assert len(answers) == 1
