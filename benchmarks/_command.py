"""
The command beside a program that people would write: a thread pool over the raw SDK that reads the same lines and
writes the texts. CPU of the whole process for each line, from its start to its end; the command keeps a journal too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from _figures import Figure
from _raw import MODEL
from _simulated import simulator
from _timing import in_turn, ratio_by_round

import claude_client

_SRC = str(Path(claude_client.__file__).parent.parent)

_RAW = f"""
import json, sys
from concurrent.futures import ThreadPoolExecutor
import anthropic
client = anthropic.Anthropic()
def ask(line):
    spec = json.loads(line)
    said = client.messages.create(
        model={MODEL!r}, max_tokens=50, messages=[{{"role": "user", "content": spec["prompt"]}}]
    )
    return json.dumps({{"text": said.content[0].text, "usage": said.usage.to_dict()}})
with open(sys.argv[1]) as prompts, open(sys.argv[2], "w") as answers, ThreadPoolExecutor(10) as pool:
    for told in pool.map(ask, prompts):
        print(told, file=answers)
"""


def figures(*, quick: bool) -> Iterator[Figure]:
    for lines in (20,) if quick else (20, 2000):
        yield cpu(lines, rounds=1 if quick else 5)


def cpu(lines: int, rounds: int) -> Figure:
    with simulator("--latency", "0.02") as url, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": url, "PYTHONPATH": _SRC}
        prompts, answers = Path(folder) / "prompts.jsonl", Path(folder) / "answers.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": f"say {number}"}) + "\n" for number in range(lines)))
        places = (str(prompts), str(answers))
        command = ("-m", "orchestration", "run", places[0], "--out", places[1], "--max-tokens", "50", "--quiet")
        ways = {"ours": (*command, "--max-workers", "10"), "raw": ("-c", _RAW, *places)}

        def run(arguments: tuple[str, ...]) -> None:
            for name in (answers, Path(f"{answers}.journal")):
                name.unlink(missing_ok=True)
            subprocess.run([sys.executable, *arguments], env=environment, check=True)
            assert len(answers.read_text().splitlines()) == lines

        taken = in_turn(rounds, {name: partial(run, way) for name, way in ways.items()}, _cpu_of_children)
    ours, theirs = (statistics.median(taken[side]) / lines * 1000 for side in ("ours", "raw"))
    return Figure(
        what=f"the command, {lines:,} lines: CPU for each, with its start",
        ours=f"{ours:.2f} ms, {ratio_by_round(taken['ours'], taken['raw']):.2f}x",
        raw=f"{theirs:.2f} ms",
    )


def _cpu_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system
