"""The gates that all calls of one SDK client pass, for as long as there is one."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakKeyDictionary

from claude_client._gates.cache import CacheGate
from claude_client._gates.gate import Gate
from claude_client._gates.rate import RateGates

_lock = threading.Lock()  # guards _gates
_gates: WeakKeyDictionary[Any, tuple[Gate, ...]] = WeakKeyDictionary()


def gates_of(client: Any) -> tuple[Gate, ...]:
    """
    The gates of *client*, in the order in which a request passes them, made when they are first asked for.

    They are dropped with their client. A forked child begins anew: requests that were under way in its parent never end
    there.
    """
    with _lock:
        return _gates.get(client) or _gates.setdefault(client, (RateGates(), CacheGate()))


def _forget() -> None:  # no coverage: in a forked child
    global _lock, _gates
    _lock, _gates = threading.Lock(), WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
