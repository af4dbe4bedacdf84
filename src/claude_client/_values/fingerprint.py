"""What tells a request from others: a hash of all that its answer depends on."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import TYPE_CHECKING, Any

from claude_client._values.breakpoints import unmarked
from claude_client._values.content import Block, as_blocks, loaded

if TYPE_CHECKING:
    import json

    from claude_client._values.request import Request


def fingerprint(request: Request) -> str:
    """
    A hash of all in *request* that the answer depends on: its body and its `extra_query`.

    Headers, time limits, retries, streaming, `task_id` and category do not count. Nor do cache breakpoints: they change
    the price and not the answer, so what was paid for without caching is not asked again with it. The same on every
    SDK, Python and machine.

    Raises:
        ValueError: If a file in it can no longer be read.
    """
    import hashlib

    said: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "system": unmarked(as_blocks(request.system)),
        "messages": [_unmarked_turn(turn) for turn in request.messages],
        **request.params,
        **request.extra_body,
        "extra_query": request.extra_query,
    }
    if request.has_files:
        said = loaded(said)
    said["tools"] = unmarked(said.get("tools"))
    said.pop("cache_control", None)
    lines = [f"{name}={encoder().encode(value)}\n" for name, value in sorted(said.items()) if not _is_omitted(value)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _unmarked_turn(turn: Block) -> Block:
    content = turn["content"]
    plain = {**turn, "content": as_blocks(content)}
    return plain if isinstance(content, str) else unmarked(plain)


def question_of(request: Request) -> Hashable:
    """What is equal for requests that may be given one answer; None if that cannot be told."""
    try:
        models = [fingerprint(one) for one in (request, *(model.in_place_of(request) for model in request.fallbacks))]
    except ValueError:  # a file is gone; sending it will tell
        return None
    headers = tuple(sorted((name, str(value)) for name, value in request.extra_headers.items()))
    tries = (request.output_retries, request.grow_max_tokens, request.deadline, str(request.timeout), request.retry)
    return (*models, headers, request.output, *tries, request.fallback_after, request.budgets, request.loop)


@cache
def encoder() -> json.JSONEncoder:
    import json

    return json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"), default=to_json)


def to_json(value: Any) -> Any:
    """The JSON value for *value*, which is not JSON: as the SDK would send it."""
    import datetime as dt

    if isinstance(value, dt.date):
        return value.isoformat()
    if _is_omitted(value):
        return None
    raise TypeError(f"it holds a {type(value).__name__}")


def _is_omitted(value: Any) -> bool:
    return type(value).__name__ in {"Omit", "NotGiven"}
