"""Runs a verb on another thread for a coroutine. One that is cancelled ends its requests, and so frees the thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import InterruptToken

T = TypeVar("T")


async def in_thread(
    verb: Callable[..., T], *args: Any, on_loop: Collection[str] = (), relays: Relays | None = None, **options: Any
) -> T:
    """
    What *verb* returns or raises, called on another thread with the caller's context variables.

    Args:
        options: An `interrupt_token` among them ends it, as does that the coroutine is cancelled: within 100 ms.

        on_loop: Names of *options* that are called on the loop, and awaited where they give something to await, while
            the thread waits for them.

        relays: Those of others that *verb* calls.
    """
    loop = asyncio.get_running_loop()
    token, theirs, relays = InterruptToken(), options.get("interrupt_token"), relays or Relays(loop)
    for name in on_loop:
        if callable(options.get(name)):
            options[name] = relays.relay(options[name])
    if theirs is None or isinstance(theirs, InterruptToken):
        options["interrupt_token"] = token
    linked = theirs.watched_by(token.interrupt) if isinstance(theirs, InterruptToken) else nullcontext()
    ended: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def call() -> T:
        with linked:
            return verb(*args, **options)

    def work() -> None:
        try:
            tell = partial(ended.set_result, context.run(call))
        except BaseException as exc:  # noqa: BLE001 - all of it is the coroutine's
            tell = partial(ended.set_exception, exc)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=work, name="claude_client aio").start()  # its own: no call waits for another to end
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        token.interrupt()
        relays.cancel()
        ended.add_done_callback(lambda _: ended.exception())  # which nobody else will ask for
        await asyncio.wait([ended])
        raise


class Handover(Generic[T]):
    """
    Items that a thread hands to a *loop*.

    Args:
        most: How many there may be that nobody has taken: the thread waits until there is room.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._loop = loop
        self._items: asyncio.Queue[T | _Closed] = asyncio.Queue()
        self._room = threading.Semaphore(most)
        self._is_over = False

    def hand(self, item: T) -> None:
        """
        Hand *item* over, from another thread.

        Raises:
            Exception: If nobody takes any more.
        """
        self._room.acquire()
        if self._is_over:
            raise ClaudeInvocationError("Nobody takes what comes any more", kind="interrupted")
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def end(self) -> None:
        """Take no more. From any thread."""
        self._is_over = True
        self._room.release()

    def close(self) -> None:
        """Say that there are no more, on the loop."""
        self._items.put_nowait(_Closed())

    async def take(self) -> T:
        """
        The next item.

        Raises:
            StopAsyncIteration: If there are no more.
        """
        item = await self._items.get()
        if isinstance(item, _Closed):
            self.close()
            raise StopAsyncIteration
        self._room.release()
        return item


class _Closed:
    """Stands for the end of what is handed over."""


class Relays:
    """Callbacks that another thread calls, and that run on *loop*, while it waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._under_way: set[Future[Any]] = set()
        self._is_cancelled = False

    def relay(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """*callback*, to be called from another thread."""

        async def call(*args: Any) -> Any:
            result = callback(*args)
            return await result if inspect.isawaitable(result) else result

        def relayed(*args: Any) -> Any:
            if self._is_cancelled:
                return None
            future = asyncio.run_coroutine_threadsafe(call(*args), self._loop)
            self._under_way.add(future)
            if self._is_cancelled:  # meanwhile
                future.cancel()
            try:
                return future.result()
            finally:
                self._under_way.discard(future)

        return relayed

    def cancel(self) -> None:
        """End those that are under way, and have no other called. On the loop."""
        self._is_cancelled = True
        for future in [*self._under_way]:
            future.cancel()
