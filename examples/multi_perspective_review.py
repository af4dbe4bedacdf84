"""
Review a source file from three perspectives at once, over the file as shared, cached context.

    uv run examples/multi_perspective_review.py [FILE]

The reviews stream: a line tells what each is writing. Without credentials the answers come from the simulator.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from _rehearsal import rehearsal

from claude_client import ClaudeInvocationError, ClaudeResponse, Results, invoke_parallel_streaming

DEFAULT_FILE = Path(__file__).parent.parent / "src" / "claude_client" / "_values" / "request.py"

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
    with rehearsal(tokens_per_second=30):
        started = time.perf_counter()
        results = invoke_parallel_streaming(
            prompts,
            callbacks=[Headline(perspective) for perspective in PERSPECTIVES],
            shared_system=f"<file name={path.name!r}>\n{source}\n</file>",
            cache_shared_system=True,
            return_exceptions=True,
            progress=True,
        )
        seconds = time.perf_counter() - started
    for perspective, result in zip(PERSPECTIVES, results, strict=True):
        show(perspective, result)
    show_sums(results, seconds)
    return 1 if results.errors else 0


def file_to_review() -> Path:
    parser = argparse.ArgumentParser(description="Review a source file from three perspectives at once.")
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="the file (default: one of ours)")
    path: Path = parser.parse_args().file
    if not path.is_file():
        parser.error(f"{path} is no file")
    return path


class Headline:
    """Tells the first line of a review as soon as it has streamed in, long before the review is whole."""

    def __init__(self, perspective: str) -> None:
        self._perspective = perspective
        self._line = ""
        self._told = False

    def __call__(self, chunk: str) -> None:
        self._line += chunk
        if not self._told and (len(self._line) > 60 or "\n" in self._line):
            self._told = True
            print(f"[{self._perspective}] {self._line.splitlines()[0][:60]} ...", flush=True)


def show(perspective: str, result: ClaudeResponse | ClaudeInvocationError | None) -> None:
    print(f"\n=== {perspective} ===\n{result}")
    if isinstance(result, ClaudeResponse):
        print(f"[{result.usage.total_input_tokens:,} tokens in, {result.usage.output_tokens:,} out]")


def show_sums(results: Results, seconds: float) -> None:
    used = results.usage
    print(f"\nTogether: {used.total_input_tokens:,} tokens in, {used.output_tokens:,} out, {seconds:.1f} s")
    print(f"{results.cache_share:.0%} of the input was read from the cache.")


if __name__ == "__main__":
    sys.exit(main())
