"""Slots that runs and people's own threads share, and the one queue in which they wait for them."""

from __future__ import annotations

import bisect
import itertools
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from weakref import WeakSet

from claude_client._values.checks import number, whole_number


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Usage of one limit at one moment."""

    #: None where only the global limit counts.
    limit: int | None
    #: Slots held.
    in_use: int
    #: Threads that wait for a slot, and runs: each counts once, however many of its tasks wait.
    waiting: int


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """A `ConcurrencyLimiter` at one moment."""

    total: Occupancy
    #: By category, for each that has a limit, is in use or is waited for; None stands for no category.
    categories: Mapping[str | None, Occupancy] = field(hash=False)


@dataclass(slots=True, eq=False)
class _Waiter:
    """A place in the queue: of a thread until it goes on, of a run until its next task of the category may start."""

    category: str | None
    wake: Callable[[], object]
    #: Seconds that a slot is held for it; None: until it comes.
    hold_seconds: float | None
    #: Its number in the queue.
    number: int = 0
    #: Whether a slot is held for it, or, once it has left the queue, is its own.
    has_slot: bool = False
    held_until: float = math.inf

    def __lt__(self, other: _Waiter) -> bool:
        return self.number < other.number


_limiters: WeakSet[ConcurrencyLimiter] = WeakSet()  # of this process


class ConcurrencyLimiter:
    """
    Limits how many tasks run at once, in total and per category.

    Every method may be called from any thread, and one limiter may serve several runs and threads. Who waits holds
    nothing until there is room in both limits, so a full category never delays another.

    First come, first served: all who wait stand in one queue, and a slot that is freed goes to the first in it whose
    category has room. Nobody overtakes one who could go, so runs and threads take turns. A run stands in the queue
    once for each category; when its turn comes, the slot is held for it for *hold_seconds*, and then goes to the next.

    Args:
        global_limit: Most tasks running at once.

        category_limits:
            Most tasks running at once per category. A category not named here is bound by *global_limit* only.

        hold_seconds: How long a slot is held for a run whose turn it is, before it goes to the next.

    Raises:
        ValueError: A limit is not a whole number from 1, or *hold_seconds* no number of seconds.
    """

    __slots__ = (
        "__weakref__",
        "_category_limits",
        "_free",
        "_full",
        "_global_limit",
        "_held",
        "_hold_seconds",
        "_lock",
        "_look_at",
        "_next",
        "_numbers",
        "_queue",
        "_taken",
    )

    def __init__(
        self,
        global_limit: int = 10,
        category_limits: Mapping[str, int] | None = None,
        *,
        hold_seconds: float = 0.05,
    ) -> None:
        self._global_limit = whole_number("global_limit", global_limit, 1)
        self._hold_seconds = number("hold_seconds", hold_seconds, 0, math.inf)
        if category_limits is not None and not isinstance(category_limits, Mapping):
            raise ValueError(f"category_limits must be a mapping of categories to limits, got {category_limits!r}")
        self._category_limits: dict[str | None, int] = {
            category: whole_number(f"category_limits[{category!r}]", limit, 1)
            for category, limit in (category_limits or {}).items()
        }
        self._begin()
        _limiters.add(self)

    def _begin(self) -> None:
        """Be as if nobody had ever taken a slot."""
        self._lock = threading.Lock()  # guards everything below
        self._taken: Counter[str | None] = Counter()  # slots taken, or held for somebody whose turn it is
        self._free = self._global_limit  # how many are neither
        # All in the queue are also in one of the three below, so that none is looked at before there is reason to.
        self._queue: set[_Waiter] = set()
        self._held: set[_Waiter] = set()  # for whom a slot is held
        self._next: list[_Waiter] = []  # whose category may have room, in their order
        self._full: dict[str | None, dict[_Waiter, None]] = {}  # whose category had none, in their order
        self._numbers = itertools.count()
        self._look_at = math.inf  # when the next timer lets the queue move on

    def acquire(self, category: str | None = None, timeout: float | None = None) -> bool:
        """
        Take a slot, waiting at most *timeout* seconds; None waits for ever.

        Returns:
            Whether the slot was taken. If not, or if this is broken off by Ctrl-C, there is nothing to release.

        Raises:
            ValueError: *timeout* is not a number from 0.
        """
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
            raise ValueError(f"timeout must be a number of seconds from 0 or None, got {timeout!r}")
        turn = threading.Event()
        waiter = _Waiter(category, turn.set, None)
        taken = False
        try:
            taken = self._ask(waiter)
            if not taken:
                turn.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
                taken = self._ask(waiter)
        finally:
            if not taken:
                self._give_up([waiter])
        return taken

    def try_acquire(self, category: str | None = None) -> bool:
        """Take a slot if there is one that nobody waits for; return whether it was taken."""
        return self.acquire(category, 0)

    def release(self, category: str | None = None) -> None:
        """
        Give a slot back, which whoever is next in the queue gets.

        Raises:
            RuntimeError: No slot of *category* is held.
        """
        with self._lock:
            held = sum(waiter.category == category for waiter in self._held)
            if self._taken[category] <= held:
                of = "without a category" if category is None else f"of category {category!r}"
                raise RuntimeError(f"cannot release a slot {of}: none is held")
            self._give_back(category)
            woken = self._grant()
        _wake(woken)

    @contextmanager
    def slot(self, category: str | None = None) -> Iterator[None]:
        """Hold a slot for the length of a ``with`` block, waiting for it as long as it takes."""
        self.acquire(category)
        try:
            yield
        finally:
            self.release(category)

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[Callable[[str | None], bool]]:
        """
        Give a function that asks for slots without blocking, as for the loop of a run. It takes a slot of a category as
        `try_acquire` does, but if there is none, it waits in the queue for it. When its turn comes, *wake* is called,
        from any thread and under no lock of the limiter, and the slot is held until the function is called again, for
        `hold_seconds` at most.

        Only waiters in the queue are woken, not the one that gives back a slot that it could not use after all.
        Leaving the ``with`` block leaves the queue; slots that were taken are still to be released.
        """
        waiters: dict[str | None, _Waiter] = {}

        def ask(category: str | None) -> bool:
            waiter = waiters.pop(category, None) or _Waiter(category, wake, self._hold_seconds)
            taken = self._ask(waiter)
            if not taken:
                waiters[category] = waiter
            return taken

        try:
            yield ask
        finally:
            self._give_up([*waiters.values()])

    def statistics(self) -> LimiterStatistics:
        """Return how far the limits are used up now."""
        with self._lock:
            held = self._taken - Counter(waiter.category for waiter in self._held)
            waiting = Counter(waiter.category for waiter in self._queue)
        categories = {
            category: Occupancy(self._category_limits.get(category), held[category], waiting[category])
            for category in [*self._category_limits, *(held.keys() | waiting.keys()) - self._category_limits.keys()]
        }
        total = Occupancy(self._global_limit, held.total(), waiting.total())
        return LimiterStatistics(total, categories)

    def __repr__(self) -> str:
        now = self.statistics()
        uses = [_use_of(now.total), *(f"{category!r} {_use_of(one)}" for category, one in now.categories.items())]
        return f"<ConcurrencyLimiter {'; '.join(uses)}>"

    def _repr_html_(self) -> str:
        """The limits, and how far they are used up now."""
        from claude_client._values import html

        now = self.statistics()
        rows = [
            (_numbers_of(one), html.one_line("no category" if category is None else category, ""), False)
            for category, one in now.categories.items()
        ]
        return html.table(("in use", "of", "waiting", "category"), rows, "", (_numbers_of(now.total), "all"))

    def _ask(self, waiter: _Waiter) -> bool:
        """Put *waiter* into the queue if need be; return whether it has got its slot and left the queue."""
        with self._lock:
            if not waiter.has_slot and waiter not in self._queue:
                self._queue.add(waiter)
                waiter.number = next(self._numbers)
                self._next.append(waiter)
            woken = self._grant(asking=waiter)
            taken = waiter.has_slot
            if taken:
                self._queue.discard(waiter)
                self._held.discard(waiter)
        _wake(one for one in woken if one is not waiter)
        return taken

    def _give_up(self, waiters: Iterable[_Waiter]) -> None:
        """Take *waiters* back, whatever they have come to: queue and slots are as if they had never asked."""
        with self._lock:
            for waiter in waiters:
                self._drop(waiter)
            woken = self._grant()
        _wake(woken)

    def _look_again(self) -> None:
        """Let the queue move on; called on the thread of a timer."""
        with self._lock:
            self._look_at = math.inf
            woken = self._grant()
        _wake(woken)

    # The caller of what follows holds the lock.

    def _grant(self, asking: _Waiter | None = None) -> list[_Waiter]:
        """Hold free slots for those in the queue, first come first served; return those to wake for it."""
        now = time.monotonic()
        for waiter in [waiter for waiter in self._held if waiter is not asking and waiter.held_until <= now]:
            self._drop(waiter)
        woken: list[_Waiter] = []
        while self._free and self._next:
            waiter = self._next.pop(0)
            if not self._has_room(waiter.category):
                self._full.setdefault(waiter.category, {})[waiter] = None
            else:
                self._free -= 1
                self._taken[waiter.category] += 1
                waiter.has_slot = True
                waiter.held_until = math.inf if waiter.hold_seconds is None else now + waiter.hold_seconds
                self._held.add(waiter)
                woken.append(waiter)
        self._look_again_in_time(now)
        return woken

    def _look_again_in_time(self, now: float) -> None:
        """Start a timer to let the queue move on, if it waits for a held slot to expire."""
        due = min([waiter.held_until for waiter in self._held], default=math.inf)
        if due < self._look_at and len(self._queue) > len(self._held):
            timer = threading.Timer(due - now, self._look_again)
            timer.daemon = True
            with suppress(RuntimeError):  # the interpreter is ending, and starts no more threads
                timer.start()
                self._look_at = due

    def _drop(self, waiter: _Waiter) -> None:
        self._queue.discard(waiter)
        self._held.discard(waiter)
        if waiter.has_slot:
            waiter.has_slot = False
            self._give_back(waiter.category)
        elif waiter in self._next:
            self._next.remove(waiter)
            self._look_at_category(waiter.category)
        else:
            self._full.get(waiter.category, {}).pop(waiter, None)

    def _give_back(self, category: str | None) -> None:
        self._free += 1
        self._taken[category] -= 1
        if not self._taken[category]:
            del self._taken[category]
        self._look_at_category(category)

    def _look_at_category(self, category: str | None) -> None:
        """Have the first of *category* looked at again, as it may have room."""
        if line := self._full.get(category):
            first = next(iter(line))
            del line[first]
            bisect.insort(self._next, first)

    def _has_room(self, category: str | None) -> bool:
        limit = self._category_limits.get(category)
        return limit is None or self._taken[category] < limit


def _wake(waiters: Iterable[_Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()


def _numbers_of(one: Occupancy) -> tuple[str, ...]:
    return (str(one.in_use), "" if one.limit is None else str(one.limit), str(one.waiting))


def _use_of(one: Occupancy) -> str:
    limit = "" if one.limit is None else f" of {one.limit}"
    return f"{one.in_use}{limit} in use, {one.waiting} waiting"


def _forget() -> None:  # no coverage: in a forked child, where the threads of the parent give nothing back
    for limiter in [*_limiters]:
        limiter._begin()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
