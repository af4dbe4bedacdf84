"""Requests as the batches that ask them: which go together, how many at once, and by which ids they are known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from claude_client._values.fingerprint import fingerprint, to_json
from claude_client._values.request import Request
from claude_client._verbs.batches import parts_of

from ._keys import DIGEST, digest_of

#: What the API takes at the most. It may mean mebibytes, which are more.
MOST_REQUESTS = 100_000
MOST_BYTES = 256_000_000

_OPENING, _CLOSING = b'{"requests":[', b"]}"


@dataclass(frozen=True, slots=True)
class Planned:
    """A batch to be created."""

    headers: Mapping[str, str]
    content: bytes
    #: Of the prompts that it asks.
    digests: frozenset[str]


def later_digest(own: str, request: Request) -> str:
    """What tells a later *request* of a prompt, whose digest is *own*, from its first."""
    return digest_of(own + fingerprint(request))


def id_of(index: int, own: str, later: str) -> str:
    """The `custom_id` of a request: where its prompt stands, its digest, and that of the request, "" for its first."""
    return f"{index}-{own}-{later}" if later else f"{index}-{own}"


def told_by(custom_id: str) -> tuple[str, str]:
    """The digests of the prompt and of the request that a *custom_id* tells; two others, where it is none of ours."""
    _, _, digests = custom_id.partition("-")
    return digests[:DIGEST], digests[DIGEST + 1 :]


def planned(
    client: Any,
    requests: Mapping[int, Request],
    digests: Mapping[int, tuple[str, str]],
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
        asked = {"custom_id": id_of(index, *digests[index]), "params": params}
        line = json.dumps(asked, ensure_ascii=False, separators=(",", ":"), default=to_json).encode()
        if len(line) + len(_OPENING) + len(_CLOSING) > most_bytes:
            raise ValueError(f"prompts[{index}] has {len(line):,} bytes, and a batch takes {most_bytes:,}")
        key = tuple(sorted((name.lower(), value) for name, value in headers.items()))
        batch = open_batches.get(key)
        if batch is None or len(batch.digests) >= most_requests or batch.size + len(line) > most_bytes:
            if batch is not None:
                yield batch.closed(dict(key))
            batch = open_batches[key] = _Open()
        batch.add(line, digests[index][0])
    for key, batch in open_batches.items():
        yield batch.closed(dict(key))


class _Open:
    def __init__(self) -> None:
        self.digests: set[str] = set()
        self._content = bytearray(_OPENING)

    @property
    def size(self) -> int:
        return len(self._content) + 1 + len(_CLOSING)

    def add(self, line: bytes, digest: str) -> None:
        if self.digests:
            self._content += b","
        self._content += line
        self.digests.add(digest)

    def closed(self, headers: Mapping[str, str]) -> Planned:
        self._content += _CLOSING
        content, self._content = bytes(self._content), bytearray()
        return Planned(headers, content, frozenset(self.digests))


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
