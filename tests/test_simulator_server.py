"""The simulator as a server: its thread, its sockets, TLS, and the command line."""

import contextlib
import gc
import http.client
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anthropic
import pytest

import claude_client.simulator
from claude_client.simulator import Reply, Simulator

SOURCE = Path(claude_client.simulator.__file__).parents[2]
BODY: Any = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
HEADERS = {"x-api-key": "any", "anthropic-version": "2026-10-21"}


@pytest.fixture
def sim():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def connect():
    """Opens connections that send one request and do not read the answer."""
    connections = []

    def open_one(sim, **fields):
        connection = http.client.HTTPConnection(sim.base_url.removeprefix("http://"), timeout=10)
        connections.append(connection)
        connection.request("POST", "/v1/messages", json.dumps(BODY | fields), HEADERS)
        return connection

    yield open_one
    for connection in connections:
        connection.close()


def answer(connection):
    response = connection.getresponse()
    return json.loads(response.read())


def address_of(sim):
    host, port = sim.base_url.partition("://")[2].split(":")
    return host, int(port)


def seconds(seen):
    return seen.ended - seen.started


def simulator_threads():
    return [thread for thread in threading.enumerate() if thread.name == "claude-simulator"]


class TestLife:
    def test_listens_once_started(self):
        sim = Simulator().start()
        socket.create_connection(address_of(sim)).close()
        sim.stop()

    def test_a_failing_start_is_raised_and_leaves_no_thread(self, monkeypatch):
        monkeypatch.setattr("claude_client.simulator._server.build_app", lambda state: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Simulator().start()
        assert simulator_threads() == []

    def test_start_and_stop_may_be_repeated(self):
        sim = Simulator()
        assert sim.start().start().base_url == sim.base_url
        sim.stop()
        sim.stop()
        assert simulator_threads() == []

    def test_starts_again_after_a_stop(self, connect):
        sim = Simulator()
        for _ in range(2):
            with sim:
                answer(connect(sim))
        assert len(sim.requests) == 2

    def test_nobody_listens_after_a_stop(self, sim):
        address = address_of(sim)
        sim.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    def test_takes_the_port_it_is_given(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with Simulator(port=port) as sim:
            assert sim.base_url == f"http://127.0.0.1:{port}"

    def test_a_taken_port_is_an_error(self, sim):
        with pytest.raises(OSError, match="in use"):
            Simulator(port=address_of(sim)[1]).start()
        assert len(simulator_threads()) == 1

    def test_has_no_url_while_it_does_not_run(self):
        with pytest.raises(RuntimeError, match="not running"):
            _ = Simulator().base_url

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(fault="silent"),
            Reply(until=threading.Event()),
            Reply(latency=3600),
            Reply(fault="silent_mid_stream"),
            Reply(fault="silent_with_pings", ping_interval=0.001),
            Reply(pause=threading.Event()),
            Reply(text="too slow", tokens_per_second=0.001),
        ],
        ids=["silent", "until", "latency", "silent mid-stream", "pings", "pause", "pace"],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_stop_ends_what_hangs(self, connect, caplog, reply, stream):
        with Simulator() as sim:
            sim.script(reply)
            connect(sim, stream=stream)
            sim.wait_for(lambda sim: sim.in_flight == 1)
        assert (simulator_threads(), sim.open_connections) == ([], 0)
        assert [request.outcome for request in sim.requests] == ["disconnected"]
        assert caplog.records == []

    def test_stop_ends_a_client_that_says_nothing(self):
        sim = Simulator().start()
        with socket.create_connection(address_of(sim)) as silent:
            sim.wait_for(lambda sim: sim.open_connections == 1)
            sim.stop()
            assert silent.recv(1) == b""

    @pytest.mark.parametrize("tls", [False, True])
    def test_stop_leaks_no_connection_that_has_just_come(self, tls):
        for _ in range(20):
            sim = Simulator(tls=tls).start()
            with socket.create_connection(address_of(sim), timeout=10) as coming:
                sim.stop()
                with contextlib.suppress(ConnectionResetError):
                    assert coming.recv(1) == b""
        gc.collect()

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [({"latency": -1}, "latency"), ({"tokens_per_second": 0}, "tokens_per"), ({"ping_interval": -1}, "ping")],
    )
    def test_nonsense_is_refused(self, options, complaint):
        with pytest.raises(ValueError, match=complaint):
            Simulator(**options)


class TestWatching:
    def test_counts_what_is_in_flight(self, sim, connect):
        until = threading.Event()
        sim.script(*[Reply(until=until)] * 3)
        connections = [connect(sim) for _ in range(3)]
        sim.wait_for(lambda sim: sim.in_flight == 3)
        until.set()
        for connection in connections:
            answer(connection)
        assert (sim.in_flight, sim.peak_concurrency, sim.open_connections) == (0, 3, 3)
        assert [request.in_flight for request in sim.requests] == [1, 2, 3]

    def test_wait_for_gives_up_and_says_what_was_seen(self, sim, connect):
        answer(connect(sim))
        with pytest.raises(TimeoutError, match=r"requests=1, in_flight=0, .*'answered': 1"):
            sim.wait_for(lambda sim: False, timeout=0.01)

    def test_an_answered_request_has_ended_when_its_client_knows(self, sim, connect):
        for _ in range(20):
            answer(connect(sim))
            assert (sim.requests[-1].outcome, sim.in_flight) == ("answered", 0)

    def test_one_connection_serves_many_requests(self, sim, connect):
        connection = connect(sim)
        for _ in range(3):
            answer(connection)
            connection.request("POST", "/v1/messages", json.dumps(BODY), HEADERS)
        answer(connection)
        assert (len(sim.requests), sim.open_connections) == (4, 1)

    def test_reset_lets_what_is_in_flight_go_on_unrecorded(self, sim, connect):
        until = threading.Event()
        sim.script(Reply(until=until, text="late"))
        connection = connect(sim)
        sim.wait_for(lambda sim: sim.in_flight == 1)
        sim.reset()
        assert (sim.requests, sim.in_flight, sim.peak_concurrency) == ((), 1, 1)
        until.set()
        assert answer(connection)["content"][0]["text"] == "late"
        assert (sim.requests, sim.in_flight) == ((), 0)


class TestDisconnect:
    @pytest.mark.parametrize(
        "reply",
        [Reply(fault="silent"), Reply(until=threading.Event()), Reply(latency=3600), Reply(fault="silent_mid_stream")],
        ids=["silent", "held", "late", "mid-answer"],
    )
    @pytest.mark.parametrize("length", [5, 300_000])
    def test_is_seen_while_the_client_waits(self, sim, connect, caplog, reply, length):
        sim.script(reply)
        connection = connect(sim, system="x" * length)
        sim.wait_for(lambda sim: sim.in_flight == 1)
        connection.close()
        sim.wait_for(lambda sim: sim.requests[0].outcome == "disconnected")
        assert (sim.in_flight, sim.requests[0].ended is None, caplog.records) == (0, False, [])

    def test_is_seen_in_the_middle_of_a_stream(self, sim, connect):
        sim.script(Reply(pause=threading.Event(), text="one two three"))
        connection = connect(sim, stream=True)
        response = connection.getresponse()
        while b"one " not in response.readline():
            pass
        response.close()
        connection.close()
        sim.wait_for(lambda sim: sim.requests[0].outcome == "disconnected")
        assert (sim.requests[0].status, sim.requests[0].answer) == (200, "one ")

    def test_within_the_request_is_no_request(self, sim):
        with socket.create_connection(address_of(sim)) as client:
            client.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            sim.wait_for(lambda sim: sim.open_connections == 1)
        sim.wait_for(lambda sim: sim.open_connections == 0)
        assert sim.requests == ()


class TestPace:
    def test_latency_comes_before_the_first_byte(self, connect):
        with Simulator(latency=0.02) as sim:
            answer(connect(sim))
            assert seconds(sim.requests[0]) >= 0.02

    def test_a_whole_answer_takes_as_long_as_its_stream(self, sim, connect):
        reply = Reply(text="a b c d e f g h i j ", tokens_per_second=250)
        sim.script(reply, reply)
        answer(connect(sim))
        connect(sim, stream=True).getresponse().read()
        assert all(seconds(seen) >= 5 / 250 for seen in sim.requests)

    def test_a_reply_may_be_faster_than_its_simulator(self, connect):
        with Simulator(latency=3600, tokens_per_second=0.001) as sim:
            sim.script(Reply(latency=0, tokens_per_second=1e6))
            assert answer(connect(sim))["type"] == "message"


class TestTls:
    def test_is_verified_by_its_ca_file(self):
        with Simulator(tls=True) as sim:
            assert sim.base_url.startswith("https://127.0.0.1:")
            http_client = anthropic.DefaultHttpxClient(verify=ssl.create_default_context(cafile=sim.ca_file))
            with anthropic.Anthropic(api_key="any", base_url=sim.base_url, http_client=http_client) as client:
                assert client.messages.create(**BODY).stop_reason == "end_turn"

    def test_is_not_trusted_without(self, caplog):
        with (
            Simulator(tls=True) as sim,
            anthropic.Anthropic(api_key="any", base_url=sim.base_url, max_retries=0) as client,
        ):
            with pytest.raises(anthropic.APIConnectionError):
                client.messages.create(**BODY)
            assert sim.requests == ()

    def test_can_be_cut_as_well(self):
        with Simulator(tls=True) as sim:
            sim.script(Reply(fault="cut"))
            http_client = anthropic.DefaultHttpxClient(verify=ssl.create_default_context(cafile=sim.ca_file))
            client = anthropic.Anthropic(api_key="any", base_url=sim.base_url, max_retries=0, http_client=http_client)
            with client, pytest.raises(anthropic.APIConnectionError):
                client.messages.create(**BODY)
            sim.wait_for(lambda sim: sim.open_connections == 0)

    def test_its_ca_file_goes_with_it(self):
        with Simulator(tls=True) as sim:
            ca_file = Path(str(sim.ca_file))
            assert "BEGIN CERTIFICATE" in ca_file.read_text()
        assert not ca_file.exists()

    def test_stop_ends_a_silent_answer(self):
        with Simulator(tls=True) as sim:
            sim.script(Reply(fault="silent"))
            context = ssl.create_default_context(cafile=sim.ca_file)
            connection = http.client.HTTPSConnection(sim.base_url.removeprefix("https://"), timeout=10, context=context)
            connection.request("POST", "/v1/messages", json.dumps(BODY), HEADERS)
            sim.wait_for(lambda sim: sim.in_flight == 1)
        assert sim.requests[0].outcome == "disconnected"
        connection.close()

    def test_without_it_there_is_no_ca_file(self, sim):
        assert sim.ca_file is None

    def test_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "trustme", None)
        with pytest.raises(ImportError, match=r"pip install trustme"):
            Simulator(tls=True).start()


def run(*arguments, **environment):
    """A Python of our own that finds the package."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(SOURCE)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_without_the_extra_the_import_says_what_to_install(module):
    code = f"import sys; sys.modules[{module!r}] = None; import claude_client.simulator"
    _, error = run("-c", code).communicate(timeout=60)
    assert error.splitlines()[-1] == (
        f"ImportError: the simulator needs {module}: pip install starlette uvicorn trustme"
    )


class TestCommandLine:
    def test_prints_what_to_export_and_serves(self):
        with run("-m", "claude_client.simulator", "--port", "0", "--tokens-per-second", "1e6") as process:
            exported = process.stdout.readline()
            url = exported.removeprefix("export ANTHROPIC_API_KEY=simulated ANTHROPIC_BASE_URL=").strip()
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
            connection.request("POST", "/v1/messages", json.dumps(BODY), HEADERS)
            assert answer(connection)["type"] == "message"
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 0

    def test_ends_cleanly_when_terminated(self):
        with run("-m", "claude_client.simulator", "--port", "0", "--tls") as process:
            exported = process.stdout.readline()
            ca_file = Path(exported.split("SSL_CERT_FILE=")[1].strip())
            assert ca_file.exists()
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=10) == ("", "")
        assert (process.returncode, ca_file.exists()) == (0, False)

    def test_says_what_is_wrong_with_its_options(self):
        with run("-m", "claude_client.simulator", "--latency", "-1") as process:
            out, error = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert "latency" in error
        assert "Traceback" not in error

    def test_keeps_the_limits_it_is_given(self):
        limits = ["--requests-per-second", "0.001", "--burst", "1", "--no-limit-headers", "--no-retry-after"]
        with run("-m", "claude_client.simulator", "--port", "0", *limits) as process:
            connection = http.client.HTTPConnection(process.stdout.readline().split("//")[1].strip(), timeout=10)
            for status in (200, 429):
                connection.request("POST", "/v1/messages", json.dumps(BODY), HEADERS)
                response = connection.getresponse()
                response.read()
                assert response.status == status
            assert not {name for name in response.headers if "retry" in name or "ratelimit" in name}
            connection.close()
            process.terminate()

    @pytest.mark.parametrize(
        ("option", "complaint"),
        [
            (("--latency", "-1"), "latency must be at least 0"),
            (("--context-window", "0"), "context_window must be above 0"),
        ],
    )
    def test_refuses_nonsense(self, option, complaint):
        _, error = run("-m", "claude_client.simulator", *option).communicate(timeout=60)
        assert complaint in error


def test_logs_nothing_of_its_own(sim, connect, caplog):
    with caplog.at_level(logging.INFO):
        answer(connect(sim))
    assert caplog.records == []
