"""
Interrupt a run after some seconds, or with Ctrl-C: what is answered is kept, and the rest is asked again.

    uv run examples/interrupted_run.py [--seconds S]

Requests under way end at once, and the server sees their connections close. Without credentials the answers come from
the simulator.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time

from _rehearsal import rehearsal

from claude_client import InterruptToken, invoke_parallel_interruptible

LANGUAGES = ("Ada", "C", "Erlang", "Forth", "Go", "Haskell", "Java", "Lisp", "OCaml", "Prolog", "Rust", "Smalltalk")


def main() -> int:
    parser = argparse.ArgumentParser(description="Interrupt a run, and ask the rest again.")
    parser.add_argument("--seconds", type=float, default=2.0, help="until the interrupt (default: %(default)s)")
    seconds: float = parser.parse_args().seconds
    prompts = [{"prompt": f"What did later languages learn from {name}? Three sentences."} for name in LANGUAGES]
    token = InterruptToken()
    interrupted_at = []

    def interrupt(*_: object) -> None:
        interrupted_at.append(time.perf_counter())
        token.interrupt()

    signal.signal(signal.SIGINT, interrupt)
    timer = threading.Timer(seconds, interrupt)
    with rehearsal():
        timer.start()
        results = invoke_parallel_interruptible(prompts, token, max_workers=4, progress=True)
        ended_at = time.perf_counter()
        timer.cancel()
        print(results.summary())
        if not results.interrupted:
            print("All was answered before the interrupt.")
            return 0
        print(f"The run ended {1000 * (ended_at - interrupted_at[0]):.0f} ms after the interrupt.")

        signal.signal(signal.SIGINT, signal.default_int_handler)
        token.reset()
        rest = [*results.errors]
        print(f"\nThe {len(rest)} that have no answer are asked again.", flush=True)
        again = invoke_parallel_interruptible([prompts[index] for index in rest], token, max_workers=4, progress=True)
        for index, answer in zip(rest, again, strict=True):
            results[index] = answer
    print(f"All {len(results)} have an answer now: {None not in results}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
