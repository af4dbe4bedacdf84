"""Money as a limit: what is reserved before a request, what is kept of it after, and what then does not fit."""

import json
import math
import pickle
import random
import re
import socket
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from claude_client import (
    Budget,
    BudgetState,
    ClaudeInvocationError,
    ConversationThread,
    InterruptToken,
    ParallelInvocationError,
    Usage,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    set_default_client,
)
from claude_client._gates.budget import BudgetGate
from claude_client._values.attempt import Attempt
from claude_client._values.bounds import MOST_INPUT, most_input_tokens, worst_cost
from claude_client._values.budget import ledger_of
from claude_client._values.prices import PriceBook, Way
from claude_client._values.request import build
from claude_client._values.usage import price_of
from claude_client.simulator import Reply, Simulator
from helpers import reply
from orchestration import invoke_parallel_managed, invoke_with_retry
from task_state import TaskState

pytest.importorskip("genai_prices")

# What a request of a few words may cost, most of it for the answer: 0.0018 dollars.
ONE = float(worst_cost(build(prompt="say 1", max_tokens=100), PriceBook()))


def prompts_of(number):
    return [{"prompt": f"say {n}", "max_tokens": 100} for n in range(number)]


def bill_of(sim):
    """What the simulated API would bill, by list prices."""
    book = PriceBook()
    parts = [
        price_of(Usage.of(dict(request.usage)), book.of(Way(request.body["model"])).rates(0))
        for request in sim.requests
        if request.usage is not None
    ]
    return float(sum(parts, Decimal()))


def refused_with(kind, call, *args, **options):
    with pytest.raises(ClaudeInvocationError) as failed:
        call(*args, **options)
    assert failed.value.kind == kind
    return failed.value


# A run within and beyond its budget


@pytest.mark.parametrize("run", [invoke_parallel, invoke_parallel_managed])
def test_a_run_within_its_budget_is_answered_and_tells_what_it_spent(sim, run):
    results = run(prompts_of(5), budget_usd=1)
    assert all(results)
    assert results.budget == BudgetState(1.0, results.cost_usd, 0.0, pytest.approx(1 - results.cost_usd))
    assert results.cost_usd == pytest.approx(bill_of(sim))
    assert f"budget: {results.budget}" in results.summary()


@pytest.mark.parametrize("run", [invoke_parallel, invoke_parallel_managed])
def test_what_a_budget_does_not_allow_is_not_sent_and_nothing_else_is_lost(sim, run):
    results = run(prompts_of(20), budget_usd=3 * ONE)
    beyond = [index for index, error in results.errors.items() if error.kind == "budget"]
    answered = [index for index, answer in enumerate(results) if answer]
    assert sorted(beyond + answered) == list(range(20))
    assert answered
    assert beyond
    assert results.out_of_budget
    assert len(sim.requests) == len(answered)
    assert results.budget.spent == pytest.approx(bill_of(sim))
    assert results.budget.spent <= 3 * ONE
    assert f"{len(beyond)} beyond the budget" in results.summary()
    assert re.match(r"The budget does not allow this request, which may cost \$0\.0017", str(results.errors[beyond[0]]))


def test_without_a_budget_there_is_none_to_tell(sim):
    results = invoke_parallel(prompts_of(1))
    assert (results.budget, results.out_of_budget) == (None, False)


def test_other_failures_are_raised_unless_the_budget_ended_too(sim):
    sim.script(Reply(fault="invalid_request"))
    with pytest.raises(ParallelInvocationError):
        invoke_parallel(prompts_of(2), budget_usd=1)
    sim.script(Reply(fault="invalid_request"))
    results = invoke_parallel(prompts_of(40), budget_usd=2 * ONE, max_workers=1)
    assert results.errors[0].kind == "invalid_request"


def test_tasks_beyond_the_budget_are_cancelled_and_asked_by_the_next_run_of_the_journal(sim, tmp_path):
    options = {"journal": tmp_path / "journal", "max_workers": 1}
    first = invoke_parallel_managed(prompts_of(12), budget_usd=2 * ONE, **options)
    left = len(first.errors)
    assert len(first.tracker.get_by_state(TaskState.CANCELLED)) == left > 0
    again = invoke_parallel_managed(prompts_of(12), budget_usd=1, **options)
    assert all(again)
    assert len(sim.requests) == 12


def test_requests_wait_for_money_that_may_come_back(sim):
    results = invoke_parallel(prompts_of(6), budget_usd=1.9 * ONE, max_workers=6)
    assert sim.peak_concurrency == 1
    assert sum("budget" in answer.attempts[0].waited for answer in results if answer) >= 2


def test_what_one_budget_has_set_aside_is_given_back_where_another_has_nothing_left(sim):
    wide, narrow = Budget(1), Budget(1.5 * ONE)
    request = replace(build(prompt="say 1", max_tokens=100), budgets=(wide, narrow))
    gate = BudgetGate(in_threads=False)
    first = gate.admit(request, 0.0)
    assert gate.would_wait(request, 0.0) == gate.admit(request, 0.0)
    assert gate.admit(request, 0.0).cause == "budget"
    assert wide.reserved == narrow.reserved == pytest.approx(ONE)
    first.settle(Attempt(request, 0.0))
    assert wide.reserved == narrow.reserved == 0.0
    assert gate.admit(build(prompt="free"), 0.0) is None


def test_a_single_call_waits_for_the_money_of_another_thread(sim):
    budget, free = Budget(1.5 * ONE), threading.Event()
    sim.script(Reply(until=free))
    other = threading.Thread(target=invoke_claude, args=("say 1",), kwargs={"max_tokens": 100, "budget_usd": budget})
    other.start()
    sim.wait_for(lambda sim: sim.in_flight == 1)
    token = InterruptToken()
    waiting = refused_with_later(token, budget)
    assert len(sim.requests) == 1
    token.interrupt()
    waiting.join()
    assert len(sim.requests) == 1
    free.set()
    other.join()
    answer = invoke_claude("say 2", max_tokens=100, budget_usd=budget)
    assert budget.spent == pytest.approx(2 * answer.cost_usd)


def refused_with_later(token, budget):
    options = {"max_tokens": 100, "budget_usd": budget, "interrupt_token": token}
    thread = threading.Thread(target=refused_with, args=("interrupted", invoke_claude, "say 2"), kwargs=options)
    thread.start()
    return thread


def test_one_budget_holds_for_runs_conversations_and_calls_together(sim):
    budget = Budget(1)
    thread = ConversationThread(budget_usd=budget, max_tokens=100)
    costs = [
        invoke_parallel(prompts_of(3), budget_usd=budget).cost_usd,
        thread.send("hi").cost_usd,
        thread.fork().send("hi").cost_usd,
        invoke_with_retry("hi", max_tokens=100, budget_usd=budget).cost_usd,
        invoke_claude_streaming("hi", max_tokens=100, budget_usd=budget).cost_usd,
    ]
    assert budget.spent == pytest.approx(sum(costs))
    assert thread.budget == budget.state
    assert ConversationThread().budget is None


def test_a_number_is_a_budget_of_its_own_for_all_turns(sim):
    thread = ConversationThread(budget_usd=4 * ONE, max_tokens=100)
    sim.script(*[Reply(text="w " * 150)] * 2)  # 75 tokens
    thread.send("hi")
    spent = thread.budget.spent
    assert 0 < spent < ONE
    refused_with("budget", thread.send, "hi", max_tokens=4000)
    thread.send("hi")
    assert thread.budget.spent > spent
    assert thread.turn_count == len(sim.requests) == 2


def test_a_prompt_may_have_its_own_within_that_of_the_run(sim):
    prompts = [*prompts_of(2), {"prompt": "long", "max_tokens": 4000, "budget_usd": ONE}]
    results = invoke_parallel(prompts, budget_usd=1)
    assert results.errors.keys() == {2}
    assert results.errors[2].kind == "budget"
    assert results.budget.spent == pytest.approx(bill_of(sim))


def test_the_same_budget_for_a_run_and_its_prompt_counts_once(sim):
    budget = Budget(1.5 * ONE)
    results = invoke_parallel([{"prompt": "say 1", "max_tokens": 100, "budget_usd": budget}], budget_usd=budget)
    assert budget.spent == pytest.approx(results.cost_usd)


def test_small_prompts_do_not_wait_behind_a_large_one(sim):
    free = threading.Event()
    sim.script(Reply(until=free), matching="large 1")
    large = [{"prompt": f"large {n}", "max_tokens": 1000} for n in (1, 2)]
    small = [{"prompt": f"small {n}", "max_tokens": 1} for n in range(5)]
    heard = []

    def on_result(index, _):
        heard.append(index)
        if len(heard) == 5:
            free.set()

    results = invoke_parallel([*large, *small], budget_usd=13 * ONE, max_workers=2, on_result=on_result)
    assert all(results)
    assert sorted(heard[:5]) == [2, 3, 4, 5, 6]


def test_a_call_within_a_callback_does_not_wait_for_what_holds_it(sim):
    budget = Budget(1.5 * ONE)

    def inner(_):
        refused_with("budget", invoke_claude, "say 2", max_tokens=100, budget_usd=budget)

    invoke_claude_streaming("say 1", inner, max_tokens=100, budget_usd=budget)
    assert len(sim.requests) == 1
    assert budget.reserved == 0.0


class Interrupted:
    """A permit that a Ctrl-C meets so many times."""

    def __init__(self, presses):
        self.presses, self.times = presses, 0

    def settle(self, _):
        self.times += 1
        if self.times <= self.presses:
            raise KeyboardInterrupt


@pytest.mark.parametrize("presses", [1, 2])
def test_a_signal_while_permits_are_given_back_leaves_none(presses):
    budget, permit = Budget(1), Interrupted(presses)
    request = replace(build(prompt="say 1", max_tokens=100), budgets=(budget,))
    attempt = Attempt(request, 0.0)
    attempt.permits = [BudgetGate().admit(request, 0.0), permit]
    with pytest.raises(KeyboardInterrupt):
        attempt.settle()
    assert (permit.times, attempt.permits, budget.reserved) == (2, [], 0.0)


# What is kept of a request


def spent_after(budget, call, *args, **options):
    """The dollars spent and reserved after a call that may fail."""
    try:
        call(*args, budget_usd=budget, max_tokens=100, max_retries=0, **options)
    except ClaudeInvocationError as failed:
        return budget.spent, budget.reserved, failed.cost_usd
    raise AssertionError("the call should have failed")


@pytest.mark.parametrize("fault", ["overloaded", "invalid_request", "rate_limit", "not_found"])
def test_a_request_that_the_api_refuses_costs_nothing(sim, fault):
    sim.script(Reply(fault=fault))
    assert spent_after(Budget(1), invoke_claude, "hi") == (0.0, 0.0, 0.0)


def test_a_refusal_and_an_answer_that_does_not_fit_cost_what_they_used(sim):
    sim.script(Reply(text="No.", fault="refusal"), Reply(text="no number"))
    for options in ({}, {"output": int}):
        budget = Budget(1)
        spent, reserved, cost = spent_after(budget, invoke_claude, "hi", **options)
        assert (spent, reserved) == (pytest.approx(cost), 0.0)
        assert spent > 0


def test_what_a_broken_request_may_have_cost_stays_reserved(sim):
    for fault in ("cut", "early_end", "cut_before_headers"):
        sim.script(Reply(fault=fault))
        spent, reserved, cost = spent_after(Budget(1), invoke_claude, "hi", streaming=True)
        assert spent == pytest.approx(cost)
        assert spent + reserved == pytest.approx(ONE, rel=0.02)


def test_a_request_that_never_left_costs_nothing(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    assert spent_after(Budget(1), invoke_claude, "hi", outage_patience=0)[:2] == (0.0, 0.0)


def test_a_header_that_cannot_be_sent_costs_nothing(sim):
    assert spent_after(Budget(1), invoke_claude, "hi", extra_headers={"x-a": "b\nc"})[:2] == (0.0, 0.0)


def test_what_ends_while_it_connects_costs_nothing(monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{address[1]}")
        with ExitStack() as full:
            for _ in range(3):  # nobody accepts: the next waits to be connected
                waiting = full.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
            assert spent_after(Budget(1), invoke_claude, "hi", deadline=0.3)[:2] == (0.0, 0.0)


def test_an_interrupted_request_stays_reserved(sim):
    budget, token = Budget(1), InterruptToken()
    sim.script(Reply(fault="silent"))
    options = {"budget_usd": budget, "max_tokens": 100, "interrupt_token": token}
    thread = threading.Thread(target=refused_with, args=("interrupted", invoke_claude, "hi"), kwargs=options)
    thread.start()
    sim.wait_for(lambda sim: sim.in_flight == 1)
    token.interrupt()
    thread.join()
    assert (budget.spent, budget.reserved) == (0.0, pytest.approx(ONE, rel=0.02))


def test_retries_and_failed_attempts_count_each(sim):
    sim.script(Reply(fault="overloaded"), Reply(text="not a number"), Reply(text="7"))
    budget = Budget(1)
    answer = invoke_parallel_managed(
        [{"prompt": "hi", "output": int, "output_retries": 1}], budget_usd=budget, base_delay_ms=1
    )[0]
    assert len(answer.attempts) == 3
    assert budget.spent == pytest.approx(answer.cost_usd)


def test_another_model_has_its_own_price(sim):
    sim.script(Reply(fault="overloaded"))
    budget = Budget(1)
    options = {"max_retries": 0, "outage_patience": 0, "fallback_models": ["claude-haiku-4-5"]}
    answer = invoke_claude("hi", budget_usd=budget, **options)
    assert answer.model == "claude-haiku-4-5"
    assert budget.spent == pytest.approx(answer.usage.cost_usd("claude-haiku-4-5"))


def test_an_answer_of_a_model_without_a_price_costs_the_worst(api):

    api.answers(reply(model="a-model-of-tomorrow"))
    budget = Budget(1)
    invoke_claude("hi", max_tokens=100, budget_usd=budget)
    assert budget.spent == pytest.approx(ONE, rel=0.1)


def test_a_price_that_was_named_holds_for_the_model_however_it_answers(sim, monkeypatch):
    with Simulator(models=["my-model"]) as own:
        set_default_client(anthropic.Anthropic(base_url=own.base_url, api_key="k", max_retries=0))
        budget = Budget(1, prices={"my-model": {"input": 1_000, "output": 0}})
        used = invoke_claude("four words of prompt", "my-model", budget_usd=budget).usage
        assert budget.spent == pytest.approx(used.input_tokens / 1000)


# Bounds


TEXT = st.text(max_size=60)
BLOCKS = st.lists(
    st.one_of(
        TEXT.map(lambda text: {"type": "text", "text": text or "x"}),
        TEXT.map(lambda text: {"type": "text", "text": text or "x", "cache_control": {"type": "ephemeral"}}),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.once
@given(st.lists(BLOCKS, min_size=1, max_size=20), st.integers(1, 60))
@settings(max_examples=10)
def test_no_request_costs_more_than_its_worst_case(prompts, max_tokens):
    with Simulator() as sim:
        set_default_client(anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0))
        specs = [
            {"prompt": blocks, "max_tokens": max_tokens} for blocks in prompts if any(b["text"].strip() for b in blocks)
        ]
        if specs:
            results = invoke_parallel(specs, return_exceptions=True, system="y" * 3000, cache_system=True)
            for spec, answer in zip(specs, results, strict=True):
                if not isinstance(answer, ClaudeInvocationError):
                    request = build(prompt=spec["prompt"], max_tokens=max_tokens, system="y" * 3000, cache_system=True)
                    assert Decimal(answer.cost_usd) <= worst_cost(request, PriceBook()) + Decimal("1e-12")


def worst(**options):
    return float(worst_cost(build(**{"prompt": "hi", "max_tokens": 1000, **options}), PriceBook()))


def test_the_worst_case_has_the_dearest_prices():
    plain = worst()
    assert worst(system="x" * 10_000, cache_system=True) > worst(system="x" * 10_000)
    hour = [{"type": "text", "text": "x" * 10_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert worst(system=hour) > worst(system="x" * 10_000, cache_system=True)
    assert worst(prompt="x" * 10_000, cache_control={"type": "ephemeral", "ttl": "1h"}) > worst(prompt="x" * 10_000)
    assert worst(inference_geo="us") == pytest.approx(1.1 * worst(inference_geo="global"), rel=0.001)
    fast, standard = (worst(model="claude-opus-5-5", speed=speed) for speed in ("fast", "standard"))
    assert fast == pytest.approx(2 * standard, rel=0.01)
    assert worst(extra_body={"max_tokens": 2000}) > 1.9 * plain
    assert worst(extra_body={"fallbacks": [{"model": "claude-opus-4-6"}, "claude-haiku-4-5"]}) > 2 * plain
    assert worst(extra_body={"fallbacks": [{"max_tokens": 5}]}) < 1.5 * plain  # the API refuses it
    # Above 100,000 tokens of prompt this model costs five times as much.
    assert worst(model="claude-haiku-5-5", prompt="x" * 100_001) > 4 * worst(
        model="claude-haiku-5-5", prompt="x" * 99_000
    )


@pytest.mark.parametrize(
    ("block", "most"),
    [
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}, 5_000),
        ({"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}, MOST_INPUT),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 50}}, 200),
    ],
)
def test_images_and_documents_have_bounds_too(block, most):
    tokens = most_input_tokens(build(prompt=[block, {"type": "text", "text": "?"}]))
    assert tokens <= most + 100
    assert tokens >= min(most, 50)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"extra_body": {"tools": [{"type": "web_search_20250305", "name": "w"}]}}, "the tool web_search_20250305"),
        ({"tools": [], "extra_body": {"mcp_servers": [{"name": "m"}]}}, "mcp_servers"),
        ({"extra_body": {"context_management": {"edits": []}}}, "context_management"),
        ({"extra_body": {"fallbacks": "default"}}, "fallbacks='default'"),
    ],
)
def test_what_has_no_bound_is_found_wherever_it_is_said(api, options, what):
    with pytest.raises(ValueError, match=f"what {what} may use has no bound"):
        invoke_claude("hi", budget_usd=1, **options)


def test_bounds_are_those_of_what_is_sent():
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    asked = build(prompt="hi", extra_body={"messages": [{"role": "user", "content": [document]}]})
    assert most_input_tokens(asked) == MOST_INPUT
    hour = [{"type": "text", "text": "x" * 10_000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert worst(extra_body={"system": hour}) > worst(extra_body={"system": "x" * 10_000})
    other = {"model": "claude-haiku-4-5", "max_tokens": 64_000}
    assert worst(extra_body={"fallbacks": [other]}) > 64_000 * 5e-6
    assert worst(extra_body={"max_tokens": None, "model": 5}) == worst()
    assert worst(inference_geo="global") < worst(inference_geo="us")


def test_prices_that_were_named_are_halved_in_a_batch_and_say_nothing_of_fast_mode():
    book = PriceBook({"m": {"input": 2, "output": 4}})
    live, batch = (book.of(Way("m", batch=batch)).rates(0) for batch in (False, True))
    assert (batch.input, batch.output) == (live.input / 2, live.output / 2)
    with pytest.raises(LookupError, match="fast mode"):
        book.of(Way("m", fast=True))
    with pytest.raises(ValueError, match="prices must be a dict of models"):
        Budget(1, prices=[("m", 1)])


# Likely reserves


def test_likely_reserves_shrink_to_what_requests_have_cost(sim):
    budget = Budget(10, reserve="likely")
    invoke_parallel(prompts_of(10), budget_usd=budget)
    request = build(prompt="say 1", max_tokens=100)
    ledger = ledger_of(budget)
    reserved = ledger.reserve(request, 0)
    assert reserved.amount < reserved.worst / 3
    ledger.settle(reserved, reserved.amount * 2)  # it was too little
    assert ledger.reserve(request, 0).amount > reserved.amount


def test_the_margin_of_likely_reserves_grows_once_for_all_that_were_under_way_with_it():
    ledger, request = ledger_of(Budget(10, reserve="likely")), build(prompt="hi", max_tokens=100)
    for _ in range(5):
        reserved = ledger.reserve(request, 0)
        ledger.settle(reserved, reserved.worst / 10)
    under_way = [ledger.reserve(request, 0) for _ in range(5)]
    assert under_way[0].amount == pytest.approx(reserved.worst / 10)
    for each in under_way:
        ledger.settle(each, reserved.worst / 9)
    after = ledger.reserve(request, 0)
    assert reserved.worst / 9 < after.amount < reserved.worst / 5
    ledger.settle(after, after.amount * 2)
    assert ledger.reserve(request, 0).margin == 1.5**2


def test_with_likely_reserves_more_fits_at_once(sim):
    sizes = {}
    for reserve in ("worst", "likely"):
        budget = Budget(1.0, reserve=reserve)
        invoke_parallel(prompts_of(10), budget_usd=budget)
        ledger, request = ledger_of(budget), build(prompt="hi", max_tokens=3000)
        sizes[reserve] = 0
        while sizes[reserve] < 100:
            try:
                if ledger.reserve(request, 0) is None:
                    break
            except ClaudeInvocationError:
                break
            sizes[reserve] += 1
    assert sizes["likely"] >= sizes["worst"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.integers(1, 8), st.integers(3, 300))
def test_with_likely_reserves_at_most_two_percent_more_are_spent(shares, at_once, requests):
    """Whatever answers cost, up to the worst, and however many are under way."""
    request = build(prompt="hi", max_tokens=100)
    worst_case = worst_cost(request, PriceBook())
    budget = Budget(float(worst_case * requests), reserve="likely")
    ledger, under_way = ledger_of(budget), []
    for share in shares:
        if len(under_way) == at_once:
            reserved, cost = under_way.pop(0)
            ledger.settle(reserved, cost)
        try:
            reserved = ledger.reserve(request, 0)
        except ClaudeInvocationError:
            break
        if reserved:
            under_way.append((reserved, worst_case * Decimal(share)))
    for reserved, cost in under_way:
        ledger.settle(reserved, cost)
    assert budget.spent <= budget.usd * 1.02 + 1e-12


class Money(RuleBasedStateMachine):
    """Money is conserved, and with the worst reserved never more is spent than there is."""

    def __init__(self):
        super().__init__()
        self.budget = Budget(0.01)
        self.ledger = ledger_of(self.budget)
        self.under_way = []
        self.parked = []
        self.true_cost = Decimal()
        self.woken = []
        self.ledger.add_waker(self.woken.append)

    @rule(max_tokens=st.integers(1, 400), words=st.integers(1, 400))
    def ask(self, max_tokens, words):
        request = build(prompt="w " * words, max_tokens=max_tokens)
        try:
            would, reserved = self.ledger.would_reserve(request, 0), self.ledger.reserve(request, 0)
        except ClaudeInvocationError:
            return
        assert would == (reserved is not None)
        if reserved:
            self.under_way.append(reserved)
        else:
            assert self.under_way

    @precondition(lambda self: self.under_way)
    @rule()
    def leave(self):
        self.parked.append(self.under_way.pop())
        self.ledger.park(self.parked[-1])

    @precondition(lambda self: self.parked)
    @rule(taken_up=st.booleans())
    def come_back(self, taken_up):
        reserved = self.parked.pop()
        if taken_up:
            self.ledger.unpark(reserved)
            self.under_way.append(reserved)
        else:
            self.ledger.settle(reserved, Decimal())

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def end(self, data):
        reserved = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        cost = reserved.worst * Decimal(data.draw(st.floats(0, 1)))
        self.true_cost += cost
        self.ledger.settle(reserved, cost, is_all=data.draw(st.booleans()))
        self.ledger.settle(reserved, reserved.worst)  # does nothing
        assert self.woken

    @invariant()
    def nothing_is_lost(self):
        state = self.budget.state
        assert state.spent + state.reserved + state.left == pytest.approx(state.usd)
        assert float(self.true_cost) <= state.spent + state.reserved + 1e-12
        assert state.left >= 0


TestMoney = Money.TestCase


# Whole runs


FAULTS = [
    "overloaded",
    "cut",
    "early_end",
    "cut_before_headers",
    "refusal",
    "malformed",
    "api_error",
    "invalid_request",
]


def random_run(seed, reserve):
    """A run of random prompts, faults and perhaps an interrupt, with the bill of the API and what the budget says."""
    chance = random.Random(seed)
    prompts = [
        {"prompt": "w " * chance.randint(1, 200), "max_tokens": chance.randint(1, 120)}
        for _ in range(chance.randint(1, 30))
    ]
    interrupt_at = chance.randint(1, 40)
    token = InterruptToken()
    seen = 0

    def reply(request):
        nonlocal seen
        seen += 1
        if seen == interrupt_at:
            token.interrupt()
        fault = chance.choice(FAULTS) if chance.random() < 0.3 else None
        most = request.body["max_tokens"] * 2  # words of two bytes: half a token each
        return Reply(text=None if fault == "refusal" else "w " * chance.randint(0, most), fault=fault)

    with Simulator() as sim:
        sim.script_by(reply)
        client = anthropic.Anthropic(base_url=sim.base_url, api_key="k", max_retries=0)
        set_default_client(client)
        budget = Budget(chance.uniform(0.001, 0.05), reserve=reserve)
        results = invoke_parallel_managed(
            prompts,
            budget_usd=budget,
            interrupt_token=token,
            base_delay_ms=0.1,
            max_delay_ms=1,
            max_workers=chance.randint(1, 8),
            outage_patience=0,
            streaming=chance.random() < 0.5,
        )
        bill = bill_of(sim)
    client.close()
    set_default_client(None)
    return results, bill, budget


def check_run(seed, reserve):
    results, bill, budget = random_run(seed, reserve)
    over = 1.0 if reserve == "worst" else 1.02
    assert budget.spent <= budget.usd * over + 1e-12, seed
    state = budget.state
    assert state.spent + state.reserved + state.left == pytest.approx(state.usd)
    if reserve == "worst":  # what is likely may be less than a broken request has cost
        assert bill <= state.spent + state.reserved + 1e-9, seed
    assert bill <= budget.usd * over + 1e-9, seed
    assert results.budget == state


@pytest.mark.once
@pytest.mark.parametrize("reserve", ["worst", "likely"])
def test_whatever_happens_no_run_costs_more_than_its_budget(reserve):
    for seed in range(15):
        check_run(seed, reserve)


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize("first", range(0, 2000, 200))
@pytest.mark.parametrize("reserve", ["worst", "likely"])
def test_over_very_many_runs_none_costs_more_than_its_budget(reserve, first):
    for seed in range(first, first + 200):
        check_run(seed, reserve)


# Warnings and bad input


def test_warnings_come_once_each_and_cost_nothing(sim, caplog):
    told = []

    def warn(budget, share):
        told.append((share, budget.spent >= share * budget.usd))
        raise ZeroDivisionError

    budget = Budget(8 * ONE, on_warning=warn)
    results = invoke_parallel([*prompts_of(200)], budget_usd=budget)
    assert told in ([(0.5, True), (0.8, True)], [(0.5, True), (0.8, True), (0.95, True)])
    assert any(results)
    assert caplog.text.count("on_warning of a budget failed") == len(told)
    assert "80 % of a budget are spent" in caplog.text


@pytest.mark.parametrize("usd", [0, -1, math.inf, math.nan, "5", True, None])
def test_a_budget_is_a_number_of_dollars(usd):
    with pytest.raises(ValueError, match="a budget is a number of dollars above 0, got"):
        Budget(usd)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"reserve": "some"}, "reserve must be one of worst, likely, got 'some'"),
        ({"prices": {"m": {"input": 3}}}, r"prices\['m'\] must have 'input' and 'output'"),
        ({"prices": {"m": {"input": 3, "output": -1}}}, r"prices\['m'\]\['output'\] must be a number from 0"),
        ({"prices": {"m": {"input": 3, "output": 1, "cached": 1}}}, r"prices\['m'\] must have"),
    ],
)
def test_bad_options_are_named(options, problem):
    with pytest.raises(ValueError, match=problem):
        Budget(1, **options)


def test_what_cannot_be_bounded_or_priced_is_refused_before_any_request(api):
    search = {"type": "web_search_20250305", "name": "web_search"}
    cases = [
        ({"model": "my-model"}, 'no price of my-model .*prices={"my-model"'),
        ({"tools": [search]}, "what the tool web_search_20250305 may use has no bound"),
        ({"fallback_models": ["my-model"]}, "no price of my-model"),
        ({"budget_usd": -1}, "dollars above 0"),
    ]
    for options, problem in cases:
        with pytest.raises(ValueError, match=problem):
            invoke_claude("hi", **{"budget_usd": 1, **options})
        with pytest.raises(ValueError, match=problem):
            invoke_parallel([{"prompt": "hi"}], **{"budget_usd": 1, **options})
    with pytest.raises(TypeError, match="on_warning must be callable"):
        Budget(1, on_warning="print")
    assert not api.requests


def test_tools_of_the_caller_have_bounds_and_others_are_likely(sim):
    tool = {"name": "t", "input_schema": {"type": "object"}}
    assert invoke_claude("hi", tools=[tool], budget_usd=1)
    request = build(prompt="hi", tools=[{"type": "web_search_20250305", "name": "web_search"}])
    ledger_of(Budget(1, reserve="likely")).check(request)


def test_without_the_extra_it_says_so_before_any_request(api, monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ImportError, match="a budget needs genai-prices: pip install genai-prices"):
        invoke_claude("hi", budget_usd=1)
    assert Budget(1, prices={"m": {"input": 1, "output": 1}}).left == 1.0
    assert not api.requests


def test_a_budget_is_of_one_process():
    with pytest.raises(TypeError, match="holds for one process"):
        pickle.dumps(Budget(1))
    assert repr(Budget(2)) == "<Budget $0.00 of $2.00 spent, $2.00 left>"
    assert json.dumps(Budget(2).state) == "[2.0, 0.0, 0.0, 2.0]"


def test_the_ledger_is_left_as_it_was_by_a_request_of_two_budgets_that_fits_in_one(sim):
    wide, narrow = Budget(1), Budget(ONE / 2)
    results = invoke_parallel([{"prompt": "hi", "max_tokens": 100, "budget_usd": narrow}], budget_usd=wide)
    assert results.out_of_budget
    assert wide.state == BudgetState(1.0, 0.0, 0.0, 1.0)
    assert not sim.requests
