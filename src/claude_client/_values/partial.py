"""What there is so far of an answer as data, while its text arrives."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from claude_client._values.options import TextCallback

_TOKEN = re.compile(r'\\.|["\[\]{}]', re.DOTALL)
_GROWN = 0.01  # the share by which a long text has grown until it is read again: reading all of it takes its time


def with_partial_output(
    callback: TextCallback | None, on_output: Callable[[Any], object] | None
) -> TextCallback | None:
    """
    A callback that calls both, *on_output* with the JSON value of all text so far; *callback* where that is None.

    For every chunk of a short text; for a long one with each hundredth more, and at its end.
    """
    if on_output is None:
        return callback
    partial = _Partial()

    def call(chunk: str) -> None:
        if callback:
            callback(chunk)
        for value in partial.add(chunk):
            on_output(value)

    return call


class _Partial:
    def __init__(self) -> None:
        self._said: list[str] = []
        self._length = self._read_at = 0
        self._depth = 0
        self._is_in_text = False
        self._escape = ""  # the beginning of one, at the end of the last chunk

    def add(self, chunk: str) -> list[Any]:
        """Take *chunk*, and give the value of all so far where it is time to."""
        from jiter import from_json  # comes with the SDK

        self._said.append(chunk)
        self._length += len(chunk)
        was_open = self._is_open
        self._follow(self._escape + chunk)
        is_end = was_open and not self._is_open
        if not is_end and self._length < self._read_at * (1 + _GROWN):
            return []
        self._read_at = self._length
        with suppress(ValueError):  # nothing that can be told yet
            return [from_json("".join(self._said).encode(), partial_mode="trailing-strings")]
        return []

    @property
    def _is_open(self) -> bool:
        return self._depth > 0 or self._is_in_text

    def _follow(self, text: str) -> None:
        self._escape = "\\" if (len(text) - len(text.rstrip("\\"))) % 2 else ""
        for found in _TOKEN.findall(text.removesuffix(self._escape)):
            if found == '"':
                self._is_in_text = not self._is_in_text
            elif not self._is_in_text and found in "[{":
                self._depth += 1
            elif not self._is_in_text and found in "]}":
                self._depth -= 1
