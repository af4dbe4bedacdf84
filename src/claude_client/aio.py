"""
The verbs of `claude_client` for coroutines: the same calls, options, limits, cache, budgets and errors.

- `invoke_claude`, `invoke_with_tools`, `invoke_parallel`: to be awaited.
- `invoke_claude_streaming`: an asynchronous iterator of the chunks, and the answer.
- `as_completed`: an asynchronous iterator of outcomes as they come, of any iterable, asynchronous ones too.
- `ConversationThread`: turns to be awaited.

A coroutine that is cancelled, by a timeout, a task group or Ctrl-C, ends its requests within 100 ms. Callbacks are
called on the loop, and awaited where they are coroutine functions; so are `before_tool`, `on_full` and tools, wherever
they were said. Other tools run on threads. Any number of loops may do so, at once or one after another; none is ever
blocked: each call has a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

import claude_client
from claude_client._values.errors import ClaudeInvocationError, aborted
from claude_client._values.interrupt import InterruptToken
from claude_client._values.options import CallOptions, Content, FanOutOptions, StreamOptions
from claude_client._values.request import DEFAULT_MODEL
from claude_client._values.response import ClaudeResponse
from claude_client._values.results import Results
from claude_client._verbs.as_completed import Feed
from claude_client._verbs.fan_out import MOST_ASKED_FOR
from claude_client._verbs.in_thread import Handover, Link, awaited, in_thread
from claude_client._verbs.parallel import fan_out
from claude_client._verbs.requests import for_all

__all__ = ["AsCompleted", "ConversationThread", "Stream", "as_completed", "invoke_claude", "invoke_claude_streaming"]
__all__ += ["invoke_parallel", "invoke_with_tools"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
Pair = tuple[int, ClaudeResponse | ClaudeInvocationError]


invoke_claude = awaited(claude_client.invoke_claude)
invoke_with_tools = awaited(claude_client.invoke_with_tools)


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
    return await in_thread(_with_token(verb), (), {"interrupt_token": interrupt_token, **said}, on_loop=["on_result"])


def _with_token(verb: Callable[..., Results]) -> Callable[..., Results]:
    return lambda *, interrupt_token, **said: verb(interrupt_token, **said)


class _StreamOptions(CallOptions, total=False):
    model: str
    system: Content | None
    max_tokens: int
    temperature: float
    cache_system: bool
    cache_prompt: bool
    output: Any
    messages: Sequence[Mapping[str, Any]] | None
    interrupt_token: InterruptToken | None
    on_output: Callable[[Any], object] | None


def invoke_claude_streaming(prompt: Content | None, **options: Unpack[_StreamOptions]) -> Stream:
    """
    `claude_client.invoke_claude_streaming`, with the same arguments but *callback*, as an asynchronous iterator of the
    chunks. The request is made once somebody iterates, or awaits its `response`.
    """
    if "callback" in options:
        raise TypeError("invoke_claude_streaming() of aio takes no callback: its chunks are iterated")

    async def ask(chunks: Handover[str]) -> ClaudeResponse:
        said = {**options, "callback": chunks.put}
        return await in_thread(
            claude_client.invoke_claude_streaming, [prompt], said, on_loop=["on_output"], link=chunks.link
        )

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
        how = {"window": window, "interrupt_token": interrupt_token, **options}
        async with _drawn(prompts) as drawn:
            verb = partial(_hand_over, outcomes, drawn, *said)
            await in_thread(verb, (), how, on_loop=["on_result"], link=outcomes.link)

    return AsCompleted(ask)


def _hand_over(outcomes: Handover[Pair], prompts: Iterable[Any], *said: Any, **options: Any) -> None:
    """Hand over each outcome, on another thread, once it is wanted."""
    end = prompts.end if isinstance(prompts, Feed) else lambda: None
    with claude_client.as_completed(prompts, *said, **options) as pairs, outcomes.link.token.watched_by(end):
        while outcomes.is_wanted():
            pair = next(pairs, None)
            if pair is None:
                return
            outcomes.put(pair)


@asynccontextmanager
async def _drawn(prompts: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Iterable[Any]]:
    """*prompts*, to be drawn on another thread; asynchronous ones are drawn, each as it is asked for, by one task."""
    if not isinstance(prompts, AsyncIterable):
        yield prompts
        return
    asked = asyncio.Semaphore(0)
    feed = Feed(partial(asyncio.get_running_loop().call_soon_threadsafe, asked.release))
    drawing = asyncio.ensure_future(_draw(prompts, feed, asked))
    try:
        yield feed
    finally:
        drawing.cancel()
        with suppress(asyncio.CancelledError):
            await drawing


async def _draw(prompts: AsyncIterable[Any], feed: Feed, asked: asyncio.Semaphore) -> None:
    failure: Exception | None = None
    drawn = aiter(prompts)
    try:
        await asked.acquire()
        async for spec in drawn:
            feed.put(spec)
            await asked.acquire()
    except Exception as failed:  # noqa: BLE001 - of the caller's iterable, and for the caller
        failure = failed
    finally:
        feed.end(failure)
        if isinstance(drawn, AsyncGenerator):
            await drawn.aclose()


class _Fed(AsyncIterator[T], Generic[T, R]):
    """
    What another thread hands over, item by item. It ends, and its requests within 100 ms, once every task that waits
    for it is cancelled; by `aclose` and at the end of an `async with` block; and when nobody has it any more, as after
    a `break` out of a loop over one without a name.
    """

    _UNASKED = 0  # items that are handed over before anybody takes them

    def __init__(self, ask: Callable[[Handover[T]], Coroutine[Any, Any, R]]) -> None:
        self._ask = ask
        self._items: Handover[T] | None = None
        self._call: asyncio.Task[R] | None = None
        self._waiting = 0  # tasks
        self._is_closed = self._is_told = False

    async def __anext__(self) -> T:
        if self._is_closed:
            raise self._closed()
        call, items = self._begun()
        try:
            item = await self._waited(items.take())
        except StopAsyncIteration:
            if self._is_closed or call.cancelled():
                raise self._closed() from None
            if not self._is_told:
                self._is_told = True
                await call  # raises what it failed by
            raise
        if self._is_closed:  # meanwhile, and this may be how it ended
            raise self._closed()
        return item

    async def aclose(self) -> None:
        """End the requests that are under way within 100 ms, and give nothing any more."""
        self._is_closed = True
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
        if self._call and self._items and not self._call.done():
            self._items.link.end()
            with suppress(RuntimeError):  # the loop is closed
                self._call.get_loop().call_soon_threadsafe(self._call.cancel)

    async def _waited(self, what: Awaitable[S]) -> S:
        """Wait for *what*; the last task that waits ends all if it is cancelled."""
        self._waiting += 1
        try:
            return await what
        except asyncio.CancelledError:
            if self._waiting == 1:
                await self.aclose()
            raise
        finally:
            self._waiting -= 1

    def _begun(self) -> tuple[asyncio.Task[R], Handover[T]]:
        if self._call is None or self._items is None:
            self._items = Handover(Link(asyncio.get_running_loop()), self._UNASKED)
            self._call = asyncio.ensure_future(_ended(self._ask, self._items))
        return self._call, self._items

    def _closed(self) -> Exception:
        """What is raised where it was ended before its end."""
        return StopAsyncIteration()


async def _ended(ask: Callable[[Handover[T]], Coroutine[Any, Any, R]], items: Handover[T]) -> R:
    try:
        return await ask(items)
    finally:
        items.close()


class Stream(_Fed[str, ClaudeResponse]):
    """
    The chunks of an answer, as they arrive, and the `response` that they make. Where it was closed, both raise an error
    of kind "interrupted": part of an answer is not taken for the whole.
    """

    _UNASKED = 2**30

    async def response(self) -> ClaudeResponse:
        """
        The whole answer, which is waited for, whether anybody takes the chunks or not.

        Raises:
            ClaudeInvocationError: As `claude_client.invoke_claude_streaming`.
        """
        if self._is_closed and self._call is None:
            raise self._closed()
        call, _ = self._begun()
        try:
            return await self._waited(asyncio.shield(call))
        except asyncio.CancelledError:
            if call.cancelled() and not _is_being_cancelled():
                raise self._closed() from None
            raise

    def _closed(self) -> Exception:
        return aborted("interrupted")


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AsCompleted(_Fed[Pair, None]):
    """The outcomes of `as_completed`. Not for two tasks at once."""


def _like(
    method: Callable[Concatenate[Any, P], object],  # noqa: ARG001 - for its type
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """What gives another the arguments of *method*, for type checkers."""
    return lambda other: other


def _turn(
    method: Callable[Concatenate[claude_client.ConversationThread, P], T],
) -> Callable[Concatenate[ConversationThread, P], Coroutine[Any, Any, T]]:
    """*method* of a conversation, to be awaited."""
    take = awaited(method)

    @wraps(method)
    async def turn(self: ConversationThread, /, *args: P.args, **options: P.kwargs) -> T:
        return await take(self.thread, *args, **options)

    return turn


class ConversationThread:
    """
    `claude_client.ConversationThread`, with the same arguments, whose turns are awaited. A turn that is cancelled
    leaves no trace, unless its answer has come already.
    """

    @_like(claude_client.ConversationThread.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        #: The conversation: its history, usage, settings, timeline.
        self.thread = claude_client.ConversationThread(*args, **options)

    #: `claude_client.ConversationThread.send`; `callback` and `on_output` may be coroutine functions.
    send = _turn(claude_client.ConversationThread.send)
    #: `claude_client.ConversationThread.send_continuation`, likewise.
    send_continuation = _turn(claude_client.ConversationThread.send_continuation)

    async def clear(self) -> None:
        """`claude_client.ConversationThread.clear`, once a turn that is under way is over."""
        await in_thread(lambda **_: self.thread.clear(), (), {})

    def fork(self) -> Self:
        """A conversation that goes on from here by itself."""
        other = object.__new__(type(self))
        other.thread = self.thread.fork()
        return other

    def __repr__(self) -> str:
        return f"<aio {self.thread!r}>"
