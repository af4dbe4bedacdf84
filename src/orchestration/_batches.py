"""Waits for batches and takes their results: patient with looks that fail, and counting what came."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from claude_client import ClaudeInvocationError, InterruptToken
from claude_client._gates.budget import BudgetPermit
from claude_client._values.errors import aborted
from claude_client._values.log import Log
from claude_client._values.record import now as epoch_now
from claude_client._verbs.batches import BatchInfo, Within, cancel, results, retrieve

from ._batch_note import Note
from ._batch_requests import Told, told_by

_log = Log("orchestration")

#: Seconds between looks at batches, at first and at last, and what each is longer by.
FIRST_POLL, LAST_POLL, _POLLS_GROW = 30.0, 600.0, 1.5
_MOST_FAILED_LOOKS = 3  # in a row, unless there is a time until which to look
_PAUSE_AFTER_FAILURE = 1.0  # seconds, and twice as many after each more
_MOST_DOWNLOADS = 5  # of results that come incomplete, with the same exception
_KEPT = 29 * 86400.0  # seconds, for which the API has results
_QUICKER = 20  # times `poll_interval`: no pause is longer, where that is given

#: What budgets have set aside for requests of batches that nobody waits for, by the batch's id or nonce and the digest.
_parked: dict[str, dict[str, BudgetPermit]] = {}


class Batches:
    """
    Batches that are waited for.

    Args:
        take: Called with each result: the note of its batch, what its id tells, and the API's `result`.

        token: Ends the waiting.

        poll_interval: Seconds between looks; None: from 30 seconds to 10 minutes.

        until: When to stop waiting, by `time.monotonic`; looks may fail until then.

        on_look: Called after each look, on this thread.

        may_miss: Whether a batch that is not to be found is one without results, and no error.
    """

    def __init__(
        self,
        client: Any,
        take: Callable[[Note, Told, Mapping[str, Any]], object],
        *,
        token: InterruptToken | None,
        poll_interval: float | None,
        until: float = math.inf,
        on_look: Callable[[], object] = lambda: None,
        may_miss: bool = False,
    ) -> None:
        self._client = client
        self._take = take
        #: What ends the waiting.
        self.token = token
        self._poll_interval = poll_interval
        self._until = until
        self._on_look = on_look
        self._may_miss = may_miss
        self._failed_looks = 0
        #: Those that are waited for, and those whose results were taken, in the order of their creation.
        self.waiting: list[Note] = []
        self.collected: list[Note] = []
        #: Ids of batches that were taken for ours, and are others'.
        self.foreign: set[str] = set()
        #: Why batches are not to be found, by their ids.
        self.gone: dict[str, ClaudeInvocationError] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all that are known to be created, in their order."""
        return tuple(note.id for note in (*self.collected, *self.waiting) if note.id)

    @property
    def interrupted(self) -> bool:
        """Whether its token was."""
        return bool(self.token and self.token.is_interrupted())

    @property
    def within(self) -> Within:
        """What ends each of its requests."""
        return Within(self.token, self._until)

    @property
    def is_over(self) -> bool:
        """Whether to wait no longer."""
        return self.interrupted or time.monotonic() >= self._until

    def wait(self) -> bool:
        """
        Wait until one has ended, or, where there is none, for a moment; return whether to go on.

        Raises:
            ClaudeInvocationError: If they cannot be looked at, again and again.
        """
        pause = self._poll_interval or (FIRST_POLL if self.waiting else 1.0)
        while not self.is_over:
            if self.looked(self._some_has_ended):
                return True
            self._on_look()
            self.pause(pause)
            if not self.waiting:
                return True
            if self._poll_interval is None:
                pause = min(pause * _POLLS_GROW, LAST_POLL)
        return False

    def collect(self) -> None:
        """Take the results of those that have ended. Raises like `wait`; the results that came are taken."""
        self.looked(self._collected)

    def cancel(self, within: float, keep: Callable[[Note], object]) -> None:
        """
        Have those end that are known to be ours, and take what they have.

        Args:
            within: Seconds to wait for that; an interrupt ends it, unless that came before.

            keep: Called with the note of each before it is cancelled.
        """
        if self.interrupted:
            self.token = None
        self._until = time.monotonic() + within
        asked: set[Note] = set()
        while not self.is_over and any(note.is_sure for note in self.waiting):
            self.looked(lambda: self._cancelled(asked, keep))
            self.collect()
            if self.waiting:
                self.pause(1.0)

    def looked(self, look: Callable[[], bool]) -> bool | None:
        """
        What a *look* gives; None if it fails, as a few in a row may.

        Raises:
            ClaudeInvocationError: If too many do, or one that will not succeed.
        """
        try:
            found = look()
        except ClaudeInvocationError as failed:
            if self.is_over:
                return None
            self._failed_looks += 1
            if not failed.retryable or (self._failed_looks > _MOST_FAILED_LOOKS and self._until == math.inf):
                raise
            _log.info("A look at the batches failed: %s", failed)
            self.pause(min(_PAUSE_AFTER_FAILURE * 2.0 ** min(self._failed_looks, 10), LAST_POLL))
            return None
        self._failed_looks = 0
        return found

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than it is waited at all."""
        if self._poll_interval is not None:
            seconds = min(seconds, _QUICKER * self._poll_interval)
        seconds = min(seconds, max(0.0, self._until - time.monotonic()))
        if self.token:
            self.token.wait(seconds)
        else:
            time.sleep(seconds)

    def _some_has_ended(self) -> bool:
        return any(self._ended(note) for note in self.waiting if note.id)

    def _ended(self, note: Note) -> BatchInfo | Literal["gone"] | None:
        """What the API tells of a batch that has ended; None for another."""
        batch_id = str(note.id)
        try:
            info = retrieve(self._client, batch_id, self.within)
        except ClaudeInvocationError as failed:
            if failed.kind != "not_found":
                raise
            if not note.is_sure:  # it had our size only
                self._give_up(note)
            elif self._may_miss:
                self.gone[batch_id] = failed
            elif epoch_now() - note.created_after > _KEPT:
                _log.warning("Batch %s is gone, after 29 days: its prompts are asked again", batch_id)
            else:
                failed.add_note(
                    f"Batch {batch_id} is not to be found: this key is of another workspace, or somebody deleted it. "
                    "orchestration.drop_batches_from_journal forgets it, and its prompts are asked again"
                )
                raise
            return "gone"
        return info if info.has_ended else None

    def _give_up(self, note: Note) -> None:
        """Note that the batch that was taken for that of *note* is another's."""
        _log.info("Batch %s, which was taken for ours, is another's", note.id)
        self.foreign.add(str(note.id))
        note.id = None

    def _collected(self) -> bool:
        for note in [*self.waiting]:
            if note.id and not self.interrupted and (info := self._ended(note)):
                if info != "gone":
                    self._download(note, info)
                if note.id:
                    self.waiting.remove(note)
                    self.collected.append(note)
        return True

    def _download(self, note: Note, info: BatchInfo) -> None:
        """Take the results of a batch that has ended, those that were not before."""
        for line in results(self._client, info.id, self.within):
            custom_id = str(line.get("custom_id"))
            told = told_by(custom_id)
            if not note.is_sure and told.nonce != note.nonce:
                self._give_up(note)
                return
            note.is_sure = True
            if custom_id not in note.taken:
                note.taken.add(custom_id)
                self._take(note, told, line.get("result") or {})
        note.downloads += 1
        if self.interrupted:
            raise aborted("interrupted")
        if len(note.taken) < (requests := max(info.requests, len(note.digests))):
            raise ClaudeInvocationError(
                f"The results of batch {info.id} came incomplete: {len(note.taken)} of {requests}. Those that "
                "came are kept; collect it again later",
                kind="incomplete_stream",
                retryable=note.downloads < _MOST_DOWNLOADS or self._until < math.inf,
            )
        _log.info("Batch %s was collected: %s", info.id, dict(info.counts))

    def _cancelled(self, asked: set[Note], keep: Callable[[Note], object]) -> bool:
        for note in self.waiting:
            if note.is_sure and note not in asked:
                note.is_cancelled = True
                keep(note)
                try:
                    cancel(self._client, str(note.id), self.within)
                except ClaudeInvocationError as failed:
                    if failed.retryable or self.is_over:
                        raise
                    _log.info("Batch %s could not be cancelled: %s", note.id, failed)  # it has ended, or is about to
                asked.add(note)
        return True


def park(note: Note, digest: str, permit: BudgetPermit) -> None:
    """Keep what is set aside for a request of a batch, for who takes it up in this process."""
    permit.park()
    _parked.setdefault(note.id or note.nonce, {})[digest] = permit


def unpark(notes: Iterable[Note], digests: Iterable[str]) -> dict[str, BudgetPermit]:
    """What budgets have set aside for requests of these batches with these digests. It is not parked any more."""
    wanted = {*digests}
    found = {}
    for of_batch in [_parked.get(key, {}) for note in notes for key in (note.id, note.nonce) if key]:
        found.update({digest: of_batch.pop(digest) for digest in wanted & of_batch.keys()})
    return found
