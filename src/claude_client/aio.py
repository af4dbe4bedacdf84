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
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload

import claude_client
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import InterruptToken
from claude_client._values.options import Content, FanOutOptions, StreamOptions
from claude_client._values.request import DEFAULT_MODEL
from claude_client._values.response import ClaudeResponse, Data
from claude_client._values.results import Results
from claude_client._verbs.fan_out import MOST_ASKED_FOR
from claude_client._verbs.in_thread import Handover, Relays, in_thread
from claude_client._verbs.parallel import fan_out
from claude_client._verbs.requests import for_all

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["AsCompleted", "ConversationThread", "Stream", "as_completed", "invoke_claude", "invoke_claude_streaming"]
__all__ += ["invoke_parallel"]

T = TypeVar("T")
R = TypeVar("R")
Pair = tuple[int, ClaudeResponse | ClaudeInvocationError]

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
    `claude_client.invoke_parallel`, with the same arguments, results and errors, and up to 1000 *max_workers*;
    `on_result` may be a coroutine function. If it is cancelled, `last_results()` has what was answered.
    """
    said = for_all(model, max_tokens, shared_system, cache_shared_system, options)
    verb = partial(fan_out, prompts, max_workers, most_workers=MOST_ASKED_FOR)
    return await in_thread(_with_token(verb), on_loop=["on_result"], interrupt_token=interrupt_token, **said)


def _with_token(verb: Callable[..., Results]) -> Callable[..., Results]:
    return lambda *, interrupt_token, **said: verb(interrupt_token, **said)


def invoke_claude_streaming(prompt: Content | None, **options: Any) -> Stream:
    """
    `claude_client.invoke_claude_streaming`, with the same arguments but *callback*, as an asynchronous iterator of the
    chunks. The request is made once somebody iterates, or awaits its `response`.
    """

    async def ask(chunks: Handover[str]) -> ClaudeResponse:
        verb = claude_client.invoke_claude_streaming
        return await in_thread(verb, prompt, on_loop=["on_output"], **{**options, "callback": chunks.hand})

    return Stream(ask)


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

    async def ask(outcomes: Handover[Pair]) -> None:
        relays = Relays(asyncio.get_running_loop())
        drawn = _drawn(prompts, relays) if isinstance(prompts, AsyncIterable) else prompts
        verb = partial(_hand_over, outcomes, drawn, *said)
        await in_thread(
            verb, on_loop=["on_result"], window=window, interrupt_token=interrupt_token, relays=relays, **options
        )

    return AsCompleted(ask)


def _hand_over(outcomes: Handover[Pair], *said: Any, **options: Any) -> None:
    """Hand over each outcome, on another thread, once there is room for it."""
    with claude_client.as_completed(*said, **options) as pairs:
        for pair in pairs:
            outcomes.hand(pair)


_END: Any = object()


def _drawn(prompts: AsyncIterable[Any], relays: Relays) -> Iterator[Any]:
    """*prompts*, each drawn on the loop."""
    drawing = aiter(prompts)
    draw = relays.relay(lambda: anext(drawing, _END))
    while (drawn := draw()) is not _END:
        yield drawn


class _Fed(AsyncIterator[T], Generic[T, R]):
    """
    What another thread hands over, item by item. Not for two tasks at once. It ends, and its requests within 100 ms, if
    the task that waits for an item is cancelled; by `aclose` and at the end of an `async with` block; and when nobody
    has it any more, as after a `break`.
    """

    _MOST = 1  # items that are handed over and not taken

    def __init__(self, ask: Callable[[Handover[T]], Coroutine[Any, Any, R]]) -> None:
        self._ask = ask
        self._items: Handover[T] | None = None
        self._call: asyncio.Task[R] | None = None

    async def __anext__(self) -> T:
        call, items = self._begun()
        try:
            item = await items.take()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        except StopAsyncIteration:
            if not call.cancelled():
                await call  # raises what it failed by
            raise
        return item

    async def aclose(self) -> None:
        """End the requests that are under way within 100 ms, and give nothing any more."""
        if self._call and self._items:
            self._items.end()
            self._call.cancel()
            await asyncio.wait([self._call])
            if not self._call.cancelled():
                self._call.exception()  # which nobody else will ask for

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._call and self._items and not self._call.done():
            self._items.end()
            with suppress(RuntimeError):  # the loop is closed
                self._call.get_loop().call_soon_threadsafe(self._call.cancel)

    def _begun(self) -> tuple[asyncio.Task[R], Handover[T]]:
        if self._call is None or self._items is None:
            self._items = Handover(asyncio.get_running_loop(), self._MOST)
            self._call = asyncio.ensure_future(_ended(self._ask, self._items))
        return self._call, self._items


async def _ended(ask: Callable[[Handover[T]], Coroutine[Any, Any, R]], items: Handover[T]) -> R:
    try:
        return await ask(items)
    finally:
        items.close()


class Stream(_Fed[str, ClaudeResponse]):
    """The chunks of an answer, as they arrive, and the `response` that they make."""

    _MOST = 2**30

    async def response(self) -> ClaudeResponse:
        """
        The whole answer, which is waited for, whether anybody takes the chunks or not.

        Raises:
            ClaudeInvocationError: As `claude_client.invoke_claude_streaming`.
        """
        return await self._begun()[0]


class AsCompleted(_Fed[Pair, None]):
    """The outcomes of `as_completed`."""


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
