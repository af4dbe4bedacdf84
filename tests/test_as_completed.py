"""Prompts that are drawn as they are needed, and outcomes that are taken as they come."""

import gc
import itertools
import threading
from contextlib import suppress

import anthropic
import pytest

from claude_client import (
    Budget,
    ClaudeResponse,
    InterruptToken,
    ParallelInterrupt,
    as_completed,
    last_results,
    set_default_client,
)
from claude_client.simulator import Reply
from helpers import until
from orchestration import invoke_parallel_managed


def prompts_of(number):
    return [{"prompt": f"say {n}", "task_id": f"task-{n}"} for n in range(number)]


def endless():
    return ({"prompt": f"say {n}"} for n in itertools.count())


def endless_after(count, drawn):
    """Prompts without end, with *drawn* set once there were so many: the first answer may come before the others."""
    for number, prompt in enumerate(endless(), 1):
        if number == count:
            drawn.set()
        yield prompt


def of_prompt(text):
    return int(str(text).rsplit(" ", 1)[1])


# What is given


def test_each_outcome_comes_with_its_index(sim):
    sim.script(Reply(fault="invalid_request"), matching="say 3")
    outcomes = dict(as_completed(prompts_of(20)))
    assert sorted(outcomes) == list(range(20))
    assert outcomes.pop(3).kind == "invalid_request"
    assert all(of_prompt(answer) == index for index, answer in outcomes.items())


def test_the_first_to_end_comes_first(sim):
    free = threading.Event()
    sim.script(Reply(until=free), matching="say 0")
    outcomes = as_completed(prompts_of(3))
    assert {next(outcomes)[0], next(outcomes)[0]} == {1, 2}
    free.set()
    assert next(outcomes)[0] == 0


def test_options_are_those_of_a_fan_out(sim):
    heard, budget = [], Budget(1)
    outcomes = dict(
        as_completed(
            prompts_of(6),
            "claude-haiku-4-5",
            50,
            3,
            "S",
            output=int,
            temperature=0.5,
            budget_usd=budget,
            on_result=lambda index, _: heard.append(index),
            stop_after=5,
            progress=True,
        )
    )
    assert [outcomes[index].output for index in range(6)] == [0] * 6
    assert sorted(heard) == list(range(6))
    assert {request.body["model"] for request in sim.requests} == {"claude-haiku-4-5"}
    assert budget.spent == pytest.approx(sum(answer.cost_usd for answer in outcomes.values()))
    assert budget.reserved == 0.0


def test_the_shared_prompt_is_written_once_and_read_by_all_that_follow(sim):
    outcomes = dict(
        as_completed((one for one in prompts_of(30)), shared_system="word " * 4000, cache_shared_system=True)
    )
    written = [answer for answer in outcomes.values() if answer.usage.cache_creation_input_tokens]
    assert len(written) == 1
    assert len(outcomes) == 30


def test_equal_prompts_that_are_asked_at_the_same_time_share_an_answer(sim):
    free = threading.Event()
    sim.script(Reply(until=free))

    def prompts():
        yield from [{"prompt": "same"}] * 8
        free.set()

    outcomes = dict(as_completed(prompts(), share_identical=True))
    assert len(outcomes) == 8
    assert len(sim.requests) == 1
    assert dict(as_completed([{"prompt": "same"}] * 2, share_identical=True, window=1)).keys() == {0, 1}
    assert len(sim.requests) == 3


def test_what_cannot_be_sent_is_an_error_in_its_place(sim):
    outcomes = dict(as_completed([{"prompt": "say 0"}, {"promt": "x"}, 5]))
    assert isinstance(outcomes[0], ClaudeResponse)
    assert [outcomes[index].kind for index in (1, 2)] == ["invalid_request"] * 2
    assert "unknown key 'promt'" in str(outcomes[1]) or "no 'prompt'" in str(outcomes[1])


def test_no_prompts_give_nothing(sim):
    assert list(as_completed([])) == []
    assert list(as_completed(iter(()))) == []
    assert not sim.requests


# What is drawn


def test_no_more_is_drawn_than_the_window_holds(sim):
    drawn = []

    def prompts():
        for prompt in endless():
            drawn.append(prompt)
            yield prompt

    with as_completed(prompts(), max_workers=2, window=6) as outcomes:
        for given, _ in enumerate(itertools.islice(outcomes, 50), 1):
            assert len(drawn) <= given - 1 + 6
    assert len(sim.requests) <= 56


def test_a_slow_consumer_holds_the_producer_back(sim):
    outcomes = as_completed(endless(), max_workers=2, window=4)
    next(outcomes)
    sim.wait_for(lambda sim: sum(request.outcome == "answered" for request in sim.requests) >= 1)
    before = len(sim.requests)
    gc.collect()
    assert len(sim.requests) <= max(before, 4)
    outcomes.close()


def test_what_the_iterable_raises_comes_out_once_all_before_was_given(sim):
    def prompts():
        yield from prompts_of(3)
        raise OSError("the file is gone")

    outcomes = as_completed(prompts())
    assert {next(outcomes)[0] for _ in range(3)} == {0, 1, 2}
    with pytest.raises(OSError, match="the file is gone"):
        next(outcomes)
    assert list(outcomes) == []


def test_answers_are_given_before_the_window_is_full(sim):
    drawn = []

    def prompts():
        for prompt in endless():
            drawn.append(prompt)
            yield prompt
            sim.wait_for(lambda sim: sum(request.outcome == "answered" for request in sim.requests) == len(drawn))

    with as_completed(prompts(), window=1000) as outcomes:
        next(outcomes)
        assert len(drawn) < 1000


@pytest.mark.once
def test_memory_does_not_grow_with_the_number_of_prompts(sim):
    prompts = ({"prompt": f"say {n}", "deadline": 600} for n in range(600))
    outcomes = as_completed(prompts, max_workers=4)
    for _ in itertools.islice(outcomes, 100):
        pass
    for _ in outcomes:
        pass
    gc.collect()
    # The simulator is in this process, and keeps its records: what is ours is counted by its types.
    kinds = [type(thing).__name__ for thing in gc.get_objects()]
    assert kinds.count("Job") < 300
    assert kinds.count("ClaudeResponse") < 50


# How it ends


@pytest.mark.parametrize("way", ["break", "close", "exception", "with", "del"])
def test_whatever_ends_the_taking_ends_the_requests(sim, way):
    sim.script_by(lambda request: Reply() if "say 0" in str(request.body) else Reply(latency=60))

    def take():
        outcomes = as_completed(endless(), max_workers=3)
        if way == "break":
            for _ in outcomes:
                break
        elif way == "close":
            next(outcomes)
            outcomes.close()
            outcomes.close()
            assert list(outcomes) == []
        elif way == "with":
            with outcomes:
                next(outcomes)
            assert list(outcomes) == []
        elif way == "exception":
            with suppress(ZeroDivisionError):
                for index, _ in outcomes:
                    _ = 1 / index
        else:
            next(outcomes)
            del outcomes

    take()
    sim.wait_for(lambda sim: sim.in_flight == 0)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "claude_client worker"])


def test_an_interrupt_gives_what_was_drawn_and_draws_no_more(sim):
    drawn = threading.Event()
    sim.script_by(lambda request: Reply(until=drawn if "say 0" in str(request.body) else threading.Event()))
    token = InterruptToken()
    outcomes = as_completed(endless_after(5, drawn), max_workers=2, window=5, interrupt_token=token)
    given = [next(outcomes)]
    token.interrupt()
    given += outcomes
    assert isinstance(given[0][1], ClaudeResponse)
    assert {error.kind for _, error in given[1:]} == {"interrupted"}
    assert len(given) == 5
    assert outcomes.interrupted


def test_what_no_prompt_could_succeed_after_draws_no_more(sim):
    sim.script(*[Reply(fault="authentication")] * 50)
    outcomes = list(as_completed(endless(), max_workers=1, window=3))
    assert {error.kind for _, error in outcomes} == {"authentication"}
    assert len(outcomes) <= 4


def test_ctrl_c_carries_what_was_not_given(sim):
    sim.script_by(lambda request: Reply() if "say 0" in str(request.body) else Reply(latency=60))

    def prompts():
        yield {"prompt": "say 0", "task_id": "first"}
        sim.wait_for(lambda sim: any(request.outcome == "answered" for request in sim.requests))
        yield {"prompt": "say 1"}
        raise KeyboardInterrupt

    outcomes = as_completed(prompts(), window=5)
    given = []
    with pytest.raises(ParallelInterrupt) as stopped:
        given.extend(outcomes)
    left = stopped.value.results
    assert len(given) + len(left) == 2
    assert last_results() is left
    assert [index for index, _ in outcomes] == list(range(len(given), 2))
    sim.wait_for(lambda sim: sim.in_flight == 0)


def test_what_the_budget_does_not_allow_is_an_error_of_that_kind(sim):
    prompts = [{**prompt, "max_tokens": 10 if n % 2 else 10_000} for n, prompt in enumerate(prompts_of(6))]
    outcomes = dict(as_completed(prompts, budget_usd=0.03))
    assert [getattr(outcomes[index], "kind", "ok") for index in range(6)] == ["budget", "ok"] * 3


def test_a_deadline_counts_from_when_a_prompt_was_drawn(sim):
    sim.script_by(lambda _: Reply(latency=60))
    outcomes = dict(as_completed(prompts_of(3), max_workers=1, deadline=0.2))
    assert {error.kind for error in outcomes.values()} == {"timeout"}


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"prompts": "hi"}, ValueError, "prompts must be an iterable of dicts, got a str"),
        ({"prompts": {"prompt": "hi"}}, ValueError, "prompts must be an iterable of dicts, got a dict"),
        ({"prompts": 5}, ValueError, "prompts must be an iterable of dicts, got a int"),
        ({"max_workers": 0}, ValueError, "max_workers must be"),
        ({"window": 0}, ValueError, "window must be"),
        ({"stop_after": 0}, ValueError, "stop_after must be"),
        ({"on_result": 5}, TypeError, "on_result"),
        ({"return_exceptions": True}, TypeError, "return_exceptions"),
        ({"odd": True}, TypeError, "odd"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(sim, options, error, problem):
    def never():
        raise AssertionError
        yield

    with pytest.raises(error, match=problem):
        as_completed(**{"prompts": never(), **options})
    assert not sim.requests


def test_more_workers_than_ten_are_had_where_asked_for(sim):
    free = threading.Event()
    sim.script_by(lambda _: Reply(until=free))

    def prompts():
        yield from prompts_of(40)
        sim.wait_for(lambda sim: sim.in_flight == 40)
        free.set()

    assert len(list(as_completed(prompts(), max_workers=40))) == 40


def test_what_is_collected_on_a_thread_of_its_own_run_waits_for_nobody(sim):
    collecting, drawn, release = [], threading.Event(), threading.Event()
    sim.script_by(lambda request: Reply(until=drawn if "say 0" in str(request.body) else release))
    http = anthropic.DefaultHttpxClient(event_hooks={"response": [lambda _: collecting and gc.collect()]})

    class Job:  # which has itself, by its iterator, so that only a collection ends it
        def __init__(self):
            self.outcomes = as_completed(self.prompts(), max_workers=3)

        def prompts(self):
            yield from endless_after(4, drawn)

    with anthropic.Anthropic(api_key="any", base_url=sim.base_url, http_client=http) as client:
        set_default_client(client)
        job = Job()
        next(job.outcomes)
        del job
        collecting.append(True)
        release.set()  # the answers come to threads of the run, and collect there
        until(lambda: not [thread for thread in threading.enumerate() if thread.name == "claude_client worker"])
        set_default_client(None)


@pytest.mark.parametrize("option", [{"temperature": 9}, {"max_tokens": 0}, {"model": ""}])
def test_what_no_prompt_could_be_sent_with_is_raised_and_not_given_for_each(sim, option):
    with pytest.raises(ValueError, match=f"^{next(iter(option))}"):
        next(as_completed(endless(), **option))
    assert sim.requests == ()


def test_a_first_prompt_that_cannot_be_sent_is_an_outcome(sim):
    outcomes = dict(as_completed([{"prompt": "x", "max_tokens": 0}, {"prompt": "y"}]))
    assert outcomes[0].kind == "invalid_request"
    assert isinstance(outcomes[1], ClaudeResponse)


def test_it_may_be_closed_while_it_draws_or_tells(sim):
    def closing():
        yield {"prompt": "say 1"}
        outcomes.close()
        yield {"prompt": "say 2"}

    sim.script(Reply(until=threading.Event()))
    outcomes = as_completed(closing())
    assert list(outcomes) == []
    outcomes = as_completed(prompts_of(3), on_result=lambda *_: outcomes.close())
    assert len(list(outcomes)) == 1


def test_a_managed_run_takes_any_iterable(sim):
    by_id = {"a": {"prompt": "say 1"}, "b": {"prompt": "say 2"}}
    assert all(invoke_parallel_managed(by_id.values()))
    assert all(invoke_parallel_managed(iter(by_id.values())))
    with pytest.raises(ValueError, match="prompts must be a list of dicts, got a dict"):
        invoke_parallel_managed(by_id)
