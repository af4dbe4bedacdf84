import copy
import json
import pickle
import re
import sys
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_client import ClaudeResponse, Usage, invoke_claude
from helpers import Page, message, reply

USED = {
    "input_tokens": 1000,
    "output_tokens": 100,
    "cache_creation_input_tokens": 3000,
    "cache_read_input_tokens": 5000,
    "cache_creation": {"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 1000},
    "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
}


@pytest.fixture
def answer(api):
    api.answers(reply("**Hello**", usage=USED))
    return invoke_claude("hi")


def test_an_answer_behaves_as_a_str_everywhere(answer):
    assert isinstance(answer, str)
    assert f"{answer}!" == "**Hello**!"
    assert json.dumps({"a": answer}) == '{"a": "**Hello**"}'
    assert {answer: 1}["**Hello**"] == 1
    assert repr(answer) == "'**Hello**'"


@pytest.mark.parametrize("again", [lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy])
def test_an_answer_survives_copying_and_pickling_whole(answer, again):
    other = again(answer)
    assert (other, type(other)) == (answer, ClaudeResponse)
    assert other.message.to_dict() == answer.message.to_dict()
    assert (other.usage, other.request_id, other.stop_reason) == (answer.usage, answer.request_id, "end_turn")


def test_an_answer_renders_as_markdown_in_a_notebook(answer):
    assert answer._repr_markdown_() == "**Hello**"


# What a model wrote must not run in the notebook. Our own tags around code are all that is left.
OURS = re.compile(r"(<pre>)?<code>|</code>(</pre>)?")
LIVE = re.compile(r"<[a-z/!?]", re.IGNORECASE)


def shown(text) -> str:
    return ClaudeResponse(text)._repr_markdown_()


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a <b onclick=x>b</b> <!-- c --> <script>", "a &lt;b onclick=x>b&lt;/b> &lt;!-- c --> &lt;script>"),
        ("see <https://example.com/a?b=c>.", "see https://example.com/a?b=c."),
        ("a `List<T>` or `plain` <i>", "a <code>List&#60;T&#62;</code> or `plain` &lt;i>"),
        (
            "<p>\n- a\n\n  ```x\n  <b>\n\n    *b*\n  ```\n",
            "&lt;p>\n- a\n\n  <pre><code>&#60;b&#62;&#10;&#10;  &#42;b&#42;</code></pre>\n",
        ),
        ("~~~\n<b>", "<pre><code>&#60;b&#62;</code></pre>"),
        ("<p>\n```c\nif (a < b)\n```", "&lt;p>\n```c\nif (a < b)\n```"),
        ("$0<x<y$ and $$\na<b\n$$", "$0< x< y$ and $$\na< b\n$$"),
    ],
)
def test_html_in_an_answer_is_shown_and_not_obeyed(text, markdown):
    assert shown(text) == markdown


@pytest.mark.parametrize("text", ["a < b, 1<2 & `c`", "```py\nif a < b: pass\n```", "costs $5 or $10", "<", ""])
def test_an_answer_without_html_is_shown_as_it_is(text):
    assert shown(text) == text


@pytest.mark.parametrize(
    "to",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "vbscript:a",
        "data:text/html,<b>",
        "&#106;avascript:a",
        "javascript&colon;a",
        "java\\script:a",
        "&Tab;javascript:a",
        "\x01javascript:a",
    ],
)
@pytest.mark.parametrize("link", ["[x]({})", "![x]( {} 'title')", "[a](b]({})", "[x]:\n  {}", "> [x]: {}"])
def test_a_link_that_runs_something_leads_nowhere(link, to):
    assert re.search(r"\](\(|:)\s*#", shown(link.format(to)))


@pytest.mark.parametrize("text", ["[x](https://a.b/c:d)", "a[0]: data: 5", "[x](#a)", "[x](mailto:a@b)", "data:x"])
def test_other_links_lead_where_they_did(text):
    assert shown(text) == text


PIECES = ["<", ">", "b", "/", "!", " ", "\n", "`", "```", "~~~", "$", "$$", "<https://a>", "<b x=y>", "<code>", "- "]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_tag_of_an_answer_is_left_whatever_is_taken_for_code(text):
    assert not LIVE.search(OURS.sub("\0", shown(text)))


@pytest.mark.parametrize(
    "many", ["`", "~", "~~~\n", "$a ", "$$", "`a", "<https://", " ", "<<", "](", "](&", "]:&#106;", "]( "]
)
def test_no_answer_takes_long_to_show(many):
    text = "<b>\n" + many * (100_000 // len(many))
    started = time.process_time()
    shown(text)
    assert time.process_time() - started < 5


def test_usage_has_every_count_and_their_sum(answer):
    assert answer.usage == Usage(1000, 100, 3000, 5000, 1000, 1)
    assert answer.usage.total_input_tokens == 9000


def test_usage_the_api_leaves_out_is_zero(api):
    api.answers(reply(usage={"input_tokens": 1, "output_tokens": None, "cache_read_input_tokens": None}))
    assert invoke_claude("hi").usage == Usage(input_tokens=1)


def test_a_notebook_shows_the_counts_of_a_usage(answer):
    page = Page(answer.usage._repr_html_())
    assert page.of("th")[:2] == ["input_tokens", "output_tokens"]
    assert page.of("td") == ["1,000", "100", "3,000", "5,000", "1,000", "1"]
    assert page.of("strong") == ["Usage"]


def test_usages_add_up():
    assert Usage(1, 2, 3, 4, 5, 6) + Usage(10, 20, 30, 40, 50, 60) == Usage(11, 22, 33, 44, 55, 66)


def test_the_cost_is_that_of_the_list_price(answer):
    pytest.importorskip("genai_prices")
    # facts 8: Sonnet 4.6 at 3 / 15 dollars per million tokens, 3.75 and 6 written, 0.30 read; a web search is a cent.
    assert answer.cost_usd == pytest.approx((1000 * 3 + 100 * 15 + 2000 * 3.75 + 1000 * 6 + 5000 * 0.3) / 1e6 + 0.01)


def test_an_unknown_model_has_no_cost(api):
    pytest.importorskip("genai_prices")
    api.answers(reply(model="claude-from-the-future"))
    assert invoke_claude("hi").cost_usd is None


def test_without_the_extra_a_cost_says_how_to_get_it(answer, monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ImportError, match=r"pip install genai-prices"):
        answer.cost_usd  # noqa: B018


@pytest.mark.parametrize("odd", ["many", float("inf"), -1, 1.5, True, {}, None])
def test_a_usage_that_is_no_count_is_none_and_ends_no_later_call(api, odd):
    limits = {"anthropic-ratelimit-input-tokens-limit": "10000", "anthropic-ratelimit-input-tokens-remaining": "9000"}
    used = {"input_tokens": odd, "output_tokens": odd, "cache_creation": odd, "server_tool_use": odd}
    body = json.dumps(message("a", usage=used))  # also of what is no JSON, as a server may send it
    api.always(lambda _: httpx.Response(200, content=body, headers={"content-type": "application/json", **limits}))
    assert [invoke_claude("hi").usage for _ in range(3)] == [Usage()] * 3


def test_an_answer_made_for_a_test_may_have_a_usage_without_a_message():
    answer = ClaudeResponse("x", usages=[Usage(1, 2)])
    assert (answer.usage, answer.attempts[0].outcome) == (Usage(1, 2), "ok")
