"""Lets one of the calls that share a prompt prefix go first; the others then read it from the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt, Event
from claude_client._values.request import Prefix, Request

# An entry is not counted on in its last seconds: a request takes some to arrive.
_MARGIN = 10.0


@dataclass(slots=True, eq=False)
class CachePermit:
    """Permission to be the one request that writes *prefix* to the cache, while all others that share it wait."""

    gate: CacheGate
    prefix: Prefix
    #: The time of its last sign of life.
    alive_at: float

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Mark the entry readable once the answer has begun. It lives from when the request was sent."""
        self.alive_at = time.monotonic()
        if event == "sending":
            attempt.must_stream = True  # its first event comes long before its last
        elif event == "begun" and attempt.sent_at is not None:
            self.gate.written(self, attempt.sent_at)

    def settle(self, attempt: Attempt) -> None:  # noqa: ARG002 - all that counts was known at "begun"
        """Let the next request that asks write the prefix, if it was not written."""
        self.gate.release(self)


class CacheGate:
    """
    The prefixes that this process has put into the cache of one client, and the requests that are about to.

    Requests without a `prefix` pass at once. A writer that fails before its answer has begun makes room for the next,
    as does one that shows no sign of life for as long as a request is patient.
    Any thread may call any method.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._used_at: dict[Prefix, float] = {}
        self._writers: dict[Prefix, CachePermit] = {}
        self._wakers: set[Callable[[], None]] = set()

    def would_wait(self, request: Request, now: float) -> Wait | None:
        """The wait for the writer's answer to begin; None if there is no writer, or nothing to wait for."""
        prefix = request.prefix
        if prefix is None:
            return None
        with self._lock:
            return None if self._is_readable(prefix, now) else self._wait(request, prefix, now)

    def admit(self, request: Request, now: float) -> CachePermit | Wait | None:
        """A permit if the request is to write the prefix; None if it can read the prefix, or has none."""
        prefix = request.prefix
        if prefix is None:
            return None
        with self._lock:
            if self._is_readable(prefix, now):
                self._used_at[prefix] = now
                return None
            wait = self._wait(request, prefix, now)
            if wait:
                return wait
            permit = self._writers[prefix] = CachePermit(self, prefix, now)
            return permit

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call *wake* whenever a prefix can be read, or somebody else may write it."""
        with self._lock:
            self._wakers.add(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.discard(wake)

    def written(self, permit: CachePermit, sent_at: float) -> None:
        """Note that the answer to the writer's request, sent at *sent_at*, has begun: what it wrote can be read."""
        with self._lock:
            self._used_at[permit.prefix] = sent_at
            for prefix in [prefix for prefix in self._used_at if not self._is_readable(prefix, sent_at)]:
                del self._used_at[prefix]
        self.release(permit)

    def release(self, permit: CachePermit) -> None:
        """Let another request write the prefix of *permit*. Does nothing after the first time."""
        with self._lock:
            if self._writers.get(permit.prefix) is not permit:
                return
            del self._writers[permit.prefix]
            wakers = [*self._wakers]
        for wake in wakers:
            wake()

    def _wait(self, request: Request, prefix: Prefix, now: float) -> Wait | None:
        """The wait for the writer; None if there is none, or it has shown no sign of life for too long."""
        writer = self._writers.get(prefix)
        left = writer.alive_at + request.cache_patience - now if writer else 0.0
        return Wait(left, "cache writer", wakes=True) if left > 0 else None

    def _is_readable(self, prefix: Prefix, now: float) -> bool:
        used_at = self._used_at.get(prefix)
        return used_at is not None and now < used_at + prefix.lifetime - _MARGIN
