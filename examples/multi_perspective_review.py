"""
Review a source file from three perspectives at once, over the file as shared, cached context.

    uv run examples/multi_perspective_review.py [FILE]

Without credentials the answers come from the simulator.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anthropic

from claude_client import ClaudeResponse, ParallelInvocationError, has_credentials, invoke_parallel, set_default_client
from claude_client.simulator import Simulator

DEFAULT_FILE = Path(__file__).parent.parent / "src" / "claude_client" / "_request.py"

PERSPECTIVES = {
    "Security": "You are a security expert.",
    "Performance": "You are a performance optimization expert.",
    "Maintainability": "You are a software architecture expert.",
}
TASK = "Review the file above from the perspective of {}. Name the three findings that matter most, with their lines."


def main() -> int:
    path = file_to_review()
    source = path.read_text(encoding="utf-8", errors="replace")
    prompts = [
        {"prompt": TASK.format(perspective.lower()), "system": role} for perspective, role in PERSPECTIVES.items()
    ]
    print(f"Reviewing {path} ({len(source):,} characters) from {len(prompts)} perspectives.")
    with simulator_without_credentials():
        started = time.perf_counter()
        try:
            results = invoke_parallel(
                prompts, shared_system=f"<file name={path.name!r}>\n{source}\n</file>", cache_shared_system=True
            )
        except ParallelInvocationError as failed:
            results = failed.results
        seconds = time.perf_counter() - started
    for index, perspective in enumerate(PERSPECTIVES):
        show(perspective, results[index] or results.errors[index])
    used = results.usage
    print(f"\nTogether: {used.total_input_tokens:,} tokens in, {used.output_tokens:,} out, {seconds:.1f} s")
    return 1 if results.errors else 0


def file_to_review() -> Path:
    parser = argparse.ArgumentParser(description="Review a source file from three perspectives at once.")
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="the file (default: one of ours)")
    path: Path = parser.parse_args().file
    if not path.is_file():
        parser.error(f"{path} is no file")
    return path


@contextmanager
def simulator_without_credentials() -> Iterator[None]:
    """Answers from the simulator, and a line that says so, where there is no key to ask the API with."""
    if has_credentials():
        yield
        return
    print("No credentials found: the answers below are simulated.")
    with Simulator(latency=0.5) as simulator, anthropic.Anthropic(api_key="any", base_url=simulator.base_url) as client:
        set_default_client(client)
        yield


def show(perspective: str, result: ClaudeResponse | Exception) -> None:
    print(f"\n=== {perspective} ===\n{result}")
    if isinstance(result, ClaudeResponse):
        print(f"[{result.usage.total_input_tokens:,} tokens in, {result.usage.output_tokens:,} out]")


if __name__ == "__main__":
    sys.exit(main())
