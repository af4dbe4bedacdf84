"""One HTTP transport on several connection pools: httpcore looks through all of a pool for each request."""

from __future__ import annotations

import copy
import itertools
import threading
from heapq import heappop, heappush
from typing import Any, Self

_SIZE = 50  # connections of a pool, above which another costs less


class Pools:
    """
    The connections of *pool*, divided among as many pools as there are threads for. Like *pool*, it belongs to a
    transport, and is used by many threads at once.
    """

    def __init__(self, pool: Any) -> None:
        self._connections = pool._max_connections  # noqa: SLF001 - no public way
        self._lock = threading.Lock()  # guards that a pool is added
        self._pools = [pool]
        self._seats = _Seats()

    def handle_request(self, request: Any) -> Any:
        number = self._seats.of_this_thread() % self._connections // _SIZE
        return (self._pools[number] if number < len(self._pools) else self._added(number)).handle_request(request)

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

    def __enter__(self) -> Self:
        self._pools[0].__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _added(self, number: int) -> Any:
        with self._lock:
            first = self._pools[0]
            while number >= len(self._pools):
                self._pools.append(_like(first, min(_SIZE, self._connections - len(self._pools) * _SIZE)))
            first._max_connections = _SIZE  # noqa: SLF001
            return self._pools[number]


class _Seats:
    """Numbers for threads, each the lowest that no other thread has that is alive."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._more = itertools.count()
        self._local = threading.local()

    def of_this_thread(self) -> int:
        if not hasattr(self._local, "seat"):
            self._local.seat = _Seat(self._free, self._more)
        number: int = self._local.seat.number
        return number


class _Seat:
    """A number, which is free again once the thread that has it ends. Without a lock: it may end in any moment."""

    def __init__(self, free: list[int], more: itertools.count[int]) -> None:
        self._free = free
        try:
            self.number = heappop(free)
        except IndexError:
            self.number = next(more)

    def __del__(self) -> None:
        heappush(self._free, self.number)


def _like(pool: Any, connections: int) -> Any:
    """A pool with the settings of *pool*, for so many *connections*, and with none yet."""
    other = copy.copy(pool)
    other._max_connections = connections  # noqa: SLF001
    other._connections, other._requests = [], []  # noqa: SLF001
    other._optional_thread_lock = type(pool._optional_thread_lock)()  # noqa: SLF001
    return other
