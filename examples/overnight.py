"""
Many prompts overnight, at half the price: by message batches, with a journal. Kill it, start it again: it collects.

    uv run examples/overnight.py [--reviews N] [--journal FILE]

Without credentials the batches are the simulator's, which take two seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from _rehearsal import rehearsal

from claude_client import PromptSpec, estimate_cost
from orchestration import BatchHandle, invoke_batch

GUIDELINE = "You read reviews of a shop. Say in one sentence what is praised, and what is not. " * 80


def main() -> int:
    parser = argparse.ArgumentParser(description="Many prompts by message batches, at half the price.")
    parser.add_argument("--reviews", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--journal", type=Path, help="a file to go on from (default: a new one)")
    options = parser.parse_args()
    journal = options.journal or Path(tempfile.mkdtemp()) / "overnight.journal"
    prompts = [review(number) for number in range(options.reviews)]
    with rehearsal(latency=0.01, tokens_per_second=None) as simulated:
        live, batch = (
            estimate_cost(prompts, max_tokens=100, shared_system=GUIDELINE, cache_shared_system=True, batch=batch)
            for batch in (False, True)
        )
        print(f"At most ${live.usd_high:.2f} live, ${batch.usd_high:.2f} as batches.")
        results = invoke_batch(
            prompts,
            max_tokens=100,
            shared_system=GUIDELINE,
            cache_shared_system=True,
            journal=journal,
            budget_usd=5,
            poll_interval=0.2 if simulated else None,
            on_batch=told,
        )
    print(results.tracker.summary())
    print(f"It cost ${results.cost_usd:.4f}; {results.cache_share:.0%} of the input came from the cache.")
    print(f"The journal is {journal.name}: the same call with it asks nothing again.")
    return 1 if results.errors else 0


def told(handle: BatchHandle) -> None:
    print(f"{len(handle.batches)} batch created; the answers come into the journal once it has ended.")


def review(number: int) -> PromptSpec:
    praise = ["the prices", "the service", "how fast it came"][number % 3]
    return {"task_id": f"review-{number}", "prompt": f"I like {praise}, but parcel {number} was open."}


if __name__ == "__main__":
    sys.exit(main())
