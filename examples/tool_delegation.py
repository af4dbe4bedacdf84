"""
Have a call answer a question about a folder through agents that read its files, and show the tree of all requests.

    uv run examples/tool_delegation.py [FOLDER] [--timeline run.html] [--budget DOLLARS]

The first call plans and delegates; each agent lists and reads files by the two tools below, as many of them at once as
the first call asks for. All of it is one call: one budget, one end. Without credentials the answers come from the
simulator.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _rehearsal import rehearsal

from claude_client import ClaudeInvocationError, invoke_parallel
from orchestration import Agent, delegate_tool

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest

DEFAULT_FOLDER = Path(__file__).parent.parent / "src" / "task_state"
QUESTION = "What does a newcomer have to know of this folder: its public names, threads, and errors?"


def main() -> int:
    options = parsed()
    reader = Agent(
        "You answer by what the files say, and name the file.",
        description="Reads the files of the folder, and answers a question about them.",
        tools=tools_for(options.folder),
    )
    lead = Agent(
        "Split the question, delegate its parts all at once, and write one page from the answers.",
        tools=[delegate_tool({"reader": reader}, max_depth=1, max_tasks=10)],
        max_iterations=5,
        budget_usd=options.budget,
    )
    with rehearsal(simulated_agent):
        pages = invoke_parallel([lead.prompt(QUESTION, task_id="page")], return_exceptions=True)
    print(f"\n{pages[0]}\n\n{pages.tree()}")
    if options.timeline:
        pages.timeline().save(options.timeline)
        print(f"\nThe timeline is in {options.timeline}")
    return 1 if isinstance(pages[0], ClaudeInvocationError) else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Have agents answer a question about a folder.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="the folder (default: one of ours)"
    )
    parser.add_argument("--timeline", type=Path, metavar="FILE", help="where to write a picture of all requests")
    parser.add_argument("--budget", type=float, metavar="DOLLARS", help="what all of it may cost")
    return parser.parse_args()


def tools_for(folder: Path) -> list[Callable[..., Any]]:
    """What an agent may do: nothing but look at the Python files of *folder*. The model is told what a tool raises."""
    files = {path.name: path for path in sorted(folder.glob("*.py"))}

    def list_files() -> list[str]:
        """List the names of the Python files, with their sizes in bytes."""
        return [f"{name} {path.stat().st_size}" for name, path in files.items()]

    def read_file(name: str) -> Path:
        """
        Read one of the files.

        Args:
            name: Its name, as list_files gives it.
        """
        return files[name]

    return [list_files, read_file]


def simulated_agent(request: SeenRequest) -> Reply | None:
    """The lead delegates twice over; an agent lists the files, reads the last, and answers."""
    from claude_client.simulator import Reply

    tools = {tool["name"] for tool in request.body.get("tools", ())}
    turns = len(request.body["messages"])
    if "delegate" in tools and turns == 1:
        parts = ("Which names are public?", "What may be called from several threads?", "Which errors are there?")
        return Reply(tool_use=("delegate", {"tasks": [{"agent": "reader", "task": part} for part in parts]}))
    if "read_file" in tools and turns == 1:
        return Reply(tool_use=("list_files", {}))
    if "read_file" in tools and turns == 3:
        return Reply(tool_use=("read_file", {"name": re.findall(r"\w+\.py", request.text)[-1]}))
    return None


if __name__ == "__main__":
    sys.exit(main())
