"""Asks requests by message batches: creates them, waits for them, collects them, asks again what may still succeed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from claude_client import ClaudeInvocationError, InterruptToken
from claude_client._gates.budget import BudgetGate, BudgetPermit
from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt
from claude_client._values.log import Log
from claude_client._values.record import now as epoch_now
from claude_client._values.request import Request
from claude_client._verbs.batches import (
    BatchInfo,
    CallFlow,
    Outcome,
    Send,
    attempt_of,
    cancel,
    create,
    created_since,
    log_step,
    results,
    retrieve,
)

from ._batch_handle import BatchHandle
from ._batch_requests import Planned, digest_of, planned, told_by
from ._journal import Journal

_log = Log("orchestration")

#: Seconds between looks at a batch, at first and at last, and what each is longer by.
FIRST_POLL, LAST_POLL, POLLS_GROW = 30.0, 600.0, 1.5
_MOST_FAILED_LOOKS = 3  # in a row
_MOST_CREATIONS = 5  # tries to create a batch, none of which has
_LONGEST_PAUSE = 60.0  # seconds, between two of them
_MOST_DOWNLOADS = 5  # of results that come incomplete
_CLOCKS_DIFFER = 120.0  # seconds, by which ours may differ from the API's
_SURE_AFTER = (1.0, 5.0, 20.0)  # seconds until a batch whose creation nobody has confirmed is looked for
_TOGETHER = 500  # outcomes that are stored at once


@dataclass(slots=True)
class _Active:
    """A batch that was created, or may have been."""

    intent: dict[str, Any]
    number: int | None  # in the journal
    submitted: float

    @property
    def id(self) -> str | None:
        return self.intent.get("batch")

    @property
    def digests(self) -> list[str]:
        joined: str = self.intent["digests"]
        return [joined[start : start + 43] for start in range(0, len(joined), 43)]


class BatchRun:
    """
    The batches of a run.

    Args:
        requests, digests: What to ask, by index, and what tells each request from all others of the run.

        journal: Where batches are noted before and after they are created; None: nowhere.

        started, failed, ended: Called with the index of a task that is submitted; with index and error of one that is
            asked again; with outcomes, by index, once they are stored.

        on_handle: Called with the handle of all batches, whenever there is another.

        poll_interval: Seconds between polls; None: from 30 seconds to 10 minutes apart.

        until: When to stop waiting, by `time.monotonic`.
    """

    def __init__(
        self,
        client: Any,
        requests: Mapping[int, Request],
        digests: Mapping[int, str],
        *,
        prompts: int,
        journal: Journal | None,
        started: Callable[[int], object],
        failed: Callable[[int, ClaudeInvocationError], object],
        ended: Callable[[Mapping[int, Outcome]], object],
        on_handle: Callable[[BatchHandle], object],
        token: InterruptToken | None,
        poll_interval: float | None,
        until: float,
    ) -> None:
        self._client = client
        self._own_digests = digests
        self._prompts = prompts
        self._journal = journal
        self._started = started
        self._failed = failed
        self._ended = ended
        self._on_handle = on_handle
        self._token = token
        self._poll_interval = poll_interval
        self._until = until
        self._gate = BudgetGate(in_threads=False)
        self._flows = {index: CallFlow(replace(request, batch=True)) for index, request in requests.items()}
        self._steps = {index: flow.begin(0.0) for index, flow in self._flows.items()}
        self._permits: dict[int, BudgetPermit] = {}
        self._active: list[_Active] = []
        self._collected: list[_Active] = []  # with results that have led to other requests
        self._ids: dict[str, None] = {}  # of all batches, in the order of their creation
        self._foreign: set[str] = set()  # ids of batches that were taken for ours
        self._is_cancelling = False
        self._failed_looks = 0
        self._begun: set[int] = set()
        self._outcomes: dict[int, Outcome] = {}
        #: Whether it was ended by its token.
        self.interrupted = False

    @property
    def handle(self) -> BatchHandle:
        """What it takes to collect all of its batches."""
        return BatchHandle(tuple(self._ids), self._prompts)

    @property
    def left(self) -> list[int]:
        """The tasks that have no outcome."""
        return [*self._flows]

    def run(self) -> None:
        """
        Ask until all have their outcomes, the token is interrupted, or it is time.

        Raises:
            ClaudeInvocationError: If batches cannot be created or looked at; nothing is lost by it.
        """
        try:
            self._take_up()
            while self._steps:
                self._submit()
                if not self._wait():
                    return
                self._looked(self._collect_ended)
        finally:
            self._give_back()

    def cancel(self) -> None:
        """Have all batches end, and collect what they have."""
        for active in self._active:
            if active.id:
                try:
                    cancel(self._client, active.id)
                except ClaudeInvocationError as failed:  # it has ended, or is about to
                    _log.info("Batch %s could not be cancelled: %s", active.id, failed)
        self._token, self._until, self._is_cancelling = None, float("inf"), True
        while self._active:
            self._looked(self._collect_ended)
            if self._active:
                time.sleep(min(self._poll_interval or 5.0, 5.0))
        self._give_back()

    # Creating

    def _take_up(self) -> None:
        """Take up what the journal says was asked before; of what nobody knows whether it was created, find out."""
        for number, intent in self._journal.batches() if self._journal else ():
            self._active.append(_Active(intent, number, time.monotonic()))
            if intent["batch"]:
                self._ids[intent["batch"]] = None
        for active in [*self._active]:
            if active.id is None and not self._found(active):
                self._forget(active)
        if self._active:
            _log.info("Taking up %d batches of an earlier run", len(self._active))

    def _submit(self) -> None:
        """Create batches for all that is to be asked now and is in none."""
        asked = {digest for active in self._active for digest in active.digests}
        digests = {index: self._digest(index) for index in self._steps}
        for index in self._steps.keys() - self._begun:
            self._begun.add(index)
            self._started(index)
        new = {index: step.request for index, step in self._steps.items() if digests[index] not in asked}
        affordable = {index: request for index, request in new.items() if self._reserved(index, request)}
        self._flush()
        for batch in planned(self._client, affordable, digests):
            self._create(batch)

    def _digest(self, index: int) -> str:
        """What tells the next request of a task from all others."""
        first, request = self._flows[index].request, self._steps[index].request
        if request.messages is first.messages and request.max_tokens == first.max_tokens:
            return self._own_digests[index]
        return digest_of(self._own_digests[index], request)

    def _give_back(self) -> None:
        """Give back the money of requests that are in no batch."""
        asked = {digest for active in self._active for digest in active.digests}
        for index, permit in [*self._permits.items()]:
            if index not in self._steps or self._digest(index) not in asked:
                del self._permits[index]
                permit.settle(_NEVER_SENT)

    def _reserved(self, index: int, request: Request) -> bool:
        """Set money aside for *request*; one that does not fit waits for what others give back, or ends."""
        try:
            got = self._gate.admit(request, 0.0)
        except ClaudeInvocationError as beyond:
            self._end(index, self._flows[index].end(beyond))
            return False
        if isinstance(got, Wait):
            return False
        if got is not None:
            self._permits[index] = got
        return True

    def _create(self, batch: Planned) -> None:
        intent = {
            "created_after": epoch_now() - _CLOCKS_DIFFER,
            "requests": len(batch.indices),
            "bytes": len(batch.content),
            "digests": "".join(batch.indices),
            "batch": None,
        }
        number = self._journal.add_batch(intent) if self._journal else None
        active = _Active(intent, number, time.monotonic())
        tries = 0
        while not (active.id or self._is_interrupted):
            tries += 1
            try:
                self._name(active, create(self._client, batch.content, batch.headers, self._token))
            except ClaudeInvocationError as failed:
                is_there = self._is_interrupted or self._found_later(active, failed)
                if not is_there and (not failed.retryable or tries == _MOST_CREATIONS):
                    self._forget(active)
                    raise
        self._active.append(active)
        if active.id:
            _log.info("Batch %s was created, with %d requests", active.id, len(batch.indices))
            self._on_handle(self.handle)

    @property
    def _is_interrupted(self) -> bool:
        return bool(self._token and self._token.is_interrupted())

    def _found_later(self, active: _Active, failed: ClaudeInvocationError) -> bool:
        """Whether a batch whose creation has *failed* is there after all; where the API refused it, it is not."""
        if failed.status_code is not None and failed.status_code < 500:
            if failed.retryable:
                self._pause(min(failed.retry_after or _SURE_AFTER[-1], self._poll_interval or _LONGEST_PAUSE))
            return False
        for seconds in _SURE_AFTER:
            self._pause(min(seconds, self._poll_interval or seconds))
            if self._found(active):
                return True
        return False

    def _found(self, active: _Active) -> bool:
        """Look for the batch among those that were created since, by its size, and by its ids once it has ended."""
        known = {other.id for other in (*self._active, *self._collected)} | self._foreign
        for info in created_since(self._client, active.intent["created_after"]):
            if info.requests == active.intent["requests"] and info.id not in known and self._is_it(info, active):
                self._name(active, info)
                return True
        return False

    def _is_it(self, info: BatchInfo, active: _Active) -> bool:
        if not info.has_ended:
            return True  # as far as anybody can know
        first = next(iter(results(self._client, info.id)), None)
        return first is not None and _digest_in(str(first.get("custom_id"))) in active.digests

    def _name(self, active: _Active, info: BatchInfo) -> None:
        active.intent["batch"] = info.id
        self._ids[info.id] = None
        if self._journal and active.number is not None:
            self._journal.set_batch(active.number, active.intent)

    def _forget(self, active: _Active) -> None:
        if self._journal and active.number is not None:
            self._journal.drop_batch(active.number)
        if active in self._active:
            self._active.remove(active)

    # Waiting

    def _wait(self) -> bool:
        """Wait until a batch may have ended; return whether to go on."""
        pause = self._poll_interval or (FIRST_POLL if self._active else 1.0)
        while self._steps:
            if self._is_interrupted:
                self.interrupted = True
                return False
            if time.monotonic() >= self._until:
                return False
            if self._looked(lambda: any(self._has_ended(active) for active in self._active)):
                return True
            self._pause(pause)
            if not self._active:
                return True  # to see whether others have given back money
            if self._poll_interval is None:
                pause = min(pause * POLLS_GROW, LAST_POLL)
        return True

    def _looked(self, look: Callable[[], bool]) -> bool:
        """What a *look* at the batches gives; False if it fails, as a few in a row may."""
        try:
            found = look()
        except ClaudeInvocationError as failed:
            if failed.kind == "interrupted":
                return False
            self._failed_looks += 1
            if not failed.retryable or self._failed_looks > _MOST_FAILED_LOOKS:
                raise
            _log.info("A look at the batches failed: %s", failed)
            return False
        self._failed_looks = 0
        return found

    def _has_ended(self, active: _Active) -> bool:
        return active.id is None or retrieve(self._client, active.id, self._token).has_ended

    def _pause(self, seconds: float) -> None:
        seconds = min(seconds, max(0.0, self._until - time.monotonic()))
        if self._token:
            self._token.wait(seconds)
        else:
            time.sleep(seconds)

    # Collecting

    def _collect_ended(self) -> bool:
        for active in [*self._active]:
            if active.id is None:
                if not self._found(active):
                    self._forget(active)
                continue
            info = retrieve(self._client, active.id)
            if info.has_ended:
                self._collect(active, info)
        return True

    def _collect(self, active: _Active, info: BatchInfo) -> None:
        """Take the results of a batch that has ended; what is missing is downloaded again."""
        indices = {self._digest(index): index for index in self._steps}
        ours = set(active.digests)
        seen: set[str] = set()
        for _ in range(_MOST_DOWNLOADS):
            for line in results(self._client, info.id):
                custom_id = str(line.get("custom_id"))
                if not seen and _digest_in(custom_id) not in ours:  # it was taken for ours, and is another's
                    self._foreign.add(info.id)
                    del self._ids[info.id]
                    active.intent["batch"] = None
                    return
                if custom_id not in seen:
                    seen.add(custom_id)
                    self._take(custom_id, line.get("result") or {}, indices, active.submitted)
            if len(seen) >= info.requests:
                break
            _log.warning("Of the results of batch %s %d of %d came", info.id, len(seen), info.requests)
        else:
            self._flush()
            self._active.remove(active)
            self._collected.append(active)
            raise ClaudeInvocationError(
                f"The results of batch {info.id} came incomplete: {len(seen)} of {info.requests}. Those that came are "
                "kept; collect it again later",
                kind="incomplete_stream",
            )
        self._flush()
        _log.info("Batch %s was collected: %s", info.id, dict(info.counts))
        self._active.remove(active)
        self._collected.append(active)
        left = {self._own_digests[index] for index in self._steps} | {self._digest(index) for index in self._steps}
        for collected in [*self._collected]:
            if left.isdisjoint(collected.digests):  # else they are to be found again, should this be killed
                self._collected.remove(collected)
                self._forget(collected)

    def _take(self, custom_id: str, result: Mapping[str, Any], indices: Mapping[str, int], submitted: float) -> None:
        index = indices.get(_digest_in(custom_id))
        if index is None:
            return  # of an earlier round, or of a prompt that nobody asks now
        flow, step = self._flows[index], self._steps[index]
        permit = self._permits.pop(index, None)
        attempt = attempt_of(self._client, step.request, result, [permit] if permit else [], submitted)
        if attempt.error and attempt.error.kind == "cancelled":
            if not self._is_cancelling:  # somebody else has, who does not want it
                self._end(index, flow.end(attempt.error))
            return
        following = flow.advance(attempt)
        log_step(following, flow, flow.name or f"prompts[{index}]")
        if isinstance(following, Send):
            self._steps[index] = following
            if following.failed and following.costs_retry:
                self._failed(index, following.failed)
                self._begun.discard(index)
        else:
            self._end(index, following.outcome)
        if len(self._outcomes) >= _TOGETHER:
            self._flush()

    def _end(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome
        del self._flows[index], self._steps[index]

    def _flush(self) -> None:
        ended, self._outcomes = self._outcomes, {}
        if ended:
            self._ended(ended)


_NEVER_SENT = Attempt(Request(model="", max_tokens=1, messages=[]), 0.0)


def _digest_in(custom_id: str) -> str:
    try:
        return told_by(custom_id)[1]
    except ValueError:
        return ""
