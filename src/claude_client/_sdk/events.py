"""The events of a stream as the server sent them, whatever the installed SDK knows of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from claude_client._sdk.network import read_end
from claude_client._sdk.stream import StreamError


def events_of(stream: Any, is_over: Callable[[], bool]) -> Iterator[Mapping[str, Any]]:
    """
    The events of the SDK's *stream*, without pings, until *is_over* returns True after one of them. The rest of the
    body is then not waited for.

    Raises:
        StreamError: For what is no event.
        Exception: Whatever reading raises, an error event of the server included.
    """
    tap = _Tap(stream, is_over)
    for event in stream:
        # A wrapper of somebody's tracing may have no decoder to listen to.
        yield from tap.taken() or (event.to_dict(),)
    yield from tap.taken()


class _Tap:
    """
    Listens to the decoder of a stream, and goes in its place. The SDK reads on, for its telemetry and its errors, but
    passes over events that it cannot name, which may be the ones that were damaged on their way.
    """

    def __init__(self, stream: Any, is_over: Callable[[], bool]) -> None:
        self._decoder = getattr(stream, "_decoder", None)
        self._response = stream.response
        self._is_over = is_over
        self._heard: list[Any] = []
        if self._decoder is not None:
            stream._decoder = self  # noqa: SLF001 - no public way

    def iter_bytes(self, chunks: Iterator[bytes]) -> Iterator[Any]:
        """Decode *chunks*, for the SDK."""
        for sent in self._decoder.iter_bytes(chunks):  # type: ignore[union-attr]
            self._heard.append(sent)
            yield sent
            if self._is_over():
                read_end(self._response, chunks)
                return

    def taken(self) -> list[Mapping[str, Any]]:
        """The events since the last call."""
        heard, self._heard = self._heard, []
        return [event for sent in heard if (event := _event(sent))["type"] != "ping"]


def _event(sent: Any) -> Mapping[str, Any]:
    if not sent.data and sent.event in {None, "ping"}:
        return {"type": "ping"}
    try:
        event = json.loads(sent.data)
    except ValueError as broken:
        raise StreamError(f"an event {sent.event!r} that is no JSON") from broken
    if not isinstance(event, dict) or not isinstance(event.setdefault("type", sent.event), str):
        raise StreamError(f"an event {sent.event!r} that names no type")
    if sent.event not in {None, event["type"]}:
        raise StreamError(f"an event {sent.event!r} of type {event['type']!r}")
    return event
