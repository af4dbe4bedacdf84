"""Spans and metrics, as OpenTelemetry's own SDK collects them."""

import sys
import threading

import opentelemetry.metrics
import opentelemetry.trace
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from claude_client import (
    ClaudeInvocationError,
    ConversationThread,
    InterruptToken,
    StopTools,
    invoke_claude,
    invoke_claude_streaming,
    invoke_parallel,
    invoke_with_tools,
)
from claude_client.simulator import Reply
from helpers import SDK_MAJOR, until
from orchestration import invoke_parallel_managed

CONTEXT = "shared, " * 1250  # 2,500 tokens by the simulator's count
QUICK = {"base_delay_ms": 1, "max_delay_ms": 1}
OURS = "orchestrating_agents"


class Spans:
    """What was exported."""

    def __init__(self, exporter):
        self._exporter = exporter

    def named(self, name):
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    @property
    def calls(self):
        return self.named(f"{OURS}.call")

    @property
    def run(self):
        (run,) = self.named("invoke_workflow")
        return run

    @property
    def of_requests(self):
        return self.named("anthropic.messages.create")

    def __str__(self):
        return "".join(span.to_json() for span in self._exporter.get_finished_spans())


@pytest.fixture
def provider(monkeypatch):
    provider = TracerProvider()
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", provider)
    return provider


@pytest.fixture
def spans(provider):
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Spans(exporter)


@pytest.fixture
def metrics(monkeypatch):
    reader = InMemoryMetricReader()
    monkeypatch.setattr(opentelemetry.metrics._internal, "_METER_PROVIDER", MeterProvider([reader]))

    def read():
        data = reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
        found = [metric for scope in scopes if scope.scope.name == OURS for metric in scope.metrics]
        return {metric.name.removeprefix(f"{OURS}."): metric.data.data_points for metric in found}

    return read


def ours(span):
    """Its attributes of ours, without their prefix."""
    return {name.removeprefix(f"{OURS}."): value for name, value in span.attributes.items() if name.startswith(OURS)}


def test_a_run_is_a_span_its_calls_are_its_children_and_the_sdks_requests_are_theirs(sim, spans):
    sim.script(Reply(fault="overloaded"), Reply(text="Hello"))
    asked = [{"prompt": "a", "task_id": "first", "category": "mine"}, {"prompt": "b"}]
    results = invoke_parallel_managed(asked, max_workers=1, **QUICK)
    assert spans.run.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert spans.run.attributes["gen_ai.workflow.name"] == "invoke_parallel_managed"
    assert ours(spans.run) == {"calls": 2, "outcomes.ok": 2}
    by_name = {ours(span)["task_id"]: span for span in spans.calls}
    assert {span.parent.span_id for span in spans.calls} == {spans.run.context.span_id}
    first = by_name["first"]
    assert by_name.keys() == {"first", "prompts[1]"}
    told = ours(first)
    assert (told["category"], told["attempts"], told["outcome"]) == ("mine", 2, "ok")
    assert told["tokens.output"] == results[0].usage.output_tokens
    assert told["waited.retry"] > 0
    assert told["cost_usd"] == results[0].cost_usd
    (event,) = first.events
    assert (event.name, event.attributes["error.type"], event.attributes["attempt"]) == ("retry", "overloaded", 1)
    attempts = results[0].attempts
    assert [first.start_time, event.timestamp, first.end_time] == [
        int(time * 1e9) for time in (attempts[0].queued, attempts[0].ended, attempts[1].ended)
    ]
    if SDK_MAJOR > 0:
        parents = sorted(span.parent.span_id for span in spans.of_requests)
        assert parents == sorted([first.context.span_id] * 2 + [by_name["prompts[1]"].context.span_id])
    else:
        assert not spans.of_requests


def test_a_call_says_whether_it_wrote_the_cache_or_read_it(sim, spans):
    invoke_parallel([{"prompt": "a"}, {"prompt": "b"}], shared_system=CONTEXT, cache_shared_system=True)
    assert sorted(ours(span)["cache"] for span in spans.calls) == [("read",), ("wrote",)]
    assert spans.run.attributes["gen_ai.workflow.name"] == "invoke_parallel"


def test_a_failure_is_the_status_of_its_call_and_an_interrupt_an_event(sim, spans):
    sim.script_by(lambda request: Reply(fault="silent" if "long" in request.text else "not_found"))
    token = InterruptToken()
    asked = [{"prompt": "short"}, {"prompt": "long"}, {"prompt": "long"}]
    stopping = threading.Thread(target=lambda: until(lambda: len(sim.requests) == 2) or token.interrupt())
    stopping.start()
    invoke_parallel(asked, max_workers=1, interrupt_token=token)
    stopping.join()
    failed, interrupted = sorted(spans.calls, key=lambda span: span.start_time + span.end_time)
    assert (failed.status.is_ok, failed.status.description) == (False, "not_found")
    assert failed.attributes["error.type"] == "not_found"
    assert (interrupted.status.is_unset, [event.name for event in interrupted.events]) == (True, ["interrupted"])
    assert ours(spans.run) == {"calls": 3, "outcomes.not_found": 1, "outcomes.interrupted": 2}


def test_single_calls_and_turns_have_a_span_each(sim, spans):
    sim.script(Reply(), Reply(fault="overloaded", retry_after=0.001), Reply(), Reply(fault="refusal"))
    invoke_claude("a")
    ConversationThread().send("b")
    with pytest.raises(ClaudeInvocationError):
        invoke_claude("c")
    assert [ours(span)["attempts"] for span in spans.calls] == [1, 2, 1]
    assert [span.status.is_ok for span in spans.calls] == [True, True, False]
    if SDK_MAJOR > 0:
        calls = {span.context.span_id for span in spans.calls}
        assert {span.parent.span_id for span in spans.of_requests} == calls


def test_a_callers_span_is_above_and_is_the_current_one_again_afterwards(sim, spans, provider):
    with provider.get_tracer("mine").start_as_current_span("mine") as mine:
        invoke_claude("a")
        invoke_parallel([{"prompt": "b"}])
        assert opentelemetry.trace.get_current_span() is mine
    assert spans.run.parent.span_id == mine.context.span_id
    single = next(span for span in spans.calls if "task_id" not in ours(span))
    assert single.parent.span_id == mine.context.span_id


def test_what_a_callback_raises_ends_the_span(sim, spans):
    with pytest.raises(ZeroDivisionError):
        invoke_claude_streaming("a", lambda _: 1 / 0)
    assert len(spans.calls) == 1


def test_nothing_of_prompts_and_answers_is_in_a_span(sim, spans):
    sim.script(Reply(text="the answer"), Reply(fault="refusal"))
    invoke_parallel([{"prompt": "the question"}, {"prompt": "the question"}], return_exceptions=True)
    assert "the question" not in str(spans)
    assert "the answer" not in str(spans)


def test_tokens_costs_outcomes_and_waits_are_counted(sim, metrics):
    sim.script(Reply(fault="overloaded"), Reply(text="Hello"), Reply(fault="not_found"))
    results = invoke_parallel_managed([{"prompt": "a"}, {"prompt": "b"}], max_workers=1, **QUICK)
    answer = invoke_claude("c")
    read = metrics()
    calls = {point.attributes["outcome"]: point.value for point in read["calls"]}
    assert calls == {"ok": 2, "not_found": 1}
    tokens = {point.attributes["type"]: point.value for point in read["tokens"]}
    used = results.usage + answer.usage
    assert (tokens["input"], tokens["output"]) == (used.input_tokens, used.output_tokens)
    assert sum(point.value for point in read["cost"]) == pytest.approx(results.cost_usd + answer.cost_usd)
    waited = {point.attributes["cause"]: point.count for point in read["waited"]}
    assert waited["retry"] == 1
    assert {point.attributes["model"] for points in read.values() for point in points} == {"claude-sonnet-4-6"}


def test_without_prices_there_are_spans_and_metrics_but_for_the_cost(sim, spans, metrics, monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    invoke_claude("hi")
    assert "cost_usd" not in ours(spans.calls[0])
    assert "cost" not in metrics()


class Broken(SpanProcessor):
    """A processor that fails whatever it is told."""

    def on_start(self, span, parent_context=None):
        if span.name != "anthropic.messages.create":  # the SDK's own are the SDK's to deal with
            raise ZeroDivisionError

    def on_end(self, span):
        if span.name != "anthropic.messages.create":
            raise ZeroDivisionError


def test_telemetry_that_fails_costs_no_answer(sim, provider, caplog):
    provider.add_span_processor(Broken())
    assert invoke_claude("hi")
    assert None not in invoke_parallel([{"prompt": "a"}, {"prompt": "b"}])
    assert "Telemetry failed" in caplog.text


class FailsLate(Broken):
    """A processor that fails at calls only."""

    def on_start(self, span, parent_context=None):
        if span.name == f"{OURS}.call":
            raise ZeroDivisionError


def test_telemetry_of_calls_that_fails_costs_no_answer(sim, provider, caplog):
    provider.add_span_processor(FailsLate())
    assert None not in invoke_parallel([{"prompt": "a"}, {"prompt": "b"}])
    assert "Telemetry failed" in caplog.text


def test_the_turns_of_a_paused_answer_are_no_retries(sim, spans):
    sim.script(Reply(fault="pause_turn"), Reply(text="done"))
    answer = invoke_claude("hi")
    assert (len(answer.attempts), spans.calls[0].events) == (2, ())


def asking(name, arguments):
    """An answer that asks for a tool."""
    use = {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": arguments}
    return Reply(content=[use], stop_reason="tool_use")


def survey(word: str) -> str:
    """Ask two at once."""
    return " ".join(invoke_parallel([{"prompt": f"{word} {n}", "task_id": f"below-{n}"} for n in range(2)]))


def ask(word: str) -> str:
    """Ask one."""
    return invoke_claude(word, task_id="deepest")


def delegate(word: str) -> str:
    """Have it asked."""
    return invoke_with_tools(word, [ask], task_id="below")


def single(prompt, tools):
    return invoke_with_tools(prompt, tools, task_id="above")


def of_a_run(prompt, tools):
    return invoke_parallel([{"prompt": prompt, "tools": tools, "task_id": "above"}])[0]


@pytest.mark.parametrize("call", [single, of_a_run])
def test_a_tool_has_a_span_in_that_of_its_call_and_what_it_asks_is_in_that(sim, spans, call):
    sim.script(asking("survey", {"word": "a"}))
    answer = call("go", [survey])
    (above,) = (span for span in spans.calls if ours(span)["task_id"] == "above")
    (tool,) = spans.named("execute_tool survey")
    (run,) = (span for span in spans.named("invoke_workflow") if ours(span)["calls"] == 2)
    below = [span for span in spans.calls if ours(span)["task_id"].startswith("below")]
    assert tool.parent.span_id == above.context.span_id
    assert run.parent.span_id == tool.context.span_id
    assert [span.parent.span_id for span in below] == [run.context.span_id] * 2
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert tool.attributes["gen_ai.tool.call.id"] == answer.tool_calls[0].tool_use_id
    assert above.start_time <= tool.start_time <= run.start_time <= run.end_time <= tool.end_time <= above.end_time


def test_spans_of_calls_in_tools_of_calls_in_tools_stand_below_one_another(sim, spans):
    sim.script(asking("delegate", {"word": "a"}), asking("ask", {"word": "b"}))
    invoke_with_tools("go", [delegate], task_id="above")
    by_id = {span.context.span_id: span for span in (*spans.calls, *spans.named("execute_tool ask"))}
    by_id |= {span.context.span_id: span for span in spans.named("execute_tool delegate")}
    (span,) = (one for one in spans.calls if ours(one)["task_id"] == "deepest")
    names = []
    while span:
        names.append(ours(span).get("task_id", span.name))
        span = by_id[span.parent.span_id] if span.parent else None
    assert names == ["deepest", "execute_tool ask", "below", "execute_tool delegate", "above"]


def test_turns_of_a_loop_are_no_retries_and_what_its_tools_asked_is_counted_once(sim, spans, metrics):
    overloaded = Reply(fault="overloaded", retry_after=0.001)
    sim.script(asking("ask", {"word": "a"}), overloaded, Reply(text="inner"), Reply(text="done"))
    answer = invoke_with_tools("go", [ask], task_id="above")
    by_name = {ours(span)["task_id"]: span for span in spans.calls}
    assert (by_name["above"].events, [event.name for event in by_name["deepest"].events]) == ((), ["retry"])
    assert [ours(by_name[name])["attempts"] for name in ("above", "deepest")] == [2, 2]
    told = [ours(span) for span in spans.calls]
    assert sum(one["tokens.output"] for one in told) == answer.usage.output_tokens
    assert sum(one["cost_usd"] for one in told) == pytest.approx(answer.cost_usd)
    read = metrics()
    tokens = {point.attributes["type"]: point.value for point in read["tokens"]}
    assert (tokens["input"], tokens["output"]) == (answer.usage.input_tokens, answer.usage.output_tokens)
    assert sum(point.value for point in read["cost"]) == pytest.approx(answer.cost_usd)
    assert sum(point.value for point in read["calls"]) == 2
    assert {point.attributes["cause"]: point.count for point in read["waited"]}["retry"] == 1


def test_a_tool_that_raises_says_so_in_its_span(sim, spans):
    def give_up() -> None:
        """Give up."""
        raise StopTools("there is no way")

    sim.script(asking("give_up", {}))
    with pytest.raises(ClaudeInvocationError):
        invoke_with_tools("go", [give_up])
    (tool,) = spans.named("execute_tool give_up")
    (call,) = spans.calls
    assert (tool.attributes["error.type"], call.attributes["error.type"], call.events) == ("StopTools", "tool", ())
    assert tool.end_time <= call.end_time


def test_where_nobody_has_imported_opentelemetry_nothing_is_asked_of_it(sim, monkeypatch):
    for name in ("opentelemetry.trace", "opentelemetry.metrics"):
        monkeypatch.delitem(sys.modules, name)
    assert invoke_claude("hi")
    assert "opentelemetry.metrics" not in sys.modules
