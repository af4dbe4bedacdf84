import copy
import io
import pickle
import re
import sys

import pytest

from claude_client import ClaudeInvocationError, ParallelInterrupt, Results, Usage, invoke_parallel
from helpers import error, reply


def answers(api, *replies, **options) -> Results:
    api.answers(*replies)
    return invoke_parallel(
        [{"prompt": str(i)} for i in range(len(replies))], max_workers=1, return_exceptions=True, **options
    )


USED = {"input_tokens": 100, "output_tokens": 50, "cache_read_input_tokens": 300}


def test_usage_sums_answers_and_what_failed_had_used():
    failed = ClaudeInvocationError("no", usage=Usage(input_tokens=7))
    assert Results([None], {0: failed}).usage == Usage(input_tokens=7)


def test_usage_counts_each_prompt_once_in_both_shapes(api):
    results = answers(api, reply(usage=USED), reply("no", stop_reason="refusal", usage=USED))
    assert results.usage == Results.of(dict(enumerate(results))).usage
    assert results.usage.output_tokens == 100


def test_the_cache_share_is_what_was_read_of_all_input(api):
    assert answers(api, reply(usage=USED)).cache_share == 0.75
    assert Results().cache_share == 0.0


def test_the_cost_is_the_sum_of_the_answers(api):
    pytest.importorskip("genai_prices")
    results = answers(api, reply(usage=USED), reply(usage=USED))
    assert results.cost_usd == pytest.approx(2 * results[0].cost_usd)


def test_one_unknown_price_makes_the_sum_unknown(api):
    pytest.importorskip("genai_prices")
    assert answers(api, reply(), reply(model="claude-from-the-future")).cost_usd is None


def test_the_summary_has_a_line_for_each_prompt_and_the_sums(api):
    results = answers(api, reply("Hello\nthere", usage=USED), error(404, "not_found_error", "Gone"))
    lines = results.summary().splitlines()
    assert [re.split(r"\s{2,}", line.strip(), maxsplit=4) for line in lines] == [
        ["in", "of it cached", "out", "answer"],
        ["0", "400", "300", "50", "Hello there"],
        ["1", "0", "0", "0", "not_found: 404 not_found_error: Gone"],
        ["all", "400", "300", "50", "1 answered, 1 failed"],
    ]


def test_long_answers_are_cut_in_the_summary_only(api):
    results = answers(api, reply("x" * 500))
    assert "x" * 79 + "\u2026" in results.summary()
    assert results[0] == "x" * 500


def test_everything_is_escaped_in_a_notebook(api):
    table = answers(api, reply("<script>alert(1)</script> & more"))._repr_html_()
    assert "<script>" not in table
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in table
    assert table.startswith("<table>")


@pytest.mark.parametrize("again", [lambda r: pickle.loads(pickle.dumps(r)), copy.copy, copy.deepcopy])
def test_results_survive_copying_and_pickling(api, again):
    results = again(answers(api, reply("a"), error(404, "not_found_error")))
    assert (results[0], results.errors[1].status_code) == ("a", 404)


def test_an_interrupt_is_a_keyboard_interrupt_with_results():
    raised = ParallelInterrupt("stopped", results=Results(["a"]))
    assert isinstance(raised, KeyboardInterrupt)
    assert not isinstance(raised, Exception)
    assert raised.results == ["a"]


def test_progress_shows_what_is_done_failed_used_and_cached(api, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    answers(api, reply(usage=USED), error(404, "not_found_error"), progress=True)
    last = shown.getvalue().split("\r")[-1]
    assert "2/2" in last
    assert all(part in last for part in ("failed=1", "tokens=450", "cached=75%"))


def test_progress_without_its_extra_says_how_to_get_it_and_asks_nothing(api, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r'pip install "orchestrating-agents\[progress\]"'):
        invoke_parallel([{"prompt": "a"}], progress=True)
    assert not api.requests
