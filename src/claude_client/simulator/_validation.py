"""The checks of a request before a model sees it. Every check passes or raises `RejectedError`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from ._contents import check_automatic_mark, check_freedom, check_marks, check_messages, check_new_shapes, check_system
from ._errors import RejectedError, Rejection, invalid
from ._models import Served, takes_prefill
from ._parameters import (
    COUNTED,
    CREATED,
    check_keys,
    check_max_tokens,
    check_model_limits,
    check_other_values,
    check_sampling,
    check_thinking,
)
from ._prompt import Block, Body, prompt_blocks
from ._schemas import check_output, format_of
from ._tools import check_tools

LARGEST_BODY = 32 * 1024 * 1024  # bytes; facts 3: Messages and count_tokens
_SURROGATE = re.compile(rb"\\u[dD]")  # how an escape begins that stands for half a character
OLD_VERSION, NEW_VERSION = VERSIONS = ("2023-06-01", "2026-10-21")


def check_caller(headers: Mapping[str, str]) -> None:
    """Check that the request names a known version and has a credential. Any credential will do."""
    api_version = headers.get("anthropic-version")
    if api_version is None:
        raise invalid("anthropic-version: header is required")
    if api_version not in VERSIONS:
        raise invalid(f"anthropic-version: {api_version!r} is not a valid version")
    # Facts 1: SDK 2.x sends the key as a bearer token.
    _, _, bearer = headers.get("authorization", "").partition("Bearer ")
    if not (headers.get("x-api-key") or bearer):
        raise RejectedError(Rejection(type="authentication_error", message="x-api-key header is required"))


def check_size(raw: bytes, most: int = LARGEST_BODY) -> None:
    """Check that the body is not too large."""
    if len(raw) > most:
        raise RejectedError(Rejection(type="request_too_large", message="Request exceeds the maximum size"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def parsed_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in *raw*."""
    try:
        body = _JSON.decode(raw.decode())
        if b"\\" in raw and _SURROGATE.search(raw):
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise invalid("The request body is not valid JSON: no low surrogate in string") from None
    except (ValueError, RecursionError):
        raise invalid("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise invalid("The request body must be a JSON object")
    return body


# What most requests are made of. They are spared the checks of everything else.
_USUAL = frozenset({"model", "messages", "max_tokens", "system", "stream"})


def check_count(body: Body, api_version: str, models: Served) -> list[Block]:
    """Check a request to count tokens, and return its blocks."""
    check_keys(body, COUNTED, ("model", "messages"), sampling=api_version == OLD_VERSION)
    models.check(body["model"])
    return _checked_blocks(body, api_version)


def check_batched(params: Body) -> None:
    """Check that *params* are none that a batch does not take (facts-2 1.3)."""
    for name in ("speed", "fallbacks"):
        if params.get(name) is not None:
            raise invalid(f"{name}: not supported in a batch")
    if params.get("stream"):
        raise invalid("stream: not supported in a batch")
    if params.get("max_tokens") == 0:
        raise invalid("max_tokens: must be at least 1 in a batch")


def check_create(body: Body, api_version: str, models: Served) -> list[Block]:
    """Check a request for a message, and return its blocks."""
    check_keys(body, CREATED, ("model", "max_tokens", "messages"), sampling=api_version == OLD_VERSION)
    models.check(body["model"])
    check_max_tokens(body)
    check_sampling(body)
    blocks = _checked_blocks(body, api_version)
    tokens, most = sum(block.tokens for block in blocks), models.context_window(body["model"])
    if tokens > most:
        raise invalid(f"prompt is too long: {tokens} tokens > {most} maximum")
    return blocks


def _checked_blocks(body: Body, api_version: str) -> list[Block]:
    try:
        return _blocks(body, api_version)
    except (TypeError, AttributeError, KeyError, RecursionError):
        raise invalid("A value in the request is of the wrong kind") from None


def _blocks(body: Body, api_version: str) -> list[Block]:
    if not body.keys() <= _USUAL:
        check_other_values(body)
        check_tools(body)
        check_thinking(body)
        check_output(body)
        check_model_limits(body)
    check_messages(body["messages"], prefill=takes_prefill(body["model"]), tools=bool(body.get("tools")))
    where, wanted = format_of(body)
    if wanted is not None:
        check_freedom(where, body["messages"])
    check_system(body.get("system") or ())
    if api_version == NEW_VERSION:
        check_new_shapes(body["messages"])
    check_automatic_mark(body)
    blocks = prompt_blocks(body)
    check_marks(blocks)
    return blocks
