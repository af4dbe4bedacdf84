"""
Message batches against a simulator whose batches end at once: prompts from their dicts to the answers, beside the SDK's
own `batches.create`, `retrieve` and `results`. CPU is that of this process, all its threads; memory is the most that it
grew by, as the system counts it, in a process of its own for either side. Medians of rounds that alternate.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from _figures import Figure, at_most
from _simulated import simulator

import claude_client

_SRC = str(Path(claude_client.__file__).parent.parent)

# Each prints the seconds of CPU, and the mebibytes by which the process grew.
_BOTH = """
import json, resource, sys, time
sys.path.insert(0, {src!r})
import anthropic
client = anthropic.Anthropic(api_key="any", base_url={url!r}, max_retries=0)
prompts = [{{"prompt": f"say {{n}} " + "word " * 100}} for n in range({prompts})]
import claude_client, orchestration, logging
claude_client.set_default_client(client)
def ours(some):
    assert all(orchestration.invoke_batch(some, check_first=False, poll_interval=0.05, max_tokens=100))
def raw(some):
    requests = [{{"custom_id": str(n), "params": {{"model": "claude-sonnet-4-6", "max_tokens": 100,
        "messages": [{{"role": "user", "content": prompt["prompt"]}}]}}}} for n, prompt in enumerate(some)]
    batch = client.messages.batches.create(requests=requests)
    while client.messages.batches.retrieve(batch.id).processing_status != "ended":
        time.sleep(0.05)
    assert len([*client.messages.batches.results(batch.id)]) == len(some)
{side}(prompts[:20])  # to warm up
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
{side}(prompts)
taken = time.process_time() - began
print(json.dumps([taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def figures(*, quick: bool) -> Iterator[Figure]:
    prompts, rounds = (200, 1) if quick else (100_000, 3)
    taken: dict[str, list[list[float]]] = {"ours": [], "raw": []}
    for _ in range(rounds):
        for side, measured in taken.items():
            with simulator() as url:
                program = _BOTH.format(src=_SRC, url=url, prompts=prompts, side=side)
                told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
                measured.append(json.loads(told.stdout))
    (ours, ours_grew), (raw, raw_grew) = (
        map(statistics.median, zip(*of_side, strict=True)) for of_side in taken.values()
    )
    yield Figure(
        what=f"{prompts:,} prompts by a batch: CPU",
        ours=f"{ours:.1f} s, {ours / raw:.2f}x",
        raw=f"{raw:.1f} s",
        target=at_most(1.3, ours / raw),
    )
    yield Figure(what="\u2026 memory", ours=f"{ours_grew:,.0f} MB", raw=f"{raw_grew:,.0f} MB")
