"""
A run with a price tag: told before, held during, true after. And another model where the asked one is overloaded.

    uv run examples/budgeted_run.py [--reviews N] [--budget DOLLARS]

Without credentials the answers come from the simulator, whose first model is overloaded now and then.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from _rehearsal import rehearsal

from claude_client import Budget, PromptSpec, estimate_cost
from orchestration import invoke_parallel_managed

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest

MODEL, OTHER = "claude-sonnet-4-6", "claude-opus-4-6"
GUIDELINE = "You read reviews of a shop. Say in one sentence what is praised, and what is not. " * 80


def main() -> int:
    parser = argparse.ArgumentParser(description="A run with an estimate, a budget and a second model.")
    parser.add_argument("--reviews", type=int, default=40, help="how many (default: 40)")
    parser.add_argument("--budget", type=float, default=0.2, help="dollars (default: 0.20)")
    options = parser.parse_args()
    prompts = [review(number) for number in range(options.reviews)]
    with rehearsal(overloaded_now_and_then, latency=0.05, tokens_per_second=500):
        estimate = estimate_cost(
            prompts, max_tokens=100, shared_system=GUIDELINE, cache_shared_system=True, expected_output=40
        )
        print(estimate)
        print()
        print(estimate.compare())
        print()
        budget = Budget(options.budget, on_warning=lambda _, share: print(f"{share:.0%} of the budget are spent"))
        results = invoke_parallel_managed(
            prompts,
            max_tokens=100,
            shared_system=GUIDELINE,
            cache_shared_system=True,
            budget_usd=budget,
            fallback_models=[OTHER],
            max_retries=0,
        )
    beyond = sum(error.kind == "budget" for error in results.errors.values())
    print(f"{sum(answer is not None for answer in results)} answered, {beyond} beyond the budget.")
    print("By model:", ", ".join(f"{model} ${cost:.4f}" for model, cost in (results.cost_by_model or {}).items()))
    print(f"Saved by the cache: ${results.saved_by_cache_usd:.4f}. Budget: {results.budget}")
    return 1 if len(results.errors) > beyond else 0


def review(number: int) -> PromptSpec:
    praise = ["the prices", "the service", "how fast it came"][number % 3]
    return {"task_id": f"review-{number}", "prompt": f"I like {praise}, but parcel {number} was open."}


def overloaded_now_and_then(request: SeenRequest) -> Reply | None:
    """What the simulator answers: the first model is overloaded for each tenth review."""
    from claude_client.simulator import Reply

    overloaded = request.body["model"] == MODEL and "0 was open" in request.text
    return Reply(fault="overloaded") if overloaded else None


if __name__ == "__main__":
    sys.exit(main())
