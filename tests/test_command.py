"""The command: lines in, lines out, exit codes, signals, and what it says of journals, costs and what is left."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import claude_client
from claude_client.simulator import BatchReply, Limits, Reply, Simulator
from helpers import reply
from orchestration import Journal, read_journal
from orchestration._command.main import main

pytestmark = pytest.mark.once

AT_ONCE = ["--set", "check_first=false", "--set", "poll_interval=0.01"]  # of a batch
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def write(*specs, name="prompts.jsonl"):
    Path(name).write_text("".join(f"{json.dumps(spec)}\n" for spec in specs))


def questions(count):
    return [{"prompt": f"prompt {i}.", "task_id": f"task-{i}"} for i in range(count)]


def texts(lines):
    return [line["text"] for line in lines]


def asked(sim):
    """How many requests were for an answer."""
    return sum(request.path == "/v1/messages" for request in sim.requests)


def command(*arguments, **more):
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(claude_client.__file__).parent.parent)}
    said = [sys.executable, "-m", "orchestration", *arguments]
    return subprocess.Popen(said, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.fixture
def refused(capsys, sim):
    """Run a command that is refused before any request; return what it says."""

    def run(*arguments):
        assert main(arguments) == 2
        assert len(sim.requests) == 0
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    return run


# Lines in and out


def test_each_line_is_answered_by_a_line_in_order(sim):
    sim.script(*[Reply(text=f"answer {i}", latency=0.02 * (3 - i)) for i in range(3)])
    write(*questions(3))
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--max-workers", "3"]) == 0
    lines = lines_of("answers.jsonl")
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line["task_id"] for line in lines] == ["task-0", "task-1", "task-2"]
    assert sorted(texts(lines)) == ["answer 0", "answer 1", "answer 2"]
    assert {line["error"] for line in lines} == {None}


def test_what_is_said_for_all_prompts_reaches_each(sim):
    write({"prompt": "a"}, {"prompt": "b", "max_tokens": 7, "temperature": 0.5})
    Path("system.txt").write_text("Be kind.")
    said = ["--model", "claude-haiku-4-5", "--max-tokens", "9", "--system", "system.txt", "--cache"]
    said += ["--set", "temperature=0", "--set", "service_tier=auto", "--set", 'metadata={"user_id": "u"}']
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--max-workers", "1", *said]) == 0
    first, second = (request.body for request in sim.requests)
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("claude-haiku-4-5", 9, 0)
    assert (second["max_tokens"], second["temperature"]) == (7, 0.5)
    assert first["system"] == [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    assert (first["service_tier"], first["metadata"]) == ("auto", {"user_id": "u"})


def test_a_schema_makes_the_answers_data(sim, capsys):
    sim.script(Reply(text='{"n": 5}'))
    write({"prompt": "how many?"})
    Path("schema.json").write_text(json.dumps(SCHEMA))
    assert main(["run", "prompts.jsonl", "--schema", "schema.json"]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["output"] == {"n": 5}
    assert sim.requests[0].body["output_config"]["format"]["type"] == "json_schema"


def test_a_prompt_that_fails_has_a_line_that_says_why_and_the_others_their_answers(sim, capsys):
    sim.script(Reply(fault="invalid_request"), matching="prompt 1.")
    write(*questions(3))
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl"]) == 1
    lines = lines_of("answers.jsonl")
    assert [line["error"] for line in lines] == [None, "invalid_request", None]
    assert lines[1]["message"]
    assert "2 of 3 prompts are answered. What was is kept in answers.jsonl.journal" in capsys.readouterr().err


def test_lines_come_in_from_the_standard_input_and_go_to_the_standard_output(sim, capsys, monkeypatch):
    given = b'\xef\xbb\xbf{"prompt": "prompt 0."}\r\n\n  \n{"prompt": "prompt 1."}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert main(["run", "-"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1]
    assert [*Path.cwd().iterdir()] == []  # no journal that nobody asked for


def test_lines_to_a_pipe_come_in_order_as_soon_as_they_can(sim):
    release = threading.Event()
    sim.script(Reply(until=release), matching="prompt 1.")
    write(*questions(3))
    with command("run", "prompts.jsonl", "--quiet") as process:
        assert json.loads(process.stdout.readline())["index"] == 0
        sim.wait_for(lambda s: len(s.requests) == 3 and s.in_flight == 1)  # the last is answered, and waits its turn
        release.set()
        assert [json.loads(line)["index"] for line in process.stdout] == [1, 2]
    assert process.returncode == 0


def test_lines_may_come_as_answers_do(sim):
    release = threading.Event()
    sim.script(Reply(until=release), matching="prompt 0.")
    write(*questions(3))
    with command("run", "prompts.jsonl", "--as-they-come", "--quiet") as process:
        assert {json.loads(process.stdout.readline())["index"] for _ in range(2)} == {1, 2}
        release.set()
        assert json.loads(process.stdout.readline())["index"] == 0
    assert main(["run", "prompts.jsonl", "--as-they-come", "--out", "answers.jsonl"]) == 0
    assert sorted(line["index"] for line in lines_of("answers.jsonl")) == [0, 1, 2]


def test_half_a_surrogate_pair_costs_no_line(api):
    api.answers(reply("ab\ud83d"))
    write({"prompt": "odd"})
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl"]) == 0
    assert lines_of("answers.jsonl")[0]["text"] == "ab\ufffd"


@pytest.mark.long
def test_answers_in_order_replace_the_file_at_the_end_only_and_through_a_link(sim):
    release = threading.Event()
    sim.script(Reply(until=release), matching="prompt 0.")
    write(*questions(2))
    Path("real.jsonl").write_text("of an earlier run\n")
    Path("answers.jsonl").symlink_to("real.jsonl")
    with command("run", "prompts.jsonl", "--out", "answers.jsonl", "--quiet"):
        sim.wait_for(lambda s: len(s.requests) == 2)
        assert Path("real.jsonl").read_text() == "of an earlier run\n"
        release.set()
    assert len(lines_of("real.jsonl")) == 2
    assert Path("answers.jsonl").is_symlink()
    assert not Path("real.jsonl.part").exists()


# What is wrong is said before anything is asked


def test_lines_that_are_no_prompts_are_named_before_any_request(refused):
    Path("prompts.jsonl").write_bytes(b'{"prompt": "fine"}\n\nnonsense\n[1]\n{"prompt": "\xff"}\n{"prompt": NaN}\n')
    said = refused("run", "prompts.jsonl", "--out", "answers.jsonl")
    assert "prompts.jsonl, line 3: it is not JSON: Expecting value, at character 1" in said
    assert "line 4: a prompt is a JSON object such as" in said
    assert "line 5: it is not UTF-8" in said
    assert "line 6: NaN is no number in JSON" in said
    assert "line 1" not in said
    assert not Path("answers.jsonl").exists()


def test_prompts_that_cannot_be_sent_are_named_by_their_lines(refused):
    write({"prompt": "fine"}, {"promt": "x"}, {"prompt": "x", "max_tokens": 0})
    said = refused("run", "prompts.jsonl")
    assert "prompts.jsonl, line 2: has no 'prompt'" in said
    assert "prompts.jsonl, line 3: max_tokens must be a whole number of at least 1, got 0" in said


def test_of_very_many_bad_lines_the_first_are_named(refused):
    Path("prompts.jsonl").write_text("x\n" * 25)
    said = refused("run", "prompts.jsonl")
    assert "line 10" in said
    assert "line 11" not in said
    assert "and 15 more" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.jsonl"], "missing.jsonl"),
        (["empty.jsonl"], "empty.jsonl has no prompt: there is nothing to ask"),
        (["prompts.jsonl", "--set", "nonsense=1"], "unknown parameter 'nonsense'"),
        (["prompts.jsonl", "--set", "journal=kept"], "--set cannot say journal"),
        (["prompts.jsonl", "--set", "budget_usd=1"], "--set cannot say budget_usd"),
        (["prompts.jsonl", "--set", "tracker=1"], "--set cannot say tracker"),
        (["prompts.jsonl", "--set", "poll_interval=1"], "poll_interval is for --batch"),
        (["prompts.jsonl", "--finish-by", "60"], "are for --batch"),
        (["prompts.jsonl", "--batch", "--max-workers", "3"], "takes no max_workers"),
        (["prompts.jsonl", "--max-workers", "0"], "max_workers must be a whole number of at least 1, got 0"),
        (["prompts.jsonl", "--budget", "-1"], "a budget is a number of dollars above 0, got -1.0"),
        (["prompts.jsonl", "--budget", "1", "--model", "of-mine"], "of-mine"),
        (["prompts.jsonl", "--out", "."], "Is a directory: '.'"),
        (["prompts.jsonl", "--out", "nowhere/answers.jsonl"], "No such file or directory: "),
        (["prompts.jsonl", "--out", "taken.jsonl"], "taken.jsonl.part"),
        (["prompts.jsonl", "--journal", "prompts.jsonl"], "prompts.jsonl is not a journal, and was left as it is"),
        (["twice.jsonl"], "the task_id 'a' is there twice"),
    ],
)
def test_a_mistake_is_told_in_a_line_before_any_request(refused, arguments, told):
    write({"prompt": "x"})
    write({"prompt": "x", "task_id": "a"}, {"prompt": "y", "task_id": "a"}, name="twice.jsonl")
    Path("empty.jsonl").write_text("\n\n")
    Path("taken.jsonl.part").mkdir()
    said = refused("run", *arguments)
    assert told in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--system", "missing.txt"], "missing.txt cannot be read"),
        (["--schema", "prompts.txt"], "prompts.txt is not JSON"),
        (["--set", "temperature"], "it is NAME=VALUE, got 'temperature'"),
        (["--finish-by", "soon"], "it is seconds, or a time such as 2026-12-24T08:00, got 'soon'"),
        (["--journal", "a", "--no-journal"], "not allowed with argument"),
    ],
)
def test_a_command_line_that_cannot_be_read_says_what_is_wrong(capsys, arguments, told):
    Path("prompts.txt").write_text("{")
    with pytest.raises(SystemExit) as ended:
        main(["run", "prompts.jsonl", *arguments])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("batch", [[], ["--batch"]])
def test_without_credentials_nothing_is_asked(refused, monkeypatch, batch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    claude_client.set_default_client(None)
    write({"prompt": "x"})
    assert "No Claude API credentials found" in refused("run", "prompts.jsonl", *batch)


# Taken up again


def test_the_same_command_asks_only_for_what_has_no_answer(sim, capsys):
    sim.script(Reply(fault="invalid_request"), matching="prompt 1.")
    write(*questions(3))
    run = ["run", "prompts.jsonl", "--out", "answers.jsonl"]
    assert main(run) == 1
    assert main(run) == 0
    assert len(sim.requests) == 4
    assert [line["error"] for line in lines_of("answers.jsonl")] == [None, None, None]
    write(*questions(4))  # one more line
    assert main(run) == 0
    assert len(sim.requests) == 5
    assert "3 recalled from the journal" in capsys.readouterr().err


def test_a_run_that_was_killed_is_taken_up_again(sim):
    release = threading.Event()
    sim.script(Reply(until=release), matching="prompt 2.")
    write(*questions(3))
    with command(
        "run", "prompts.jsonl", "--out", "answers.jsonl", "--journal", "kept", "--max-workers", "1"
    ) as process:
        sim.wait_for(lambda s: len(s.requests) == 3)
        process.kill()
    release.set()
    assert not Path("answers.jsonl").exists()
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--journal", "kept"]) == 0
    assert len(sim.requests) == 4
    assert len(lines_of("answers.jsonl")) == 3


def test_without_a_journal_everything_is_asked_again(sim):
    write(*questions(2))
    for _ in range(2):
        assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--no-journal"]) == 0
    assert len(sim.requests) == 4
    assert not Path("answers.jsonl.journal").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_a_signal_ends_a_run_in_order_and_it_says_how_to_go_on(sim, number, code):
    sim.script(Reply(until=threading.Event()), matching="prompt 2.")
    write(*questions(4))
    with command("run", "prompts.jsonl", "--out", "answers.jsonl", "--max-workers", "1") as process:
        sim.wait_for(lambda s: len(s.requests) == 3)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in said
    assert "2 of 4 prompts are answered" in said
    assert "the same command asks the rest" in said
    lines = lines_of("answers.jsonl")
    assert [line["error"] for line in lines] == [None, None, "interrupted", "interrupted"]
    assert len(read_journal("answers.jsonl.journal")) == 2


@pytest.mark.long
def test_a_second_ctrl_c_ends_what_the_first_did_not(sim):
    write(*questions(1))
    sim.script_batches(BatchReply(seconds=9e9, cancel_seconds=9e9))
    said = ["run", "prompts.jsonl", "--out", "answers.jsonl", "--batch", "--cancel-on-interrupt"]
    with command(*said, *AT_ONCE) as process:
        sim.wait_for(lambda s: len(s.requests) >= 4)  # it was created and looked at
        process.send_signal(signal.SIGINT)
        sim.wait_for(lambda s: s.batches[0].status == "canceling")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130


def test_a_second_ctrl_c_while_a_line_is_written_leaves_one_line_for_each_prompt(sim, monkeypatch):
    pressed = []

    class Pressed(io.BytesIO):
        """A file whose first flush two Ctrl-C meet."""

        def flush(self):
            if not pressed:
                pressed.append(1)
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    written = Pressed()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=written))
    write(*questions(3))
    assert main(["run", "prompts.jsonl", "--quiet", "--max-workers", "1"]) == 130
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert lines[0]["error"] is None


@pytest.mark.long
def test_a_reader_that_has_read_enough_ends_the_run(sim):
    sim.script(Reply(until=threading.Event()), matching="prompt 3.")
    release = threading.Event()
    sim.script(Reply(until=release), matching="prompt 1.")
    write(*questions(4))
    with command("run", "prompts.jsonl", "--journal", "kept") as process:
        assert json.loads(process.stdout.readline())["index"] == 0
        process.stdout.close()
        release.set()
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert "Error" not in said


def test_a_full_disk_ends_the_run_and_the_journal_has_the_answers(sim, capsys):
    write(*questions(2))
    run = ["run", "prompts.jsonl", "--out", "/dev/full", "--journal", "kept", "--max-workers", "1"]
    assert main(run) == 1
    assert "Answers cannot be written to /dev/full: [Errno 28]" in capsys.readouterr().err
    assert len(read_journal("kept")) >= 1


@pytest.mark.long
def test_answers_that_cannot_be_written_at_the_end_are_in_the_journal(sim, capsys):
    write(*questions(2))
    release = threading.Event()
    sim.script(Reply(until=release), matching="prompt 0.")
    with command("run", "prompts.jsonl", "--out", "answers.jsonl") as process:
        sim.wait_for(lambda s: len(s.requests) == 2)
        Path("answers.jsonl").mkdir()
        release.set()
        assert "Answers cannot be written to answers.jsonl" in process.stderr.read()
    assert process.returncode == 1
    assert len(read_journal("answers.jsonl.journal")) == 2


def test_a_run_that_is_stopped_writes_what_it_has(sim, capsys):
    sim.script(Reply(fault="billing"), matching="prompt 1.")
    write(*questions(3))
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--max-workers", "1"]) == 1
    assert [line["error"] for line in lines_of("answers.jsonl")] == [None, "billing", "billing"]


def test_a_run_that_is_stopped_before_anybody_is_asked_writes_why_for_each_prompt(sim, capsys):
    sim.script_batches(BatchReply(fault="permission"))
    write(*questions(2))
    assert main(["run", "prompts.jsonl", "--batch", "--no-journal", *AT_ONCE]) == 1
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [(line["index"], line["error"]) for line in lines] == [(0, "interrupted"), (1, "interrupted")]
    assert "The run was stopped: 403 permission_error" in said.err
    assert "0 of 2 prompts are answered.\n" in said.err  # there is no journal to go on from


# Money


def test_a_budget_that_is_used_up_has_an_exit_code_of_its_own(sim, capsys):
    write(*questions(5))
    run = ["run", "prompts.jsonl", "--out", "answers.jsonl", "--max-tokens", "100", "--max-workers", "1"]
    assert main([*run, "--budget", "0.0025"]) == 3
    kinds = [line["error"] for line in lines_of("answers.jsonl")]
    assert kinds[0] is None
    assert kinds[-1] == "budget"
    assert "budget: " in capsys.readouterr().err
    assert main([*run, "--budget", "1", "--reserve", "likely"]) == 0
    assert len(sim.requests) == 5


def test_a_dry_run_says_what_is_left_and_what_it_costs_and_asks_nothing(sim, capsys):
    write(*questions(2))
    run = ["run", "prompts.jsonl", "--out", "answers.jsonl", "--max-tokens", "50"]
    assert main(run) == 0
    write(*questions(3))
    capsys.readouterr()
    assert main([*run, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "left     1 of 3 prompts" in said
    assert "requests 1 to claude-sonnet-4-6" in said
    assert asked(sim) == 2
    write(*questions(2))
    assert main([*run, "--dry-run"]) == 0
    assert capsys.readouterr().out == "left     0 of 2 prompts\n"
    assert main(["run", "prompts.jsonl", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("requests 2 ")


def test_an_estimate_asks_nothing_and_compares(sim, capsys, monkeypatch):
    write(*questions(2))
    said = ["estimate", "prompts.jsonl", "--set", "share_identical=true"]
    assert main([*said, "--expected-output", "10", "--compare", "claude-haiku-4-5"]) == 0
    found = capsys.readouterr().out
    assert "likely 20, at most 8,192 tokens" in found
    assert "claude-haiku-4-5" in found
    assert asked(sim) == 0
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl"]) == 0
    capsys.readouterr()
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert main([*said, "--offline", "--like", "answers.jsonl.journal"]) == 0
    assert "(guessed)" in capsys.readouterr().out


def test_an_estimate_that_cannot_be_made_says_why(capsys):
    write({"prompt": "x"})
    with Simulator(models=["of-mine"]):
        assert main(["estimate", "prompts.jsonl", "--model", "of-mine", "--offline"]) == 2
    assert "of-mine" in capsys.readouterr().err


def test_a_batch_that_the_api_does_not_take_is_a_failure(sim, capsys):
    sim.script(Reply(fault="invalid_request"))
    write({"prompt": "x"})
    assert main(["run", "prompts.jsonl", "--batch"]) == 1
    assert "400 invalid_request_error" in capsys.readouterr().err
    assert sim.batches == ()


# Batches, and what is seen of a run


@pytest.fixture
def sim_at(monkeypatch):
    """A simulator, and a list with the time by its clock."""
    at = [0.0]
    with Simulator(clock=lambda: at[0]) as simulator:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", simulator.base_url)
        yield simulator, at
        claude_client.set_default_client(None)


def test_a_run_by_batches_and_a_picture_of_it(sim, capsys):
    write(*questions(3))
    said = ["--batch", "--finish-by", "600", "--timeline", "run.html"]
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", *said, *AT_ONCE]) == 0
    assert len(sim.batches) == 1
    assert len(lines_of("answers.jsonl")) == 3
    assert "<html" in Path("run.html").read_text()


def test_batches_that_go_on_after_an_interrupt_are_collected_by_the_same_command(sim_at, capsys):
    sim, at = sim_at
    sim.script_batches(BatchReply(seconds=60))
    write(*questions(2))
    run = ["run", "prompts.jsonl", "--out", "answers.jsonl", "--batch", *AT_ONCE]
    with command(*run) as process:
        sim.wait_for(lambda s: len(s.batches) == 1)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "and collects the batches, which go on" in said
    batch = sim.batches[0].id
    assert main(["journal", "batches", "answers.jsonl.journal"]) == 0
    assert capsys.readouterr().out == f"{batch}\n"
    assert main(["status", "prompts.jsonl", "--out", "answers.jsonl", "--batch"]) == 1
    assert f"batches  {batch}" in capsys.readouterr().out
    at[0] += 60
    assert main(run) == 0
    assert len(sim.batches) == 1
    assert main(["status", "prompts.jsonl", "--out", "answers.jsonl", "--batch"]) == 0


def test_batches_may_be_forgotten(sim, capsys):
    sim.script_batches(BatchReply(seconds=9e9))
    write(*questions(2))
    with command("run", "prompts.jsonl", "--out", "answers.jsonl", "--batch", *AT_ONCE) as process:
        sim.wait_for(lambda s: len(s.batches) == 1)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 143
    assert main(["journal", "forget-batches", "answers.jsonl.journal"]) == 0
    assert capsys.readouterr().out == f"{sim.batches[0].id}\n"
    assert Journal("answers.jsonl.journal").batches() == []


def test_status_tells_what_is_left_also_while_the_run_goes_on(sim, capsys):
    release = threading.Event()
    sim.script(Reply(until=release), matching="prompt 2.")
    sim.script(Reply(fault="refusal"), matching="prompt 1.")
    write(*questions(4))
    status = ["status", "prompts.jsonl", "--out", "answers.jsonl", "--json"]
    assert main(status) == 1  # not begun
    assert json.loads(capsys.readouterr().out)["left"] == 4
    with command("run", "prompts.jsonl", "--out", "answers.jsonl", "--max-workers", "1") as process:
        sim.wait_for(lambda s: len(s.requests) == 3)
        assert main(status) == 1
        found = json.loads(capsys.readouterr().out)
        release.set()
        process.stderr.read()
    assert found == {"prompts": 4, "answered": 1, "refused": 1, "left": 2, "batches": []}
    assert process.returncode == 1  # one was refused
    assert main(status[:-1]) == 0
    assert "refused  1" in capsys.readouterr().out


def test_status_without_a_journal_says_so(refused):
    write(*questions(1))
    assert "say --journal FILE, or the --out of the run" in refused("status", "prompts.jsonl")


# Journals


@pytest.fixture
def kept(sim):
    sim.script(Reply(fault="refusal"), matching="prompt 1.")
    write(*questions(2), {"prompt": "has\u202eno\x1b[31m\nid " + "x" * 99})
    main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--max-workers", "1"])
    return "answers.jsonl.journal"


def test_what_stands_in_a_journal_is_listed(kept, capsys):
    capsys.readouterr()
    assert main(["journal", "list", kept]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["kind", "tokens", "task", "text"]
    assert [row.split()[0] for row in rows] == ["ok", "refusal", "ok"]
    assert [row.split()[2] for row in rows] == ["task-0", "task-1", "-"]
    assert rows[2].endswith("\u2026")
    assert "\x1b" not in "".join(rows)
    assert main(["journal", "list", kept, "--kind", "refusal"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_stands_in_a_journal_is_shown_whole(kept, capsys):
    capsys.readouterr()
    assert main(["journal", "show", kept, "--task", "task-0", "--task", "task-1"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["task_id"], first["error"]) == ("task-0", None)
    assert "prompt 0." in first["text"]
    assert (second["task_id"], second["error"]) == ("task-1", "refusal")


def test_what_is_dropped_from_a_journal_is_asked_again(kept, capsys, sim):
    before = len(sim.requests)
    assert main(["journal", "drop", kept]) == 2
    assert "say what to drop" in capsys.readouterr().err
    assert main(["journal", "drop", kept, "--kind", "refusal"]) == 0
    assert capsys.readouterr().out == "1 dropped\n"
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl"]) == 0
    assert len(sim.requests) == before + 1
    capsys.readouterr()
    assert main(["journal", "drop", kept, "--all"]) == 0
    assert capsys.readouterr().out == "3 dropped\n"


def test_a_journal_is_salvaged_to_a_new_one(kept, capsys):
    capsys.readouterr()
    assert main(["journal", "salvage", kept, "saved"]) == 0
    assert capsys.readouterr().out == "3 saved\n"
    assert len(read_journal("saved")) == 3
    assert main(["journal", "salvage", kept, "saved"]) == 2


@pytest.mark.parametrize("name", ["list", "show", "drop", "batches", "forget-batches"])
def test_a_journal_that_is_not_there_is_told(capsys, name):
    assert main(["journal", name, "missing", *(["--all"] if name == "drop" else [])]) == 2
    assert "missing cannot be opened: No such file or directory" in capsys.readouterr().err


# The command itself


def test_ctrl_c_before_there_is_a_run_ends_it_without_a_traceback(monkeypatch, capsys):
    class Reading:
        @property
        def buffer(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Reading())
    assert main(["run", "-"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_is_gone_ends_the_run_quietly(sim, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    write(*questions(3))
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["run", "prompts.jsonl", "--quiet"]) == 128 + signal.SIGPIPE
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_an_answer_that_cannot_be_written_at_the_end_is_told(sim, capsys):
    def answer(_):
        Path("answers.jsonl").mkdir()
        return Reply()

    sim.script_by(answer)
    write(*questions(1))
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl"]) == 1
    assert "Answers cannot be written to answers.jsonl" in capsys.readouterr().err


def test_a_signal_in_the_middle_ends_the_run_and_is_its_exit_code(sim, capsys):
    def answer(request):
        if "prompt 1." in str(request.body):
            os.kill(os.getpid(), signal.SIGTERM)
            return Reply(until=threading.Event())
        return Reply()

    sim.script_by(answer)
    write(*questions(3))
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--max-workers", "1"]) == 143
    said = capsys.readouterr().err
    assert "1 of 3 prompts are answered" in said
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_batches_that_go_on_are_told_of(sim_at, capsys):
    sim, _ = sim_at
    sim.script_batches(BatchReply(seconds=9e9))

    def end():
        sim.wait_for(lambda s: len(s.requests) >= 3)
        os.kill(os.getpid(), signal.SIGINT)

    write(*questions(1))
    ending = threading.Thread(target=end)
    ending.start()
    assert main(["run", "prompts.jsonl", "--out", "answers.jsonl", "--batch", *AT_ONCE]) == 130
    ending.join()
    assert "and collects the batches, which go on" in capsys.readouterr().err


def test_the_simulator_has_a_command_line_of_its_own(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--odd"])
    assert ended.value.code == 2
    assert "usage: orchestrating-agents simulate" in capsys.readouterr().err


def test_a_stand_in_is_served_until_a_signal_comes(capsys):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # it waits until somebody asks for it
        assert main(["simulate", "--port", "0"]) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert capsys.readouterr().out.startswith("export ANTHROPIC_API_KEY=simulated")


def test_a_stand_in_for_the_api_is_served():
    with command("simulate", "--port", "0") as process:
        assert process.stdout.readline().startswith("export ANTHROPIC_API_KEY=simulated ANTHROPIC_BASE_URL=http://")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_help_tells_of_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name in ("run", "estimate", "status", "journal", "simulate", "exit codes"):
        assert name in said


def test_a_slow_limit_is_waited_for_rather_than_failed(capsys):
    with (
        Simulator(limits=Limits(requests_per_second=50, request_burst=1)) as sim,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        claude_client.set_default_client(None)
        write(*questions(6))
        assert main(["run", "prompts.jsonl", "--quiet", "--max-workers", "100"]) == 0
    claude_client.set_default_client(None)
    assert capsys.readouterr().err == ""
