"""The checks of a request before a model sees it. Every check passes or raises `RejectedError`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ._contents import check_automatic_mark, check_blocks, check_marks, check_messages, check_new_shapes
from ._errors import RejectedError, Rejection, invalid
from ._models import takes_prefill
from ._parameters import (
    COUNTED,
    CREATED,
    check_keys,
    check_max_tokens,
    check_model,
    check_model_limits,
    check_sampling,
)
from ._prompt import Block, Body, content_blocks, prompt_blocks

LARGEST_BODY = 32 * 1024 * 1024  # bytes; facts 3: Messages and count_tokens
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


def parsed_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in *raw*."""
    if len(raw) > LARGEST_BODY:
        raise RejectedError(Rejection(type="request_too_large", message="Request exceeds the maximum size"))
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise invalid("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise invalid("The request body must be a JSON object")
    return body


def check_count(body: Body, api_version: str) -> list[Block]:
    """Check a request to count tokens, and return its blocks."""
    check_keys(body, COUNTED, ("model", "messages"), sampling=api_version == OLD_VERSION)
    return _checked_blocks(body, api_version)


def check_create(body: Body, api_version: str) -> list[Block]:
    """Check a request for a message, and return its blocks."""
    check_keys(body, CREATED, ("model", "max_tokens", "messages"), sampling=api_version == OLD_VERSION)
    check_max_tokens(body)
    check_sampling(body)
    check_model_limits(body)
    return _checked_blocks(body, api_version)


def _checked_blocks(body: Body, api_version: str) -> list[Block]:
    try:
        return _blocks(body, api_version)
    except (TypeError, AttributeError, KeyError, RecursionError):
        raise invalid("A value in the request is of the wrong kind") from None


def _blocks(body: Body, api_version: str) -> list[Block]:
    check_model(body["model"])
    check_messages(body["messages"], prefill=takes_prefill(body["model"]))
    check_blocks("system", content_blocks(body.get("system") or ()))
    if api_version == NEW_VERSION:
        check_new_shapes(body["messages"])
    check_automatic_mark(body)
    blocks = prompt_blocks(body)
    check_marks(blocks)
    return blocks
