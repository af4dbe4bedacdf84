"""
OpenTelemetry, where a program has set it up: a span for a run and one for each call in it, and metrics.

The SDK makes a span for each request (from 1.14 on), which becomes a child of ours; so there is none of ours for a
request. Nothing of prompts or answers is in any. Where nobody has imported `opentelemetry`, nobody reads spans, and
nothing is done; nor where there is no provider.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.kinds import FROM_OUTSIDE
from claude_client._values.log import Log
from claude_client._values.record import AttemptRecord, at, cost_of_attempts, end_of, own
from claude_client._values.request import Request
from claude_client._values.response import ClaudeResponse
from claude_client._values.usage import total

T = TypeVar("T")

_log = Log("claude_client")

_NAME = "orchestrating_agents"

Outcome = ClaudeResponse | ClaudeInvocationError


class CallSpan:
    """The span of a call, from when it was queued to its outcome."""

    def __init__(self, tracer: Any, request: Request, name: str | None, queued_at: float, parent: Any = None) -> None:
        about = {"task_id": name, "category": request.category}
        attributes = {f"{_NAME}.{key}": value for key, value in about.items() if value is not None}
        attributes["gen_ai.request.model"] = request.model
        began = _nanoseconds(at(queued_at))
        self._span: Any = tracer.start_span(f"{_NAME}.call", parent, attributes=attributes, start_time=began)

    def enter(self, context: Context) -> None:
        """Make this the current span of *context*."""
        trace, current = _module("trace"), _module("context")
        context.run(current.attach, trace.set_span_in_context(self._span, context.run(current.get_current)))

    def current(self) -> AbstractContextManager[Any]:
        """Make this the current span for a `with` block."""
        return _as_current(self._span)

    def abandon(self) -> None:
        """End it without an outcome."""
        self._span.end()

    def end(self, outcome: Outcome) -> None:
        """End it, with what became of the call. What its tools have asked has spans of its own."""
        for number, attempt in enumerate(own(outcome.attempts)[:-1], 1):
            if attempt.outcome != "ok":
                told = {"attempt": number, "error.type": attempt.outcome, "request_id": attempt.request_id}
                known = {name: value for name, value in told.items() if value is not None}
                self._span.add_event("retry", known, timestamp=_nanoseconds(attempt.ended))
        self._span.set_attributes(_attributes(outcome))
        ended = _nanoseconds(end_of(outcome.attempts, outcome.tool_calls))
        if isinstance(outcome, ClaudeInvocationError):
            if outcome.kind in FROM_OUTSIDE:
                self._span.add_event(outcome.kind, timestamp=ended)
            else:
                status = _module("trace.status")
                self._span.set_status(status.Status(status.StatusCode.ERROR, outcome.kind))
                self._span.set_attribute("error.type", outcome.kind)
        self._span.end(ended)


class RunSpan:
    """The span of a run, and those of its calls."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span
        self._calls: dict[int, CallSpan] = {}
        self._lock = threading.Lock()  # guards the counts
        self._counts: Counter[str] = Counter()

    def enter(self, context: Context, index: int, request: Request, name: str, queued_at: float) -> None:
        """Make the span of a call the current one of *context*, in which its next request is made."""
        if index not in self._calls:
            parent = context.run(_module("trace").set_span_in_context, self._span)
            self._calls[index] = CallSpan(self._tracer, request, name, queued_at, parent)
        self._calls[index].enter(context)

    def ended(self, outcomes: Mapping[int, Outcome]) -> None:
        """End the spans of the calls that have ended. One that was never begun has none, and is counted only."""
        for index, outcome in outcomes.items():
            if call := self._calls.pop(index, None):
                quietly(call.end, outcome)
            with self._lock:
                self._counts[outcome.kind if isinstance(outcome, ClaudeInvocationError) else "ok"] += 1

    def close(self) -> None:
        """End it, with how many calls ended how."""
        with self._lock:
            self._span.set_attributes({f"{_NAME}.outcomes.{kind}": count for kind, count in self._counts.items()})
        self._span.end()


@contextmanager
def run_span(name: str, calls: int | None) -> Iterator[RunSpan | None]:
    """
    The span of a run; None where nobody reads it.

    Args:
        calls: How many it makes; it is the current span then. None: nobody knows, and what its caller does meanwhile is
            no part of it.
    """
    attributes: dict[str, Any] = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": name}
    if calls is not None:
        attributes[f"{_NAME}.calls"] = calls
    tracer = _tracer()
    span = tracer and quietly(partial(tracer.start_span, "invoke_workflow", attributes=attributes))
    if not span or not span.is_recording():
        yield None
        return
    with nullcontext() if calls is None else _as_current(span):
        run = RunSpan(tracer, span)
        try:
            yield run
        finally:
            quietly(run.close)


@contextmanager
def call_span(request: Request, name: str | None, queued_at: float) -> Iterator[Callable[[Outcome], object]]:
    """The span of a single call as the current one, where anybody reads it; gives what to tell its outcome."""
    tracer = _tracer()
    span = tracer and quietly(CallSpan, tracer, request, name, queued_at)
    if not span:
        yield lambda outcome: count([outcome])
        return
    with span.current():
        told: list[Outcome] = []
        try:
            yield told.append
        finally:
            quietly(span.end, told[0]) if told else quietly(span.abandon)
            count(told)


@contextmanager
def tool_span(name: str, tool_use_id: str) -> Iterator[Callable[[BaseException], object]]:
    """The span of a tool that runs, where anybody reads it; gives what to tell what it raises."""
    tracer = _tracer()
    said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.call.id": tool_use_id}
    span = tracer and quietly(partial(tracer.start_span, f"execute_tool {name}", attributes=said))
    if not span:
        yield lambda _: None
        return
    with _as_current(span):
        try:
            yield lambda raised: quietly(span.set_attribute, "error.type", type(raised).__name__)
        finally:
            quietly(span.end)


def quietly(action: Callable[..., T], *args: Any) -> T | None:
    """What *action* returns; None if it raises, which is logged: providers are other people's code."""
    try:
        return action(*args)
    except Exception:  # noqa: BLE001 - whatever an exporter or a processor of spans raises
        _log.exception("Telemetry failed; nothing else is lost by it")
        return None


def count(outcomes: Iterable[Outcome]) -> None:
    """Add calls to the metrics, if anybody reads them. What their tools have asked is counted by itself."""
    if _has_provider("metrics"):
        for outcome in outcomes:
            quietly(_count, outcome)


def _count(outcome: Outcome) -> None:
    meter = _module("metrics").get_meter(_NAME)
    attempts = own(outcome.attempts)
    model = attempts[-1].model if attempts else ""
    kind = outcome.kind if isinstance(outcome, ClaudeInvocationError) else "ok"
    meter.create_counter(f"{_NAME}.calls", "{call}", "Calls that have ended").add(1, {"outcome": kind, "model": model})
    tokens = meter.create_counter(f"{_NAME}.tokens", "{token}", "Tokens used")
    for type_, number in _tokens(attempts).items():
        tokens.add(number, {"type": type_, "model": model})
    with suppress(ImportError):  # without the `cost` extra
        if cost := cost_of_attempts(attempts):
            meter.create_counter(f"{_NAME}.cost", "USD", "What calls have cost").add(cost, {"model": model})
    waited = meter.create_histogram(f"{_NAME}.waited", "s", "What requests waited before they were sent")
    for attempt in attempts:
        for cause, seconds in attempt.waited.items():
            waited.record(seconds, {"cause": cause, "model": model})


def _attributes(outcome: Outcome) -> dict[str, Any]:
    attempts = own(outcome.attempts)
    cache = {"wrote": any(one.wrote_cache for one in attempts), "read": any(one.read_cache for one in attempts)}
    told: dict[str, Any] = {
        "attempts": len(attempts),
        "outcome": outcome.kind if isinstance(outcome, ClaudeInvocationError) else "ok",
        "cache": [role for role, has in cache.items() if has],
        **{f"tokens.{type_}": number for type_, number in _tokens(attempts).items()},
    }
    waited: Counter[str] = Counter()
    for attempt in attempts:
        waited.update(attempt.waited)  # it adds up what there is, seconds too
    told |= {f"waited.{cause.replace(' ', '_')}": seconds for cause, seconds in waited.items()}
    with suppress(ImportError):
        cost = cost_of_attempts(attempts)
        told |= {} if cost is None else {"cost_usd": cost}
    return {f"{_NAME}.{name}": value for name, value in told.items()}


def _tokens(attempts: Sequence[AttemptRecord]) -> dict[str, int]:
    used = total(attempt.usage for attempt in attempts)
    return {
        "input": used.input_tokens,
        "cache_read": used.cache_read_input_tokens,
        "cache_write": used.cache_creation_input_tokens,
        "output": used.output_tokens,
    }


def _as_current(span: Any) -> AbstractContextManager[Any]:
    use: Callable[..., AbstractContextManager[Any]] = _module("trace").use_span
    return use(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


def _tracer() -> Any:
    return _module("trace").get_tracer(_NAME) if _has_provider("trace") else None


def _has_provider(signal: str) -> bool:
    """Whether somebody has set a provider for that: without one, the API has a stand-in that does nothing."""
    api = _module(signal)
    if api is None:
        return False
    provider = api.get_tracer_provider() if signal == "trace" else api.get_meter_provider()
    return not type(provider).__name__.startswith(("_Proxy", "Proxy", "NoOp"))


def _module(name: str) -> Any:
    return sys.modules.get(f"opentelemetry.{name}")


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)
