"""
The protocol of gates, and the passage of a request through all of them.

A gate decides whether a request may be sent now, and learns from its permit how the request ended. It never waits and
starts no thread: the caller waits, in whatever way it can, and passes in the time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from claude_client._values.attempt import Attempt, Permit
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.record import Cause
from claude_client._values.request import Request

#: What all calls to a model wait for, rather than some.
HOLDING: frozenset[Cause] = frozenset({"rate limit", "outage"})


class Wait(NamedTuple):
    """A request may not be sent now."""

    #: Seconds until it is worth asking again. Asking sooner does no harm.
    seconds: float
    #: What is waited for.
    cause: Cause
    #: Whether the gate wakes those who wait, if there is reason to ask sooner.
    wakes: bool = False
    #: The error for a call that has waited for that, in all, as long as its policy lets it; None: it waits on.
    refusal: ClaudeInvocationError | None = None
    #: What the gate wakes with once there is reason to ask again, and not sooner; None: asking may pay at any time.
    until: Hashable = None


class Gate(Protocol):
    """Lets requests through. Every method may be called from any thread, and takes microseconds."""

    def would_wait(self, request: Request, now: float) -> Wait | None:
        """
        The wait that `admit` would answer *request* with, as far as can be known without letting it in. It may raise
        what that would.
        """

    def admit(self, request: Request, now: float) -> Permit | Wait | None:
        """
        Let *request* in at *now*, a time by `time.monotonic`; None lets it in with nothing to settle.

        Raises:
            ClaudeInvocationError: To refuse it for good.
        """

    def waking(self, wake: Callable[..., None]) -> AbstractContextManager[object]:
        """
        Call *wake* during a `with` block, from any thread, whenever asking again may be worth it; with the `Wait.until`
        of those for whom it is, if it answers with such.
        """


def admit(gates: Sequence[Gate], request: Request, queued_at: float, now: float) -> Attempt | Wait:
    """
    Return the attempt with the permits of all *gates*, taken in their order; or what *request* has to wait for.

    All gates but the first are asked before anything is taken: a permit that is taken at one gate and given back
    because another refuses would wake other calls for nothing.

    Raises:
        ClaudeInvocationError: If a gate refuses it for good. Whatever is raised, permits already taken are given back.
    """
    longest: Wait | None = None
    for gate in gates[1:]:
        wait = gate.would_wait(request, now)
        if wait is not None and (longest is None or wait.seconds > longest.seconds):
            longest = wait
    if longest is not None:
        return longest
    attempt = Attempt(request, queued_at)
    admitted = False
    try:
        for gate in gates:
            got = gate.admit(request, now)
            if isinstance(got, Wait):
                return got
            if got is not None:
                attempt.permits.append(got)
        admitted = True
        return attempt
    finally:
        if not admitted:
            attempt.settle()
