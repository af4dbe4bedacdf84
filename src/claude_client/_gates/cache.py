"""Lets one of the calls that share a prompt prefix go first, so that the others read what it wrote to the cache."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from claude_client._engine.threads import Job

from .per_client import PerClient
from .prefix import Prefix

# An entry is not counted on in its last seconds: a request takes some to arrive.
_MARGIN = 10.0


class Primed:
    """
    What this process has put into the cache of one client, and who is about to. Any thread may call any method.

    An entry can be read once the answer that writes it has begun, and lives from the start of the request that wrote
    or last read it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._used: dict[Prefix, float] = {}
        self._primers: dict[Prefix, object] = {}
        self._wakers: set[Callable[[], None]] = set()

    def may_go(self, prefix: Prefix, who: object) -> bool:
        """Whether *who* may send now: the prefix can be read, or *who* is the one to write it."""
        with self._lock:
            if self._is_primed(prefix):
                self._used[prefix] = self._clock()
                return True
            return self._primers.setdefault(prefix, who) is who

    def could_go(self, prefix: Prefix, who: object) -> bool:
        """Whether `may_go` would say so; nothing is changed by asking."""
        with self._lock:
            return self._is_primed(prefix) or self._primers.get(prefix, who) is who

    def is_primer(self, prefix: Prefix, who: object) -> bool:
        """Whether *who* is the one whose answer all others wait for."""
        with self._lock:
            return self._primers.get(prefix) is who

    def begun(self, prefix: Prefix, since: float) -> None:
        """The answer to the request sent at *since* has begun: what it wrote can be read."""
        with self._lock:
            self._used[prefix] = since
            self._primers.pop(prefix, None)
            self._forget_expired()
        self._wake()

    def gone(self, prefix: Prefix, who: object) -> None:
        """*who* will not write the prefix, if it was to: the next may."""
        with self._lock:
            if self._primers.get(prefix) is not who:
                return
            del self._primers[prefix]
        self._wake()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call *wake* whenever somebody who waits may go."""
        with self._lock:
            self._wakers.add(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.discard(wake)

    def now(self) -> float:
        return self._clock()

    def _is_primed(self, prefix: Prefix) -> bool:
        used = self._used.get(prefix)
        return used is not None and self._clock() < used + prefix.lifetime - _MARGIN

    def _forget_expired(self) -> None:
        for prefix in [prefix for prefix in self._used if not self._is_primed(prefix)]:
            del self._used[prefix]

    def _wake(self) -> None:
        with self._lock:
            wakers = [*self._wakers]
        for wake in wakers:
            wake()


class CacheGate:
    """The gate of one run: *prefixes* says which prefix the job of each index shares."""

    def __init__(self, prefixes: Mapping[int, Prefix], primed: Primed) -> None:
        self._prefixes = prefixes
        self._primed = primed
        self.waking = primed.waking

    def wait(self, job: Job) -> float:
        """Inf for a job that has to wait for the answer of another to begin."""
        prefix = self._prefixes.get(job.index)
        return 0.0 if prefix is None or self._primed.could_go(prefix, job) else math.inf

    def enter(self, job: Job) -> float:
        """As `wait`; a job that is let in where nobody has written the prefix is the one to write it."""
        prefix = self._prefixes.get(job.index)
        if prefix is None:
            return 0.0
        if not self._primed.may_go(prefix, job):
            return math.inf
        if self._primed.is_primer(prefix, job):
            job.operation.must_stream = True  # its first event comes long before its last
            job.operation.on_begin = partial(self._primed.begun, prefix, self._primed.now())
            job.operation.on_end = partial(self._primed.gone, prefix, job)
        return 0.0

    def leave(self, job: Job) -> None:
        """One that waits elsewhere keeps its place; one whose attempt is over has lost it already, by `on_end`."""

    def done(self, job: Job) -> None:
        """Where the job was to write the prefix and did not come to it, the next takes its place."""
        prefix = self._prefixes.get(job.index)
        if prefix is not None:
            self._primed.gone(prefix, job)


_primed: PerClient[Primed] = PerClient(Primed)


def primed_by(client: Any) -> Primed:
    """What this process has put into the cache by way of *client*."""
    return _primed.of(client)
