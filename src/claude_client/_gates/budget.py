"""The gate by which calls keep within their budgets."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt, Event
from claude_client._values.budget import Budget, Ledger, Reservation, ledger_of
from claude_client._values.kinds import was_never_sent
from claude_client._values.request import Request
from claude_client._values.usage import Bill, exact_cost_of


@dataclass(slots=True, eq=False)
class BudgetPermit:
    """Money that is set aside for a request, in each of its budgets."""

    reservations: list[tuple[Ledger, Reservation]]

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Do nothing: what it costs is known at its end."""

    def settle(self, attempt: Attempt) -> None:
        """Give the money back, but for what *attempt* has cost."""
        for ledger, reservation in self.reservations:
            cost, is_all = _cost_of(attempt, ledger, reservation)
            ledger.settle(reservation, cost, is_all=is_all)

    def park(self) -> None:
        """Keep the money, though nobody waits for the end of the request: others are not to wait for it either."""
        for ledger, reservation in self.reservations:
            ledger.park(reservation)


class BudgetGate:
    """
    Lets a request through once all of its budgets have room for what it may cost.

    Args:
        in_threads: Whether the thread that asks is the one that sends, and waits for nothing else meanwhile.
    """

    def __init__(self, *, in_threads: bool = True) -> None:
        self._in_threads = in_threads
        self._lock = threading.Lock()
        self._wakers: dict[Callable[..., None], set[Ledger]] = {}

    def would_wait(self, request: Request, now: float) -> Wait | None:  # noqa: ARG002 - money has no clock
        """The wait for money that is under way, or None. Raises like `admit`."""
        for budget in request.budgets:
            ledger = self._listened_to(budget)
            if not ledger.would_reserve(request, self._thread):
                return _wait_for(ledger)
        return None

    def admit(self, request: Request, now: float) -> BudgetPermit | Wait | None:  # noqa: ARG002
        """
        A permit with the money for *request*; None if it has no budget.

        Raises:
            ClaudeInvocationError: Of kind "budget", if there is not enough and no more can come back.
        """
        if not request.budgets:
            return None
        permit = BudgetPermit([])
        whole = False
        try:
            for budget in request.budgets:
                ledger = self._listened_to(budget)
                reservation = ledger.reserve(request, self._thread)
                if reservation is None:
                    return _wait_for(ledger)
                permit.reservations.append((ledger, reservation))
            whole = True
            return permit
        finally:
            if not whole:
                for ledger, reservation in permit.reservations:
                    ledger.settle(reservation, Decimal())

    def taken_up(self, request: Request, permit: BudgetPermit | None) -> BudgetPermit | None:
        """
        The permit for *request*, which is under way already: with the money that *permit* has set aside for it, and
        what it may cost in the other budgets, whether they have room for it or not.
        """
        permit = permit or BudgetPermit([])
        for ledger, reservation in permit.reservations:
            ledger.unpark(reservation)
        has = {ledger for ledger, _ in permit.reservations}
        for budget in request.budgets:
            ledger = self._listened_to(budget)
            if ledger not in has:
                permit.reservations.append((ledger, ledger.reserve_anyway(request, self._thread)))
        return permit if permit.reservations else None

    @contextmanager
    def waking(self, wake: Callable[..., None]) -> Iterator[None]:
        """Call *wake* with the ledger whose money came back, for requests that have waited for it meanwhile."""
        with self._lock:
            self._wakers[wake] = set()
        try:
            yield
        finally:
            with self._lock:
                ledgers = self._wakers.pop(wake)
            for ledger in ledgers:
                ledger.remove_waker(wake)

    @property
    def _thread(self) -> int:
        return threading.get_ident() if self._in_threads else 0

    def _listened_to(self, budget: Budget) -> Ledger:
        """The books of *budget*, which wake all who wait from now on: so that nothing is missed, before it is asked."""
        ledger = ledger_of(budget)
        with self._lock:
            for wake, ledgers in self._wakers.items():
                if ledger not in ledgers:
                    ledgers.add(ledger)
                    ledger.add_waker(wake)
        return ledger


def _wait_for(ledger: Ledger) -> Wait:
    return Wait(math.inf, "budget", wakes=True, until=ledger)


def _cost_of(attempt: Attempt, ledger: Ledger, reservation: Reservation) -> tuple[Decimal, bool]:
    """What *attempt* has cost, as far as anybody knows, and whether that is all."""
    error = attempt.error
    if _never_left(attempt) or (error and (error.status_code or 0) >= 400):
        return Decimal(), True
    arrived = attempt.streamed.head if attempt.streamed else getattr(attempt.message, "__dict__", {})
    is_all = arrived.get("stop_reason") is not None
    try:
        return exact_cost_of(_as_priced(attempt, ledger), ledger.book), is_all
    except LookupError:  # of a model that nobody asked for
        return reservation.worst, is_all


def _never_left(attempt: Attempt) -> bool:
    """Whether it is known that nothing of *attempt* was sent."""
    error = attempt.error
    if attempt.sent_at is None or attempt.wrote is False:
        return True
    return error is not None and attempt.status is None and attempt.raised is None and was_never_sent(error)


def _as_priced(attempt: Attempt, ledger: Ledger) -> Iterable[Bill]:
    """The bills of *attempt*, under the name that a price was given for, where the API answers under another."""
    asked = attempt.request.model
    if not ledger.book.gives(asked):
        return attempt.bills
    return [bill if ledger.book.gives(bill.model) else bill._replace(model=asked) for bill in attempt.bills]
