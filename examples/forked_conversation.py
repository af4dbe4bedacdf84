"""
A conversation about a file that is forked, to try two ways on from the same understanding, and goes on with one.

    uv run examples/forked_conversation.py [FILE]

The forks read file and history from the cache that the first turn wrote. Without credentials the answers come from
the simulator.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _rehearsal import rehearsal

from claude_client import ClaudeResponse, ConversationThread

DEFAULT_FILE = Path(__file__).parent.parent / "src" / "orchestration" / "_limiter.py"

WAYS = ("Make it as short as it can be. Show the code.", "Make it as fast as it can be. Show the code.")


def main() -> int:
    parser = argparse.ArgumentParser(description="Talk about a file, and fork the talk.")
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, help="the file (default: one of ours)")
    path: Path = parser.parse_args().file
    source = path.read_text(encoding="utf-8", errors="replace")
    with rehearsal():
        thread = ConversationThread(f"You refactor code. This is {path.name}:\n\n{source}", max_tokens=8000)
        answer = say(thread, "Which guarantees does this code give that a change must keep?")
        show_input(answer)

        forks = [thread.fork() for _ in WAYS]
        print(f"\nTwo ways on, at once: {' / '.join(WAYS)}", flush=True)
        with ThreadPoolExecutor() as pool:
            answers = [*pool.map(ConversationThread.send, forks, WAYS)]
        for way, answer in zip(WAYS, answers, strict=True):
            print(f"\n=== {way}\n{answer}")
            show_input(answer)

        chosen = forks[0]
        show_input(say(chosen, "Does this keep each of the guarantees?"))
    print(f"\nTurns: {thread.turn_count} before the fork, {chosen.turn_count} with the way chosen.")
    saved = json.dumps(chosen.get_messages())
    print(f"Saved, it is {len(saved):,} bytes; ConversationThread(messages=json.loads(saved)) takes it up again.")
    return 0


def say(thread: ConversationThread, message: str) -> ClaudeResponse:
    print(f"\n> {message}")
    answer = thread.send(message, callback=lambda chunk: print(chunk, end="", flush=True))
    print()
    return answer


def show_input(answer: ClaudeResponse) -> None:
    used = answer.usage
    print(f"[{used.total_input_tokens:,} tokens in, {used.cache_read_input_tokens:,} of them from the cache]")


if __name__ == "__main__":
    sys.exit(main())
