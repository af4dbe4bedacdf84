"""Finds the calls that share a prompt prefix, which one of them writes to the cache for all. No I/O, no state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from claude_client._values.breakpoints import count_breakpoints
from claude_client._values.content import Block
from claude_client._values.request import Prefix, Request

# The fewest tokens that are cached, by the start of the model's name; the longest start counts. A model that is not
# here is taken to cache anything.
_MINIMUM_TOKENS = {
    "claude-opus-5": 512,
    "claude-fable-5": 512,
    "claude-mythos-5": 512,
    "claude-opus-4-8": 1024,
    "claude-sonnet-5": 1024,
    "claude-sonnet-4-6": 1024,
    "claude-sonnet-4-5": 1024,
    "claude-opus-4-7": 2048,
    "claude-mythos-preview": 2048,
    "claude-opus-4-6": 4096,
    "claude-opus-4-5": 4096,
    "claude-haiku-4-5": 4096,
}
# Newer models whose names have one of these starts, but whose minimum is not known.
_UNKNOWN = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-2", "claude-mythos-5-2")

# Parameters that, besides model, tools and system, make another cache entry.
_PARAMS = ("thinking", "output_config", "tool_choice", "speed")
_SAMPLING = ("temperature", "top_p", "top_k")

_LIFETIMES = {"5m": 300.0, "1h": 3600.0}


def with_prefixes(requests: Sequence[Request], *, others_follow: bool = False) -> list[Request]:
    """
    Each of *requests* with the prefix that ends with the shared part of its system prompt.

    None where waiting for another call to write it cannot pay: nothing is marked, it is certainly too short to be
    cached, or no other request shares it, unless *others_follow*.
    """
    prefixes = [_prefix(request) for request in requests]
    others = [[_prefix(one.in_place_of(request)) for one in request.fallbacks] for request in requests]
    shared_by = Counter([*prefixes, *(prefix for of_request in others for prefix in of_request)])
    shared = {prefix for prefix, count in shared_by.items() if count > 1 or others_follow}
    return [
        _with(request, prefix, fallbacks, shared)
        for request, prefix, fallbacks in zip(requests, prefixes, others, strict=True)
    ]


def _with(
    request: Request, prefix: Prefix | None, fallbacks: Sequence[Prefix | None], shared: Container[Prefix | None]
) -> Request:
    """*request* with its prefixes, as far as they are *shared*."""
    if request.fallbacks:
        models = zip(request.fallbacks, fallbacks, strict=True)
        own = tuple([replace(model, prefix=one) if one and one in shared else model for model, one in models])
        request = replace(request, fallbacks=own)
    return replace(request, prefix=prefix) if prefix and prefix in shared else request


def _prefix(request: Request) -> Prefix | None:
    shared = _shared(request)
    if not count_breakpoints(shared):
        return None
    if _most_tokens(request.params.get("tools") or [], shared) < minimum_tokens(request.model):
        return None
    return Prefix(digest_of(request), _LIFETIMES.get(_mark(shared).get("ttl", "5m"), 300.0))


def _shared(request: Request) -> Sequence[Block]:
    return request.system[: request.shared_blocks] if isinstance(request.system, list) else []


def digest_of(request: Request) -> bytes:
    """What is equal for requests that begin alike: with the same tools and shared system prompt, asked in one way."""
    import hashlib
    import json

    tools, shared = request.params.get("tools") or [], _shared(request)
    parameters = [request.params.get(name) for name in _PARAMS]
    old_version = any(name in request.params for name in _SAMPLING)
    extra = [[*request.extra_headers.items()], request.extra_body]
    everything = [request.model, tools, shared, parameters, old_version, extra]
    return hashlib.sha256(json.dumps(everything, default=str, sort_keys=True).encode()).digest()


def _mark(blocks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    marks: list[Mapping[str, Any]] = [block["cache_control"] for block in blocks if block.get("cache_control")]
    return marks[-1]


def _most_tokens(tools: Sequence[Any], shared: Sequence[Mapping[str, Any]]) -> float:
    """An upper bound: no text has more tokens than UTF-8 bytes; infinite with an image or a document."""
    if any(block["type"] != "text" for block in shared):
        return math.inf
    return sum(len(str(part).encode()) for part in (*tools, *(block["text"] for block in shared)))


def minimum_tokens(model: str) -> int:
    """The fewest tokens that *model* caches, as far as that is known; else 0."""
    if model.startswith(_UNKNOWN):
        return 0
    starts = [start for start in _MINIMUM_TOKENS if model.startswith(start)]
    return _MINIMUM_TOKENS[max(starts, key=len)] if starts else 0
