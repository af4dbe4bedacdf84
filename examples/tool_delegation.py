"""
Delegate questions about a folder to agents that read it themselves, with the SDK's own tool runner.

    uv run examples/tool_delegation.py [FOLDER]

Each agent calls the two tools below until it has its answer; one more call merges the answers. Without credentials
the answers come from the simulator. The SDK looks for the key of the agents itself: in the environment, in no file.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
from _rehearsal import rehearsal

from claude_client import invoke_claude

if TYPE_CHECKING:
    from claude_client.simulator import Reply, SeenRequest

DEFAULT_FOLDER = Path(__file__).parent.parent / "src" / "task_state"
MODEL = "claude-sonnet-4-6"
QUESTIONS = ("Which names are public?", "What may be called from several threads?", "Which errors can a caller meet?")
MERGE = "Make one page for newcomers out of these answers."


def main() -> int:
    parser = argparse.ArgumentParser(description="Have agents answer questions about a folder.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="the folder (default: one of ours)"
    )
    folder: Path = parser.parse_args().folder
    with rehearsal(simulated_agent) as simulated, simulated or anthropic.Anthropic() as client:
        with ThreadPoolExecutor() as pool:
            answers = [*pool.map(partial(answered, client, tools_for(folder)), QUESTIONS)]
        both = zip(QUESTIONS, answers, strict=True)
        page = invoke_claude("\n\n".join([*(f"## {question}\n{answer}" for question, answer in both), MERGE]))
    print(f"\n{page}")
    return 0


def tools_for(folder: Path) -> list[Any]:
    """What an agent may do: nothing but look at the Python files of *folder*. A runner sends it what a tool raises."""
    files = {path.name: path for path in sorted(folder.glob("*.py"))}

    @anthropic.beta_tool
    def list_files() -> str:
        """List the names of the Python files, with their sizes in bytes."""
        return "\n".join(f"{name} {path.stat().st_size}" for name, path in files.items())

    @anthropic.beta_tool
    def read_file(name: str) -> str:
        """
        Read one of the files.

        Args:
            name: Its name, as list_files gives it.
        """
        return files[name].read_text(encoding="utf-8", errors="replace")

    return [list_files, read_file]


def answered(client: anthropic.Anthropic, tools: list[Any], question: str) -> str:
    """What an agent says in the end; its calls of tools are told as it makes them."""
    tool_runner: Callable[..., Any] = client.beta.messages.tool_runner
    # From 2.x on the history would be kept on a server, unless told not to; before, there is no such argument.
    stateless = {"thread": False} if "thread" in inspect.signature(tool_runner).parameters else {}
    runner = tool_runner(
        model=MODEL,
        max_tokens=4096,
        max_iterations=10,
        tools=tools,
        messages=[{"role": "user", "content": f"{question} Find it in the files."}],
        **stateless,
    )
    for message in runner:
        for block in message.content:
            if block.type == "tool_use":
                arguments = ", ".join(map(repr, block.input.values()))
                print(f"[{question}] {block.name}({arguments})\n", end="", flush=True)  # whole: others print too
    text = "".join(block.text for block in message.content if block.type == "text")
    return text if message.stop_reason == "end_turn" else f"{text} [not finished: {message.stop_reason}]"


def simulated_agent(request: SeenRequest) -> Reply | None:
    """Lists the files, reads the last, and answers."""
    from claude_client.simulator import Reply

    if not request.body.get("tools"):
        return None
    turns = len(request.body["messages"])
    if turns == 1:
        return Reply(tool_use=("list_files", {}))
    if turns == 3:
        return Reply(tool_use=("read_file", {"name": re.findall(r"\S+\.py", request.text)[-1]}))
    return None


if __name__ == "__main__":
    sys.exit(main())
