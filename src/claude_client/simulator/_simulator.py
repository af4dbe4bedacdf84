"""`Simulator`: the API on a loopback port, for as long as a with statement lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from ._batches import BatchReply, SeenBatch
from ._limits import Limits
from ._models import Served
from ._numbers import check_positive
from ._pace import Pace
from ._record import SeenRequest
from ._script import Reply, ReplyFunction
from ._server import Server
from ._state import State


class Simulator:
    """
    A loopback stand-in for the Claude Messages API.

    Use it as a context manager, or call `start` and `stop`. Any thread may call any method. What it does
    without a script is deterministic: the same request gets the same answer. Every request is kept,
    body and all, until `reset`.

    Args:
        port: The port on 127.0.0.1; 0 takes a free one.

        tls: Serve https with a throw-away certificate, which `ca_file` verifies.

        latency: Seconds to the first byte of every answer.

        tokens_per_second: The pace of every answer; None is as fast as can be.

        ping_interval: Seconds between pings while a stream has nothing to say; None sends only the ping at
            its beginning.

        limits: Rate limits; None has none.

        models: Names of models to serve besides the API's, each as large as the newest. Others are not found.

        context_window: Tokens that a prompt and its answer have together, whatever the model; None is each model's own.

        clock: The time in seconds for cache lifetimes, rate limits and records. Latency and pace are real.

    Raises:
        ValueError: If a number makes no sense.

        TypeError: If *models* is one text instead of several.

        ImportError: If *tls* is asked for and trustme is not installed.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tls: bool = False,
        latency: float = 0.0,
        tokens_per_second: float | None = None,
        ping_interval: float | None = None,
        limits: Limits | None = None,
        models: Iterable[str] = (),
        context_window: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(models, str):
            raise TypeError(f"models are several names, got {models!r}")
        check_positive("context_window", context_window)
        served = Served(told=frozenset(models), window=context_window)
        pace = Pace(latency=latency, tokens_per_second=tokens_per_second, ping_interval=ping_interval)
        self._state = State(limits or Limits(), pace, clock, served)
        self._port = port
        self._tls = tls
        self._running: Server | None = None

    def start(self) -> Self:
        """Listen. A running simulator goes on as it is."""
        if self._running is None:
            self._running = Server(self._state, self._port, tls=self._tls)
        return self

    def stop(self) -> None:
        """Abort every connection and stop listening. Does nothing to a stopped one."""
        running, self._running = self._running, None
        if running:
            running.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """
        The URL at which it listens, for the SDK's ``base_url``.

        Raises:
            RuntimeError: If it is not running.
        """
        return self._listening().base_url

    @property
    def ca_file(self) -> str | None:
        """The PEM file of the certificate's issuer, removed by `stop`; None without TLS. Raises like `base_url`."""
        return self._listening().ca_file

    def _listening(self) -> Server:
        if self._running is None:
            raise RuntimeError("the simulator is not running: call start(), or use it in a with statement")
        return self._running

    def script(self, *replies: Reply, matching: str | None = None) -> None:
        """
        Let *replies* answer the next valid requests for messages, in order of arrival, one each.

        Args:
            matching: Only answer requests with this substring anywhere in their prompt's text. Such
                replies win over those for any request.
        """
        self._state.add_replies(replies, matching)

    def script_by(self, reply_function: ReplyFunction) -> None:
        """
        Ask *reply_function* for what no waiting reply answers; None from it is the default answer.

        It runs in the simulator's thread, which serves nobody meanwhile. What it raises is logged, and the
        request gets a 500 that says it.
        """
        self._state.ask(reply_function)

    def script_batches(self, *replies: BatchReply) -> None:
        """Let *replies* say what becomes of the next batches, one each. Without one a batch has ended at once."""
        with self._state.changed:
            self._state.batches.script(replies)

    @property
    def batches(self) -> tuple[SeenBatch, ...]:
        """The batches so far, in the order of their creation, as they stand since anybody has last looked at them."""
        with self._state.changed:
            return self._state.batches.seen

    def reset(self) -> None:
        """Forget requests, scripts, the cache, and what was taken from the limits."""
        self._state.reset()

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """The requests so far, in order of arrival."""
        return self._state.requests

    @property
    def in_flight(self) -> int:
        """Number of requests that are being answered."""
        return self._state.in_flight

    @property
    def peak_concurrency(self) -> int:
        """The most requests that were in flight at once."""
        return self._state.peak_concurrency

    @property
    def open_connections(self) -> int:
        """Number of connections that clients hold open."""
        return self._state.open_connections

    def wait_for(self, predicate: Callable[[Simulator], Any], timeout: float = 10.0) -> None:
        """
        Block until *predicate* of this simulator is true; it is asked after every change.

        Raises:
            TimeoutError: If it is not within *timeout* seconds. The message says what was seen.
        """
        with self._state.changed:
            if not self._state.changed.wait_for(lambda: predicate(self), timeout):
                raise TimeoutError(f"not within {timeout:g} s; {self!r}")

    def __repr__(self) -> str:
        seen = self._state.statistics()
        where = self._running.base_url if self._running else "stopped"
        counts = ", ".join(f"{key}={seen[key]}" for key in ("requests", "in_flight", "open_connections", "outcomes"))
        return f"<Simulator {where}, {counts}>"
