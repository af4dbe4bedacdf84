"""The state of a running simulator: requests, scripts, cache and buckets, under one lock."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ._answer import Answer, answer_to, usage_of
from ._batches import Batches
from ._cache import CacheUse, PromptCache
from ._errors import RejectedError, Rejection
from ._limits import Limiter, Limits
from ._models import Served
from ._pace import Pace
from ._prompt import Block, Body
from ._record import Outcome, SeenRequest, redacted
from ._script import Reply, ReplyFunction, Script
from ._validation import check_batched, check_create
from ._wire import message_dict

logger = logging.getLogger("claude_client.simulator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request that has arrived whole: its record's number, and what an answer needs."""

    number: int
    request_id: str
    message_id: str
    started: float
    #: The model it asks for; empty where it names none.
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    The decision on a request that was admitted: its reply, pace, use of the cache and answer.

    Args:
        message: The whole answer, as the API sends it.
    """

    reply: Reply
    pace: Pace
    use: CacheUse
    answer: Answer
    message: Mapping[str, Any]


class State:
    """
    Everything that changes while a simulator runs. Any thread may call.

    ``changed`` guards all of it and is notified on every change.

    Args:
        clock: Seconds from any origin; cache lifetimes, buckets and records go by it.

        models: The models that are served.
    """

    def __init__(self, limits: Limits, pace: Pace, clock: Callable[[], float], models: Served) -> None:
        self.changed = threading.Condition()
        self.models = models
        self._pace = pace
        self._limits = limits
        self._clock = clock
        self._origin = clock()
        self._epoch = time.time() - self._origin
        self._connections = 0
        self._arrivals = 0
        self._batched = 0
        self._in_flight: set[int] = set()
        self._reply_function: ReplyFunction | None = None
        self.reset()

    def reset(self) -> None:
        """Forget requests, scripts, cache and what the buckets gave. Answers under way go on, unrecorded."""
        with self.changed:
            self._records: dict[int, SeenRequest] = {}
            self._peak = len(self._in_flight)
            self._script = Script()
            self._reply_function = None
            self._cache = PromptCache()
            self.batches = Batches(self._batch_result, self._clock, self._origin, self._epoch)
            self._rested_at = self._clock()
            self._limiters: dict[str, Limiter] = {}  # by model: the API limits each for itself
            self.changed.notify_all()

    def arrive(self, method: str, path: str, headers: Mapping[str, str], body: Body) -> Arrival:
        """Record a request."""
        with self.changed:
            number, self._arrivals = self._arrivals, self._arrivals + 1
            index = len(self._records)
            self._in_flight.add(number)
            self._peak = max(self._peak, len(self._in_flight))
            started = self._clock()
            arrival = Arrival(
                number=number,
                request_id=f"req_sim_{index + 1:06d}",
                message_id=f"msg_sim_{index + 1:06d}",
                started=started,
                model=str(body.get("model", "")) if isinstance(body, Mapping) else "",
            )
            self._records[number] = SeenRequest(
                index=index,
                method=method,
                path=path,
                headers=redacted(headers),
                body=body,
                request_id=arrival.request_id,
                started=started - self._origin,
                in_flight=len(self._in_flight),
            )
            self.changed.notify_all()
            return arrival

    def decide(self, arrival: Arrival, body: Body, blocks: list[Block]) -> Turn:
        """
        Decide the answer to a valid request. Its share of the limits and its waiting reply are taken.

        Raises:
            RejectedError: If the limits do not admit it, or the reply function fails.
        """
        with self.changed:
            use = self._cache.look_up(body, blocks, arrival.started)
            self._limiter(arrival).admit(use.counted_tokens, arrival.started)
            seen = self._records.get(arrival.number)
            reply = self._script.take(seen) if seen else None
            reply_function = self._reply_function
        if seen and not reply and reply_function:
            reply = _asked(reply_function, seen)
        return self._turn(arrival, use, reply or Reply(), self._answer(body, blocks, reply or Reply()))

    def _batch_result(self, params: Body, headers: Mapping[str, str], now: float) -> Mapping[str, Any]:
        """What comes of a request of a batch (facts-2 1.4). Limits of messages do not count for it."""
        number = len(self._records)
        seen = SeenRequest(
            index=number,
            method="POST",
            path="/v1/messages/batches",
            headers=redacted(headers),
            body=params,
            request_id=f"req_sim_{number + 1:06d}",
            started=now - self._origin,
            in_flight=0,
        )
        try:
            check_batched(params)
            blocks = check_create(params, headers["anthropic-version"], self.models)
            reply = self._script.take(seen) or (self._reply_function and _asked(self._reply_function, seen)) or Reply()
        except RejectedError as error:
            return _errored(error.rejection, seen)
        if reply.rejection:
            return _errored(reply.rejection, seen)
        use = self._cache.look_up(params, blocks, now)
        answer = self._answer(params, blocks, reply)
        usage = {**usage_of(answer, use, None), "service_tier": "batch", **(reply.usage or {})}
        self._cache.commit(use, now)
        self._batched += 1
        message = message_dict(answer, f"msg_sim_batch_{self._batched:06d}", params["model"], usage)
        return {"type": "succeeded", "message": message}

    def _answer(self, body: Body, blocks: list[Block], reply: Reply) -> Answer:
        """The answer of *reply*, as far as the context window has room for it."""
        room = self.models.context_window(body["model"]) - sum(block.tokens for block in blocks)
        return answer_to(body, reply, room)

    def _turn(self, arrival: Arrival, use: CacheUse, reply: Reply, answer: Answer) -> Turn:
        if reply.fault:
            self._change(arrival.number, fault=reply.fault)
        usage = usage_of(answer, use, reply.usage)
        message = message_dict(answer, arrival.message_id, arrival.model, usage)
        return Turn(reply=reply, pace=self._pace.of(reply), use=use, answer=answer, message=message)

    def headers(self, arrival: Arrival) -> dict[str, str]:
        """The rate-limit headers of an answer to *arrival*, as of now."""
        with self.changed:
            return self._limiter(arrival).headers(self._clock())

    def _limiter(self, arrival: Arrival) -> Limiter:
        if arrival.model not in self._limiters:
            self._limiters[arrival.model] = Limiter(self._limits, self._rested_at)
        return self._limiters[arrival.model]

    def begin(self, arrival: Arrival, turn: Turn) -> None:
        """Record that the answer begins: its cache entries can be read from now on (facts 2)."""
        with self.changed:
            self._cache.commit(turn.use, arrival.started)
            self._change(arrival.number, status=200, usage=turn.message["usage"])

    def say(self, arrival: Arrival, answer: str) -> None:
        """Record *answer* as the text sent so far."""
        self._change(arrival.number, answer=answer)

    def end(self, arrival: Arrival, outcome: Outcome, status: int | None = None) -> None:
        """Record the end of the request. Only the first end counts."""
        with self.changed:
            if arrival.number not in self._in_flight:
                return
            self._in_flight.remove(arrival.number)
            ended = self._clock() - self._origin
            changes: dict[str, Any] = {} if status is None else {"status": status}
            self._change(arrival.number, outcome=outcome, ended=ended, **changes)

    def _change(self, number: int, **changes: Any) -> None:
        with self.changed:
            if number in self._records:
                self._records[number] = replace(self._records[number], **changes)
            self.changed.notify_all()

    def connected(self, change: int) -> None:
        """Count *change* more open connections, or fewer if it is negative."""
        with self.changed:
            self._connections += change
            self.changed.notify_all()

    def add_replies(self, replies: Iterable[Reply], matching: str | None) -> None:
        """Queue *replies* for requests."""
        with self.changed:
            self._script.add(replies, matching)

    def ask(self, reply_function: ReplyFunction) -> None:
        """Ask *reply_function* for the reply to requests that no waiting reply answers."""
        with self.changed:
            self._reply_function = reply_function

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """The records, in order of arrival."""
        with self.changed:
            return tuple(self._records.values())

    @property
    def in_flight(self) -> int:
        """Number of requests that are being answered."""
        with self.changed:
            return len(self._in_flight)

    @property
    def peak_concurrency(self) -> int:
        """The most that were in flight at once."""
        with self.changed:
            return self._peak

    @property
    def open_connections(self) -> int:
        """Number of open connections."""
        with self.changed:
            return self._connections

    def statistics(self) -> dict[str, Any]:
        """The counts, the outcomes of requests, and the summed usage."""
        with self.changed:
            requests = self.requests
            return {
                "requests": len(requests),
                "in_flight": self.in_flight,
                "peak_concurrency": self.peak_concurrency,
                "open_connections": self.open_connections,
                "outcomes": dict(Counter(request.outcome for request in requests)),
                "usage": _summed(request.usage for request in requests),
            }


def _errored(rejection: Rejection, seen: SeenRequest) -> Mapping[str, Any]:
    return {"type": "errored", "error": json.loads(rejection.body(seen.request_id))}


def _asked(reply_function: ReplyFunction, request: SeenRequest) -> Reply | None:
    try:
        return reply_function(request)
    except Exception as exc:
        logger.exception("the function given to script_by failed for request %d", request.index)
        message = f"script_by: {type(exc).__name__}: {exc}"
        raise RejectedError(Rejection(type="api_error", message=message)) from exc


def _summed(usages: Iterable[Mapping[str, Any] | None]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for usage in usages:
        total.update({key: count for key, count in (usage or {}).items() if isinstance(count, int)})
    return dict(total)
