"""The simulator as the SDK sees it: answers, streams, scripts, records."""

import http.client
import json
import threading

import anthropic
import pytest

from claude_client.simulator import Limits, Reply, Simulator

KEY = "sk-ant-api03-simulated-key"
HELLO = [{"role": "user", "content": "Say hello to the world"}]
CITATION = {
    "type": "char_location",
    "cited_text": "The grass is green.",
    "document_index": 0,
    "document_title": None,
    "file_id": None,
    "start_char_index": 0,
    "end_char_index": 19,
}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "grass colour"}}
RESULT = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
FALLBACK = {"type": "fallback", "from": "a", "to": "b"}


@pytest.fixture
def sim():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def claude(sim):
    http_client = anthropic.DefaultHttpxClient(verify=False)
    with anthropic.Anthropic(api_key=KEY, base_url=sim.base_url, max_retries=0, http_client=http_client) as client:
        yield client


def asking(text="Say hello to the world", **fields):
    fields = {"model": "claude-sonnet-4-6", "max_tokens": 100, **fields}
    return {"messages": [{"role": "user", "content": text}], **fields}


def final(claude, **params):
    with claude.messages.stream(**params) as stream:
        return stream.get_final_message()


def plain(message):
    return {key: value for key, value in message.to_dict().items() if key != "id"}


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def call(sim, method, path, value=None):
    """One request without the SDK; its status, headers and body."""
    connection = http.client.HTTPConnection(sim.base_url.removeprefix("http://"), timeout=10)
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    connection.request(method, path, None if value is None else json.dumps(value), headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


class TestDefaultAnswer:
    def test_says_that_it_is_simulated_and_what_was_asked(self, claude):
        text = text_of(claude.messages.create(**asking()))
        assert text.startswith("[simulated ")
        assert text.endswith("claude-sonnet-4-6 was asked: Say hello to the world")

    def test_same_request_gets_the_same_answer(self, claude):
        assert text_of(claude.messages.create(**asking())) == text_of(claude.messages.create(**asking()))

    def test_another_system_gets_another_answer(self, claude):
        first, second = (claude.messages.create(**asking(system=system)) for system in ("a", "b"))
        assert text_of(first) != text_of(second)

    def test_stops_at_max_tokens(self, claude):
        message = claude.messages.create(**asking(max_tokens=3))
        assert (len(text_of(message)), message.usage.output_tokens) == (12, 3)
        assert message.stop_reason == "max_tokens"

    def test_max_tokens_zero_only_warms_the_cache(self, claude):
        message = claude.messages.create(**asking(max_tokens=0))
        assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "max_tokens", 0)

    def test_tokens_are_a_quarter_of_the_bytes_rounded_up(self, claude):
        usage = claude.messages.create(**asking("12345", system="abcdé")).usage
        assert usage.input_tokens == 2 + 2

    def test_ids_count_requests(self, claude):
        message = claude.messages.create(**asking())
        assert (message.id, message._request_id) == ("msg_sim_000001", "req_sim_000001")


class TestStream:
    @pytest.mark.parametrize(
        "reply",
        [
            Reply(),
            Reply(text=""),
            Reply(text="one two\n\nthree  "),
            Reply(thinking="Let me think.", text="Yes."),
            Reply(redacted_thinking="b3BhcXVl", text="Yes."),
            Reply(tool_use=("look_up", {"word": "naïve", "deep": {"list": [1, 2.5, None]}})),
            Reply(text="I will look.", tool_use=("look_up", {})),
            Reply(text="I will look.", tool_uses=[("look_up", {"word": "a b"}), ("look_up", {}), ("list", {"n": 1})]),
            Reply(tool_uses=[("look_up", {}), ("look_up", {"word": "a", "n": 12, "deep": "b"})], fault="max_tokens"),
            Reply(tool_use=("look_up", {"word": "a"}), fault="context_window"),
            Reply(tool_use=("look_up", {"word": "a"}), stop_reason="max_tokens"),
            Reply(text="one two", stop_sequence="three"),
            Reply(content=[{"type": "text", "text": "a b"}, {"type": "text", "text": "c", "citations": [CITATION]}]),
            Reply(content=[SEARCH, RESULT, {"type": "text", "text": "Green."}]),
            Reply(content=[]),
            Reply(fault="refusal", refusal_category="cyber"),
            Reply(fault="pause_turn"),
            Reply(fault="tool_use"),
            Reply(fault="max_tokens", text="half an ans"),
            Reply(fault="context_window"),
            Reply(text="a", usage={"input_tokens": 12345}),
        ],
        ids=lambda reply: repr(reply.fault or reply.content or reply.text)[:30],
    )
    def test_ends_as_the_message_that_create_gets(self, sim, claude, reply):
        sim.script(reply, reply)
        assert plain(final(claude, **asking())) == plain(claude.messages.create(**asking()))

    def test_events_come_in_the_documented_order(self, sim, claude):
        sim.script(Reply(thinking="Hm.", text="Hello world"))
        with claude.messages.create(**asking(), stream=True) as events:
            kinds = [event.type for event in events]
        block = ["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"]
        assert kinds == ["message_start", *block, *block, "message_delta", "message_stop"]

    def test_a_ping_follows_the_first_block_start(self, sim):
        _, _, body = call(sim, "POST", "/v1/messages", asking(stream=True))
        events = [line.removeprefix(b"event: ") for line in body.splitlines() if line.startswith(b"event: ")]
        assert events[:3] == [b"message_start", b"content_block_start", b"ping"]

    def test_every_event_names_its_type_twice(self, sim):
        _, _, body = call(sim, "POST", "/v1/messages", asking(stream=True))
        for event in body.decode().removesuffix("\n\n").split("\n\n"):
            name, data = event.split("\n")
            assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")

    def test_unknown_blocks_come_through(self, sim, claude):
        sim.script(Reply(content=[FALLBACK, {"type": "text", "text": "Hi."}]))
        assert [block.type for block in final(claude, **asking()).content] == ["fallback", "text"]

    def test_text_comes_a_word_at_a_time(self, sim, claude):
        sim.script(Reply(text="one two  three"))
        with claude.messages.stream(**asking()) as stream:
            assert list(stream.text_stream) == ["one ", "two  ", "three"]

    def test_thousands_of_chunks_come_in_one_stream(self, sim, claude):
        sim.script(Reply(text="word " * 2000))
        with claude.messages.stream(**asking()) as stream:
            assert sum(1 for _ in stream.text_stream) == 2000

    def test_pace_does_not_change_what_is_said(self, sim, claude):
        sim.script(Reply(text="one two three", tokens_per_second=10_000), Reply(text="one two three"))
        assert plain(final(claude, **asking())) == plain(final(claude, **asking()))

    def test_a_held_stream_pings_and_goes_on(self, sim, claude):
        pause = threading.Event()
        sim.script(Reply(text="one two three", pause=pause, ping_interval=0.001, after_chunks=2))
        with claude.messages.create(**asking(), stream=True) as events:
            kinds = []
            for event in events:
                kinds.append(event.type)
                if event.type == "content_block_delta" and event.delta.text == "two ":
                    assert sim.requests[0].answer == "one two "
                    pause.set()
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]

    def test_a_stream_may_be_held_right_after_its_start(self, sim, claude):
        pause = threading.Event()
        sim.script(Reply(pause=pause, after_chunks=0))
        with claude.messages.create(**asking(), stream=True) as events:
            assert next(events).type == "message_start"
            assert sim.in_flight == 1
            pause.set()
            assert [event.type for event in events][-1] == "message_stop"


class TestOtherEndpoints:
    def test_counting_gives_the_input_tokens_of_the_message(self, claude):
        params = asking("Count me, please", system="You count.")
        counted = claude.messages.count_tokens(**{key: params[key] for key in ("model", "messages", "system")})
        assert counted.input_tokens == claude.messages.create(**params).usage.input_tokens

    def test_a_model_tells_its_limits(self, claude):
        model = claude.models.retrieve("claude-haiku-4-5")
        assert (model.id, model.to_dict()["max_tokens"]) == ("claude-haiku-4-5", 64_000)

    def test_an_unknown_path_is_not_found(self, sim):
        status, headers, body = call(sim, "GET", "/v1/nothing")
        error = json.loads(body)
        assert (status, error["error"]["type"]) == (404, "not_found_error")
        assert error["request_id"] == headers["request-id"] == "req_sim_000001"


class TestScript:
    def test_replies_answer_in_order_and_then_no_more(self, sim, claude):
        sim.script(Reply(text="first"), Reply(text="second"))
        texts = [text_of(claude.messages.create(**asking())) for _ in range(3)]
        assert texts[:2] == ["first", "second"]
        assert texts[2].startswith("[simulated")

    def test_a_matching_reply_wins_over_a_plain_one(self, sim, claude):
        sim.script(Reply(text="plain"))
        sim.script(Reply(text="matching"), matching="world")
        assert [text_of(claude.messages.create(**asking())) for _ in range(2)] == ["matching", "plain"]

    def test_a_matching_reply_waits_for_its_prompt(self, sim, claude):
        sim.script(Reply(text="found"), matching="needle")
        assert text_of(claude.messages.create(**asking())).startswith("[simulated")
        assert text_of(claude.messages.create(**asking(system="a needle in hay"))) == "found"

    def test_matching_looks_at_text_and_not_at_roles(self, sim, claude):
        sim.script(Reply(text="found"), matching="user")
        assert text_of(claude.messages.create(**asking())).startswith("[simulated")

    def test_a_refused_request_takes_no_reply(self, sim, claude):
        sim.script(Reply(text="kept"))
        with pytest.raises(anthropic.BadRequestError):
            claude.messages.create(**asking(""))
        assert text_of(claude.messages.create(**asking())) == "kept"

    def test_counting_takes_no_reply(self, sim, claude):
        sim.script(Reply(text="kept"))
        claude.messages.count_tokens(model="claude-sonnet-4-6", messages=HELLO)
        assert text_of(claude.messages.create(**asking())) == "kept"

    def test_a_function_answers_what_no_reply_does(self, sim, claude):
        sim.script_by(lambda request: Reply(text=request.text.upper()))
        sim.script(Reply(text="scripted"))
        assert [text_of(claude.messages.create(**asking("psst"))) for _ in range(2)] == ["scripted", "PSST"]

    def test_a_function_may_leave_the_answer_to_the_simulator(self, sim, claude):
        sim.script_by(lambda request: None)
        assert text_of(claude.messages.create(**asking())).startswith("[simulated")

    def test_a_failing_function_is_a_500_that_says_why(self, sim, claude, caplog):
        sim.script_by(lambda request: Reply(text=request.headers["no such header"]))
        with pytest.raises(anthropic.InternalServerError, match="script_by: KeyError: 'no such header'"):
            claude.messages.create(**asking())
        assert "script_by failed for request 0" in caplog.text

    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [
            ({"fault": "bad luck"}, "unknown fault 'bad luck'"),
            ({"latency": -1}, "latency must be at least 0"),
            ({"latency": float("nan")}, "latency must be at least 0"),
            ({"tokens_per_second": 0}, "tokens_per_second must be above 0"),
            ({"ping_interval": 0}, "ping_interval must be above 0"),
            ({"retry_after": -1}, "retry_after must be at least 0"),
            ({"after_chunks": -1}, "after_chunks must be at least 0"),
            ({"content": [], "text": "both"}, "content replaces text"),
            ({"content": [{"text": "bare"}]}, "a block of content has no type"),
            ({"tool_use": ("look_up",)}, "tool_use is a name and an input"),
            ({"tool_uses": [("list", {}), ("look_up",)]}, "tool_use is a name and an input"),
            ({"tool_uses": [("list", {})], "tool_use": ("look_up", {})}, "tool_uses replaces tool_use"),
            ({"tool_uses": [("list", {})], "content": []}, "content replaces text"),
            ({"tool_uses": [("list", {})], "output": "valid"}, "output replaces content"),
        ],
    )
    def test_nonsense_is_refused(self, fields, complaint):
        with pytest.raises(ValueError, match=complaint):
            Reply(**fields)

    def test_a_stop_reason_may_be_said(self, sim, claude):
        sim.script(Reply(text="a", stop_reason="stop_sequence"))
        assert claude.messages.create(**asking()).stop_reason == "stop_sequence"


class TestRecord:
    def test_tells_what_was_asked_and_answered(self, sim, claude):
        claude.messages.create(**asking(system="Be brief."))
        (seen,) = sim.requests
        assert (seen.index, seen.method, seen.path, seen.status) == (0, "POST", "/v1/messages", 200)
        assert (seen.outcome, seen.fault, seen.stream, seen.in_flight) == ("answered", None, False, 1)
        assert (seen.text, seen.body["max_tokens"]) == ("Be brief.\nSay hello to the world", 100)
        assert seen.answer.startswith("[simulated")
        assert seen.usage["input_tokens"] == 9
        assert 0 <= seen.started <= seen.ended

    def test_never_holds_the_key(self, sim, claude):
        claude.messages.create(**asking(), extra_headers={"Cookie": KEY, "X-Other-Api-Key": KEY})
        (seen,) = sim.requests
        assert KEY not in json.dumps(seen.as_json())
        assert "<redacted>" in {seen.headers.get("authorization"), seen.headers.get("x-api-key")}

    def test_tells_the_api_version(self, sim, claude):
        claude.messages.create(**asking(), extra_headers={"anthropic-version": "2023-06-01"})
        assert sim.requests[0].api_version == "2023-06-01"

    def test_a_refused_request_is_recorded(self, sim, claude):
        with pytest.raises(anthropic.NotFoundError):
            claude.messages.create(**asking(model="gpt-4"))
        assert (sim.requests[0].outcome, sim.requests[0].status) == ("rejected", 404)

    def test_a_body_that_is_no_json_is_recorded_empty(self, sim):
        status, _, body = call(sim, "POST", "/v1/messages", "not an object")
        assert (status, sim.requests[0].body) == (400, {})
        assert b"must be a JSON object" in body

    def test_reset_forgets_requests_scripts_cache_and_limits(self):
        limits = Limits(requests_per_second=0.001, request_burst=1)
        with Simulator(limits=limits) as sim:
            sim.script(Reply(fault="api_error"), Reply(text="forgotten"))
            sim.script_by(lambda request: Reply(text="forgotten"))
            assert call(sim, "POST", "/v1/messages", asking())[0] == 500
            sim.reset()
            status, _, body = call(sim, "POST", "/v1/messages", asking())
            assert (status, len(sim.requests)) == (200, 1)
            assert b"forgotten" not in body


class TestOtherProcess:
    def test_reads_the_records(self, sim, claude):
        claude.messages.create(**asking())
        _, _, body = call(sim, "GET", "/simulator/requests")
        (seen,) = json.loads(body)
        assert (seen["outcome"], seen["text"]) == ("answered", "Say hello to the world")

    def test_reads_the_statistics(self, sim, claude):
        claude.messages.create(**asking())
        statistics = json.loads(call(sim, "GET", "/simulator/statistics")[2])
        assert (statistics["requests"], statistics["peak_concurrency"], statistics["in_flight"]) == (1, 1, 0)
        assert statistics["outcomes"] == {"answered": 1}
        assert statistics["usage"]["input_tokens"] == 6

    def test_scripts_replies(self, sim, claude):
        replies = [{"text": "from afar", "tool_use": ["look_up", {"word": "far"}]}]
        assert call(sim, "POST", "/simulator/script", {"replies": replies, "matching": "world"})[0] == 204
        message = claude.messages.create(**asking())
        assert [block.type for block in message.content] == ["text", "tool_use"]

    @pytest.mark.parametrize(
        ("value", "complaint"),
        [
            ({"replies": [{"until": True}]}, b"unknown reply fields"),
            ({"replies": [{"text": 5}]}, b"text must be a text, got 5"),
            ({"replies": [{"fault": "bad luck"}]}, b"unknown fault"),
            ({"replies": ["text"]}, b"a reply is an object"),
            ({}, b"replies"),
            ([], b"TypeError"),
            ({"replies": [], "matching": 7}, b"a text was expected, got 7"),
        ],
    )
    def test_is_told_what_is_wrong_with_a_script(self, sim, value, complaint):
        status, _, body = call(sim, "POST", "/simulator/script", value)
        assert status == 400
        assert complaint in body

    def test_resets(self, sim, claude):
        claude.messages.create(**asking())
        assert call(sim, "POST", "/simulator/reset")[0] == 204
        assert sim.requests == ()

    def test_is_not_recorded(self, sim):
        call(sim, "GET", "/simulator/statistics")
        assert sim.requests == ()
