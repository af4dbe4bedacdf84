import json
import threading

import pytest

from claude_client import (
    ClaudeInvocationError,
    ParallelInvocationError,
    Results,
    invoke_claude,
    invoke_parallel,
    invoke_parallel_interruptible,
    invoke_parallel_streaming,
)
from helpers import error, reply, streamed


def prompt_of(request):
    return json.loads(request.content)["messages"][0]["content"]


def echo(request):
    return reply(prompt_of(request))


def prompts(*words):
    return [{"prompt": word} for word in words]


def test_answers_come_in_prompt_order_whatever_finishes_first(api):
    second_is_done = threading.Event()

    def answer(request):
        if b"first" in request.content:
            assert second_is_done.wait(10)
        else:
            second_is_done.set()
        return echo(request)

    api.always(answer)
    assert invoke_parallel(prompts("first", "second")) == ["first", "second"]


def test_one_failure_costs_no_other_answer(api):
    api.always(lambda request: error(404, "not_found_error") if b"bad" in request.content else echo(request))
    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel(prompts("a", "bad", "c"))
    assert caught.value.results == ["a", None, "c"]
    assert caught.value.errors.keys() == {1}
    assert caught.value.kind == "not_found"


def test_return_exceptions_puts_the_error_in_its_place(api):
    api.always(lambda request: error(404, "not_found_error") if b"bad" in request.content else echo(request))
    results = invoke_parallel(prompts("a", "bad"), return_exceptions=True)
    assert results[0] == "a"
    assert isinstance(results[1], ClaudeInvocationError)
    assert results.errors == {1: results[1]}


def test_workers_run_at_the_same_time(api):
    together = threading.Barrier(3)

    def answer(request):
        together.wait(10)
        return echo(request)

    api.always(answer)
    assert invoke_parallel(prompts("a", "b", "c"), max_workers=3) == ["a", "b", "c"]


def test_a_prompts_own_options_go_before_those_for_all(api):
    api.always(lambda _: reply())
    invoke_parallel(
        [{"prompt": "a", "model": "claude-haiku-4-5", "max_tokens": 7}], model="claude-opus-5", max_tokens=9
    )
    assert (api.body["model"], api.body["max_tokens"]) == ("claude-haiku-4-5", 7)


def test_the_shared_system_is_the_first_block_of_every_request(api):
    api.always(lambda _: reply())
    invoke_parallel([{"prompt": "a", "system": "x"}, {"prompt": "b"}], shared_system="S", cache_shared_system=True)
    assert {json.dumps(body["system"][0]) for body in api.bodies} == {
        '{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}'
    }


def test_results_are_a_list_with_the_usage_of_all(api):
    api.always(echo)
    results = invoke_parallel(prompts("a", "b"))
    assert isinstance(results, Results)
    assert (results, results.usage.output_tokens) == (["a", "b"], 10)


@pytest.mark.parametrize("workers", [0, -1, 1.5, "5", None, True])
def test_a_number_of_workers_that_is_none_is_refused(api, workers):
    with pytest.raises(ValueError, match="max_workers must be a whole number of at least 1"):
        invoke_parallel(prompts("a"), max_workers=workers)
    assert not api.requests


def test_more_than_ten_workers_are_ten_with_one_warning(api, caplog):
    api.always(echo)
    invoke_parallel(prompts("a"), max_workers=50)
    assert [r.getMessage() for r in caplog.records if r.name == "claude_client"] == [
        (
            "max_workers=50 is more than the 10 allowed: working with 10. For more: as_completed, claude_client.aio or "
            "invoke_parallel_managed, which take up to 1000"
        )
    ]


def test_without_credentials_nothing_is_tried_and_every_place_is_named(api, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(ValueError, match="No Claude API credentials found") as caught:
        invoke_parallel([{"prompt": "a"}, {"prompt": "b"}])
    assert "ANTHROPIC_API_KEY.txt" in str(caught.value)
    assert api.requests == []


def test_prompts_may_bring_their_own_credentials(api, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    api.always(lambda _: reply())
    assert invoke_parallel([{"prompt": "a", "extra_headers": {"X-Api-Key": "sk-ant-own"}}]) == ["Hello"]
    assert api.requests[0].headers["x-api-key"] == "sk-ant-own"


@pytest.mark.parametrize("variant", [invoke_parallel, invoke_parallel_streaming, invoke_parallel_interruptible])
def test_what_a_prompt_may_say_a_fan_out_may_say_for_all_and_the_prompts_own_counts(api, variant):
    api.always(lambda request: streamed("a") if b'"stream":true' in request.content else reply("a"))
    tools = [{"name": "t", "input_schema": {"type": "object"}}]
    own = {"prompt": "b", "temperature": 0.5, "system": "mine", "max_retries": 0}
    variant([{"prompt": "a"}, own], temperature=0.2, system="ours", tools=tools, stop_sequences=["x"], max_workers=1)
    first, second = api.bodies
    assert (first["temperature"], first["system"], second["temperature"], second["system"]) == (
        0.2,
        "ours",
        0.5,
        "mine",
    )
    assert first["tools"] == second["tools"] == tools
    assert first["stop_sequences"] == second["stop_sequences"] == ["x"]


def test_an_option_nobody_knows_is_refused_before_any_request(api):
    with pytest.raises(TypeError, match="unknown parameter 'temprature'; did you mean 'temperature'"):
        invoke_parallel([{"prompt": "a"}], temprature=0.5)
    assert not api.requests


def test_a_shared_system_goes_before_one_that_is_said_for_all(api):
    api.always(reply())
    invoke_parallel([{"prompt": "a"}], shared_system="shared", system="own")
    assert [block["text"] for block in api.body["system"]] == ["shared", "own"]


BAD = [{"prompt": "a"}, {"prompt": " "}, {"prompt": "c"}, {"prompt": "d", "max_tokens": 0}]


def test_all_bad_prompts_are_named_at_once(api):
    with pytest.raises(ValueError, match=r"^prompts\[1\]: prompt is blank: ' '; prompts\[3\]: max_tokens must be"):
        invoke_parallel(BAD)
    with pytest.raises(ValueError, match=r"prompts\[9\]: prompt is blank: ''; and 290 more$"):
        invoke_parallel([{"prompt": ""}] * 300)
    assert not api.requests


def test_a_bad_prompt_may_be_an_error_in_its_place_and_costs_nothing(api):
    api.always(lambda _: reply())
    told = []
    results = invoke_parallel(BAD, return_exceptions=True, on_result=lambda index, _: told.append(index))
    assert [results[0], results[2]] == ["Hello", "Hello"]
    assert [results[1].kind, results[3].kind] == ["invalid_request"] * 2
    assert isinstance(results[1].__cause__, ValueError)
    assert sorted(told) == [0, 1, 2, 3]
    assert len(api.requests) == 2


def test_bad_prompts_alone_need_no_credentials(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    (failed,) = invoke_parallel([{"prompt": ""}], return_exceptions=True)
    assert "prompts[0]: prompt is blank" in str(failed)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "5"])
def test_a_number_of_failures_to_stop_after_that_is_none_is_refused(api, number):
    with pytest.raises(ValueError, match="stop_after must be a whole number of at least 1"):
        invoke_parallel(prompts("a"), stop_after=number)
    assert not api.requests


def test_a_wrong_setting_costs_as_many_requests_as_one_says(api):
    api.always(error(404, "not_found_error", "model: claude-typo"))
    asked = prompts(*"abcdefghij")
    results = invoke_parallel(asked, max_workers=1, stop_after=3, return_exceptions=True)
    assert len(api.requests) == 3
    assert {failed.kind for failed in results} == {"not_found"}
    assert str(results[9]).startswith("Stopped after 3 failures in a row, the last: 404 not_found_error")


def test_the_log_says_of_each_failure_whose_it_was(api, caplog, slept):
    caplog.set_level("INFO", "claude_client")
    replies = {"fine": reply(), "wrong": error(400, "invalid_request_error", "No")}
    again = iter([error(500, "api_error", "Oops"), reply(stop_reason="max_tokens")])
    api.always(lambda request: replies.get(prompt_of(request)) or next(again))
    asked = [{"prompt": "fine"}, {"prompt": "wrong", "task_id": "mine"}, {"prompt": "again"}]
    invoke_parallel(asked, return_exceptions=True, max_workers=1)
    records = [record for record in caplog.records if record.name == "claude_client"]
    fields = ("levelname", "task_id", "attempt", "kind", "request_id", "model")
    assert [tuple(getattr(record, field) for field in fields) for record in records] == [
        ("WARNING", "mine", 1, "invalid_request", "req_1", "claude-sonnet-4-6"),
        ("INFO", "prompts[2]", 1, "server_error", "req_1", "claude-sonnet-4-6"),
        ("WARNING", "prompts[2]", 2, None, "req_1", "claude-sonnet-4-6"),
    ]
    assert records[0].getMessage() == "mine: failed for good at attempt 1: 400 invalid_request_error: No"
    assert records[1].getMessage().startswith("prompts[2]: attempt 1 failed, the next in ")
    assert records[1].delay >= 0
    assert "the answer was cut off (max_tokens, 5 output tokens)" in records[2].getMessage()


def test_a_single_call_leaves_its_failure_to_who_called(api, caplog):
    api.answers(error(400, "invalid_request_error", "No"))
    with pytest.raises(ClaudeInvocationError):
        invoke_claude("hi")
    assert not [record for record in caplog.records if record.levelname != "INFO"]
