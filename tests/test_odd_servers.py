"""What servers, proxies and networks do that the protocol does not foresee, over real sockets."""

import gzip
import json
import logging
import pickle
import signal
import threading
import traceback
from contextlib import contextmanager
from types import SimpleNamespace

import anthropic
import pytest
from anthropic.lib.credentials import AccessToken

import claude_client
from claude_client import ClaudeInvocationError, InterruptToken, invoke_claude, invoke_claude_streaming
from claude_client._sdk.network import _Stream, read_end
from claude_client._sdk.tokens import renew
from claude_client._values.attempt import Attempt
from claude_client._verbs.requests import build_request
from helpers import KEY, end, event, message, start, text_block, until
from servers import Scripted, in_chunks, whole

PARTS = [start(), *text_block("all of it"), *end()]
ANSWER = in_chunks(*PARTS)


@pytest.fixture
def served(monkeypatch):
    """A server that our own client is pointed at, once it has its answers."""
    servers = []

    def serve(*answers):
        server = Scripted(*answers).__enter__()
        servers.append(server)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        return server

    yield serve
    claude_client.set_default_client(None)
    for server in servers:
        server.__exit__()


def ask(**options):
    return invoke_claude("hi", streaming=True, max_retries=0, **options)


@pytest.mark.parametrize("then", [b"", Scripted.CLOSED], ids=["stays open", "is closed"])
def test_an_answer_is_over_at_its_last_event_whatever_the_connection_does(served, then):
    server = served(in_chunks(*PARTS, ended=False) + then)
    chunks = []
    assert invoke_claude_streaming("hi", chunks.append, timeout=60) == "all of it"
    assert (chunks, len(server.requests)) == (["all of it"], 1)


def test_an_answer_that_has_come_whole_is_not_lost_by_an_interrupt(served):
    served(in_chunks(*PARTS, ended=False))
    token = InterruptToken()

    def interrupt(_):
        token.interrupt()

    assert invoke_claude_streaming("hi", interrupt, interrupt_token=token) == "all of it"


def test_what_goes_on_after_the_last_event_is_not_waited_for(served):
    served(in_chunks(*PARTS, *[event("ping")] * 10, ended=False))
    assert ask() == "all of it"


def test_a_connection_is_kept_where_its_answer_ends_in_order(served):
    server = served(ANSWER, ANSWER, whole(json.dumps(message()).encode()))
    assert [ask(), ask(), invoke_claude("hi")] == ["all of it", "all of it", "Hello"]
    assert server.connections == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_bytes_after_an_answer_are_not_taken_for_the_next(served, streaming):
    mine, stray = (whole(json.dumps(message(text)).encode()) for text in ("mine", "stray"))
    first = ANSWER if streaming else mine
    server = served(first + stray, mine)
    invoke_claude("hi", streaming=streaming)
    assert invoke_claude("hi") == "mine"
    assert server.connections == 2


def test_a_server_that_does_not_stream_is_read_all_the_same(served):
    served(whole(json.dumps(message("in one piece")).encode()))
    chunks = []
    assert invoke_claude_streaming("hi", chunks.append) == "in one piece"
    assert chunks == ["in one piece"]


def test_a_server_that_does_not_stream_and_sends_no_message_says_what_it_says(served):
    served(whole(b"{no", "request-id: req_9"))
    with pytest.raises(ClaudeInvocationError) as caught:
        ask()
    assert (caught.value.kind, caught.value.request_id) == ("invalid_response", "req_9")


def test_a_server_that_does_not_stream_and_sends_something_else_is_quoted(served):
    served(whole(b'["something else"]'))
    with pytest.raises(ClaudeInvocationError, match="cannot be used: it is no message") as caught:
        ask()
    assert caught.value.details == ["something else"]


ERROR = {"type": "error", "error": {"type": "authentication_error", "message": "key is revoked"}, "request_id": "req_1"}


@pytest.mark.parametrize("streaming", [False, True])
def test_an_error_that_comes_as_an_answer_is_what_it_says(served, slept, streaming):
    server = served(whole(json.dumps(ERROR).encode()))
    with pytest.raises(ClaudeInvocationError, match="key is revoked") as caught:
        invoke_claude("hi", streaming=streaming)
    assert (caught.value.kind, caught.value.details, caught.value.request_id) == ("authentication", ERROR, "req_1")
    assert (len(server.requests), caught.value.retryable) == (1, False)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("content", [b'{"\xff": 1}', b"{no", b"[]", b'"text"', b"null", b"[" * 100_000])
def test_a_body_that_is_no_message_is_an_answer_that_cannot_be_read(served, content, streaming):
    served(whole(content))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=streaming, max_retries=0)
    assert (caught.value.kind, caught.value.retryable) == ("invalid_response", True)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_in_an_encoding_that_it_does_not_have_cannot_be_read(served, encoding, streaming):
    served(whole(json.dumps(message()).encode(), f"content-encoding: {encoding}"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=streaming, max_retries=0)
    assert (caught.value.kind, caught.value.retryable) == ("invalid_response", True)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_compressed_body_that_breaks_off_cannot_be_read(served, streaming):
    body = gzip.compress(json.dumps(message("x" * 1000)).encode())
    served(whole(body[:20] + bytes(20) + body[40:], "content-encoding: gzip"))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=streaming, max_retries=0)
    assert (caught.value.kind, caught.value.retryable) == ("invalid_response", True)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_to_another_host_is_not_followed(served, status):
    with Scripted(whole(json.dumps(message()).encode())) as elsewhere:
        server = served(whole(b"", f"location: {elsewhere.url.replace('://', '://me:secret@')}/v1", status=status))
        with pytest.raises(ClaudeInvocationError, match=f"redirects to {elsewhere.url}, which is not") as caught:
            invoke_claude("hi", extra_headers={"x-gateway-auth": "gateway-secret"})
    assert not elsewhere.requests
    assert (len(server.requests), caught.value.retryable) == (1, False)


def test_a_redirect_on_the_same_host_is_followed(served):
    server = served(whole(b"", "location: /v2/messages", status="307 Temporary Redirect"), ANSWER)
    assert ask() == "all of it"
    assert server.requests[1].startswith(b"POST /v2/messages")


@pytest.mark.parametrize(
    "answer",
    [
        whole(json.dumps({"error": {"type": "api_error", "message": f"no: {KEY}"}}).encode(), status="500 No"),
        whole(b"{no " + KEY.encode(), f"request-id: req-{KEY}"),
        whole(b"\xff " + KEY.encode(), f"request-id: req-{KEY}"),
        whole(json.dumps({"said": [KEY, {"k": KEY}]}).encode(), f"request-id: {KEY}"),
        in_chunks(start(), *text_block("a"), b"event: x\ndata: {" + KEY.encode() + b"\n\n"),
        in_chunks(start(), event("error", error={"type": "api_error", "message": KEY})),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_key_that_a_server_echoes_is_seen_nowhere(served, caplog, answer, streaming):
    caplog.set_level(logging.DEBUG, "claude_client")
    served(answer)
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=streaming, max_retries=0)
    failed = caught.value
    shown = [repr(failed), str(failed), str(vars(failed)), repr(pickle.dumps(failed)), caplog.text]
    for link in filter(None, (failed, failed.__cause__)):
        frames = traceback.TracebackException.from_exception(link, capture_locals=True).stack
        shown += [str(frame.locals) for frame in frames if frame.filename != __file__]
        shown += [str(vars(link)), repr(link.args), str(getattr(link, "object", ""))]
        shown += [str(vars(part)) for part in vars(link).values() if hasattr(part, "__dict__")]
    assert not [text for text in shown if KEY in text]


def test_a_short_header_that_is_no_secret_is_not_blotted_out(served):
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: 1 is 1 too many"}}
    served(whole(json.dumps(body).encode(), status="400 No"))
    with pytest.raises(ClaudeInvocationError, match="max_tokens: 1 is 1 too many") as caught:
        invoke_claude("hi", extra_headers={"x-cache-key": "max_tokens", "x-my-key": "1"})
    assert isinstance(caught.value.__cause__, anthropic.BadRequestError)


def test_a_body_that_was_cut_on_its_way_to_the_server_is_sent_again(served, slept):
    error = {"type": "invalid_request_error", "message": "The request body is not valid JSON: unexpected end of data"}
    server = served(whole(json.dumps({"type": "error", "error": error}).encode(), status="400 No"), ANSWER)
    assert invoke_claude("hi", streaming=True) == "all of it"
    assert len(server.requests) == 2


class Provider:
    """Gives a new token each time it is asked."""

    def __init__(self):
        self.tokens = 0

    def __call__(self, **_):
        self.tokens += 1
        return AccessToken(f"token-number-{self.tokens}", None)


REFUSED = whole(
    json.dumps({"type": "error", "error": {"type": "authentication_error", "message": "revoked"}}).encode(),
    status="401 Unauthorized",
)


def with_tokens(server):
    provider = Provider()
    claude_client.set_default_client(anthropic.Anthropic(credentials=provider, base_url=server.url, api_key=None))
    return provider


@pytest.mark.parametrize("streaming", [False, True])
def test_a_token_that_is_refused_is_renewed_once(served, monkeypatch, streaming):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    server = served(ANSWER if streaming else whole(json.dumps(message("all of it")).encode()), REFUSED, ANSWER)
    provider = with_tokens(server)
    assert invoke_claude("hi", streaming=streaming) == "all of it"
    assert invoke_claude("hi", streaming=True) == "all of it"
    assert provider.tokens == 2
    sent = [request.lower().partition(b"authorization: bearer ")[2].split(b"\r")[0] for request in server.requests]
    assert sent == [b"token-number-1", b"token-number-1", b"token-number-2"]


def test_a_new_token_that_is_refused_too_ends_the_call(served, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    server = served(REFUSED, REFUSED)
    with_tokens(server)
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi")
    assert (caught.value.kind, len(server.requests)) == ("authentication", 2)


def test_of_many_calls_with_a_token_that_is_refused_one_has_it_renewed(served, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    server = served(REFUSED, *[ANSWER] * 6)
    provider = with_tokens(server)
    results = claude_client.invoke_parallel([{"prompt": "hi"}] * 5, streaming=True, max_workers=1)
    assert [*results] == ["all of it"] * 5
    assert provider.tokens == 2


class SoftTimeLimitError(Exception):
    """As a task queue raises it in the handler of a signal."""


@contextmanager
def raising_in_a_signal_handler(exception, server):
    """Raise *exception* on this thread, in the handler of a signal, once *server* has a request."""
    over = threading.Event()
    here = threading.get_ident()

    def handler(*_):
        if not over.is_set():
            raise exception

    def send():
        until(lambda: server.requests)
        while not over.is_set():  # one that comes just before a call blocks, or in a destructor, does not end it
            signal.pthread_kill(here, signal.SIGALRM)
            over.wait(0.5)

    before = signal.signal(signal.SIGALRM, handler)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGALRM, before)


# A signal that comes while a finalizer runs is lost there, as Python has it, and sent again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("exception", [SoftTimeLimitError("time is up"), TimeoutError("time is up"), SystemExit(3)])
@pytest.mark.parametrize("answer", [b"", in_chunks(*PARTS[:2], ended=False)], ids=["silent", "in a stream"])
@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_signal_handler_raises_comes_out_as_itself(served, exception, answer, streaming):
    server = served(answer)
    with raising_in_a_signal_handler(exception, server), pytest.raises(type(exception)) as caught:
        invoke_claude("hi", streaming=streaming)
    assert caught.value is exception
    assert len(server.requests) == 1


def test_what_a_caller_was_handling_is_not_the_reason_of_a_failure(served):
    server = served(whole(b"{no"))
    try:
        raise SoftTimeLimitError("handled here")  # noqa: TRY301 - to be handled
    except SoftTimeLimitError:
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", streaming=True, max_retries=0)
    assert caught.value.kind == "invalid_response"
    assert len(server.requests) == 1


def test_what_the_sdk_says_of_an_argument_comes_out_whatever_its_caller_was_handling(served):
    server = served(whole(b"{}", status="400 No"))
    with anthropic.Anthropic(base_url=server.url, max_retries=0) as client:

        class Wrong:
            def __init__(self):
                self.messages = self

            def create(self, **arguments):
                return client.messages.create(nobody_knows=True, **arguments)

            def with_options(self, **_):
                return self

        claude_client.set_default_client(Wrong())
        try:
            client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
        except anthropic.BadRequestError:
            with pytest.raises(TypeError, match="nobody_knows"):
                invoke_claude("hi")


def test_a_provider_that_has_no_token_is_about_authentication(served, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")

    def provider(**_):
        raise RuntimeError("the vault is shut")

    claude_client.set_default_client(anthropic.Anthropic(credentials=provider, base_url=served().url, api_key=None))
    with pytest.raises(ClaudeInvocationError, match="the vault is shut") as caught:
        invoke_claude("hi")
    assert (caught.value.kind, caught.value.retryable) == ("authentication", False)


class Wrapped:
    """A stream as somebody's tracing wraps it, so that nobody can listen to its decoder."""

    __slots__ = ("_events", "close", "response")

    def __init__(self, stream):
        self.response, self.close, self._events = stream.response, stream.close, stream

    def __iter__(self):
        yield from self._events


class Tracing:
    """A client whose streams are wrapped."""

    def __init__(self, client):
        self._client = client
        self.messages = self

    def create(self, **arguments):
        return Wrapped(self._client.messages.create(**arguments))

    def with_options(self, **_):
        return self


@pytest.mark.parametrize("then", [b"", b"5\r\nbroken", event("ping")], ids=["ends", "breaks", "goes on"])
def test_a_stream_that_somebody_wraps_is_read_all_the_same(served, then):
    late = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "late"})
    server = served(in_chunks(*PARTS, late, ended=not then) + then + Scripted.CLOSED)
    with anthropic.Anthropic(base_url=server.url, max_retries=0) as client:
        claude_client.set_default_client(Tracing(client))
        assert ask() == "all of it"


def test_an_answer_without_text_that_is_not_streamed_tells_the_callback_nothing(served):
    served(whole(json.dumps(message(content=[])).encode()))
    chunks = []
    assert invoke_claude_streaming("hi", chunks.append) == ""
    assert not chunks


def test_what_a_signal_handler_raises_at_the_end_of_a_body_is_not_lost():
    def chunks():
        raise SoftTimeLimitError
        yield b""

    stream = _Stream.__new__(_Stream)
    with Attempt(build_request(prompt="hi"), 0.0), pytest.raises(SoftTimeLimitError):
        read_end(SimpleNamespace(extensions={"network_stream": stream}), chunks())


def test_a_token_that_another_call_has_renewed_is_not_renewed_again():
    invalidated = []
    cache = SimpleNamespace(_cached=SimpleNamespace(token="new"), invalidate=lambda: invalidated.append(True))
    refused = SimpleNamespace(request=SimpleNamespace(headers={"authorization": "Bearer old"}))
    assert renew(SimpleNamespace(_token_cache=cache), refused)
    assert not invalidated
