"""Stop means stop: in every phase of a call, over plain and TLS connections, and through proxies."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

import claude_client
from claude_client import (
    ClaudeInvocationError,
    InterruptToken,
    ParallelInterrupt,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    invoke_parallel_interruptible,
    invoke_parallel_streaming,
)
from claude_client.simulator import Reply, Simulator
from servers import Proxy, half_open_to, that_never_accepts, that_says_nothing

LONG = 30.0  # seconds; what is waited for in vain, and only a failing test waits out


@pytest.fixture(params=["plain", "TLS", "HTTP proxy", "CONNECT proxy"])
def sim(request, monkeypatch):
    """A simulator, and our client on the way to it that the parameter names."""
    tls = request.param in {"TLS", "CONNECT proxy"}
    with ExitStack() as stack:
        simulator = stack.enter_context(Simulator(tls=tls))
        monkeypatch.setenv("ANTHROPIC_BASE_URL", simulator.base_url)
        if tls:
            monkeypatch.setenv("SSL_CERT_FILE", simulator.ca_file)
        if "proxy" in request.param:
            proxy = stack.enter_context(Proxy())
            monkeypatch.setenv("HTTPS_PROXY" if tls else "HTTP_PROXY", proxy.url)
        yield simulator
        if "proxy" in request.param:
            assert proxy.connections
        claude_client.set_default_client(None)


@pytest.fixture
def plain_sim(monkeypatch):
    with Simulator() as simulator:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", simulator.base_url)
        yield simulator
        claude_client.set_default_client(None)


class InThread:
    """A call in a thread of its own, with a token to end it."""

    def __init__(self, call, *args, **kwargs):
        self.token = InterruptToken()
        self._outcome = []
        self._thread = threading.Thread(target=self._run, args=[call, args, kwargs])
        self._thread.start()

    def _run(self, call, args, kwargs):
        try:
            self._outcome.append(call(*args, interrupt_token=self.token, **kwargs))
        except BaseException as exc:  # noqa: BLE001
            self._outcome.append(exc)

    def interrupted(self):
        self.token.interrupt()
        outcome = self.outcome()
        kept = {"claude_client tool"}  # for the next tool, by other tests of this process
        assert {t.name for t in threading.enumerate() if t.name.startswith("claude_client")} <= kept
        return outcome

    def outcome(self):
        self._thread.join(10)
        assert not self._thread.is_alive(), "the call did not end"
        return self._outcome[0]


def prompts(count):
    return [{"prompt": f"prompt {i}"} for i in range(count)]


def assert_healthy(sim):
    """The same client, the same pool: calls work as before, and the server has none of the old ones."""
    sim.wait_for(lambda s: s.in_flight == 0)
    sim.script(*[Reply(text="fine")] * 3)
    assert invoke_parallel(prompts(3)) == ["fine"] * 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_that_waits_for_the_first_byte_ends(sim, streaming):
    sim.script(*[Reply(fault="silent")] * 3)
    run = InThread(invoke_parallel_interruptible, [{**p, "streaming": streaming} for p in prompts(5)], max_workers=3)
    sim.wait_for(lambda s: s.in_flight == 3)
    results = run.interrupted()
    assert results == [None] * 5
    assert {i: error.kind for i, error in results.errors.items()} == dict.fromkeys(range(5), "interrupted")
    sim.wait_for(lambda s: [r.outcome for r in s.requests] == ["disconnected"] * 3)
    assert_healthy(sim)


def test_a_run_in_the_middle_of_streams_ends_with_what_had_arrived(sim):
    sim.script(*[Reply(fault="silent_mid_stream", text="one two three", after_chunks=2)] * 2)
    heard = threading.Barrier(3)
    run = InThread(invoke_parallel_streaming, prompts(2), [lambda t: "two" in t and heard.wait(10)] * 2)
    heard.wait(10)
    results = run.interrupted()
    assert [error.partial_text.split() for error in results.errors.values()] == [["one", "two"]] * 2
    assert all(error.usage.input_tokens for error in results.errors.values())
    sim.wait_for(lambda s: [r.outcome for r in s.requests] == ["disconnected"] * 2)
    assert_healthy(sim)


def test_finished_answers_are_kept(sim):
    sim.script(Reply(text="done"), matching="prompt 0")
    sim.script(Reply(fault="silent"), matching="prompt 1")
    first_is_there = threading.Event()
    run = InThread(invoke_parallel_interruptible, prompts(2), on_result=lambda *_: first_is_there.set())
    assert first_is_there.wait(10)
    sim.wait_for(lambda s: len(s.requests) == 2)
    results = run.interrupted()
    assert results == ["done", None]
    assert results.errors.keys() == {1}


@pytest.mark.parametrize("call", [invoke_claude, invoke_claude_streaming])
def test_a_single_call_raises_that_it_was_interrupted(sim, call):
    sim.script(Reply(fault="silent"))
    run = InThread(call, "hi")
    sim.wait_for(lambda s: s.in_flight == 1)
    error = run.interrupted()
    assert isinstance(error, ClaudeInvocationError)
    assert (error.kind, error.retryable) == ("interrupted", False)
    assert_healthy(sim)


def test_a_call_that_is_connecting_ends(monkeypatch):
    with that_never_accepts() as port:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{port}")
        run = InThread(invoke_claude, "hi", timeout=LONG)
        before = half_open_to(port)
        while half_open_to(port) == before == 0:
            pass
        assert run.interrupted().kind == "interrupted"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_at_the_moment_a_connection_begins_is_not_missed(monkeypatch, moment):
    token = InterruptToken()
    connect_ex = socket.socket.connect_ex

    def interrupting(sock, address):
        if moment == "before":
            token.interrupt()
        error = connect_ex(sock, address)
        token.interrupt()
        return error

    with that_never_accepts() as port:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(socket.socket, "connect_ex", interrupting)
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", timeout=LONG, interrupt_token=token)
    assert caught.value.kind == "interrupted"


def test_a_call_in_the_middle_of_a_tls_handshake_ends(monkeypatch):
    with that_says_nothing() as (port, heard):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"https://127.0.0.1:{port}")
        run = InThread(invoke_claude, "hi", timeout=LONG)
        assert heard.wait(10)
        assert run.interrupted().kind == "interrupted"


def test_a_call_that_a_proxy_leaves_hanging_ends(monkeypatch):
    with that_says_nothing() as (port, heard):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        run = InThread(invoke_claude, "hi", timeout=LONG)
        assert heard.wait(10)
        assert run.interrupted().kind == "interrupted"


@pytest.mark.parametrize("call", ["one", "many"])
def test_a_wait_before_a_retry_ends(plain_sim, call):
    plain_sim.script(Reply(fault="overloaded", retry_after=LONG))
    run = InThread(invoke_claude, "hi") if call == "one" else InThread(invoke_parallel, prompts(1))
    plain_sim.wait_for(lambda s: [r.outcome for r in s.requests] == ["rejected"])
    ended = run.interrupted()
    error = ended if call == "one" else ended.errors[0]
    assert error.kind == "interrupted"
    assert len(plain_sim.requests) == 1


@pytest.mark.parametrize("call", ["one", "many"])
def test_a_wait_at_the_rate_gate_ends(plain_sim, call):
    row = 4  # so many rejections shut the gate
    plain_sim.script(*[Reply(fault="rate_limit", retry_after=LONG)] * row)
    for _ in range(row):
        with pytest.raises(ClaudeInvocationError):
            invoke_claude("hi", max_retries=0)
    run = InThread(invoke_claude, "hi") if call == "one" else InThread(invoke_parallel, prompts(3))
    ended = run.interrupted()
    errors = [ended] if call == "one" else ended.errors.values()
    assert {error.kind for error in errors} == {"interrupted"}
    assert len(plain_sim.requests) == row


def test_a_wait_at_the_cache_gate_ends(plain_sim):
    plain_sim.script(Reply(fault="silent"))
    run = InThread(invoke_parallel, prompts(4), shared_system="code " * 2000, cache_shared_system=True)
    plain_sim.wait_for(lambda s: s.in_flight == 1)
    assert run.interrupted().errors.keys() == {0, 1, 2, 3}
    assert len(plain_sim.requests) == 1


def test_a_token_that_is_tripped_before_sends_nothing(plain_sim):
    token = InterruptToken()
    token.interrupt()
    assert invoke_parallel_interruptible(prompts(3), token) == [None] * 3
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", interrupt_token=token)
    assert caught.value.kind == "interrupted"
    assert plain_sim.requests == ()


def test_a_token_that_is_reset_can_be_used_again(plain_sim):
    token = InterruptToken()
    token.interrupt()
    token.reset()
    assert not token.is_interrupted()
    assert None not in invoke_parallel_interruptible(prompts(2), token)


def test_one_token_ends_many_runs_at_once(plain_sim):
    plain_sim.script(*[Reply(fault="silent")] * 4)
    runs = [InThread(invoke_parallel, prompts(2)) for _ in range(2)]
    plain_sim.wait_for(lambda s: s.in_flight == 4)
    both = InterruptToken()
    with both.watched_by(runs[0].token.interrupt), both.watched_by(runs[1].token.interrupt):
        both.interrupt()
    assert [run.outcome() for run in runs] == [[None, None]] * 2


def test_a_token_reset_at_once_has_still_ended_what_was_under_way(plain_sim):
    plain_sim.script(Reply(fault="silent"))
    run = InThread(invoke_parallel, prompts(1))
    plain_sim.wait_for(lambda s: s.in_flight == 1)
    run.token.interrupt()
    run.token.reset()
    assert run.outcome().errors[0].kind == "interrupted"


def test_a_token_may_be_tripped_by_a_signal_handler(plain_sim):
    plain_sim.script(*[Reply(fault="silent")] * 2)
    token = InterruptToken()
    before = signal.signal(signal.SIGUSR1, lambda *_: token.interrupt())
    sender = threading.Thread(
        target=lambda: (plain_sim.wait_for(lambda s: s.in_flight == 2), os.kill(os.getpid(), signal.SIGUSR1))
    )
    try:
        sender.start()
        assert invoke_parallel_interruptible(prompts(2), token) == [None, None]
    finally:
        sender.join(10)
        signal.signal(signal.SIGUSR1, before)


def test_a_failure_beside_an_interrupt_is_not_raised(plain_sim):
    plain_sim.script(Reply(fault="not_found"), matching="prompt 0")
    plain_sim.script(Reply(fault="silent"), matching="prompt 1")
    failed = threading.Event()
    run = InThread(invoke_parallel, prompts(2), on_result=lambda *_: failed.set())
    assert failed.wait(10)
    plain_sim.wait_for(lambda s: len(s.requests) == 2)
    assert [error.kind for error in run.interrupted().errors.values()] == ["not_found", "interrupted"]


def test_a_client_that_was_brought_can_be_interrupted_too(plain_sim):
    import anthropic

    with anthropic.Anthropic(base_url=plain_sim.base_url) as mine:
        claude_client.set_default_client(mine)
        plain_sim.script(Reply(fault="silent"))
        run = InThread(invoke_claude, "hi")
        plain_sim.wait_for(lambda s: s.in_flight == 1)
        assert run.interrupted().kind == "interrupted"
        assert_healthy(plain_sim)


SCRIPT = """
import sys, threading
from claude_client import *
prompts = [{"prompt": f"prompt {i}"} for i in range(3)]
def run():
    try:
        invoke_parallel(prompts, max_workers=2)
    except KeyboardInterrupt as interrupt:
        print(type(interrupt).__name__, interrupt.results, sorted(interrupt.results.errors), flush=True)
        raise SystemExit(3)
"""
IN_MAIN = SCRIPT + "run()\n"
MAIN_ENDS = SCRIPT + "threading.Thread(target=run).start()\nsys.stdin.readline()\n"
IN_THREAD = SCRIPT + "threading.Thread(target=run).start()\nthreading.Event().wait()\n"


@pytest.mark.parametrize("code", [IN_MAIN, IN_THREAD], ids=["in the main thread", "in another thread"])
def test_ctrl_c_ends_the_run_and_the_interpreter_with_the_results(plain_sim, code):
    plain_sim.script(Reply(text="done"), matching="prompt 0")
    plain_sim.script(*[Reply(fault="silent")] * 2)
    source = str(Path(claude_client.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": source}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        plain_sim.wait_for(lambda s: s.in_flight == 2 and len(s.requests) == 3, timeout=60)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    assert out == "ParallelInterrupt ['done', None, None] [1, 2]\n"
    assert process.returncode != 0
    plain_sim.wait_for(lambda s: s.open_connections == 0)


@pytest.mark.long
def test_a_run_in_another_thread_ends_with_the_main_thread(plain_sim):
    plain_sim.script(Reply(text="done"), matching="prompt 0")
    plain_sim.script(*[Reply(fault="silent")] * 2)
    environment = {**os.environ, "PYTHONPATH": str(Path(claude_client.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", MAIN_ENDS],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        plain_sim.wait_for(lambda s: s.in_flight == 2 and len(s.requests) == 3, timeout=60)
        out, _ = process.communicate("now\n", timeout=10)
    assert out == "ParallelInterrupt ['done', None, None] [1, 2]\n"


def test_a_token_tripped_as_the_last_prompt_ends_returns_all_the_same(plain_sim):
    plain_sim.script(Reply(fault="not_found"))
    token = InterruptToken()
    results = invoke_parallel_interruptible(
        prompts(2), token, max_workers=1, on_result=lambda i, _: i == 1 and token.interrupt()
    )
    assert results.interrupted
    assert [error.kind for error in results.errors.values()] == ["not_found"]


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_while_results_are_told_keeps_every_answer_in_its_place(plain_sim, interrupts):
    plain_sim.script(Reply(text="three"), matching="prompt 3")
    for i in (0, 1, 2, 4, 5, 6, 7):
        plain_sim.script(Reply(fault="silent"), matching=f"prompt {i}")
    told = []

    def on_result(*_):
        told.append(1)
        for _ in range(interrupts):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(ParallelInterrupt) as caught:
        invoke_parallel(prompts(8), max_workers=4, on_result=on_result)
    assert caught.value.results == [None, None, None, "three", None, None, None, None]
    assert caught.value.results.errors.keys() == {0, 1, 2, 4, 5, 6, 7}


def test_ctrl_c_while_a_queue_is_told_of_a_shared_failure_ends_the_run(plain_sim):
    plain_sim.script(Reply(fault="authentication"))
    told = []

    def on_result(*_):
        told.append(1)
        if len(told) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(ParallelInterrupt) as caught:
        invoke_parallel(prompts(20), max_workers=1, on_result=on_result)
    assert len(caught.value.results.errors) == 20


def test_a_ctrl_c_that_a_destructor_swallows_is_pressed_again_for_every_test():
    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    Swallows()
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(LONG)


def test_a_wait_that_nobody_interrupts_is_waited_to_its_end(sim):
    token = InterruptToken()
    sim.script(Reply(fault="overloaded", retry_after=0.01), Reply(text="late"))
    assert invoke_claude("hi", interrupt_token=token) == "late"
    assert repr(token) == "<InterruptToken not interrupted>"
    token.interrupt()
    assert repr(token) == "<InterruptToken interrupted>"


def test_a_connection_that_cannot_even_begin_is_a_connection_error(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.ENETUNREACH)
    with pytest.raises(ClaudeInvocationError, match="unreachable") as caught:
        invoke_claude("hi", max_retries=0)
    assert caught.value.kind == "connection"


def test_a_single_call_that_waits_for_its_retry_is_interrupted_at_once(sim, caplog):
    caplog.set_level(logging.INFO, "claude_client")
    sim.script_by(lambda _: Reply(fault="overloaded", retry_after=50.0))
    token = InterruptToken()

    class Interrupts(logging.Handler):
        """Interrupts when the log says that the next attempt is in 50 s."""

        def emit(self, record):
            token.interrupt()

    handler = Interrupts()
    logging.getLogger("claude_client").addHandler(handler)
    try:
        with pytest.raises(ClaudeInvocationError) as stopped:
            invoke_claude("hi", interrupt_token=token)
    finally:
        logging.getLogger("claude_client").removeHandler(handler)
    assert stopped.value.kind == "interrupted"
    assert len(sim.requests) == 1
