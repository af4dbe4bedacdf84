"""Runs whose requests the workers of a Dask cluster send: in this process, and by `pytest -m long` in others."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster

import claude_client
import orchestration._dask_fleet as fleet
import orchestration._dask_worker as desks
import orchestration.distributed
from claude_client import Budget, InterruptToken
from claude_client._engine.parcels import Inbox, Parcel, Room
from claude_client._values.attempt import Attempt
from claude_client.simulator import Limits, Reply, Simulator
from helpers import until
from orchestration import ConcurrencyLimiter, invoke_parallel_managed
from orchestration.distributed import invoke_distributed
from simulation import request_of
from task_state import TaskTracker

pytestmark = [
    pytest.mark.once,
]


def cluster(workers, *, processes):
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=processes,
        protocol="tcp://",  # any other has it look for the network
        dashboard_address=":0",
        silence_logs=False,
    )


@pytest.fixture(scope="module")
def here():
    """A cluster of two workers in this process."""
    with cluster(2, processes=False) as started, Client(started) as client:
        yield client


@pytest.fixture(autouse=True)
def no_desk_is_left():
    yield
    assert not desks._desks


def prompts(count):
    return [{"prompt": f"number {n}"} for n in range(count)]


def asked(sim):
    return Counter(request.text for request in sim.requests)


def echo(request):
    return Reply(text=request.body["messages"][0]["content"])


# In one process.


def test_answers_are_in_order_and_each_prompt_is_asked_once(here, sim):
    sim.script_by(echo)
    results = invoke_distributed(prompts(30), client=here, max_workers=3)
    assert [*results] == [prompt["prompt"] for prompt in prompts(30)]
    assert max(asked(sim).values()) == 1
    assert (results.errors, results.tracker.get("prompts[3]").state.value) == ({}, "completed")
    record = results[0].attempts[0]
    assert record.queued <= record.sent <= record.first_byte <= record.ended
    assert results.usage.output_tokens > 0


def test_no_more_are_under_way_than_all_workers_have_room_for(here, sim):
    held = threading.Event()
    sim.script_by(lambda _: Reply(until=held))
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(9), client=here, max_workers=2)
        until(lambda: len(sim.requests) == 4)
        held.set()
        assert None not in run.result(timeout=20)
    assert max(request.in_flight for request in sim.requests) == 4


def test_a_journal_is_of_a_run_here_and_there(here, sim, tmp_path):
    first = invoke_parallel_managed(prompts(4), journal=tmp_path / "j")
    seen = []
    told = lambda index, answer: seen.append((index, answer))  # noqa: E731
    results = invoke_distributed(prompts(6), client=here, journal=tmp_path / "j", on_result=told)
    assert [*results][:4] == [*first]
    assert results.recalled == {0, 1, 2, 3}
    assert max(asked(sim).values()) == 1
    assert sorted(index for index, _ in seen) == [*range(6)]
    assert [*invoke_parallel_managed(prompts(6), journal=tmp_path / "j")] == [*results]
    assert len(sim.requests) == 6


def test_an_interrupt_ends_what_is_under_way_and_keeps_what_came(here, sim, tmp_path):
    sim.script(*[Reply(text="whole")] * 4, *[Reply(until=threading.Event())] * 16)
    token, came = InterruptToken(), []

    def told(index, answer):
        came.append(index)
        if len(came) == 4:
            until(lambda: len(sim.requests) == 8)
            token.interrupt()

    results = invoke_distributed(
        prompts(20), client=here, max_workers=2, interrupt_token=token, on_result=told, journal=tmp_path / "j"
    )
    assert sum(answer == "whole" for answer in results) == 4
    assert {error.kind for error in results.errors.values()} == {"interrupted"}
    until(lambda: all(request.ended for request in sim.requests))
    sim.reset()
    assert len(invoke_distributed(prompts(20), client=here, journal=tmp_path / "j").recalled) == 4


def test_a_task_that_is_cancelled_is_ended_at_its_worker(here, sim):
    sim.script(Reply(until=threading.Event()), Reply())
    tracker = TaskTracker()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(2), client=here, tracker=tracker, max_workers=1)
        until(lambda: any(request.ended for request in sim.requests) and len(sim.requests) == 2)
        (held,) = [request.text for request in sim.requests if not request.ended]
        tracker.cancel(f"prompts[{held.split()[1]}]")
        assert [error.kind for error in run.result(timeout=20).cancelled.values()] == ["cancelled"]


def test_a_budget_is_never_overspent(here, sim):
    prices = {"claude-sonnet-4-6": {"input": 1000, "output": 1000}}
    budget = Budget(0.3, prices=prices)
    results = invoke_distributed(prompts(40), client=here, max_tokens=30, budget_usd=budget)
    assert {error.kind for error in results.errors.values()} == {"budget"}
    assert 0 < budget.state.spent <= 0.3
    assert budget.state.reserved == 0


def test_all_workers_keep_to_one_limit(here, monkeypatch):
    with Simulator(limits=Limits(requests_per_second=50, request_burst=5)) as sim:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        results = invoke_distributed(prompts(60), client=here, max_workers=10)
        assert not results.errors
        assert sum(request.outcome == "rejected" for request in sim.requests) <= 20


def test_one_writes_the_shared_prompt_and_the_others_wait_until_its_answer_has_begun(here, sim):
    go_on = threading.Event()
    sim.script(Reply(text="a b c", pause=go_on, after_chunks=1), *[Reply()] * 3)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(
            invoke_distributed, prompts(4), client=here, shared_system="word " * 5000, cache_shared_system=True
        )
        until(lambda: len(sim.requests) == 4)  # the others do not wait for its end
        go_on.set()
        results = run.result(timeout=20)
    assert [request.stream for request in sim.requests] == [True, False, False, False]
    assert results.usage.cache_read_input_tokens > 0
    assert results[0].attempts[0].first_text is not None


def test_a_stream_that_stalls_is_ended_and_asked_again(here, sim, monkeypatch):
    monkeypatch.setattr(orchestration.distributed, "_SHORTEST_STALL", 0.6)
    sim.script(Reply(fault="silent_with_pings", after_chunks=1, ping_interval=0.1), Reply(text="again"))
    stalled = []
    results = invoke_distributed(
        prompts(1), client=here, stall_timeout=0.6, on_stall=lambda *told: stalled.append(told), base_delay_ms=1
    )
    assert [*results] == ["again"]
    assert [name for name, _ in stalled] == ["prompts[0]"]


def test_files_are_read_here_and_what_is_gone_is_an_error_of_its_prompt(here, sim, tmp_path):
    file = tmp_path / "picture"
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    source = {"type": "base64", "media_type": "image/png", "data": file}
    limiter, many = ConcurrencyLimiter(1), [{"prompt": [{"type": "image", "source": source}]}]
    assert None not in invoke_distributed(many, client=here)
    with ThreadPoolExecutor(1) as pool:
        assert limiter.acquire()
        run = pool.submit(invoke_distributed, many, client=here, concurrency_limiter=limiter)
        until(lambda: limiter.statistics().total.waiting)
        file.unlink()
        limiter.release()
        (error,) = run.result(timeout=20).errors.values()
    assert (error.kind, "cannot be" in str(error)) == ("invalid_request", True), error
    assert len(sim.requests) == 1


def test_failures_and_refusals_come_as_they_are(here, sim):
    sim.script(Reply(fault="overloaded"), Reply(text="late"))
    assert [*invoke_distributed(prompts(1), client=here, base_delay_ms=1)] == ["late"]
    sim.script(Reply(fault="refusal"))
    results = invoke_distributed([{"prompt": "no", "temperature": 0.5}], client=here)
    assert results.errors[0].kind == "refusal"
    assert results.errors[0].usage.input_tokens > 0


def test_what_cannot_be_sent_is_not_tried_again(here, sim):
    results = invoke_distributed(prompts(1), client=here, extra_headers={"x-more": "two\r\nlines"})
    assert (results.errors[0].kind, len(results.errors[0].attempts)) == ("invalid_request", 1)
    assert not sim.requests


def test_a_deadline_holds_there_too(here, sim):
    sim.script(Reply(until=threading.Event()))
    results = invoke_distributed(prompts(1), client=here, deadline=0.3, max_retries=0)
    assert results.errors[0].kind == "timeout"


# Bad input, and workers of no use.


@pytest.mark.parametrize(
    ("options", "wrong", "said"),
    [
        ({"client": None}, TypeError, "client must be a Client"),
        ({"api_key": "sk-ant-x"}, TypeError, "api_key"),
        ({"extra_headers": {"X-Api-Key": "sk-ant-x"}}, ValueError, r"prompts\[0\]: extra_headers has 'X-Api-Key'"),
        ({"extra_query": {"token": "x"}}, ValueError, "extra_query has 'token'"),
        (
            {"fallback_models": [{"model": "claude-haiku-4-5", "extra_headers": {"authorization": "x"}}]},
            ValueError,
            "authorization",
        ),
        ({"stall_timeout": 1}, ValueError, "at least 2"),
        ({"max_workers": 0}, ValueError, "max_workers"),
        ({"concurrency_limiter": 5}, TypeError, "ConcurrencyLimiter"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(here, sim, options, wrong, said):
    with pytest.raises(wrong, match=said) as raised:
        invoke_distributed(prompts(1), **{"client": here, **options})
    assert "sk-ant" not in str(raised.value)
    assert not sim.requests


def test_a_client_on_the_loop_of_this_thread_is_refused(here):
    async def on_its_loop():
        return invoke_distributed(prompts(1), client=here)

    with pytest.raises(ValueError, match="must not be asynchronous"):
        here.sync(on_its_loop)


def test_workers_without_a_key_are_named(here, sim, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(ValueError, match=r"tcp://.*: No Claude API credentials found.*; tcp://"):
        invoke_distributed(prompts(1), client=here)
    assert not sim.requests


def test_a_key_that_is_malformed_is_said_and_not_shown(here, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret key")
    with pytest.raises(ValueError, match="whitespace") as raised:
        invoke_distributed(prompts(1), client=here)
    assert "secret" not in str(raised.value)


def test_a_key_that_is_lost_in_the_middle_stops_the_run(here, sim, monkeypatch):
    def lose(index, answer):
        monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)

    limiter = ConcurrencyLimiter(1)
    results = invoke_distributed(prompts(5), client=here, on_result=lose, concurrency_limiter=limiter, max_workers=1)
    assert results.errors
    assert all("No Claude API credentials found" in str(error) for error in results.errors.values())


def test_workers_of_another_version_are_refused(here, sim, monkeypatch):
    monkeypatch.setattr(fleet, "versions", lambda: {"orchestrating-agents": "0.0.1", "anthropic": "0"})
    with pytest.raises(
        ValueError, match=rf"it has orchestrating-agents {claude_client.__version__}, and this process 0"
    ):
        invoke_distributed(prompts(1), client=here)


@pytest.mark.parametrize(
    ("greeting", "said"),
    [(ModuleNotFoundError("No module named 'orchestration'"), "not installed there"), (OSError("cut"), "OSError: cut")],
)
def test_a_worker_that_does_not_know_us_says_so(greeting, said):
    assert said in fleet._problem_of(greeting, desks.versions())


def test_a_cluster_without_workers_is_an_error():
    with cluster(0, processes=False) as empty, Client(empty) as client, pytest.raises(ValueError, match="no workers"):
        invoke_distributed(prompts(1), client=client)


# Workers that come and go.


def test_what_a_worker_that_is_gone_had_under_way_is_asked_by_another(here, sim, monkeypatch, caplog):
    monkeypatch.setattr(fleet, "_LOOK", 0.05)
    prices = {"claude-sonnet-4-6": {"input": 1, "output": 1}}
    budget = Budget(100.0, prices=prices)
    sim.script_by(echo)
    sim.script(*[Reply(until=threading.Event())] * 4)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(6), client=here, max_workers=2, max_retries=0, budget_usd=budget)
        until(lambda: len(sim.requests) == 4)
        forget_all(here)
        results = run.result(timeout=20)
    assert [*results] == [prompt["prompt"] for prompt in prompts(6)]
    assert results[0].attempts[0].outcome == "connection"
    assert "is gone, with 2 prompts under way" in caplog.text
    assert budget.state.reserved > 0  # nobody knows what those cost that were under way


def forget_all(client):
    for key in {key for key, _ in [*desks._desks]}:
        client.run(desks.claude_leave, key)


def test_a_prompt_is_not_sent_anew_for_ever(here, sim, monkeypatch):
    monkeypatch.setattr(fleet, "_LOOK", 0.02)
    sim.script(*[Reply(until=threading.Event())] * 50)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(1), client=here, max_retries=0)
        until(lambda: sim.requests)
        until(lambda: forget_all(here) or run.done())
        (error,) = run.result(timeout=20).errors.values()
    assert (error.kind, len(error.attempts)) == ("connection", 11)


def test_without_any_worker_for_a_while_nothing_more_is_sent(here, sim, monkeypatch):
    monkeypatch.setattr(fleet, "_PATIENCE", 0.2)
    monkeypatch.setattr(fleet, "_LOOK", 30)
    sim.script(*[Reply(until=threading.Event())] * 4)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(5), client=here, max_workers=2)
        until(lambda: len(sim.requests) == 4)
        forget_all(here)
        results = run.result(timeout=20)
    assert {str(error) for error in results.errors.values()} == {"connection: There has been no Dask worker for 0 s"}
    assert len(results.errors) == 5


def test_a_worker_that_joins_and_is_of_no_use_is_told_of_once(here, sim, caplog):
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(fleet, "_LOOK", 0.02)
    held = threading.Event()
    sim.script(Reply(until=held), Reply(until=held))
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(2), client=here, max_workers=1)
        until(lambda: len(sim.requests) == 2)
        looks = []
        monkeypatch.setattr(fleet, "_problem_of", lambda *_: looks.append(1) or "a problem")
        forget_all(here)
        until(lambda: len(looks) > 4)  # at each of the two, again and again
        monkeypatch.undo()
        held.set()
        assert None not in run.result(timeout=20)
    assert caplog.text.count("is of no use") == 2


def test_a_run_that_asks_no_more_is_taken_for_dead(here, sim, monkeypatch):
    monkeypatch.setattr(desks, "_ABANDONED", 0.1)
    sim.script(Reply(until=threading.Event()))
    here.run(desks.claude_enter, "dead", [])
    here.run(desks.claude_take, "dead", [Parcel(0, request_of(), False, 100.0)], [])
    until(lambda: len(sim.requests) >= 1)
    until(lambda: not desks._desks)
    until(lambda: all(request.ended for request in sim.requests))
    assert [*here.run(desks.claude_collect, "dead", 0).values()] == [None, None]
    assert [*here.run(desks.claude_take, "dead", [], []).values()] == [False, False]


# Parcels and reports.


def room_of():
    told = threading.Event()
    room = Room(told.set)
    return room, told


def inbox_of(**given):
    attempt = Attempt(request_of(), 0.0)
    for name, value in given.items():
        setattr(attempt, name, value)
    return Inbox(7, attempt), attempt


def test_a_scheduler_that_does_not_answer_is_asked_again(here, sim, monkeypatch, caplog):
    caplog.set_level("INFO", "orchestration")
    monkeypatch.setattr(fleet, "_LOOK", 0.02)
    held = threading.Event()
    sim.script(Reply(until=held))
    ask = here.run

    def fail_to_enter(function, *args, **options):
        if function is desks.claude_enter:
            raise OSError("no scheduler")
        return ask(function, *args, **options)

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(1), client=here)
        until(lambda: sim.requests)
        monkeypatch.setattr(here, "run", fail_to_enter)
        until(lambda: "No news of the Dask workers: no scheduler" in caplog.text)
        monkeypatch.setattr(here, "run", ask)
        held.set()
        assert None not in run.result(timeout=20)


def watched(*news):
    """What becomes of a worker that answers with *news*, one after another, when it is asked for reports."""
    left, lost = [*news], []

    async def run(function, _, *__, workers):
        if function is not desks.claude_collect:
            return {workers[0]: True}
        if isinstance(left[0], Exception):
            raise left[0]
        return {workers[0]: left.pop(0)}

    async def main():
        of_run = SimpleNamespace(
            run="run", client=SimpleNamespace(run=run), lose=lambda one, why: lost.append((one, why))
        )
        worker = fleet._Worker(of_run, "tcp://somewhere", 1)
        await asyncio.wait(worker._tasks)
        assert worker.is_lost
        return worker

    worker = asyncio.run(main())
    ((whose, why),) = lost
    assert whose is worker
    return worker, why


def test_what_is_reported_of_others_is_passed_over_and_a_worker_that_forgot_the_run_is_lost():
    worker, why = watched(desks.Handed([(9, b"")], 0.0, {9: 0.0}), None)
    assert why == "it was started anew"
    fleet.Fleet(None, 1).lose(worker, "of another run")


def test_a_worker_that_cannot_be_reached_is_lost():
    _, why = watched(OSError("no route"))
    assert why == "OSError: no route"


def test_what_is_handed_to_a_worker_that_is_just_lost_is_lost_too():
    of_none = fleet.Fleet(None, 1)
    worker = SimpleNamespace(inboxes={}, post=lambda _: None, is_lost=True, room=0)
    attempt = Attempt(request_of(), 0.0)
    attempt.permits.append(fleet.Berth(of_none, worker))
    of_none.send(attempt)
    assert attempt.is_lost
    assert (worker.inboxes, worker.room) == ({}, 1)


def test_a_desk_may_be_closed_twice():
    async def main():
        desk = desks._desks["run", "worker"] = desks._Desk(("run", "worker"))
        desk.close()
        desk.close()

    asyncio.run(main())
    assert not desks._desks


def test_a_worker_that_does_not_answer_an_abort_is_not_waited_for():
    inbox, attempt = inbox_of(ends_at=time.monotonic() + 60)
    attempt.abort("cancelled")
    told = []
    inbox.wait(told.append)
    assert time.monotonic() < attempt.ends_at
    assert (told, attempt.error.kind, attempt.is_lost) == (["cancelled"], "cancelled", False)


def test_an_attempt_that_is_aborted_and_lost_is_not_made_again():
    inbox, attempt = inbox_of()
    inbox.lose()
    attempt.abort()
    inbox.wait(lambda _: None)
    assert (attempt.error.kind, attempt.is_lost) == ("interrupted", False)


def test_a_report_that_cannot_be_read_is_an_error():
    inbox, attempt = inbox_of()
    inbox.put(b"nonsense", 0.0)
    inbox.wait(lambda _: None)
    assert attempt.error.kind == "invalid_response"


def test_an_answer_that_cannot_be_handed_on_is_an_error_that_can():
    room, told = room_of()
    attempt = Attempt(request_of(), 0.0)
    attempt.message = lambda: None
    room.report(7, attempt, is_over=True)
    ((number, pickled),) = room.reports()
    assert (number, told.is_set()) == (7, True)
    inbox, received = inbox_of()
    inbox.put(pickled, 0.0)
    inbox.wait(lambda _: None)
    assert "cannot be handed on" in str(received.error)


def test_a_key_that_is_malformed_by_now_fails_what_is_sent(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    room, told = room_of()
    room.take([Parcel(7, request_of(), False, 10.0)])
    assert told.wait(10)
    inbox, attempt = inbox_of()
    ((_, pickled),) = room.reports()
    room.abort(7, "interrupted")
    room.close()
    inbox.put(pickled, 0.0)
    inbox.wait(lambda _: None)
    assert attempt.error.kind == "authentication"


# In processes of their own.


@pytest.fixture(scope="module")
def machines():
    """A cluster of two workers, each in a process."""
    with cluster(2, processes=True) as started, Client(started) as client:
        yield client


@pytest.fixture
def there(machines, sim):
    """... which ask the simulator, also where they are started anew."""
    machines.wait_for_workers(2)
    point_at(machines, sim)
    return machines


def set_variable(client, name, value, **where):
    """Have it in the environment of workers, or no more if it is None. They cannot import what stands in here."""
    change = f"os.environ.pop({name!r}, None)" if value is None else f"os.environ[{name!r}] = {value!r}"
    client.run(exec, f"import os; {change}", **where)


def point_at(client, sim, key="of-the-workers"):
    set_variable(client, "ANTHROPIC_BASE_URL", sim.base_url)
    set_variable(client, "ANTHROPIC_API_KEY", key)


@pytest.mark.long
@pytest.mark.once
def test_a_worker_that_is_killed_loses_no_prompt_and_repeats_none_that_was_answered(there, sim, monkeypatch, tmp_path):
    monkeypatch.delenv("ANTHROPIC_API_KEY")  # the caller needs none; a worker that is started anew has none either
    sim.script_by(echo)
    held = threading.Event()
    sim.script(*[Reply(latency=0.05)] * 20, *[Reply(until=held)] * 10)
    victims, before = [*there.run(os.getpid).values()], []

    def told(index, answer):
        before.append(index)
        if len(before) == 20:
            until(lambda: len(sim.requests) == 30)
            os.kill(victims[0], signal.SIGKILL)
            held.set()

    results = invoke_distributed(
        prompts(80), client=there, max_workers=5, max_retries=0, on_result=told, journal=tmp_path / "j"
    )
    assert not results.errors
    counts = asked(sim)
    assert all(counts[f"number {index}"] == 1 for index in before[:20])
    assert len(counts) == 80
    assert 80 < len(sim.requests) <= 85
    assert {len(answer.attempts) for answer in results} == {1, 2}
    assert len(invoke_distributed(prompts(80), client=there, journal=tmp_path / "j").recalled) == 80


@pytest.mark.long
@pytest.mark.once
def test_an_interrupt_reaches_requests_in_other_processes(there, sim):
    sim.script_by(lambda _: Reply(until=threading.Event()))
    token = InterruptToken()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(invoke_distributed, prompts(20), client=there, max_workers=5, interrupt_token=token)
        until(lambda: len(sim.requests) == 10)
        token.interrupt()
        results = run.result(timeout=20)
    assert {error.kind for error in results.errors.values()} == {"interrupted"}
    until(lambda: all(request.ended for request in sim.requests))


@pytest.mark.long
@pytest.mark.once
def test_processes_keep_to_one_limit(there):
    with Simulator(limits=Limits(requests_per_second=100, request_burst=10)) as sim:
        point_at(there, sim)
        results = invoke_distributed(prompts(300), client=there, max_workers=20)
    assert not results.errors
    assert sum(request.outcome == "rejected" for request in sim.requests) <= 100  # without one gate it is most of them


@pytest.mark.long
@pytest.mark.once
def test_a_process_without_a_key_is_named(there, sim):
    (one, *_) = there.run(os.getpid)
    set_variable(there, "ANTHROPIC_API_KEY", None, workers=[one])
    with pytest.raises(ValueError, match=f"{one}: No Claude API credentials found") as raised:
        invoke_distributed(prompts(1), client=there)
    assert str(raised.value).count("tcp://") == 1
    assert not sim.requests


CTRL_C = """
import os, signal, sys, threading
from claude_client import ParallelInterrupt
from distributed import Client
from orchestration.distributed import invoke_distributed
with Client(sys.argv[1]) as client:
    def told(index, answer):
        print("answered", flush=True)
    try:
        invoke_distributed([{"prompt": str(n)} for n in range(9)], client=client, max_workers=2, on_result=told)
    except ParallelInterrupt as interrupt:
        print(len(interrupt.results) - len(interrupt.results.errors), "kept")
"""


@pytest.mark.long
@pytest.mark.once
def test_ctrl_c_ends_the_requests_on_the_workers_and_keeps_what_came(there, sim):
    sim.script_by(lambda _: Reply(until=threading.Event()))
    sim.script(Reply(text="first"))
    command = [sys.executable, "-c", CTRL_C, there.scheduler.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "answered\n"
        until(lambda: len(sim.requests) == 5)
        process.send_signal(signal.SIGINT)
        until(lambda: all(request.ended for request in sim.requests))
        assert process.communicate(timeout=20)[0] == "1 kept\n"


@pytest.mark.long
@pytest.mark.once
def test_requests_of_a_caller_that_is_killed_end_with_those_that_are_under_way(there, sim):
    held = threading.Event()
    sim.script_by(lambda _: Reply(until=held))
    with subprocess.Popen([sys.executable, "-c", CTRL_C, there.scheduler.address]) as process:
        until(lambda: len(sim.requests) == 4)
        process.kill()
    held.set()
    until(lambda: all(request.ended for request in sim.requests))
    assert len(sim.requests) == 4


def test_without_the_extra_the_error_says_what_to_install():
    program = "import sys; sys.modules['distributed'] = None\nimport orchestration\nimport orchestration.distributed"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: orchestration.distributed needs Dask: pip install" in told.stderr


def test_orchestration_does_not_import_dask():
    program = "import sys, orchestration\nassert not {'dask', 'distributed'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)
