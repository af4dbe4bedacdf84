"""Answering a request that was admitted: whole, as a stream, or gone wrong as its reply says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ._errors import Rejection
from ._exchange import EVENTS, HTML, JSON
from ._pace import for_ever, is_set, sleep_until
from ._wire import BROKEN_EVENT, PING, Chunk, compact, error_event, event_stream

if TYPE_CHECKING:
    from ._exchange import Exchange
    from ._state import Turn

_PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
_ERROR_EVENT = Rejection(type="overloaded_error", message="Overloaded")
_MID_ANSWER = frozenset({"cut", "silent_mid_stream", "silent_with_pings", "error_event", "early_end", "malformed"})
_NO_MESSAGE: frozenset[str | None] = frozenset(
    {"cut_before_headers", "silent", "early_end_empty", "html", "not_a_message"}
)
_DEFAULT_PING = 1.0  # seconds; facts 4: how often the API itself sends pings is not documented


async def answer(exchange: Exchange, turn: Turn, *, stream: bool) -> None:
    """Answer as *turn* says, at its pace."""
    await _hold(turn, stream=stream)
    if rejection := _rejection(turn, stream=stream):
        await exchange.reject(rejection)
    elif turn.reply.fault in _NO_MESSAGE:
        await _answer_otherwise(exchange, turn.reply.fault, stream=stream)
    elif stream:
        await _Streaming(exchange, turn).run()
    else:
        await _answer_whole(exchange, turn)


async def _hold(turn: Turn, *, stream: bool) -> None:
    """Wait for the first byte's time: for an answer that is not streamed, the time of its last."""
    speaking = 0.0 if stream else turn.pace.seconds_for(turn.answer.output_tokens)
    await asyncio.sleep(turn.pace.latency + speaking)
    await is_set(turn.reply.until)
    await is_set(None if stream else turn.reply.pause)


def _rejection(turn: Turn, *, stream: bool) -> Rejection | None:
    if turn.reply.fault == "error_event" and not stream:
        return turn.reply.reworded(_ERROR_EVENT)
    return turn.reply.rejection


async def _answer_otherwise(exchange: Exchange, fault: str | None, *, stream: bool) -> None:
    match fault:
        case "cut_before_headers":
            await exchange.cut()
        case "silent":
            await for_ever()
        case "html":
            await exchange.finish(HTML, _PAGE, "faulted")
        case "not_a_message":
            await exchange.finish(JSON, b"{}", "faulted")
        case _:
            await exchange.finish(EVENTS if stream else JSON, b"", "faulted")


async def _answer_whole(exchange: Exchange, turn: Turn) -> None:
    body = compact(turn.message)
    fault = turn.reply.fault
    exchange.begin(turn)
    if fault not in _MID_ANSWER:
        exchange.say(turn.answer.text)
        await exchange.finish(JSON, body)
    elif fault in ("early_end", "malformed"):
        await exchange.finish(JSON, _half(body), "faulted")
    else:
        await exchange.start(JSON, {"content-length": str(len(body))})
        await exchange.part(_half(body))
        await (exchange.cut() if fault == "cut" else for_ever())


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


class _Streaming:
    """A streamed answer, sent event by event."""

    def __init__(self, exchange: Exchange, turn: Turn) -> None:
        self._exchange = exchange
        self._turn = turn
        self._reply = turn.reply
        self._events = event_stream(turn.message, cut_call=turn.answer.cut_call)
        self._ping_interval = turn.pace.ping_interval
        self._due = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Send the events, up to the fault if there is one."""
        chunks, stop = self._events.chunks, self._reply.after_chunks
        self._exchange.begin(self._turn)
        await self._exchange.start(EVENTS, {"cache-control": "no-cache"})
        await self._exchange.part(self._events.head)
        if self._reply.pause or self._reply.fault in _MID_ANSWER:
            await self._speak(chunks[:stop])
            await self._wait(partial(is_set, self._reply.pause))
            chunks = chunks[stop:]
        await (self._strike() if self._reply.fault in _MID_ANSWER else self._complete(chunks))

    async def _complete(self, chunks: Sequence[Chunk]) -> None:
        await self._speak(chunks)
        await self._exchange.last(self._events.tail, "answered")

    async def _speak(self, chunks: Sequence[Chunk]) -> None:
        if self._turn.pace.tokens_per_second is None:
            await self._send(chunks)  # in one go: benchmarks read thousands of chunks
            return
        for chunk in chunks:
            self._due += self._turn.pace.seconds_for(chunk.tokens)
            await self._wait(partial(sleep_until, self._due))
            await self._send([chunk])

    async def _send(self, chunks: Sequence[Chunk]) -> None:
        if chunks:
            self._exchange.say("".join(chunk.text for chunk in chunks))
            await self._exchange.part(b"".join(chunk.data for chunk in chunks))

    async def _wait(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait, with a ping every interval. *wait* is called again after each."""
        while True:
            try:
                async with asyncio.timeout(self._ping_interval):
                    return await wait()
            except TimeoutError:
                await self._exchange.part(PING)

    async def _strike(self) -> None:
        match self._reply.fault:
            case "cut":
                await self._exchange.cut()
            case "silent_mid_stream":
                await for_ever()
            case "silent_with_pings":
                self._ping_interval = self._ping_interval or _DEFAULT_PING
                await self._wait(for_ever)
            case "error_event":
                await self._exchange.last(self._error_event(), "faulted")
            case "malformed":
                await self._exchange.last(BROKEN_EVENT, "faulted")
            case _:
                await self._exchange.last(b"", "faulted")

    def _error_event(self) -> bytes:
        return error_event(self._reply.reworded(_ERROR_EVENT).body(self._exchange.arrival.request_id))
