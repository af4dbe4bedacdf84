"""One call with the backoff of managed runs."""

import logging

import pytest

from claude_client import ClaudeInvocationError, InterruptToken
from helpers import error, reply
from orchestration import compute_backoff_delay, invoke_with_retry


def test_delays_double_up_to_their_cap():
    assert [compute_backoff_delay(attempt) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert compute_backoff_delay(3, base_ms=100, max_ms=250) == 0.25


def test_a_continuation_always_waits_a_second():
    assert {compute_backoff_delay(attempt, is_continuation=True) for attempt in (1, 5, 99)} == {1.0}


def test_a_failure_is_tried_again_with_jitter_that_never_goes_above_the_cap(api, slept):
    api.answers(*[error(500)] * 3, reply("at last"))
    assert invoke_with_retry("hi", base_delay_ms=1000, max_delay_ms=3000) == "at last"
    assert len(slept) == 3
    for waited, least, most in zip(slept, (1, 2, 3), (1.25, 2.5, 3), strict=True):
        assert least <= waited <= most


def test_three_retries_make_four_requests_at_the_most(api, slept):
    api.always(lambda _: error(500))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_retry("hi", max_retries=3)
    assert caught.value.kind == "server_error"
    assert len(api.requests) == 4


def test_a_continuation_waits_a_second_each_time(api, slept):
    api.answers(*[error(500)] * 3, reply("at last"))
    assert invoke_with_retry("hi", is_continuation=True) == "at last"
    assert slept == [1.0, 1.0, 1.0]


def test_the_apis_own_pause_wins(api, slept):
    api.answers(error(529, headers={"retry-after": "7"}), reply("at last"))
    assert invoke_with_retry("hi") == "at last"
    assert slept == [7.0]


def test_a_pause_of_any_length_is_waited_for_with_a_line_in_the_log(api, slept, caplog):
    caplog.set_level(logging.WARNING)
    api.answers(error(529, headers={"retry-after": "3600"}), reply("at last"))
    assert invoke_with_retry("hi") == "at last"
    assert slept == [3600.0]
    assert [record.getMessage() for record in caplog.records] == [
        "A call has to wait 3600 s until it may be tried again"
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
    ],
)
def test_what_cannot_succeed_is_not_tried_again(api, slept, status, kind):
    api.answers(error(status, kind))
    with pytest.raises(ClaudeInvocationError):
        invoke_with_retry("hi")
    assert len(api.requests) == 1
    assert slept == []


def test_a_wait_can_be_interrupted(api):
    token = InterruptToken()

    def refuse(_):
        token.interrupt()
        return error(529, headers={"retry-after": "3600"})

    api.always(refuse)
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_with_retry("hi", interrupt_token=token)
    assert caught.value.kind == "interrupted"


def test_everything_that_a_call_takes_is_passed_on(api):
    api.answers(reply())
    invoke_with_retry("hi", "claude-haiku-4-5", "s", 7, 0.5, cache_system=True, top_k=3, metadata={"user_id": "u"})
    assert (api.body["model"], api.body["max_tokens"], api.body["temperature"]) == ("claude-haiku-4-5", 7, 0.5)
    assert (api.body["top_k"], api.body["metadata"]) == (3, {"user_id": "u"})
    assert api.body["system"][0]["cache_control"]


@pytest.mark.parametrize(
    "options", [{"max_retries": -1}, {"base_delay_ms": -1}, {"max_delay_ms": -1}, {"prompt": " "}, {"max_tokens": 0}]
)
def test_bad_input_is_a_value_error_before_any_request(api, options):
    with pytest.raises(ValueError, match=r"max_retries|base_ms|max_ms|prompt|max_tokens"):
        invoke_with_retry(**{"prompt": "hi", **options})
    assert api.requests == []


def test_the_example_of_the_seed(api, slept):
    api.answers(error(529), reply("well"))
    response = invoke_with_retry(
        "Analyze this code...",
        max_retries=3,
        base_delay_ms=1000,
        max_delay_ms=10000,
    )
    assert response == "well"
