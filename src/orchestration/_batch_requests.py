"""Requests as the batches that ask them: which go together, how many at once, and by which ids they are known."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from claude_client._values.fingerprint import to_json
from claude_client._values.request import Request
from claude_client._verbs.batches import parts_of

from ._keys import DIGEST, digest_of

#: What the API takes at the most. It may mean mebibytes, which are more.
MOST_REQUESTS = 100_000
MOST_BYTES = 256_000_000

#: Letters of a batch's own in the ids of its requests.
NONCE = 8

_OPENING, _CLOSING = b'{"requests":[', b"]}"


@dataclass(frozen=True, slots=True)
class Planned:
    """A batch to be created."""

    headers: Mapping[str, str]
    content: bytes
    #: Of the prompts that it asks.
    digests: frozenset[str]
    #: What tells it from all others, in the ids of its requests.
    nonce: str


class Told(NamedTuple):
    """What the `custom_id` of a request tells."""

    #: The digest of its prompt, and what tells the request from the first of that; "" for the first.
    own: str
    later: str
    #: That of its batch.
    nonce: str


def later_digest(own: str, first: Request, request: Request) -> str:
    """What tells a later *request* of a prompt, whose digest is *own*, from its *first*; "" for that."""
    if request.messages is first.messages and request.max_tokens == first.max_tokens:
        return ""
    more = [own, request.max_tokens, len(request.messages), request.messages[len(first.messages) :]]
    return digest_of(json.dumps(more, default=to_json))


def id_of(index: int, told: Told) -> str:
    """The `custom_id` of a request, of a prompt that stands at *index*."""
    return "-".join((str(index), *filter(None, told)))


def told_by(custom_id: str) -> Told:
    """What a *custom_id* tells; something, where it is none of ours."""
    _, _, told = custom_id.partition("-")
    return Told(told[:DIGEST], told[DIGEST + 1 : -NONCE - 1], told[-NONCE:])


def planned(
    client: Any,
    requests: Mapping[int, Request],
    digests: Mapping[int, tuple[str, str]],
    refuse: Callable[[int, ValueError], object],
    *,
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
) -> Iterator[Planned]:
    """
    The batches that ask *requests*, each written once: those with the same headers together, as many as the API takes.
    One is written at a time.

    Args:
        digests: Of each prompt, and what tells its request from the first, as in `Told`.

        refuse: Called with the index of a request that cannot be written, or is too large for any batch, and why.
    """
    batch: _Open | None = None
    for index in _in_groups(requests):
        try:
            headers, params = parts_of(client, requests[index])
        except ValueError as bad:  # a file of it is gone
            refuse(index, bad)
            continue
        line = _line(index, *digests[index], batch.nonce if batch else "-" * NONCE, params)
        if len(line) + len(_OPENING) + len(_CLOSING) > most_bytes:
            refuse(index, ValueError(f"it has {len(line):,} bytes, and a batch takes {most_bytes:,}"))
            continue
        key = tuple(sorted((name.lower(), value) for name, value in headers.items()))
        if batch is None or batch.key != key or not batch.has_room(line, most_requests, most_bytes):
            if batch is not None:
                yield batch.closed()
            batch = _Open(key)
            line = _line(index, *digests[index], batch.nonce, params)
        batch.add(line, digests[index][0])
    if batch is not None:
        yield batch.closed()


def _in_groups(requests: Mapping[int, Request]) -> list[int]:
    """The indices of *requests*, those together that are most likely to have the same headers."""
    groups: dict[object, list[int]] = {}
    for index, request in requests.items():
        said = (
            tuple(sorted(request.extra_headers.items(), key=str)) if request.extra_headers else (),
            request.params.keys(),
        )
        groups.setdefault((said[0], frozenset(said[1])), []).append(index)
    ordered = sorted(groups.items(), key=lambda group: (str(group[0][0]), sorted(group[0][1])))  # type: ignore[index]
    return [index for _, group in ordered for index in group]


def _line(index: int, own: str, later: str, nonce: str, params: Mapping[str, Any]) -> bytes:
    asked = {"custom_id": id_of(index, Told(own, later, nonce)), "params": params}
    return json.dumps(asked, ensure_ascii=False, separators=(",", ":"), default=to_json).encode()


class _Open:
    """A batch that is being written."""

    def __init__(self, key: tuple[tuple[str, str], ...]) -> None:
        self.key = key
        self.nonce = secrets.token_urlsafe(NONCE)[:NONCE]
        self._digests: set[str] = set()
        self._content = bytearray(_OPENING)

    def has_room(self, line: bytes, most_requests: int, most_bytes: int) -> bool:
        size = len(self._content) + 1 + len(line) + len(_CLOSING)
        return len(self._digests) < most_requests and size <= most_bytes

    def add(self, line: bytes, digest: str) -> None:
        if self._digests:
            self._content += b","
        self._content += line
        self._digests.add(digest)

    def closed(self) -> Planned:
        self._content += _CLOSING
        content, self._content = bytes(self._content), bytearray()
        return Planned(dict(self.key), content, frozenset(self._digests), self.nonce)


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
