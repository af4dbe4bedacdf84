"""Runs a verb on another thread for a coroutine. One that is cancelled ends its requests, and so frees the thread."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar

from claude_client._values.context import callers_loop
from claude_client._values.interrupt import InterruptToken
from claude_client._values.results import Results
from claude_client._verbs.last import remember

P = ParamSpec("P")
T = TypeVar("T")

#: The options of verbs that are called while they run, on the thread that called the verb.
CALLBACKS = ("callback", "on_output", "on_result", "on_stall", "on_batch", "reconcile")

_PATIENCE = 1.0  # seconds, with a thread that is in code of the caller, and cannot be ended


async def in_thread(
    verb: Callable[..., T],
    args: Sequence[Any],
    options: Mapping[str, Any],
    *,
    on_loop: Collection[str] = (),
    link: Link | None = None,
) -> T:
    """
    What *verb* returns or raises for *args* and *options*, on another thread with the caller's context variables.

    Args:
        options: An `interrupt_token` among them ends it, as does that the coroutine is cancelled: within 100 ms.

        on_loop: Names of *options* that are called on the loop, and awaited where they give something to await, while
            the thread waits for them.

        link: Of others that *verb* calls, or hands something to.
    """
    loop = asyncio.get_running_loop()
    theirs, link = options.get("interrupt_token"), link or Link(loop)
    said = {
        name: link.relay(value) if name in on_loop and callable(value) else value for name, value in options.items()
    }
    if theirs is None or isinstance(theirs, InterruptToken):
        said["interrupt_token"] = link.token
    watching = theirs.watched_by(link.token.interrupt) if isinstance(theirs, InterruptToken) else nullcontext()
    ended: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def call() -> T:
        callers_loop.set(loop)
        with watching:
            return verb(*args, **said)

    def work() -> None:
        _live.add(link)
        try:
            tell = partial(ended.set_result, context.run(call))
        except StopIteration as exc:  # which no future can have
            tell = partial(ended.set_exception, RuntimeError(f"{type(exc).__name__} came out: {exc}"))
        except BaseException as exc:  # noqa: BLE001 - all of it is the coroutine's
            tell = partial(ended.set_exception, exc)
        finally:
            _live.discard(link)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell)

    _starter.start(work)
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        link.end()
        ended.add_done_callback(_remembered)
        await asyncio.wait([ended], timeout=_PATIENCE)
        raise


def awaited(verb: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """*verb* as a coroutine function, whose `CALLBACKS` run on the loop. Type checkers see all its arguments."""

    @wraps(verb)
    async def call(*args: P.args, **options: P.kwargs) -> T:
        return await in_thread(verb, args, options, on_loop=CALLBACKS)

    return call


def _remembered(ended: asyncio.Future[Any]) -> None:
    """Keep what nobody else will ask for."""
    if not ended.exception() and isinstance(ended.result(), Results):
        remember(ended.result(), returned=False)


class _Starter:
    """
    Starts a thread for each piece of work: no call waits for another to end. A loop that has many at once waits for the
    first thread to start; each starts the next.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work: deque[Callable[[], object]] = deque()
        self._is_starting = False

    def start(self, work: Callable[[], object]) -> None:
        """
        Raises:
            RuntimeError: If there are no threads to be had.
        """
        with self._lock:
            self._work.append(work)
            is_first, self._is_starting = not self._is_starting, True
        if is_first and not self._has_started():
            with self._lock:
                self._is_starting = False
                self._work.remove(work)
            raise RuntimeError("no thread can be started")

    def _has_started(self) -> bool:
        try:
            threading.Thread(target=self._do, name="claude_client aio").start()
        except RuntimeError:
            return False
        return True

    def _do(self) -> None:
        while True:
            with self._lock:
                work = self._work.popleft()
                self._is_starting = more = bool(self._work)
            is_relieved = not more or self._has_started()
            work()
            if is_relieved:
                return


class Link:
    """What a thread and the coroutine on *loop* that it works for have of each other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        #: Ends the verb that the thread calls.
        self.token = InterruptToken()
        self._under_way: set[Future[Any]] = set()
        self._is_over = False
        #: Called at the end, from any thread.
        self.on_end: Callable[[], object] = lambda: None

    def relay(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """*callback*, to be called from the thread, which waits until it has run on the loop."""

        async def call(*args: Any) -> Any:
            result = callback(*args)
            return await result if inspect.isawaitable(result) else result

        def relayed(*args: Any) -> Any:
            if self._is_over:
                return None
            future = asyncio.run_coroutine_threadsafe(call(*args), self.loop)
            self._under_way.add(future)
            if self._is_over:  # meanwhile
                future.cancel()
            try:
                return future.result()
            except CancelledError:
                if self._is_over:
                    return None
                raise
            finally:
                self._under_way.discard(future)

        return relayed

    def end(self) -> None:
        """End the verb, and whatever its thread waits for. From any thread."""
        self._is_over = True
        self.token.interrupt()
        self.on_end()
        for future in [*self._under_way]:
            future.cancel()


class Handover(Generic[T]):
    """
    Items that a thread hands to the loop of *link*.

    Args:
        unasked: How many may be handed over before anybody asks for them.
    """

    def __init__(self, link: Link, unasked: int) -> None:
        self.link = link
        self._items: asyncio.Queue[T | _Closed] = asyncio.Queue()
        self._wanted = threading.Semaphore(unasked)
        self._is_over = False
        link.on_end = self._end

    def is_wanted(self) -> bool:
        """Wait until an item is asked for, on the thread; False if none will be any more."""
        self._wanted.acquire()
        return not self._is_over

    def put(self, item: T) -> None:
        """Hand *item* over, from the thread."""
        with suppress(RuntimeError):  # the loop is closed
            self.link.loop.call_soon_threadsafe(self._items.put_nowait, item)

    def close(self) -> None:
        """Say that there are no more, on the loop."""
        self._items.put_nowait(_Closed())

    async def take(self) -> T:
        """
        The next item.

        Raises:
            StopAsyncIteration: If there are no more.
        """
        self._wanted.release()
        item = await self._items.get()
        if isinstance(item, _Closed):
            self.close()
            raise StopAsyncIteration
        return item

    def _end(self) -> None:
        self._is_over = True
        self._wanted.release()


class _Closed:
    """Stands for the end of what is handed over."""


_starter = _Starter()
_live: set[Link] = set()  # of threads that are at work


def _end_all() -> None:  # no coverage: as the interpreter ends
    """No loop runs any more: what threads wait for on one will not come."""
    for link in [*_live]:
        link.end()


def _begin_anew() -> None:  # no coverage: in a forked child, where the threads are the parent's
    global _starter  # noqa: PLW0603 - its lock may be held
    _starter = _Starter()
    _live.clear()


with suppress(AttributeError, RuntimeError):  # a private name; and too late where the interpreter is ending already
    threading._register_atexit(_end_all)  # type: ignore[attr-defined]  # noqa: SLF001
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
