"""A text that matches a regular expression, of those that the API takes in schemas (facts 2)."""

from __future__ import annotations

import itertools
import re
import string

# What a class of characters is tried with, in this order.
_LIKELY = string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation + " \n\t"
_ANY = range(0x80, 0xD800)

_REFUSED = {
    "lookarounds": re.compile(r"\(\?<?[=!]"),
    "word boundaries": re.compile(r"\\[bB]"),
    "backreferences": re.compile(r"\\[1-9]|\(\?P="),
}
_ANCHOR = re.compile(r"[\^$]")
_GROUP = re.compile(r"\((?:\?:|\?P?<\w+>|(?!\?))")
_ONE = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^(]", re.DOTALL)
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(\d*)(?:,\d*)?\})[?+]?")


def text_matching(pattern: str) -> str:
    """
    A short text in which *pattern* is found, always the same.

    Raises:
        ValueError: If it is no regular expression, or uses what the API does not take.
    """
    try:
        expression = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(str(error)) from None
    text = _Reader(pattern).alternatives()
    if not expression.search(text):
        raise ValueError("no text is known to match it")
    return text


class _Reader:
    """Reads a pattern from left to right, and gives what its parts match at least."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._place = 0

    def alternatives(self) -> str:
        """The text of the first alternative from here on; all are read."""
        first = self._sequence()
        while self._take(re.compile(r"\|")):
            self._sequence()
        return first

    def _sequence(self) -> str:
        text = ""
        while self._pattern[self._place :][:1] not in ("", "|", ")"):
            text += self._repeated()
        return text

    def _repeated(self) -> str:
        part = self._part()
        quantifier = self._take(_QUANTIFIER)
        if not quantifier:
            return part
        return part * (int(quantifier[1] or 0) if quantifier[1] is not None else quantifier[0][0] == "+")

    def _part(self) -> str:
        for name, refused in _REFUSED.items():
            if refused.match(self._pattern, self._place):
                raise ValueError(f"{name} are not supported")
        if self._take(_ANCHOR):
            return ""
        if self._take(_GROUP):
            text = self.alternatives()
            self._place += 1
            return text
        if one := self._take(_ONE):
            return _character(one[0])
        raise ValueError(f"{self._pattern[self._place :][:3]} is not supported")

    def _take(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        found = expression.match(self._pattern, self._place)
        self._place = found.end() if found else self._place
        return found


def _character(source: str) -> str:
    """A character that *source* matches, which is a class, an escape or a character."""
    tried = itertools.chain(_LIKELY, map(chr, _ANY))
    return next((character for character in tried if re.fullmatch(source, character)), "")
