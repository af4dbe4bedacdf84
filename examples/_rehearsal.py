"""
What the examples begin with: the API answers where there are credentials, and a simulator where there are none.

A program of your own does not need it: leave the `with rehearsal(...)` away, and what imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anthropic

from claude_client import has_credentials, set_default_client

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest


@contextmanager
def rehearsal(
    answer: Callable[[SeenRequest], Reply | None] | None = None,
    *,
    latency: float = 0.5,
    tokens_per_second: float | None = 50,
) -> Iterator[anthropic.Anthropic | None]:
    """
    Without credentials, say so and let a simulator answer all calls in the block, with what *answer* gives for them.

    Gives the client of the simulator; None where the API answers.
    """
    try:
        found = has_credentials()
    except ValueError as malformed:
        sys.exit(str(malformed))
    if found:
        yield None
        return

    from claude_client.simulator import Simulator  # its extra is not needed where the API answers

    print("No credentials found: the answers below are simulated.", flush=True)
    with (
        Simulator(latency=latency, tokens_per_second=tokens_per_second) as simulator,
        anthropic.Anthropic(api_key="any", base_url=simulator.base_url) as client,
    ):
        if answer:
            simulator.script_by(answer)
        set_default_client(client)
        try:
            yield client
        finally:
            set_default_client(None)
