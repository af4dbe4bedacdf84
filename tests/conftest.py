"""What every test stands on: no network, no key, no time spent waiting."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import respx
import trustme
from hypothesis import settings

import claude_client
import helpers
from claude_client.simulator import Simulator

# Where Python is to write no bytecode, it is kept apart: what tests start begins in half the time.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile("ours", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ours")

# A shell ignores Ctrl-C in what it starts in the background, and so would all that is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, signal.default_int_handler)  # by which it is pressed again


def pytest_xdist_auto_num_workers():
    """Twice as many processes as there are processors: in each, more than one second of three is waited."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory):
    """The file of an authority: to read those of the whole world takes longer than most tests."""
    path = tmp_path_factory.mktemp("authority") / "one.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path, one_authority):
    """An empty home and folder, one test key, no proxy, and no way out of this machine."""
    for name in [n for n in os.environ if n.startswith("ANTHROPIC_") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANTHROPIC_API_KEY", helpers.KEY)
    monkeypatch.setenv("SSL_CERT_FILE", one_authority)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "unraisablehook", pressed_again(sys.unraisablehook))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, only_here(getattr(socket.socket, name)))
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    claude_client.set_default_client(None)


def pressed_again(report):
    """Python swallows a Ctrl-C that falls into a destructor or a callback of its collector; a user presses it again."""

    def press(unraisable):
        if unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            report(unraisable)

    return press


def only_here(connect):
    def connect_here(sock, address):
        assert sock.family == socket.AF_UNIX or address[0] in {"127.0.0.1", "::1", "localhost"}, address
        return connect(sock, address)

    return connect_here


@pytest.fixture
def api():
    """The Messages API at the HTTP seam of whichever SDK is installed."""
    with respx.mock(using="httpcore2" if helpers.ON_HTTPX2 else "httpcore", assert_all_called=False) as router:
        yield helpers.Api(router)


@pytest.fixture
def slept(monkeypatch):
    """The seconds that were waited between attempts, without waiting them."""
    delays: list[float] = []
    monkeypatch.setattr(time, "sleep", delays.append)
    return delays


@pytest.fixture
def sim(monkeypatch):
    """A simulator that our own client is pointed at."""
    with Simulator() as simulator:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", simulator.base_url)
        yield simulator
        claude_client.set_default_client(None)
