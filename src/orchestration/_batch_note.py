"""What is noted of a batch, before it is created and after, so that it is found again whatever happens."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Self

from ._keys import DIGEST


@dataclass(slots=True, eq=False)
class Note:
    """A batch that was created, or may have been."""

    #: The digests of the prompts that it asks.
    digests: frozenset[str]
    #: Seconds since the epoch, before which it was not created.
    created_after: float
    #: What tells it from all others, in the ids of its requests.
    nonce: str = ""
    #: The API's; None while nobody knows whether it was created.
    id: str | None = None
    #: Whether it is known to be ours, and not only to have our size.
    is_sure: bool = False
    #: Whether we had it cancelled, or were about to.
    is_cancelled: bool = False
    #: Its number in the journal; None where it is in none.
    number: int | None = None
    #: When it was created or taken up, by `time.monotonic`.
    since: float = field(default_factory=time.monotonic)
    #: The ids of its requests whose results were taken.
    taken: set[str] = field(default_factory=set)
    #: How often its results were downloaded.
    downloads: int = 0

    def to_json(self) -> str:
        """All that another process has to know."""
        return json.dumps(
            {
                "batch": self.id,
                "nonce": self.nonce,
                "sure": self.is_sure,
                "cancelled": self.is_cancelled,
                "created_after": self.created_after,
                "requests": len(self.digests),
                "digests": "".join(sorted(self.digests)),
            }
        )

    @classmethod
    def from_json(cls, told: str, number: int) -> Self:
        """The note from what `to_json` gave."""
        said = json.loads(told)
        joined = said["digests"]
        return cls(
            frozenset(joined[start : start + DIGEST] for start in range(0, len(joined), DIGEST)),
            said["created_after"],
            said["nonce"],
            said["batch"],
            said["sure"],
            said["cancelled"],
            number,
        )
