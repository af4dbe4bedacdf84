"""`SeenRequest`: the record of a request, with no credential in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from ._prompt import prompt_text, tool_results

Outcome = Literal["in_flight", "answered", "rejected", "faulted", "disconnected"]

_SECRET_WORDS = ("authorization", "cookie", "key", "secret", "token")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """
    The record of a request and its end. Times are in seconds since the simulator started.

    Args:
        index: Its place in the order of arrival, from 0.

        path: Without the query.

        headers: Names in lower case; credentials read ``<redacted>``.

        body: The parsed JSON object; empty if it was none.

        started: When it had arrived whole.

        ended: When the last byte of its answer was handed over, or the connection was lost; None
            while it is in flight.

        status: The status sent; None if none was.

        outcome: ``answered`` is a whole answer, ``rejected`` an error status, ``faulted`` a broken
            answer, ``disconnected`` a client that left before the end.

        fault: The fault of the reply it got; None if it had none.

        usage: As sent; None if no answer began.

        in_flight: How many requests were in flight when it arrived, itself included.

        answer: The text sent so far.
    """

    index: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    request_id: str
    started: float
    in_flight: int
    ended: float | None = None
    status: int | None = None
    outcome: Outcome = "in_flight"
    fault: str | None = None
    usage: Mapping[str, Any] | None = None
    answer: str = ""

    @property
    def api_version(self) -> str | None:
        """The anthropic-version header."""
        return self.headers.get("anthropic-version")

    @property
    def stream(self) -> bool:
        """True if it asked for a stream."""
        return self.body.get("stream") is True

    @property
    def text(self) -> str:
        """The whole text of its prompt: system, messages and tools."""
        return prompt_text(self.body)

    @property
    def tool_results(self) -> tuple[Mapping[str, Any], ...]:
        """The tool_result blocks of its last message, in their order."""
        return tool_results(self.body)

    def as_json(self) -> dict[str, Any]:
        """The record as an object that JSON can hold."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        return record | {"api_version": self.api_version, "stream": self.stream, "text": self.text}


def redacted(headers: Mapping[str, str]) -> dict[str, str]:
    """*headers* with every value that may be a credential replaced."""
    return {name: "<redacted>" if _is_secret(name) else value for name, value in headers.items()}


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET_WORDS)
