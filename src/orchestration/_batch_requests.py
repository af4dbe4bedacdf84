"""Requests as the batches that ask them: which go together, how many at once, and by which ids they are known."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from claude_client._values.fingerprint import fingerprint, to_json
from claude_client._values.request import Request
from claude_client._verbs.batches import parts_of

#: What the API takes at the most. It may mean mebibytes, which are more.
MOST_REQUESTS = 100_000
MOST_BYTES = 256_000_000

_OPENING, _CLOSING = b'{"requests":[', b"]}"


@dataclass(frozen=True, slots=True)
class Planned:
    """A batch to be created."""

    headers: Mapping[str, str]
    content: bytes
    #: The index of each of its requests, by the digest in its id.
    indices: Mapping[str, int]


def digests_of(requests: Mapping[int, Request]) -> dict[int, str]:
    """
    What tells each request from others in the ids of a batch: by all that its answer depends on and its `task_id`, and
    the number of those before it that are equal. The same in every process.
    """
    before: Counter[tuple[str, str | None]] = Counter()
    digests = {}
    for index, request in requests.items():
        same = (fingerprint(request), request.task_id)
        digests[index] = _digest(json.dumps([*same, before[same]]))
        before[same] += 1
    return digests


def digest_of(first: str, request: Request) -> str:
    """The digest of a later *request* of the task whose first request has the digest *first*."""
    return _digest(first + fingerprint(request))


def _digest(said: str) -> str:
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(said.encode()).digest()).decode().rstrip("=")


def id_of(index: int, digest: str) -> str:
    """The `custom_id` of a request."""
    return f"{index}-{digest}"


def told_by(custom_id: str) -> tuple[int, str]:
    """
    The index and the digest that a *custom_id* tells.

    Raises:
        ValueError: If it is none of ours.
    """
    index, _, digest = custom_id.partition("-")
    return int(index), digest


def planned(
    client: Any,
    requests: Mapping[int, Request],
    digests: Mapping[int, str],
    *,
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
) -> Iterator[Planned]:
    """
    The batches that ask *requests*, each written once: those with the same headers together, as many as the API takes.

    Raises:
        ValueError: For a request that is too large for any batch.
    """
    open_batches: dict[tuple[tuple[str, str], ...], _Open] = {}
    for index, request in requests.items():
        headers, params = parts_of(client, request)
        asked = {"custom_id": id_of(index, digests[index]), "params": params}
        line = json.dumps(asked, ensure_ascii=False, separators=(",", ":"), default=to_json).encode()
        if len(line) + len(_OPENING) + len(_CLOSING) > most_bytes:
            raise ValueError(f"prompts[{index}] has {len(line):,} bytes, and a batch takes {most_bytes:,}")
        key = tuple(sorted(headers.items()))
        batch = open_batches.get(key)
        if batch is None or len(batch.indices) >= most_requests or batch.size + len(line) > most_bytes:
            if batch is not None:
                yield batch.closed(headers)
            batch = open_batches[key] = _Open()
        batch.add(line, index, digests[index])
    for key, batch in open_batches.items():
        yield batch.closed(dict(key))


class _Open:
    def __init__(self) -> None:
        self.indices: dict[str, int] = {}
        self._content = bytearray(_OPENING)

    @property
    def size(self) -> int:
        return len(self._content) + 1 + len(_CLOSING)

    def add(self, line: bytes, index: int, digest: str) -> None:
        if self.indices:
            self._content += b","
        self._content += line
        self.indices[digest] = index

    def closed(self, headers: Mapping[str, str]) -> Planned:
        self._content += _CLOSING
        content, self._content = bytes(self._content), bytearray()
        return Planned(headers, content, self.indices)


def shapes_of(client: Any, requests: Iterable[Request]) -> list[Request]:
    """One request of each shape: of each model, with the same parameters by name, and headers."""
    found: dict[Any, Request] = {}
    for request in requests:
        headers, params = parts_of(client, request)
        shape = (request.model, tuple(sorted(params)), tuple(sorted(headers.items())), _kinds(request.messages))
        found.setdefault(shape, request)
    return [*found.values()]


def _kinds(messages: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The types of blocks in *messages*."""
    return frozenset(
        str(block.get("type"))
        for message in messages
        for block in (message["content"] if isinstance(message["content"], list) else ())
    )
