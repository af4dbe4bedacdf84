"""A simulator in a process of its own, so that its work is not counted as ours."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def simulator(*arguments: str) -> Iterator[str]:
    """The base URL of a simulator that ends with the block."""
    command = [sys.executable, "-m", "claude_client.simulator", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield line[line.index("http") :].split()[0]
        finally:
            process.terminate()


def script(base_url: str, *replies: dict[str, Any]) -> None:
    """Let *replies*, in the JSON form of `Reply`, answer the next requests."""
    _ask(base_url, "script", {"replies": replies})


def reset(base_url: str) -> None:
    """Have the simulator forget what it has seen."""
    _ask(base_url, "reset", {})


def seen(base_url: str) -> list[dict[str, Any]]:
    """What the simulator was asked for messages, in order."""
    requests: list[dict[str, Any]] = _ask(base_url, "requests", None)
    return requests


def _ask(base_url: str, what: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base_url}/simulator/{what}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        text = response.read()
    return json.loads(text) if text else None
