"""The one SDK client, with one connection pool, that all calls of a process share."""

from __future__ import annotations

import atexit
import inspect
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from claude_client._sdk import credentials, parameters


class NoCredentialsError(ValueError):
    """There are no credentials anywhere."""


@dataclass(slots=True)
class _Shared:
    """A client and the number of calls that use it."""

    client: Any
    #: The environment that a client of our own was built from; None for one that the caller brought.
    built_from: tuple[Any, ...] | None = None
    #: Whether its connections are ours to close, once it is replaced and its last call has ended.
    ours: bool = False
    calls: int = 0
    replaced: bool = False
    #: The process its connections belong to.
    process: int = field(default_factory=os.getpid)

    def up_to_date(self) -> bool:
        if self.process != os.getpid():  # no coverage: in a forked child
            return False
        return self.built_from is None or self.built_from == credentials.environment()

    def __enter__(self) -> Any:
        return self.client

    def __exit__(self, *exc_info: object) -> None:
        with _lock:
            self.calls -= 1
        self.close_if_finished()

    def close_if_finished(self) -> None:
        """Close a replaced client that no call uses. Called without the lock: no call takes a replaced client."""
        if self.ours and self.replaced and not self.calls and self.process == os.getpid():
            self.client.close()


_AUTHENTICATING = {"authorization", "x-api-key"}

_lock = threading.Lock()  # guards _current and the counts in it
_current: _Shared | None = None
_left_by_parent: list[_Shared] = []  # kept, as closing a client that the parent uses would break it


def set_default_client(client: Any | None) -> None:
    """
    Use *client* for all calls from now on: any configured synchronous client of the SDK (`Anthropic`,
    `AnthropicBedrock`, `AnthropicVertex`, one behind a proxy ...). None goes back to a client of our own, built from
    the environment or a key file at the next call.

    Its own retries are not used, ours are. It stays yours to close. Calls already under way end on the client they
    began with. After a fork the child gets connections of its own; only a client with an `http_client` of your own
    making cannot be used there: a call raises a `RuntimeError`.

    Raises:
        TypeError: For anything that has no synchronous `messages.create`.
    """
    if client is None:
        _replace(None)
        return
    needed = (getattr(getattr(client, "messages", None), "create", None), getattr(client, "with_options", None))
    asynchronous = inspect.iscoroutinefunction(getattr(client, "close", None))
    if not all(map(callable, needed)) or isinstance(client, type) or asynchronous:
        raise TypeError(f"client must be a synchronous client of the anthropic SDK, got {type(client).__name__}")
    _replace(_Shared(parameters.without_userinfo(_observed(client).with_options(max_retries=0))))


def has_credentials() -> bool:
    """
    Return whether the next call has something to authenticate with. Nothing is sent, so it may still be refused.

    Raises:
        ValueError: Naming the source of a key that is malformed, or a file that cannot be read.
    """
    try:
        with shared_client() as client:
            return _can_authenticate(client)
    except NoCredentialsError:
        return False


def check_credentials(client: Any, own_headers: Iterable[Mapping[str, Any]]) -> None:
    """
    Fail once, for many calls of *client* with *own_headers*, rather than in each of them.

    Raises:
        ValueError: If there is nothing to authenticate any of them with, naming every place looked at.
    """
    if not _can_authenticate(client) and not any(_authenticates(headers) for headers in own_headers):
        raise NoCredentialsError(credentials.nothing_found())


def _can_authenticate(client: Any) -> bool:
    of_its_own = type(client).__name__ != "Anthropic"  # Bedrock, Vertex ... sign each request as it is sent
    return of_its_own or getattr(client, "credentials", None) is not None or _authenticates(client.default_headers)


def _authenticates(headers: Iterable[str]) -> bool:
    return any(name.lower() in _AUTHENTICATING for name in headers)


def shared_client() -> AbstractContextManager[Any]:
    """
    The client for a call, in a `with` block. It stays open until that ends, whatever is set meanwhile.

    Raises:
        ValueError: If there are no credentials anywhere, naming every place looked at, or if they are malformed.
        RuntimeError: If the default client was brought before this process was forked, and cannot work here.
    """
    global _current
    outdated = None
    with _lock:
        if _current is None or not _current.up_to_date():
            built = _rebuilt(_current)
            outdated, _current = _current, built
        taken = _current
        taken.calls += 1
        if outdated:
            outdated.replaced = True
    if outdated:
        outdated.close_if_finished()
    return taken


def forget_credentials(client: Any) -> None:
    """Have the next call look for credentials anew, if *client* is our own: they were refused, and may be mended."""
    global _current  # noqa: PLW0603 - the one client of the process
    with _lock:
        refused = _current
        if refused is None or refused.client is not client or refused.built_from is None:
            return
        _current = None
        refused.replaced = True
    refused.close_if_finished()


def no_credentials(exc: Exception) -> NoCredentialsError:
    """The error to raise when the SDK found nothing to authenticate with."""
    error = NoCredentialsError(f"{credentials.nothing_found()} The SDK says: {exc}")
    error.__cause__ = exc
    return error


def _replace(shared: _Shared | None) -> None:
    global _current
    with _lock:
        outdated, _current = _current, shared
        if outdated:
            outdated.replaced = True
    if outdated:
        outdated.close_if_finished()


def _rebuilt(outdated: _Shared | None) -> _Shared:
    """A replacement for *outdated*: built anew, or the caller's client on connections of this process."""
    if outdated is None or outdated.built_from is not None:
        return _build()
    return _in_this_process(outdated)  # no coverage: in a forked child


def _build() -> _Shared:
    built = _built()
    if isinstance(built, Exception):
        raise built
    return built


def _built() -> _Shared | Exception:
    """A client of our own; or the error to raise, without its frames and not in here, where locals hold the key."""
    import anthropic

    environment = credentials.environment()
    try:
        static = credentials.find_credentials()
    except ValueError as exc:
        return exc.with_traceback(None)
    if problem := credentials.base_url_problem():
        return ValueError(problem)
    try:
        return _Shared(_observed(parameters.new_client(**static)), environment, ours=True)
    except anthropic.AnthropicError as exc:
        return no_credentials(exc.with_traceback(None))
    except Exception as exc:  # noqa: BLE001 - whatever httpx makes of the environment
        error = ValueError(credentials.network_problem(exc))
        error.__cause__ = exc.with_traceback(None)
        return error


def _in_this_process(brought: _Shared) -> _Shared:  # no coverage: in a forked child
    """The client of a parent process on connections of its own, if they are of the SDK's making or ours."""
    import anthropic

    made_by = type(getattr(brought.client, "_client", None)).__name__
    if not brought.ours and made_by != "SyncHttpxClientWrapper":
        raise RuntimeError(
            "the client given to set_default_client() has an http_client of the process that was forked; "
            "set one made here"
        )
    copy = brought.client.copy(http_client=anthropic.DefaultHttpxClient())
    return _Shared(_observed(copy), ours=True)


def _observed(client: Any) -> Any:
    """*client* itself, with a network that reports to attempts and lets them be aborted."""
    from claude_client._sdk.network import instrument  # like the SDK, imported at the first call

    instrument(client)
    return client


def _after_fork_in_child() -> None:  # no coverage: in a forked child
    """Leave the parent's lock and connections alone: other threads of it may be in the middle of a call."""
    global _lock  # noqa: PLW0603 - a copy of the parent's lock may be held for ever
    _lock = threading.Lock()
    if _current is not None:
        _left_by_parent.append(_current)


atexit.register(_replace, None)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
