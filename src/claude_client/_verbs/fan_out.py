"""The common part of all fan-outs, managed ones too: requests become one run, and users are told of outcomes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from claude_client._engine.flow import CallFlow, Outcome
from claude_client._engine.loop import flow_of
from claude_client._engine.scheduler import Job
from claude_client._engine.threads import Periodic, Run
from claude_client._gates.clients import gates_of
from claude_client._gates.gate import Gate
from claude_client._gates.prefix import with_prefixes
from claude_client._sdk.client import check_credentials, shared_client
from claude_client._values.attempt import Attempt
from claude_client._values.checks import whole_number
from claude_client._values.fingerprint import question_of
from claude_client._values.interrupt import InterruptToken
from claude_client._values.log import Log
from claude_client._values.options import TextCallback
from claude_client._values.request import Request

__all__ = [
    "MOST_ASKED_FOR",
    "MOST_WORKERS",
    "CallFlow",
    "Outcome",
    "Periodic",
    "Place",
    "Run",
    "call_back",
    "check_stop_after",
    "job_of",
    "open_run",
    "report_outcomes",
    "run_of",
    "workers_of",
]

_log = Log("claude_client")

MOST_WORKERS = 10
#: ... where people have asked for as many themselves.
MOST_ASKED_FOR = 1000

_TOO_MANY = "max_workers=%d is more than the %d allowed: working with %d"
_MORE = ". For more: as_completed, claude_client.aio or invoke_parallel_managed, which take up to 1000"


class Place(Gate, Protocol):
    """Other processes, which send the requests of a run in place of this one. Its permits are for room there."""

    #: Whose limits the requests meet: runs with the same share what they learn of them.
    account: object

    def opened(self) -> AbstractContextManager[object]:
        """
        Be ready for requests in a `with` block.

        Raises:
            ValueError: If nobody can send there.
        """

    def send(self, attempt: Attempt) -> None:
        """Have *attempt*, which has a permit of this gate, sent there; see it to its end. Raises nothing."""


@contextmanager
def run_of(
    requests: Mapping[int, Request],
    *,
    max_workers: int,
    callbacks: Sequence[TextCallback | None] | None = None,
    gates: Sequence[Gate] = (),
    share_identical: bool = False,
    begun: Mapping[int, CallFlow] = {},
    place: Place | None = None,
    **hooks: Any,
) -> Iterator[Run]:
    """
    The run that sends *requests*, by their indices, to be started within the `with` block.

    Args:
        callbacks: The callback for the text of each prompt, by its index.

        gates: More gates, before those that all calls pass.

        share_identical: Send one of requests that ask the same; but those with a callback.

        begun: Those that were begun elsewhere, and are to be gone on with.

        place: Where they are sent from; None: from here.

        hooks: The callbacks of `Run`.

    Raises:
        ValueError: If there are no credentials anywhere.
    """
    with place.opened() if place else shared_client() as client:
        if not place:
            check_credentials(client, [request.extra_headers for request in requests.values()])
        jobs = []
        for index, request in zip(requests, with_prefixes([*requests.values()]), strict=True):
            callback = _in_one_process(callbacks[index]) if callbacks else None
            question = question_of(request) if share_identical and callback is None else None
            jobs.append(Job(index, begun.get(index) or flow_of(request, callback), question))
        if place:
            gates, hooks = [*gates, place], {**hooks, "send": lambda _, attempt: place.send(attempt)}
        every = [*gates, *gates_of(place.account if place else client)]
        yield Run(client, jobs, max_workers=max_workers, gates=every, **hooks)


@contextmanager
def open_run(*, max_workers: int, token: InterruptToken | None, **hooks: Any) -> Iterator[Run]:
    """A run that takes jobs for as long as the `with` block goes on, for who has seen that there are credentials."""
    with shared_client() as client:
        run = Run(client, None, max_workers=max_workers, gates=gates_of(client), **hooks)
        with run.running(token):
            yield run


def job_of(index: int, request: Request, *, share_identical: bool) -> Job:
    """The job of *request*, which others follow."""
    (request,) = with_prefixes([request], others_follow=True)
    return Job(index, flow_of(request), question_of(request) if share_identical else None)


def _in_one_process(callback: TextCallback | None) -> TextCallback | None:
    """*callback*; a child that it forks ends there, as it would read the answers of its parent, or wait for ever."""
    if callback is None:
        return None
    process = os.getpid()

    def call(text: str) -> None:
        try:
            callback(text)
        finally:
            if os.getpid() != process:  # no coverage: in a forked child
                sys.stderr.write("RuntimeError: a callback forked this process: the run goes on in the parent only\n")
                os._exit(1)

    return call


def call_back(callback: Callable[..., object], name: str, about: str, *args: object) -> None:
    """Call the user's callback of that *name*, with *args*; what it raises is logged, and changes nothing."""
    try:
        callback(*args)
    except Exception:  # noqa: BLE001 - a user's callback
        _log.exception("%s failed for %s; nothing is lost by it", name, about)


def report_outcomes(
    outcomes: Mapping[int, Outcome],
    move_bar: Callable[[Outcome], object] | None,
    on_result: Callable[[int, Outcome], object] | None,
) -> None:
    """Call the callbacks for each outcome, if there are any."""
    if not (move_bar or on_result):
        return
    for index, outcome in outcomes.items():
        if move_bar:
            call_back(move_bar, "The progress bar", f"prompts[{index}]", outcome)
        if on_result:
            call_back(on_result, "on_result", f"prompts[{index}]", index, outcome)


def check_stop_after(failures: int | None) -> None:
    """Raise a ValueError if that is no number of failures after which to stop."""
    if failures is not None:
        whole_number("stop_after", failures, 1)


def workers_of(asked: int, most: int = MOST_WORKERS) -> int:
    """Return the number of workers to have where *asked* are wanted and *most* are allowed."""
    if whole_number("max_workers", asked, 1) <= most:
        return asked
    _log.warning(_TOO_MANY + (_MORE if most < MOST_ASKED_FOR else ""), asked, most, most)
    return most
