"""The prompt cache: which part of a prompt is read, written or paid in full (facts 2)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ._models import minimum_prefix
from ._prompt import LIFETIMES, Block, Body, Level, breakpoints
from ._schemas import format_of

LOOK_BACK = 20  # blocks, the breakpoint itself counted first

# Facts 2: what else a prefix depends on, from each level on.
_LEVEL_KEYS: dict[Level, tuple[str, ...]] = {
    "tools": ("model",),
    "system": ("speed",),
    "messages": ("tool_choice", "thinking"),
}


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt up to and including one of its blocks."""

    digest: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class CacheUse:
    """
    The use that a request makes of the cache. Counts are tokens.

    Args:
        read: The entry read, or None.

        writes: The entries to write once the answer begins, with their time to live.
    """

    uncached: int
    read: Prefix | None = None
    writes: tuple[tuple[Prefix, str], ...] = ()

    @property
    def read_tokens(self) -> int:
        """Tokens that come from the cache."""
        return self.read.tokens if self.read else 0

    def written_tokens(self, ttl: str) -> int:
        """Tokens written for *ttl*: from one breakpoint to the next, the first from what was read."""
        ends = [self.read_tokens, *(prefix.tokens for prefix, _ in self.writes)]
        spans = zip(self.writes, ends, strict=False)
        return sum(prefix.tokens - start for (prefix, life), start in spans if life == ttl)

    @property
    def counted_tokens(self) -> int:
        """Number of tokens that count for the input token limit: all but cache reads (facts 3)."""
        return self.uncached + self.written_tokens("5m") + self.written_tokens("1h")


@dataclass(frozen=True, slots=True)
class _Entry:
    lifetime: float
    expires: float

    def refreshed(self, started: float) -> _Entry:
        return _Entry(self.lifetime, max(self.expires, started + self.lifetime))


class PromptCache:
    """
    The entries written so far. The caller holds the lock of the simulator, and passes the time.

    An entry lives from the start of the request that wrote or last read it.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def look_up(self, body: Body, blocks: list[Block], now: float) -> CacheUse:
        """Work out the use that the request would make of the cache now. Changes nothing."""
        total = sum(block.tokens for block in blocks)
        marks = breakpoints(blocks)
        if not marks:
            return CacheUse(total)
        prefixes = _prefixes(body, blocks[: marks[-1][0] + 1])
        read = self._longest_read(prefixes, [place for place, _ in marks], now)
        least = max(minimum_prefix(body["model"]), read.tokens + 1 if read else 0)
        writes = tuple((prefixes[place], ttl) for place, ttl in marks if prefixes[place].tokens >= least)
        cached = writes[-1][0].tokens if writes else (read.tokens if read else 0)
        return CacheUse(total - cached, read, writes)

    def _longest_read(self, prefixes: list[Prefix], places: list[int], now: float) -> Prefix | None:
        seen = {i for place in places for i in range(max(0, place - LOOK_BACK + 1), place + 1)}
        return next((prefixes[i] for i in sorted(seen, reverse=True) if self._alive(prefixes[i], now)), None)

    def _alive(self, prefix: Prefix, now: float) -> bool:
        entry = self._entries.get(prefix.digest)
        return entry is not None and now < entry.expires

    def commit(self, use: CacheUse, started: float) -> None:
        """
        Write what *use* writes, and let what it reads live on. Call it when the answer begins.

        Args:
            started: When the request started; lifetimes count from there.
        """
        if use.read and (entry := self._entries.get(use.read.digest)):
            self._entries[use.read.digest] = entry.refreshed(started)
        for prefix, ttl in use.writes:
            self._entries[prefix.digest] = _Entry(LIFETIMES[ttl], started + LIFETIMES[ttl])


def _prefixes(body: Body, blocks: list[Block]) -> list[Prefix]:
    """The prefix that ends with each block, its digest chained to the one before."""
    prefixes = []
    digest, tokens, level = b"", 0, ""
    for block in blocks:
        if block.level != level:
            digest, level = digest + _conditions(body, block.level), block.level
        digest = hashlib.sha256(digest + f"{block.place}\n{block.canonical()}".encode()).digest()
        tokens += block.tokens
        prefixes.append(Prefix(digest, tokens))
    return prefixes


def _conditions(body: Body, level: Level) -> bytes:
    """The parameters that, besides the blocks, decide whether a prefix that reaches *level* is the same."""
    reached = list(_LEVEL_KEYS)[: list(_LEVEL_KEYS).index(level) + 1]
    values = {key: body.get(key) for name in reached for key in _LEVEL_KEYS[name]}
    if level != "tools":  # facts-2 2: the form of an answer adds to the system prompt
        values["format"] = format_of(body)[1]
    if level == "messages":
        values["effort"] = (body.get("output_config") or {}).get("effort")
    return json.dumps(values, sort_keys=True).encode()
