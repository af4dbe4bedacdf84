"""What is known of a model by its name, whether the API, Bedrock or Vertex spells it."""

from __future__ import annotations

import re

_NAMED = re.compile(r"claude-(?:fable|mythos|opus|sonnet|haiku)-(\d)(?:-(\d)(?!\d))?")
_OLDEST = re.compile(r"claude-(?:2|3|instant)")
_FIRST_WITH_OUTPUT = (4, 1)  # of 4.1 the documents tell both; the API itself says what it is
_FIRST_WITH_MILLION = (4, 6)
_MOST_OUTPUT = {(4, 6): 128_000, (4, 5): 64_000}  # from which version on


def lacks_structured_output(model: str) -> bool:
    """True for a model that is known to have no structured output; False also for one that is not known at all."""
    version = _version(model)
    return version is not None and version < _FIRST_WITH_OUTPUT


def most_output(model: str) -> int:
    """Most tokens that *model*, which has structured output, answers with; the fewest of all for an unknown one."""
    version = _version(model) or (0, 0)
    return next((most for first, most in _MOST_OUTPUT.items() if version >= first), 32_000)


def context_window(model: str) -> int:
    """Tokens of input and output that *model* takes together; the fewest of all for an unknown one."""
    return 1_000_000 if (_version(model) or (0, 0)) >= _FIRST_WITH_MILLION else 200_000


def _version(model: str) -> tuple[int, int] | None:
    if _OLDEST.search(model):
        return (3, 0)
    named = _NAMED.search(model)
    return (int(named[1]), int(named[2] or 0)) if named else None
