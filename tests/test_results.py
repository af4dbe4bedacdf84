import copy
import io
import itertools
import pickle
import re
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from claude_client import (
    ClaudeInvocationError,
    ClaudeResponse,
    InterruptToken,
    ParallelInterrupt,
    ParallelInvocationError,
    Results,
    Usage,
    invoke_parallel,
)
from claude_client._values.text import printable
from helpers import Page, error, reply


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
    lines = results.summary().splitlines()[:4]
    assert [re.split(r"\s{2,}", line.strip(), maxsplit=4) for line in lines] == [
        ["in", "of it cached", "out", "answer"],
        ["0", "400", "300", "50", "Hello there"],
        ["1", "0", "0", "0", "404 not_found_error: Gone"],
        ["all", "400", "300", "50", "1 answered, 1 failed"],
    ]


# What a terminal would obey: colours and titles, bells, the line again from its start, letters from right to left.
OBEYED = [*map(chr, [*range(9), *range(11, 32), *range(127, 160)]), *"\u061c\u200e\u202a\u202e\u2066\u2069"]


def test_no_terminal_obeys_an_answer_in_a_summary_or_the_message_of_an_error(api):
    nasty = "".join(OBEYED)
    said = f"a{nasty}]0;b"
    results = answers(api, reply(said), error(404, "not_found_error", said))
    failed = ParallelInvocationError.of(results)
    refused = answers(api, reply(stop_reason="refusal", stop_details={"explanation": said}))
    for shown in (results.summary(), refused.summary(), repr(results), str(results[1]), str(failed), repr(failed)):
        assert not [one for one in nasty if one in shown]
    assert results[0] == said


def test_an_escape_is_shown_as_one(api):
    assert answers(api, reply("\x1b[31mred\ttab")).summary().splitlines()[1].endswith(r"\x1b[31mred tab")


def test_long_answers_are_cut_in_the_summary_only(api):
    results = answers(api, reply("x" * 500))
    assert "x" * 79 + "\u2026" in results.summary()
    assert results[0] == "x" * 500


# In a notebook

NASTY = [
    "</details></td></tr></table><script>alert(1)</script>",
    '"><img src=x onerror="alert(1)">',
    "<!-- & &amp; &lt;b&gt; -->",
    "\u202egnp.exe\u2066",
    "half of a pair: \ud800",
]


def table(results) -> Page:
    return Page(results._repr_html_())


@pytest.fixture
def without_prices(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)


@pytest.mark.usefixtures("without_prices")
def test_a_notebook_shows_a_table_with_the_sums(api):
    page = table(answers(api, reply("Hello", usage=USED), error(404, "not_found_error", "Gone")))
    cells = page.of("th", "td")
    assert [cells[i : i + 5] for i in range(0, len(cells), 5)] == [
        ["", "in", "of it cached", "out", "answer"],
        ["0", "400", "300", "50", "Hello"],
        ["1", "0", "0", "0", "failed: not_found 404 not_found_error: Gone"],
        ["all", "400", "300", "50", "1 answered, 1 failed"],
    ]
    assert page.of("strong") == ["failed: not_found"]


@pytest.mark.parametrize("nasty", NASTY)
def test_answers_and_errors_are_escaped_in_a_notebook(nasty):
    failed = ClaudeInvocationError(nasty, kind=nasty, partial_text=nasty)
    page = table(Results([ClaudeResponse(nasty), ClaudeResponse(nasty * 9), None], {2: failed}))
    shown = nasty.replace("\ud800", "?")
    assert page.of("bdi") == [shown, " ".join((shown * 9).split())[:300], printable(str(failed)).replace("\ud800", "?")]
    assert shown * 9 in page.of("div")
    assert page.of("strong") == [f"failed: {shown}"]


def test_a_long_answer_is_one_line_with_the_whole_of_it_folded_below(api):
    whole = "First\n\n  second\n" + "x" * 1000
    page = table(answers(api, reply(whole), reply("short")))
    (line,) = page.of("summary")
    assert line.startswith("First second x")
    assert len(line) < 400
    assert page.of("details") == [line + whole]


def test_what_a_failed_prompt_had_said_is_folded_below_its_error():
    page = table(Results([None], {0: ClaudeInvocationError("cut", kind="incomplete_stream", partial_text="The fir")}))
    assert page.of("summary") == ["failed: incomplete_stream incomplete_stream: cut"]
    assert page.of("details")[0].endswith("cut\n\nWhat had arrived:\nThe fir")


def test_an_answer_that_is_not_simply_one_says_why(api):
    page = table(answers(api, reply("Half a", stop_reason="max_tokens"), reply("", stop_reason="tool_use"), reply("a")))
    assert page.of("strong") == ["cut off: max_tokens", "no text: tool_use"]
    assert table(Results([None, ClaudeResponse()])).of("strong") == ["no answer", "no text: None"]


def test_of_many_prompts_a_notebook_shows_those_that_failed_and_the_first():
    failed = {i: ClaudeInvocationError("no") for i in (7, 500, 999)}
    page = table(Results.of({i: failed.get(i, ClaudeResponse("a")) for i in range(1000)}))
    numbers = [int(text) for text in page.of("td")[::5] if text.isdecimal()]
    assert numbers == [*range(98), 500, 999]
    assert page.of("em") == ["900 more: summary() has a line for each"]
    assert page.of("th")[-1] == "997 answered, 3 failed"


def test_the_sums_tell_of_an_interrupt_and_the_cost(api):
    pytest.importorskip("genai_prices")
    (answer,) = answers(api, reply(usage={"input_tokens": 1_000_000, "output_tokens": 1000}))
    ended = {i: ClaudeInvocationError("ended", kind="interrupted") for i in (1, 2)}
    results = Results.of({0: answer, **ended}, interrupted=True)
    assert table(results).of("th")[-1] == f"1 answered, 2 interrupted \u00b7 ${results.cost_usd:.2f}"


def test_the_cost_is_left_out_where_a_price_is_unknown(api):
    assert table(answers(api, reply(model="claude-from-the-future"))).of("th")[-1] == "1 answered"


def test_no_results_are_a_table_too():
    assert table(Results()).of("th")[-5:] == ["all", "0", "0", "0", "0 answered"]


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
    assert "\r" not in shown.getvalue()
    first, last = shown.getvalue().splitlines()
    assert "0/2" in first
    assert "2/2" in last
    assert all(part in last for part in ("failed=1", "tokens=450", "cached=75%"))


def last_bar(monkeypatch, run) -> str:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    run()
    return shown.getvalue().splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_in_a_terminal_the_progress_is_drawn_over_itself(api, monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    answers(api, reply(), reply(), progress=True)
    drawn = shown.getvalue().split("\r")
    assert len(drawn) > 2
    assert "2/2" in drawn[-1]


def test_progress_stops_where_an_interrupt_stopped_the_run(api, monkeypatch):
    token = InterruptToken()
    numbers = itertools.count(1)
    api.always(lambda _: (next(numbers) == 6 and token.interrupt(), reply())[1])
    hundred = [{"prompt": "a"}] * 100
    last = last_bar(monkeypatch, partial(invoke_parallel, hundred, max_workers=1, progress=True, interrupt_token=token))
    answered = int(re.search(r"(\d+)/100", last)[1])
    begun = answered + int((re.search(r"interrupted=(\d+)", last) or "00")[1])
    assert 5 <= answered <= begun == 6
    assert f"not started={100 - begun}" in last
    assert "failed=0" in last


def test_progress_does_not_count_what_was_never_asked_as_failed(api, monkeypatch):
    api.answers(reply(), error(401, "authentication_error"))
    ask = partial(answers, api, reply(), error(401, "authentication_error"), reply(), reply(), progress=True)
    last = last_bar(monkeypatch, ask)
    assert "2/4" in last
    assert all(part in last for part in ("failed=1", "not started=2"))


def test_progress_counts_a_prompt_that_cannot_be_sent_as_failed(api, monkeypatch):
    api.always(reply())
    ask = partial(invoke_parallel, [{"prompt": "a"}, {"prompt": ""}], progress=True, return_exceptions=True)
    last = last_bar(monkeypatch, ask)
    assert "2/2" in last
    assert "failed=1" in last


def test_progress_without_its_extra_says_how_to_get_it_and_asks_nothing(api, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install tqdm"):
        invoke_parallel([{"prompt": "a"}], progress=True)
    assert not api.requests


def test_errors_in_their_places_leave_the_rest_as_it_is():
    outcomes = {0: ClaudeInvocationError("no"), 1: ClaudeInvocationError("gone", kind="cancelled")}
    results = Results.of(outcomes, interrupted=True)
    placed = results.with_errors()
    assert placed == [outcomes[0], None]
    assert (placed.errors, placed.cancelled, placed.interrupted) == ({0: outcomes[0]}, {1: outcomes[1]}, True)
    assert results == [None, None]


def test_a_bar_that_fails_is_named_and_costs_no_callback(api, monkeypatch, caplog):
    class Bar:
        def __init__(self, **_): ...

        def set_postfix(self, *_, **__):
            raise LookupError("no terminal")

        def close(self): ...

    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=Bar))
    api.always(reply())
    told = []
    invoke_parallel([{"prompt": "a"}], progress=True, on_result=lambda i, _: told.append(i))
    assert told == [0]
    assert "The progress bar failed for prompts[0]" in caplog.text
    assert "on_result failed" not in caplog.text
