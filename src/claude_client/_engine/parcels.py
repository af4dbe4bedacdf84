"""
Attempts that another process sends: as parcels on their way there, and as reports on their way back.

The process that owns an attempt decides all, and the other one has nothing but a key, a network and threads. Clocks of
two machines have nothing to do with each other, so times in reports are those of the sender, who says what they are.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from claude_client._sdk.client import shared_client
from claude_client._sdk.exchange import send
from claude_client._values.attempt import Attempt, Event
from claude_client._values.content import loaded
from claude_client._values.errors import AbortReason, ClaudeInvocationError, aborted
from claude_client._values.log import told
from claude_client._values.request import Request
from claude_client._values.usage import Usage

_ABORTED_WITHIN = 0.8  # seconds until an abort there is no longer waited for

_TIMES = ("first_byte_at", "first_text_at", "last_event_at", "ended_at")
_SAID = ("status", "limits", "wrote", "answer", "error", "usage", "message")


class Parcel(NamedTuple):
    """An attempt as it is sent on: all that sending it needs, and no more."""

    number: int
    request: Request
    must_stream: bool
    #: Seconds until its deadline.
    left: float


class Arrived(NamedTuple):
    """What there is of a stream."""

    head: Mapping[str, Any]
    text: str
    usage: Usage


class Report(NamedTuple):
    """What there is to say of an attempt."""

    is_over: bool
    #: What its sender made of it, by the names of its attributes.
    said: Mapping[str, Any]
    times: Mapping[str, float | None]
    streamed: Arrived | None
    #: Whether its error stands for what something other than the network has raised.
    raised: bool


class Inbox:
    """
    The owner's end of the attempt with that *number*, which somebody else sends. Of one thread, but for `put`.

    Args:
        attempt: It is told that it is about to be sent, and has then to be sent or settled.
    """

    def __init__(self, number: int, attempt: Attempt) -> None:
        self._attempt = attempt
        self._news: SimpleQueue[tuple[bytes, float] | AbortReason | None] = SimpleQueue()
        self._heard: set[Event] = set()
        attempt.sent_at = attempt.last_event_at = time.monotonic()
        attempt.tell("sending")
        request = attempt.request
        plain = replace(request, budgets=(), fallbacks=(), prefix=None, output=None)
        if request.has_files:
            read = {"messages": loaded(request.messages), "system": loaded(request.system)}
            plain = replace(plain, **read, has_files=False)
        #: What is to be sent on.
        self.parcel = Parcel(number, plain, attempt.must_stream, attempt.ends_at - attempt.sent_at)

    def put(self, report: bytes, offset: float) -> None:
        """Deliver a pickled `Report`, whose times lack *offset* seconds of ours."""
        self._news.put((report, offset))

    def show_active(self, at: float) -> None:
        """Note that there was a sign of life."""
        self._attempt.last_event_at = max(self._attempt.last_event_at or at, at)

    def lose(self) -> None:
        """Say that nothing more will come."""
        self._news.put(None)

    def wait(self, abort: Callable[[AbortReason], object]) -> None:
        """Wait until the attempt is over, and fill it in. *abort* is called to have it ended there."""
        attempt = self._attempt

        def end(reason: AbortReason) -> None:
            abort(reason)
            self._news.put(reason)

        attempt.tell_of_abort(end)
        until = attempt.ends_at + _ABORTED_WITHIN
        while True:
            left = until - time.monotonic()
            try:
                news = self._news.get(timeout=max(0.0, left) if left < threading.TIMEOUT_MAX else None)
            except Empty:
                attempt.error = aborted(attempt.aborted or "interrupted")
                return
            if news is None:
                attempt.is_lost = attempt.aborted is None
                attempt.error = lost() if attempt.is_lost else aborted(attempt.aborted or "interrupted")
                return
            if isinstance(news, str):
                until = min(until, time.monotonic() + _ABORTED_WITHIN)
            elif self._fill_in(*news):
                return

    def _fill_in(self, pickled: bytes, offset: float) -> bool:
        """Return whether the attempt is over."""
        attempt = self._attempt
        try:
            report: Report = pickle.loads(pickled)  # noqa: S301 - of a process that runs what we send it
        except Exception as unreadable:  # noqa: BLE001 - whatever the other side sent
            problem = f"What the worker reports cannot be read: {type(unreadable).__name__}: {told(unreadable)}"
            attempt.error = ClaudeInvocationError(problem, kind="invalid_response")
            return True
        for name, at in report.times.items():
            setattr(attempt, name, None if at is None else at + offset)
        for name, said in report.said.items():
            setattr(attempt, name, said)
        attempt.streamed = report.streamed
        attempt.raised = attempt.error if report.raised else None
        for event, is_known in (("head", attempt.status is not None), ("begun", attempt.answer or not report.is_over)):
            if is_known and event not in self._heard:
                self._heard.add(event)  # type: ignore[arg-type]  # they are two of the three
                attempt.tell(event)  # type: ignore[arg-type]
        return report.is_over


class Room:
    """
    Sends what others own, on threads of its own.

    Args:
        wake: Called, on any thread, when there is something to report.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._lock = threading.Lock()  # guards the three below
        self._under_way: dict[int, Attempt] = {}
        self._reports: list[tuple[int, bytes]] = []
        self._threads = 0
        self._parcels: SimpleQueue[tuple[int, Attempt] | None] = SimpleQueue()

    def take(self, parcels: Iterable[Parcel]) -> None:
        """Begin to send *parcels*, each on a thread."""
        for number, request, must_stream, left in parcels:
            attempt = Attempt(request, 0.0)
            attempt.must_stream, attempt.ends_at = must_stream, time.monotonic() + left
            attempt.permits.append(_Listener(self, number))
            with self._lock:
                self._under_way[number] = attempt
                more = self._threads < len(self._under_way)
                self._threads += more
            self._parcels.put((number, attempt))
            if more:
                threading.Thread(target=self._work, name="claude_client sender", daemon=True).start()

    def abort(self, number: int, reason: AbortReason) -> None:
        """End the attempt with that *number*, if it is under way."""
        if attempt := self._under_way.get(number):
            attempt.abort(reason)

    def close(self) -> None:
        """End all that is under way, and the threads."""
        for attempt in [*self._under_way.values()]:
            attempt.abort()
        with self._lock:
            for _ in range(self._threads):
                self._parcels.put(None)

    def reports(self) -> list[tuple[int, bytes]]:
        """Take what there is to report: the number of an attempt, and a pickled `Report` of it."""
        with self._lock:
            reports, self._reports = self._reports, []
        return reports

    @property
    def active(self) -> dict[int, float]:
        """When there was the last event of each stream, by the number of its attempt."""
        under_way = [*self._under_way.items()]
        return {number: one.last_event_at for number, one in under_way if one.last_event_at and one.streamed}

    def report(self, number: int, attempt: Attempt, *, is_over: bool) -> None:
        """Report *attempt* as it stands."""
        arrived = attempt.streamed
        said = {name: getattr(attempt, name) for name in _SAID}
        report = Report(
            is_over,
            said,
            {name: getattr(attempt, name) for name in _TIMES},
            Arrived(arrived.head, arrived.text, arrived.usage) if arrived and is_over else None,
            attempt.raised is not None,
        )
        try:
            pickled = pickle.dumps(report)
        except Exception as unsendable:  # noqa: BLE001 - whatever the SDK has made of the answer
            problem = f"The answer cannot be handed on: {type(unsendable).__name__}: {told(unsendable)}"
            error = ClaudeInvocationError(problem, kind="invalid_response", status_code=attempt.status)
            known = {"status": attempt.status, "error": error, "usage": attempt.usage}
            pickled = pickle.dumps(report._replace(is_over=True, said=known, streamed=None))
        with self._lock:
            self._reports.append((number, pickled))
            if is_over:
                self._under_way.pop(number, None)
        self._wake()

    def _work(self) -> None:
        while taken := self._parcels.get():
            number, attempt = taken
            try:
                with shared_client() as client:
                    send(client, attempt)
            except Exception as failed:  # noqa: BLE001 - there are no credentials any more
                attempt.error = ClaudeInvocationError(told(failed), kind="authentication")
                attempt.ended_at = time.monotonic()
            self.report(number, attempt, is_over=True)


class _Listener(NamedTuple):
    """Reports that an answer has begun, where that is long before its end."""

    room: Room
    number: int

    def on_event(self, attempt: Attempt, event: Event) -> None:
        if event == "begun" and (attempt.must_stream or attempt.request.must_stream):
            self.room.report(self.number, attempt, is_over=False)

    def settle(self, attempt: Attempt) -> None:
        """Do nothing: its end is reported once it is over."""


def lost() -> ClaudeInvocationError:
    """The error of an attempt whose sender is gone."""
    return ClaudeInvocationError("The worker that was to send it is gone", kind="connection", retryable=True)
