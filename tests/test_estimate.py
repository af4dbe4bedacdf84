"""What a run will cost, before it is sent, beside what the simulator bills for it."""

import random
import sys

import anthropic
import httpx
import pytest

from claude_client import (
    ClaudeInvocationError,
    Comparison,
    Estimate,
    Results,
    Usage,
    estimate_cost,
    invoke_parallel,
    set_default_client,
)
from claude_client._values.prices import PriceBook, Way
from claude_client._values.usage import Bill, exact_cost_of
from claude_client.simulator import Reply
from helpers import error, reply
from orchestration import invoke_parallel_managed, read_journal

pytest.importorskip("genai_prices")

SHARED = "The guideline. " * 1500  # some 5,600 tokens
TOOL = {"name": "look", "description": "Looks. " * 300, "input_schema": {"type": "object"}}


def prompts_of(number, seed=0):
    chance = random.Random(seed)
    return [{"prompt": "word " * chance.randint(1, 400)} for _ in range(number)]


def billed(sim, prompts, **options) -> Usage:
    """What the simulator bills for a run in a process that knows its limits, one request after another."""
    sim.reset()
    return invoke_parallel(prompts, **{"max_tokens": 100, **options}).usage


HOUR = [{"type": "text", "text": SHARED, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
WAYS = {
    "plain": {},
    "shared": {"shared_system": SHARED},
    "cached": {"shared_system": SHARED, "cache_shared_system": True},
    "cached but short": {"shared_system": "Be brief.", "cache_shared_system": True},
    "with tools": {"shared_system": SHARED, "cache_shared_system": True, "tools": [TOOL]},
    "own system": {"system": SHARED},
    "own system cached": {"system": SHARED, "cache_system": True, "max_workers": 1},
    "prompts cached": {"shared_system": SHARED, "cache_shared_system": True, "cache_prompt": True},
    "an hour": {
        "shared_system": [{"type": "text", "text": SHARED, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    },
    "as data": {"output": int, "shared_system": SHARED},
    "sampling": {"temperature": 0.5},
    "identical": {"share_identical": True},
}


def marked(text, ttl="5m"):
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}


def asking(first, number=8):
    """Prompts that each have the blocks that *first* gives for their number before their own question."""
    return [{"prompt": [*first(n), {"type": "text", "text": f"question {n}"}]} for n in range(number)]


# Prompts that are cached in other ways, and options of their run.
CACHED = {
    "the same document in each prompt": (asking(lambda _: [marked(SHARED)]), {}),
    "for an hour": (asking(lambda _: [marked(SHARED, "1h")]), {}),
    "a document of its own in each": (asking(lambda n: [marked(f"{n} {SHARED}"), marked("more " * 900)]), {}),
    "a conversation": (
        [
            {
                "messages": [
                    {"role": "user", "content": [marked(SHARED)]},
                    {"role": "assistant", "content": "Read."},
                    {"role": "user", "content": f"question {n}"},
                ]
            }
            for n in range(8)
        ],
        {},
    ),
    "tools before a cached system": (prompts_of(8), {"tools": [TOOL], "system": SHARED, "cache_system": True}),
    "shared and own system": (prompts_of(8), {"shared_system": "S " * 900, "system": SHARED, "cache_system": True}),
    "both cached": (
        prompts_of(8),
        {"shared_system": SHARED, "cache_shared_system": True, "system": "T " * 4000, "cache_system": True},
    ),
    "cached tools": (prompts_of(8), {"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}], "system": SHARED}),
    "automatic": (prompts_of(8), {"cache_control": {"type": "ephemeral"}, "system": SHARED}),
    "equal prompts": ([{"prompt": SHARED}] * 8, {"cache_prompt": True}),
    "systems of their own": ([{"prompt": "hi", "system": f"{n} {SHARED}"} for n in range(8)], {"cache_system": True}),
    "in the body": (prompts_of(8), {"extra_body": {"system": [marked(SHARED)]}}),
}


@pytest.mark.parametrize("way", CACHED)
def test_the_cache_is_told_as_the_run_will_use_it(sim, way):
    prompts, options = CACHED[way]
    estimate = estimate_cost(prompts, max_tokens=100, max_workers=1, **options)
    usage = billed(sim, prompts, max_workers=1, **options)
    for name in (
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_creation_1h_input_tokens",
        "cache_read_input_tokens",
    ):
        assert getattr(estimate.usage_high, name) == pytest.approx(getattr(usage, name), rel=0.01, abs=8), name


def test_what_is_sent_at_once_is_written_as_often_as_it_is_sent(sim):
    prompts, options = CACHED["the same document in each prompt"]
    one, five = (
        estimate_cost(prompts, max_tokens=9, max_workers=workers, **options).usage_high.cache_creation_input_tokens
        for workers in (1, 5)
    )
    assert five == 5 * one


def test_a_prompt_that_begins_unlike_all_others_is_no_trouble(sim):
    odd = {"prompt": "t", "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    assert estimate_cost([*prompts_of(60), odd], sample=50, max_tokens=50).requests == 61


def test_system_prompts_of_their_own_are_sampled_as_well(sim):
    prompts = [{"prompt": "hi", "system": "word " * (50 + n % 7) + str(n)} for n in range(300)]
    estimate = estimate_cost(prompts, sample=40, max_tokens=50)
    assert len(sim.requests) < 100
    real = sum(-(-len(prompt["system"]) // 4) + 1 for prompt in prompts)
    assert abs(estimate.usage_high.total_input_tokens - real) <= 3 * estimate.input_error


def test_each_prompt_has_the_price_of_its_length(sim):
    prompts = [{"prompt": "w " * length} for length in (500, 500, 500, 300_000)]
    estimate = estimate_cost(prompts, "claude-haiku-5-5", max_tokens=50)
    assert estimate.usd_low == pytest.approx((3 * 250 * 0.1 + 150_000 * 0.5) / 1e6, rel=0.01)


def test_choices_are_left_out_where_a_model_has_no_price_for_the_way(sim):
    choices = estimate_cost(prompts_of(2), "claude-opus-5-5", speed="fast", max_tokens=50).compare(["claude-haiku-4-5"])
    assert {choice.model for choice in choices} == {"claude-opus-5-5"}
    with pytest.raises(ValueError, match="a model must be a non-empty str, got 5"):
        estimate_cost(prompts_of(2), max_tokens=50).compare([5])
    with pytest.raises(ValueError, match="like must be results"):
        estimate_cost(prompts_of(2), like=5)


@pytest.mark.parametrize("way", WAYS)
def test_where_all_are_counted_the_input_is_that_of_the_bill(sim, way):
    prompts = prompts_of(12) if way != "identical" else prompts_of(4) * 3
    estimate = estimate_cost(prompts, max_tokens=100, **WAYS[way])
    assert not [request for request in sim.requests if request.path == "/v1/messages"]
    usage = billed(sim, prompts, **WAYS[way])
    for name in ("total_input_tokens", "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
        assert getattr(estimate.usage_high, name) == pytest.approx(getattr(usage, name), rel=0.01), name
    assert estimate.usage_high.cache_creation_1h_input_tokens == usage.cache_creation_1h_input_tokens
    assert estimate.usd_low <= usage.cost_usd("claude-sonnet-4-6") <= estimate.usd_high
    assert estimate.input_error == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_is_right_within_the_error_that_it_states(sim, seed):
    prompts = prompts_of(400, seed)
    options = {"sample": 60, "seed": seed, "shared_system": SHARED, "cache_shared_system": True, "max_tokens": 50}
    estimate = estimate_cost(prompts, **options)
    assert len(sim.requests) < 70
    sizes = [max(1, -(-len(prompt["prompt"].strip()) // 4)) for prompt in prompts]
    told = estimate.usage_low.input_tokens + estimate.input_error
    assert 0 < estimate.input_error < 0.2 * sum(sizes)
    assert abs(told - sum(sizes)) <= 1.6 * estimate.input_error  # 95 of 100 are within it
    assert estimate_cost(prompts, **options).usage_high == estimate.usage_high
    assert "\u00b1" in str(estimate)


def test_what_is_shared_is_sent_to_be_counted_once(sim):
    estimate_cost(prompts_of(30), shared_system=SHARED, max_tokens=50)
    assert sum(SHARED in str(request.body.get("system")) for request in sim.requests) == 1


def test_each_model_is_counted_and_priced_for_itself(sim):
    prompts = [*prompts_of(3), {"prompt": "hi", "model": "claude-haiku-4-5"}]
    estimate = estimate_cost(prompts, max_tokens=100)
    assert estimate.by_model.keys() == {"claude-sonnet-4-6", "claude-haiku-4-5"}
    assert estimate.by_model["claude-haiku-4-5"].usage_high == Usage(1, 100)
    assert estimate.usd_high == pytest.approx(sum(part.usd_high for part in estimate.by_model.values()))
    assert estimate.requests == 4


def test_the_output_is_at_most_max_tokens_and_likely_what_was_expected(sim):
    estimate = estimate_cost(prompts_of(3), max_tokens=100)
    assert (estimate.usage_low.output_tokens, estimate.usage_likely, estimate.usd_likely) == (0, None, None)
    assert estimate.usage_high.output_tokens == 300
    likely = estimate_cost(prompts_of(3), max_tokens=100, expected_output=20)
    assert likely.usage_likely.output_tokens == 60
    assert likely.usd_low < likely.usd_likely < likely.usd_high
    assert estimate_cost(prompts_of(3), max_tokens=100, expected_output=1000).usage_likely.output_tokens == 300


def test_likely_may_be_learnt_from_results_or_a_journal(sim, tmp_path):
    before = invoke_parallel_managed(prompts_of(5), max_tokens=100, journal=tmp_path / "journal")
    mean = before.usage.output_tokens / 5
    for like in (before, read_journal(tmp_path / "journal")):
        estimate = estimate_cost(prompts_of(10), max_tokens=100, like=like)
        assert estimate.usage_likely.output_tokens == pytest.approx(10 * mean, abs=1)
        assert estimate.usage_low.output_tokens == 10 * min(answer.usage.output_tokens for answer in before)


def test_a_guess_needs_no_key_and_sends_nothing(monkeypatch, api):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    estimate = estimate_cost(prompts_of(10), shared_system=SHARED, cache_shared_system=True, offline=True, tools=[TOOL])
    assert estimate.usage_high.cache_creation_input_tokens == pytest.approx(len(SHARED) / 4 + 600, rel=0.1)
    assert "(guessed)" in str(estimate)
    assert not api.requests


def test_counts_are_asked_for_again_after_failures(api, slept):
    counted = httpx.Response(200, json={"input_tokens": 5})
    count = api.router.route(path="/v1/messages/count_tokens")
    count.mock(side_effect=[error(529), counted, error(429), counted, counted])
    assert estimate_cost([{"prompt": "hi"}], max_tokens=9).usage_high == Usage(5, 9)
    assert len(slept) == 2
    count.mock(side_effect=lambda _: error(401, "authentication_error"))
    with pytest.raises(ClaudeInvocationError, match="401 authentication_error"):
        estimate_cost([{"prompt": "hi"}])
    assert not api.requests


def test_ways_to_ask_the_same_are_compared(sim):
    estimate = estimate_cost(
        prompts_of(10), shared_system=SHARED, cache_shared_system=True, max_tokens=100, expected_output=50
    )
    choices = estimate.compare(["claude-haiku-4-5"])
    assert estimate.compare([*estimate.by_model, "claude-haiku-4-5"]) == choices
    assert isinstance(choices, Comparison)
    assert len(choices) == 2 * 2 * 4
    found = {(choice.model, choice.batch, choice.cache): choice for choice in choices}
    live = found["claude-sonnet-4-6", False, "5m"]
    assert live.usd_likely == pytest.approx(estimate.usd_likely)
    assert found["claude-sonnet-4-6", True, "5m"].usd_high == pytest.approx(live.usd_high / 2)
    assert found["claude-sonnet-4-6", False, None].usd_low > live.usd_low
    assert found["claude-sonnet-4-6", False, "1h"].usd_low > live.usd_low
    assert found["claude-haiku-4-5", False, "5m"].usd_high < live.usd_high
    assert [choice.usd_high for choice in choices] == sorted(choice.usd_high for choice in choices)
    lines = str(choices).splitlines()
    assert lines[0].split() == ["model", "way", "cache", "at", "least", "likely", "at", "most"]
    assert len(lines) == 17
    assert "<table>" in choices._repr_html_()


def test_what_has_no_price_in_a_batch_is_not_among_the_choices(sim):
    estimate = estimate_cost(prompts_of(3), "claude-opus-5-5", speed="fast", max_tokens=100)
    assert {choice.batch for choice in estimate.compare()} == {False}


def test_the_batch_price_is_half(sim):
    live, batch = (estimate_cost(prompts_of(3), max_tokens=100, batch=batch) for batch in (False, True))
    assert batch.usd_high == pytest.approx(live.usd_high / 2)


def test_a_model_without_a_price_is_refused_unless_it_is_named(sim):
    options = {"model": "my-model", "offline": True, "max_tokens": 1_000_000}
    with pytest.raises(ValueError, match="no price of my-model is known: name it"):
        estimate_cost([{"prompt": "hi"}], **options)
    prices = {"my-model": {"input": 1, "output": 2}}
    assert estimate_cost([{"prompt": "hi"}], prices=prices, **options).usd_high == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no price of my-model"):
        estimate_cost([{"prompt": "hi"}], offline=True).compare(["my-model"])
    assert not sim.requests


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sample": 0}, "sample must be a whole number of at least 1"),
        ({"expected_output": -1}, "expected_output must be a number from 0"),
        ({"like": []}, "like= has no answers to learn from"),
        ({"max_tokens": 0}, r"prompts\[0\]: max_tokens"),
    ],
)
def test_bad_input_is_named_before_anything_is_sent(sim, options, problem):
    with pytest.raises(ValueError, match=problem):
        estimate_cost([{"prompt": "hi"}], **options)
    with pytest.raises(TypeError, match="unknown parameter"):
        estimate_cost([{"prompt": "hi"}], max_token=5)
    assert not sim.requests


def test_without_the_extra_it_says_so(monkeypatch, api):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ImportError, match="pip install genai-prices"):
        estimate_cost([{"prompt": "hi"}])
    assert not api.requests


def test_a_client_that_counts_nothing_is_told(sim):
    class Client(anthropic.Anthropic):
        @property
        def messages(self):
            return Messages()

    class Messages:
        def create(self):
            raise AssertionError

    set_default_client(Client(api_key="k"))
    with pytest.raises(ValueError, match=r"counts no tokens: estimate_cost\(offline=True\)"):
        estimate_cost([{"prompt": "hi"}])


def test_it_prints_and_shows_itself(sim):
    estimate = estimate_cost(prompts_of(10), shared_system=SHARED, cache_shared_system=True, expected_output=5)
    assert isinstance(estimate, Estimate)
    lines = str(estimate).splitlines()
    assert [line.split()[0] for line in lines] == ["requests", "input", "output", "cost"]
    assert "written to the cache" in lines[1]
    assert "likely 50, at most 40,960 tokens" in lines[2]
    assert "likely $" in lines[3]
    assert "<table>" in estimate._repr_html_()


# Costs that add up


def test_costs_are_told_by_model_with_what_the_cache_saved_and_what_was_wasted(sim):
    sim.script(Reply(fault="refusal", text="No, not that."), matching="bad")
    prompts = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "bad"}, {"prompt": "c", "model": "claude-haiku-4-5"}]
    results = invoke_parallel(
        prompts, shared_system=SHARED, cache_shared_system=True, return_exceptions=True, max_workers=1
    )
    assert results.cost_by_model.keys() == {"claude-sonnet-4-6", "claude-haiku-4-5"}
    assert sum(results.cost_by_model.values()) == pytest.approx(results.cost_usd)
    assert results.wasted_usd == pytest.approx(results[2].cost_usd)
    read, written = results.usage.cache_read_input_tokens, results[0].usage.cache_creation_input_tokens
    of_haiku = results[3].usage.cache_creation_input_tokens * 0.25 / 1e6
    assert results.saved_by_cache_usd == pytest.approx(read * 2.7 / 1e6 - written * 0.75 / 1e6 - of_haiku)
    rows = results.to_dicts()
    assert sum(row["wasted_usd"] for row in rows) == pytest.approx(results.wasted_usd)
    assert sum(row["saved_by_cache_usd"] for row in rows) == pytest.approx(results.saved_by_cache_usd)
    told = results.summary()
    assert "saved by the cache" in told
    assert "wasted" in told
    assert "by model: claude-sonnet-4-6 $" in told


def test_answers_that_were_asked_for_again_are_wasted(sim):
    sim.script(Reply(text="no"), Reply(text="7"))
    results = invoke_parallel([{"prompt": "a"}], output=int, output_retries=1)
    first = results[0].attempts[0]
    assert results.wasted_usd == pytest.approx(first.usage.cost_usd("claude-sonnet-4-6"))


def test_an_hour_in_the_cache_costs_more_to_write(sim):
    results = invoke_parallel([{"prompt": "a"}], shared_system=HOUR)
    written = results.usage.cache_creation_1h_input_tokens
    assert written > 0
    assert results.saved_by_cache_usd == pytest.approx(-written * 3 / 1e6)


def test_costs_of_nothing_and_of_unknown_models(api):
    assert (Results().cost_by_model, Results().wasted_usd, Results().saved_by_cache_usd) == ({}, 0.0, 0.0)

    api.always(reply(model="a-model-of-tomorrow"))
    results = invoke_parallel([{"prompt": "a"}])
    assert (results.cost_by_model, results.wasted_usd, results.saved_by_cache_usd) == (None, None, None)
    assert results.to_dicts()[0]["wasted_usd"] is None


# Prices


def known_models():
    from genai_prices.data import providers

    (anthropic_prices,) = [provider for provider in providers if provider.id == "anthropic"]
    return [model.id for model in anthropic_prices.models]


USAGE = {
    "input_tokens": 1234,
    "output_tokens": 567,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 5000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
}


@pytest.mark.once
@pytest.mark.parametrize("model", known_models())
@pytest.mark.parametrize("context", [{}, {"speed": "fast"}, {"processing": "batch"}])
@pytest.mark.parametrize("scale", [1, 100])
def test_rates_are_those_of_genai_prices_for_every_model_it_knows(model, context, scale):
    from genai_prices import calc_price, extract_usage

    said = {
        name: {part: scale * count for part, count in value.items()} if isinstance(value, dict) else scale * value
        for name, value in USAGE.items()
    }
    way = Way(model, fast="speed" in context, batch="processing" in context)
    bill = Bill(model, Usage.of(said), way.fast, way.batch)
    counts = extract_usage({"usage": said}, provider_id="anthropic").usage
    theirs = calc_price(counts, model, provider_id="anthropic", price_context=context)
    plain = calc_price(counts, model, provider_id="anthropic")
    try:
        ours = exact_cost_of([bill], PriceBook())
    except LookupError:  # of fast mode or a batch that the model does not have
        assert context
        assert theirs.total_price == plain.total_price
    else:
        assert ours == theirs.total_price
