"""The simulated prompt cache: what is read, written and paid in full."""

import contextlib
import threading
from typing import Any

import anthropic
import pytest

from claude_client.simulator import Reply, Simulator
from claude_client.simulator._cache import CacheUse, PromptCache
from claude_client.simulator._prompt import prompt_blocks

MODEL = "claude-sonnet-4-6"
LONG = 4096  # characters that make the 1,024 tokens MODEL caches


class Caller:
    """Sends prompts to a cache, each answered in no time, on a clock of its own."""

    def __init__(self):
        self.cache = PromptCache()
        self.now = 0.0

    def look_up(self, **body) -> CacheUse:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], **body}
        return self.cache.look_up(body, prompt_blocks(body), self.now)

    def ask(self, **body) -> CacheUse:
        use = self.look_up(**body)
        self.cache.commit(use, self.now)
        return use


@pytest.fixture
def caller():
    return Caller()


def text(letter="a", length=LONG, mark=None):
    block = {"type": "text", "text": letter * length}
    return {**block, "cache_control": {"type": "ephemeral", **mark}} if mark is not None else block


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def counts(use):
    return use.uncached, use.read_tokens, use.written_tokens("5m"), use.written_tokens("1h")


def test_nothing_is_cached_without_a_mark(caller):
    caller.ask(system=[text()])
    assert counts(caller.ask(system=[text()])) == (1025, 0, 0, 0)


def test_a_marked_prefix_is_written_then_read(caller):
    assert counts(caller.ask(system=[text(mark={})])) == (1, 0, 1024, 0)
    assert counts(caller.ask(system=[text(mark={})])) == (1, 1024, 0, 0)


def test_what_follows_the_mark_may_differ(caller):
    caller.ask(system=[text(mark={})], messages=[user(text("b", 4))])
    assert caller.ask(system=[text(mark={})], messages=[user(text("c", 40))]).read_tokens == 1024


def test_another_prefix_is_not_read(caller):
    caller.ask(system=[text("a", mark={})])
    assert counts(caller.ask(system=[text("b", mark={})])) == (1, 0, 1024, 0)


def test_the_mark_is_no_part_of_the_prefix(caller):
    caller.ask(system=[text("a"), text("b", mark={})])
    assert caller.ask(system=[text("a"), text("b", mark={"ttl": "1h"})]).read_tokens == 2048


def test_a_string_is_the_same_as_its_block(caller):
    caller.ask(messages=[user(text()), user(text("b", mark={}))])
    assert caller.ask(messages=[{"role": "user", "content": "a" * LONG}, user(text("b", mark={}))]).read_tokens == 2048


def test_the_same_text_in_another_message_is_another_prefix(caller):
    caller.ask(messages=[user(text("a"), text("b", mark={}))])
    assert caller.ask(messages=[user(text("a")), user(text("b", mark={}))]).read_tokens == 0


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("claude-opus-5", 512),
        ("claude-fable-5-1", 512),
        ("claude-sonnet-4-6", 1024),
        ("claude-sonnet-4-5-20250929", 1024),
        ("claude-opus-4-7", 2048),
        ("claude-haiku-4-5-20251001", 4096),
        ("claude-unheard-of", 1024),
    ],
)
def test_each_model_has_its_minimum(caller, model, minimum):
    for length, written in ((4 * minimum - 4, 0), (4 * minimum, minimum)):
        use = caller.ask(model=model, system=[text("a", length, mark={})])
        assert (use.written_tokens("5m"), use.uncached) == (written, length // 4 + 1 - written)


def test_the_cache_is_per_model(caller):
    caller.ask(system=[text(mark={})])
    assert caller.ask(system=[text(mark={})], model="claude-sonnet-5").read_tokens == 0


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"speed": "fast"}, {"tools"}),
        ({"tool_choice": {"type": "none"}}, {"tools", "system"}),
        ({"thinking": {"type": "adaptive"}}, {"tools", "system"}),
        ({"output_config": {"effort": "low"}}, {"tools", "system"}),
        ({"metadata": {"user_id": "me"}}, {"tools", "system", "messages"}),
    ],
)
def test_a_parameter_loses_what_depends_on_it(caller, change, kept):
    prompts = {
        "tools": {"tools": [{"name": "t" * LONG, "cache_control": {"type": "ephemeral"}}]},
        "system": {"system": [text(mark={})]},
        "messages": {"messages": [user(text(mark={}))]},
    }
    for level, prompt in prompts.items():
        caller.ask(**prompt)
        assert bool(caller.ask(**prompt, **change).read_tokens) == (level in kept)


def test_another_tool_loses_everything(caller):
    system = [text(mark={})]
    caller.ask(system=system, tools=[{"name": "one"}])
    assert caller.ask(system=system, tools=[{"name": "two"}]).read_tokens == 0


def test_each_breakpoint_writes_an_entry(caller):
    use = caller.ask(system=[text("a", mark={}), text("b", mark={})])
    assert counts(use) == (1, 0, 2048, 0)
    assert counts(caller.ask(system=[text("a", mark={}), text("c")])) == (1025, 1024, 0, 0)


def test_a_longer_prefix_reads_the_shorter_and_writes_the_rest(caller):
    caller.ask(system=[text("a", mark={})])
    assert counts(caller.ask(system=[text("a"), text("b", mark={})])) == (1, 1024, 1024, 0)


def test_only_what_was_written_is_read(caller):
    caller.ask(system=[text("a"), text("b", mark={})])
    assert counts(caller.ask(system=[text("a", mark={}), text("c")])) == (1025, 0, 1024, 0)


def test_lifetimes_are_counted_apart(caller):
    use = caller.ask(system=[text("a", mark={"ttl": "1h"}), text("b", mark={"ttl": "5m"})])
    assert counts(use) == (1, 0, 1024, 1024)


@pytest.mark.parametrize(("more_blocks", "read"), [(19, 1024), (20, 0)])
def test_a_breakpoint_looks_back_twenty_blocks(caller, more_blocks, read):
    caller.ask(messages=[user(text(mark={}))])
    more = [text("b", 4) for _ in range(more_blocks - 1)]
    assert caller.ask(messages=[user(text(), *more, text("c", 4, mark={}))]).read_tokens == read


def test_automatic_caching_marks_the_last_block(caller):
    conversation = [user(text("a")), {"role": "assistant", "content": "Well."}]
    automatic = {"cache_control": {"type": "ephemeral"}}
    assert counts(caller.ask(messages=[*conversation, user(text("b", 4))], **automatic)) == (0, 0, 1027, 0)
    longer = [*conversation, user(text("b", 4)), user(text("c", 4))]
    assert counts(caller.ask(messages=longer, **automatic)) == (0, 1027, 1, 0)


def test_automatic_caching_walks_back_from_a_block_that_cannot_be_cached(caller):
    thinking = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]}
    use = caller.ask(messages=[user(text()), thinking], cache_control={"type": "ephemeral"})
    assert use.written_tokens("5m") == 1024


@pytest.mark.parametrize(("ttl", "seconds"), [("5m", 300), ("1h", 3600)])
def test_an_entry_lives_from_the_start_of_its_request(caller, ttl, seconds):
    system = [text(mark={"ttl": ttl})]
    use = caller.look_up(system=system)
    caller.cache.commit(use, 0.0)
    caller.now = seconds - 0.001
    assert caller.look_up(system=system).read_tokens == 1024
    caller.now = seconds
    assert caller.look_up(system=system).read_tokens == 0


def test_a_read_refreshes_the_lifetime(caller):
    system = [text(mark={})]
    for caller.now in (0.0, 299.0, 598.0):
        last = caller.ask(system=system)
    assert last.read_tokens == 1024


def test_reads_do_not_count_for_the_limits(caller):
    assert caller.ask(system=[text(mark={})]).counted_tokens == 1025
    assert caller.ask(system=[text(mark={})]).counted_tokens == 1


class TestOnTheWire:
    @pytest.fixture
    def sim(self):
        self.now = 0.0
        with Simulator(clock=lambda: self.now) as simulator:
            yield simulator

    @pytest.fixture
    def ask(self, sim):
        http_client = anthropic.DefaultHttpxClient(verify=False)
        with anthropic.Anthropic(
            api_key="any", base_url=sim.base_url, max_retries=0, http_client=http_client
        ) as client:
            params: Any = {"model": MODEL, "max_tokens": 10, "messages": [user(text("q", 4))]}
            yield lambda **more: client.messages.create(**params, system=[text(mark={})], **more)

    @staticmethod
    def read_and_written(message):
        return message.usage.cache_read_input_tokens, message.usage.cache_creation_input_tokens

    def test_usage_tells_of_writes_and_reads(self, ask):
        first, second = ask().usage, ask().usage
        assert (first.input_tokens, first.cache_creation_input_tokens, first.cache_read_input_tokens) == (1, 1024, 0)
        assert first.cache_creation.ephemeral_5m_input_tokens == 1024
        assert (second.input_tokens, second.cache_creation_input_tokens, second.cache_read_input_tokens) == (1, 0, 1024)

    def test_entries_expire_by_the_clock(self, ask):
        ask()
        self.now = 301.0
        assert self.read_and_written(ask()) == (0, 1024)

    def test_an_entry_cannot_be_read_before_its_answer_begins(self, sim, ask):
        until = threading.Event()
        sim.script(Reply(until=until))
        writing = threading.Thread(target=ask)
        writing.start()
        sim.wait_for(lambda sim: sim.in_flight == 1)
        assert self.read_and_written(ask()) == (0, 1024)
        until.set()
        writing.join(10)

    def test_an_entry_can_be_read_once_its_stream_has_begun(self, sim, ask):
        pause = threading.Event()
        sim.script(Reply(pause=pause, after_chunks=0))
        with ask(stream=True) as events:
            next(events)
            assert self.read_and_written(ask()) == (1024, 0)
            pause.set()
            list(events)

    @pytest.mark.parametrize("fault", ["overloaded", "cut_before_headers", "html"])
    def test_a_request_without_an_answer_writes_nothing(self, sim, ask, fault):
        sim.script(Reply(fault=fault))
        with contextlib.suppress(anthropic.APIError):
            ask()
        assert self.read_and_written(ask()) == (0, 1024)

    def test_warming_writes_what_the_next_request_reads(self, sim, ask):
        assert ask(extra_body={"max_tokens": 0}).usage.cache_creation_input_tokens == 1024
        assert self.read_and_written(ask()) == (1024, 0)
