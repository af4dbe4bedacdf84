"""A journal whose file is damaged gives whole right answers or a `JournalError`, and what is whole can be saved."""

import random
import sqlite3
from functools import cache
from pathlib import Path

import anthropic
import pytest

from claude_client import ClaudeResponse, Usage
from claude_client._verbs.requests import build_requests
from helpers import message
from orchestration import JournalError, read_journal, salvage_journal
from orchestration._journal import RunJournal

COUNT = 40
PAGE = 4096
JOURNAL = Path("run.sqlite")
SAVED = Path("saved.sqlite")
LOG = Path("run.sqlite-wal")
REQUESTS = build_requests(
    [{"prompt": str(i), **({"task_id": f"task-{i}"} if i % 2 else {})} for i in range(COUNT)], max_tokens=10
)
# Some take many pages, most share one.
ANSWERS = {i: f"answer {i} " * (900 if i % 9 == 0 else 20) for i in range(COUNT)}


def keep_all(journal):
    for i, text in ANSWERS.items():
        said = anthropic.types.Message.construct(**message(text))
        journal.keep(i, ClaudeResponse(text, said, f"req_{i}", (Usage(i, 2),)))


def whole_journal():
    JOURNAL.write_bytes(content_of_whole_journal())
    return JOURNAL.read_bytes()


@cache
def content_of_whole_journal():
    with RunJournal(JOURNAL, REQUESTS) as journal:
        keep_all(journal)
    return JOURNAL.read_bytes()


def first_format():
    """The same answers as versions before checksums wrote them."""
    whole_journal()
    db = sqlite3.connect(JOURNAL, isolation_level=None)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("ALTER TABLE answers DROP COLUMN checksum")
    db.execute("PRAGMA user_version = 1")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    return JOURNAL.read_bytes()


def opened(content):
    """The answers in a journal with that *content*; None if it is refused."""
    JOURNAL.write_bytes(content)
    try:
        with RunJournal(JOURNAL, REQUESTS) as journal:
            return journal.answered
    except JournalError:
        return None


def saved(content):
    """The texts that can be saved of a journal with that *content*; None if it cannot be told to be one."""
    SAVED.unlink(missing_ok=True)
    JOURNAL.write_bytes(content)
    try:
        count = salvage_journal(JOURNAL, SAVED)
    except JournalError as refused:
        assert "not a journal" in str(refused) or "is newer" in str(refused)  # noqa: PT017 - it is one of many
        return None
    entries = read_journal(SAVED)
    assert len(entries) == count
    return {str(entry.outcome) for entry in entries}


def flipped(content, bit):
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def flips(content, count, seed):
    draw = random.Random(seed)
    return [flipped(content, draw.randrange(8 * len(content))) for _ in range(count)]


def cuts(content, step):
    return [content[:size] for size in range(step, len(content), step)]


def garbage(content, count, seed):
    """A stretch of each is overwritten by random bytes, wherever it is."""
    draw = random.Random(seed)
    for _ in range(count):
        start, length = draw.randrange(len(content)), draw.choice([1, 16, 100, 512, PAGE, 3 * PAGE])
        yield (content[:start] + draw.randbytes(length) + content[start + length :])[: len(content)]


def test_a_whole_journal_has_all_answers():
    content = whole_journal()
    assert len(content) > 20 * PAGE
    assert opened(content) == ANSWERS
    assert saved(content) == {*ANSWERS.values()}


def check(damaged):
    answered = opened(damaged)
    assert answered in (None, ANSWERS)
    if answered is None:
        assert (saved(damaged) or set()) <= {*ANSWERS.values()}
    return answered


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_alters_nothing_and_loses_nothing_unseen(seed):
    check(*flips(whole_journal(), 1, seed))


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_overwritten_alter_nothing_and_lose_nothing_unseen(seed):
    check(*garbage(whole_journal(), 1, seed))


@pytest.mark.once
def test_a_cut_at_any_page_and_within_is_seen():
    content = whole_journal()
    for damaged in cuts(content, PAGE // 2):
        assert check(damaged) is None, len(damaged)


DAMAGES = {
    **{f"flips {seed}": lambda content, seed=seed: flips(content, 500, seed) for seed in range(100, 104)},
    **{f"garbage {seed}": lambda content, seed=seed: garbage(content, 250, seed) for seed in range(200, 204)},
    "cuts": lambda content: cuts(content, 100),
    "head": lambda content: [flipped(content, bit) for bit in range(8 * 200)],  # and that of the first page
}


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_whatever_is_damaged_ends_in_whole_right_answers_or_a_journal_error(damage):
    for damaged in damage(whole_journal()):
        check(damaged)


@pytest.mark.long
@pytest.mark.once
def test_a_damaged_journal_of_the_first_format_is_whole_or_refused():
    """Without a checksum a text may be altered, but nothing else is raised, and nothing is lost unseen by a cut."""
    content = first_format()
    for damaged in [*flips(content, 500, 3), *garbage(content, 200, 4)]:
        answered = opened(damaged)
        assert answered is None or len(answered) >= COUNT - 1
    for damaged in cuts(content, PAGE):
        assert opened(damaged) is None


def damaged_answer(index):
    """A journal in which a letter of that answer is another."""
    content = whole_journal()
    at = content.index(f"answer {index} ".encode())
    return content[:at] + b"A" + content[at + 1 :]


def test_one_damaged_answer_is_told_and_the_others_are_saved():
    content = damaged_answer(7)
    JOURNAL.write_bytes(content)
    told = (
        f"run.sqlite cannot be used: 1 of its answers are damaged. {COUNT - 1} of its answers are whole: "
        "orchestration.salvage_journal"
    )
    with pytest.raises(JournalError, match=told), RunJournal(JOURNAL, REQUESTS):
        pass
    with pytest.raises(JournalError, match=told):
        read_journal(JOURNAL)
    assert JOURNAL.read_bytes() == content
    assert salvage_journal(JOURNAL, SAVED) == COUNT - 1
    assert JOURNAL.read_bytes() == content
    with RunJournal(SAVED, REQUESTS) as journal:
        assert journal.answered == {i: text for i, text in ANSWERS.items() if i != 7}
        assert journal.answered[8].usage == Usage(8, 2)


def test_of_a_journal_that_lost_its_last_pages_all_others_are_saved():
    content = whole_journal()
    texts = saved(content[: -2 * PAGE])
    assert COUNT - 25 <= len(texts) < COUNT
    assert texts < {*ANSWERS.values()}


def test_of_a_journal_that_lost_its_first_page_nothing_is_saved():
    content = whole_journal()
    assert saved(content[:100] + b"\xff" * (PAGE - 100) + content[PAGE:]) == set()


def test_a_journal_of_the_first_format_is_read_and_gets_checksums():
    content = first_format()
    assert opened(content) == ANSWERS
    assert [str(entry.outcome) for entry in read_journal(JOURNAL)] == [*ANSWERS.values()]
    db = sqlite3.connect(JOURNAL)
    assert db.execute("SELECT count(*) FROM answers WHERE length(checksum) = 16").fetchall() == [(COUNT,)]
    db.close()


def test_an_answer_of_the_first_format_that_cannot_be_read_is_damaged():
    content = first_format()
    damaged = content.replace(b'"req_7"', b'"req_7 ')
    assert opened(damaged) is None
    assert JOURNAL.read_bytes() == damaged
    assert saved(damaged) == {*ANSWERS.values()} - {ANSWERS[7]}


def test_a_salvage_adds_to_no_file_that_is_there():
    whole_journal()
    SAVED.touch()
    with pytest.raises(JournalError, match=r"saved\.sqlite is there already"):
        salvage_journal(JOURNAL, SAVED)


@pytest.fixture
def killed():
    """A journal as a process leaves it that is killed: answers are in its `-wal` only."""
    with RunJournal(JOURNAL, REQUESTS) as journal:
        keep_all(journal)
        files = JOURNAL.read_bytes(), LOG.read_bytes()
    assert len(files[0]) < 3 * PAGE
    return files


def reopened(content, log):
    LOG.write_bytes(log)
    return opened(content)


def test_the_log_of_a_killed_process_is_read(killed):
    assert reopened(*killed) == ANSWERS


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_in_the_log_of_a_killed_process_is_told_once(seed, killed):
    content, log = killed
    answered = reopened(content, *flips(log, 1, seed))
    if answered is None:
        rest = opened(JOURNAL.read_bytes())
        assert len(rest) < COUNT - 1
        assert rest.items() <= ANSWERS.items()
    else:  # the last commit may have been under way, and is asked again
        assert len(answered) >= COUNT - 1
        assert answered.items() <= ANSWERS.items()


def test_a_damaged_log_says_how_much_is_lost(killed):
    content, log = killed
    JOURNAL.write_bytes(content)
    LOG.write_bytes(log.replace(b"answer 30 ", b"answer 31 "))
    with pytest.raises(JournalError, match=r"run\.sqlite was damaged at its end: its last 10 commits are lost"):
        read_journal(JOURNAL)
    assert [str(entry.outcome) for entry in read_journal(JOURNAL)] == [ANSWERS[i] for i in range(30)]


def test_a_commit_under_way_when_the_process_was_killed_is_no_damage(killed):
    content, log = killed
    assert reopened(content, log[:-1] + b"?") == {i: text for i, text in ANSWERS.items() if i < COUNT - 1}


def test_a_file_that_lost_all_but_its_log_is_refused(killed):
    assert reopened(b"", killed[1]) is None
    assert LOG.read_bytes() == killed[1]
