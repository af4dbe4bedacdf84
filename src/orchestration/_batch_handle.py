"""What it takes to collect the results of batches elsewhere: plain data, with no secrets and no prompts."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class BatchHandle:
    """
    Batches that ask the prompts of a run, which `collect_batch` collects on any machine with a key of their workspace,
    within 29 days.
    """

    #: The API's ids of the batches, in the order of their creation.
    batches: tuple[str, ...]
    #: One for each prompt, by which its answers are known; "" for one that is not asked.
    digests: tuple[str, ...] = field(repr=False)

    @property
    def prompts(self) -> int:
        """How many prompts the run has."""
        return len(self.digests)

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return {"batches": [*self.batches], "digests": [*self.digests]}

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """
        The handle from what `to_json` gave.

        Raises:
            ValueError: If it is none; the message shows it.
        """
        if not isinstance(said, dict) or said.keys() != {"batches", "digests"}:
            raise ValueError(f"a handle is a dict with 'batches' and 'digests', got {str(said)[:200]}")
        for name, texts in said.items():
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"a handle's {name} are a list of strings, got {str(texts)[:200]}")
        for batch in said["batches"]:
            if not re.fullmatch(r"[\w-]+", batch, re.ASCII):  # it is put into a path
                raise ValueError(f"a handle's batches are ids of the API, got {batch!r}")
        return cls(tuple(said["batches"]), tuple(said["digests"]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to the file *path*, which is replaced as a whole."""
        new = Path(f"{os.fspath(path)}.new")
        new.write_text(json.dumps(self.to_json()), encoding="utf-8")
        new.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """
        The handle from a file that `save` wrote.

        Raises:
            ValueError: If it has none.
            OSError: If it cannot be read.
        """
        return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
