"""Message batches: what was asked, how far it is, and what came of it (facts 6, facts-2 1)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ._errors import RejectedError, Rejection, invalid
from ._numbers import check_at_least
from ._script import REJECTIONS, RejectionFault
from ._wire import compact

MOST_REQUESTS = 100_000
LARGEST_BATCH = 256_000_000  # bytes
LIFETIME = 24 * 3600.0  # seconds
MOST_LISTED = 1000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReply:
    """
    What becomes of a batch. Times are in seconds by the simulator's clock.

    Args:
        seconds: Time until all of its requests are processed, one after another.

        cancel_seconds: Time from when it is cancelled until it has ended.

        expired: How many of its last requests expire unprocessed, at the end of its 24 hours.

        fault: A rejection of its creation.

        lost_answer: Whether the connection breaks after the batch was created, before the answer.

        silent: Whether its creation is never answered.

        call_faults: Rejections of the calls about it, and of lists with it, one each, before any succeeds.

        cut_results_after: The first download of its results ends, in order, after so many lines. None: it is whole.

        results_url: The address that it gives for its results; None: the right one.

    Raises:
        ValueError: If a number makes no sense, or the fault is none.
    """

    seconds: float = 0.0
    cancel_seconds: float = 0.0
    expired: int = 0
    fault: RejectionFault | None = None
    lost_answer: bool = False
    silent: bool = False
    call_faults: Sequence[RejectionFault] = ()
    cut_results_after: int | None = None
    results_url: str | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "cancel_seconds", "expired", "cut_results_after"):
            check_at_least(name, getattr(self, name), 0)
        for fault in filter(None, (self.fault, *self.call_faults)):
            if fault not in REJECTIONS:
                raise ValueError(f"unknown fault {fault!r}; known are {', '.join(REJECTIONS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBatch:
    """
    A batch as it stands.

    Args:
        started: When it was created, in seconds since the simulator started.

        requests: The `custom_id` and `params` of each of its requests, in their order.

        status: ``in_progress``, ``canceling`` or ``ended``.

        results: What came of each request, by its `custom_id`: the `result` of the API; empty until it is processed.
    """

    id: str
    started: float
    requests: tuple[Mapping[str, Any], ...]
    status: str
    results: Mapping[str, Result]


@dataclass(slots=True)
class _Batch:
    id: str
    created: float
    requests: Sequence[Mapping[str, Any]]
    headers: Mapping[str, str]
    reply: BatchReply
    results: dict[str, Result] = field(default_factory=dict)
    cancelled_at: float | None = None
    ended_at: float | None = None
    is_cut: bool = False
    calls: int = 0

    @property
    def ends_at(self) -> float:
        return self.created + (LIFETIME if self.reply.expired else self.reply.seconds)

    @property
    def status(self) -> str:
        return "ended" if self.ended_at is not None else "in_progress" if self.cancelled_at is None else "canceling"


class Batches:
    """
    All batches. The caller holds the lock of the simulator.

    Args:
        process: The result of a request: of its params, with the headers of its batch, at a time.

        clock, origin: The time in seconds, and when the simulator started by it.

        epoch: What the clock lacks of the seconds since 1970.
    """

    def __init__(
        self,
        process: Callable[[Mapping[str, Any], Mapping[str, str], float], Result],
        clock: Callable[[], float],
        origin: float,
        epoch: float,
    ) -> None:
        self._process = process
        self._clock = clock
        self._origin = origin
        self._epoch = epoch
        self._batches: dict[str, _Batch] = {}
        self._created = 0
        self._replies: list[BatchReply] = []

    def script(self, replies: Iterable[BatchReply]) -> None:
        """Queue *replies* for the next batches."""
        self._replies.extend(replies)

    def created(self, batch_id: str, base_url: str) -> dict[str, Any]:
        """The batch as the API answers its creation."""
        return self._fields(self._batch(batch_id), base_url)

    def create(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[str, BatchReply]:
        """Take a batch, and return its id and what becomes of it."""
        requests = body.get("requests")
        if not isinstance(requests, list) or not requests:
            raise invalid("requests: at least one request is required")
        if len(requests) > MOST_REQUESTS:
            raise RejectedError(Rejection(type="request_too_large", message=f"requests: at most {MOST_REQUESTS}"))
        _check_ids(requests)
        reply = self._replies.pop(0) if self._replies else BatchReply()
        if reply.fault:
            raise RejectedError(REJECTIONS[reply.fault])
        self._created += 1
        batch = _Batch(f"msgbatch_sim_{self._created:06d}", self._clock(), requests, dict(headers), reply)
        self._batches[batch.id] = batch
        return batch.id, reply

    def retrieve(self, batch_id: str, base_url: str) -> dict[str, Any]:
        """The batch as the API tells of it, now."""
        batch = self._asked_for(batch_id)
        self._advance(batch)
        return self._fields(batch, base_url)

    def list(self, query: Mapping[str, str], base_url: str) -> dict[str, Any]:
        """A page of all batches, the newest first."""
        limit = int(query.get("limit", 20))
        if not 1 <= limit <= MOST_LISTED:
            raise invalid(f"limit: must be from 1 to {MOST_LISTED}")
        ids = [*reversed(self._batches)]
        if after := query.get("after_id"):
            ids = ids[ids.index(after) + 1 :]
        page = ids[:limit]
        return {
            "data": [self.retrieve(batch_id, base_url) for batch_id in page],
            "has_more": len(ids) > len(page),
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }

    def cancel(self, batch_id: str, base_url: str) -> dict[str, Any]:
        """Have the batch end with what it has."""
        batch = self._asked_for(batch_id)
        self._advance(batch)
        if batch.ended_at is not None:
            raise invalid(f"Batch {batch_id} has ended and cannot be canceled")
        batch.cancelled_at = batch.cancelled_at or self._clock()
        return self._fields(batch, base_url)

    def delete(self, batch_id: str) -> dict[str, Any]:
        """Forget a batch that has ended."""
        batch = self._asked_for(batch_id)
        self._advance(batch)
        if batch.ended_at is None:
            raise invalid(f"Batch {batch_id} has not ended and cannot be deleted")
        del self._batches[batch_id]
        return {"id": batch_id, "type": "message_batch_deleted"}

    def results(self, batch_id: str) -> bytes:
        """The lines of its results, in an order of their own."""
        batch = self._asked_for(batch_id)
        self._advance(batch)
        if batch.ended_at is None:
            raise invalid(f"Batch {batch_id} has no results before it has ended")
        lines = [compact({"custom_id": name, "result": result}) for name, result in reversed(batch.results.items())]
        if batch.reply.cut_results_after is not None and not batch.is_cut:
            batch.is_cut = True
            lines = lines[: batch.reply.cut_results_after]
        return b"".join(line + b"\n" for line in lines)

    @property
    def seen(self) -> tuple[SeenBatch, ...]:
        """All batches, in the order of their creation."""
        return tuple(
            SeenBatch(
                id=batch.id,
                started=batch.created - self._origin,
                requests=tuple(batch.requests),
                status=batch.status,
                results=dict(batch.results),
            )
            for batch in self._batches.values()
        )

    def _fields(self, batch: _Batch, base_url: str) -> dict[str, Any]:
        has_ended = batch.ended_at is not None
        # Facts-2 1.1: until all of it has ended, everything counts as being processed.
        counts = Counter(result["type"] for result in batch.results.values() if has_ended)
        url = batch.reply.results_url or f"{base_url}/v1/messages/batches/{batch.id}/results"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": batch.status,
            "request_counts": {
                "processing": 0 if has_ended else len(batch.requests),
                **{name: counts[name] for name in ("succeeded", "errored", "canceled", "expired")},
            },
            "created_at": self._told(batch.created),
            "expires_at": self._told(batch.created + LIFETIME),
            "ended_at": self._told(batch.ended_at),
            "cancel_initiated_at": self._told(batch.cancelled_at),
            "archived_at": None,
            "results_url": url if has_ended else None,
        }

    def _batch(self, batch_id: str) -> _Batch:
        if batch_id not in self._batches:
            raise RejectedError(Rejection(type="not_found_error", message=f"batch: {batch_id}"))
        return self._batches[batch_id]

    def _asked_for(self, batch_id: str) -> _Batch:
        batch = self._batch(batch_id)
        batch.calls += 1
        if batch.calls <= len(batch.reply.call_faults):
            raise RejectedError(REJECTIONS[batch.reply.call_faults[batch.calls - 1]])
        return batch

    def _advance(self, batch: _Batch) -> None:
        """Process what is due."""
        if batch.ended_at is not None:
            return
        now = self._clock()
        stops = min(now, now if batch.cancelled_at is None else batch.cancelled_at)
        each = batch.reply.seconds / len(batch.requests)
        processed = batch.requests[: len(batch.requests) - batch.reply.expired]
        for number, request in enumerate(processed[len(batch.results) :], len(batch.results) + 1):
            due = batch.created + number * each
            if due > stops:
                break
            batch.results[request["custom_id"]] = self._process(request["params"], batch.headers, due)
        is_cancelled = batch.cancelled_at is not None and now >= batch.cancelled_at + batch.reply.cancel_seconds
        if is_cancelled or now >= batch.ends_at:
            left = {"type": "canceled" if batch.cancelled_at is not None else "expired"}
            for request in batch.requests[len(batch.results) :]:
                batch.results[request["custom_id"]] = left
            batch.ended_at = now if batch.cancelled_at is not None else batch.ends_at

    def _told(self, at: float | None) -> str | None:
        return None if at is None else datetime.fromtimestamp(at + self._epoch, UTC).isoformat()


def _check_ids(requests: Sequence[Any]) -> None:
    seen: set[str] = set()
    for number, request in enumerate(requests):
        custom_id = request.get("custom_id") if isinstance(request, dict) else None
        if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
            raise invalid(f"requests.{number}.custom_id: must match ^[a-zA-Z0-9_-]{{1,64}}$")
        if custom_id in seen:
            raise invalid(f"requests.{number}.custom_id: {custom_id} is not unique")
        if not isinstance(request.get("params"), dict):
            raise invalid(f"requests.{number}.params: Field required")
        seen.add(custom_id)
