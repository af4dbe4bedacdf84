"""Exceptions of other people's code in the middle of a request: a signal handler's, or a credential provider's."""

from __future__ import annotations

from types import TracebackType

from claude_client._values.kinds import chain

# The code that a request runs through. What is raised in it is about the request.
_ON_THE_WAY = frozenset(
    """
    anthropic botocore brotli brotlicffi claude_client codecs contextlib email encodings google gzip
    h11 h2 hpack httpcore httpcore2 httpx httpx2 idna jiter json pydantic requests selectors socket ssl
    threading urllib urllib3 zlib
    """.split()  # noqa: SIM905 - as a list it has a line for each
)
_NETWORKS = ("anthropic", "httpx", "httpcore", "h11")
_PROVIDERS = ("anthropic.lib.credentials", "google.auth", "botocore.credentials", "azure.identity")


def foreign(exc: BaseException) -> BaseException | None:
    """
    The exception that came from outside into the request that *exc* ended: a signal handler raised it, whatever the
    SDK and its network then made of it. None if there is none.
    """
    for link in chain(exc, hidden=True):
        modules = _modules(link.__traceback__)
        if not modules or modules[-1].partition(".")[0] in _ON_THE_WAY or _asks_provider(modules):
            continue
        return None if _is_of_network(link) else link
    return None


def detach(exc: BaseException, before: BaseException | None) -> None:
    """Cut *exc* off from *before*, which its caller was handling already, and which Python takes for its context."""
    for link in chain(exc, hidden=True):
        if link.__context__ is before:
            link.__context__ = None


def is_of_provider(exc: BaseException) -> bool:
    """Return whether *exc* tells that there are no credentials to be had."""
    return any(_asks_provider(_modules(link.__traceback__)) for link in chain(exc, hidden=True))


def _is_of_network(exc: BaseException) -> bool:
    """Return whether *exc* is an error of the network by its class: whoever raised it is a transport."""
    if isinstance(exc, OSError):
        return exc.errno is not None
    return any(cls.__module__.startswith(_NETWORKS) for cls in type(exc).__mro__)


def _asks_provider(modules: list[str]) -> bool:
    return any(module.startswith(_PROVIDERS) for module in modules)


def _modules(trace: TracebackType | None) -> list[str]:
    """The modules that an exception passed, the one that raised it last."""
    modules = []
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__", "")))
        trace = trace.tb_next
    return modules
