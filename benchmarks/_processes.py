"""The same calls in several processes at once, which begin together once all are ready."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_OURS = """
from _fan_outs import fan_out
from claude_client import has_credentials
assert has_credentials()
def run(calls):
    return len(fan_out(calls).errors)
"""
_RAW = """
import anthropic
from _fan_outs import asked
from _raw import ask_all, lost
client = anthropic.Anthropic()
def run(calls):
    return lost(ask_all(client, asked(calls)))
"""
_REST = """
import sys
print("ready", flush=True)
sys.stdin.readline()
print(run(int(sys.argv[1])), flush=True)
"""


def ours(processes: int, calls: int, shared: str = "") -> tuple[float, int]:
    """
    The seconds until the last of *processes* has its answers, and how many calls were lost.

    Args:
        shared: The file by which they share limits; none if empty.
    """
    return _together(_OURS, processes, calls, {"CLAUDE_CLIENT_LIMITS_FILE": shared})


def raw(processes: int, calls: int) -> tuple[float, int]:
    """The same with the raw SDK in a thread pool."""
    return _together(_RAW, processes, calls, {})


def _together(program: str, processes: int, calls: int, environment: dict[str, str]) -> tuple[float, int]:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program + _REST, str(calls)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **environment},
        )
        for _ in range(processes)
    ]
    lines = [(process.stdin, process.stdout) for process in running]
    for _, output in lines:
        assert output
        assert output.readline() == "ready\n"
    began = time.perf_counter()
    for start, _ in lines:
        assert start
        start.write("\n")
        start.flush()
    lost = sum(int(output.readline()) for _, output in lines if output)
    taken = time.perf_counter() - began
    for process in running:
        process.communicate()
    return taken, lost
