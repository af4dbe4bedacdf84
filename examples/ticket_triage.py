"""
Sort tickets into data: each answer is a value of a class, over one cached guideline. A table and a picture at the end.

    uv run examples/ticket_triage.py [--tickets N] [--folder FOLDER]

Writes `tickets.csv` and `tickets.html`. Without credentials the answers come from the simulator.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from _rehearsal import rehearsal
from pydantic import BaseModel, Field

from claude_client import PromptSpec
from orchestration import invoke_parallel_managed

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest

GUIDELINE = (
    "You sort tickets of a shop. Billing: money that was taken or is to be given back. Bug: the shop does not do what "
    "it says. Question: everything else. Urgent is what keeps somebody from buying, or costs them money. "
) * 40
TEXTS = {
    "billing": "I was charged {} times for one order.",
    "bug": "The page of order {} stays empty.",
    "question": "Where do I change the address of order {}?",
}


class Category(Enum):
    """Who looks at a ticket."""

    BILLING = "billing"
    BUG = "bug"
    QUESTION = "question"


class Ticket(BaseModel):
    """What is to be known of a ticket."""

    title: str = Field(description="Five words at most", max_length=60)
    category: Category
    urgent: bool
    order: int | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description="Sort tickets into data, over one cached guideline.")
    parser.add_argument("--tickets", type=int, default=60, help="how many (default: 60)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go (default: here)")
    options = parser.parse_args()
    with rehearsal(sorted_by_its_words, latency=0.2, tokens_per_second=200):
        results = invoke_parallel_managed(
            [mail(number) for number in range(options.tickets)],
            output=Ticket,
            output_retries=1,
            max_tokens=200,
            max_workers=10,
            shared_system=GUIDELINE,
            cache_shared_system=True,
        )
    tickets = [ticket for ticket in results.outputs if ticket is not None]
    for category, count in Counter(ticket.category for ticket in tickets).items():
        urgent = sum(ticket.urgent for ticket in tickets if ticket.category is category)
        print(f"{category.value}: {count}, {urgent} of them urgent")
    print(f"{len(tickets)} of {len(results)} tickets sorted, {results.cache_share:.0%} of the input from the cache.")
    options.folder.mkdir(parents=True, exist_ok=True)
    results.to_csv(options.folder / "tickets.csv")
    results.timeline().save(options.folder / "tickets.html")
    print("Written: tickets.csv, tickets.html")
    return 1 if results.errors else 0


def mail(number: int) -> PromptSpec:
    return {"task_id": f"ticket-{number}", "prompt": [*TEXTS.values()][number % len(TEXTS)].format(number)}


def sorted_by_its_words(request: SeenRequest) -> Reply:
    """An answer for the simulator, as a model would give it."""
    from claude_client.simulator import Reply

    text = request.body["messages"][0]["content"]
    number = int("".join(filter(str.isdigit, text)))
    category = [*TEXTS][number % len(TEXTS)]
    ticket = {"title": text[:30], "category": category, "urgent": category != "question", "order": number}
    return Reply(text=json.dumps(ticket))


if __name__ == "__main__":
    sys.exit(main())
