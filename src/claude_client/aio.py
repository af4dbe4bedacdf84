"""
The verbs of `claude_client` for coroutines: the same calls, options, limits, cache, budgets and errors.

- `invoke_claude`, `invoke_parallel`: to be awaited.
- `invoke_claude_streaming`: an asynchronous iterator of the chunks, and the answer.
- `as_completed`: an asynchronous iterator of outcomes as they come, of any iterable, asynchronous ones too.
- `ConversationThread`: turns to be awaited.

A coroutine that is cancelled, by a timeout, a task group or Ctrl-C, ends its requests within 100 ms. Callbacks are
called on the loop, and awaited where they are coroutine functions. Any number of loops may do so, at once or one after
another; none is ever blocked: each call has a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

import claude_client
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import InterruptToken
from claude_client._values.options import Content, FanOutOptions, StreamOptions
from claude_client._values.request import DEFAULT_MODEL
from claude_client._values.response import ClaudeResponse, Data
from claude_client._values.results import Results
from claude_client._verbs.in_thread import Relays, ended_with, in_thread

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["AsCompleted", "ConversationThread", "Stream", "as_completed", "invoke_claude", "invoke_claude_streaming"]
__all__ += ["invoke_parallel"]

_OF_TURNS = ("callback", "on_output")


@overload
async def invoke_claude(
    prompt: Content | None, *args: Any, output: TypeForm[Data], **options: Any
) -> ClaudeResponse[Data]: ...
@overload
async def invoke_claude(prompt: Content | None, *args: Any, **options: Any) -> ClaudeResponse: ...
async def invoke_claude(prompt: Content | None, *args: Any, **options: Any) -> ClaudeResponse:
    """`claude_client.invoke_claude`, with the same arguments, results and errors."""
    return await in_thread(claude_client.invoke_claude, prompt, *args, **options)


async def invoke_parallel(
    prompts: Sequence[Mapping[str, Any]],
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[FanOutOptions],
) -> Results:
    """
    `claude_client.invoke_parallel`, with the same arguments, results and errors; `on_result` may be a coroutine
    function. If it is cancelled, `last_results()` has what was answered.
    """
    said = (prompts, model, max_tokens, max_workers, shared_system, cache_shared_system)
    verb = partial(claude_client.invoke_parallel, *said, interrupt_token=interrupt_token, **options)
    return await in_thread(verb, on_loop=["on_result"], **verb.keywords)


def invoke_claude_streaming(prompt: Content | None, **options: Any) -> Stream:
    """
    `claude_client.invoke_claude_streaming`, with the same arguments but *callback*, as an asynchronous iterator of the
    chunks. The request is made once somebody iterates, or awaits its `response`.
    """
    return Stream(partial(claude_client.invoke_claude_streaming, prompt, **options))


def as_completed(
    prompts: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    window: int | None = None,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[StreamOptions],
) -> AsCompleted:
    """
    `claude_client.as_completed`, with the same arguments, as an asynchronous iterator of the same pairs. *prompts* may
    be asynchronous, and is drawn on the loop then; else on another thread. `on_result` may be a coroutine function. Bad
    input and missing credentials are raised as the first outcome is awaited.
    """
    said = (model, max_tokens, max_workers, shared_system, cache_shared_system)
    return AsCompleted(prompts, said, {"window": window, "interrupt_token": interrupt_token, **options})


class Stream(AsyncIterator[str]):
    """The chunks of an answer, as they arrive, and the `response` that they make. It may be iterated once."""

    def __init__(self, verb: Any) -> None:
        self._verb = verb
        self._chunks: asyncio.Queue[str | None] = asyncio.Queue()
        self._call: asyncio.Task[ClaudeResponse] | None = None

    async def response(self) -> ClaudeResponse:
        """
        The whole answer, which is waited for, whether anybody takes the chunks or not.

        Raises:
            ClaudeInvocationError: As `claude_client.invoke_claude_streaming`.
        """
        return await self._begun()

    async def __anext__(self) -> str:
        call = self._begun()
        try:
            chunk = await self._chunks.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if chunk is None:
            self._chunks.put_nowait(None)
            await call  # raises what it failed by
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """End the request, if it is under way, within 100 ms."""
        if self._call:
            self._call.cancel()
            await asyncio.wait([self._call])
            if not self._call.cancelled():
                self._call.exception()  # which nobody else will ask for

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._call and not self._call.done() and not self._call.get_loop().is_closed():
            self._call.get_loop().call_soon_threadsafe(self._call.cancel)

    def _begun(self) -> asyncio.Task[ClaudeResponse]:
        if self._call is None:
            self._call = asyncio.ensure_future(_streamed(self._verb, self._chunks))
        return self._call


async def _streamed(verb: Any, chunks: asyncio.Queue[str | None]) -> ClaudeResponse:
    """The answer of *verb*, whose chunks are put into *chunks*, with None after the last."""
    loop = asyncio.get_running_loop()
    try:
        options = {**verb.keywords, "callback": lambda chunk: loop.call_soon_threadsafe(chunks.put_nowait, chunk)}
        return await in_thread(verb, on_loop=["on_output"], **options)
    finally:
        chunks.put_nowait(None)


class AsCompleted(AsyncIterator[tuple[int, ClaudeResponse | ClaudeInvocationError]]):
    """
    The outcomes of `as_completed`. Not for two tasks at once. It ends, and its requests within 100 ms, if the task that
    waits for an outcome is cancelled, and by `aclose`; and when nobody has it any more, as after a `break`.
    """

    def __init__(self, prompts: Any, said: Sequence[Any], options: dict[str, Any]) -> None:
        self._prompts = prompts
        self._said = said
        self._options = options
        self._token = InterruptToken()
        self._relays: Relays | None = None
        self._outcomes: claude_client.AsCompleted | None = None
        self._linked = ExitStack()  # to the caller's token

    async def __anext__(self) -> tuple[int, ClaudeResponse | ClaudeInvocationError]:
        relays = self._relays = self._relays or Relays(asyncio.get_running_loop())
        try:
            given = await ended_with(partial(self._next, relays), self._token, relays)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if given is None:
            raise StopAsyncIteration
        return given

    async def aclose(self) -> None:
        """End what is under way within 100 ms, and give nothing any more."""
        self._linked.close()
        if self._outcomes and self._relays:
            await ended_with(self._outcomes.close, self._token, self._relays)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._linked.close()

    def _next(self, relays: Relays) -> tuple[int, ClaudeResponse | ClaudeInvocationError] | None:
        """The next outcome, on another thread; None if there are no more."""
        if self._outcomes is None:
            self._outcomes = self._opened(relays)
        return next(self._outcomes, None)

    def _opened(self, relays: Relays) -> claude_client.AsCompleted:
        options, theirs = {**self._options}, self._options["interrupt_token"]
        if theirs is None or isinstance(theirs, InterruptToken):
            options["interrupt_token"] = self._token
        if callable(options.get("on_result")):
            options["on_result"] = relays.relay(options["on_result"])
        prompts = self._prompts
        if isinstance(prompts, AsyncIterable):
            prompts = _drawn(prompts, relays)
        opened = claude_client.as_completed(prompts, *self._said, **options)
        if theirs:
            self._linked.enter_context(theirs.watched_by(self._token.interrupt))
        return opened


_END: Any = object()


def _drawn(prompts: AsyncIterable[Any], relays: Relays) -> Iterator[Any]:
    """*prompts*, each drawn on the loop."""
    drawing = aiter(prompts)
    draw = relays.relay(lambda: anext(drawing, _END))
    while (drawn := draw()) is not _END:
        yield drawn


class ConversationThread:
    """
    `claude_client.ConversationThread`, with the same arguments, whose turns are awaited. A turn that is cancelled
    leaves no trace.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        #: The conversation: its history, usage, settings, timeline.
        self.thread = claude_client.ConversationThread(*args, **options)

    async def send(self, message: Content, *args: Any, **options: Any) -> ClaudeResponse:
        """`claude_client.ConversationThread.send`; `callback` and `on_output` may be coroutine functions."""
        return await in_thread(self.thread.send, message, *args, on_loop=_OF_TURNS, **options)

    async def send_continuation(self, *args: Any, **options: Any) -> ClaudeResponse:
        """`claude_client.ConversationThread.send_continuation`, likewise."""
        return await in_thread(self.thread.send_continuation, *args, on_loop=_OF_TURNS, **options)

    def fork(self) -> Self:
        """A conversation that goes on from here by itself."""
        other = object.__new__(type(self))
        other.thread = self.thread.fork()
        return other

    def __repr__(self) -> str:
        return f"<aio {self.thread!r}>"
