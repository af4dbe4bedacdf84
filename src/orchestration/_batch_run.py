"""Asks requests by message batches: creates them, takes what comes of them, and asks again what may still succeed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

from claude_client import ClaudeInvocationError, InterruptToken
from claude_client._gates.budget import BudgetGate, BudgetPermit
from claude_client._gates.gate import Wait
from claude_client._values.attempt import Attempt
from claude_client._values.errors import aborted
from claude_client._values.kinds import was_never_sent
from claude_client._values.log import Log
from claude_client._values.record import now as epoch_now
from claude_client._values.request import Request
from claude_client._verbs.batches import (
    CallFlow,
    Outcome,
    Send,
    Within,
    attempt_of,
    create,
    created_since,
    log_step,
    results,
)

from ._batch_handle import BatchHandle
from ._batch_note import Note
from ._batch_requests import Planned, Told, later_digest, planned, told_by
from ._batches import Batches, park, unpark
from ._journal import RunJournal

_log = Log("orchestration")

_MOST_CREATIONS = 5  # tries to create a batch, none of which has, unless there is a time until which to try
_LONGEST_PAUSE = 60.0  # seconds, between two of them
_CLOCKS_DIFFER = 900.0  # seconds, by which ours may differ from the API's
_SURE_AFTER = (0.0, 1.0, 5.0, 20.0)  # seconds until a batch whose creation nobody has confirmed is looked for
_LAST_LOOK = 3.0  # seconds, where an interrupt came while a batch was created
_TOGETHER = 500  # outcomes that are stored at once


class BatchRun:
    """
    The batches of a run.

    Args:
        requests: What to ask, by index.

        digests: What tells each prompt of the run from the others; "" for those that are not asked at all.

        earlier: The handle of batches that have asked others of its prompts; None: there were none.

        journal: Where batches are noted before and after they are created; None: nowhere.

        started, failed, ended: Called with the index of a task that is submitted; with index and error of one that is
            asked again; with outcomes, by index, once they are stored.

        is_cancelled: Whether nobody wants the task of that index any more.

        on_handle: Called with the handle of all batches, whenever there is another.

        on_look: Called with the number of batches that were created and that have ended, whenever somebody has looked.

        token: Ends the run.

        poll_interval: Seconds between polls; None: from 30 seconds to 10 minutes apart.

        until: When to stop waiting, by `time.monotonic`.
    """

    def __init__(
        self,
        client: Any,
        requests: Mapping[int, Request],
        digests: Sequence[str],
        *,
        earlier: BatchHandle | None,
        journal: RunJournal | None,
        started: Callable[[int], object],
        failed: Callable[[int, ClaudeInvocationError], object],
        ended: Callable[[Mapping[int, Outcome]], object],
        is_cancelled: Callable[[int], bool],
        on_handle: Callable[[BatchHandle], object],
        on_look: Callable[[int, int], object],
        token: InterruptToken | None,
        poll_interval: float | None,
        until: float,
    ) -> None:
        self._client = client
        self._digests = digests
        self._journal = journal
        self._started = started
        self._failed = failed
        self._ended = ended
        self._is_cancelled = is_cancelled
        self._on_handle = on_handle
        self._until = until
        self._batches = Batches(
            client,
            self._take,
            token=token,
            poll_interval=poll_interval,
            until=until,
            on_look=lambda: on_look(len(self._batches.ids), len(self._batches.collected)),
        )
        self._gate = BudgetGate(in_threads=False)
        self._flows = {index: CallFlow(request) for index, request in requests.items()}
        self._steps = {index: flow.begin(0.0) for index, flow in self._flows.items()}
        self._indices = {digests[index]: index for index in requests}
        self._known = frozenset(digests)
        self._earlier = earlier or BatchHandle((), ("",) * len(digests))
        self._handled = tuple(
            digest if index in requests else before
            for index, (digest, before) in enumerate(zip(digests, self._earlier.digests, strict=True))
        )
        self._permits: dict[int, BudgetPermit] = {}
        self._begun: set[int] = set()
        self._outcomes: dict[int, Outcome] = {}
        #: Whether it was ended by its token.
        self.interrupted = False

    @property
    def handle(self) -> BatchHandle:
        """What it takes to collect all of its batches."""
        return BatchHandle((*self._earlier.batches, *self._batches.ids), self._handled)

    @property
    def left(self) -> list[int]:
        """The tasks that have no outcome."""
        return [*self._flows]

    def run(self) -> None:
        """
        Ask until all have their outcomes, the token is interrupted, or it is time.

        Raises:
            ClaudeInvocationError: If batches cannot be created or looked at; nothing is lost by it.
            JournalError: If the journal takes no more.
        """
        self._take_up()
        while self._steps:
            self._submit()
            if self._steps and not self._batches.wait():
                self.interrupted = self._batches.interrupted
                return
            self._collect()

    def cancel(self, within: float) -> None:
        """Have all batches end, and collect what they have: in so many seconds, or leave them."""
        try:
            self._batches.cancel(within, self._keep)
        except ClaudeInvocationError as failed:
            _log.warning("Batches could not be cancelled and collected: %s", failed)
        self._collected()

    def leave(self) -> dict[int, CallFlow]:
        """
        Give back the money of requests that are in no batch, and keep that of the others for who takes them up. Return
        the tasks that were begun and have no outcome, by index, to be gone on with live.
        """
        waiting = {digest: note for note in self._batches.waiting for digest in note.digests}
        for index, permit in self._permits.items():
            digest = self._digests[index]
            if digest in waiting:
                park(waiting[digest], digest, permit)
            else:
                permit.settle(_NEVER_SENT)
        self._permits.clear()
        return {index: flow.live() for index, flow in self._flows.items() if flow.attempts}

    def look_for_the_last(self) -> None:
        """Look for a batch whose creation was broken off, once and for a moment."""
        for note in self._batches.waiting:
            if note.id is None:
                with suppress(ClaudeInvocationError):
                    self._found(note, Within(ends_at=time.monotonic() + _LAST_LOOK))

    def _take_up(self) -> None:
        """Take up what the journal says was asked before; of what nobody knows whether it was created, find out."""
        notes = self._batches.waiting
        notes.extend(self._journal.asked_by_batches() if self._journal else ())
        for note in [*notes]:
            if note.id is None and not self._is_there(note) and not self._batches.is_over:
                self._forget(note)
        under_way = {digest for note in notes for digest in note.digests} & self._indices.keys()
        permits = unpark(notes, under_way)
        for digest in under_way:
            index = self._indices[digest]
            if permit := self._gate.taken_up(self._flows[index].request, permits.get(digest)):
                self._permits[index] = permit
        if notes:
            _log.info("Taking up %d batches of an earlier run", len(notes))

    def _submit(self) -> None:
        """Create batches for all that is to be asked now and is in none."""
        asked = {self._indices.get(digest) for note in self._batches.waiting for digest in note.digests}
        for index in [index for index in self._steps if index not in asked and self._is_cancelled(index)]:
            self._end(index, self._flows[index].end(aborted("cancelled")))
        for index in self._steps.keys() - self._begun:
            self._begun.add(index)
            self._started(index)
        new = {index: step.request for index, step in self._steps.items() if index not in asked}
        affordable = {index: request for index, request in new.items() if self._reserved(index, request)}
        self._flush()
        digests = {index: (self._digests[index], self._later(index)) for index in affordable}
        for batch in planned(self._client, affordable, digests, self._refuse):
            if self._batches.is_over:
                break
            self._create(batch)
        self._flush()

    def _refuse(self, index: int, bad: ValueError) -> None:
        """End a task whose request cannot be written, as where a file of it is gone."""
        error = ClaudeInvocationError(f"prompts[{index}]: {bad}", kind="invalid_request")
        error.__cause__ = bad
        if permit := self._permits.pop(index, None):
            permit.settle(_NEVER_SENT)
        self._end(index, self._flows[index].end(error))

    def _later(self, index: int) -> str:
        """What tells the next request of a task from its first; "" for that."""
        return later_digest(self._digests[index], self._flows[index].request, self._steps[index].request)

    def _reserved(self, index: int, request: Request) -> bool:
        """Set money aside for *request*; one that does not fit waits for what others give back, or ends."""
        if index in self._permits:
            return True
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
        note = Note(batch.digests, epoch_now() - _CLOCKS_DIFFER, batch.nonce)
        self._keep(note)
        self._batches.waiting.append(note)
        tries = 0
        while note.id is None and not self._batches.is_over:
            tries += 1
            try:
                self._name(
                    note, create(self._client, batch.content, batch.headers, self._batches.within).id, is_sure=True
                )
            except ClaudeInvocationError as failed:
                may_be_there = self._may_be_there(failed)
                if (may_be_there and self._is_there(note)) or self._batches.is_over:
                    continue
                is_last = tries == _MOST_CREATIONS and self._until == math.inf
                if is_last or not failed.retryable:
                    self._forget(note)
                    raise
                if not may_be_there:
                    self._batches.pause(min(failed.retry_after or _SURE_AFTER[-1], _LONGEST_PAUSE))
        if note.id is None:
            self.look_for_the_last()

    @staticmethod
    def _may_be_there(failed: ClaudeInvocationError) -> bool:
        """Whether a batch whose creation has *failed* may have been created: not where the API refused it."""
        return not was_never_sent(failed) if failed.status_code is None else failed.status_code >= 500

    def _is_there(self, note: Note) -> bool:
        """Whether the batch of *note* was created after all: it is looked for until it would be seen."""
        for seconds in _SURE_AFTER:
            self._batches.pause(seconds)
            while (found := self._batches.looked(partial(self._found, note))) is None:
                if self._batches.is_over:
                    return False
            if found:
                return True
        return False

    def _found(self, note: Note, within: Within | None = None) -> bool:
        """Look for the batch among those that were created since, by its size, and by its ids once it has ended."""
        within = within or self._batches.within
        known = {*self._batches.ids, *self._batches.foreign}
        for info in created_since(self._client, note.created_after, within):
            if info.id in known or info.requests != len(note.digests):
                continue
            if info.has_ended:
                with closing(results(self._client, info.id, within)) as lines:
                    line = next(lines, None)
                if line is None:
                    raise ClaudeInvocationError(
                        f"The results of batch {info.id} cannot be read", kind="incomplete_stream", retryable=True
                    )
                if told_by(str(line.get("custom_id"))).nonce != note.nonce:
                    continue
            self._name(note, info.id, is_sure=info.has_ended)
            return True
        return False

    def _name(self, note: Note, batch_id: str, *, is_sure: bool) -> None:
        note.id, note.is_sure = batch_id, is_sure
        self._keep(note)
        _log.info("Batch %s was created, with %d requests", batch_id, len(note.digests))
        self._on_handle(self.handle)

    def _keep(self, note: Note) -> None:
        if self._journal:
            self._journal.keep_note(note)

    def _forget(self, note: Note) -> None:
        if note in self._batches.waiting:
            self._batches.waiting.remove(note)
        if self._journal:
            self._journal.drop_note(note)
            note.number = None

    def _collect(self) -> None:
        try:
            self._batches.collect()
        finally:
            self._flush()
        self._collected()

    def _collected(self) -> None:
        """Look again for batches that were taken for ours, and forget those whose prompts have their outcomes."""
        self._flush()
        for note in [*self._batches.waiting]:
            if note.id is None and not self._batches.is_over and not self._is_there(note) and not self._batches.is_over:
                self._forget(note)
        for note in self._batches.collected if self._journal else ():
            if note.number is not None and note.digests != (left := frozenset(filter(self._is_open, note.digests))):
                note.digests = left
                if left:
                    self._keep(note)
                else:
                    self._forget(note)

    def _is_open(self, digest: str) -> bool:
        """Whether what a collected batch has for a prompt is still needed: should this be killed, or by another run."""
        index = self._indices.get(digest)
        if index is None:
            return digest not in self._known
        return index in self._flows and bool(self._flows[index].attempts)

    def _take(self, note: Note, told: Told, result: Mapping[str, Any]) -> None:
        index = self._indices.get(told.own)
        if index not in self._steps or told.later != self._later(index):
            return  # of a prompt that nobody asks now, or that has its outcome
        flow, step = self._flows[index], self._steps[index]
        permit = self._permits.pop(index, None)
        attempt = attempt_of(self._client, step.request, result, [permit] if permit else [], note.since)
        if attempt.error and attempt.error.kind == "cancelled":
            if not note.is_cancelled:  # somebody else has, who does not want it
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
