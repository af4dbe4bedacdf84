"""What is kept for each SDK client, for as long as there is one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

_T = TypeVar("_T")


class PerClient(Generic[_T]):
    """
    One value for each client, made when it is first asked for. Any thread may ask.

    It is forgotten with its client. A forked child forgets all: what its parent was in the middle of never ends there.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def of(self, client: Any) -> _T:
        """The value of *client*."""
        with self._lock:
            try:
                return self._values[client]
            except KeyError:
                return self._values.setdefault(client, self._make())

    def _forget(self) -> None:
        self._lock = threading.Lock()  # guards _values; anew, as a copy of the parent's may be held for ever
        self._values: WeakKeyDictionary[Any, _T] = WeakKeyDictionary()
