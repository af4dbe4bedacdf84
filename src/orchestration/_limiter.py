"""Slots that runs and people's own threads share, and the one line in which they wait for them."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from claude_client._engine.threads import Job

# Seconds that a slot is kept for a run, which may not want it any more and cannot be asked.
_PATIENCE = 0.05
# Seconds until the turn of a run that was refused while a slot was kept for another. Runs that give back what they
# took, as the rate gate holds them up, would otherwise wake each other without end.
_PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How far one limit is used up."""

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
    #: Of each category that has a limit, is in use or is waited for; None stands for no category.
    categories: Mapping[str | None, Occupancy] = field(hash=False)


@dataclass(slots=True, eq=False)
class _Place:
    """In the line: for a thread until it goes on, for a run until its next task of the category may start."""

    category: str | None
    wake: Callable[[], object]
    #: Seconds that a slot is kept for it; None: until it comes.
    patience: float | None
    #: Whether a slot is kept for it, or, once it has left the line, is its own.
    has_slot: bool = False
    kept_until: float | None = None
    #: When its turn may come.
    not_before: float = -math.inf


class ConcurrencyLimiter:
    """
    Limits how many tasks run at once, in total and per category.

    Every method may be called from any thread, and one limiter may serve several runs and threads. Who waits holds
    nothing until there is room in both limits, so a full category never delays another.

    First come, first served: all who wait stand in one line, and a slot that is freed goes to the first in it whose
    category has room. Nobody overtakes one who could go, so runs and threads take turns. A run stands in the line
    once for each category; when its turn comes, the slot is kept for it for 50 ms, and then goes to the next.

    Args:
        global_limit: Most tasks running at once.

        category_limits:
            Most tasks running at once per category. A category not named here is bound by *global_limit* only.

    Raises:
        ValueError: A limit is not a whole number from 1.
    """

    def __init__(self, global_limit: int = 10, category_limits: Mapping[str, int] | None = None) -> None:
        self._global_limit = _checked("global_limit", global_limit)
        if category_limits is not None and not isinstance(category_limits, Mapping):
            raise ValueError(f"category_limits must be a mapping of categories to limits, got {category_limits!r}")
        self._category_limits: dict[str | None, int] = {
            category: _checked(f"category_limits[{category!r}]", limit)
            for category, limit in (category_limits or {}).items()
        }
        self._lock = threading.Lock()  # guards everything below
        self._taken: Counter[str | None] = Counter()  # slots held or kept
        self._line: list[_Place] = []
        self._look_at = math.inf  # when the next timer lets the line move on

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
        place = _Place(category, turn.set, None)
        taken = False
        try:
            taken = self._ask(place)
            if not taken:
                turn.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
                taken = self._ask(place)
        finally:
            if not taken:
                self._give_up([place])
        return taken

    def try_acquire(self, category: str | None = None) -> bool:
        """Take a slot if there is one that nobody waits for; whether it was taken."""
        return self.acquire(category, 0)

    def release(self, category: str | None = None) -> None:
        """
        Give a slot back, which whoever is next in the line gets.

        Raises:
            RuntimeError: No slot of *category* is held.
        """
        with self._lock:
            if not self._held()[category]:
                of = "without a category" if category is None else f"of category {category!r}"
                raise RuntimeError(f"cannot release a slot {of}: none is held")
            self._free(category)
            woken = self._settle()
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
        For one who must not block, as the loop of a run: gives a function that takes a slot of a category as
        `try_acquire` does, but if there is none, stands in the line for it. When its turn comes, *wake* is called,
        from any thread and under no lock, and the slot is kept until the function is called again, for 50 ms at most.

        Only those who stand in the line are woken, not who gives back a slot that it could not use after all.
        Leaving the ``with`` block leaves the line; slots that were taken are still to be released.
        """
        places: dict[str | None, _Place] = {}

        def ask(category: str | None) -> bool:
            place = places.setdefault(category, _Place(category, wake, _PATIENCE))
            taken = self._ask(place)
            if taken:
                del places[category]
            return taken

        try:
            yield ask
        finally:
            self._give_up(places.values())

    def statistics(self) -> LimiterStatistics:
        """How far the limits are used up now."""
        with self._lock:
            held, waiting = self._held(), Counter(place.category for place in self._line)
        categories = {
            category: Occupancy(self._category_limits.get(category), held[category], waiting[category])
            for category in [*self._category_limits, *(held.keys() | waiting.keys()) - self._category_limits.keys()]
        }
        total = Occupancy(self._global_limit, held.total(), waiting.total())
        return LimiterStatistics(total, MappingProxyType(categories))

    def __repr__(self) -> str:
        now = self.statistics()
        told = [_told(now.total), *(f"{category!r} {_told(one)}" for category, one in now.categories.items())]
        return f"<ConcurrencyLimiter {'; '.join(told)}>"

    def _ask(self, place: _Place) -> bool:
        """Whether *place*, which enters the line if need be, has got its slot, and has left the line with it."""
        with self._lock:
            joins = not place.has_slot and place not in self._line
            if joins:
                place.not_before = -math.inf
                self._line.append(place)
            woken = self._settle(asking=place)
            taken = place.has_slot
            if taken and place in self._line:
                self._line.remove(place)
            elif joins and place.patience is not None and any(one.kept_until is not None for one in self._line):
                now = time.monotonic()
                place.not_before = now + _PAUSE
                self._look_again_in_time(now)
        _wake(one for one in woken if one is not place)
        return taken

    def _give_up(self, places: Iterable[_Place]) -> None:
        """Whatever *places* have come to, the line and the slots are as if they had never asked."""
        with self._lock:
            for place in places:
                self._drop(place)
            woken = self._settle()
        _wake(woken)

    def _look_again(self) -> None:
        """On the thread of a timer."""
        with self._lock:
            self._look_at = math.inf
            woken = self._settle()
        _wake(woken)

    # The caller of what follows holds the lock.

    def _settle(self, asking: _Place | None = None) -> list[_Place]:
        """Keep what is free for those in the line, first come first served; those who are to be woken for it."""
        now = time.monotonic()
        for place in [*self._line]:
            if place is not asking and place.kept_until is not None and place.kept_until <= now:
                self._drop(place)
        woken: list[_Place] = []
        free = self._global_limit - self._taken.total()
        for place in self._line:
            if len(woken) == free:
                break
            if not place.has_slot and place.not_before <= now and self._has_room(place.category):
                self._taken[place.category] += 1
                place.has_slot = True
                place.kept_until = None if place.patience is None else now + place.patience
                woken.append(place)
        self._look_again_in_time(now)
        return woken

    def _look_again_in_time(self, now: float) -> None:
        """Have the line move on where nothing but time lets it."""
        waiting = [place for place in self._line if not place.has_slot]
        kept = [place.kept_until for place in self._line if place.kept_until is not None]
        due = min([*kept, *(place.not_before for place in waiting if place.not_before > now)], default=math.inf)
        if waiting and due < self._look_at:
            timer = threading.Timer(due - now, self._look_again)
            timer.daemon = True
            with suppress(RuntimeError):  # the interpreter is ending, and starts no more threads
                timer.start()
                self._look_at = due

    def _drop(self, place: _Place) -> None:
        if place in self._line:
            self._line.remove(place)
        if place.has_slot:
            place.has_slot, place.kept_until = False, None
            self._free(place.category)

    def _free(self, category: str | None) -> None:
        self._taken[category] -= 1
        if not self._taken[category]:
            del self._taken[category]

    def _has_room(self, category: str | None) -> bool:
        limit = self._category_limits.get(category)
        return limit is None or self._taken[category] < limit

    def _held(self) -> Counter[str | None]:
        return self._taken - Counter(place.category for place in self._line if place.has_slot)


class LimiterGate:
    """How a run obeys *limiter*. *categories* has that of the job of each index."""

    def __init__(self, limiter: ConcurrencyLimiter, categories: Mapping[int, str | None]) -> None:
        self._limiter = limiter
        self._categories = categories
        self._ask: Callable[[str | None], bool]
        self._inside: set[int] = set()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call *wake* when a slot that was asked for is there."""
        with self._limiter.waking(wake) as self._ask:
            yield

    def wait(self, job: Job) -> float:  # noqa: ARG002 - a slot cannot be promised, only taken
        """Whoever asks takes part in the line, so there is nothing to say before."""
        return 0.0

    def enter(self, job: Job) -> float:
        """Inf where no slot is free: *wake* says when."""
        if not self._ask(self._categories[job.index]):
            return math.inf
        self._inside.add(job.index)
        return 0.0

    def leave(self, job: Job) -> None:
        """Give the slot of *job* back, if it has one."""
        if job.index in self._inside:
            self._inside.remove(job.index)
            self._limiter.release(self._categories[job.index])

    def done(self, job: Job) -> None:
        """It holds nothing any more."""


def _checked(name: str, limit: int) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ValueError(f"{name} must be a whole number from 1, got {limit!r}")
    return limit


def _wake(places: Iterable[_Place]) -> None:
    for place in places:
        place.wake()


def _told(one: Occupancy) -> str:
    limit = "" if one.limit is None else f" of {one.limit}"
    return f"{one.in_use}{limit} in use, {one.waiting} waiting"
