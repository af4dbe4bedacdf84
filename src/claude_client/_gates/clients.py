"""The gates that all calls of one SDK client pass, for as long as there is one."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakKeyDictionary

from claude_client._gates.budget import BudgetGate
from claude_client._gates.cache import CacheGate
from claude_client._gates.rate.gate import RateGate
from claude_client._gates.rate.gates import ACCOUNT_HEADERS, RateGates
from claude_client._gates.rate.shared import SharedFile

_VARIABLE = "CLAUDE_CLIENT_LIMITS_FILE"
# What else tells whose limits a client of the SDK meets.
_ACCOUNT = ("base_url", "aws_region", "aws_access_key", "aws_profile", "region", "project_id")

_Gates = tuple[RateGates, CacheGate, BudgetGate]

_lock = threading.Lock()  # guards what follows
_gates: WeakKeyDictionary[Any, _Gates] = WeakKeyDictionary()
_file: SharedFile | None = None


def share_limits(path: str | os.PathLike[str] | None) -> None:
    """
    Have all processes of this host that name the same file act as one against the API's rate limits.

    They share what they learn of each limit: the pace, pauses, what the headers said, and outages. Limits are told
    apart by model and account; of a key, the file has only a digest. It begins with the next call, and holds in forked
    children too. Also by the environment: ``CLAUDE_CLIENT_LIMITS_FILE``.

    A file that is broken or of another version of this library is renamed, with a warning. If the file fails later, the
    calls go on, and do not share any more.

    Args:
        path: The file, on a local disk. It is made, for its owner alone, where there is none. None: go back to what the
            environment says.

    Raises:
        OSError: If the file cannot be used, or the system has no `flock`.
    """
    global _file, _gates
    file = None if path is None else _open(path)
    with _lock:
        if file is None or _file is None or file.path != _file.path:  # else all that the gates know stays
            _file, _gates = file, WeakKeyDictionary()


def gates_of(client: Any) -> _Gates:
    """
    The gates of *client*, in the order in which a request passes them, made when they are first asked for.

    They are dropped with their client. A forked child begins anew: requests that were under way in its parent never end
    there.

    Raises:
        OSError: If the environment names a file to share limits by that cannot be used.
    """
    with _lock:
        if client not in _gates:
            _gates[client] = (RateGates(_account(client), _shared()), CacheGate(), BudgetGate())
        return _gates[client]


def _shared() -> SharedFile | None:
    global _file  # noqa: PLW0603 - one for the process
    path = os.environ.get(_VARIABLE)
    if path and _file is None:
        try:
            _file = _open(path)
        except OSError as unusable:
            raise OSError(f"{_VARIABLE}={path}: {unusable}") from unusable
    return _file


def _open(path: str | os.PathLike[str]) -> SharedFile:
    return SharedFile(path, len(RateGate().numbers()))


def _account(client: Any) -> list[object]:
    """What tells the account of *client* from others."""
    headers = getattr(client, "default_headers", {})
    named = sorted((name.lower(), str(value)) for name, value in headers.items() if name.lower() in ACCOUNT_HEADERS)
    return [type(client).__name__, named, [str(getattr(client, name, None)) for name in _ACCOUNT]]


def _forget() -> None:  # no coverage: in a forked child
    global _lock, _gates
    _lock, _gates = threading.Lock(), WeakKeyDictionary()
    if _file:
        _file.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
