"""Replies as the API sends them, the HTTP seam they come through, and what a browser makes of our HTML."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import anthropic
import httpx
import respx
from respx.mocks import HTTPCoreMocker

KEY = "sk-ant-api03-test-0123456789"

#: Whether the installed SDK stands on httpx2 (1.x, 2.x) or on httpx (0.x).
ON_HTTPX2 = anthropic.DefaultHttpxClient.__mro__[1].__module__.startswith("httpx2")
SDK_MAJOR = int(anthropic.__version__.split(".")[0])
core: Any = importlib.import_module("httpcore2" if ON_HTTPX2 else "httpcore")

if ON_HTTPX2:

    class HTTPCore2Mocker(HTTPCoreMocker):
        """respx for httpcore2: the same seam under another name."""

        name = "httpcore2"
        targets = [target.replace("httpcore.", "httpcore2.") for target in HTTPCoreMocker.targets]  # noqa: RUF012

        @classmethod
        def from_sync_httpx_response(cls, httpx_response, target, **kwargs):
            return core.Response(
                status=httpx_response.status_code,
                headers=httpx_response.headers.raw,
                content=httpx_response.stream,
                extensions=httpx_response.extensions,
            )


class Api:
    """The Messages API at the HTTP seam: give it replies in order, then read what it was asked."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.router = router
        self._route = router.route(path="/v1/messages")

    def answers(self, *replies: httpx.Response | Exception) -> None:
        """The next requests get *replies*, one each."""
        self._route.mock(side_effect=[*replies])

    def always(self, reply: Any) -> None:
        """Every request gets *reply*, or what *reply* makes of it."""
        self._route.mock(side_effect=reply if callable(reply) else lambda _: reply)

    @property
    def requests(self) -> list[httpx.Request]:
        return [call.request for call in self._route.calls]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]

    @property
    def body(self) -> Any:
        """The body of the only request."""
        (body,) = self.bodies
        return body


def message(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-6",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
        **fields,
    }


def reply(text: str = "Hello", *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    said = {"content-type": "application/json", "request-id": "req_1", **(headers or {})}
    return httpx.Response(200, content=json.dumps(message(text, **fields)), headers=said)


def error(
    status: int,
    kind: str = "api_error",
    text: str = "No luck",
    *,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    details = {"details": {"error_code": code}} if code else {}
    body = {"type": "error", "error": {"type": kind, "message": text, **details}, "request_id": "req_1"}
    return httpx.Response(status, json=body, headers={"request-id": "req_1", **(headers or {})})


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def start(**fields: Any) -> bytes:
    started = message(content=[], stop_reason=None, usage={"input_tokens": 10, "output_tokens": 1})
    return event("message_start", message={**started, **fields})


def block(index: int, content_block: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    return [
        event("content_block_start", index=index, content_block=content_block),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def text_block(*chunks: str, index: int = 0) -> list[bytes]:
    deltas = [{"type": "text_delta", "text": chunk} for chunk in chunks]
    return block(index, {"type": "text", "text": ""}, *deltas)


def end(stop_reason: str = "end_turn", **delta: Any) -> list[bytes]:
    return [
        event(
            "message_delta",
            delta={"stop_reason": stop_reason, "stop_sequence": None, **delta},
            usage={"output_tokens": 5},
        ),
        event("message_stop"),
    ]


def stream(*parts: bytes | Exception) -> httpx.Response:
    """A 200 stream of *parts*; an exception cuts it there."""

    def body():
        for part in parts:
            if isinstance(part, Exception):
                raise part
            yield part

    return httpx.Response(200, content=body(), headers={"content-type": "text/event-stream", "request-id": "req_1"})


def streamed(*chunks: str, stop_reason: str = "end_turn") -> httpx.Response:
    """A whole stream of one text in *chunks*."""
    return stream(start(), event("ping"), *text_block(*chunks), *end(stop_reason))


OUR_TAGS = {"div", "table", "thead", "tbody", "tfoot", "tr", "th", "td"}
OUR_TAGS |= {"details", "summary", "pre", "strong", "em", "bdi"}


class Page(HTMLParser):
    """What a browser makes of HTML of ours. Refuses bad nesting, and what could load, run or have a colour."""

    def __init__(self, html: str) -> None:
        super().__init__()
        #: The name of each tag and the text in it, in the order in which they end.
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in OUR_TAGS
        for name, value in attrs:
            assert name in {"class", "dir", "open", "style"}, name
            assert "url" not in (value or "")
            assert "#" not in (value or "")
        self._open.append((tag, []))

    def handle_endtag(self, tag: str) -> None:
        opened, pieces = self._open.pop()
        assert opened == tag
        self.texts.append((tag, "".join(pieces)))

    def handle_data(self, data: str) -> None:
        for _, pieces in self._open:
            pieces.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment

    def of(self, *tags: str) -> list[str]:
        """The text in each of *tags*."""
        return [text for tag, text in self.texts if tag in tags]

    @property
    def text(self) -> str:
        return self.texts[-1][1]


def until(true: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.001)
