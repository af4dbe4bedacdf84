"""
Delegate a task: a planner splits it, and its parts again, workers do the smallest at once, the answers are merged.

    uv run examples/task_delegation.py [TASK]

One fan-out for each level of the plan, one for all the work, one for each level of merging. Without credentials the
answers come from the simulator.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from _rehearsal import rehearsal

from claude_client import invoke_parallel

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest

TASK = "Move a web shop with one database to three regions without losing an order."
DEEPEST = 2  # levels of planning; a model would go on for long

PLAN = "Split this task into two to four parts that need no results of each other. If it is small, name none."
WORK = "Do this task, without asking back, in at most 200 words."
MERGE = "Merge the results of its parts into one answer to this task."

# The API holds the model to this, so that the plan can be parsed.
PARTS = {
    "type": "object",
    "properties": {"parts": {"type": "array", "items": {"type": "string"}}},
    "required": ["parts"],
    "additionalProperties": False,
}


@dataclass
class Task:
    text: str
    parts: list[Task] = field(default_factory=list)
    answer: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Split a task, have its parts done at once, merge the answers.")
    parser.add_argument("task", nargs="?", default=TASK)
    task = Task(parser.parse_args().task)
    with rehearsal(simulated_plan):
        levels = [[task]]
        while levels[-1] and len(levels) <= DEEPEST:
            levels.append(plan(levels[-1]))
        show(task)
        work([part for level in levels for part in level if not part.parts])
        for level in reversed(levels):
            merge([part for part in level if part.parts])
    print(f"\n{task.answer}")
    return 0


def plan(tasks: list[Task]) -> list[Task]:
    """Split *tasks*; the parts of all."""
    config = {"format": {"type": "json_schema", "schema": PARTS}}
    plans = asked("Planning", [f"{PLAN}\n\n{task.text}" for task in tasks], output_config=config)
    for task, answer in zip(tasks, plans, strict=True):
        task.parts = [Task(text) for text in json.loads(answer)["parts"]]
    return [part for task in tasks for part in task.parts]


def work(tasks: list[Task]) -> None:
    answers = asked("Working", [f"{WORK}\n\n{task.text}" for task in tasks])
    for task, answer in zip(tasks, answers, strict=True):
        task.answer = answer


def merge(tasks: list[Task]) -> None:
    answers = asked("Merging", [f"{MERGE}\n\n{task.text}\n\n{results_of(task.parts)}" for task in tasks])
    for task, answer in zip(tasks, answers, strict=True):
        task.answer = answer


def asked(doing: str, prompts: list[str], **options: Any) -> list[str]:
    if not prompts:
        return []
    print(f"{doing}: {len(prompts)} at once.", flush=True)
    return [
        str(answer) for answer in invoke_parallel([{"prompt": prompt, **options} for prompt in prompts], progress=True)
    ]


def results_of(parts: list[Task]) -> str:
    return "\n\n".join(f"<result of={part.text!r}>\n{part.answer}\n</result>" for part in parts)


def show(task: Task, depth: int = 0) -> None:
    print(f"{'  ' * depth}- {task.text}")
    for part in task.parts:
        show(part, depth + 1)


def simulated_plan(request: SeenRequest) -> Reply | None:
    from claude_client.simulator import Reply

    _, is_plan, task = request.text.partition(PLAN)
    if not is_plan:
        return None
    parts = ["Find out how orders get lost.", "Design the replication.", "Rehearse the move."]
    if task.strip() in parts:
        parts = ["List the writes.", "Choose who resolves conflicts."] if "Design" in task else []
    return Reply(text=json.dumps({"parts": parts}))


if __name__ == "__main__":
    sys.exit(main())
