"""What it takes to collect the results of batches elsewhere: plain data, with no secrets and no prompts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from claude_client._values.checks import text, whole_number


@dataclass(frozen=True, slots=True)
class BatchHandle:
    """
    Batches that ask the prompts of a run, which `collect_batch` collects on any machine with a key of their workspace,
    within 29 days.
    """

    #: The API's ids of the batches.
    batches: tuple[str, ...]
    #: How many prompts the run has.
    prompts: int

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return {"batches": [*self.batches], "prompts": self.prompts}

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """
        The handle from what `to_json` gave.

        Raises:
            ValueError: If it is none; the message shows it.
        """
        if not isinstance(said, dict) or said.keys() != {"batches", "prompts"} or not isinstance(said["batches"], list):
            raise ValueError(f"a handle is a dict with 'batches' and 'prompts', got {said!r}")
        batches = tuple(text("a batch's id", batch) for batch in said["batches"])
        return cls(batches, whole_number("prompts", said["prompts"], 1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to the file *path*, which is replaced."""
        Path(path).write_text(json.dumps(self.to_json()), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """
        The handle from a file that `save` wrote.

        Raises:
            ValueError: If it has none.
            OSError: If it cannot be read.
        """
        return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
