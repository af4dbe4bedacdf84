"""Managed runs on several machines: the workers of a Dask cluster send the requests. Needs the extra `dask`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from claude_client import Content
from claude_client._values.checks import whole_number
from claude_client._values.redaction import holds_secret
from claude_client._values.request import DEFAULT_MODEL, Request
from claude_client._verbs.fan_out import MOST_ASKED_FOR
from claude_client._verbs.requests import for_all, listed

from ._limiter import ConcurrencyLimiter
from ._managed import ManagedOptions, check_kind, managed
from ._recorder import ManagedResults

try:
    from distributed import Client

    from ._dask_fleet import Fleet
except ModuleNotFoundError as exc:  # no coverage: a program of its own tries it
    if (exc.name or "").partition(".")[0] not in ("dask", "distributed"):
        raise
    raise ImportError("orchestration.distributed needs Dask: pip install 'distributed>=2026'") from exc

__all__ = ["invoke_distributed"]

_SHORTEST_STALL = 2.0  # seconds: workers tell of signs of life several times in one


def invoke_distributed(
    prompts: Iterable[Mapping[str, Any]],
    *,
    client: Client,
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 10,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    concurrency_limiter: ConcurrencyLimiter | None = None,
    **options: Unpack[ManagedOptions],
) -> ManagedResults:
    """
    `orchestration.invoke_parallel_managed` whose requests are sent by the workers of a Dask cluster.

    The run itself stays in this process, with its limits, budget, cache, journal, tracker, retries and callbacks. The
    workers are handed lists of requests that may go now, and hand back what comes, as it comes. So all workers keep to
    one limit, and what an answer costs, who is told of it, and how the run goes on after an interrupt is as ever.

    They authenticate with what they find in their own environment, as one account; what this process has for itself is
    not used. Prompts and answers pass through the scheduler of the cluster, which encrypts only if it is told to.

    A worker that joins is used within seconds. What one that dies had under way is asked again by the others, without
    costing a retry, and a budget counts it as if it had cost the most; what it has handed back is not asked again.

    Args:
        prompts, model, max_tokens, shared_system, cache_shared_system, concurrency_limiter, options:
            As in `invoke_parallel_managed`. A journal is of either: what one has begun the other goes on with.

        client: Of the cluster, not asynchronous.

        max_workers: Most requests under way at once at each Dask worker, however many threads that has. At most 1000
            are under way in all.

        interrupt_token:
            Ends the run, and the requests on the workers, within 1 second. So does Ctrl-C.

        stall_timeout: As there, and at least 2.

    Raises:
        ValueError: As there. Also for headers or queries that hold a key; and if there is no worker or one that cannot
            send, without credentials or with other versions of this library or the SDK: before any request.
        TypeError: As there, and if *client* is none.
        JournalError, ParallelInvocationError, ParallelInterrupt: As there.
    """
    check_kind("concurrency_limiter", concurrency_limiter, ConcurrencyLimiter)
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client of dask.distributed, got {client!r}")
    if client.asynchronous:
        raise ValueError("client must not be asynchronous, and its event loop not this thread's")
    if (stall_timeout := options.get("stall_timeout")) is not None and stall_timeout < _SHORTEST_STALL:
        raise ValueError(f"stall_timeout must be at least {_SHORTEST_STALL:.0f} seconds, got {stall_timeout!r}")
    fleet = Fleet(client, whole_number("max_workers", max_workers, 1))
    said = for_all(model, max_tokens, shared_system, cache_shared_system, options)
    return managed(
        listed(prompts),
        MOST_ASKED_FOR,
        concurrency_limiter,
        place=fleet,
        name="invoke_distributed",
        check=_check_no_key,
        **said,
    )


def _check_no_key(request: Request) -> None:
    for one in (request, *request.fallbacks):
        for where, named in (("extra_headers", one.extra_headers), ("extra_query", one.extra_query)):
            if name := next(filter(holds_secret, named), None):
                raise ValueError(
                    f"{where} has {name!r}: keys come from the environment of the workers, and are not sent"
                )
