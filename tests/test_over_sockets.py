"""The plain verbs against the simulator: a real server, real connections, the SDK's own client."""

import importlib
import json
import socket
import threading
import traceback
from contextlib import contextmanager

import anthropic
import pytest

import claude_client
from claude_client import (
    ClaudeInvocationError,
    ParallelInvocationError,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    set_default_client,
)
from claude_client.simulator import Reply, Simulator
from helpers import KEY, message
from servers import that_never_accepts


@contextmanager
def expected(kind):
    with pytest.raises(ClaudeInvocationError) as caught:
        yield caught
    assert caught.value.kind == kind
    assert KEY not in "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))


REJECTED = {
    "rate_limit": "rate_limit",
    "overloaded": "overloaded",
    "api_error": "server_error",
    "timeout": "timeout",
    "spend_limit": "spend_limit",
    "contract_spend_limit": "spend_limit",
    "api_usage_limits": "spend_limit",
    "billing": "billing",
    "authentication": "authentication",
    "permission": "permission",
    "invalid_request": "invalid_request",
    "not_found": "not_found",
    "request_too_large": "request_too_large",
}
BROKEN = {
    "cut_before_headers": ("connection", "connection"),
    "cut": ("connection", "connection"),
    "early_end": ("invalid_response", "incomplete_stream"),
    "early_end_empty": ("invalid_response", "incomplete_stream"),
    "error_event": ("overloaded", "overloaded"),
    "malformed": ("invalid_response", "invalid_response"),
    "html": ("invalid_response", "incomplete_stream"),
    "not_a_message": ("invalid_response", "invalid_response"),
    "refusal": ("refusal", "refusal"),
}
BROKEN_AFTER_TEXT = {"cut", "early_end", "error_event", "malformed", "refusal"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("fault", "kind"), REJECTED.items())
def test_each_rejection_is_an_error_of_its_kind(sim, fault, kind, streaming):
    sim.script(Reply(fault=fault))
    with expected(kind):
        invoke_claude("hi", max_retries=0, streaming=streaming)


@pytest.mark.parametrize(("fault", "kinds"), BROKEN.items())
def test_each_broken_answer_is_an_error_of_its_kind(sim, fault, kinds):
    sim.script(Reply(fault=fault, text="one two three"), Reply(fault=fault, text="one two three"))
    with expected(kinds[0]):
        invoke_claude("hi", max_retries=0)
    with expected(kinds[1]) as caught:
        invoke_claude("hi", max_retries=0, streaming=True)
    assert ("one" in caught.value.partial_text) == (fault in BROKEN_AFTER_TEXT)


@pytest.mark.parametrize("fault", sorted({*BROKEN} - {"refusal"}))
def test_a_call_after_each_broken_answer_works(sim, slept, fault):
    for streaming in (False, True):
        sim.script(Reply(fault=fault), Reply(text="whole"))
        assert invoke_claude("hi", streaming=streaming) == "whole"


@pytest.mark.parametrize("fault", ["silent", "silent_mid_stream"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_server_that_falls_silent_ends_at_the_timeout(sim, fault, streaming):
    sim.script(Reply(fault=fault))
    with expected("timeout"):
        invoke_claude("hi", max_retries=0, timeout=0.1, streaming=streaming)
    sim.wait_for(lambda s: s.requests[0].outcome == "disconnected")


def test_a_server_that_is_not_there_is_a_connection_error(monkeypatch):
    with Simulator() as gone:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", gone.base_url)
    with expected("connection") as caught:
        invoke_claude("hi", max_retries=0)
    assert "refused" in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_every_kind_of_block_arrives(sim, streaming):
    sim.script(Reply(thinking="hmm", redacted_thinking="zzz", text="so", tool_use=("look", {"at": [1, 2]})))
    answer = invoke_claude("hi", streaming=streaming)
    assert (answer, answer.stop_reason) == ("so", "tool_use")
    assert {b.type for b in answer.message.content} == {"thinking", "redacted_thinking", "text", "tool_use"}
    assert answer.message.content[-1].input == {"at": [1, 2]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_pause_is_gone_on_from(sim, streaming):
    sim.script(Reply(fault="pause_turn", text="first "), Reply(text="second"))
    assert invoke_claude("search", streaming=streaming) == "first second"
    assert sim.requests[1].body["messages"][-1]["role"] == "assistant"


def test_a_callback_that_raises_closes_the_connection(sim):
    never = threading.Event()
    sim.script(Reply(text="one two", after_chunks=1, pause=never))
    with pytest.raises(ZeroDivisionError):
        invoke_claude_streaming("hi", lambda _: 1 / 0)
    sim.wait_for(lambda s: s.requests[0].outcome == "disconnected")
    assert invoke_claude("hi")


def test_sampling_parameters_are_accepted_by_the_servers_rules(sim):
    assert invoke_claude("hi", temperature=0.3)
    assert invoke_claude_streaming("hi", temperature=0.0, top_k=5)
    assert {request.api_version for request in sim.requests} == {"2023-06-01"}


def test_a_hundred_calls_from_ten_threads_all_answer(sim):
    answers: list[str] = []

    def ask(name):
        answers.extend(invoke_claude(f"thread {name}, call {i}", streaming=i % 2 == 0) for i in range(10))

    threads = [threading.Thread(target=ask, args=[name]) for name in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == len({*answers}) == 100
    assert sim.open_connections <= 10


def test_a_fan_out_asks_as_many_at_once_as_there_are_workers(sim):
    together = threading.Event()
    sim.script(*[Reply(until=together)] * 4)
    fan_out = threading.Thread(
        target=invoke_parallel, args=[[{"prompt": str(i)} for i in range(6)]], kwargs={"max_workers": 4}
    )
    fan_out.start()
    sim.wait_for(lambda s: s.in_flight == 4)
    together.set()
    fan_out.join(30)
    assert (len(sim.requests), sim.peak_concurrency) == (6, 4)


def test_a_fan_out_keeps_what_was_answered(sim):
    sim.script(Reply(fault="cut"), Reply(fault="invalid_request"), matching="bad")
    sim.script(Reply(text="good"), matching="fine")
    with pytest.raises(ParallelInvocationError) as caught:
        invoke_parallel([{"prompt": "bad"}, {"prompt": "fine"}], max_retries=1)
    assert caught.value.results == [None, "good"]
    assert caught.value.kind == "invalid_request"


def test_a_shared_context_is_written_to_the_cache_and_read_from_it(sim):
    shared = "code " * 2000
    first = invoke_parallel([{"prompt": "a"}], shared_system=shared, cache_shared_system=True)
    later = invoke_parallel(
        [{"prompt": "b", "system": "x"}, {"prompt": "c"}], shared_system=shared, cache_shared_system=True
    )
    assert first.usage.cache_creation_input_tokens == 2500
    assert later.usage.cache_read_input_tokens == 5000
    assert later.usage.cache_creation_input_tokens == 0


def test_the_default_client_may_speak_tls_to_an_authority_of_its_own():
    with Simulator(tls=True) as sim:
        import ssl

        context = ssl.create_default_context(cafile=sim.ca_file)
        with (
            anthropic.DefaultHttpxClient(verify=context) as http,
            anthropic.Anthropic(base_url=sim.base_url, http_client=http) as client,
        ):
            claude_client.set_default_client(client)
            assert invoke_claude("hi").startswith("[simulated")
            assert invoke_claude("hi", streaming=True).startswith("[simulated")


def test_the_authority_may_come_from_the_environment(monkeypatch):
    with Simulator(tls=True) as sim:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        monkeypatch.setenv("SSL_CERT_FILE", sim.ca_file)
        assert invoke_claude("hi").startswith("[simulated")
        claude_client.set_default_client(None)


def http_transport(**options):
    module = importlib.import_module(anthropic.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])
    return module.HTTPTransport(**options)


def test_a_client_on_a_unix_socket_is_used_as_it_is(tmp_path):
    path, served = str(tmp_path / "api.sock"), []
    body = json.dumps(message("over a unix socket")).encode()

    def serve():
        connection, _ = listener.accept()
        with connection:
            while b"\r\n\r\n" not in (data := connection.recv(65536)):
                served.append(data)
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = threading.Thread(target=serve)
        server.start()
        http_client = anthropic.DefaultHttpxClient(transport=http_transport(uds=path))
        with anthropic.Anthropic(api_key="any", base_url="http://api", http_client=http_client) as client:
            set_default_client(client)
            set_default_client(client)
            assert invoke_claude("hi", max_retries=0) == "over a unix socket"
        server.join(10)


@pytest.mark.parametrize("options", [{"retries": 1}, {"local_address": "127.0.0.1"}])
def test_a_transport_with_options_of_its_own_connects_and_fails_as_ever(options):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    http_client = anthropic.DefaultHttpxClient(transport=http_transport(**options))
    with anthropic.Anthropic(api_key="any", base_url=f"http://127.0.0.1:{port}", http_client=http_client) as client:
        set_default_client(client)
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", max_retries=0)
    assert caught.value.kind == "connection"


def test_a_connection_that_takes_too_long_is_a_timeout():
    with (
        that_never_accepts() as port,
        anthropic.Anthropic(api_key="any", base_url=f"http://127.0.0.1:{port}") as client,
    ):
        set_default_client(client)
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", max_retries=0, timeout=0.01)
    assert caught.value.kind == "timeout"


def test_an_address_that_cannot_be_reached_at_all_is_a_connection_error():
    with anthropic.Anthropic(api_key="any", base_url="http://127.0.0.1:0") as client:
        set_default_client(client)
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", max_retries=0)
    assert caught.value.kind == "connection"
