"""Money as a limit: what may be spent, what was, and what the calls under way may still cost."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, get_args

from claude_client._values.bounds import is_unbounded, worst_cost
from claude_client._values.checks import check_callback
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.log import Log
from claude_client._values.prices import PriceBook
from claude_client._values.text import dollars

if TYPE_CHECKING:
    from claude_client._values.request import Request

_log = Log("claude_client")

#: How much a budget sets aside for a call before it is sent.
Reserve = Literal["worst", "likely"]

_WARNINGS = (Decimal("0.5"), Decimal("0.8"), Decimal("0.95"))
_MOST_OVER = Decimal("1.02")  # of a budget that reserves what is likely, if all that is under way came to the worst
_FEWEST_ANSWERS = 5  # from which is learnt what is likely


class BudgetState(NamedTuple):
    """What stands in a budget at a moment, in dollars: `spent`, `reserved` and `left` are `usd`."""

    usd: float
    spent: float
    reserved: float
    left: float

    def __str__(self) -> str:
        reserved = f", {dollars(self.reserved)} reserved" if self.reserved else ""
        return f"{dollars(self.spent)} of {dollars(self.usd)} spent{reserved}, {dollars(self.left)} left"


class Budget:
    """
    Dollars that calls may cost in all: give it as `budget_usd=` to any number of calls, runs and conversations, one
    after another or at once, on any threads of this process.

    Before each request it reserves what that may cost, and afterwards keeps what it did cost, by the API's own counts
    of tokens; failed and interrupted requests too. One that does not fit waits while money that is reserved may come
    back, and then ends with an error of kind "budget", unsent. A request whose end never came, as of a connection that
    broke, may have cost something or nothing: what was reserved for it stays reserved.

    Args:
        usd: The dollars, above 0.

        reserve:
            "worst": the most that a request can cost, by the bytes of its prompt and its `max_tokens`: never is more
            spent than *usd*. "likely": what such a request has cost so far in this budget, with a margin that grows
            when it was too small; at most 2 % more than *usd* may be spent then, unless tools of the API read more than
            anybody can know.

        prices:
            Dollars per million tokens, by model, for models without a list price, or instead of it: `{"my-model":
            {"input": 3, "output": 15}}`; also `cache_write`, `cache_write_1h` and `cache_read`, which are 1.25, 2 and
            0.1 times that of input where they are not said.

        on_warning:
            Called with this budget and the share that was passed, 0.5, 0.8 and 0.95, once each, on the thread of the
            request that passed it. What it raises is logged.

    Raises:
        ValueError: For anything else.
        ImportError: Without the `cost` extra, unless *prices* are given.
    """

    def __init__(
        self,
        usd: float | Decimal,
        *,
        reserve: Reserve = "worst",
        prices: Mapping[str, Mapping[str, float]] | None = None,
        on_warning: Callable[[Budget, float], object] | None = None,
    ) -> None:
        is_number = isinstance(usd, (int, float, Decimal)) and not isinstance(usd, bool)
        if not is_number or not math.isfinite(usd) or usd <= 0:
            raise ValueError(f"a budget is a number of dollars above 0, got {usd!r}")
        if reserve not in get_args(Reserve):
            raise ValueError(f"reserve must be one of {', '.join(get_args(Reserve))}, got {reserve!r}")
        check_callback("on_warning", on_warning)
        if not prices:
            _check_extra()
        self._ledger = Ledger(self, Decimal(str(usd)), reserve, PriceBook(prices), on_warning)

    @property
    def usd(self) -> float:
        """The dollars that may be spent."""
        return self.state.usd

    @property
    def spent(self) -> float:
        """The dollars that were spent."""
        return self.state.spent

    @property
    def reserved(self) -> float:
        """The dollars that are set aside for requests that are under way, or whose end never came."""
        return self.state.reserved

    @property
    def left(self) -> float:
        """The dollars that are neither spent nor reserved. Below 0 if more was spent than was likely."""
        return self.state.left

    @property
    def state(self) -> BudgetState:
        """All four, of one moment."""
        return self._ledger.state()

    def __repr__(self) -> str:
        return f"<Budget {self.state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Budget holds for one process, and cannot be pickled or copied")


def budget_of(said: Any) -> Budget | None:
    """
    The budget that `budget_usd=` says; None for none.

    Raises:
        ValueError, ImportError: As `Budget`.
    """
    return said if said is None or isinstance(said, Budget) else Budget(said)


def ledger_of(budget: Budget) -> Ledger:
    """The books of *budget*."""
    return budget._ledger  # noqa: SLF001 - they are for gates, not for users


@dataclass(slots=True, eq=False)
class Reservation:
    """
    Dollars that are set aside for a request, the most that it can cost, the margin that there is in them, and the
    thread that sends it.
    """

    model: str
    amount: Decimal
    worst: Decimal
    margin: float
    thread: int = 0
    is_settled: bool = False
    #: Whether nobody waits for its end, so that nobody is to wait for its money either.
    is_parked: bool = False


class _Books(NamedTuple):
    """Dollars that were spent, and those that are set aside, likely and at the worst."""

    spent: Decimal = Decimal()
    under_way: Decimal = Decimal()
    under_way_worst: Decimal = Decimal()
    #: Of requests whose end never came.
    unknown: Decimal = Decimal()
    unknown_worst: Decimal = Decimal()

    def with_under_way(self, amount: Decimal, worst: Decimal) -> _Books:
        return self._replace(under_way=self.under_way + amount, under_way_worst=self.under_way_worst + worst)

    def with_unknown(self, amount: Decimal, worst: Decimal) -> _Books:
        return self._replace(unknown=self.unknown + amount, unknown_worst=self.unknown_worst + worst)

    def forked(self) -> _Books:  # no coverage: in a forked child
        """What a child has of it: what is under way in its parent never ends there."""
        return _Books(self.spent).with_unknown(self.unknown + self.under_way, self.unknown_worst + self.under_way_worst)


class Ledger:
    """The books of a budget. Every method may be called from any thread."""

    def __init__(
        self,
        budget: Budget,
        usd: Decimal,
        reserve: Reserve,
        book: PriceBook,
        on_warning: Callable[[Budget, float], object] | None,
    ) -> None:
        self.book = book
        self._budget = budget
        self._usd = usd
        self._reserve = reserve
        self._on_warning = on_warning
        self._lock = threading.Lock()  # guards what follows
        self._books = _Books()  # replaced as a whole: a Ctrl-C leaves it as it was, or as it is to be
        self._under_way: Counter[int] = Counter()  # requests by thread
        self._process = os.getpid()
        self._learnt: defaultdict[str, _Learnt] = defaultdict(_Learnt)
        self._warned = 0
        self._wakers: set[Callable[..., None]] = set()
        self._last: tuple[Request, Decimal] | None = None

    def state(self) -> BudgetState:
        """What stands in it now."""
        with self._lock:
            return self._state()

    def check(self, request: Request) -> None:
        """
        Check that the costs of *request* can be known.

        Raises:
            ValueError: If they cannot, with what to do about it.
            ImportError: Without the `cost` extra.
        """
        if self._reserve == "worst" and (unbounded := is_unbounded(request)):
            raise ValueError(
                f"what {unbounded} may use has no bound that is known before, so that no worst case can be reserved: "
                'use Budget(usd, reserve="likely")'
            )
        try:
            worst_cost(request, self.book)
        except LookupError as unknown:
            raise ValueError(
                f"no price of {request.model} is known, so it cannot have a budget: name it, as in "
                f'Budget(usd, prices={{"{request.model}": {{"input": 3, "output": 15}}}})'
            ) from unknown

    def would_reserve(self, request: Request, thread: int) -> bool:
        """Whether `reserve` would set money aside rather than have *request* wait. Raises like it."""
        worst = self._worst(request)
        with self._lock:
            return self._has_room(self._likely(request.model, worst), worst, thread)

    def reserve(self, request: Request, thread: int) -> Reservation | None:
        """
        Set aside what *request* may cost; None if it has to wait for money that may come back.

        Args:
            thread: That which sends it: what it holds cannot come back while it waits. 0: none is bound to it.

        Raises:
            ClaudeInvocationError: Of kind "budget", if it does not fit and nothing that is under way can change that.
        """
        worst = self._worst(request)
        with self._lock:
            if not self._has_room(self._likely(request.model, worst), worst, thread):
                return None
            return self._reserved(request, worst, thread)

    def reserve_anyway(self, request: Request, thread: int) -> Reservation:
        """Set aside what *request* may cost, which is under way, also beyond what there is."""
        worst = self._worst(request)
        with self._lock:
            return self._reserved(request, worst, thread)

    def settle(self, reservation: Reservation, cost: Decimal, *, is_all: bool = True) -> None:
        """
        Note what the request of *reservation* has *cost*; unless that *is_all*, nobody knows what more it may have, and
        the rest stays reserved. Does nothing after the first time.
        """
        with self._lock:
            if reservation.is_settled:
                return
            self._unpark(reservation)
            books = self._books.with_under_way(-reservation.amount, -reservation.worst)
            books = books._replace(spent=books.spent + cost)
            if not is_all:
                rest = max(Decimal(), reservation.amount - cost)
                books = books.with_unknown(rest, max(Decimal(), reservation.worst - cost))
            self._books, reservation.is_settled = books, True
            self._under_way[reservation.thread] -= 1
            if cost and is_all and reservation.worst:
                learnt = self._learnt[reservation.model]
                learnt.add(float(cost / reservation.worst), reservation.margin if cost > reservation.amount else 0.0)
            passed = _WARNINGS[self._warned :]
            passed = tuple(share for share in passed if books.spent >= share * self._usd)
            self._warned += len(passed)
            wakers = [*self._wakers]
        for share in passed:
            self._warn(share)
        for wake in wakers:
            wake(self)

    def park(self, reservation: Reservation) -> None:
        """Keep what *reservation* has set aside, whose end nobody waits for now."""
        with self._lock:
            books = self._books.with_under_way(-reservation.amount, -reservation.worst)
            self._books, reservation.is_parked = books.with_unknown(reservation.amount, reservation.worst), True
            self._under_way[reservation.thread] -= 1
            wakers = [*self._wakers]
        for wake in wakers:
            wake(self)

    def unpark(self, reservation: Reservation) -> None:
        """Take *reservation* up again: somebody waits for its end."""
        with self._lock:
            self._unpark(reservation)

    def add_waker(self, wake: Callable[..., None]) -> None:
        """Have *wake* called, with this ledger, whenever money came back."""
        with self._lock:
            self._wakers.add(wake)

    def remove_waker(self, wake: Callable[..., None]) -> None:
        """Have it called no more."""
        with self._lock:
            self._wakers.discard(wake)

    def _warn(self, share: Decimal) -> None:
        _log.warning("%d %% of a budget are spent: %s", share * 100, self.state())
        if self._on_warning:
            try:
                self._on_warning(self._budget, float(share))
            except Exception:  # noqa: BLE001 - a user's callback
                _log.exception("on_warning of a budget failed; nothing is lost by it")

    def _worst(self, request: Request) -> Decimal:
        last = self._last
        if last is None or last[0] is not request:
            last = self._last = (request, worst_cost(request, self.book))
        return last[1]

    def _likely(self, model: str, worst: Decimal) -> Decimal:
        return worst if self._reserve == "worst" else worst * self._learnt[model].share

    # What follows is called under the lock.

    def _state(self) -> BudgetState:
        books = self._books
        reserved = books.under_way + books.unknown
        return BudgetState(*map(float, (self._usd, books.spent, reserved, self._usd - books.spent - reserved)))

    def _has_room(self, likely: Decimal, worst: Decimal, thread: int) -> bool:
        if self._process != os.getpid():  # no coverage: in a forked child, where requests of the parent never end
            self._books, self._process = self._books.forked(), os.getpid()
            self._under_way.clear()
        books, may_cost = self._books, worst
        likely += books.spent + books.unknown
        worst += books.spent + books.unknown_worst
        if self._is_within(likely + books.under_way, worst + books.under_way_worst):
            return True
        # Would it fit if all that is under way cost nothing? What this very thread waits in cannot end before.
        others = sum(self._under_way.values()) - (self._under_way[thread] if thread else 0)
        if others and self._is_within(likely, worst):
            return False
        raise ClaudeInvocationError(
            f"The budget does not allow this request, which may cost {dollars(float(may_cost))}: {self._state()}",
            kind="budget",
        )

    def _unpark(self, reservation: Reservation) -> None:
        if reservation.is_parked:
            books = self._books.with_unknown(-reservation.amount, -reservation.worst)
            self._books, reservation.is_parked = books.with_under_way(reservation.amount, reservation.worst), False
            self._under_way[reservation.thread] += 1

    def _reserved(self, request: Request, worst: Decimal, thread: int) -> Reservation:
        margin = self._learnt[request.model].margin
        reservation = Reservation(request.model, self._likely(request.model, worst), worst, margin, thread)
        self._under_way[thread] += 1
        self._books = self._books.with_under_way(reservation.amount, worst)
        return reservation

    def _is_within(self, likely: Decimal, worst: Decimal) -> bool:
        return likely <= self._usd and worst <= self._usd * _MOST_OVER


class _Learnt:
    """Which share of the worst case requests to a model have cost so far."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = 0.0
        #: What the likely share is multiplied by.
        self.margin = 1.0

    def add(self, share: float, short_margin: float) -> None:
        """Note the *share* of a request, and the margin by which less had been reserved; 0 if that was enough."""
        self._count += 1
        off = share - self._mean
        self._mean += off / self._count
        self._squares += off * (share - self._mean)
        self.margin = max(self.margin, 1.5 * short_margin)  # once, however many were under way with it

    @property
    def share(self) -> Decimal:
        """The share to reserve: all, until there are answers to learn from."""
        if self._count < _FEWEST_ANSWERS:
            return Decimal(1)
        spread = math.sqrt(self._squares / (self._count - 1))
        return Decimal(min(1.0, (self._mean + 3 * spread) * self.margin))


def _check_extra() -> None:
    try:
        import genai_prices  # noqa: F401
    except ImportError as missing:
        raise ImportError("a budget needs genai-prices: pip install genai-prices") from missing
