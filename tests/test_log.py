"""A log that fails, in a handler or in a record factory of other people's, costs nothing."""

import logging

import pytest

from claude_client import ConversationThread, invoke_claude, invoke_parallel
from claude_client._values.log import Log, told
from claude_client.simulator import Reply
from orchestration import invoke_parallel_managed
from task_state import TaskTracker


@pytest.fixture
def a_field_of_the_programs():
    """Records of this program have a `request_id`, a `task_id` and a `model` already, as those of web services may."""
    before = logging.getLogRecordFactory()

    def factory(*args, **options):
        record = before(*args, **options)
        record.request_id = record.task_id = record.model = "of the program"
        return record

    logging.setLogRecordFactory(factory)
    yield
    logging.setLogRecordFactory(before)


class Full(logging.Handler):
    def emit(self, record):
        raise OSError("disk full")


@pytest.fixture
def a_handler_that_fails():
    handlers = [(logging.getLogger(name), Full()) for name in ("claude_client", "orchestration", "task_state")]
    for logger, handler in handlers:
        logger.addHandler(handler)
    yield
    for logger, handler in handlers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("failing", ["a_field_of_the_programs", "a_handler_that_fails"])
def test_a_log_that_fails_costs_no_answer(sim, request, failing):
    request.getfixturevalue(failing)
    sim.script(Reply(text="Paid", fault="max_tokens"), Reply(text="Paid", fault="max_tokens"))
    assert invoke_claude("hi") == "Paid"
    thread = ConversationThread()
    assert (thread.send("hi"), thread.turn_count) == ("Paid", 1)
    for fan_out, options in ((invoke_parallel, {"return_exceptions": True}), (invoke_parallel_managed, {})):
        sim.script(Reply(fault="refusal"), matching="p1")
        sim.script(Reply(text="Cut", fault="max_tokens"), matching="p2")
        results = fan_out([{"prompt": f"p{n}"} for n in range(10)], on_result=lambda *_: 1 / 0, **options)
        assert (len(results.errors), len(results)) == (1, 10)


def test_where_the_program_has_a_field_of_ours_the_line_is_logged_without_ours(sim, a_field_of_the_programs, caplog):
    sim.script(Reply(fault="max_tokens"))
    invoke_claude("hi")
    (record,) = [record for record in caplog.records if record.name == "claude_client"]
    assert (record.request_id, record.levelname) == ("of the program", "WARNING")


def test_a_tracker_whose_log_fails_moves_its_tasks(a_handler_that_fails):
    tracker = TaskTracker()
    tracker.on_transition(lambda _: 1 / 0)
    tracker.add("a")
    assert tracker.claim("a").state == "claimed"


def test_a_record_names_who_logged(caplog):
    Log("claude_client").warning("said %s", "so")
    assert (caplog.records[0].getMessage(), caplog.records[0].funcName) == ("said so", "test_a_record_names_who_logged")


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no str")


def test_an_exception_without_a_message_is_told_by_its_type():
    assert told(MuteError()) == "a MuteError without a message"
    assert told(ValueError("why")) == "why"
