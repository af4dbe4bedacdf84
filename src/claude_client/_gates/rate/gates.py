"""The rate gates of one client."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from claude_client._gates.gate import Wait
from claude_client._gates.rate.gate import RateGate, RatePermit
from claude_client._gates.rate.shared import SharedFile
from claude_client._values.rate_limit import RateLimit
from claude_client._values.request import Request

# Headers by which a request says on whose account it goes.
ACCOUNT_HEADERS = frozenset({"authorization", "x-api-key", "anthropic-workspace-id"})


class RateGates:
    """
    The rate gates of one client, each made when it is first asked for: one for each model, and for each account of its
    own that a request names in its headers.

    Args:
        account: What tells the client's account from others.

        file: The file by which the gates are shared with other processes; None: they are not.
    """

    def __init__(self, account: object = None, file: SharedFile | None = None) -> None:
        self._account = account
        self._file = file
        self._gates: dict[object, RateGate] = {}

    def of(self, request: Request) -> RateGate:
        """The gate of all calls to the model of *request*, on its account."""
        own = _own_account(request) if request.extra_headers else ()
        key = (request.model, own) if own else request.model
        return self._gates.get(key) or self._gates.setdefault(key, self._new(request.model, own))

    def would_wait(self, request: Request, now: float) -> Wait | None:
        """Same as `RateGate.would_wait`, of its gate."""
        return self.of(request).would_wait(request, now)

    def admit(self, request: Request, now: float) -> RatePermit | Wait:
        """Same as `RateGate.admit`, of its gate."""
        return self.of(request).admit(request, now)

    def waking(self, wake: Callable[[], None]) -> AbstractContextManager[object]:  # noqa: ARG002 - nothing to wake for
        """Never wakes: every wait of this gate has its length."""
        return nullcontext()

    def limits(self, now: float) -> list[RateLimit]:
        """What is known of the limits, now, in the order in which they were first asked for."""
        return [gate.limit(now) for gate in [*self._gates.values()]]

    def _new(self, model: str, own: tuple[tuple[str, str], ...]) -> RateGate:
        gate = RateGate(model)
        if self._file:
            account = json.dumps([self._account, own, model], default=str).encode()
            gate.share = partial(self._file.update, hashlib.sha256(account).digest())
        return gate


def _own_account(request: Request) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (name.lower(), str(value))
            for name, value in request.extra_headers.items()
            if name.lower() in ACCOUNT_HEADERS
        )
    )
