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
    body = json.dumps({"replies": replies}).encode()
    request = urllib.request.Request(f"{base_url}/simulator/script", body, {"content-type": "application/json"})
    urllib.request.urlopen(request).close()
