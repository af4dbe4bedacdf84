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
from typing import Any, TypeVar

from claude_client._values.interrupt import InterruptToken

T = TypeVar("T")


async def in_thread(verb: Callable[..., T], *args: Any, on_loop: Collection[str] = (), **options: Any) -> T:
    """
    What *verb* returns or raises, called on another thread with the caller's context variables.

    Args:
        options: An `interrupt_token` among them ends it, as does that the coroutine is cancelled: within 100 ms.

        on_loop: Names of *options* that are called on the loop, and awaited where they give something to await, while
            the thread waits for them.
    """
    token, theirs = InterruptToken(), options.get("interrupt_token")
    relays = Relays(asyncio.get_running_loop())
    for name in on_loop:
        if callable(options.get(name)):
            options[name] = relays.relay(options[name])
    if theirs is None or isinstance(theirs, InterruptToken):
        options["interrupt_token"] = token
    linked = theirs.watched_by(token.interrupt) if isinstance(theirs, InterruptToken) else nullcontext()

    def call() -> T:
        with linked:
            return verb(*args, **options)

    return await ended_with(call, token, relays)


async def ended_with(call: Callable[[], T], token: InterruptToken, relays: Relays) -> T:
    """What *call* returns or raises on another thread. If this is cancelled, *token* and *relays* are to end it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()
    context = copy_context()

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
