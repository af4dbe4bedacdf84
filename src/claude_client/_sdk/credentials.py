"""Finds the API key, in the environment or a file. No message here ever holds a key, or any content of a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

KEY_FILE = "ANTHROPIC_API_KEY.txt"
JSON_FILE = "API_CREDENTIALS.json"
JSON_NAME = "anthropic_api_key"

#: Claude's project-knowledge folder, then the folder we are in.
FOLDERS = ("/mnt/project", ".")

# Static credentials: the environment variable, and the SDK's argument for it.
_STATIC = {"ANTHROPIC_API_KEY": "api_key", "ANTHROPIC_AUTH_TOKEN": "auth_token"}
_IDENTITY = ("ANTHROPIC_IDENTITY_TOKEN", "ANTHROPIC_IDENTITY_TOKEN_FILE")
_FEDERATION = ("ANTHROPIC_FEDERATION_RULE_ID", "ANTHROPIC_ORGANIZATION_ID")
#: The variables that the network of a client is built from.
NETWORK = (
    *(name for upper in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY") for name in (upper, upper.lower())),
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
# The variables that a client is built from: another value means another client.
_READ = (
    *_STATIC,
    *_IDENTITY,
    *_FEDERATION,
    "ANTHROPIC_PROFILE",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_CONFIG_DIR",
    "ANTHROPIC_CUSTOM_HEADERS",
    *NETWORK,
)
_ENCODED = tuple(map(os.environ.encodekey, _READ))


def environment() -> tuple[Any, ...]:
    """The part of the environment that a client is built from, to notice when it changes."""
    read = getattr(os.environ, "_data", None)  # asked for every call, and ten times as fast
    return tuple(map(read.get, _ENCODED)) if isinstance(read, dict) else tuple(map(os.environ.get, _READ))


def find_credentials(folders: Sequence[str | os.PathLike[str]] = FOLDERS) -> dict[str, str]:
    """
    The SDK's credential arguments, from the environment or else from the first key file in *folders*.

    Empty where the SDK is to look for itself, which it does for a profile or workload identity.

    Raises:
        ValueError: Naming the source of a key that cannot be one, or a file that cannot be read.
    """
    static = {
        argument: _checked(value, f"The environment variable {name}")
        for name, argument in _STATIC.items()
        if (value := os.environ.get(name))
    }
    if static:
        return dict([*static.items()][:1])  # the SDK's order; 2.x refuses both
    if _sdk_finds():
        return {}
    for name, read in ((KEY_FILE, _key_in_text), (JSON_FILE, _key_in_json)):
        for folder in folders:
            if key := _read(_path(folder, name), read):
                return {"api_key": key}
    return {}


def base_url_problem() -> str | None:
    """What is wrong with the environment's address of the API; None for nothing."""
    from urllib.parse import urlsplit

    url = os.environ.get("ANTHROPIC_BASE_URL")
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and url == url.strip():
            return None
    except ValueError:  # a port that is none, brackets that do not match
        pass
    shown = url.rpartition("@")[2]  # before it may stand a password
    return (
        f"The environment variable ANTHROPIC_BASE_URL must be a URL such as https://host, or not set; it is {shown!r}"
    )


def network_problem(exc: Exception) -> str:
    """What to say when the network of a client cannot be built, because of *exc*: by the variables that it reads."""
    from pathlib import Path

    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(name)
        if path and not Path(path).exists():
            return f"The environment variable {name} names {path!r}, which is not there"
    named = [name for name in NETWORK if os.environ.get(name)]
    about = f" Look at the environment variables {', '.join(named)}." if named else ""
    return f"The HTTP client cannot be made: {type(exc).__name__}: {exc}.{about}"


def nothing_found(folders: Sequence[str | os.PathLike[str]] = FOLDERS) -> str:
    """The message for when there are no credentials anywhere: every place looked at, and what to do."""
    files = ", ".join(str(_path(folder, name)) for name in (KEY_FILE, JSON_FILE) for folder in folders)
    return (
        "No Claude API credentials found. Looked at: the environment (ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, "
        f"ANTHROPIC_PROFILE, workload identity), {files} (its {JSON_NAME!r}), and the SDK's stored profile. "
        "Set ANTHROPIC_API_KEY or write the key into one of these files." + _about_spawned()
    )


def _about_spawned() -> str:
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return ""
    return (  # no coverage: in a child of multiprocessing
        " A client that was given to set_default_client() in the parent process is not the default of this one: set it "
        "here as well."
    )


def _sdk_finds() -> bool:
    """Return whether the environment names a profile or a whole workload identity, which go before files."""
    federated = all(map(os.environ.get, _FEDERATION)) and any(map(os.environ.get, _IDENTITY))
    return bool(os.environ.get("ANTHROPIC_PROFILE")) or federated


def _path(folder: str | os.PathLike[str], name: str) -> Path:
    from pathlib import Path

    return Path(folder, name).absolute()


def _read(path: Path, key_in: Callable[[str, str], str | None]) -> str | None:
    source = f"The file {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as unreadable:
        problem = f"{source} cannot be read: {unreadable.strerror}"
    except UnicodeDecodeError:
        problem = f"{source} is not UTF-8 text"
    else:
        return key_in(text, source)
    raise ValueError(problem)  # here, where the error that quotes the content is no context


def _key_in_text(text: str, source: str) -> str:
    return _checked(text, source)


def _key_in_json(text: str, source: str) -> str | None:
    import json

    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{source} is not a JSON object") from None
    key = found.get(JSON_NAME)
    if key is None:
        return None
    if not isinstance(key, str):
        raise ValueError(f"{source} has a {JSON_NAME!r} that is no text but a {type(key).__name__}")
    return _checked(key, f"{source}, {JSON_NAME!r},")


def _checked(key: str, source: str) -> str:
    key = key.strip()
    if not key:
        raise ValueError(f"{source} holds no key: it is blank")
    for position, character in enumerate(key):
        if not "!" <= character <= "~":
            kind = "a non-ASCII" if ord(character) > 127 else "a whitespace or control"
            raise ValueError(f"{source} holds {kind} character inside the key, at position {position}")
    return key
