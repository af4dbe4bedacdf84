"""What a run tells of itself: the record of each request, the rows of its table, and the foot of its summary."""

import csv
import json
import pickle
import sys
from datetime import UTC, datetime

import pytest

import claude_client
from claude_client import ClaudeInvocationError, ConversationThread, Results, Usage, invoke_claude, invoke_parallel
from claude_client._values.record import Asked, AttemptRecord, RunRecord, now
from claude_client._values.table import Spread
from claude_client._values.text import span
from claude_client.simulator import Reply, Simulator
from helpers import error, reply, streamed
from orchestration import ConcurrencyLimiter, invoke_parallel_managed

CONTEXT = "shared, " * 1250  # 2,500 tokens by the simulator's count
QUICK = {"base_delay_ms": 20, "max_delay_ms": 20}


def times(attempt):
    """The times of all that happened, in the order in which it has to."""
    return [at for at in (attempt.queued, attempt.sent, attempt.first_byte, attempt.first_text, attempt.ended) if at]


def test_every_request_of_a_call_is_on_record(sim):
    sim.script(Reply(fault="early_end"), Reply(fault="overloaded", retry_after=0.01), Reply(text="Hello"))
    before = now()
    answer = invoke_claude("hi", streaming=True)
    after = now()
    assert [attempt.outcome for attempt in answer.attempts] == ["incomplete_stream", "overloaded", "ok"]
    assert [attempt.status for attempt in answer.attempts] == [200, 529, 200]
    assert [attempt.request_id for attempt in answer.attempts] == [request.request_id for request in sim.requests]
    assert {attempt.model for attempt in answer.attempts} == {"claude-sonnet-4-6"}
    seen = [at for attempt in answer.attempts for at in times(attempt)]
    assert [before, *seen, after] == sorted([before, *seen, after])
    assert [len(times(attempt)) for attempt in answer.attempts] == [5, 4, 5]
    assert [sorted(attempt.waited) for attempt in answer.attempts[1:]] == [["retry"], ["retry"]]


def test_waits_and_requests_add_up_to_the_time_of_a_task(sim):
    sim.script(Reply(fault="overloaded"), Reply(fault="rate_limit", retry_after=0.1), matching="prompt 1")
    asked = [{"prompt": f"prompt {n}", "category": "one"} for n in range(4)]
    results = invoke_parallel_managed(asked, concurrency_limiter=ConcurrencyLimiter(3, {"one": 1}), **QUICK)
    assert sum(len(answer.attempts) for answer in results) == 6
    for row, answer in zip(results.to_dicts(), results, strict=True):
        requests = sum(attempt.took for attempt in answer.attempts)
        assert row["waited"] + requests <= row["took"] <= results.took
        for attempt in answer.attempts:
            assert attempt.queued + sum(attempt.waited.values()) <= attempt.sent + 1e-6
    assert any("limiter" in attempt.waited for answer in results for attempt in answer.attempts)
    again = next(answer for answer in results if len(answer.attempts) == 3)
    assert [attempt.outcome for attempt in again.attempts] == ["overloaded", "rate_limit", "ok"]
    assert again.attempts[1].waited["retry"] >= 0.02 - 1e-6


def test_a_record_says_who_wrote_the_cache_and_who_read_it(monkeypatch):
    asked = [{"prompt": f"prompt {n}"} for n in range(3)]
    with Simulator(latency=0.5) as sim:  # so long that the others are there before the writer's answer is
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        results = invoke_parallel(asked, shared_system=CONTEXT, cache_shared_system=True)
    roles = [(answer.attempts[0].wrote_cache, answer.attempts[0].read_cache) for answer in results]
    assert sorted(roles) == [(False, True), (False, True), (True, False)]
    assert sum("cache writer" in answer.attempts[0].waited for answer in results) == 2


def test_an_error_has_the_requests_that_led_to_it(api, slept):
    api.answers(error(500, "api_error"), error(500, "api_error"), error(400, "invalid_request_error"))
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude("hi")
    assert [attempt.outcome for attempt in failed.value.attempts] == ["server_error", "server_error", "invalid_request"]
    copy = pickle.loads(pickle.dumps(failed.value))
    assert copy.attempts == failed.value.attempts


def test_what_made_no_request_has_none_on_record():
    assert ClaudeInvocationError("no").attempts == ()
    results = invoke_parallel([{"prompt": " "}], return_exceptions=True)
    assert results[0].attempts == ()


def test_records_cannot_be_changed(api):
    api.answers(reply())
    with pytest.raises(AttributeError):
        invoke_claude("hi").attempts[0].sent = 5.0


def test_recalled_answers_have_the_records_of_the_run_that_asked(sim, tmp_path):
    sim.script(Reply(fault="overloaded"), Reply(text="Hello"), Reply(fault="refusal"))
    asked = [{"prompt": "a"}, {"prompt": "b"}]
    runs = [invoke_parallel_managed(asked, journal=tmp_path / "journal", max_workers=1, **QUICK) for _ in range(2)]
    assert runs[1].recalled == {0, 1}
    for index in (0, 1):
        first, second = ((run[index] or run.errors[index]).attempts for run in runs)
        assert second == first
    outcomes = sorted(attempt.outcome for item in (runs[0][0] or runs[0].errors[0],) for attempt in item.attempts)
    assert "overloaded" in outcomes
    assert "answers a second" not in runs[1].summary()


def test_results_say_when_their_run_was_and_how_long_it_took(api):
    before = datetime.now(UTC)
    api.answers(reply())
    results = invoke_parallel([{"prompt": "hi"}])
    assert abs((results.started_at - before).total_seconds()) < 5
    assert 0 < results.took < 20
    by_hand = Results()
    assert (by_hand.started_at, by_hand.took, by_hand.to_dicts()) == (None, None, [])


def test_a_table_has_a_row_of_plain_values_for_each_prompt(api):
    usage = {"input_tokens": 7, "output_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2}
    api.answers(reply("Hi", usage=usage), error(404, "not_found_error", "Gone"), streamed("Hello"))
    asked = [{"prompt": "a", "task_id": "first", "category": "mine"}, {"prompt": "b", "model": "claude-typo"}]
    results = invoke_parallel([*asked, {"prompt": "c", "streaming": True}], return_exceptions=True, max_workers=1)
    first, second, third = results.to_dicts()
    known = {
        name: first[name] for name in first.keys() - {"cost_usd", "saved_by_cache_usd", "wasted_usd", "took", "waited"}
    }
    assert known == {
        "index": 0,
        "task_id": "first",
        "category": "mine",
        "model": "claude-sonnet-4-6",
        "text": "Hi",
        "error": None,
        "message": None,
        "stop_reason": "end_turn",
        "input_tokens": 7,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 3,
        "output_tokens": 5,
        "time_to_first_text": None,
        "attempts": 1,
        "retries": 0,
        "tool_calls": 0,
        "request_id": "req_1",
    }
    assert (first["cost_usd"], type(first["took"]), type(first["text"])) == (results[0].cost_usd, float, str)
    assert (second["index"], second["model"], second["text"]) == (1, "claude-typo", "")
    assert (second["error"], second["message"]) == ("not_found", "404 not_found_error: Gone")
    assert third["time_to_first_text"] >= 0


def test_a_task_that_was_not_asked_has_a_row_too(sim):
    asked = [{"prompt": "a", "task_id": "kept"}, {"prompt": "b", "task_id": "dropped", "category": "c"}]
    rows = invoke_parallel_managed(asked, reconcile=lambda given, _: given[:1]).to_dicts()
    told = ("task_id", "category", "error", "attempts", "took", "cost_usd", "model")
    assert [rows[1][name] for name in told] == ["dropped", "c", "cancelled", 0, None, 0.0, "claude-sonnet-4-6"]


def test_the_table_is_written_as_json_lines_and_as_csv(api, tmp_path):
    text = 'A "quoted", \n broken line'
    api.answers(reply(text), error(404, "not_found_error", "Gone"))
    results = invoke_parallel([{"prompt": "a"}, {"prompt": "b"}], return_exceptions=True, max_workers=1)
    results.to_jsonl(tmp_path / "run.jsonl")
    lines = (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == results.to_dicts()
    results.to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [(row["text"], row["error"]) for row in rows] == [(text, ""), ("", "not_found")]


def test_a_csv_of_nothing_has_the_names(tmp_path):
    Results().to_csv(tmp_path / "run.csv")
    assert (tmp_path / "run.csv").read_text().startswith("index,task_id,category,model,text,error")


def test_the_table_is_a_data_frame(api):
    pytest.importorskip("pandas")
    api.answers(reply("Hi"))
    frame = invoke_parallel([{"prompt": "a"}]).to_pandas()
    assert [*frame["text"]] == ["Hi"]
    assert frame["output_tokens"].sum() == 5


def test_without_pandas_one_is_told_what_to_install(api, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_pandas\(\) needs pandas: pip install pandas"):
        Results().to_pandas()


def test_without_prices_the_table_has_no_cost(api, monkeypatch):
    api.answers(reply("Hi"))
    results = invoke_parallel([{"prompt": "a"}])
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert results.to_dicts()[0]["cost_usd"] is None
    assert "$" not in results.summary()


def record(outcome="ok", sent=0.0, ended=1.0, **more):
    return AttemptRecord("claude-sonnet-4-6", Usage(), outcome, queued=0.0, sent=sent, ended=ended, **more)


def answer_of(*attempts):
    answer = claude_client.ClaudeResponse("x")
    answer.attempts = attempts
    return answer


def test_the_foot_of_the_summary_tells_times_waits_and_what_was_made_again(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    answers = [
        answer_of(
            record("overloaded", ended=0.5),
            record(sent=2.0, ended=3.0 + n, first_text=2.25, waited={"retry": 1.5, "worker": 0.0001}),
        )
        for n in range(20)
    ]
    results = Results(answers, run=RunRecord(0.0, 40.0, [Asked()] * 20))
    assert results.summary().splitlines()[22:] == [
        "took 40 s, 0.5 answers a second",
        "latency 10 s (p95 19 s, longest 20 s)",
        "first text after 250 ms (p95 250 ms, longest 250 ms)",
        "waited for retry 1.5 s (p95 1.5 s, longest 1.5 s)",
        "made again: 20 after overloaded",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0004, "0.4 ms"), (0.25, "250 ms"), (1, "1 s"), (119.9, "120 s"), (150, "2.5 min")]
)
def test_a_span_is_told_in_the_unit_that_fits(seconds, said):
    assert span(seconds) == said


def test_a_spread_is_told_by_the_ranks_of_what_there_is():
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == (3.0, 3.0, 3.0)
    assert Spread.of(range(1, 101)) == (50, 95, 100)


def test_a_turn_has_its_requests_on_record(api):
    api.answers(reply(), reply())
    thread = ConversationThread()
    assert len(thread.send("a").attempts) == len(thread.send("b").attempts) == 1
