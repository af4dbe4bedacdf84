"""Prompts by message batches: what is asked, what comes back, and that nothing is lost or paid twice."""

import base64
import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import anthropic
import httpx
import pytest

import claude_client
from claude_client import (
    Budget,
    ClaudeInvocationError,
    InterruptToken,
    ParallelInterrupt,
    ParallelInvocationError,
    invoke_parallel,
    set_default_client,
)
from claude_client._sdk import batches as door
from claude_client._values.budget import ledger_of
from claude_client._values.request import build
from claude_client.simulator import BatchReply, Reply, Simulator
from helpers import message, until
from orchestration import (
    BatchHandle,
    JournalError,
    collect_batch,
    drop_batches_from_journal,
    invoke_batch,
    invoke_parallel_managed,
    salvage_journal,
)
from orchestration._batch_note import Note
from orchestration._batch_requests import Told, id_of, planned, told_by
from orchestration._keys import keys_of
from task_state import TaskState, TaskTracker

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
QUICK = {"poll_interval": 0.002, "check_first": False}  # pauses after failures are as short by that


@pytest.fixture
def soon(monkeypatch):
    """The options of a run that asks live after 2 seconds, with time enough to cancel its batches first."""
    monkeypatch.setattr("orchestration._batch_plan._MARGIN", 0.5)
    return {**QUICK, "poll_interval": 0.05, "finish_by": 4.0}


def prompts_of(number, **more):
    return [{"prompt": f"say {n}", "task_id": f"task-{n}", **more} for n in range(number)]


def batched(sim):
    """How often each prompt was answered in a batch."""
    return Counter(
        request["params"]["messages"][0]["content"]
        for batch in sim.batches
        for request in batch.requests
        if batch.results.get(request["custom_id"], {}).get("type") == "succeeded"
    )


def paths(sim):
    return [(request.method, request.path) for request in sim.requests]


# The same as a managed run


def test_answers_come_in_order_and_cost_half(sim):
    heard = []
    results = invoke_batch(prompts_of(5), on_result=lambda *one: heard.append(one[0]), **QUICK)
    live = invoke_parallel_managed(prompts_of(5))
    assert list(results) == list(live)
    assert results.tracker.summary() == {"completed": 5}
    assert sorted(heard) == list(range(5))
    assert results.cost_usd == pytest.approx(live.cost_usd / 2)
    assert all(answer.message.usage.service_tier == "batch" for answer in results)
    assert results.batches is None


def test_options_are_those_of_a_managed_run(sim, tmp_path):
    tracker = TaskTracker(max_retries=3)
    results = invoke_batch(
        prompts_of(4, category="c"),
        output=int,
        shared_system="S",
        tracker=tracker,
        reconcile=lambda prompts, _: prompts[1:],
        budget_usd=1,
        progress=True,
        journal=tmp_path / "journal",
        **QUICK,
    )
    assert results.outputs == [None, 0, 0, 0]
    assert results.cancelled.keys() == {0}
    assert results.tracker is tracker
    assert results.budget.spent == pytest.approx(results.cost_usd)


def test_prompts_with_other_headers_are_in_batches_of_their_own(sim):
    prompts = [
        *prompts_of(2),
        {"prompt": "warm", "temperature": 0.5},
        {"prompt": "b", "extra_headers": {"anthropic-beta": "x"}},
    ]
    assert all(invoke_batch(prompts, **QUICK))
    created = [request for request in sim.requests if request.method == "POST"]
    versions = sorted(request.headers["anthropic-version"] for request in created)
    assert len(created) == 3
    assert versions[0] == "2023-06-01"
    assert sum(request.headers.get("anthropic-beta") == "x" for request in created) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"streaming": True}, r"prompts\[0\]: streaming is not taken by a batch"),
        ({"timeout": 5}, r"prompts\[0\]: timeout"),
        ({"deadline": 5}, r"prompts\[0\]: deadline"),
        ({"extra_query": {"a": "b"}}, r"prompts\[0\]: extra_query"),
        ({"fallback_models": ["claude-haiku-4-5"]}, r"prompts\[0\]: fallback_models"),
        ({"speed": "fast"}, r"prompts\[0\]: speed"),
        ({"extra_body": {"fallbacks": []}, "speed": "fast"}, r"prompts\[0\]: speed"),
        ({"extra_body": {"max_tokens": 0}}, r"prompts\[0\]: max_tokens"),
        ({"primer": "now"}, "primer must be 'live', 'batch' or None, got 'now'"),
        ({"poll_interval": 0}, "poll_interval must be a number of seconds above 0"),
        ({"finish_by": -1}, "finish_by must be a number of seconds above 0"),
    ],
)
def test_what_a_batch_cannot_do_is_refused_before_anything_is_sent(sim, options, problem):
    with pytest.raises(ValueError, match=problem):
        invoke_batch(prompts_of(1), **{**QUICK, **options})
    with pytest.raises(TypeError):
        invoke_batch(prompts_of(1), on_batch="print")
    with pytest.raises(TypeError, match=r"unexpected|unknown"):
        invoke_batch(prompts_of(1), stall_timeout_of_nobody=5)
    for name in ("max_workers", "concurrency_limiter", "share_identical", "stop_after", "stall_timeout"):
        with pytest.raises(TypeError, match=f"takes no {name}: a batch has no workers"):
            invoke_batch(prompts_of(1), **{name: 1})
    assert not sim.requests


def test_clouds_have_no_batches():
    set_default_client(anthropic.AnthropicBedrock(aws_region="us-east-1", aws_access_key="a", aws_secret_key="b"))
    with pytest.raises(ValueError, match="AnthropicBedrock has no message batches: use invoke_parallel_managed"):
        invoke_batch(prompts_of(1))


# What is sent


def test_batches_are_split_by_number_and_by_bytes_and_their_ids_tell_index_and_digest(sim):
    client = anthropic.Anthropic(api_key="k")
    requests = {index: build(prompt="x" * 100) for index in range(7)}
    digests = {index: (key.digest, "") for index, key in enumerate(keys_of(requests.values()))}
    refused = {}
    by_number = list(planned(client, requests, digests, refused.__setitem__, most_requests=3))
    assert [len(batch.digests) for batch in by_number] == [3, 3, 1]
    assert len({batch.nonce for batch in by_number}) == 3
    size = max(len(batch.content) for batch in by_number)
    by_bytes = list(planned(client, requests, digests, refused.__setitem__, most_bytes=size))
    assert all(len(batch.content) <= size for batch in by_bytes)
    assert sum(len(batch.digests) for batch in by_bytes) == 7
    body = json.loads(by_number[0].content)
    told = [told_by(request["custom_id"]) for request in body["requests"]]
    assert told == [Told(*digests[n], by_number[0].nonce) for n in range(3)]
    assert told_by(id_of(5, Told("-" * 22, "_" * 22, "-" * 8))) == Told("-" * 22, "_" * 22, "-" * 8)
    assert told_by(id_of(5, Told("-" * 22, "", "-" * 8))) == Told("-" * 22, "", "-" * 8)
    assert len(id_of(10**7, Told(digests[0][0], digests[1][0], by_number[0].nonce))) <= 64
    assert not refused
    assert not list(planned(client, requests, digests, refused.__setitem__, most_bytes=50))
    assert "bytes, and a batch takes 50" in str(refused[6])


def test_one_of_each_shape_is_tried_live_first(sim):
    prompts = [*prompts_of(3), {"prompt": "t", "tools": [{"name": "t", "input_schema": {"type": "object"}}]}]
    invoke_batch(prompts, poll_interval=0.01)
    live = [request.body for request in sim.requests if request.path == "/v1/messages"]
    assert [body["max_tokens"] for body in live] == [1, 1]
    assert "tools" in live[1]


def test_what_the_api_does_not_take_ends_the_run_before_there_is_a_batch(sim):
    with pytest.raises(ClaudeInvocationError, match="400 invalid_request_error"):
        invoke_batch(prompts_of(3, thinking={"type": "odd"}), poll_interval=0.01)
    assert not sim.batches


def test_the_shared_prompt_is_written_once_live_for_an_hour(sim):
    results = invoke_batch(prompts_of(4), shared_system="word " * 4000, cache_shared_system=True, poll_interval=0.01)
    live = [request for request in sim.requests if request.path == "/v1/messages"]
    assert len(live) == 1
    assert live[0].usage["cache_creation"]["ephemeral_1h_input_tokens"] > 0
    assert [answer.usage.cache_read_input_tokens > 0 for answer in results] == [False, True, True, True]
    assert [answer.message.usage.service_tier for answer in results] == ["standard", *["batch"] * 3]


def test_the_shared_prompt_may_be_written_by_a_batch_of_its_own(sim):
    options = {"shared_system": "word " * 4000, "cache_shared_system": True, "primer": "batch"}
    results = invoke_batch(prompts_of(4), **options, **QUICK)
    assert [len(batch.requests) for batch in sim.batches] == [1, 3]
    assert [answer.usage.cache_read_input_tokens > 0 for answer in results] == [False, True, True, True]


# What comes back


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(fault="refusal"), "refusal"),
        (Reply(fault="invalid_request"), "invalid_request"),
        (Reply(fault="billing"), "billing"),
        (Reply(fault="invalid_request", message="Your credit balance is too low"), "billing"),
        (Reply(fault="permission"), "permission"),
        (Reply(fault="not_found"), "not_found"),
        (Reply(fault="request_too_large"), "request_too_large"),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_its_kind(sim, reply, kind):
    sim.script(reply, matching="say 1")
    results = invoke_batch(prompts_of(3), **QUICK)
    assert {index: error.kind for index, error in results.errors.items()} == {1: kind}
    assert results.tracker.get("task-1").state is TaskState.FAILED
    assert len(sim.batches) == 1


@pytest.mark.parametrize("fault", ["overloaded", "api_error", "timeout", "rate_limit"])
def test_what_may_still_succeed_is_asked_again_by_another_batch(sim, fault):
    sim.script(Reply(fault=fault), matching="say 1")
    results = invoke_batch(prompts_of(3), **QUICK)
    assert all(results)
    assert [len(batch.requests) for batch in sim.batches] == [3, 1]
    assert len(results[1].attempts) == 2
    assert results.tracker.get("task-1").attempt == 2


def test_rounds_end_with_the_retries(sim):
    sim.script(*[Reply(fault="overloaded")] * 9)
    results = invoke_batch(prompts_of(1), max_retries=1, **QUICK)
    assert (results.errors[0].kind, len(sim.batches)) == ("overloaded", 2)


def test_cut_off_answers_and_pauses_are_as_in_live_calls(sim):
    sim.script(Reply(text="par", fault="max_tokens"), matching="say 0")
    sim.script(Reply(text="one ", fault="pause_turn"), Reply(text="two"), matching="say 1")
    results = invoke_batch(prompts_of(2), **QUICK)
    assert results[0].truncated
    assert results[1] == "one two"


def test_answers_that_do_not_fit_are_asked_again_in_a_batch(sim):
    sim.script(Reply(text="no number"), Reply(text="7"))
    results = invoke_batch([{"prompt": "a"}], output=int, output_retries=1, **QUICK)
    assert results.outputs == [7]
    assert len(sim.batches) == 2


def test_expired_requests_are_asked_again():
    now = [0.0]
    with Simulator(clock=lambda: now[0]) as sim:
        set_default_client(anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0))
        sim.script_batches(BatchReply(expired=1))
        day = threading.Thread(target=lambda: (sim.wait_for(lambda sim: sim.batches), now.__setitem__(0, 90_000.0)))
        day.start()
        results = invoke_batch(prompts_of(3), **QUICK)
        day.join()
        assert all(results)
        assert [attempt.outcome for attempt in results[2].attempts] == ["expired", "ok"]
        assert results[2].attempts[0].usage.output_tokens == 0


def test_results_that_come_incomplete_are_downloaded_again(sim):
    sim.script_batches(BatchReply(cut_results_after=2))
    results = invoke_batch(prompts_of(5), **QUICK)
    assert all(results)
    assert sum(path.endswith("/results") for _, path in paths(sim)) == 2


def test_results_are_fetched_from_the_clients_own_host(sim):
    sim.script_batches(BatchReply(results_url="https://elsewhere.example/v1/results"))
    assert all(invoke_batch(prompts_of(2), **QUICK))


# Never lost, never paid twice


def test_a_lost_answer_is_looked_for_before_another_batch_is_created(sim):
    sim.script_batches(BatchReply(lost_answer=True))
    results = invoke_batch(prompts_of(3), **QUICK)
    assert all(results)
    assert len(sim.batches) == 1
    assert ("GET", "/v1/messages/batches") in paths(sim)


def test_a_batch_that_was_not_created_is_created_again(sim):
    sim.script_batches(BatchReply(fault="overloaded"), BatchReply(fault="api_error"))
    assert all(invoke_batch(prompts_of(3), **QUICK))
    assert len(sim.batches) == 1


def test_a_batch_of_somebody_else_is_not_taken_for_ours(sim, tmp_path):
    client = anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0)
    params = {"model": "claude-sonnet-4-6", "max_tokens": 5, "messages": [{"role": "user", "content": "theirs"}]}
    sim.script_batches(BatchReply(lost_answer=True), BatchReply(seconds=0.05))
    theirs = threading.Thread(
        target=lambda: (
            sim.wait_for(lambda sim: sim.batches),
            client.messages.batches.create(requests=[{"custom_id": f"their-{n}", "params": params} for n in range(3)]),
        )
    )
    theirs.start()
    results = invoke_batch(prompts_of(3), **QUICK)
    theirs.join()
    assert all(results)
    assert all(count == 1 for prompt, count in batched(sim).items() if prompt.startswith("say"))


def test_a_run_that_is_interrupted_is_collected_by_the_same_call(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    results = invoke_batch(
        prompts_of(4), journal=journal, interrupt_token=token, on_batch=lambda _: token.interrupt(), **QUICK
    )
    assert results.interrupted
    assert {error.kind for error in results.errors.values()} == {"interrupted"}
    assert (results.batches.batches, results.batches.prompts) == ((sim.batches[0].id,), 4)
    finish(sim)
    again = invoke_batch(prompts_of(4), journal=journal, **QUICK)
    assert all(again)
    assert len(sim.batches) == 1
    assert set(batched(sim).values()) == {1}
    assert invoke_batch(prompts_of(4), journal=journal, **QUICK).recalled == {0, 1, 2, 3}


def finish(sim, *, cancelled=False, **reply):
    """Let all batches end now: those that were cancelled by that."""
    for batch in sim._state.batches._batches.values():
        batch.reply = BatchReply(**reply, seconds=3600 if cancelled else 0)


def test_equal_prompts_have_each_their_answer_in_every_run(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    same = [{"prompt": "same"}] * 3
    invoke_batch(same, journal=journal, interrupt_token=token, on_batch=lambda _: token.interrupt(), **QUICK)
    finish(sim)
    assert all(invoke_batch(same, journal=journal, **QUICK))
    assert batched(sim) == {"same": 3}


def test_an_interrupt_may_cancel_the_batches_and_keep_what_they_had(monkeypatch):
    now, token = [0.0], InterruptToken()

    def stop(_):
        now[0] = 20.5
        token.interrupt()

    with Simulator(clock=lambda: now[0]) as sim:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        sim.script_batches(BatchReply(seconds=40))
        results = invoke_batch(prompts_of(40), interrupt_token=token, on_batch=stop, cancel_on_interrupt=True, **QUICK)
        assert results.interrupted
        assert sum(answer is not None for answer in results) == sum(batched(sim).values()) == 20
        assert sim.batches[0].status == "ended"


def test_ctrl_c_leaves_the_batches_and_the_results(sim):
    sim.script_batches(BatchReply(seconds=3600))

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(ParallelInterrupt) as stopped:
        invoke_batch(prompts_of(2), on_batch=stop, **QUICK)
    assert sim.batches[0].status == "in_progress"
    assert stopped.value.results.batches.batches == (sim.batches[0].id,)
    assert stopped.value.results.errors.keys() == {0, 1}


def test_a_handle_is_collected_elsewhere(sim, tmp_path):
    handles = []
    sim.script(Reply(fault="invalid_request"), matching="say 1")
    invoke_batch(prompts_of(3), on_batch=handles.append, **QUICK)
    handles[0].save(tmp_path / "handle.json")
    results = collect_batch(BatchHandle.load(tmp_path / "handle.json"), poll_interval=0.01)
    assert [str(answer)[-5:] if answer else None for answer in results] == ["say 0", None, "say 2"]
    assert results.errors[1].kind == "invalid_request"
    assert "sk-" not in (tmp_path / "handle.json").read_text()
    assert len(sim.batches) == 1
    token = InterruptToken()
    token.interrupt()
    assert collect_batch(handles[0], interrupt_token=token).interrupted


def test_a_handle_reads_data_and_says_what_is_missing(sim):
    handles = []
    invoke_batch(prompts_of(2), output=int, on_batch=handles.append, **QUICK)
    assert collect_batch(handles[0], output=int).outputs == [0, 0]
    more = BatchHandle(handles[0].batches, (*handles[0].digests, ""))
    assert collect_batch(more).errors[2].kind == "incomplete_stream"
    with pytest.raises(ClaudeInvocationError) as failed:
        collect_batch(BatchHandle(("msgbatch_none",), ("",)))
    assert failed.value.kind == "not_found"


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"batches": "x", "digests": []},
        {"batches": [5], "digests": []},
        {"batches": ["a/../b"], "digests": []},
        {"batches": [], "digests": [7]},
    ],
)
def test_what_is_no_handle_is_refused(said):
    with pytest.raises(ValueError, match=r"handle|batch"):
        BatchHandle.from_json(said)
    with pytest.raises(ValueError, match="handle must be a BatchHandle"):
        collect_batch(said)


def test_a_handle_has_the_batches_of_all_rounds(sim):
    handles = []
    sim.script(Reply(fault="overloaded"), matching="say 1")
    sim.script(Reply(text="to be continued", fault="pause_turn"), matching="say 2")
    invoke_batch(prompts_of(3), on_batch=handles.append, **QUICK)
    assert [len(handle.batches) for handle in handles] == [1, 2]
    heard = []
    results = collect_batch(handles[1], on_result=lambda *one: heard.append(one[0]))
    assert [answer is not None for answer in results] == [True, True, True]
    assert sorted(heard) == [0, 1, 2]
    assert collect_batch(handles[0]).errors[1].kind == "overloaded"
    assert collect_batch(handles[0]).errors[2].kind == "pause_limit"


def test_waiting_for_a_handle_goes_on_until_it_has_ended(sim):
    handles, token = [], InterruptToken()
    sim.script_batches(BatchReply(seconds=0.1), BatchReply(seconds=3600))
    invoke_batch(
        prompts_of(1), on_batch=lambda one: (handles.append(one), token.interrupt()), interrupt_token=token, **QUICK
    )
    assert all(collect_batch(handles[0], poll_interval=0.01))
    token.reset()
    invoke_batch(
        prompts_of(2), on_batch=lambda one: (handles.append(one), token.interrupt()), interrupt_token=token, **QUICK
    )
    token.reset()
    timer = threading.Timer(0.1, token.interrupt)
    timer.start()
    assert collect_batch(handles[1], poll_interval=0.01, interrupt_token=token).interrupted


def test_a_batch_that_somebody_cancels_is_cancelled(sim):
    client = anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0)
    sim.script_batches(BatchReply(seconds=3600))
    results = invoke_batch(
        prompts_of(2), on_batch=lambda handle: client.messages.batches.cancel(handle.batches[0]), **QUICK
    )
    assert results.cancelled.keys() == {0, 1}
    assert len(sim.batches) == 1


def test_results_that_stay_incomplete_are_an_error_and_those_that_came_are_kept(api, tmp_path):
    created = {
        "id": "b",
        "processing_status": "ended",
        "created_at": "2026-11-26T00:00:00Z",
        "request_counts": {"succeeded": 3},
    }
    lines = []

    def answer(request):
        if request.url.path.endswith("/results"):
            return httpx.Response(200, content="\n".join(lines) + '\n\n"no object"\n{"half": ')
        if request.method == "POST":
            asked = json.loads(request.content)["requests"]
            result = {"type": "succeeded", "message": message("Hi")}
            lines[:] = [json.dumps({"custom_id": one["custom_id"], "result": result}) for one in asked[:2]]
        return httpx.Response(200, json=created)

    api.router.route(path__startswith="/v1/messages/batches").mock(side_effect=answer)
    with pytest.raises(ParallelInvocationError, match="came incomplete: 2 of 3") as failed:
        invoke_batch(prompts_of(3), journal=tmp_path / "journal", **QUICK)
    assert list(failed.value.results)[:2] == ["Hi", "Hi"]
    assert failed.value.results.batches.batches == ("b",)


def test_what_is_no_batch_is_an_error(api):
    api.router.route(path__startswith="/v1/messages/batches").mock(
        side_effect=lambda _: httpx.Response(200, json={"id": 5})
    )
    with pytest.raises(ParallelInvocationError, match="answer about a batch cannot be read"):
        invoke_batch(prompts_of(1), **QUICK)


def test_an_intent_whose_batch_was_never_created_is_forgotten(sim, tmp_path):
    journal = tmp_path / "journal"
    invoke_batch(prompts_of(1), journal=journal, **QUICK)
    with closing(sqlite3.connect(journal)) as db, db:
        lost = Note(frozenset(key.digest for key in keys_of([build(**one) for one in prompts_of(3)][1:])), 0.0)
        db.execute("INSERT INTO batches (told) VALUES (?)", (lost.to_json(),))
    assert all(invoke_batch(prompts_of(3), journal=journal, **QUICK))
    assert [len(batch.requests) for batch in sim.batches] == [1, 2]


def test_a_journal_that_takes_no_more_ends_the_run_with_what_there_is(sim, tmp_path):
    journal = tmp_path / "journal"
    invoke_batch(prompts_of(1), journal=journal, **QUICK)
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    with pytest.raises(ParallelInvocationError, match=r"could not be stored in the journal .*disk is full") as failed:
        invoke_batch(prompts_of(3), journal=journal, **QUICK)
    assert all(failed.value.results)
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("DROP TRIGGER full")
    assert all(invoke_batch(prompts_of(3), journal=journal, **QUICK))
    assert set(batched(sim).values()) == {1}


def test_very_many_answers_are_stored_as_they_come(sim, tmp_path):
    results = invoke_batch(prompts_of(1200), journal=tmp_path / "journal", **QUICK)
    assert all(results)
    assert len(sim.batches) == 1


def test_an_unknown_result_is_an_error(sim, monkeypatch):
    sim.script_batches(BatchReply(seconds=0))
    process = sim._state.batches._process
    sim._state.batches._process = lambda *args: {**process(*args), "type": "postponed"}
    results = invoke_batch(prompts_of(1), max_retries=0, **QUICK)
    assert results.errors[0].kind == "invalid_response"


# Time and money


def test_a_creation_that_is_held_back_is_made_again(sim):
    sim.script_batches(BatchReply(fault="rate_limit"))
    assert all(invoke_batch(prompts_of(2), **QUICK))
    assert len(sim.batches) == 1


def test_a_creation_that_always_fails_ends_the_run(sim):
    sim.script_batches(*[BatchReply(fault="overloaded")] * 9)
    with pytest.raises(ParallelInvocationError, match="529 overloaded_error"):
        invoke_batch(prompts_of(2), **QUICK)
    assert not sim.batches


@pytest.fixture
def held(monkeypatch):
    """A budget whose money others hold until somebody has waited."""
    budget = Budget(0.0019)
    ledger, request = ledger_of(budget), build(prompt="held", max_tokens=100)
    reservation = ledger.reserve(request, 1)
    monkeypatch.setattr(time, "sleep", lambda _: ledger.settle(reservation, Decimal()))
    return budget


def test_prompts_wait_for_money_that_others_hold(sim, held):
    assert all(invoke_batch(prompts_of(1, max_tokens=200), budget_usd=held, **QUICK))
    assert held.spent > 0


def test_what_waits_for_money_can_be_interrupted(sim):
    budget, token = Budget(0.002), InterruptToken()
    ledger_of(budget).reserve(build(prompt="held", max_tokens=100), 0)
    timer = threading.Timer(0.2, token.interrupt)
    timer.start()
    results = invoke_batch(prompts_of(1, max_tokens=200), budget_usd=budget, interrupt_token=token, poll_interval=0.01)
    assert results.interrupted
    assert not sim.batches


def test_what_can_never_be_afforded_ends_and_the_rest_is_asked(sim):
    prompts = [*prompts_of(2, max_tokens=10), {"prompt": "dear", "max_tokens": 100_000}]
    results = invoke_batch(prompts, budget_usd=0.1, **QUICK)
    assert {index: error.kind for index, error in results.errors.items()} == {2: "budget"}
    assert results.tracker.summary() == {"completed": 2, "cancelled": 1}
    assert invoke_batch(prompts[2:], budget_usd=0.1, **QUICK).out_of_budget


def test_a_shape_whose_money_others_hold_is_not_tried(sim, held):
    assert all(invoke_batch(prompts_of(1, max_tokens=200), budget_usd=held, poll_interval=0.01))
    assert ("POST", "/v1/messages") not in paths(sim)


def test_looks_are_further_and_further_apart(sim, monkeypatch):
    waits = []
    monkeypatch.setattr(
        time, "sleep", lambda seconds: (waits.append(seconds), finish(sim) if len(waits) == 9 else None)
    )
    sim.script_batches(BatchReply(seconds=3600))
    assert all(invoke_batch(prompts_of(1), check_first=False))
    assert waits[:3] == [30.0, 45.0, 67.5]
    assert waits[8] == 600.0


def test_a_shape_that_its_budget_does_not_allow_is_not_tried(sim):
    with pytest.raises(ClaudeInvocationError) as beyond:
        invoke_batch(prompts_of(1), budget_usd=0.000001, poll_interval=0.01)
    assert beyond.value.kind == "budget"
    assert not sim.requests


def test_polls_that_fail_now_and_then_are_no_failure(sim, monkeypatch):
    looked = []

    def retrieve(*args):
        looked.append(args)
        if len(looked) in {1, 2, 3}:
            raise ClaudeInvocationError("no", kind="overloaded", retryable=True)
        return door_retrieve(*args)

    door_retrieve = door.retrieve
    monkeypatch.setattr("orchestration._batches.retrieve", retrieve)
    assert all(invoke_batch(prompts_of(2), **QUICK))


def test_a_batch_that_ends_while_it_is_cancelled_is_collected(sim):
    sim.script_batches(BatchReply(seconds=3600))
    token = InterruptToken()

    def end_and_stop(_):
        finish(sim)
        token.interrupt()

    results = invoke_batch(
        prompts_of(3), on_batch=end_and_stop, interrupt_token=token, cancel_on_interrupt=True, **QUICK
    )
    assert all(results)


def test_ctrl_c_may_cancel_the_batches(sim):

    def stop(_):
        raise KeyboardInterrupt

    sim.script_batches(BatchReply(seconds=3600, cancel_seconds=0.1))
    with pytest.raises(ParallelInterrupt):
        invoke_batch(prompts_of(3), on_batch=stop, cancel_on_interrupt=True, **QUICK)
    assert sim.batches[0].status == "ended"


def test_an_interrupt_before_all_leaves_nothing_to_collect(sim):
    token = InterruptToken()
    token.interrupt()
    results = invoke_batch(
        prompts_of(3),
        shared_system="word " * 4000,
        cache_shared_system=True,
        interrupt_token=token,
        check_first=False,
    )
    assert results.interrupted
    assert results.batches is None
    assert not sim.batches


def two_headers(number):
    return [{**prompt, "extra_headers": {"anthropic-beta": f"b{n % 2}"}} for n, prompt in enumerate(prompts_of(number))]


def test_a_creation_that_is_interrupted_is_sorted_out_later(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    options = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token, "journal": journal, **QUICK}
    assert invoke_batch(two_headers(4), **options).interrupted
    assert len(sim.batches) == 1
    finish(sim)
    assert all(invoke_batch(two_headers(4), journal=journal, **QUICK))
    assert set(batched(sim).values()) == {1}


def test_a_creation_that_is_interrupted_is_not_waited_for(sim):
    sim.script_batches(BatchReply(seconds=3600))
    token = InterruptToken()
    options = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token, **QUICK}
    results = invoke_batch(two_headers(4), cancel_on_interrupt=True, **options)
    assert results.interrupted
    assert [batch.status for batch in sim.batches] == ["ended"]


def test_each_batch_is_collected_as_it_ends(sim):
    sim.script_batches(BatchReply(seconds=3600), BatchReply())
    heard = []

    def on_result(index, _):
        heard.append(index)
        if len(heard) == 2:
            finish(sim)

    assert all(invoke_batch(two_headers(4), on_result=on_result, **QUICK))
    assert sorted(heard[:2]) == [1, 3]


def test_results_that_nobody_asks_for_now_are_passed_over(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    invoke_batch(prompts_of(3), journal=journal, interrupt_token=token, on_batch=lambda _: token.interrupt(), **QUICK)
    finish(sim)
    results = invoke_batch([prompts_of(3)[2], {"prompt": "new"}], journal=journal, **QUICK)
    assert all(results)
    assert batched(sim) == {"say 0": 1, "say 1": 1, "say 2": 1, "new": 1}


def test_batches_are_looked_for_on_all_pages_and_no_further_back_than_need_be(sim, monkeypatch):
    monkeypatch.setattr(door, "_MOST_LISTED", 1)
    monkeypatch.setattr("orchestration._batch_run._CLOCKS_DIFFER", 0.0)
    invoke_batch(prompts_of(3), **QUICK)
    client = anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0)
    params = {"model": "claude-sonnet-4-6", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    sim.script_batches(BatchReply(lost_answer=True, seconds=0.05))
    theirs = threading.Thread(
        target=lambda: (
            sim.wait_for(lambda sim: len(sim.batches) == 2),
            client.messages.batches.create(requests=[{"custom_id": "a", "params": params}]),
        )
    )
    theirs.start()
    assert all(invoke_batch([{"prompt": f"other {n}"} for n in range(3)], **QUICK))
    theirs.join()
    assert sum("other" in prompt for prompt in batched(sim)) == 3
    assert [info.id for info in door.created_since(client, 0.0)] == [batch.id for batch in reversed(sim.batches)]
    assert list(door.created_since(client, time.time() + 60)) == []


def test_prompts_that_share_too_little_to_be_cached_need_no_primer(sim):
    assert all(invoke_batch(prompts_of(2), shared_system="S", cache_shared_system=True, **QUICK))
    assert ("POST", "/v1/messages") not in paths(sim)


def test_an_interrupt_during_a_look_is_no_failed_look(sim, monkeypatch):
    token, door_retrieve = InterruptToken(), door.retrieve

    def retrieve(*args):
        if not token.is_interrupted():
            token.interrupt()
            raise ClaudeInvocationError("no", kind="interrupted")
        return door_retrieve(*args)

    monkeypatch.setattr("orchestration._batches.retrieve", retrieve)
    assert invoke_batch(prompts_of(2), interrupt_token=token, **QUICK).interrupted


def test_a_system_that_is_marked_stays_as_it_is(sim):
    marked = [{"type": "text", "text": "word " * 4000, "cache_control": {"type": "ephemeral"}}]
    invoke_batch(prompts_of(2), shared_system=marked, cache_shared_system=True, primer=None, **QUICK)
    (first, _) = sim.batches[0].requests
    assert first["params"]["system"] == marked


def test_what_a_batch_has_not_answered_in_time_is_asked_live(sim, soon):
    sim.script_batches(BatchReply(seconds=3600))
    began = time.monotonic()
    results = invoke_batch(prompts_of(6), budget_usd=1, **soon)
    assert time.monotonic() - began < 20
    assert all(results)
    assert sim.batches[0].status == "ended"
    assert {answer.message.usage.service_tier for answer in results} == {"standard"}
    assert results.budget.spent == pytest.approx(results.cost_usd)
    assert not batched(sim)


def test_the_time_to_finish_by_may_be_a_date(sim):
    sim.script_batches(BatchReply(seconds=3600))
    results = invoke_batch(prompts_of(2), finish_by=datetime.now(UTC) + timedelta(seconds=0.5), **QUICK)
    assert all(results)


def test_money_is_reserved_at_the_price_of_batches(sim):
    budget = Budget(1)
    reserved = []
    invoke_batch(
        prompts_of(10, max_tokens=1000), budget_usd=budget, on_batch=lambda _: reserved.append(budget.reserved), **QUICK
    )
    assert reserved[0] == pytest.approx(10 * 1000 * 1.1 * 7.5e-6, rel=0.1)
    assert budget.reserved == 0.0


def test_what_the_budget_does_not_allow_is_not_in_a_batch(sim):
    results = invoke_batch(prompts_of(20, max_tokens=1000), budget_usd=0.04, **QUICK)
    beyond = [index for index, error in results.errors.items() if error.kind == "budget"]
    assert len(beyond) + sum(batched(sim).values()) == 20
    assert results.budget.spent <= 0.04
    assert results.budget.reserved == 0.0


def test_a_batch_that_the_api_does_not_take_costs_nothing_and_says_so(sim):
    sim.script_batches(BatchReply(fault="permission"))
    budget = Budget(1)
    with pytest.raises(ParallelInvocationError, match="403 permission_error") as failed:
        invoke_batch(prompts_of(2), budget_usd=budget, **QUICK)
    assert failed.value.results.errors.keys() == {0, 1}
    assert budget.state == (1.0, 0.0, 0.0, 1.0)


# What others found


def test_results_are_read_by_lines_and_not_at_every_character_that_may_break_one(sim):
    sim.script(Reply(text="a\u2028b\u2029c\u0085d"))
    assert list(invoke_batch(prompts_of(1), **QUICK)) == ["a\u2028b\u2029c\u0085d"]


def test_a_message_that_is_none_is_an_invalid_response(sim):
    process = sim._state.batches._process
    sim._state.batches._process = lambda *args: {**process(*args), "message": "lost"}
    results = invoke_batch(prompts_of(1), max_retries=0, **QUICK)
    assert results.errors[0].kind == "invalid_response"


def test_an_answer_of_several_rounds_is_collected_whole(sim):
    handles = []
    sim.script(Reply(text="one ", fault="pause_turn"), Reply(text="two"), matching="say 0")
    sim.script(Reply(text="no number"), Reply(text="7"), matching="say 1")
    prompts = prompts_of(2)
    prompts[1] |= {"output": int, "output_retries": 1}
    run = invoke_batch(prompts, on_batch=handles.append, **QUICK)
    assert (run[0], run[1].output) == ("one two", 7)
    assert list(collect_batch(handles[-1])) == ["one two", "7"]
    assert collect_batch(handles[-1], output=int, poll_interval=0.01).outputs[1] == 7
    with pytest.raises(ValueError, match="poll_interval"):
        collect_batch(handles[-1], poll_interval=0)


def test_a_handle_is_collected_by_what_was_asked_wherever_it_stood(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    handles, journal = [], tmp_path / "journal"
    token = InterruptToken()
    options = {"journal": journal, "on_batch": handles.append, **QUICK}
    stop = {**options, "on_batch": lambda _: token.interrupt(), "interrupt_token": token}
    invoke_batch(prompts_of(3), **stop)
    finish(sim)
    results = invoke_batch([{"prompt": "new"}, *reversed(prompts_of(3))], **options)
    again = collect_batch(handles[-1])
    assert list(again) == list(results)


def test_downloads_for_a_handle_are_counted_too(sim):
    handles = []
    sim.script_batches(BatchReply(seconds=3600, cut_results_after=1))
    token = InterruptToken()
    stop = {"on_batch": lambda handle: (handles.append(handle), token.interrupt()), "interrupt_token": token}
    invoke_batch(prompts_of(4), **stop, **QUICK)
    finish(sim, cut_results_after=1)
    assert all(collect_batch(handles[0], poll_interval=0.01))


def other_batch(sim, number):
    """Create a batch of somebody else with so many requests."""
    client = anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0)
    params = {"model": "claude-sonnet-4-6", "max_tokens": 5, "messages": [{"role": "user", "content": "theirs"}]}
    client.messages.batches.create(requests=[{"custom_id": f"their-{n}", "params": params} for n in range(number)])


def test_a_batch_that_may_be_of_others_is_never_cancelled(sim):
    sim.script_batches(BatchReply(seconds=3600), *[BatchReply(fault="api_error")] * 9)
    other_batch(sim, 3)
    token = InterruptToken()
    results = invoke_batch(
        prompts_of(3), on_batch=lambda _: token.interrupt(), interrupt_token=token, cancel_on_interrupt=True, **QUICK
    )
    assert results.interrupted
    assert [batch.status for batch in sim.batches] == ["in_progress"]


def test_a_batch_of_others_that_has_ended_is_given_back_and_ours_created(sim):
    sim.script_batches(BatchReply(seconds=3600), BatchReply(fault="api_error"))
    other_batch(sim, 3)
    assert all(invoke_batch(prompts_of(3), on_batch=lambda _: finish(sim), **QUICK))
    assert batched(sim) == {"theirs": 3, "say 0": 1, "say 1": 1, "say 2": 1}


def test_a_run_that_ends_in_its_third_round_is_taken_up_with_all_it_had(sim, tmp_path):
    token, journal, handles = InterruptToken(), tmp_path / "journal", []
    sim.script(Reply(fault="overloaded"), Reply(text="one ", fault="pause_turn"), Reply(text="two"), matching="say 1")
    sim.script_batches(BatchReply(), BatchReply(), BatchReply(seconds=3600))

    def stop(handle):
        handles.append(handle)
        if len(handles) == 3:
            token.interrupt()

    assert invoke_batch(prompts_of(3), journal=journal, on_batch=stop, interrupt_token=token, **QUICK).interrupted
    finish(sim)
    results = invoke_batch(prompts_of(3), journal=journal, **QUICK)
    assert results[1] == "one two"
    assert [attempt.outcome for attempt in results[1].attempts] == ["overloaded", "ok", "ok"]
    assert len(sim.batches) == 3
    assert noted(journal) == 0


def noted(journal):
    with closing(sqlite3.connect(journal)) as db:
        ((count,),) = db.execute("SELECT count(*) FROM batches")
        return count


def test_what_was_cancelled_by_an_interrupt_is_asked_again_by_the_same_call(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token, "cancel_on_interrupt": True}
    assert invoke_batch(prompts_of(3), journal=journal, **stop, **QUICK).interrupted
    assert noted(journal) == 0
    assert all(invoke_batch(prompts_of(3), journal=journal, **QUICK))
    assert set(batched(sim).values()) == {1}


def test_a_batch_that_takes_long_to_be_cancelled_is_left_and_what_it_did_not_answer_asked_later(
    sim, tmp_path, monkeypatch
):
    monkeypatch.setattr("orchestration._batch_plan._CANCEL_WITHIN", 1.0)
    sim.script_batches(BatchReply(seconds=3600, cancel_seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token, "cancel_on_interrupt": True}
    results = invoke_batch(prompts_of(3), journal=journal, **stop, **QUICK)
    assert results.batches.batches == (sim.batches[0].id,)
    finish(sim, cancelled=True)
    assert all(invoke_batch(prompts_of(3), journal=journal, **QUICK))
    assert len(sim.batches) == 2
    assert set(batched(sim).values()) == {1}


@pytest.mark.parametrize("fault", ["overloaded", "invalid_request"])
def test_a_cancelling_that_fails_is_tried_again_if_it_may_succeed(sim, fault):
    sim.script_batches(BatchReply(seconds=3600, call_faults=[fault]))
    token = InterruptToken()
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token, "cancel_on_interrupt": True}
    is_final = fault == "invalid_request"
    end = threading.Thread(target=lambda: (sim.wait_for(is_cancelled), finish(sim)))
    if is_final:
        end.start()
    results = invoke_batch(prompts_of(3), **stop, **QUICK)
    assert results.interrupted
    assert all(results) is is_final
    assert sum(path.endswith("/cancel") for _, path in paths(sim)) == (1 if is_final else 2)
    if is_final:
        end.join()


def is_cancelled(sim):
    return any(path.endswith("/cancel") for _, path in paths(sim))


def test_a_cancelling_that_the_api_refuses_for_good_leaves_the_batches(sim):
    sim.script_batches(BatchReply(seconds=3600, call_faults=["invalid_request", *["authentication"] * 9]))
    token = InterruptToken()
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token, "cancel_on_interrupt": True}
    results = invoke_batch(prompts_of(3), **stop, **QUICK)
    assert results.batches.batches == (sim.batches[0].id,)


@pytest.mark.parametrize("silent", [True, False])
def test_a_batch_whose_creation_is_broken_off_is_in_the_handle(sim, silent):
    sim.script_batches(BatchReply(seconds=3600, silent=silent, lost_answer=not silent))
    token = InterruptToken()
    stop = threading.Thread(target=lambda: (sim.wait_for(lambda sim: sim.batches), token.interrupt()))
    stop.start()
    results = invoke_batch(prompts_of(3), interrupt_token=token, check_first=False)
    stop.join()
    assert results.batches.batches == (sim.batches[0].id,)


def test_a_run_of_other_prompts_leaves_what_the_journal_has_for_later(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    invoke_batch(prompts_of(3), journal=journal, interrupt_token=token, on_batch=lambda _: token.interrupt(), **QUICK)
    assert all(invoke_batch([{"prompt": "other"}], journal=journal, **QUICK))
    finish(sim)
    assert all(invoke_batch(prompts_of(3)[:1], journal=journal, **QUICK))
    assert noted(journal) == 1
    assert all(invoke_batch(prompts_of(3), journal=journal, **QUICK))
    assert noted(journal) == 0
    assert batched(sim) == {"other": 1, "say 0": 1, "say 1": 1, "say 2": 1}


def test_a_live_run_does_not_ask_what_batches_are_asking(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    invoke_batch(prompts_of(3), journal=journal, interrupt_token=token, on_batch=lambda _: token.interrupt(), **QUICK)
    with pytest.raises(JournalError, match=f"asked by batches .*{sim.batches[0].id}.*invoke_batch collects them"):
        invoke_parallel_managed(prompts_of(3), journal=journal)
    assert all(invoke_parallel_managed([{"prompt": "other"}], journal=journal))
    assert drop_batches_from_journal(journal) == [sim.batches[0].id]
    assert all(invoke_parallel_managed(prompts_of(3), journal=journal))


def test_a_batch_that_somebody_deleted_is_an_error_that_says_what_to_do(sim, tmp_path):
    token, journal = InterruptToken(), tmp_path / "journal"
    invoke_batch(prompts_of(3), journal=journal, interrupt_token=token, on_batch=lambda _: token.interrupt(), **QUICK)
    anthropic.Anthropic(base_url=sim.base_url, api_key="k").messages.batches.delete(sim.batches[0].id)
    with pytest.raises(ParallelInvocationError) as failed:
        invoke_batch(prompts_of(3), journal=journal, **QUICK)
    assert "drop_batches_from_journal forgets it" in failed.value.__cause__.__notes__[0]
    assert drop_batches_from_journal(journal)
    assert all(invoke_batch(prompts_of(3), journal=journal, **QUICK))


def test_a_batch_that_is_gone_after_29_days_is_asked_again(sim, tmp_path, caplog):
    journal = tmp_path / "journal"
    invoke_batch([{"prompt": "before"}], journal=journal, **QUICK)
    digests = frozenset(key.digest for key in keys_of(build(**one) for one in prompts_of(2)))
    old = Note(digests, 0.0, id="msgbatch_old", is_sure=True)
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("INSERT INTO batches (told) VALUES (?)", (old.to_json(),))
    assert all(invoke_batch(prompts_of(2), journal=journal, **QUICK))
    assert noted(journal) == 0
    assert "msgbatch_old is gone, after 29 days" in caplog.text


def test_a_note_that_is_damaged_is_a_journal_error_and_the_rest_is_salvaged(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal = InterruptToken(), tmp_path / "journal"
    invoke_batch(prompts_of(3), journal=journal, interrupt_token=token, on_batch=lambda _: token.interrupt(), **QUICK)
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("INSERT INTO batches (told) VALUES ('{')")
    with pytest.raises(JournalError, match="has noted of a batch cannot be read"):
        invoke_batch(prompts_of(3), journal=journal, **QUICK)
    assert salvage_journal(journal, tmp_path / "whole") == 0
    finish(sim)
    assert all(invoke_batch(prompts_of(3), journal=tmp_path / "whole", **QUICK))
    assert len(sim.batches) == 1


def test_a_journal_that_takes_no_note_ends_the_run_before_a_batch_is_created(sim, tmp_path):
    journal = tmp_path / "journal"
    invoke_batch(prompts_of(1), journal=journal, **QUICK)
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON batches BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    with pytest.raises(ParallelInvocationError, match="could not be stored in the journal") as failed:
        invoke_batch(prompts_of(3), journal=journal, **QUICK)
    assert isinstance(failed.value.__cause__, JournalError)
    assert len(sim.batches) == 1


def test_with_a_time_to_finish_by_what_no_batch_takes_is_asked_live(sim, soon):
    sim.script_batches(*[BatchReply(fault="overloaded")] * 50)
    results = invoke_batch(prompts_of(3), **soon)
    assert {answer.message.usage.service_tier for answer in results} == {"standard"}
    assert not sim.batches


def test_with_a_time_to_finish_by_looks_may_fail_until_then(sim, soon):
    sim.script_batches(BatchReply(seconds=3600, call_faults=["overloaded"] * 500))
    assert all(invoke_batch(prompts_of(3), **soon))


def test_a_batch_that_is_slow_to_end_does_not_hold_up_the_rest_beyond_the_time(sim, soon):
    sim.script_batches(BatchReply(seconds=3600, cancel_seconds=3600))
    began = time.monotonic()
    results = invoke_batch(prompts_of(3), **soon)
    assert time.monotonic() - began < 20
    assert all(results)


def test_money_of_batches_that_are_left_is_kept_for_who_collects_them(sim, tmp_path):
    sim.script_batches(BatchReply(seconds=3600))
    token, journal, budget = InterruptToken(), tmp_path / "journal", Budget(1)
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token}
    invoke_batch(prompts_of(3), journal=journal, budget_usd=budget, **stop, **QUICK)
    assert budget.reserved > 0
    finish(sim)
    other = Budget(0.000001)
    results = invoke_batch(prompts_of(3), journal=journal, budget_usd=other, **QUICK)
    assert budget.spent == other.spent == pytest.approx(results.cost_usd)
    assert budget.reserved == other.reserved == 0.0


def test_money_of_batches_is_settled_by_collecting_their_handle(sim):
    sim.script_batches(BatchReply(seconds=3600))
    token, budget = InterruptToken(), Budget(1)
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token}
    left = invoke_batch(prompts_of(3), budget_usd=budget, **stop, **QUICK).batches
    finish(sim)
    results = collect_batch(left)
    assert budget.spent == pytest.approx(results.cost_usd)
    assert budget.reserved == 0.0


def test_what_is_cancelled_in_the_tracker_is_not_asked_again(sim):
    tracker = TaskTracker(max_retries=3)
    sim.script(Reply(fault="overloaded"), matching="say 1")
    results = invoke_batch(prompts_of(2), tracker=tracker, on_batch=lambda _: tracker.cancel("task-1"), **QUICK)
    assert results.cancelled.keys() == {1}
    assert len(sim.batches) == 1


def test_headers_are_the_same_however_they_are_spelled(sim):
    prompts = [{"prompt": name, "extra_headers": {name: "x"}} for name in ("anthropic-beta", "Anthropic-Beta")]
    assert all(invoke_batch(prompts, **QUICK))
    assert len(sim.batches) == 1


def test_progress_tells_how_many_batches_have_ended(sim, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    sim.script_batches(BatchReply(seconds=3600), BatchReply())
    told = "2 batches, of which 1 have ended"
    end = threading.Thread(target=lambda: (until(lambda: told in shown.getvalue()), finish(sim)))
    end.start()
    assert all(invoke_batch(two_headers(4), progress=True, **QUICK))
    end.join()
    assert told in shown.getvalue()


def test_a_batch_that_wrote_the_cache_first_is_in_the_handle(sim):
    handles = []
    options = {"shared_system": "word " * 4000, "cache_shared_system": True, "primer": "batch"}
    invoke_batch(prompts_of(4), on_batch=handles.append, **options, **QUICK)
    assert all(collect_batch(handles[-1]))


def test_money_of_a_batch_that_was_another_s_is_used_for_ours(sim):
    sim.script_batches(BatchReply(seconds=3600), BatchReply(fault="api_error"))
    other_batch(sim, 3)
    results = invoke_batch(prompts_of(3), on_batch=lambda _: finish(sim), budget_usd=1, **QUICK)
    assert all(results)
    assert results.budget.spent == pytest.approx(results.cost_usd)
    assert results.budget.reserved == 0.0


def test_an_ended_batch_of_others_with_the_size_of_ours_is_passed_over(sim):
    other_batch(sim, 3)
    sim.script_batches(BatchReply(lost_answer=True, cut_results_after=0))
    assert all(invoke_batch(prompts_of(3), **QUICK))
    assert set(batched(sim).values()) == {1, 3}
    assert len(sim.batches) == 2


def test_money_of_a_batch_that_may_have_been_created_stays_reserved(sim):
    sim.script_batches(BatchReply(seconds=3600, silent=True, call_faults=["overloaded"] * 99))
    token, budget = InterruptToken(), Budget(1)
    stop = threading.Thread(target=lambda: (sim.wait_for(lambda sim: sim.batches), token.interrupt()))
    stop.start()
    results = invoke_batch(prompts_of(3), interrupt_token=token, budget_usd=budget, **QUICK)
    stop.join()
    assert results.batches is None
    assert budget.reserved > 0


def test_an_interrupt_ends_the_looking_for_a_batch_too(sim, tmp_path):
    sim.script_batches(BatchReply(lost_answer=True, call_faults=["overloaded"] * 4))
    token, journal = InterruptToken(), tmp_path / "journal"
    stop = threading.Thread(
        target=lambda: (sim.wait_for(lambda sim: ("GET", "/v1/messages/batches") in paths(sim)), token.interrupt())
    )
    stop.start()
    assert invoke_batch(prompts_of(3), interrupt_token=token, journal=journal, **QUICK).interrupted
    stop.join()
    assert all(invoke_batch(prompts_of(3), journal=journal, **QUICK))
    assert len(sim.batches) == 1


def test_an_interrupt_ends_a_download_and_what_came_is_kept(sim, tmp_path):
    token, journal = InterruptToken(), tmp_path / "journal"
    results = invoke_batch(
        prompts_of(1200), journal=journal, interrupt_token=token, on_result=lambda *_: token.interrupt(), **QUICK
    )
    assert results.interrupted
    assert 500 <= sum(answer is not None for answer in results) < 1200
    assert all(invoke_batch(prompts_of(1200), journal=journal, **QUICK))
    assert len(sim.batches) == 1


def test_money_is_right_whatever_is_cancelled(sim, soon):
    token, budget = InterruptToken(), Budget(0.03)
    sim.script_batches(BatchReply(seconds=3600), BatchReply(seconds=3600))
    results = invoke_batch(prompts_of(3, max_tokens=1000), budget_usd=budget, **soon)
    assert all(results)
    assert budget.spent == pytest.approx(results.cost_usd)
    assert budget.reserved == 0.0
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token, "cancel_on_interrupt": True}
    assert invoke_batch(prompts_of(3, max_tokens=100), budget_usd=budget, **stop, **QUICK).interrupted
    assert budget.reserved == 0.0


def test_nobody_waits_for_money_of_batches_that_are_left(sim):
    token, budget = InterruptToken(), Budget(0.03)
    sim.script_batches(BatchReply(seconds=3600))
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token}
    left = invoke_batch(prompts_of(3, max_tokens=1000), budget_usd=budget, **stop, **QUICK).batches
    others = invoke_batch([{"prompt": "other", "max_tokens": 1000}], budget_usd=budget, **QUICK)
    assert others.errors[0].kind == "budget"
    finish(sim)
    collect_batch(left)
    assert budget.reserved == 0.0


def test_money_of_a_batch_that_is_taken_up_counts_once_in_each_budget(sim, tmp_path):
    token, journal, budgets = InterruptToken(), tmp_path / "journal", [Budget(1), Budget(1)]
    stop = {"on_batch": lambda _: token.interrupt(), "interrupt_token": token}
    sim.script_batches(BatchReply(seconds=3600))
    invoke_batch(prompts_of(3), journal=journal, budget_usd=budgets[0], **stop, **QUICK)
    assert budgets[0].reserved > 0
    finish(sim)
    prompts = prompts_of(3, budget_usd=budgets[1])
    results = invoke_batch(prompts, journal=journal, budget_usd=budgets[0], **QUICK)
    assert [budget.spent for budget in budgets] == [pytest.approx(results.cost_usd)] * 2
    assert [budget.reserved for budget in budgets] == [0.0, 0.0]
    assert len(sim.batches) == 1


def test_who_waits_for_money_of_a_batch_waits_no_longer_where_that_is_left(sim):
    token, budget, others = InterruptToken(), Budget(0.03), []
    sim.script_batches(BatchReply(seconds=3600))
    other = {"prompt": "other", "max_tokens": 1000}
    waiting = threading.Thread(target=lambda: others.append(invoke_parallel([other], budget_usd=budget)))

    def stop(_):
        waiting.start()
        until(lambda: ledger_of(budget)._wakers)  # it is about to wait, or waits
        token.interrupt()

    left = invoke_batch(
        prompts_of(3, max_tokens=1000), budget_usd=budget, on_batch=stop, interrupt_token=token, **QUICK
    )
    waiting.join()
    assert left.batches
    assert others[0].errors[0].kind == "budget"


def test_a_server_that_is_not_there_leaves_no_money_reserved(sim, free_tcp_port):
    set_default_client(anthropic.Anthropic(base_url=f"http://127.0.0.1:{free_tcp_port}", api_key="k", max_retries=0))
    budget = Budget(1)
    with pytest.raises(ParallelInvocationError, match="connection"):
        invoke_batch(prompts_of(2), budget_usd=budget, **QUICK)
    assert budget.reserved == 0.0


def test_a_batch_of_another_run_of_the_same_prompts_is_not_taken_for_that_of_this(sim):
    first = invoke_batch(prompts_of(3), **QUICK)
    sim.script_batches(BatchReply(fault="overloaded"))
    second = invoke_batch(prompts_of(3), **QUICK)
    assert len(sim.batches) == 2
    assert {answer.message.id for answer in first}.isdisjoint(answer.message.id for answer in second)


def test_a_batch_that_shares_a_prompt_with_ours_is_not_taken_for_it(sim, tmp_path):
    ours, others = ([{"prompt": name} for name in (f"{who}1", f"{who}2", "both")] for who in "ab")
    token, journal = InterruptToken(), tmp_path / "journal"
    sim.script_batches(BatchReply(silent=True, call_faults=["overloaded"]))
    stop = threading.Thread(target=lambda: (sim.wait_for(lambda sim: sim.batches), token.interrupt()))
    stop.start()
    assert invoke_batch(ours, journal=journal, interrupt_token=token, **QUICK).batches is None
    stop.join()
    invoke_batch(others, **QUICK)
    assert all(invoke_batch(ours, journal=journal, **QUICK))
    assert batched(sim) == {"a1": 1, "a2": 1, "b1": 1, "b2": 1, "both": 2}


@pytest.mark.parametrize("usd", [1, None])
def test_a_file_that_is_gone_before_its_second_round_costs_its_prompt_alone(sim, tmp_path, usd):
    image = tmp_path / "image.png"
    image.write_bytes(PNG)
    sim.script(Reply(fault="overloaded"), matching="say 0")
    prompts = prompts_of(3)
    source = {"type": "base64", "media_type": "image/png", "data": image}
    prompts[0]["prompt"] = [{"type": "image", "source": source}, {"type": "text", "text": "say 0"}]
    results = invoke_batch(prompts, on_batch=lambda _: image.unlink(missing_ok=True), budget_usd=usd, **QUICK)
    assert {index: error.kind for index, error in results.errors.items()} == {0: "invalid_request"}
    assert "cannot be read" in str(results.errors[0])
    assert not (results.budget and results.budget.reserved)


def test_a_batch_that_had_our_size_only_and_is_gone_is_not_ours(sim, tmp_path):
    journal = tmp_path / "journal"
    invoke_batch([{"prompt": "before"}], journal=journal, **QUICK)
    digests = frozenset(key.digest for key in keys_of(build(**one) for one in prompts_of(2)))
    theirs = Note(digests, time.time(), "nonce---", "msgbatch_gone", is_sure=False)
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("INSERT INTO batches (told) VALUES (?)", (theirs.to_json(),))
    assert all(invoke_batch(prompts_of(2), journal=journal, **QUICK))
    assert noted(journal) == 0


def test_a_time_to_finish_by_holds_where_a_creation_is_never_answered(sim, soon):
    sim.script_batches(BatchReply(silent=True, seconds=3600))
    began = time.monotonic()
    results = invoke_batch(prompts_of(2), **soon)
    assert time.monotonic() - began < 20
    assert all(results)


def test_an_interrupt_ends_the_check_of_a_shape_at_once(sim):
    never, token = threading.Event(), InterruptToken()
    sim.script(Reply(until=never))
    stop = threading.Thread(target=lambda: (sim.wait_for(lambda sim: sim.in_flight), token.interrupt()))
    stop.start()
    results = invoke_batch(prompts_of(2), interrupt_token=token, poll_interval=0.01)
    stop.join()
    assert results.interrupted
    assert not sim.batches


def test_a_check_that_the_api_has_no_time_for_tells_nothing(sim):
    sim.script(Reply(fault="overloaded"))
    assert all(invoke_batch(prompts_of(2), poll_interval=0.01))


def test_a_handle_gives_what_there_is_where_one_of_its_batches_is_gone(sim):
    handles = []
    invoke_batch(two_headers(4), on_batch=handles.append, **QUICK)
    client = anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0)
    client.messages.batches.delete(handles[-1].batches[0])
    results = collect_batch(handles[-1])
    assert sum(answer is not None for answer in results) == 2
    assert {error.kind for error in results.errors.values()} == {"not_found"}


def test_what_was_begun_in_a_batch_is_gone_on_with_live(sim, soon):
    sim.script(Reply(text="no number"), matching="say 0")
    sim.script_batches(BatchReply(), BatchReply(seconds=3600))
    results = invoke_batch(prompts_of(2), output=int, output_retries=1, budget_usd=1, **soon)
    assert results.outputs == [0, 0]
    assert [len(answer.attempts) for answer in results] == [2, 1]
    assert results.budget.spent == pytest.approx(results.cost_usd)


def test_one_batch_at_a_time_is_written(sim):
    client = anthropic.Anthropic(api_key="k")
    requests = {n: build(prompt="x", extra_headers={"anthropic-beta": f"b{n % 3}"}) for n in range(9)}
    digests = {index: (key.digest, "") for index, key in enumerate(keys_of(requests.values()))}
    assert [len(batch.digests) for batch in planned(client, requests, digests, {}.__setitem__)] == [3, 3, 3]


def test_a_time_that_has_passed_is_refused(sim):
    with pytest.raises(ValueError, match="finish_by is in the past: 2020-01-01"):
        invoke_batch(prompts_of(1), finish_by=datetime(2020, 1, 1, tzinfo=UTC))


# The simulator's own batches


def test_the_simulator_speaks_batches_as_the_api_does(sim, monkeypatch):
    client = anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0)
    params = {"model": "claude-sonnet-4-6", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    create = client.messages.batches.create
    for requests, problem in [
        ([], "at least one request"),
        ([{"custom_id": "a b", "params": params}], "custom_id"),
        ([{"custom_id": "a", "params": params}] * 2, "not unique"),
        ([{"custom_id": "a"}], "params"),
    ]:
        with pytest.raises(anthropic.BadRequestError, match=problem):
            create(requests=requests)
    sim.script_batches(BatchReply(seconds=3600))
    batch = create(requests=[{"custom_id": "a", "params": params}])
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 1)
    with pytest.raises(anthropic.BadRequestError, match="no results before"):
        client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=object)
    for call in (client.messages.batches.delete, lambda name: list(client.messages.batches.results(name))):
        with pytest.raises(anthropic.AnthropicError):
            call(batch.id)
    assert client.messages.batches.cancel(batch.id).processing_status == "canceling"
    assert client.messages.batches.retrieve(batch.id).request_counts.canceled == 1
    with pytest.raises(anthropic.BadRequestError, match="has ended"):
        client.messages.batches.cancel(batch.id)
    for name in ("stream", "speed", "fallbacks"):
        asked = {**params, name: True if name == "stream" else "fast"}
        done = create(requests=[{"custom_id": "a", "params": asked}])
        (entry,) = client.messages.batches.results(done.id)
        assert entry.result.type == "errored"
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)
    assert client.messages.batches.list(limit=1, after_id=sim.batches[-1].id).data
    for path in ("/v1/messages/batches/x/y", "/v1/messages/batches"):
        with pytest.raises(anthropic.NotFoundError):
            client.put(path, cast_to=object)
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        client.messages.batches.list(limit=5000)
    with pytest.raises(ValueError, match="unknown fault 'odd'"):
        BatchReply(fault="odd")
    asked = {**params, "max_tokens": 0}
    (entry,) = client.messages.batches.results(create(requests=[{"custom_id": "a", "params": asked}]).id)
    assert entry.result.type == "errored"
    monkeypatch.setattr("claude_client.simulator._batches.MOST_REQUESTS", 1)
    with pytest.raises(anthropic.APIStatusError, match="at most 1"):
        create(requests=[{"custom_id": name, "params": params} for name in "ab"])
    listed = list(client.messages.batches.list(limit=1))
    assert [one.id for one in listed] == [one.id for one in reversed(sim.batches)]


# Killed


KILLED = [
    {"prompt": f"say {n}", "task_id": f"task-{n}", "extra_headers": {"anthropic-beta": f"beta-{n % 4}"}}
    for n in range(300)
]
# Each life is forked from what has imported everything, so that it is at work when it is killed, and not yet to begin.
LIVES = f"""
import os, select, signal, sys
import anthropic
from orchestration import invoke_batch
for seconds in sys.argv[2:]:
    if (life := os.fork()) == 0:
        results = invoke_batch({KILLED!r}, journal=sys.argv[1], poll_interval=0.05, check_first=False)
        os._exit(0 if all(results) else 1)
    select.select([os.pidfd_open(life)], [], [], float(seconds))
    os.kill(life, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(life, 0)[1]) in (0, -signal.SIGKILL)
"""


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_killed_ten_times_pays_for_each_prompt_once(seed, monkeypatch, tmp_path):
    draw, journal = random.Random(seed), tmp_path / "run.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(Path(claude_client.__file__).parent.parent)}
    with Simulator() as sim:
        environment["ANTHROPIC_BASE_URL"] = sim.base_url
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        sim.script_batches(*[BatchReply(seconds=draw.uniform(0, 2), lost_answer=draw.random() < 0.3) for _ in range(4)])
        seconds = [str(draw.uniform(0, 0.6)) for _ in range(10)]
        subprocess.run([sys.executable, "-c", LIVES, str(journal), *seconds], env=environment, check=True)
        results = invoke_batch(KILLED, journal=journal, **QUICK)
        assert [answer[-len(prompt["prompt"]) :] for answer, prompt in zip(results, KILLED, strict=True)] == [
            prompt["prompt"] for prompt in KILLED
        ]
        assert set(batched(sim).values()) == {1}
        assert len(sim.batches) == 4
        claude_client.set_default_client(None)
