"""What a fan-out ends with: the list of its answers, and the error that carries it where a prompt failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._errors import ClaudeInvocationError
from ._response import ClaudeResponse, total
from ._usage import Usage


class Results(list["ClaudeResponse | ClaudeInvocationError | None"]):
    """The answers of a fan-out in prompt order; None, or with `return_exceptions` the error, where a prompt failed."""

    def __init__(
        self,
        answers: Iterable[ClaudeResponse | ClaudeInvocationError | None] = (),
        errors: Mapping[int, ClaudeInvocationError] | None = None,
    ) -> None:
        super().__init__(answers)
        #: The error of each failed prompt, by its index.
        self.errors: dict[int, ClaudeInvocationError] = dict(errors or {})

    @property
    def usage(self) -> Usage:
        """Tokens used by all answers and, as far as the API had said, by the failed ones."""
        answered = [answer.usage for answer in self if isinstance(answer, ClaudeResponse)]
        return total([*answered, *(error.usage for error in self.errors.values())])


class ParallelInvocationError(ClaudeInvocationError):
    """At least one prompt of a fan-out failed. Its other fields are those of the lowest failed index."""

    def __init__(self, message: str, *, results: Results | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        #: The answers in prompt order, None where a prompt failed.
        self.results = Results() if results is None else results

    @property
    def errors(self) -> dict[int, ClaudeInvocationError]:
        """The error of each failed prompt, by its index."""
        return self.results.errors

    @classmethod
    def of(cls, results: Results) -> ParallelInvocationError:
        """The error for a fan-out that ended with *results*, of which at least one is an error."""
        index = min(results.errors)
        first = results.errors[index]
        return cls(
            f"{len(results.errors)} of {len(results)} prompts failed; prompts[{index}]: {first}",
            results=results,
            **vars(first),
        )
