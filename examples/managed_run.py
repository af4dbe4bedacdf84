"""
Sort many tickets in a managed run: limited by category, watched for stalls, retried, and kept in a journal.

    uv run examples/managed_run.py [--tickets N] [--journal FILE]

Kill it in the middle and start it again: it asks only for what has no answer yet. Without credentials the answers
come from the simulator, with faults among them, and go to a journal of their own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from _rehearsal import rehearsal

from claude_client import ClaudeInvocationError, ClaudeResponse, ParallelInterrupt, PromptSpec
from orchestration import ConcurrencyLimiter, invoke_parallel_managed
from task_state import TaskTracker

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest

SYSTEM = "How urgent is this ticket? Answer with one word: low, normal or high."
TEXTS = {
    "billing": "I was charged {} times for one order.",
    "bug": "The page of order {} stays empty.",
    "question": "Where do I change the address of order {}?",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Sort tickets in a run that can be killed and started again.")
    parser.add_argument("--tickets", type=int, default=60, help="how many (default: 60)")
    parser.add_argument("--journal", type=Path, default="managed_run.journal", help="a file (default: %(default)s)")
    options = parser.parse_args()
    prompts = [ticket(number) for number in range(options.tickets)]
    tracker = TaskTracker(max_retries=3)
    with rehearsal(Trouble(), latency=0.3) as simulated:
        journal = options.journal.with_suffix(".simulated.journal") if simulated else options.journal
        print(f"The answers are kept in {journal}. Delete it to begin anew.", flush=True)
        try:
            results = invoke_parallel_managed(
                prompts,
                max_tokens=20,
                max_workers=10,
                shared_system=SYSTEM,
                concurrency_limiter=ConcurrencyLimiter(global_limit=10, category_limits={"billing": 3, "bug": 4}),
                tracker=tracker,
                stall_timeout=2.0 if simulated else 60.0,
                on_stall=tell_of_stall,
                journal=journal,
                on_result=Progress(tracker),
            )
        except ParallelInterrupt as stopped:
            print(f"Stopped: {len(prompts) - len(stopped.results.errors)} answers are in the journal.")
            return 130
    for category in TEXTS:
        indices = [index for index, prompt in enumerate(prompts) if prompt["category"] == category]
        print(f"{category}: {dict(Counter(results[index] for index in indices))}")
    again = sum(max(0, tracker.get(prompt["task_id"]).attempt - 1) for prompt in prompts)  # 0: from the journal
    print(f"{again} attempts failed and were made again; {len(results.errors)} tickets have no answer.")
    return 1 if results.errors else 0


def ticket(number: int) -> PromptSpec:
    category = [*TEXTS][number % len(TEXTS)]
    return {"task_id": f"ticket-{number}", "category": category, "prompt": TEXTS[category].format(number)}


class Progress:
    """A line for every tenth ticket. Those that the journal knows come first, and at once."""

    def __init__(self, tracker: TaskTracker) -> None:
        self._tracker = tracker
        self._started = time.monotonic()

    def __call__(self, _: int, __: ClaudeResponse | ClaudeInvocationError) -> None:
        left = self._tracker.active_count()
        if left % 10 == 0:
            seconds = time.monotonic() - self._started
            print(f"{seconds:5.1f} s: {len(self._tracker) - left} of {len(self._tracker)} tickets", flush=True)


def tell_of_stall(task_id: str, idle: float) -> None:
    print(f"{task_id} was silent for {idle:.1f} s and is asked again.", flush=True)


class Trouble:
    """Answers for the simulator: every twentieth ticket meets an overload first, and one falls silent."""

    def __init__(self) -> None:
        self._met: set[str] = set()

    def __call__(self, request: SeenRequest) -> Reply:
        from claude_client.simulator import Reply

        text = request.body["messages"][0]["content"]
        first, number = text not in self._met, int("".join(filter(str.isdigit, text)))
        self._met.add(text)
        if first and number % 20 == 9:
            return Reply(fault="overloaded")
        return (
            Reply(fault="silent") if first and number == 13 else Reply(text=("low", "normal", "high")[number % 7 % 3])
        )


if __name__ == "__main__":
    sys.exit(main())
