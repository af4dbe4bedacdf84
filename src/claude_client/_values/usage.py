"""The tokens that calls have used, and their price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """
    Tokens used by one call or, added up, by many. Counts the API leaves out are 0.

    The numbers are the API's own. Its `input_tokens` are only those after the last cache breakpoint;
    `total_input_tokens` is the whole prompt.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    #: The part of `cache_creation_input_tokens` that was written to stay for an hour.
    cache_creation_1h_input_tokens: int = 0
    web_search_requests: int = 0

    @classmethod
    def of(cls, usage: Any) -> Usage:
        """The numbers of the SDK's `usage` object. What is missing, or is no count, is 0."""
        said = _fields_of(usage)
        return cls(
            input_tokens=_count(said.get("input_tokens")),
            output_tokens=_count(said.get("output_tokens")),
            cache_creation_input_tokens=_count(said.get("cache_creation_input_tokens")),
            cache_read_input_tokens=_count(said.get("cache_read_input_tokens")),
            cache_creation_1h_input_tokens=_part(said, "cache_creation", "ephemeral_1h_input_tokens"),
            web_search_requests=_part(said, "server_tool_use", "web_search_requests"),
        )

    @property
    def total_input_tokens(self) -> int:
        """Number of tokens of the prompt: read from the cache, written to it, and neither."""
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))

    def cost_usd(self, model: str) -> float | None:
        """
        The price in dollars at *model*'s list price as genai-prices knows it; None for a model it does not know.

        Raises:
            ImportError: Without the `cost` extra.
        """
        try:
            from genai_prices import extract_usage
        except ImportError as missing:
            raise ImportError("costs need genai-prices: pip install genai-prices") from missing
        try:
            extracted = extract_usage({"model": model, "usage": self._as_api_usage()}, provider_id="anthropic")
            return float(extracted.calc_price().total_price)
        except LookupError:
            return None

    def _as_api_usage(self) -> dict[str, Any]:
        written_1h = self.cache_creation_1h_input_tokens
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_creation_input_tokens": self.cache_creation_input_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_creation_input_tokens - written_1h,
                "ephemeral_1h_input_tokens": written_1h,
            },
            "server_tool_use": {"web_search_requests": self.web_search_requests},
        }


def sum_of_costs(costs: Iterable[float | None]) -> float | None:
    """The sum of *costs* in dollars; None if one of them is not known."""
    known = [*costs]
    return None if None in known else sum(cost for cost in known if cost is not None)


def _part(said: Mapping[str, Any], name: str, count: str) -> int:
    """A *count* in a part of a usage that the API may leave out."""
    return _count(_fields_of(said.get(name)).get(count))


def _fields_of(said: Any) -> Mapping[str, Any]:
    return said if isinstance(said, dict) else getattr(said, "__dict__", {})


def _count(said: Any) -> int:
    """*said* if it is a count, else 0: a text or an infinity must not get into sums, nor into the rate gate."""
    return said if type(said) is int and said > 0 else 0
