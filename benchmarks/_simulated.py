"""A simulator in a process of its own, so that its work is not counted as ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic

import claude_client

# Prices relative to plain input.
WRITE, READ = 1.25, 0.1


@contextmanager
def sides(*arguments: str) -> Iterator[tuple[str, anthropic.Anthropic]]:
    """
    A fresh simulator's base URL, and a client of the raw SDK for it.

    Our own verbs talk to the same simulator, with the client of their own that people get by default.
    """
    with simulator(*arguments) as base_url, anthropic.Anthropic(api_key="any", base_url=base_url) as client:
        os.environ |= {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": base_url}
        renew_client()
        yield base_url, client


def renew_client() -> None:
    """Have a client of our own built, as the raw SDK's is, that knows nothing of the server's limits and cache."""
    claude_client.set_default_client(None)
    assert claude_client.has_credentials()


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


def script(base_url: str, *replies: dict[str, Any], matching: str | None = None) -> None:
    """Let *replies*, in the JSON form of `Reply`, answer the next requests; those with *matching* in them only."""
    _ask(base_url, "script", {"replies": replies, "matching": matching})


def reset(base_url: str) -> None:
    """Have the simulator forget what it has seen."""
    _ask(base_url, "reset", {})


def seen(base_url: str) -> list[dict[str, Any]]:
    """What the simulator was asked for messages, in order."""
    requests: list[dict[str, Any]] = _ask(base_url, "requests", None)
    return requests


def statistics_of(base_url: str) -> dict[str, Any]:
    """The simulator's own counts."""
    counts: dict[str, Any] = _ask(base_url, "statistics", None)
    return counts


def rejected(base_url: str) -> int:
    """How many requests the simulator refused."""
    return sum(request["outcome"] == "rejected" for request in seen(base_url))


def usages(base_url: str) -> list[dict[str, int]]:
    """What each request used, by the simulator's own count."""
    return [request["usage"] for request in seen(base_url)]


def bill(used: list[dict[str, int]]) -> float:
    """What the input of *used* costs, in tokens of plain input."""
    return sum(
        usage["input_tokens"] + WRITE * usage["cache_creation_input_tokens"] + READ * usage["cache_read_input_tokens"]
        for usage in used
    )


def _ask(base_url: str, what: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base_url}/simulator/{what}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        text = response.read()
    return json.loads(text) if text else None
