"""What is kept of a request once it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from claude_client._values.errors import Kind
from claude_client._values.usage import Usage

#: What a request may wait for before it is sent.
Cause = Literal["worker", "limiter", "cache writer", "rate limit", "retry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One request that is over. Times are seconds by `time.monotonic`, None for what did not happen."""

    #: The model that answered; where none did, the one that was asked.
    model: str
    usage: Usage = Usage()  # noqa: RUF009 - frozen
    #: The kind of its error; None for an answer.
    error: Kind | None = None
    status: int | None = None
    request_id: str | None = None
    queued_at: float | None = None
    sent_at: float | None = None
    first_byte_at: float | None = None
    first_text_at: float | None = None
    ended_at: float | None = None
    #: Seconds before it was sent, by what they were waited for.
    waited: Mapping[Cause, float] = field(default_factory=dict)

    @property
    def cost_usd(self) -> float | None:
        """The price in dollars by the list prices of genai-prices; None for a model it does not know."""
        return self.usage.cost_usd(self.model)
