"""What answers, failures, conversations and results cost, each by the prices it really has (facts 8)."""

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_client import (
    ClaudeInvocationError,
    ClaudeResponse,
    ConversationThread,
    ParallelInvocationError,
    Results,
    Usage,
    invoke_claude,
)
from claude_client import invoke_parallel as ask_all
from claude_client._values.record import AttemptRecord
from claude_client._values.response import response_of
from claude_client._values.usage import Bill, bills_of, cost_of
from claude_client._verbs.stored import from_stored, to_stored
from helpers import error, event, reply, stream

pytest.importorskip("genai_prices")

MILLION = {"input_tokens": 1_000_000, "output_tokens": 0}


def asked(api, answer, **options) -> ClaudeResponse:
    api.answers(answer)
    return invoke_claude("hi", **options)


def streamed(usage, more) -> list:
    """The events of an answer whose usage is *usage* at first, and *more* at its end."""
    head = {"type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [], "usage": usage}
    return [
        event("message_start", message=head),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage=more),
        event("message_stop"),
    ]


@pytest.mark.parametrize(
    ("told", "dollars"),
    [
        ({}, 4),
        ({"speed": "standard", "service_tier": "standard", "inference_geo": "global"}, 4),
        ({"speed": "fast"}, 8),
        ({"service_tier": "batch"}, 2),
        ({"service_tier": "priority"}, 4),
        ({"inference_geo": "us"}, 4.4),
        ({"inference_geo": "us", "speed": "fast"}, 8.8),
        ({"inference_geo": "us", "server_tool_use": {"web_search_requests": 100}}, 5.4),
        ({"cache_creation_input_tokens": 10**6, "cache_creation": {"ephemeral_1h_input_tokens": 10**6}}, 12),
        ({"cache_creation_input_tokens": 10**6, "cache_creation": {"ephemeral_5m_input_tokens": 10**6}}, 9),
        ({"cache_read_input_tokens": 10**6}, 4.2),
    ],
)
def test_an_answer_costs_what_the_way_it_was_made_costs(api, told, dollars):
    answer = asked(api, reply(model="claude-opus-5-5", usage={**MILLION, **told}))
    assert answer.cost_usd == pytest.approx(dollars)
    api.answers(stream(*streamed({"input_tokens": 9, **told}, MILLION)))
    assert invoke_claude("hi", streaming=True).cost_usd == pytest.approx(dollars)


def test_what_was_asked_for_counts_where_the_answer_does_not_say(api):
    said = {"model": "claude-opus-5-5", "usage": MILLION}
    assert asked(api, reply(**said), extra_body={"speed": "fast"}).cost_usd == 8
    assert asked(api, reply(**said), extra_body={"inference_geo": "us"}).cost_usd == 4.4
    said["usage"] = {**MILLION, "speed": "standard", "inference_geo": "global"}
    assert asked(api, reply(**said), extra_body={"speed": "fast", "inference_geo": "us"}).cost_usd == 4


def test_a_way_of_asking_whose_price_is_not_known_has_no_cost(api):
    assert asked(api, reply(model="claude-opus-4-6", usage={**MILLION, "speed": "fast"})).cost_usd is None


def test_a_price_for_long_prompts_is_that_of_each_request_and_not_of_their_sum(api):
    def costs(tokens):
        return asked(api, reply(model="claude-haiku-5-5", usage={"input_tokens": tokens, "output_tokens": 0}))

    below, above = costs(100_000), costs(100_001)
    assert (below.cost_usd, above.cost_usd) == (0.01, pytest.approx(0.0500005))
    assert Results([below, below, above, above]).cost_usd == pytest.approx(0.120001)


def test_the_model_that_answered_sets_the_price(api):
    assert asked(api, reply(model="claude-opus-5-5", usage=MILLION), model="claude-sonnet-4-6").cost_usd == 4


@pytest.mark.parametrize(
    ("asked_for", "answered", "dollars"),
    [
        ("us.anthropic.claude-sonnet-4-6-v1:0", "claude-sonnet-4-6", 3.3),
        ("global.anthropic.claude-sonnet-4-6-v1:0", "claude-sonnet-4-6", 3),
        ("arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-opus-5-5", "claude-opus-5-5", 4.4),
        ("claude-opus-5-5@20260922", "claude-opus-5-5", 4),
        ("publishers/anthropic/models/claude-opus-5-5", "claude-opus-5-5", 4),
        ("claude-sonnet-4-6", "claude-sonnet-4-6-20260101", 3),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929", 3.3),
        ("us.anthropic.claude-sonnet-4-6-v1:0", "claude-opus-5-5", 4.4),
        ("us.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6-20260101", 3.3),
        ("us.anthropic.claude-sonnet-4-6", "a-model-of-mine", None),
        ("claude-opus-5-5", "claude-opus-5", 5),
        ("my-deployment", "claude-opus-5-5", 4),
        ("my-deployment", "my-deployment", None),
    ],
)
def test_models_of_clouds_have_the_prices_of_their_cloud(api, asked_for, answered, dollars):
    assert asked(api, reply(model=answered, usage=MILLION), model=asked_for).cost_usd == dollars


COMPACTED = {
    "input_tokens": 23_000,
    "output_tokens": 1_000,
    "server_tool_use": {"web_search_requests": 2},
    "iterations": [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
        {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000, "model": None},
    ],
}


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_what_compacts_the_prompt_is_counted_and_paid_for(api, in_one_piece):
    if in_one_piece:
        answer = asked(api, reply(model="claude-opus-5-5", usage=COMPACTED))
    else:
        answer = asked(api, stream(*streamed({"input_tokens": 23_000}, COMPACTED)), streaming=True)
    assert answer.usage == Usage(203_000, 4_500, web_search_requests=2)
    assert answer.cost_usd == pytest.approx(203_000 * 4e-6 + 4_500 * 20e-6 + 0.02)
    assert answer.message.usage.to_dict() == COMPACTED


def test_another_model_that_advises_has_a_price_of_its_own(api):
    used = {
        "input_tokens": 1_000_000,
        "iterations": [
            {"type": "message", "input_tokens": 1_000_000},
            {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 1_000_000},
        ],
    }
    assert asked(api, reply(model="claude-opus-5-5", usage=used)).cost_usd == 4 + 5


@pytest.mark.parametrize("odd", [None, [], {}, "many", 7])
def test_iterations_that_are_none_leave_the_counts_beside_them(api, odd):
    assert asked(api, reply(usage={**MILLION, "iterations": odd})).usage == Usage(1_000_000)


def test_an_iteration_that_is_none_counts_nothing(api):
    odd = [None, 7, "many", {"input_tokens": 5, "model": 7}]
    answer = asked(api, reply(usage={**MILLION, "iterations": odd}))
    assert answer.usage == Usage(5)
    assert answer.cost_usd == pytest.approx(5 * 3e-6)


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_counts_of_a_usage_that_are_not_known_here_are_in_the_message(api, in_one_piece):
    used = {"input_tokens": 1, "output_tokens": 2, "dreams": 3, "server_tool_use": {"teleports": 4}}
    replied = reply(usage=used) if in_one_piece else stream(*streamed({"input_tokens": 1}, used))
    answer = asked(api, replied, streaming=not in_one_piece)
    assert answer.message.usage.to_dict() == used


def test_a_usage_that_is_missing_is_zero_and_costs_nothing(api):
    events = streamed(None, None)
    for answer in (asked(api, reply(usage=None)), asked(api, stream(*events), streaming=True)):
        assert (answer.usage, answer.cost_usd) == (Usage(), 0)


@pytest.mark.usefixtures("slept")
def test_failed_attempts_are_in_the_cost_of_an_answer(api):
    broken = stream(*streamed({**MILLION, "speed": "fast"}, {})[:3])
    api.answers(broken, reply(model="claude-opus-5-5", usage=MILLION))
    answer = invoke_claude("hi", streaming=True)
    assert (answer.usage, answer.cost_usd) == (Usage(2_000_000), 8 + 4)


def test_failed_prompts_are_in_the_cost_of_results_and_those_that_used_nothing_cost_nothing(api):
    refused = reply(model="claude-opus-5-5", stop_reason="refusal", usage=MILLION)
    api.answers(refused, error(404, "not_found_error"), reply(usage=MILLION))
    prompts = [{"prompt": "a"}, {"prompt": "b", "model": "claude-typo"}, {"prompt": "c"}]
    results = ask_all(prompts, max_workers=1, return_exceptions=True)
    assert [item.cost_usd for item in results] == [4, 0, 3]
    assert (results.cost_usd, results.usage) == (7, Usage(2_000_000))


def test_the_error_of_a_fan_out_costs_what_its_first_error_does(api):
    api.answers(reply(stop_reason="refusal", usage=MILLION), reply(usage=MILLION))
    with pytest.raises(ParallelInvocationError) as raised:
        ask_all([{"prompt": "a"}, {"prompt": "b"}], max_workers=1)
    assert (raised.value.cost_usd, raised.value.results.cost_usd) == (3, 6)


@pytest.mark.parametrize("asked_for", ["claude-opus-5-5@20260922", "publishers/anthropic/models/claude-opus-5-5"])
def test_an_attempt_that_nobody_answered_costs_by_the_model_asked_for(api, asked_for):
    head = {"type": "message", "content": [], "usage": MILLION}
    api.answers(stream(event("message_start", message=head)))
    with pytest.raises(ClaudeInvocationError) as raised:
        invoke_claude("hi", model=asked_for, streaming=True, max_retries=0)
    assert raised.value.cost_usd == 4


def test_a_conversation_costs_what_its_answers_and_failures_cost(api):
    thread = ConversationThread(model="claude-sonnet-4-6", max_retries=0)
    api.answers(
        reply(model="claude-opus-5-5", usage={**MILLION, "speed": "fast"}),
        reply(stop_reason="refusal", usage=MILLION),
        reply(model="claude-sonnet-4-6", usage=MILLION),
    )
    first = thread.send("a")
    with pytest.raises(ClaudeInvocationError) as raised:
        thread.send("b")
    last = thread.send("c")
    assert (first.cost_usd, raised.value.cost_usd, last.cost_usd) == (8, 3, 3)
    assert thread.cost_usd == 14


def test_an_answer_from_a_file_costs_what_it_cost(api):
    used = {**COMPACTED, "speed": "fast", "inference_geo": "us"}
    answer = asked(api, reply(model="claude-opus-5-5", usage=used), model="us.anthropic.claude-opus-5-5")
    again = from_stored(json.loads(json.dumps(to_stored(answer))))
    assert (again.usage, again.cost_usd) == (answer.usage, answer.cost_usd)


NAMES = [
    "input_tokens",
    "model",
    "cache_creation",
    "ephemeral_1h_input_tokens",
    "iterations",
    "server_tool_use",
    "speed",
]
NESTED = {"cache_creation": {"ephemeral_1h_input_tokens": 7}, "service_tier": ["batch"]}
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["fast", "us", "batch", "claude-opus-5-5"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("usage", "model", "speed"), ODD)), ODD)
def test_whatever_a_message_says_of_its_usage_there_is_a_bill(message, model):
    found = bills_of({**message, "usage": {**NESTED, "iterations": [message]}}, "claude-sonnet-4-6", {"speed": model})
    found += bills_of(message, "claude-sonnet-4-6", {"inference_geo": model}) + bills_of(model, "m", {})
    cost = cost_of(found)
    assert cost is None or cost >= 0


counts = st.integers(0, 3_000_000)
usages = st.builds(Usage, counts, counts, counts, counts, st.just(0), st.integers(0, 9))
models = st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-6", "us.anthropic.claude-opus-5-5"])
bills = st.builds(Bill, models, usages, st.just(False), st.just(False), st.booleans())


@given(st.lists(st.lists(bills, max_size=4), max_size=5))
def test_the_parts_add_up_to_the_whole(parts):
    answers = [
        response_of(
            SimpleNamespace(content=[], stop_reason="end_turn"),
            None,
            [AttemptRecord(bill.model, bill.usage, billed=(bill,)) for bill in part],
        )
        for part in parts
    ]
    whole = Results(answers)
    assert math.isclose(whole.cost_usd, math.fsum(answer.cost_usd for answer in answers), rel_tol=1e-12)
    assert whole.cost_usd == cost_of(bill for part in reversed(parts) for bill in part)
    assert whole.usage == sum((answer.usage for answer in answers), Usage())


@given(st.lists(usages))
def test_a_sum_of_usages_is_the_sum_of_each_count(many):
    added = sum(many, Usage())
    assert added.input_tokens == sum(usage.input_tokens for usage in many)
    assert added.total_input_tokens == sum(usage.total_input_tokens for usage in many)
    assert added.web_search_requests == sum(usage.web_search_requests for usage in many)
