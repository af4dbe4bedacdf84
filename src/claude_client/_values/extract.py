"""The JSON value in a free text, for models and cases without structured output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_SHOWN = 200  # characters of a text in an error
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_BRACKET = re.compile(r"[\[{\]}]")
# How an object or an array goes on after its bracket. Others are brackets of the text around.
_BEGINS = {"{": re.compile(r'\s*["}]'), "[": re.compile(r'\s*(?:["\[{\]\-\d]|true|false|null)')}
_DECODER = json.JSONDecoder()


def extract_json(answer: str) -> Any:
    """
    The one JSON object or array in *answer*: the whole of it, in a fence, or with text around it.

    Nothing is guessed: more than one is an error, and so is JSON that is not whole or has a mistake. A value that is
    only a number or a text counts where it is the whole answer, or all of a fence.

    Raises:
        ValueError: If there is none, or more than one; with what was seen.
    """
    with suppress(ValueError, RecursionError):
        return json.loads(answer)
    found = [value for part in _parts_of(answer) for value in part]
    if len(found) == 1:
        return found[0]
    raise ValueError(f"{len(found) or 'no'} JSON values in the answer, not one: {_shown(answer)}")


def _parts_of(answer: str) -> Iterator[list[Any]]:
    """The values of each fence, and those outside of all."""
    for fence in _FENCED.finditer(answer):
        try:
            yield [json.loads(fence[2])]
        except (ValueError, RecursionError):
            yield _values_in(fence[2])
    yield _values_in(_FENCED.sub("", answer))


def _values_in(text: str) -> list[Any]:
    """The objects and arrays in *text*, those within others not counted."""
    found: list[Any] = []
    around: list[tuple[int, ...]] = []  # of each, the brackets of the text that are open there
    opened: list[int] = []
    closed: set[int] = set()
    position = 0
    while bracket := _BRACKET.search(text, position):
        position = bracket.end()
        begins = _BEGINS.get(bracket[0])
        if begins is None:
            if opened:
                closed.add(opened.pop())
        elif begins.match(text, position):
            value, position = _decoded(text, bracket.start())
            found.append(value)
            around.append((*opened,))
        else:
            opened.append(bracket.start())
    if any(start in closed for starts in around for start in starts):
        raise ValueError(f"what is around the JSON in the answer may belong to it, and is none: {_shown(text)}")
    return found


def _decoded(text: str, start: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as broken:
        if broken.pos >= len(text.rstrip()) or broken.msg.startswith("Unterminated"):
            raise ValueError(f"the JSON in the answer is cut off: {text[-_SHOWN:]!r}") from broken
        raise ValueError(
            f"the JSON in the answer has a mistake: {broken.msg} at {_shown(text[broken.pos :])}"
        ) from broken
    except RecursionError:
        raise ValueError("the JSON in the answer is nested too deeply to be read") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "\u2026")
