"""What is known of a rate limit, as a plain value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """
    What is known of the limit of a model. Its calls share it: those of this process, and of all that share a file.

    None stands for what no answer has said or shown yet.
    """

    model: str
    #: Requests per second that are let through at the most; None while no limit is known.
    pace: float | None
    #: Why calls are held back; None while they are not.
    held_back: str | None
    #: The time, as of `time.time`, when calls may go again; None while they may.
    shut_until: float | None
    #: What the API's headers said last: the limit of requests, and how many of it are surely left.
    requests_limit: int | None
    requests_remaining: int | None
    #: The same in input tokens.
    input_tokens_limit: int | None
    input_tokens_remaining: int | None
    #: How many requests were sent, and how many of them the API rejected with a 429.
    admitted: int
    rejected: int
