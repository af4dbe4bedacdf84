"""
Look at a run afterwards: how long what took, what was retried and what was waited for, as a picture and as a table.

    uv run examples/observed_run.py [--prompts N] [--folder FOLDER]

Writes `run.html`, `run.svg`, `run.csv` and, of a conversation, `turns.svg`. Without credentials the answers come from
the simulator, with faults among them and a limit of requests.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from _rehearsal import rehearsal

from claude_client import ConversationThread, PromptSpec
from orchestration import ConcurrencyLimiter, invoke_parallel_managed

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest

GUIDELINE = "A title has at most six words, names what the reader gains, and has no full stop at its end. " * 80
TOPICS = ["prompt caching", "rate limits", "retries", "journals", "interrupts", "streams", "budgets", "batches"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Look at a run afterwards, as a picture and as a table.")
    parser.add_argument("--prompts", type=int, default=24, help="how many (default: 24)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go (default: here)")
    options = parser.parse_args()
    with rehearsal(Trouble(), latency=0.3, tokens_per_second=60):
        results = invoke_parallel_managed(
            [question(number) for number in range(options.prompts)],
            max_tokens=60,
            max_workers=8,
            shared_system=GUIDELINE,
            cache_shared_system=True,
            streaming=True,
            concurrency_limiter=ConcurrencyLimiter(8, {"short": 2}),
            base_delay_ms=300,
        )
        thread = ConversationThread(GUIDELINE)
        for topic in TOPICS[:4]:
            thread.send(f"Suggest a title for a chapter about {topic}.")
    print(results.summary())
    options.folder.mkdir(parents=True, exist_ok=True)
    results.timeline().save(options.folder / "run.html")
    results.timeline().save(options.folder / "run.svg")
    results.to_csv(options.folder / "run.csv")
    thread.timeline().save(options.folder / "turns.svg")
    slowest = max(results.to_dicts(), key=lambda row: row["took"] or 0)
    print(
        f"The slowest, {slowest['task_id']}, took {slowest['took']:.1f} s; it waited {slowest['waited']:.1f} s of them."
    )
    print(f"Look at {options.folder / 'run.html'}.")
    return 1 if results.errors else 0


def question(number: int) -> PromptSpec:
    kind = "short" if number % 4 == 0 else "long"
    topic = TOPICS[number % len(TOPICS)]
    name = f"{topic}-{number}".replace(" ", "-")
    return {"task_id": name, "category": kind, "prompt": f"A {kind} title about {topic}?"}


class Trouble:
    """Answers for the simulator: some meet an overload, a limit or a broken stream first."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, _: SeenRequest) -> Reply | None:
        from claude_client.simulator import Reply

        self._number += 1
        return {
            4: Reply(fault="overloaded"),
            9: Reply(fault="early_end"),
            15: Reply(fault="rate_limit", retry_after=1),
        }.get(self._number)


if __name__ == "__main__":
    sys.exit(main())
