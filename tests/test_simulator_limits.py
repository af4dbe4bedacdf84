"""The simulated rate limits, on a clock that only the test moves."""

import http.client
import json
from datetime import UTC, datetime

import pytest

from claude_client.simulator import Limits, Simulator
from claude_client.simulator._errors import RejectedError
from claude_client.simulator._limits import Limiter

pytestmark = pytest.mark.once

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def limiter(now=0.0, **limits):
    return Limiter(Limits(**limits), now, wall_clock=lambda: NOON)


def admitted(limiter, now, input_tokens=1):
    try:
        limiter.admit(input_tokens, now)
    except RejectedError:
        return False
    return True


def retry_after(limiter, now, input_tokens=1):
    with pytest.raises(RejectedError) as caught:
        limiter.admit(input_tokens, now)
    return caught.value.rejection.retry_after


def header(limiter, name, now=0.0):
    return limiter.headers(now)[f"anthropic-ratelimit-{name}"]


def test_a_rested_bucket_admits_a_burst():
    bucket = limiter(requests_per_second=2, request_burst=3)
    assert [admitted(bucket, 0.0) for _ in range(4)] == [True, True, True, False]


def test_a_burst_left_out_is_one_second():
    bucket = limiter(requests_per_second=1.5)
    assert [admitted(bucket, 0.0) for _ in range(3)] == [True, True, False]


def test_a_bucket_refills_continuously():
    bucket = limiter(requests_per_second=10, request_burst=1)
    assert [admitted(bucket, now) for now in (0.0, 0.05, 0.1, 0.15, 0.2)] == [True, False, True, False, True]


def test_a_bucket_never_holds_more_than_its_size():
    bucket = limiter(requests_per_second=1, request_burst=2)
    assert [admitted(bucket, 1000.0) for _ in range(3)] == [True, True, False]


def test_a_rejected_request_takes_nothing():
    bucket = limiter(requests_per_second=1, request_burst=1, input_tokens_per_second=1, input_token_burst=10)
    assert admitted(bucket, 0.0, 10)
    assert not admitted(bucket, 1.0, 10)
    assert header(bucket, "requests-remaining", 1.0) == "1"


def test_retry_after_is_whole_seconds_rounded_up():
    bucket = limiter(requests_per_second=0.4, request_burst=1)
    assert admitted(bucket, 0.0)
    assert retry_after(bucket, 0.0) == 3
    assert retry_after(bucket, 2.4) == 1


def test_coming_back_after_retry_after_succeeds():
    bucket = limiter(requests_per_second=0.3, request_burst=1)
    assert admitted(bucket, 0.0)
    assert admitted(bucket, 0.0 + retry_after(bucket, 0.0))


def test_the_emptier_bucket_decides_when_to_come_back():
    bucket = limiter(requests_per_second=1, request_burst=1, input_tokens_per_second=10, input_token_burst=100)
    assert admitted(bucket, 0.0, 100)
    assert retry_after(bucket, 0.0, 50) == 5


def test_a_request_larger_than_the_bucket_needs_it_full():
    bucket = limiter(input_tokens_per_second=10, input_token_burst=100)
    assert admitted(bucket, 0.0, 1000)
    assert retry_after(bucket, 0.0, 1000) == 10
    assert admitted(bucket, 10.0, 1000)


def test_headers_tell_size_whole_units_left_and_when_full_again():
    bucket = limiter(requests_per_second=4, request_burst=10)
    assert admitted(bucket, 0.0)
    assert admitted(bucket, 0.0)
    headers = bucket.headers(0.1)
    assert headers["anthropic-ratelimit-requests-limit"] == "10"
    assert headers["anthropic-ratelimit-requests-remaining"] == "8"
    assert headers["anthropic-ratelimit-requests-reset"] == "2026-11-22T12:00:01Z"


def test_a_full_bucket_is_reset_now():
    assert header(limiter(requests_per_second=4), "requests-reset") == "2026-11-22T12:00:00Z"


def test_headers_tell_of_the_limits_there_are():
    assert {name.rsplit("-", 1)[0] for name in limiter(input_tokens_per_second=5).headers(0.0)} == {
        "anthropic-ratelimit-input-tokens"
    }
    assert limiter().headers(0.0) == {}


def test_headers_and_retry_after_can_be_left_out():
    bucket = limiter(requests_per_second=1, headers=False, retry_after=False)
    assert admitted(bucket, 0.0)
    assert (bucket.headers(0.0), retry_after(bucket, 0.0)) == ({}, None)


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"requests_per_second": 0}, "requests_per_second must be above 0"),
        ({"input_token_burst": -1}, "input_token_burst must be above 0"),
        ({"request_burst": 5}, "request_burst needs requests_per_second"),
        ({"input_token_burst": 5}, "input_token_burst needs input_tokens_per_second"),
    ],
)
def test_nonsense_is_refused(limits, complaint):
    with pytest.raises(ValueError, match=complaint):
        Limits(**limits)


class TestOnTheWire:
    @pytest.fixture
    def post(self):
        self.now = 0.0
        limits = Limits(requests_per_second=1, request_burst=2, input_tokens_per_second=10, input_token_burst=1100)
        with Simulator(limits=limits, clock=lambda: self.now) as sim:
            self.sim = sim
            connection = http.client.HTTPConnection(sim.base_url.removeprefix("http://"), timeout=10)
            yield lambda **fields: self.send(connection, fields)
            connection.close()

    @staticmethod
    def send(connection, fields):
        body = {"model": "claude-sonnet-4-6", "max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}
        headers = {"x-api-key": "any", "anthropic-version": "2026-10-21"}
        connection.request("POST", "/v1/messages", json.dumps(body | fields), headers)
        response = connection.getresponse()
        response.read()
        return response

    def test_a_request_too_many_is_a_429_that_says_when_to_come_back(self, post):
        statuses = [post().status for _ in range(2)]
        rejected = post()
        assert ([*statuses, rejected.status], rejected.headers["retry-after"]) == ([200, 200, 429], "1")

    def test_it_is_served_when_it_comes_back(self, post):
        for _ in range(2):
            post()
        self.now = 1.0
        assert [post().status for _ in range(2)] == [200, 429]

    def test_every_answer_has_the_headers(self, post):
        remaining = [post().headers["anthropic-ratelimit-requests-remaining"] for _ in range(3)]
        assert remaining == ["1", "0", "0"]

    def test_a_stream_has_the_headers(self, post):
        assert post(stream=True).headers["anthropic-ratelimit-input-tokens-remaining"] == "1099"

    def test_cache_reads_do_not_count_as_input_tokens(self, post):
        mark = {"cache_control": {"type": "ephemeral"}}
        system = [{"type": "text", "text": "a" * 4096, **mark}]
        remaining = [post(system=system).headers["anthropic-ratelimit-input-tokens-remaining"] for _ in range(2)]
        assert remaining == ["75", "74"]

    def test_an_invalid_request_takes_nothing(self, post):
        assert post(max_tokens=-1).headers["anthropic-ratelimit-requests-remaining"] == "2"

    def test_a_rejected_request_is_recorded_as_such(self, post):
        for _ in range(3):
            post()
        assert [request.outcome for request in self.sim.requests] == ["answered", "answered", "rejected"]


def test_each_model_has_its_own_limits():
    with Simulator(limits=Limits(requests_per_second=1, request_burst=1), clock=lambda: 0.0) as sim:
        statuses = [asked(sim, model) for model in ("claude-sonnet-4-6", "claude-sonnet-4-6", "claude-opus-5")]
    assert statuses == [200, 429, 200]


def asked(sim, model):
    body = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    connection = http.client.HTTPConnection(sim.base_url.removeprefix("http://"), timeout=10)
    connection.request("POST", "/v1/messages", json.dumps(body), {"x-api-key": "k", "anthropic-version": "2023-06-01"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_bad_luck_rejects_a_share_whatever_the_pace():
    slow, fast = limiter(unlucky=0.1), limiter(unlucky=0.1)
    outcomes = [admitted(slow, now * 100.0) for now in range(1000)]
    assert outcomes == [admitted(fast, 0.0) for _ in range(1000)]
    assert 70 < outcomes.count(False) < 130


def test_an_outage_begins_with_the_first_request():
    bucket = limiter(overloaded_for=3.0)
    assert [admitted(bucket, now) for now in (10.0, 12.9, 13.0)] == [False, False, True]


@pytest.mark.parametrize("mistake", [{"unlucky": 1.5}, {"unlucky": -0.1}, {"overloaded_for": 0.0}])
def test_luck_and_outages_that_make_no_sense_are_refused(mistake):
    with pytest.raises(ValueError, match=next(iter(mistake))):
        Limits(**mistake)
