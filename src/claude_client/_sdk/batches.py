"""The API's message batches, by their paths on the SDK's client: it would follow the address of results anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from claude_client._sdk.exchange import ask
from claude_client._values.attempt import Attempt
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import InterruptToken
from claude_client._values.request import Request

_PATH = "/v1/messages/batches"
_MOST_LISTED = 1000
_NONE = Request(model="", max_tokens=1, messages=[])


class BatchInfo(NamedTuple):
    """What the API tells of a batch."""

    id: str
    has_ended: bool
    #: Number of its requests, and, once it has ended, how many have which result.
    requests: int
    counts: Mapping[str, int]
    #: Seconds since the epoch.
    created: float


class Within(NamedTuple):
    """What ends a request early: a token, and a time by `time.monotonic`."""

    token: InterruptToken | None = None
    ends_at: float = math.inf


_FOR_EVER = Within()


def check_client(client: Any) -> None:
    """Raise a ValueError if there are no batches where *client* asks: Bedrock, Vertex and Foundry have none."""
    if not any(cls.__name__ == "Anthropic" for cls in type(client).__mro__):
        raise ValueError(f"{type(client).__name__} has no message batches: use invoke_parallel_managed")


def create(client: Any, content: bytes, headers: Mapping[str, str], within: Within = _FOR_EVER) -> BatchInfo:
    """
    Create a batch, by one request that is not made again.

    Raises:
        ClaudeInvocationError: If it was not created; or, without a status, if nobody knows.
    """
    options = {"headers": {"Content-Type": "application/json", **headers}}
    return _told(_ask(client, client.post, within, path=_PATH, cast_to=object, content=content, options=options))


def retrieve(client: Any, batch_id: str, within: Within = _FOR_EVER) -> BatchInfo:
    """
    What the API tells of a batch.

    Raises:
        ClaudeInvocationError: If it does not.
    """
    return _told(_ask(client, client.get, within, path=f"{_PATH}/{batch_id}", cast_to=object))


def cancel(client: Any, batch_id: str, within: Within = _FOR_EVER) -> None:
    """
    Have a batch end with what it has.

    Raises:
        ClaudeInvocationError: If that fails; also if it has ended.
    """
    _ask(client, client.post, within, path=f"{_PATH}/{batch_id}/cancel", cast_to=object)


def created_since(client: Any, since: float, within: Within = _FOR_EVER) -> Iterator[BatchInfo]:
    """
    The batches that were created *since* a time in seconds since the epoch, the newest first.

    Raises:
        ClaudeInvocationError: If they cannot be listed.
    """
    query: dict[str, Any] = {"limit": _MOST_LISTED}
    while True:
        page = _ask(client, client.get, within, path=_PATH, cast_to=object, options={"params": {**query}})
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise _unreadable(page)
        for told in page["data"]:
            info = _told(told)
            if info.created < since:
                return
            yield info
        if not page.get("has_more"):
            return
        query["after_id"] = page["last_id"]


def results(client: Any, batch_id: str, within: Within = _FOR_EVER) -> Generator[Mapping[str, Any]]:
    """
    The lines of the results of a batch, in no order, as far as they come: a download that breaks ends, too.

    Raises:
        ClaudeInvocationError: If there are none to be had.
    """
    options = {"headers": {"X-Stainless-Raw-Response": "stream"}}  # so does the SDK, to have it unread
    with _attempt(within) as attempt:
        response = ask(
            client, partial(client.get, f"{_PATH}/{batch_id}/results"), attempt, cast_to=object, options=options
        )
        # Of the network, or of half a line: what is missing is asked for again.
        with closing(response), attempt, suppress(Exception):
            for line in _lines_of(response.iter_bytes()):
                told = json.loads(line)
                if isinstance(told, dict):
                    yield told


def _lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that are not blank. Not by httpx: it breaks them at characters that JSON has within texts."""
    parts: list[bytes] = []
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        parts.append(first)
        for rest in more:
            if line := b"".join(parts).strip():
                yield line
            parts = [rest]
    if line := b"".join(parts).strip():
        yield line


def _ask(client: Any, call: Any, within: Within, *, path: str, **arguments: Any) -> Any:
    with _attempt(within) as attempt:
        return ask(client, partial(call, path), attempt, **arguments)


@contextmanager
def _attempt(within: Within) -> Iterator[Attempt]:
    attempt = Attempt(_NONE, 0.0)
    attempt.ends_at = within.ends_at
    with within.token.watched_by(attempt.abort) if within.token else nullcontext():
        yield attempt


def _told(said: Any) -> BatchInfo:
    try:
        counts = {name: int(count) for name, count in said["request_counts"].items()}
        created = datetime.fromisoformat(said["created_at"]).timestamp()
        return BatchInfo(said["id"], said["processing_status"] == "ended", sum(counts.values()), counts, created)
    except (TypeError, KeyError, AttributeError, ValueError) as unreadable:
        raise _unreadable(said) from unreadable


def _unreadable(said: Any) -> ClaudeInvocationError:
    return ClaudeInvocationError(
        f"The API's answer about a batch cannot be read: {str(said)[:200]!r}", kind="invalid_response", retryable=True
    )
