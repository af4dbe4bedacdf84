"""Every example runs without a key, says so, and shows what it promises. The notebook carries what it shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import helpers
from pages import ROOT

EXAMPLES = ROOT / "examples"
PROGRAMS = {path.name for path in EXAMPLES.glob("[!_]*.py")}
NOTEBOOK = EXAMPLES / "tour.ipynb"
EXECUTE = ROOT / "tests" / "notebook.py"
LONGEST = 120  # seconds
AT_ONCE = 3  # they wait much of their time

SIMULATED = "No credentials found: the answers below are simulated.\n"
WHOLE_BAR = r"100%\|"
# What is found in the output of each, besides.
PROMISED = {
    "multi_perspective_review.py": [
        r"\[Security\] .+ \.\.\.",
        "=== Maintainability ===",
        "66% of the input",
        WHOLE_BAR,
    ],
    "document_analysis.py": [r"all .+ answered\n", "=== Report on", r"[4-9]\d% of .+ cache", r"\$0\.\d+", WHOLE_BAR],
    "task_delegation.py": ["Planning: 3 at once", "    - List the writes", "Working: 4", r"asked: Merge", WHOLE_BAR],
    "tool_delegation.py": ["tool delegate: ok", "reader-3: ok · 3 requests", "tool read_file: ok"],
    "forked_conversation.py": [
        r"(\[[\d,]+ tokens in, \d,\d+ of them from the cache\](.|\n)*){3}",
        "1 before .+, 3 with",
    ],
    "managed_run.py": [
        r"bug: \{.*'low': 3.*\}",
        "ticket-13 was silent",
        "[12] attempts failed and were made again; 0 tickets have no",
    ],
    "ticket_triage.py": [
        "billing: 20, 20 of them urgent",
        "question: 20, 0 of them urgent",
        r"60 of 60 tickets sorted, 9\d% of the input",
        "Written: tickets.csv, tickets.html",
    ],
    "budgeted_run.py": [
        "requests 40 to claude-sonnet-4-6",
        r"claude-sonnet-4-6  batch  5m +\$",
        "40 answered, 0 beyond the budget",
        r"claude-opus-4-6 \$0\.0",
        r"Saved by the cache: \$0\.",
        r"of \$0\.2000 spent, \$0\.",
    ],
    "overnight.py": [
        r"At most \$0\.\d\d live, \$0\.\d\d as batches",
        "1 batch created",
        r"\{'completed': 200\}",
        r"9\d% of the input came from the cache",
    ],
    "observed_run.py": [
        "24 answered",
        r"latency .+ \(p95",
        r"made again: (?=.*1 after overloaded)(?=.*1 after incomplete_stream)(?=.*1 after rate_limit)(?!.*,.*,.*,)",
        r"The slowest, [a-z-]+\d+, took \d",
        "Look at run.html",
    ],
    "interrupted_run.py": [
        r"The call was interrupted",
        r"ended \d{1,3} ms after",
        "All 12 have an answer now: True",
        WHOLE_BAR,
    ],
}


def test_each_example_promises_something_and_the_page_lists_it():
    listed = re.findall(r"examples/(\w+\.py)|\[`(\w+\.ipynb)`]", (EXAMPLES / "README.md").read_text())
    assert {program or notebook for program, notebook in listed} == PROGRAMS | {NOTEBOOK.name}
    assert PROMISED.keys() == PROGRAMS


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What comes of each, as a future."""
    folder = tmp_path_factory.mktemp("examples")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {NOTEBOOK.name: pool.submit(output_of, folder, EXECUTE, folder / NOTEBOOK.name)}
        runs["managed_run.py"] = pool.submit(killed_and_run_again, folder)
        for name in PROMISED.keys() - runs.keys():
            runs[name] = pool.submit(output_of, folder, EXAMPLES / name)
        yield {**runs, "folder": folder}


def killed_and_run_again(folder):
    command = [EXAMPLES / "managed_run.py", "--tickets", "20"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True
    ) as first:
        assert any("10 of 20 tickets" in line for line in first.stdout)
        first.kill()
    return output_of(folder, *command)


def output_of(folder, *command, **variables):
    """What a program prints to the terminal."""
    completed = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(folder, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


def environment(folder, **added):
    """This one, but for those who have no key anywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    return {**kept, "HOME": str(folder), **added}


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize("name", PROMISED)
def test_an_example_says_that_it_is_simulated_and_shows_what_it_promises(name, outputs):
    output = outputs[name].result()
    assert output.count(SIMULATED) == 1
    for promised in PROMISED[name]:
        assert re.search(promised, output), f"{promised} is not in\n{output}"


@pytest.mark.long
@pytest.mark.once
def test_a_managed_run_that_was_killed_goes_on_where_it_was(outputs):
    output = outputs["managed_run.py"].result()
    seconds, answered = re.findall(r"([\d.]+) s: (\d+) of 20", output)[0]
    assert answered == "10"
    assert float(seconds) < 0.3, "the simulator takes longer: it was asked again"
    assert "20 of 20" in output


@pytest.mark.long
@pytest.mark.once
def test_an_example_asks_the_api_where_there_is_a_key(sim, tmp_path):
    output = output_of(
        tmp_path, EXAMPLES / "tool_delegation.py", ANTHROPIC_API_KEY=helpers.KEY, ANTHROPIC_BASE_URL=sim.base_url
    )
    assert SIMULATED not in output
    assert [request.status for request in sim.requests] == [200]
    assert not any("thread" in request.body for request in sim.requests)


# The notebook.


def shown(notebook):
    """The kinds of output of each cell that has some, by the id of the cell."""
    outputs = {cell["id"]: cell.get("outputs", []) for cell in notebook["cells"]}
    return {name: {kind for output in some for kind in kinds(output)} for name, some in outputs.items() if some}


def kinds(output):
    return [output.get("name", output["output_type"]), *output.get("data", ())]


HTML = ("results", "picture", "conversation", "delegation", "delegation-picture", "interrupt")


def test_the_notebook_carries_its_outputs_and_nothing_of_the_machine_they_come_from():
    text = NOTEBOOK.read_text()
    notebook = json.loads(text)
    assert shown(notebook).keys() == {
        "start",
        "fan-out",
        "results",
        "answer",
        "costs",
        "picture",
        "conversation",
        "delegation",
        "delegation-picture",
        "interrupt",
    }
    assert all("text/html" in shown(notebook)[name] for name in HTML)
    assert [cell["metadata"] for cell in notebook["cells"]] == [{}] * len(notebook["cells"])
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    assert not re.search(r"/(home|root|tmp|usr|work)/|\b20\d\d-\d\d-\d\d|Traceback|Warning", text)


@pytest.mark.long
@pytest.mark.once
def test_the_notebook_shows_what_it_carries(outputs):
    outputs[NOTEBOOK.name].result()
    executed = json.loads((outputs["folder"] / NOTEBOOK.name).read_text())
    assert shown(executed) == shown(json.loads(NOTEBOOK.read_text()))
