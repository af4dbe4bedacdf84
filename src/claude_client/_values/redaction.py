"""Keeps secrets out of all that is kept of a failure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from claude_client._values.kinds import chain

# What is shorter would blot out words and numbers that are none.
_SHORTEST_SECRET = 8
# Parts of header names that hold a secret: gateways have names of their own for it.
_SECRET_WORDS = ("auth", "key", "token", "secret", "cookie", "pass", "cred", "session", "sign")
# ... and of those that name a key which opens nothing.
_PLAIN_WORDS = ("cache", "idempotency")


class Hidden(dict[str, Any]):
    """A dict that does not show what is in it, as in the locals of a traceback."""

    def __repr__(self) -> str:
        return f"<{', '.join(map(repr, self))}: not shown>"


def hide_headers(options: Any) -> None:
    """Have the `extra_headers` in *options*, which are not the caller's, shown by nothing that shows *options*."""
    if isinstance(headers := options.get("extra_headers"), Mapping):
        options["extra_headers"] = Hidden(headers)


def holds_secret(name: str) -> bool:
    """Whether a header or a parameter of that *name* holds a secret."""
    name = name.lower()
    return any(word in name for word in _SECRET_WORDS) and not any(word in name for word in _PLAIN_WORDS)


def without_secrets(exc: BaseException, secrets: Sequence[str]) -> BaseException | None:
    """
    *exc*, changed so that neither it nor an error in its chain shows one of *secrets*: not in their texts, in what they
    keep of request and response, or in the locals of the frames that they passed. None where that is not possible.
    """
    if not secrets:
        return exc
    for link in chain(exc):
        link.__traceback__ = None
        link.args = tuple(scrubbed([*link.args], secrets))
        _scrub_attributes(link, secrets)
        if isinstance(link, UnicodeDecodeError):
            link.object = scrubbed(link.object, secrets)
        for name in ("request", "_request", "response"):
            if (part := vars(link).get(name)) is not None:
                _scrub_exchange(part, secrets)
    return None if _shows(exc, secrets) else exc


def _scrub_attributes(value: object, secrets: Sequence[str]) -> None:
    for name, item in [*vars(value).items()]:
        if isinstance(item, (str, bytes, list, dict)):
            with suppress(Exception):
                setattr(value, name, scrubbed(item, secrets))


def _scrub_exchange(part: Any, secrets: Sequence[str]) -> None:
    """Clean a request or response of httpx, of which nobody needs more than what is said in it."""
    with suppress(Exception):
        for name, item in [*part.headers.items()]:
            part.headers[name] = without(item, secrets)
    _scrub_attributes(part, secrets)
    if (request := vars(part).get("_request")) is not None:
        _scrub_exchange(request, secrets)


def _shows(exc: BaseException, secrets: Sequence[str]) -> bool:
    """Return whether the text of *exc*, or of any error in its chain, holds one of *secrets* or a piece of one."""
    text = "\n".join(f"{link}\n{link!r}" for link in chain(exc))
    return any(piece in text for secret in secrets for piece in _pieces(secret))


def _pieces(secret: str) -> set[str]:
    """*secret* as a text may show it: as it is, escaped, or cut where a character is not plain."""
    plain = re.split(r"[^\x21-\x7e]+", secret)
    return {piece for piece in (secret, repr(secret)[1:-1], *plain) if len(piece) >= _SHORTEST_SECRET}


def without(text: str, secrets: Sequence[str]) -> str:
    """*text* with all of *secrets* blotted out."""
    for secret in secrets:
        for piece in sorted(_pieces(secret), key=len, reverse=True):
            text = text.replace(piece, "[redacted]")
    return text


def scrubbed(value: Any, secrets: Sequence[str]) -> Any:
    """*value*, a JSON body, with every text cleaned."""
    if isinstance(value, str):
        return without(value, secrets)
    if isinstance(value, bytes):
        return without(value.decode("latin-1"), secrets).encode("latin-1")
    if isinstance(value, Mapping):
        return {key: scrubbed(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item, secrets) for item in value]
    return value
