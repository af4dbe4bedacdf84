import io
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import anthropic
import pytest

import orchestration
from claude_client import ClaudeInvocationError, ClaudeResponse, Usage
from claude_client._values.fingerprint import fingerprint
from claude_client._values.response import text_of
from claude_client._verbs.requests import build_request, build_requests
from helpers import KEY, message, until
from orchestration import Journal, drop_from_journal, invoke_parallel_managed, read_journal, salvage_journal
from orchestration._journal import RunJournal
from orchestration._journal_file import APPLICATION_ID, JournalError, _copied
from orchestration._journal_rows import FORMAT

SOURCE = str(Path(orchestration.__file__).parent.parent)
CACHED = {"type": "ephemeral"}
USAGES = (Usage(10, 5),)

# What the other process of a test begins with. It has no use for the SDK, which takes long to import.
OTHER = """
import os, sys
from types import SimpleNamespace
from claude_client import ClaudeResponse
from claude_client._verbs.requests import build_requests
from orchestration._journal import RunJournal
from orchestration._journal_file import JournalError

def answer(text):
    fields = {"model": "m", "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    return ClaudeResponse(text, SimpleNamespace(to_dict=lambda **_: fields), "req_1")
"""


def answer(text="Hello", request_id="req_1", usages=USAGES, **fields):
    said = anthropic.types.Message.construct(**message(text, **fields))
    return ClaudeResponse(text_of(said.content), said, request_id, usages)


def prompts(*texts, **options):
    return build_requests([{"prompt": text} for text in texts], **options)


def tasks(**texts):
    return build_requests([{"prompt": text, "task_id": task_id} for task_id, text in texts.items()])


def keep(requests, answers, path="run.sqlite"):
    with RunJournal(path, requests) as journal:
        for index, text in answers.items():
            journal.keep(index, answer(text))


def answered(requests, path="run.sqlite"):
    with RunJournal(path, requests) as journal:
        return dict(journal.answered)


def other(script, *arguments, **pipes):
    return subprocess.Popen(
        [sys.executable, "-c", OTHER + script, *arguments], env={**os.environ, "PYTHONPATH": SOURCE}, text=True, **pipes
    )


def outcome(script, *arguments):
    """What another process prints."""
    process = other(script, *arguments, stdout=subprocess.PIPE)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return printed.strip()


def everything_here():
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def test_an_answer_is_restored_whole():
    thought = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    tool = {"type": "tool_use", "id": "t_1", "name": "look", "input": {"at": [1, 2.5, None]}}
    new = {"type": "from_the_future", "what": {"ever": 1}}
    given = answer(
        request_id="req_7",
        usages=[Usage(1, 2), Usage(3, 4, web_search_requests=1)],
        content=[thought, {"type": "text", "text": "H\u00e4 \ud83d"}, tool, new],
        container={"id": "c_1", "expires_at": "2026-01-01T00:00:00Z"},
        usage={"input_tokens": 3, "output_tokens": 4, "tokens_from_the_future": 5},
        stop_reason="tool_use",
    )
    with RunJournal("run.sqlite", prompts("q")) as journal:
        journal.keep(0, given)
    back = answered(prompts("q"))[0]
    assert back == "H\u00e4 \ud83d"
    assert (back.request_id, back.stop_reason, back.model) == ("req_7", "tool_use", "claude-sonnet-4-6")
    assert back.usage == given.usage == Usage(4, 6, web_search_requests=1)
    assert [attempt.model for attempt in back.attempts] == ["claude-sonnet-4-6"] * 2
    assert back.cost_usd == given.cost_usd > 0
    assert isinstance(back.message, anthropic.types.Message)
    assert back.message.to_dict(warnings=False) == given.message.to_dict(warnings=False)
    assert [type(block) for block in back.message.content] == [type(block) for block in given.message.content]
    assert back.message.content[2].input == {"at": [1, 2.5, None]}


def test_an_answer_without_request_id_has_none_again():
    with RunJournal("run.sqlite", prompts("q")) as journal:
        journal.keep(0, answer(request_id=None))
    assert answered(prompts("q"))[0].request_id is None


def test_the_format_stays_as_it_is():
    """Files that are out there: a change to this test is a new FORMAT."""
    db = sqlite3.connect("run.sqlite")
    db.execute("PRAGMA application_id = 1329686346")
    db.execute("PRAGMA user_version = 2")
    db.execute(
        "CREATE TABLE answers "
        "(asked TEXT NOT NULL, task_id TEXT, nth INTEGER NOT NULL, answer TEXT NOT NULL, checksum BLOB NOT NULL)"
    )
    usage = (
        '{"cache_creation_1h_input_tokens":0,"cache_creation_input_tokens":0,'
        '"cache_read_input_tokens":0,"input_tokens":1,"output_tokens":2,"web_search_requests":0}'
    )
    told = (
        '{"message":{"content":[{"text":"Hi","type":"text"}],"model":"m","stop_reason":"end_turn"},'
        f'"request_id":"req_1","usages":[{usage}],"models":["m"]}}'
    )
    refused = (
        '{"error":"No","kind":"refusal","status_code":200,"details":null,"request_id":"req_2","retry_after":null,'
        f'"retryable":false,"partial_text":"Well","usage":{usage}}}'
    )
    rows = [
        (fingerprint(build_request(prompt="q")), "a", 0, told, bytes.fromhex("62205017511a218bce0dc0de0f38dca8")),
        (fingerprint(build_request(prompt="q")), None, 0, refused, bytes.fromhex("64f735bade9e37e252a65565b94f4b4f")),
    ]
    db.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", rows)
    db.commit()
    db.close()
    back = answered(tasks(a="q"))[0]
    assert (back, back.usage, back.stop_reason, back.model) == ("Hi", Usage(1, 2), "end_turn", "m")
    back = answered(prompts("q"))[0]
    assert (back.args[0], back.kind, back.partial_text, back.request_id) == ("No", "refusal", "Well", "req_2")


def test_the_first_format_is_read():
    db = sqlite3.connect("run.sqlite")
    db.execute("PRAGMA application_id = 1329686346")
    db.execute("PRAGMA user_version = 1")
    db.execute("CREATE TABLE answers (asked TEXT NOT NULL, task_id TEXT, nth INTEGER NOT NULL, answer TEXT NOT NULL)")
    stored = (
        '{"message":{"content":[{"text":"Hi","type":"text"}],"model":"m","stop_reason":"end_turn"},'
        '"request_id":"req_1","usages":[{"cache_creation_1h_input_tokens":0,"cache_creation_input_tokens":0,'
        '"cache_read_input_tokens":0,"input_tokens":1,"output_tokens":2,"web_search_requests":0}]}'
    )
    db.execute("INSERT INTO answers VALUES (?, 'a', 0, ?)", (fingerprint(build_request(prompt="q")), stored))
    db.commit()
    db.close()
    back = answered(tasks(a="q"))[0]
    assert (back, back.usage, back.stop_reason) == ("Hi", Usage(1, 2), "end_turn")


def test_nothing_is_answered_at_first():
    assert answered(prompts("q")) == {}


def test_only_what_was_kept_is_answered():
    keep(prompts("a", "b", "c"), {0: "A", 2: "C"})
    assert answered(prompts("a", "b", "c")) == {0: "A", 2: "C"}


def test_an_edited_prompt_is_asked_again_and_its_first_answer_stays():
    keep(prompts("a", "b"), {0: "A", 1: "B"})
    keep(prompts("a", "b!"), {1: "B!"})
    assert answered(prompts("a", "b!")) == {0: "A", 1: "B!"}
    assert answered(prompts("a", "b")) == {0: "A", 1: "B"}


def test_an_inserted_prompt_costs_only_itself():
    keep(prompts("a", "b"), {0: "A", 1: "B"})
    assert answered(prompts("a", "new", "b")) == {0: "A", 2: "B"}


def test_another_order_costs_nothing():
    keep(prompts("a", "b", "c"), {0: "A", 1: "B", 2: "C"})
    assert answered(prompts("c", "a", "b")) == {0: "C", 1: "A", 2: "B"}


def test_equal_prompts_have_an_answer_each():
    keep(prompts("a", "x", "a", "a"), {3: "third", 0: "first"})
    assert answered(prompts("a", "a", "a", "y")) == {0: "first", 2: "third"}


def test_of_fewer_equal_prompts_none_is_asked_while_there_are_answers():
    keep(prompts("a", "a", "a"), {0: "first", 2: "third"})
    assert answered(prompts("a", "a")) == {0: "first", 1: "third"}
    keep(prompts("a", "a", "a"), {1: "second"})
    assert answered(prompts("a", "a", "a", "a")) == {0: "first", 1: "second", 2: "third"}


def test_an_answer_belongs_to_its_task():
    keep(tasks(one="a", two="a"), {0: "1", 1: "2"})
    assert answered(tasks(two="a", one="a", three="a")) == {0: "2", 1: "1"}
    assert answered(tasks(one="b")) == {}
    assert answered(prompts("a")) == {}


def test_a_fingerprint_is_the_same_everywhere():
    """On every SDK, Python and machine. A change to this test is a new FORMAT."""
    request = build_request(
        prompt=[{"type": "text", "text": "\u00fc\U0001f600"}],
        system="S",
        temperature=0.5,
        max_tokens=7,
        model="m",
        tools=[{"name": "t", "input_schema": {"type": "object", "properties": {"a": {"maximum": 1e100}}}}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        user_profile_id="u",
        extra_body={"new": [True, None, 0.1]},
        extra_query={"q": "1"},
    )
    assert fingerprint(request) == "dd5a61ecc7837d14ca1850b07f62afe174d3b85600ef36655bea86a41fea82fa"


@pytest.mark.parametrize(
    "options",
    [
        {"model": "another"},
        {"max_tokens": 5},
        {"system": "S"},
        {"temperature": 0.5},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "{"}]},
        {"thinking": {"type": "adaptive"}},
        {"stop_sequences": ["x"]},
        {"tools": [{"name": "t", "input_schema": {"type": "object"}}]},
        {"extra_body": {"new": 1}},
        {"extra_query": {"new": "1"}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_changes_the_answer_changes_the_fingerprint(options):
    assert fingerprint(build_request(prompt="q", **options)) != fingerprint(build_request(prompt="q"))


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 5},
        {"max_retries": 0},
        {"streaming": True},
        {"extra_headers": {"x-api-key": KEY}},
        {"task_id": "t", "category": "c"},
        {"prompt": [{"type": "text", "text": "q"}]},
        {"prompt": [anthropic.types.TextBlock(type="text", text="q")]},
        {"system": ""},
        {"stop_sequences": anthropic.NOT_GIVEN},
        {"extra_body": {"top_k": anthropic.Omit()}},
        {"cache_prompt": True},
        {"cache_control": CACHED},
        {"extra_body": {"cache_control": CACHED}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_does_not_change_the_answer_does_not_change_the_fingerprint(options):
    assert fingerprint(build_request(**{"prompt": "q", **options})) == fingerprint(build_request(prompt="q"))


def test_caching_can_be_switched_on_without_asking_again():
    document = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "d"}]}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}]}
    tool = {"name": "t", "input_schema": {"type": "object"}}
    marked_document = {
        "type": "document",
        "source": {"type": "content", "content": [{"type": "text", "text": "d", "cache_control": CACHED}]},
    }
    marked_result = {**result, "content": [{**result["content"][0], "cache_control": {**CACHED, "ttl": "1h"}}]}
    plain = build_requests(
        [{"prompt": [document, result], "system": "own"}, {"prompt": "q"}], shared_system="s", tools=[tool]
    )
    cached = build_requests(
        [{"prompt": [marked_document, marked_result], "system": "own", "cache_system": True}, {"prompt": "q"}],
        shared_system="s",
        cache_shared_system=True,
        tools=[{**tool, "cache_control": CACHED}],
    )
    assert [*map(fingerprint, plain)] == [*map(fingerprint, cached)]


@pytest.mark.parametrize("where", ["tools", "messages"])
def test_a_tool_s_own_cache_control_is_no_cache_breakpoint(where):
    def request(own):
        if where == "tools":
            return build_request(prompt="q", tools=[{"name": "t", "input_schema": {"properties": own}}])
        used = {"type": "tool_use", "id": "t", "name": "t", "input": own}
        return build_request(messages=[{"role": "assistant", "content": [used]}])

    assert fingerprint(request({"cache_control": {"type": "string"}})) != fingerprint(request({}))


def test_a_file_is_told_by_its_content():
    def asking(data):
        source = {"type": "base64", "media_type": "image/png", "data": data}
        return fingerprint(build_request(prompt=[{"type": "image", "source": source}]))

    Path("one.png").write_bytes(b"picture")
    Path("two.png").write_bytes(b"picture")
    assert (
        asking(Path("one.png")) == asking(Path("two.png")) == asking(io.BytesIO(b"picture")) == asking("cGljdHVyZQ==")
    )
    before = asking(Path("one.png"))
    Path("one.png").write_bytes(b"another")
    assert asking(Path("one.png")) != before


def test_what_is_omitted_inside_a_parameter_is_told_as_null():
    request = build_request(prompt="q", metadata={"user_id": anthropic.Omit()})
    assert fingerprint(request) == fingerprint(build_request(prompt="q", metadata={"user_id": None}))


def test_a_date_is_told_by_its_day():
    request = build_request(prompt="q", metadata={"day": date(2026, 1, 2)})
    assert fingerprint(request) == fingerprint(build_request(prompt="q", metadata={"day": "2026-01-02"}))


def test_a_file_that_is_gone_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("x")
    requests = build_requests([{"prompt": "q"}, {"prompt": [{"type": "text", "text": path}]}])
    path.unlink()
    with pytest.raises(ValueError, match=r"^prompts\[1\]: the file .*notes.txt' cannot be read"):
        RunJournal("run.sqlite", requests)


def test_a_request_with_a_file_is_the_one_with_its_content(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("x")
    by_path, by_text = ([{"prompt": [{"type": "text", "text": text}]}] for text in (path, "x"))
    assert fingerprint(*build_requests(by_path)) == fingerprint(*build_requests(by_text))


def test_a_second_run_is_refused_at_once():
    with RunJournal("run.sqlite", prompts("q")) as journal:
        for path in ("run.sqlite", Path.cwd() / "." / "run.sqlite"):
            with (
                pytest.raises(JournalError, match=r"run\.sqlite is in use by another run"),
                RunJournal(path, prompts("q")),
            ):
                pass
        with pytest.raises(JournalError, match="in use by another run"):
            journal.__enter__()
        journal.keep(0, answer("A"))
    assert answered(prompts("q")) == {0: "A"}


def test_a_refused_run_leaves_the_lock_to_the_first():
    """Also towards other processes: one that had looked into the file would have taken the lock off it."""
    script = """
try:
    RunJournal("run.sqlite", build_requests([{"prompt": "q"}])).__enter__()
except JournalError as error:
    print(error)
"""
    with RunJournal("run.sqlite", prompts("q")):
        with pytest.raises(JournalError), RunJournal("run.sqlite", prompts("q")):
            pass
        assert outcome(script).endswith("run.sqlite is in use by another run")
    assert outcome(script) == ""


def test_a_killed_run_loses_no_answer_and_frees_the_journal():
    script = """
with RunJournal("run.sqlite", build_requests([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}])) as journal:
    for i, text in enumerate("AB"):
        journal.keep(i, answer(text))
    print("kept", flush=True)
    sys.stdin.read()
"""
    process = other(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == "kept\n"
        with pytest.raises(JournalError, match="in use by another run"), RunJournal("run.sqlite", prompts("a")):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert Path("run.sqlite-wal").stat().st_size > 0
    assert answered(prompts("a", "b", "c")) == {0: "A", 1: "B"}
    assert [*everything_here()] == ["run.sqlite"]


def test_a_forked_child_does_no_harm():
    script = """
import gc
with RunJournal("run.sqlite", build_requests([{"prompt": "a"}, {"prompt": "b"}])) as journal:
    journal.keep(0, answer("A"))
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        journal.keep(1, answer("B"))
        os._exit(0)  # as if killed: nothing is closed
    try:
        journal.keep(1, answer("child's"))
    except JournalError:
        pass
    else:
        os._exit(1)
del journal
gc.collect()
"""
    assert outcome(script) == ""
    assert answered(prompts("a", "b")) == {0: "A", 1: "B"}


def foreign_text():
    Path("run.sqlite").write_text("My notes\n" * 100)


def foreign_short_file():
    Path("run.sqlite").write_bytes(b"\n")


def foreign_database(mode="DELETE"):
    db = sqlite3.connect("run.sqlite")
    db.execute(f"PRAGMA journal_mode = {mode}")
    db.execute("CREATE TABLE answers (x)")
    db.commit()
    db.close()


def foreign_wal_database():
    foreign_database("WAL")


def foreign_database_to_recover():
    foreign_wal_database()
    script = """
import sqlite3
sqlite3.connect("run.sqlite", isolation_level=None).execute("INSERT INTO answers VALUES (1)")
os._exit(0)
"""
    assert outcome(script) == ""
    assert Path("run.sqlite-wal").stat().st_size > 0


def newer_format():
    keep(prompts("q"), {0: "A"})
    db = sqlite3.connect("run.sqlite")
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (foreign_text, "is not a journal, and was left as it is"),
        (foreign_short_file, "is not a journal"),
        (foreign_database, "is not a journal"),
        (foreign_wal_database, "is not a journal"),
        (foreign_database_to_recover, "is not a journal"),
        (newer_format, f"has format {FORMAT + 1}, which is newer than {FORMAT}"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_left_alone(make, problem):
    make()
    before = everything_here()
    with pytest.raises(JournalError, match=problem), RunJournal("run.sqlite", prompts("q")):
        pass
    assert everything_here() == before


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("missing/run.sqlite", "No such file or directory"),
        ("folder", "Is a directory"),
        ("file/run.sqlite", "Not a directory"),
        (os.devnull, "is not a journal"),
    ],
)
def test_a_place_for_no_journal_is_refused_and_nothing_made(path, problem):
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(JournalError, match=problem), RunJournal(path, prompts("q")):
        pass
    assert everything_here() == {"file": b""}
    assert not [*Path("folder").iterdir()]


@pytest.mark.parametrize("path", ["", " "])
def test_a_blank_path_is_refused(path):
    with pytest.raises(ValueError, match=r"journal must be the path of a file, got ' *'"):
        RunJournal(path, prompts("q"))


def test_a_file_that_may_not_be_written_is_refused_and_left_alone():
    script = """
import sqlite3
journal = RunJournal("run.sqlite", build_requests([{"prompt": "q"}]))
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write everything
try:
    journal.__enter__()
except JournalError as error:
    print(error)
"""
    keep(prompts("q"), {0: "A"})
    Path("run.sqlite").chmod(0o400)
    before = everything_here()
    assert outcome(script).endswith("run.sqlite cannot be opened: Permission denied")
    assert everything_here() == before


def test_a_damaged_journal_is_refused():
    keep(prompts("q"), {0: "A"})
    head = Path("run.sqlite").read_bytes()[:100]
    Path("run.sqlite").write_bytes(head + b"\xff" * 8092)
    with pytest.raises(JournalError, match=r"cannot be used: .*malformed"), RunJournal("run.sqlite", prompts("q")):
        pass


def test_after_a_refusal_the_path_can_be_used():
    foreign_text()
    with pytest.raises(JournalError), RunJournal("run.sqlite", prompts("q")):
        pass
    Path("run.sqlite").unlink()
    assert answered(prompts("q")) == {}


def test_an_empty_file_is_taken_as_new():
    Path("run.sqlite").touch()
    keep(prompts("q"), {0: "A"})
    assert answered(prompts("q")) == {0: "A"}


def test_a_new_journal_is_for_its_owner_alone():
    old = os.umask(0)
    try:
        with RunJournal("run.sqlite", prompts("q")) as journal:
            journal.keep(0, answer())
            modes = {stat.S_IMODE(path.stat().st_mode) for path in Path().iterdir()}
    finally:
        os.umask(old)
    assert modes == {0o600}


def test_a_link_leads_to_the_journal():
    Path("folder").mkdir()
    Path("link").symlink_to("folder/run.sqlite")
    keep(prompts("q"), {0: "A"}, "link")
    assert answered(prompts("q"), "folder/run.sqlite") == {0: "A"}


def test_a_full_disk_costs_only_the_answer_that_does_not_fit():
    requests = prompts("a", "b", "c")
    with RunJournal("run.sqlite", requests) as journal:
        journal.keep(0, answer("A"))
        journal._file._db.execute("PRAGMA max_page_count = 1")  # SQLite makes that as many as there are
        with pytest.raises(JournalError, match=r"prompts\[1\] could not be stored .* full") as failed:
            journal.keep(1, answer("B" * 10_000))
        assert isinstance(failed.value.__cause__, sqlite3.OperationalError)
        journal.keep(2, answer("C"))
    assert answered(requests) == {0: "A", 2: "C"}


def test_a_task_id_that_no_encoding_has_is_stored_and_found_again(sim):
    asked = [{"prompt": f"p{n}", "task_id": f"file-{n}"} for n in range(3)] + [{"prompt": "q", "task_id": "caf\udce9"}]
    for recalled in (set(), {0, 1, 2, 3}):
        results = invoke_parallel_managed(asked, journal="run.sqlite")
        assert (None in results, results.recalled) == (False, recalled)
    assert len(sim.requests) == 4


def test_an_answer_that_holds_what_no_file_can_hold_is_a_journal_error():
    tool = {"type": "tool_use", "id": "t_1", "name": "look", "input": {"at": object()}}
    with RunJournal("run.sqlite", prompts("q")) as journal, pytest.raises(JournalError, match="it holds a object"):
        journal.keep(0, answer(content=[tool]))
    assert answered(prompts("q")) == {}


def test_a_number_that_is_no_json_is_kept():
    """The SDK's parser takes it from a tool's input."""
    tool = {"type": "tool_use", "id": "t_1", "name": "look", "input": {"at": float("inf")}}
    with RunJournal("run.sqlite", prompts("q")) as journal:
        journal.keep(0, answer(content=[tool]))
    assert answered(prompts("q"))[0].message.content[0].input == {"at": float("inf")}


def test_answers_are_kept_from_any_thread():
    asked = prompts(*(f"q{i}" for i in range(40)))
    barrier = threading.Barrier(4)

    def elsewhere(first):
        barrier.wait(10)
        for i in range(first, 40, 4):
            journal.keep(i, answer(f"a{i}"))

    with RunJournal("run.sqlite", asked) as journal:
        threads = [threading.Thread(target=elsewhere, args=[first]) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert answered(asked) == {i: f"a{i}" for i in range(40)}


def keep_at_once(journal, texts):
    """Keep each from a thread of its own, all while another is storing; return the errors by their index."""
    failed = {}

    def elsewhere(index, text):
        try:
            journal.keep(index, answer(text))
        except JournalError as error:
            failed[index] = error

    threads = [threading.Thread(target=elsewhere, args=item) for item in texts.items()]
    with journal._file._lock:
        for thread in threads:
            thread.start()
        until(lambda: len(journal._file._waiting) == len(texts))
    for thread in threads:
        thread.join(20)
    return failed


def test_what_several_threads_keep_at_once_is_one_commit():
    texts = {i: f"a{i}" for i in range(20)}
    asked, commits = prompts(*(f"q{i}" for i in texts)), []
    with RunJournal("run.sqlite", asked) as journal:
        journal._file._db.set_trace_callback(lambda said: said == "COMMIT" and commits.append(said))
        assert keep_at_once(journal, texts) == {}
    assert len(commits) == 1
    assert answered(asked) == texts


def test_of_what_several_threads_keep_at_once_only_what_does_not_fit_is_refused():
    texts = {0: "a0", 1: "long " * 10_000, 2: "a2", 3: "a3"}
    asked = prompts(*(f"q{i}" for i in texts))
    with RunJournal("run.sqlite", asked) as journal:
        journal._file._db.execute("PRAGMA max_page_count = 1")
        assert keep_at_once(journal, texts).keys() == {1}
    assert answered(asked) == {i: text for i, text in texts.items() if i != 1}


def test_nothing_is_kept_before_and_after():
    journal = RunJournal("run.sqlite", prompts("q"))
    for _ in range(2):
        with pytest.raises(JournalError, match="is not open"):
            journal.keep(0, answer())
        with journal:
            pass
    assert answered(prompts("q")) == {}


def test_the_key_is_nowhere_in_the_file():
    headers = {"x-api-key": KEY + "x"}
    requests = build_requests([{"prompt": "secret plan", "task_id": "task-1", "extra_headers": headers}])
    with RunJournal("run.sqlite", requests) as journal:
        journal.keep(0, answer("in plain text"))
        in_use = Path("run.sqlite-wal").read_bytes()
    for content in (in_use, Path("run.sqlite").read_bytes()):
        assert b"in plain text" in content
        assert b"task-1" in content
        assert KEY.encode() not in content
        assert b"secret plan" not in content


def test_importing_it_imports_neither_sqlite_nor_the_sdk():
    assert outcome("print({'sqlite3', '_sqlite3', 'anthropic'} & {*sys.modules})") == "set()"


def test_the_file_says_whose_it_is():
    keep(prompts("q"), {})
    db = sqlite3.connect("run.sqlite")
    assert [*db.execute("PRAGMA application_id"), *db.execute("PRAGMA user_version")] == [(APPLICATION_ID,), (FORMAT,)]
    db.close()


def test_the_entries_of_a_journal_can_be_read():
    keep([*tasks(one="a"), *prompts("b")], {0: "A", 1: "B"})
    first, second = read_journal("run.sqlite")
    assert (first.task_id, first.outcome, first.outcome.usage) == ("one", "A", Usage(10, 5))
    assert (second.task_id, second.outcome) == (None, "B")
    assert first.key != second.key


def test_an_entry_that_is_dropped_is_asked_again_and_leaves_no_trace():
    requests = prompts("a", "b", "c")
    keep(requests, {0: "A", 1: "a useless answer", 2: "C"})
    useless = [entry for entry in read_journal(Path("run.sqlite")) if "useless" in entry.outcome]
    assert drop_from_journal(Path("run.sqlite"), useless) == 1
    assert drop_from_journal("run.sqlite", useless) == 0
    assert b"useless" not in Path("run.sqlite").read_bytes()
    assert answered(requests) == {0: "A", 2: "C"}
    keep(requests, {1: "B"})
    assert answered(requests) == {0: "A", 1: "B", 2: "C"}


def test_of_equal_prompts_one_answer_can_be_dropped():
    keep(prompts("a", "a", "a"), {0: "first", 1: "second", 2: "third"})
    assert drop_from_journal("run.sqlite", read_journal("run.sqlite")[1:2]) == 1
    assert answered(prompts("a", "a", "a")) == {0: "first", 2: "third"}


TOOLS = {
    "read": read_journal,
    "drop": lambda path: drop_from_journal(path, []),
    "salvage": lambda path: salvage_journal(path, "saved.sqlite"),
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_a_journal_that_a_run_uses_is_not_for_others(tool):
    with RunJournal("run.sqlite", prompts("q")) as journal:
        with pytest.raises(JournalError, match=r"run\.sqlite is in use by another run"):
            tool("run.sqlite")
        journal.keep(0, answer("A"))
    tool("run.sqlite")
    assert answered(prompts("q")) == {0: "A"}


def test_a_journal_that_another_process_uses_is_not_changed():
    script = """
with RunJournal("run.sqlite", build_requests([{"prompt": "a"}])):
    print("open", flush=True)
    sys.stdin.read()
"""
    with other(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "open\n"
        for name in ("drop", "salvage"):
            with pytest.raises(JournalError, match="in use by another run"):
                TOOLS[name]("run.sqlite")
        process.stdin.close()
    assert not Path("saved.sqlite").exists()


def test_a_journal_that_another_process_uses_can_be_read():
    script = """
many = build_requests([{"prompt": str(i)} for i in range(2000)])
with RunJournal("run.sqlite", many) as journal:
    for i in range(2000):  # enough for the log to be begun anew
        journal.keep(i, answer("A" * 3000))
        if i in (0, 1999):
            print("kept", flush=True)
    sys.stdin.read()
"""
    with other(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "kept\n"
        seen = len(Journal("run.sqlite").entries())  # while it is written
        assert seen >= 1
        assert process.stdout.readline() == "kept\n"
        assert [str(entry.outcome) for entry in Journal("run.sqlite").entries()] == ["A" * 3000] * 2000
        assert Journal("run.sqlite").batches() == []
        process.stdin.close()
    assert process.returncode == 0
    assert len(read_journal("run.sqlite")) == 2000


@pytest.mark.parametrize("times", [0, 1, 99])
def test_a_copy_of_a_journal_in_use_is_whole_or_none(tmp_path, monkeypatch, times):
    """Its log may be begun anew meanwhile: what was in it is in the file then, of which there is an older copy."""
    Path("run.sqlite").write_bytes(b"file")
    folder = tmp_path / "copies"
    folder.mkdir()
    left, copy = [times], shutil.copyfile

    def copied(source, target):
        if left[0] and not source.endswith("-wal"):
            left[0] -= 1
            Path("run.sqlite-wal").write_bytes(b"log %d" % left[0])
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", copied)
    if times == 99:
        with pytest.raises(JournalError, match="in use by another run"):
            _copied("run.sqlite", str(folder))
        return
    found = _copied("run.sqlite", str(folder))
    assert Path(found).read_bytes() == b"file"
    assert Path(f"{found}-wal").exists() == bool(times)


def test_entries_are_found_by_task_and_kind():
    asked = build_requests([{"prompt": "q", "task_id": "a"}, {"prompt": "q", "task_id": "b"}, {"prompt": "r"}])
    with RunJournal("run.sqlite", asked) as journal:
        journal.keep(0, answer("A"))
        journal.keep(1, ClaudeInvocationError("no", kind="refusal"))
        journal.keep(2, answer("C"))
    kept = Journal("run.sqlite")
    assert [(entry.task_id, entry.kind) for entry in kept.entries()] == [("a", "ok"), ("b", "refusal"), (None, "ok")]
    assert [entry.task_id for entry in kept.entries(kinds={"refusal"})] == ["b"]
    assert [entry.task_id for entry in kept.entries(task_ids={"a", None})] == ["a", None]
    assert kept.entries(task_ids={"a"}, kinds={"refusal"}) == []
    assert kept.drop(kept.entries(kinds={"refusal"})) == 1
    assert len(kept.entries()) == 2


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_where_there_is_no_journal_none_is_made(tool):
    with pytest.raises(JournalError, match=r"run\.sqlite cannot be opened: No such file"):
        tool("run.sqlite")
    foreign_text()
    with pytest.raises(JournalError, match="is not a journal"):
        tool("run.sqlite")
    with pytest.raises(ValueError, match="must be the path of a file"):
        tool(" ")
    assert [*everything_here()] == ["run.sqlite"]
