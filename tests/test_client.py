import base64
import gc
import json
import os
import subprocess
import sys
import threading
import traceback
import warnings
from pathlib import Path

import anthropic
import pytest

import claude_client
from claude_client import ClaudeInvocationError, invoke_claude, invoke_parallel
from claude_client._sdk import client as _client
from helpers import KEY, error, message, reply
from orchestration import invoke_with_retry


def current():
    with _client.shared_client() as client:
        return client


def test_all_calls_of_all_threads_share_one_client(api):
    api.always(lambda _: reply())
    clients = []

    def call():
        invoke_claude("hi")
        clients.append(current())

    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(clients) == 10
    assert len(set(map(id, clients))) == 1


def test_the_client_is_closed_when_it_is_replaced():
    ours = current()
    claude_client.set_default_client(None)
    assert ours.is_closed()


def test_a_client_in_use_is_closed_only_after_its_last_call():
    with _client.shared_client() as ours:
        claude_client.set_default_client(None)
        assert not ours.is_closed()
        with _client.shared_client() as another:
            assert another is not ours
    assert ours.is_closed()


def test_a_client_that_was_brought_is_used_and_stays_its_owners(api):
    api.answers(reply())
    with anthropic.Anthropic(api_key="sk-brought", base_url="https://proxy.example") as mine:
        claude_client.set_default_client(mine)
        invoke_claude("hi")
        claude_client.set_default_client(None)
        assert not mine.is_closed()
    assert api.requests[0].url.host == "proxy.example"
    assert "sk-brought" in str(api.requests[0].headers.raw)


def test_the_retries_of_a_client_that_was_brought_are_not_used(api, slept):
    api.always(lambda _: error(500))
    with anthropic.Anthropic(max_retries=5) as mine:
        claude_client.set_default_client(mine)
        with pytest.raises(claude_client.ClaudeInvocationError):
            invoke_claude("hi", max_retries=1)
    assert len(api.requests) == 2


@pytest.mark.parametrize("wrong", [object(), "sk-key", anthropic.Anthropic, 5])
def test_anything_but_a_client_is_refused(wrong):
    with pytest.raises(TypeError, match=f"synchronous client of the anthropic SDK, got {type(wrong).__name__}"):
        claude_client.set_default_client(wrong)


def test_an_asynchronous_client_is_refused():
    with pytest.raises(TypeError, match="got AsyncAnthropic"):
        claude_client.set_default_client(anthropic.AsyncAnthropic(api_key="x"))


def test_a_key_that_changes_in_the_environment_is_used_from_then_on(api, monkeypatch):
    api.always(lambda _: reply())
    invoke_claude("hi")
    first = current()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-another")
    invoke_claude("hi")
    assert "sk-another" in str(api.requests[1].headers.raw)
    assert first.is_closed()


def test_the_base_url_is_the_sdks_own_variable(api, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example/base")
    route = api.router.post("https://gateway.example/base/v1/messages").mock(return_value=reply("from there"))
    assert invoke_claude("hi") == "from there"
    assert route.called


def test_the_sdks_defaults_stay_its_own():
    ours = current()
    with anthropic.Anthropic() as plain:
        assert ours.timeout == plain.timeout
        mine, theirs = ours._client._transport._pool._pools[0], plain._client._transport._pool
        assert mine._max_connections == theirs._max_connections
        assert mine._socket_options == theirs._socket_options
    assert ours.max_retries == 0


def test_no_connection_is_left_open_behind_a_replaced_client():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        current()
        claude_client.set_default_client(None)
        gc.collect()
    assert not [w for w in caught if issubclass(w.category, ResourceWarning)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("brought", [False, True])
def test_a_forked_child_has_connections_of_its_own(api, brought):
    mine = anthropic.Anthropic(api_key=KEY) if brought else None
    claude_client.set_default_client(mine)
    parents = current()
    assert in_child(lambda: current()._client is not parents._client)
    if mine:
        mine.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_grandchild_has_connections_of_its_own_too(api):
    with anthropic.Anthropic(api_key=KEY) as mine:
        claude_client.set_default_client(mine)
        assert in_child(lambda: current() is not None and in_child(lambda: current()._client is not mine._client))


def test_a_fork_while_another_thread_holds_the_lock_does_not_hang_the_child(api):
    with _client._lock:
        assert in_child(lambda: current() is not None)


def test_a_child_says_so_where_a_client_of_the_parent_cannot_be_used(api):
    with anthropic.DefaultHttpxClient() as http, anthropic.Anthropic(http_client=http) as mine:
        claude_client.set_default_client(mine)
        assert in_child(refuses_the_client)


def refuses_the_client() -> bool:
    with pytest.raises(RuntimeError, match="set one made here"):
        invoke_claude("hi")
    return True


def in_child(check) -> bool:
    """Whether *check* holds in a forked child, which has ten seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: fork in a process with threads
        child = os.fork()
    if child == 0:
        threading.Timer(10, os._exit, [2]).start()
        try:
            os._exit(0 if check() else 1)
        except BaseException:  # noqa: BLE001
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run(code: str) -> str:
    source = str(Path(claude_client.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_importing_us_does_not_import_the_sdk():
    code = "import sys, claude_client, task_state, orchestration; print([m for m in sys.modules if m in {m!r}])"
    modules = ["anthropic", "httpx", "httpx2", "pydantic", "asyncio", "sqlite3", "tqdm", "starlette", "uvicorn"]
    assert run(code.replace("{m!r}", repr(modules))) == "[]"


ONE_CALL = """
import os, socket, threading
from claude_client import invoke_claude

server = socket.create_server(("127.0.0.1", 0))
os.environ["ANTHROPIC_BASE_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}"
body = os.environ["BODY"].encode()
head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)

def serve():
    connection, _ = server.accept()
    connection.recv(65536)
    connection.sendall(head + body)
    connection.recv(1)  # until the client hangs up, which it does at exit
    connection.close()
    server.close()

threading.Thread(target=serve, daemon=True).start()
print(invoke_claude("hi"))
"""


def test_the_interpreter_ends_without_a_warning_after_a_call_was_made(monkeypatch):
    monkeypatch.setenv("BODY", json.dumps(message("hello")))
    assert run(ONE_CALL) == "hello"


def test_a_fan_out_from_many_threads_at_once_is_safe(api):
    api.always(lambda _: reply())
    failures = []

    def call():
        try:
            invoke_parallel([{"prompt": "a"}, {"prompt": "b"}])
            claude_client.set_default_client(None)
        except BaseException as exc:  # noqa: BLE001
            failures.append(exc)

    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert len(api.requests) == 20


def test_has_credentials_tells_without_sending(api, monkeypatch):
    assert claude_client.has_credentials()
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert not claude_client.has_credentials()
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", ".")  # the SDK then refuses at once
    assert not claude_client.has_credentials()
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token")
    assert claude_client.has_credentials()
    assert not api.requests


def test_a_client_that_signs_each_request_counts_as_having_credentials(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")

    class AnthropicGateway(anthropic.Anthropic):
        pass

    with AnthropicGateway(api_key=None) as mine:
        claude_client.set_default_client(mine)
        assert claude_client.has_credentials()


def test_a_refused_key_does_not_replace_a_client_that_was_brought_meanwhile(api):
    with anthropic.Anthropic(api_key=KEY) as mine:

        def refuse(_):
            claude_client.set_default_client(mine)
            return error(401, "authentication_error")

        api.always(refuse)
        with pytest.raises(claude_client.ClaudeInvocationError):
            invoke_claude("hi")
        assert current()._client is mine._client


def test_headers_that_change_in_the_environment_are_used_from_then_on(api, monkeypatch):
    api.always(lambda _: reply())
    invoke_claude("hi")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Team: ours")
    invoke_claude("hi")
    assert [request.headers.get("x-team") for request in api.requests] == [None, "ours"]


def test_has_credentials_counts_a_header_that_authenticates(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Api-Key: from-a-gateway")
    assert claude_client.has_credentials()


def test_a_password_in_the_base_url_reaches_the_gateway_and_no_log(api, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://me:pass%40word@gateway.example")
    api.answers(reply("Hi"), error(400, "invalid_request_error", "No"))
    assert invoke_claude("hi") == "Hi"
    with pytest.raises(ClaudeInvocationError) as failed:
        invoke_claude("hi")
    sent = base64.b64encode(b"me:pass@word").decode()
    assert api.requests[0].headers["authorization"] == f"Basic {sent}"
    assert "gateway.example" in caplog.text
    shown = caplog.text + "".join(traceback.format_exception(failed.value)) + repr(vars(failed.value.__cause__))
    assert not any(secret in shown for secret in ("pass%40word", "pass@word", sent))


def test_a_password_in_the_base_url_of_a_client_that_was_brought_is_in_no_log_either(api, caplog):
    caplog.set_level("DEBUG")
    said = "wrong password pass-of-mine for Basic " + base64.b64encode(b"me:pass-of-mine").decode()
    api.answers(error(401, "authentication_error", said))
    with anthropic.Anthropic(api_key=KEY, base_url="https://me:pass-of-mine@gateway.example") as client:
        claude_client.set_default_client(client)
        with pytest.raises(ClaudeInvocationError, match="wrong password") as failed:
            invoke_claude("hi")
    shown = caplog.text + str(failed.value) + str(failed.value.details) + str(vars(failed.value.__cause__))
    assert "pass-of-mine" not in shown
    assert base64.b64encode(b"me:pass-of-mine").decode() not in shown


@pytest.mark.parametrize(
    "options",
    [
        {"extra_headers": {"X-Credential": "hush-hush-1"}},
        {"extra_headers": {"X-Gateway-Pass": "hush-hush-1"}},
        {"extra_headers": {"X-Session-Id": "hush-hush-1"}},
        {"extra_headers": {"Cookie": "theme=light-theme; sid=hush-hush-1"}},
        {"extra_query": {"api_key": "hush-hush-1"}},
    ],
    ids=lambda options: next(iter(next(iter(options.values())))),
)
def test_what_a_gateway_takes_for_a_secret_is_not_shown_where_it_repeats_it(api, options):
    api.answers(error(400, "invalid_request_error", "bad value hush-hush-1"))
    with pytest.raises(ClaudeInvocationError, match="bad value") as failed:
        invoke_claude("hi", **options)
    assert "hush-hush-1" not in str(failed.value) + str(failed.value.details) + str(failed.value.__cause__)


def locals_of_ours(exc):
    frames = traceback.TracebackException.from_exception(exc, capture_locals=True).stack
    ours = ("claude_client", "orchestration")
    return "".join(str(frame.locals) for frame in frames if any(name in frame.filename for name in ours))


@pytest.mark.parametrize(
    "call",
    [
        invoke_claude,
        claude_client.invoke_claude_streaming,
        invoke_with_retry,
        lambda prompt, **options: invoke_parallel([{"prompt": prompt}], **options),
        lambda prompt, **options: claude_client.ConversationThread(**options).send(prompt),
        lambda prompt, **options: claude_client.ConversationThread().send(prompt, **options),
    ],
)
def test_the_locals_of_our_frames_do_not_show_headers(api, call):
    api.always(lambda _: error(400, "invalid_request_error", "No"))
    with pytest.raises(ClaudeInvocationError) as failed:
        call("hi", extra_headers={"x-api-key": "hush-hush-1"})
    assert "hush-hush-1" not in locals_of_ours(failed.value)
    assert "'x-api-key': not shown" in locals_of_ours(failed.value)


def test_a_client_that_was_brought_still_serves_its_owner(sim):
    with anthropic.Anthropic(api_key=KEY, base_url=sim.base_url) as client:
        claude_client.set_default_client(client)
        said = [{"role": "user", "content": "?"}]
        answer = client.messages.create(model="claude-sonnet-4-6", max_tokens=99, messages=said)
        assert answer.stop_reason == "end_turn"
        assert invoke_claude("?")
    assert len(sim.requests) == 2
