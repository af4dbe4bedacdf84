"""Every fault the simulator can have, as the SDK and as the socket see it."""

import importlib
import threading
from typing import Any

import anthropic
import pytest

from claude_client.simulator import Reply, Simulator

# The HTTP library of the SDK lets its errors through in the middle of a stream (facts 4).
http = importlib.import_module(anthropic.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])

REJECTIONS = [
    ("rate_limit", 429, "rate_limit_error", None, "1"),
    ("rate_limit_without_retry_after", 429, "rate_limit_error", None, None),
    ("overloaded", 529, "overloaded_error", None, None),
    ("api_error", 500, "api_error", None, None),
    ("timeout", 504, "timeout_error", None, None),
    ("spend_limit", 429, "rate_limit_error", "enforced_spend_limit_reached", None),
    ("contract_spend_limit", 429, "rate_limit_error", "contract_spend_limit_reached", None),
    ("billing", 402, "billing_error", None, None),
    ("authentication", 401, "authentication_error", None, None),
    ("permission", 403, "permission_error", None, None),
    ("invalid_request", 400, "invalid_request_error", None, None),
    ("api_usage_limits", 400, "invalid_request_error", None, None),
    ("not_found", 404, "not_found_error", None, None),
    ("request_too_large", 413, "request_too_large", None, None),
]
ENDINGS = [
    ("refusal", "refusal"),
    ("pause_turn", "pause_turn"),
    ("tool_use", "tool_use"),
    ("max_tokens", "max_tokens"),
    ("context_window", "model_context_window_exceeded"),
]
TOOL = {"name": "look_up", "input_schema": {"type": "object"}}


@pytest.fixture
def sim():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def claude(sim):
    http_client = anthropic.DefaultHttpxClient(verify=False)
    with anthropic.Anthropic(api_key="any", base_url=sim.base_url, max_retries=0, http_client=http_client) as client:
        yield client


@pytest.fixture(params=["create", "stream"])
def ask(request, claude):
    """One call for a final message, whole or streamed."""
    params = {
        "model": "claude-sonnet-4-6",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": [TOOL],
    }

    def stream(**more):
        with claude.messages.stream(**params, **more) as events:
            return events.get_final_message()

    return stream if request.param == "stream" else lambda **more: claude.messages.create(**params, **more)


def error_of(ask):
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask()
    return caught.value


@pytest.mark.parametrize(("fault", "status", "kind", "code", "retry_after"), REJECTIONS)
def test_rejection_has_status_type_code_and_retry_after(sim, ask, fault, status, kind, code, retry_after):
    sim.script(Reply(fault=fault))
    error = error_of(ask)
    details = error.body["error"].get("details") or {}
    assert (error.status_code, error.body["error"]["type"]) == (status, kind)
    assert (details.get("error_code"), error.response.headers.get("retry-after")) == (code, retry_after)
    assert error.body["request_id"] == error.request_id == "req_sim_000001"
    assert (sim.requests[0].outcome, sim.requests[0].status, sim.requests[0].fault) == ("rejected", status, fault)


def test_a_rejection_says_what_its_reply_says(sim, ask):
    sim.script(
        Reply(
            fault="rate_limit",
            error_type="conflict_error",
            error_code="ramp_limit_exceeded",
            message="Not so fast",
            retry_after=2.5,
            should_retry=False,
        )
    )
    error = error_of(ask)
    assert (error.status_code, error.body["error"]["message"]) == (409, "Not so fast")
    assert error.body["error"]["details"] == {"error_code": "ramp_limit_exceeded"}
    assert error.response.headers["retry-after"] == "2.5"
    assert error.response.headers["x-should-retry"] == "false"


def test_a_rejection_may_have_any_status(sim, ask):
    sim.script(Reply(fault="api_error", status=503))
    assert error_of(ask).status_code == 503


def test_the_customers_spend_limit_is_told_by_its_message(sim, ask):
    sim.script(Reply(fault="api_usage_limits"))
    assert "specified API usage limits" in str(error_of(ask))


@pytest.mark.parametrize(("fault", "stop_reason"), ENDINGS)
def test_ending_is_a_whole_answer_with_its_stop_reason(sim, ask, fault, stop_reason):
    sim.script(Reply(fault=fault))
    assert ask().stop_reason == stop_reason
    assert (sim.requests[0].outcome, sim.requests[0].fault) == ("answered", fault)


def test_a_refusal_has_no_text_and_tells_its_category(sim, ask):
    sim.script(Reply(fault="refusal", refusal_category="bio", message="No."))
    message = ask()
    assert (message.content, message.stop_details.category, message.stop_details.explanation) == ([], "bio", "No.")


def test_a_paused_turn_ends_with_a_server_tool_call(sim, ask):
    sim.script(Reply(fault="pause_turn"))
    assert [block.type for block in ask().content] == ["text", "server_tool_use"]


def test_a_tool_call_is_for_the_first_tool_of_the_request(sim, ask):
    sim.script(Reply(fault="tool_use"))
    assert [block.name for block in ask().content] == ["look_up"]


def test_an_ending_keeps_the_text_it_is_given(sim, ask):
    sim.script(Reply(fault="max_tokens", text="Half an ans"))
    assert ask().content[0].text == "Half an ans"


def test_cut_before_headers_is_a_connection_error(sim, ask):
    sim.script(Reply(fault="cut_before_headers"))
    with pytest.raises(anthropic.APIConnectionError):
        ask()
    assert (sim.requests[0].outcome, sim.requests[0].status) == ("faulted", None)


class TestStreamed:
    @pytest.fixture
    def events(self, claude):
        """Reads a stream's text into `self.texts`, up to whatever happens."""
        self.texts: list[str] = []
        messages = [{"role": "user", "content": "Hello"}]

        def read(**more):
            with claude.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=messages, **more) as stream:
                self.texts.extend(stream.text_stream)
                return stream.current_message_snapshot

        return read

    def test_cut_breaks_off_after_so_many_chunks(self, sim, events):
        sim.script(Reply(fault="cut", text="one two three", after_chunks=2))
        with pytest.raises(http.RemoteProtocolError):
            events()
        assert self.texts == ["one ", "two "]
        assert (sim.requests[0].outcome, sim.requests[0].answer) == ("faulted", "one two ")

    def test_error_event_comes_with_status_200(self, sim, events):
        sim.script(Reply(fault="error_event", text="one two", error_code="some_code", message="Too much"))
        with pytest.raises(anthropic.APIStatusError, match="Too much") as caught:
            events()
        error: Any = caught.value
        assert (error.status_code, error.body["error"]["type"]) == (200, "overloaded_error")
        assert error.body["error"]["details"] == {"error_code": "some_code"}
        assert self.texts == ["one "]

    def test_error_event_may_be_of_another_type(self, sim, events):
        sim.script(Reply(fault="error_event", error_type="rate_limit_error"))
        with pytest.raises(anthropic.APIStatusError, match="rate_limit_error"):
            events()

    def test_early_end_gives_no_stop_reason(self, sim, events):
        sim.script(Reply(fault="early_end", text="one two three"))
        assert events().stop_reason is None
        assert (self.texts, sim.requests[0].outcome) == (["one "], "faulted")

    def test_a_fault_may_strike_right_after_the_start(self, sim, events):
        sim.script(Reply(fault="early_end", after_chunks=0))
        assert events().content == []

    def test_a_fault_beyond_the_last_chunk_strikes_before_the_end(self, sim, events):
        sim.script(Reply(fault="early_end", text="one two", after_chunks=99))
        assert events().stop_reason is None
        assert self.texts == ["one ", "two"]

    @pytest.mark.parametrize("fault", ["early_end_empty", "html", "not_a_message"])
    def test_a_body_without_events_starts_no_message(self, sim, events, fault):
        sim.script(Reply(fault=fault))
        with pytest.raises(AssertionError):
            events()
        assert (sim.requests[0].outcome, sim.requests[0].status) == ("faulted", 200)

    def test_malformed_event_cannot_be_parsed(self, sim, events):
        sim.script(Reply(fault="malformed", text="one two"))
        with pytest.raises(ValueError, match="Unterminated string"):
            events()
        assert self.texts == ["one "]

    def test_silent_mid_stream_runs_into_the_read_timeout(self, sim, events):
        sim.script(Reply(fault="silent_mid_stream", text="one two", ping_interval=0.001))
        with pytest.raises(http.ReadTimeout):
            events(timeout=0.5)
        assert self.texts == ["one "]

    def test_silent_with_pings_goes_on_pinging(self, sim, claude):
        sim.script(Reply(fault="silent_with_pings", text="one two", ping_interval=0.001))
        messages = [{"role": "user", "content": "Hello"}]
        with claude.messages.with_streaming_response.create(
            model="claude-sonnet-4-6", max_tokens=100, messages=messages, stream=True
        ) as response:
            pings = (line for line in response.iter_lines() if line == "event: ping")
            assert [next(pings) for _ in range(10)]
        sim.wait_for(lambda sim: sim.requests[0].outcome == "disconnected")


class TestWhole:
    @pytest.fixture
    def create(self, claude):
        messages = [{"role": "user", "content": "Hello"}]
        return lambda **more: claude.messages.create(
            model="claude-sonnet-4-6", max_tokens=100, messages=messages, **more
        )

    def test_cut_breaks_off_within_the_body(self, sim, create):
        sim.script(Reply(fault="cut"))
        with pytest.raises(anthropic.APIConnectionError):
            create()
        assert (sim.requests[0].outcome, sim.requests[0].status) == ("faulted", 200)

    def test_error_event_becomes_an_error_status(self, sim, create):
        sim.script(Reply(fault="error_event"))
        assert error_of(create).status_code == 529
        assert sim.requests[0].outcome == "rejected"

    @pytest.mark.parametrize("fault", ["early_end", "early_end_empty", "malformed"])
    def test_a_body_that_ends_early_cannot_be_parsed(self, sim, create, fault):
        sim.script(Reply(fault=fault))
        with pytest.raises(ValueError, match="line 1"):
            create()
        assert (sim.requests[0].outcome, sim.requests[0].status) == ("faulted", 200)

    @pytest.mark.parametrize("fault", ["silent_mid_stream", "silent_with_pings"])
    def test_silence_within_the_body_runs_into_the_read_timeout(self, sim, create, fault):
        sim.script(Reply(fault=fault, ping_interval=0.001))
        with pytest.raises(anthropic.APITimeoutError):
            create(timeout=0.05)

    def test_html_is_handed_over_as_text(self, sim, create):
        sim.script(Reply(fault="html"))
        assert create().startswith("<html>")

    def test_a_body_that_is_no_message_has_no_content(self, sim, create):
        sim.script(Reply(fault="not_a_message"))
        assert create().content is None


def test_silent_runs_into_the_read_timeout(sim, ask):
    sim.script(Reply(fault="silent"))
    with pytest.raises(anthropic.APITimeoutError):
        ask(timeout=0.05)
    sim.wait_for(lambda sim: sim.requests and sim.requests[0].outcome == "disconnected")


def test_a_rejection_may_be_held(sim, ask):
    until = threading.Event()
    sim.script(Reply(fault="overloaded", until=until))
    errors = []
    asking = threading.Thread(target=lambda: errors.append(error_of(ask)))
    asking.start()
    sim.wait_for(lambda sim: sim.in_flight == 1)
    until.set()
    asking.join(10)
    assert [error.status_code for error in errors] == [529]


def test_the_client_is_served_again_after_a_fault(sim, ask):
    sim.script(Reply(fault="cut_before_headers"), Reply(text="Back again."))
    with pytest.raises(anthropic.APIConnectionError):
        ask()
    assert ask().content[0].text == "Back again."
