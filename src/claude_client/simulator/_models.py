"""The rules that differ by model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ._errors import RejectedError, Rejection

# Facts 8: the models that are served, in any dated snapshot.
KNOWN = frozenset(
    f"claude-{family}-{generation}"
    for family, generations in {
        "fable": ("5", "5-1", "5-2"),
        "mythos": ("preview", "5", "5-1", "5-2"),
        "opus": ("4-5", "4-6", "4-7", "4-8", "5", "5-5"),
        "sonnet": ("4-5", "4-6", "5", "5-5"),
        "haiku": ("4-5", "5-5"),
    }.items()
    for generation in generations
)

# Facts 2: minimum cacheable prefix, in tokens. A model that is not found here has DEFAULT_MINIMUM.
MINIMUM_PREFIX = {
    "claude-opus-5": 512,
    "claude-fable-5": 512,
    "claude-fable-5-1": 512,
    "claude-mythos-5": 512,
    "claude-opus-4-7": 2048,
    "claude-mythos-preview": 2048,
    "claude-opus-4-6": 4096,
    "claude-opus-4-5": 4096,
    "claude-haiku-4-5": 4096,
}
DEFAULT_MINIMUM = 1024

# Facts 5: models that refuse a forced tool, and those that refuse to do without thinking.
NO_FORCED_TOOL = frozenset(
    {
        "claude-fable-5-1",
        "claude-fable-5-2",
        "claude-mythos-5-1",
        "claude-mythos-5-2",
        "claude-opus-5-5",
        "claude-sonnet-5-5",
    }
)
ALWAYS_THINKS = frozenset(
    {"claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5", "claude-fable-5-1", "claude-fable-5-2"}
)

# Facts 5: models with a fast mode.
FAST = frozenset({"claude-opus-5-5", "claude-opus-5", "claude-opus-4-8"})

_DATE = re.compile(r"-\d{8}$")
_VERSION = re.compile(r"claude-(?:opus|sonnet|haiku)-(\d)(?:-(\d))?")
_OLD = re.compile(r"claude-(?:2|3|instant)")
_NEWEST = (99, 0)


def undated(model: str) -> str:
    """The model's id without the date of a snapshot."""
    return _DATE.sub("", model)


def minimum_prefix(model: str) -> int:
    """Fewest tokens that *model* caches."""
    return MINIMUM_PREFIX.get(undated(model), DEFAULT_MINIMUM)


def version(model: str) -> tuple[int, int]:
    """The model's generation; a family or name that is not known counts as newest."""
    if _OLD.match(model):
        return (3, 0)
    found = _VERSION.fullmatch(undated(model))
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def takes_sampling(model: str) -> bool:
    """Return whether *model* still takes a temperature other than the default (facts 1)."""
    return version(model) <= (4, 6)


def takes_prefill(model: str) -> bool:
    """Return whether *model* goes on from a last message of the assistant (facts 5)."""
    return version(model) < (4, 6)


def most_output(model: str) -> int:
    """Most tokens that *model* answers with (facts 8)."""
    return 64_000 if version(model) <= (4, 5) else 128_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """
    The models that a simulator serves.

    Args:
        told: Names besides the API's.

        window: Tokens of every model's context window; None is the API's.
    """

    told: frozenset[str] = frozenset()
    window: int | None = None

    def check(self, model: str) -> None:
        """Check that *model* is served."""
        if model not in self.told and undated(model) not in KNOWN:
            raise RejectedError(Rejection(type="not_found_error", message=f"model: {model}"))

    def context_window(self, model: str) -> int:
        """Most tokens that a prompt for *model* and its answer have together (facts 8)."""
        return self.window or (200_000 if version(model) <= (4, 5) else 1_000_000)

    def info(self, model: str) -> dict[str, Any]:
        """The answer of GET /v1/models/{id} for *model*."""
        return {
            "type": "model",
            "id": model,
            "display_name": model,
            "created_at": "1970-01-01T00:00:00Z",
            "lifecycle": "active",
            "max_input_tokens": self.context_window(model),
            "max_tokens": most_output(model),
        }
