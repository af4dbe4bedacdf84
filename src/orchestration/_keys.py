"""What tells each request of a run from all others: the same in every process."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from claude_client._values.fingerprint import fingerprint
from claude_client._values.request import Request
from claude_client._values.text import whole

#: Characters of a digest: of 132 bits.
DIGEST = 22


class Key(NamedTuple):
    """The `fingerprint` of a request, its `task_id`, and the number of requests before it with the same two."""

    asked: str
    task_id: str | None
    nth: int

    @property
    def digest(self) -> str:
        """A short form of it."""
        return digest_of("\n".join((self.asked, str(self.nth), *filter(None, [self.task_id]))))


def keys_of(requests: Iterable[Request]) -> list[Key]:
    """
    The key of each of *requests*.

    Raises:
        ValueError: For a request with a file that can no longer be read.
    """
    before: Counter[tuple[str, str | None]] = Counter()
    keys = []
    for i, request in enumerate(requests):
        try:
            same = (fingerprint(request), None if request.task_id is None else whole(request.task_id))
        except ValueError as unknown:
            raise ValueError(f"prompts[{i}]: {unknown}") from unknown
        keys.append(Key(*same, before[same]))
        before[same] += 1
    return keys


def digest_of(said: str) -> str:
    """A hash, in letters that the ids of a batch's requests may have."""
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(said.encode()).digest())[:DIGEST].decode()
