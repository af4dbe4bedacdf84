"""
Texts that can be written: an answer may hold halves of surrogate pairs, which no encoding has. And texts that can be
shown: it may hold characters that a terminal would obey.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Control characters but tab and newline, and those that turn the direction of the text around them.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""*text* with what a terminal would obey written as an escape, as in ``\x1b``."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text)


def dollars(amount: float) -> str:
    """An *amount* of dollars for people: to the cent, and below a dollar as far as it takes to be seen."""
    size = abs(amount)
    digits = 2 if size >= 1 or not size else 4 if size >= 0.01 else 6
    return f"{'-' if amount < 0 else ''}${size:,.{digits}f}"


def span(seconds: float) -> str:
    """Seconds for people: to three digits, and in minutes above two."""
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def is_whole(text: str) -> bool:
    """Return whether *text* can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole(text: str) -> str:
    """*text* with halves that stand together made one character, and U+FFFD for each that stays alone."""
    return text if is_whole(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def all_whole(value: Any) -> Any:
    """A copy of *value*, a JSON value, in which every text is `whole`."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, Mapping):
        return {whole(name): all_whole(item) for name, item in value.items()}
    return [all_whole(item) for item in value] if isinstance(value, list) else value


class Chunks:
    """Chunks of one text, each of which is whole: half a pair at the end of one waits for the next."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def add(self, chunk: str) -> str:
        """What can be told once *chunk* has come."""
        if not self._half and chunk.isascii():
            return chunk
        chunk, self._half = self._half + chunk, ""
        if chunk and "\ud800" <= chunk[-1] <= "\udbff":
            chunk, self._half = chunk[:-1], chunk[-1]
        return whole(chunk)

    def end(self) -> str:
        """What is left."""
        half, self._half = self._half, ""
        return whole(half)
