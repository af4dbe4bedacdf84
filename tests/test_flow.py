"""What a call does next, as values: attempts in, steps out. Nothing is sent and nothing waits."""

from types import SimpleNamespace

import pytest
from anthropic.types import Message

from claude_client import ClaudeInvocationError, Usage
from claude_client._engine.flow import MOST_PAUSES, CallFlow, Done, Send
from claude_client._values.attempt import Answer, Attempt
from claude_client._values.errors import aborted
from claude_client._values.record import at
from claude_client._values.request import build
from claude_client._values.retry import RetryPolicy
from helpers import message


def flow_of(on_text=None, **options):
    return CallFlow(build(prompt="hi", **options), on_text)


def answered(step, text="Hello", **fields):
    attempt = Attempt(step.request, 0.0)
    said = Message.construct(**message(text, **fields))
    attempt.answer, attempt.usage = Answer(said, "req_1"), Usage.of(said.usage)
    return attempt


def failed(step, kind="overloaded", *, retryable=True, **fields):
    attempt = Attempt(step.request, 0.0)
    attempt.error = ClaudeInvocationError("no", kind=kind, retryable=retryable, **fields)
    attempt.usage = attempt.error.usage
    return attempt


def test_an_answer_is_the_end():
    flow = flow_of()
    step = flow.advance(answered(flow.begin(0.0)))
    assert isinstance(step, Done)
    assert step.outcome == "Hello"
    assert step.outcome.usage == Usage(10, 5)


def test_a_failure_that_may_pass_is_sent_again_after_a_delay_and_counted():
    flow = flow_of(max_retries=2)
    step = flow.advance(failed(flow.begin(0.0), retry_after=7.0, usage=Usage(1)))
    assert (step.request, step.after, step.failed.kind) == (flow.begin(0.0).request, 7.0, "overloaded")
    done = flow.advance(answered(step))
    assert done.outcome.usage == Usage(11, 5)
    assert [attempt.outcome for attempt in flow.attempts] == ["overloaded", "ok"]


def test_after_the_last_retry_the_error_has_all_that_was_used():
    flow = flow_of(max_retries=1)
    step = flow.advance(failed(flow.begin(0.0), usage=Usage(1)))
    done = flow.advance(failed(step, usage=Usage(2), partial_text="half"))
    assert (done.outcome.usage, done.outcome.partial_text) == (Usage(3), "half")


def test_what_cannot_succeed_is_not_sent_again():
    flow = flow_of()
    attempt = failed(flow.begin(0.0), "invalid_request", retryable=False)
    done = flow.advance(attempt)
    assert isinstance(done, Done)
    assert (done.outcome.args[0], done.outcome.kind) == ("no", "invalid_request")


def test_an_error_that_ends_several_calls_says_of_each_what_it_used():
    shared = aborted("interrupted")
    ends = []
    for tokens in (0, 7):
        flow = flow_of()
        attempt = failed(flow.begin(0.0), "server_error")
        attempt.usage = Usage(tokens)
        flow.advance(attempt)
        ends.append(flow.end(shared))
    assert [(end.usage, len(end.attempts)) for end in ends] == [(Usage(), 1), (Usage(7), 1)]
    assert (shared.usage, shared.attempts) == (Usage(), ())


def test_a_callback_is_never_told_the_same_text_twice():
    told, silent = flow_of(print), flow_of(print)
    assert isinstance(told.advance(failed(told.begin(0.0), partial_text="half")), Done)
    assert isinstance(silent.advance(failed(silent.begin(0.0))), Send)


@pytest.mark.parametrize("kind", ["rate_limit", "overloaded"])
def test_a_failure_that_is_not_its_own_costs_no_retry(kind):
    flow = flow_of(max_retries=1)
    for _ in range(5):
        attempt = failed(flow.begin(0.0), kind)
        attempt.costs_retry = False
        assert flow.advance(attempt).costs_retry is False
    assert isinstance(flow.advance(failed(flow.begin(0.0), kind)), Send)
    assert isinstance(flow.advance(failed(flow.begin(0.0), kind)), Done)


def test_without_retries_even_such_a_failure_is_final():
    flow = flow_of(max_retries=0)
    attempt = failed(flow.begin(0.0))
    attempt.costs_retry = False
    assert isinstance(flow.advance(attempt), Done)


def test_a_request_knows_how_often_it_was_rejected():
    flow = flow_of()
    step = flow.advance(failed(flow.begin(0.0), "rate_limit"))
    assert step.request.refused == 1
    step = flow.advance(failed(step, "overloaded"))
    assert step.request.refused == 1


def test_an_answer_that_pauses_goes_on_with_what_it_has_said():
    flow = flow_of()
    step = flow.advance(answered(flow.begin(0.0), "one ", stop_reason="pause_turn"))
    assert (step.after, step.failed) == (0.0, None)
    assert step.request.messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": "one "}]}
    done = flow.advance(answered(step, "two"))
    assert done.outcome == "one two"
    assert done.outcome.usage == Usage(20, 10)


@pytest.mark.parametrize(("per_turn", "then"), [(True, Send), (False, Done)])
def test_each_turn_of_an_answer_may_have_retries_of_its_own(per_turn, then):
    flow = flow_of(max_retries=1, retry=RetryPolicy(retries_per_turn=per_turn))
    step = flow.advance(failed(flow.begin(0.0)))
    step = flow.advance(answered(step, stop_reason="pause_turn"))
    assert isinstance(flow.advance(failed(step)), then)


def test_an_answer_that_pauses_for_ever_is_an_error_that_counts_each_turn_once():
    flow = flow_of()
    step = flow.begin(0.0)
    for _ in range(MOST_PAUSES):
        step = flow.advance(answered(step, "a", stop_reason="pause_turn"))
        assert isinstance(step, Send)
    done = flow.advance(answered(step, "a", stop_reason="pause_turn"))
    assert done.outcome.kind == "pause_limit"
    assert done.outcome.usage == Usage(10 * (MOST_PAUSES + 1), 5 * (MOST_PAUSES + 1))
    assert done.outcome.partial_text == "a" * (MOST_PAUSES + 1)


def test_a_failure_between_turns_has_what_all_turns_said_and_used():
    flow = flow_of(max_retries=0)
    step = flow.advance(answered(flow.begin(0.0), "one ", stop_reason="pause_turn"))
    done = flow.advance(failed(step, partial_text="tw", usage=Usage(1)))
    assert (done.outcome.partial_text, done.outcome.usage) == ("one tw", Usage(11, 5))


def test_an_answer_that_cannot_be_used_is_an_error_that_counts_it_once():
    class Odd:
        type = "odd"

        def to_dict(self):
            raise LookupError("what is this")

    flow = flow_of()
    attempt = answered(flow.begin(0.0), stop_reason="pause_turn")
    attempt.answer.message.content.append(Odd())
    outcome = flow.advance(attempt).outcome
    assert outcome.kind == "invalid_response"
    assert isinstance(outcome.__cause__, LookupError)
    assert (outcome.partial_text, outcome.usage) == ("Hello", Usage(10, 5))


def test_the_end_from_outside_has_what_there_was_and_stays_the_same_error_where_there_was_nothing():
    stopped, flow = ClaudeInvocationError("stopped", kind="interrupted"), flow_of()
    assert flow.end(stopped) is stopped
    flow.advance(failed(flow.begin(0.0), usage=Usage(3)))
    assert flow.end(stopped).usage == Usage(3)
    assert stopped.usage == Usage()


def test_a_record_tells_times_and_the_model_that_answered():
    flow = flow_of(model="claude-opus-5")
    attempt = answered(flow.begin(0.0))
    attempt.queued_at, attempt.sent_at, attempt.first_byte_at, attempt.ended_at = 1.0, 2.0, 3.0, 4.0
    attempt.status, attempt.waited = 200, {"worker": 1.0}
    flow.advance(attempt)
    flow.advance(failed(flow.begin(0.0)))
    first, second = flow.attempts
    assert (first.model, second.model) == ("claude-sonnet-4-6", "claude-opus-5")
    times = [time - at(0.0) for time in (first.queued, first.sent, first.first_byte, first.ended)]
    assert times == pytest.approx([1.0, 2.0, 3.0, 4.0], abs=1e-6)
    assert (first.took, first.first_text) == (pytest.approx(2.0, abs=1e-6), None)
    assert (first.status, first.request_id, first.waited) == (200, "req_1", {"worker": 1.0})
    assert (first.outcome, second.outcome) == ("ok", "overloaded")
    assert (second.sent, second.took) == (None, None)


def test_permits_are_told_and_settled_in_turn_and_one_that_fails_costs_nothing(caplog):
    told = []

    def permit(name, *, fails=False):
        def hear(*what):
            told.append((name, *what[1:]))
            if fails:
                raise ZeroDivisionError

        return SimpleNamespace(on_event=hear, settle=hear)

    attempt = Attempt(build(prompt="hi"), 0.0)
    attempt.permits = [permit("a"), permit("b", fails=True), permit("c")]
    attempt.tell("head")
    attempt.settle()
    attempt.settle()
    assert told == [("a", "head"), ("b", "head"), ("c", "head"), ("c",), ("b",), ("a",)]
    assert caplog.text.count("A gate failed") == 2


def test_a_call_of_one_answer_has_no_work():
    with pytest.raises(NotImplementedError, match="is of no call with one answer"):
        CallFlow(build(prompt="hi")).worked(SimpleNamespace())
