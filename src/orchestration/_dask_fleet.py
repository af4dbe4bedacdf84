"""The workers of a Dask cluster as a place that sends the requests of a run, which stays here."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from claude_client import ClaudeInvocationError
from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt, Event
from claude_client._values.errors import AbortReason
from claude_client._values.log import Log, told
from claude_client._values.request import Request
from claude_client._verbs.elsewhere import Inbox, Parcel

from ._dask_worker import claude_collect, claude_enter, claude_leave, claude_take, versions

T = TypeVar("T")

_log = Log("orchestration")

_LOOK = 2.0  # seconds after which workers are looked for again that have joined
_LISTEN = 0.25  # seconds that a worker is asked at the most whether there is news
_GATHER = 0.01  # seconds in which parcels gather
_ANEW = "it was started anew"
_GONE = "The Dask worker %s is gone, with %d prompts under way: %s"
_PATIENCE = 60.0  # seconds without any worker, after which nothing more is sent


@dataclass(slots=True, eq=False)
class Berth:
    """Room for an attempt at *worker*."""

    fleet: Fleet
    worker: _Worker

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Do nothing: the room is held to the end."""

    def settle(self, attempt: Attempt) -> None:  # noqa: ARG002 - however it ended
        """Give it back."""
        self.fleet.vacate(self.worker)


class Fleet:
    """
    All workers of the cluster of *client*, those that join too, each with room for so many attempts at once.

    What a worker that is gone had under way is lost: it is sent anew by another. Once there has been none for a minute,
    nothing is let in any more.
    """

    def __init__(self, client: Any, room: int) -> None:
        self.account = client
        self.run = uuid4().hex
        self.client = client
        self._room = room
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards the two below
        self._workers: dict[str, _Worker] = {}
        self._alone_since = math.inf
        self._refused: set[str] = set()
        self._wake: Callable[[], None] = lambda: None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """
        Be ready for requests.

        Raises:
            ValueError: If there is no worker, or one that cannot send: the message says which, and why.
        """
        problems = self.client.sync(self._enter)
        if problems:
            self.client.sync(self._leave)
            said = "; ".join(f"{address}: {problem}" for address, problem in sorted(problems.items()))
            raise ValueError(f"The Dask workers cannot send requests: {said}")
        if not self._workers:
            raise ValueError("The Dask cluster has no workers: start some, client.wait_for_workers(1) waits for them")
        looking = asyncio.run_coroutine_threadsafe(self._look(), self.client.loop.asyncio_loop)
        try:
            yield
        finally:
            looking.cancel()
            with suppress(Exception):  # the client was closed, or the cluster is gone
                self.client.sync(self._leave, callback_timeout=5)

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call *wake* when a worker has joined."""
        self._wake = wake
        try:
            yield
        finally:
            self._wake = lambda: None

    def would_wait(self, request: Request, now: float) -> Wait | None:  # noqa: ARG002 - there is room for any
        """The wait for room; None if there is some."""
        with self._lock:
            return None if any(worker.room for worker in self._workers.values()) else self._wait(now)

    def admit(self, request: Request, now: float) -> Berth | Wait:  # noqa: ARG002
        """
        Room at the worker that has the most.

        Raises:
            ClaudeInvocationError: If there has been no worker for a minute.
        """
        with self._lock:
            worker = max(self._workers.values(), key=lambda worker: worker.room, default=None)
            if worker is None or not worker.room:
                return self._wait(now)
            worker.room -= 1
            return Berth(self, worker)

    def vacate(self, worker: _Worker) -> None:
        """Take back room at *worker*."""
        with self._lock:
            worker.room += 1

    def send(self, attempt: Attempt) -> None:
        """Have *attempt* sent by the worker that it has room at, and see it to its end."""
        worker = next(permit.worker for permit in attempt.permits if isinstance(permit, Berth))
        number = next(self._numbers)
        try:
            inbox = worker.inboxes[number] = Inbox(number, attempt)
            worker.post(inbox.parcel)
            if worker.is_lost:  # after it has looked for those to tell
                inbox.lose()
            inbox.wait(lambda reason: worker.abort(number, reason))
        except Exception as failed:  # noqa: BLE001 - a file that cannot be read any more
            attempt.error = ClaudeInvocationError(f"The request could not be made: {told(failed)}")
            attempt.wrote = False
        finally:
            worker.inboxes.pop(number, None)
            attempt.ended_at = attempt.ended_at or time.monotonic()
            attempt.settle()
            attempt.costs_retry = attempt.costs_retry and not attempt.is_lost

    def lose(self, worker: _Worker, why: str) -> None:
        """Go on without *worker*."""
        with self._lock:
            if self._workers.get(worker.address) is not worker:
                return
            del self._workers[worker.address]
            if not self._workers:
                self._alone_since = time.monotonic()
        _log.warning(_GONE, worker.address, len(worker.inboxes), why)
        self._wake()

    def _wait(self, now: float) -> Wait:
        """The caller holds the lock."""
        if now - self._alone_since >= _PATIENCE:
            raise ClaudeInvocationError(f"There has been no Dask worker for {_PATIENCE:.0f} s", kind="connection")
        return Wait(math.inf if self._workers else self._alone_since + _PATIENCE - now, "worker", wakes=True)

    # What follows is called on the loop of the client.

    async def _enter(self) -> dict[str, str]:
        """Take up all workers that are new; return why some cannot be, by their addresses."""
        greetings = await self.client.run(claude_enter, self.run, [*self._workers], on_error="return")
        ours, problems = versions(), {}
        for address, greeting in greetings.items():
            if greeting is None:
                continue
            problem = _problem_of(greeting, ours)
            if problem:
                problems[address] = problem
                continue
            worker = _Worker(self, address, self._room)
            if old := self._workers.get(address):
                self.lose(old, _ANEW)
                old.end()
            with self._lock:
                self._workers[address] = worker
                self._alone_since = math.inf
        return problems

    async def _look(self) -> None:
        try:
            while True:
                await asyncio.sleep(_LOOK)
                try:
                    for address, problem in (await self._enter()).items():
                        if address not in self._refused:
                            self._refused.add(address)
                            _log.warning("The Dask worker %s is of no use: %s", address, problem)
                    self._wake()
                except Exception as failed:  # noqa: BLE001 - the scheduler does not answer now
                    _log.info("No news of the Dask workers: %s", told(failed))
        finally:
            for worker in [*self._workers.values()]:
                worker.end()

    async def _leave(self) -> None:
        for worker in [*self._workers.values()]:
            worker.end()
        await self.client.run(claude_leave, self.run, on_error="ignore")


class _Worker:
    """A worker: what goes there, and who waits for what comes from there. Made on the loop of the client."""

    def __init__(self, fleet: Fleet, address: str, room: int) -> None:
        self.address = address
        self.room = room
        self.inboxes: dict[int, Inbox] = {}
        self.is_lost = False
        self._fleet = fleet
        self._offset = math.inf
        self._parcels: deque[Parcel] = deque()
        self._aborts: deque[tuple[int, AbortReason]] = deque()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._tasks = [self._loop.create_task(self._go_on(step)) for step in (self._hand_over, self._collect)]

    def post(self, parcel: Parcel) -> None:
        """Send *parcel* there. From any thread, like `abort`."""
        self._parcels.append(parcel)
        self._ring()

    def abort(self, number: int, reason: AbortReason) -> None:
        self._aborts.append((number, reason))
        self._ring()

    def end(self) -> None:
        """Listen no longer; whoever waits for something from there has lost it."""
        for task in self._tasks:
            task.cancel()

    def _ring(self) -> None:
        if not self._news.is_set():
            with suppress(RuntimeError):  # the loop has ended, and so has this
                self._loop.call_soon_threadsafe(self._news.set)

    async def _go_on(self, step: Callable[[], Any]) -> None:
        try:
            while await step():
                pass
            self._fleet.lose(self, _ANEW)
        except Exception as failed:  # noqa: BLE001 - whatever Dask makes of the end of a worker
            self._fleet.lose(self, f"{type(failed).__name__}: {told(failed)}")
        finally:
            self.is_lost = True
            self.end()
            for inbox in [*self.inboxes.values()]:
                inbox.lose()

    async def _hand_over(self) -> bool:
        await self._news.wait()
        await asyncio.sleep(_GATHER)
        self._news.clear()
        parcels, aborts = _drained(self._parcels), _drained(self._aborts)
        return bool(await self._call(claude_take, parcels, aborts))

    async def _collect(self) -> bool:
        handed = await self._call(claude_collect, _LISTEN)
        if handed is None:
            return False
        self._offset = min(self._offset, time.monotonic() - handed.now)
        for number, report in handed.reports:
            if inbox := self.inboxes.get(number):
                inbox.put(report, self._offset)
        for number, at in handed.active.items():
            if inbox := self.inboxes.get(number):
                inbox.show_active(at + self._offset)
        return True

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        answers = await self._fleet.client.run(function, self._fleet.run, *args, workers=[self.address])
        return answers[self.address]


def _drained(queue: deque[T]) -> list[T]:
    """What is in *queue*, to which other threads may add."""
    return [queue.popleft() for _ in range(len(queue))]


def _problem_of(greeting: Any, ours: dict[str, str]) -> str | None:
    """Why the worker that answered with *greeting* cannot send; None for no reason."""
    if isinstance(greeting, ImportError | AttributeError):
        return f"orchestrating-agents {ours['orchestrating-agents']} is not installed there ({told(greeting)})"
    if isinstance(greeting, Exception):
        return f"{type(greeting).__name__}: {told(greeting)}"
    theirs, problem = greeting
    for name, version in ours.items():
        if theirs[name] != version:
            return f"it has {name} {theirs[name]}, and this process {version}"
    return problem  # type: ignore[no-any-return]
