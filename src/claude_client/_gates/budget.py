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
from claude_client._values.kinds import class_names
from claude_client._values.request import Request
from claude_client._values.usage import Bill, exact_cost_of

# What the HTTP library raises before a request is on its way.
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError"}


@dataclass(slots=True, eq=False)
class BudgetPermit:
    """Money that is set aside for a request, in each of its budgets."""

    reservations: list[tuple[Ledger, Reservation]]

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Do nothing: what it costs is known at its end."""

    def settle(self, attempt: Attempt) -> None:
        """Give the money back, but for what *attempt* has cost."""
        for ledger, reservation in self.reservations:
            ledger.settle(reservation, _cost_of(attempt, ledger, reservation))


class BudgetGate:
    """Lets a request through once all of its budgets have room for what it may cost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakers: dict[Callable[..., None], set[Ledger]] = {}

    def would_wait(self, request: Request, now: float) -> Wait | None:  # noqa: ARG002 - money has no clock
        """The wait for money that is under way, or None. Raises like `admit`."""
        for budget in request.budgets:
            ledger = self._listened_to(budget)
            if not ledger.would_reserve(request):
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
                reservation = ledger.reserve(request)
                if reservation is None:
                    return _wait_for(ledger)
                permit.reservations.append((ledger, reservation))
            whole = True
            return permit
        finally:
            if not whole:
                for ledger, reservation in permit.reservations:
                    ledger.settle(reservation, Decimal())

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


def _cost_of(attempt: Attempt, ledger: Ledger, reservation: Reservation) -> Decimal | None:
    """What *attempt* has cost; None if nobody can know."""
    error = attempt.error
    if attempt.sent_at is None or (error and (error.status_code or 0) >= 400):
        return Decimal()
    arrived = attempt.streamed.head if attempt.streamed else getattr(attempt.message, "__dict__", {})
    if arrived.get("stop_reason") is not None:
        try:
            return exact_cost_of(_as_priced(attempt, ledger), ledger.book)
        except LookupError:  # of a model that nobody asked for
            return reservation.worst
    not_sent = error and attempt.status is None and class_names(error) & _NOT_SENT
    return Decimal() if not_sent else None


def _as_priced(attempt: Attempt, ledger: Ledger) -> Iterable[Bill]:
    """The bills of *attempt*, under the name that a price was given for, where the API answers under another."""
    asked = attempt.request.model
    if not ledger.book.gives(asked):
        return attempt.bills
    return [bill if ledger.book.gives(bill.model) else bill._replace(model=asked) for bill in attempt.bills]
