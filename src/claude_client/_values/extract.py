"""The JSON value in a free text, for models and cases without structured output."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

_SHOWN = 200  # characters of a text in an error
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_OPENED = re.compile(r"[\[{]")


def extract_json(answer: str) -> Any:
    """
    The one JSON object or array in *answer*: the whole of it, in a fence, or with text around it.

    Nothing is guessed: more than one is an error, and so is JSON that is not whole. A value that is only a number or a
    text counts where it is the whole answer, or all of a fence.

    Raises:
        ValueError: If there is none, or more than one; with what was seen.
    """
    fenced = [found[2] for found in _FENCED.finditer(answer)]
    for text in (answer, *(fenced if len(fenced) == 1 else ())):
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    found = _values_in(answer)
    if len(found) == 1:
        return found[0]
    shown = answer if len(answer) <= _SHOWN else answer[: _SHOWN - 1] + "\u2026"
    raise ValueError(f"{len(found) or 'no'} JSON values in the answer, not one: {shown!r}")


def _values_in(text: str) -> list[Any]:
    """The objects and arrays in *text*, those within others not counted."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while start := _OPENED.search(text, position):
        try:
            value, position = decoder.raw_decode(text, start.start())
        except json.JSONDecodeError as broken:
            if broken.pos >= len(text.rstrip()) or broken.msg.startswith("Unterminated"):
                raise ValueError(f"the JSON in the answer is cut off: {text[-_SHOWN:]!r}") from broken
            position = start.end()
        except RecursionError:
            raise ValueError("the JSON in the answer is nested too deeply to be read") from None
        else:
            found.append(value)
    return found
