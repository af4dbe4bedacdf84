"""What there is so far of an answer as data, while its text arrives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from claude_client._values.options import TextCallback


def with_partial_output(
    callback: TextCallback | None, on_output: Callable[[Any], object] | None
) -> TextCallback | None:
    """A callback that calls both, *on_output* with the JSON value of all text so far; *callback* where that is None."""
    if on_output is None:
        return callback
    said: list[str] = []

    def call(chunk: str) -> None:
        from jiter import from_json  # comes with the SDK

        if callback:
            callback(chunk)
        said.append(chunk)
        value = missing = object()
        with suppress(ValueError):  # nothing that can be told yet
            value = from_json("".join(said).encode(), partial_mode="trailing-strings")
        if value is not missing:
            on_output(value)

    return call
