"""Cache breakpoints: putting them on blocks, and counting them. Everything returned is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claude_client._values.content import THINKING, Block

EPHEMERAL = {"type": "ephemeral"}

#: Most breakpoints that the API allows in a request.
MOST_BREAKPOINTS = 4


def marked(blocks: Sequence[Block]) -> list[Block]:
    """*blocks* with a cache breakpoint on the last that may carry one; one already there stays as it is."""
    out = list(blocks)
    place = last_markable(out)
    if place is not None:
        out[place] = {**out[place], "cache_control": out[place].get("cache_control") or EPHEMERAL}
    return out


def last_markable(blocks: Sequence[Block]) -> int | None:
    """The place of the last of *blocks* that may carry a cache breakpoint."""
    return next((i for i in range(len(blocks) - 1, -1, -1) if _may_be_marked(blocks[i])), None)


def unmarked(part: Any) -> Any:
    """*part* without the cache breakpoints of its blocks or tools; the schemas and inputs of tools stay as they are."""
    if isinstance(part, list):
        return [unmarked(item) for item in part]
    if isinstance(part, dict):
        return {
            name: unmarked(value) if name in {"content", "source"} else value
            for name, value in part.items()
            if name != "cache_control"
        }
    return part


def count_breakpoints(part: Any) -> int:
    """Number of cache breakpoints in a block, a message, or a list of them, nested blocks included."""
    if part is None or isinstance(part, str):
        return 0
    if isinstance(part, dict):
        return (1 if part.get("cache_control") else 0) + count_breakpoints(part.get("content"))
    return sum(map(count_breakpoints, part)) if isinstance(part, list) else 0


def _may_be_marked(block: Block) -> bool:
    if block.get("type") in THINKING:
        return False
    return block.get("type") != "text" or bool(block.get("text"))
