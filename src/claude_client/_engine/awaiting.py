"""What may be asynchronous, for threads: it runs on the loop of the coroutine that they work for."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from claude_client._values.context import free_loop
from claude_client._values.interrupt import InterruptToken

if TYPE_CHECKING:
    import asyncio


class EndedError(Exception):
    """What was called was still awaited when its call ended."""


def called(
    name: str, callback: Callable[..., Any], args: Sequence[Any], token: InterruptToken, ends_at: float = math.inf
) -> Any:
    """
    What *callback* gives for *args*: on the loop, where it is awaited, if it may be, until *token* is interrupted or
    it is *ends_at*; else on this thread.

    Raises:
        EndedError: If it had not ended by then.
        TypeError: If it is asynchronous, and there is no loop.
    """
    if loop := free_loop():
        return _on(loop, _call(callback, args), token, ends_at)
    value = callback(*args)
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"{name} is a coroutine function, which is for the verbs of claude_client.aio")
    return value


def awaited(value: Awaitable[Any], token: InterruptToken) -> Any:
    """
    What *value* gives, on the loop, or on one of its own.

    Raises:
        EndedError: If *token* was interrupted before.
    """
    if loop := free_loop():
        return _on(loop, _await(value), token)
    import asyncio  # takes a fifth of our import

    return asyncio.run(_until(token, value))


async def _call(callback: Callable[..., Any], args: Sequence[Any]) -> Any:
    value = callback(*args)
    return await value if inspect.isawaitable(value) else value


async def _await(value: Awaitable[Any]) -> Any:
    return await value


def _on(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], token: InterruptToken, ends_at: float = math.inf
) -> Any:
    from asyncio import run_coroutine_threadsafe

    future = run_coroutine_threadsafe(work, loop)
    try:
        with token.watched_by(future.cancel):
            return future.result(None if ends_at == math.inf else max(0.0, ends_at - time.monotonic()))
    except CancelledError:
        if token.is_interrupted():
            raise EndedError from None
        raise  # it has cancelled itself
    except TimeoutError:
        if future.cancel():
            raise EndedError from None
        raise  # it is the callback's own


async def _until(token: InterruptToken, value: Awaitable[Any]) -> Any:
    import asyncio

    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(_await(value))

    def cancel() -> None:
        loop.call_soon_threadsafe(task.cancel)

    with token.watched_by(cancel):
        return await task
