import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_client import ClaudeInvocationError, invoke_claude
from claude_client._values.retry import RetryPolicy, compute_backoff_delay, next_delay
from helpers import error, reply

pytestmark = pytest.mark.once


def failed(**fields):
    return ClaudeInvocationError("no", **{"retryable": True, **fields})


def test_the_delay_doubles_up_to_its_cap():
    assert [compute_backoff_delay(attempt) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize("attempt", [0, -1, 1.5])
def test_attempts_count_from_one(attempt):
    with pytest.raises(ValueError, match=f"attempt must be a whole number from 1, got {attempt}"):
        compute_backoff_delay(attempt)


@pytest.mark.parametrize("delay", [-1, math.inf, math.nan, "1"])
def test_a_delay_that_is_none_is_a_value_error(delay):
    with pytest.raises(ValueError, match="base_ms must be a number of milliseconds from 0"):
        compute_backoff_delay(1, base_ms=delay)
    with pytest.raises(ValueError, match="max_ms must be"):
        compute_backoff_delay(1, max_ms=delay)


@given(attempt=st.integers(1, 10**9), base=st.floats(0, 1e6), cap=st.floats(0, 1e6), share=st.floats(0, 1))
def test_no_delay_is_above_its_cap_and_jitter_only_adds(attempt, base, cap, share):
    policy = RetryPolicy(max_retries=10**9, base_ms=base, max_ms=cap)
    delay = next_delay(failed(), attempt, policy, jitter=lambda: share)
    assert compute_backoff_delay(attempt, base_ms=base, max_ms=cap) <= delay <= cap / 1000


def test_a_call_without_other_word_waits_half_a_second_first_and_a_little_more():
    delays = {next_delay(failed(), 1, RetryPolicy()) for _ in range(20)}
    assert len(delays) > 1
    assert all(0.5 <= delay <= 0.625 for delay in delays)


def test_retry_after_goes_before_the_policy():
    assert next_delay(failed(retry_after=42.0), 1, RetryPolicy()) == 42.0


def test_a_retry_after_above_a_minute_is_not_waited_for():
    assert next_delay(failed(retry_after=60.0), 1, RetryPolicy()) == 60.0
    assert next_delay(failed(retry_after=60.1), 1, RetryPolicy()) is None


def test_what_cannot_succeed_is_not_tried_again():
    assert next_delay(failed(retryable=False), 1, RetryPolicy()) is None


@given(st.integers(0, 20))
def test_max_retries_counts_what_follows_the_first_attempt(max_retries):
    policy = RetryPolicy(max_retries=max_retries)
    tried = [next_delay(failed(), attempt, policy) is not None for attempt in range(1, max_retries + 2)]
    assert tried == [True] * max_retries + [False]


def test_a_call_waits_as_long_as_it_was_told(api, slept):
    api.answers(error(429, headers={"retry-after": "3"}), reply())
    invoke_claude("hi")
    assert slept == [3.0]


def test_a_call_told_to_wait_too_long_raises_at_once(api, slept):
    api.answers(error(429, headers={"retry-after": "3600"}))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi")
    assert (slept, caught.value.retry_after) == ([], 3600.0)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_these_are_tried_again(api, slept, status):
    api.answers(error(status), reply())
    assert invoke_claude("hi") == "Hello"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error")]
)
def test_these_are_not(api, slept, status, kind):
    api.answers(error(status, kind))
    with pytest.raises(ClaudeInvocationError):
        invoke_claude("hi")
    assert len(api.requests) == 1


def test_a_spend_limit_is_asked_once(api, slept):
    api.answers(error(429, "rate_limit_error", code="enforced_spend_limit_reached"))
    with pytest.raises(ClaudeInvocationError):
        invoke_claude("hi", max_retries=5)
    assert len(api.requests) == 1


def test_should_retry_is_obeyed_both_ways(api, slept):
    api.answers(error(400, headers={"x-should-retry": "true"}), error(500, headers={"x-should-retry": "false"}))
    with pytest.raises(ClaudeInvocationError, match="500"):
        invoke_claude("hi", max_retries=5)
    assert len(slept) == 1
