"""What a Dask worker does for a run elsewhere: `client.run` calls these functions on its event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import claude_client
from claude_client._values.errors import AbortReason
from claude_client._values.log import told
from claude_client._verbs.elsewhere import Parcel, Room
from claude_client._verbs.fan_out import run_of

#: Seconds in which answers gather before they are handed over: each time costs a fraction of a millisecond.
GATHER = 0.06
_ABANDONED = 60.0  # seconds without a question from the run, after which it is taken for dead

# By the run and the worker, of which several may be in a process.
_desks: dict[tuple[str, str], _Desk]


class Handed(NamedTuple):
    """What there was to hand over."""

    #: Each after the number of its attempt.
    reports: list[tuple[int, bytes]]
    #: The time here.
    now: float
    #: When each attempt under way last had a sign of life, by its number.
    active: Mapping[int, float]


class _Desk:
    """Where a run hands over parcels, and collects reports."""

    def __init__(self, key: tuple[str, str]) -> None:
        loop = asyncio.get_running_loop()
        self.news = asyncio.Event()
        self.room = Room(lambda: loop.call_soon_threadsafe(self.news.set))
        self._key = key
        self._asked_at = time.monotonic()
        self._watch()

    def asked(self) -> None:
        self._asked_at = time.monotonic()

    def close(self) -> None:
        if _desks.get(self._key) is self:
            del _desks[self._key]
        self._timer.cancel()
        self.room.close()

    def _watch(self) -> None:
        if time.monotonic() - self._asked_at > _ABANDONED:
            self.close()
        else:
            self._timer = asyncio.get_running_loop().call_later(_ABANDONED / 4, self._watch)


_desks = {}


def versions() -> dict[str, str]:
    """What has to be alike on both sides, as answers are handed over as objects."""
    import anthropic

    return {"orchestrating-agents": claude_client.__version__, "anthropic": anthropic.__version__}


async def claude_enter(run: str, known: Sequence[str], dask_worker: Any) -> tuple[dict[str, str], str | None] | None:
    """
    Make ready for *run*, unless it is one of the addresses *known* to it. Return the versions here, and why nothing can
    be sent, None for no reason; None if it was ready before.
    """
    key = run, str(dask_worker.address)
    if desk := _desks.get(key):
        if dask_worker.address in known:
            desk.asked()
            return None
        desk.close()  # the run has lost sight of what is under way
    logging.getLogger("distributed.worker").addFilter(_is_of_others)
    problem = await asyncio.to_thread(_problem)
    if problem is None:
        _desks[key] = _Desk(key)
    return versions(), problem


async def claude_take(
    run: str, parcels: Sequence[Parcel], aborts: Sequence[tuple[int, AbortReason]], dask_worker: Any
) -> bool:
    """Begin to send *parcels*, and end what is to be aborted. Return whether *run* is known here."""
    desk = _desks.get((run, str(dask_worker.address)))
    if desk:
        desk.asked()
        desk.room.take(parcels)
        for number, reason in aborts:
            desk.room.abort(number, reason)
    return desk is not None


async def claude_collect(run: str, within: float, dask_worker: Any) -> Handed | None:
    """Wait for something to report, for so many seconds, and hand it over; None if *run* is not known here."""
    key = run, str(dask_worker.address)
    desk = _desks.get(key)
    if not desk:
        return None
    desk.asked()
    try:
        await asyncio.wait_for(desk.news.wait(), within)
        await asyncio.sleep(GATHER)
    except TimeoutError:
        pass
    if _desks.get(key) is not desk:  # closed meanwhile
        return None
    desk.news.clear()
    return Handed(desk.room.reports(), time.monotonic(), desk.room.active)


async def claude_leave(run: str, dask_worker: Any) -> None:
    """Forget *run*."""
    if desk := _desks.get((run, str(dask_worker.address))):
        desk.close()


def _problem() -> str | None:
    try:
        with run_of({}, max_workers=1):
            return None
    except ValueError as missing:
        return told(missing)


def _is_of_others(record: logging.LogRecord) -> bool:
    """Whether a line of the log is not about one of the calls above, which come by the hundred."""
    about = record.args[0] if isinstance(record.args, tuple) and record.args else None
    return not (isinstance(about, str) and about.startswith("claude_"))
