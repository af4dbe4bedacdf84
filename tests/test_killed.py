"""A run that is killed ten times and taken up again: nothing that was committed is lost, or asked again."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import claude_client
from claude_client._verbs.requests import build_requests
from claude_client.simulator import Reply, Simulator
from orchestration import invoke_parallel_managed
from orchestration._journal import RunJournal

TASKS = 200
LIVES = 10
PROMPTS = [{"prompt": str(i), **({"task_id": f"task-{i}"} if i % 2 else {})} for i in range(TASKS)]

ONE_LIFE = f"""
import sys
from orchestration import invoke_parallel_managed
prompts = {PROMPTS!r}
invoke_parallel_managed(prompts, journal=sys.argv[1], on_result=lambda i, _: print(i, flush=True))
"""


def answer(request):
    return Reply(text=f"answer {request.body['messages'][0]['content']}", latency=0.002)


def asked(sim, since):
    return [int(request.text) for request in sim.requests[since:]]


def committed(journal):
    with RunJournal(journal, build_requests(PROMPTS)) as opened:
        return {*opened.answered}


def live_until(new_commits, journal, before):
    """One process, killed once it has told of *new_commits* that are not among those *before*."""
    environment = {**os.environ, "PYTHONPATH": str(Path(claude_client.__file__).parent.parent)}
    command = [sys.executable, "-c", ONE_LIFE, str(journal)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        told = 0
        for line in process.stdout:
            told += int(line) not in before
            if told == new_commits:
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.once
def test_a_run_that_is_killed_ten_times_loses_no_committed_answer_and_repeats_none(monkeypatch, tmp_path):
    draw, journal, have = random.Random(9), tmp_path / "run.sqlite", set()
    with Simulator() as sim:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        sim.script_by(answer)
        for _ in range(LIVES):
            since = len(sim.requests)
            live_until(draw.randint(1, 15), journal, have)
            now = committed(journal)
            assert have < now < {*range(TASKS)}
            assert have.isdisjoint(asked(sim, since))
            have = now
        sim.wait_for(lambda s: s.in_flight == 0)
        since = len(sim.requests)
        results = invoke_parallel_managed(PROMPTS, journal=journal)
        assert sorted(asked(sim, since)) == sorted({*range(TASKS)} - have)
        claude_client.set_default_client(None)
    assert results == [f"answer {i}" for i in range(TASKS)]
    assert b"sk-ant" not in journal.read_bytes()
