"""Runs the tools that a turn asks for: at once, each on a thread of its own, which nobody waits for at an end."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from claude_client._engine.awaiting import EndedError, awaited, called
from claude_client._engine.telemetry import tool_span
from claude_client._sdk.client import shared_client
from claude_client._sdk.exchange import secrets_of
from claude_client._values.content import Block
from claude_client._values.context import Context, as_running, running, variables
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import InterruptToken
from claude_client._values.log import Log, told
from claude_client._values.loop import Loop, Refuse, Respond
from claude_client._values.record import ToolRecord, at
from claude_client._values.redaction import scrubbed
from claude_client._values.request import Request
from claude_client._values.tool import BadArgumentsError, StopTools, Tool
from claude_client._values.tool_result import content_of, tool_result

_log = Log("claude_client")

_LOOK_UP = 0.5  # seconds until a signal is noticed that came in the very moment in which its thread blocked
_MOST_IDLE = 32  # threads that wait for another tool
_LONGEST_MESSAGE = 2_000  # characters of an exception, for the model


class ToolCall(NamedTuple):
    """A use of a tool that the model asks for."""

    id: str
    name: str
    arguments: Any


class ToolOutcome(NamedTuple):
    """What became of a tool call."""

    block: Block
    record: ToolRecord
    #: By which it was run; None: it was not.
    context: Context | None = None
    #: What ends the whole call; None: it goes on.
    stopped_by: BaseException | None = None


class _Ended(NamedTuple):
    """What a tool has returned, or raised."""

    content: str | list[Block] = ""
    error: BaseException | None = None


class _UnsendableError(ValueError):
    """What a tool has returned cannot be told to the model."""


@dataclass(eq=False)
class _Running:
    """A tool call that is not over."""

    call: ToolCall
    context: Context
    tool: Tool
    began: float = 0.0
    until: float = 0.0


@dataclass
class ToolTurn:
    """
    The tool calls of a turn. `outcomes` has one for each in its place, once it was done.

    Before any is run, `before_tool` is asked on the driver's thread, for one after another.
    """

    calls: Sequence[ToolCall]
    request: Request
    loop: Loop
    outcomes: list[ToolOutcome] = field(default_factory=list)
    _stopped: InterruptToken = field(init=False)
    _ends_at: float = field(init=False)
    _waiting: list[_Running] = field(default_factory=list)
    _under_way: dict[str, _Running] = field(default_factory=dict)
    _over: dict[str, ToolOutcome] = field(default_factory=dict)
    _news: SimpleQueue[tuple[_Running, _Ended] | None] = field(default_factory=SimpleQueue)

    def do(self, stopped: InterruptToken, ends_at: float) -> None:
        """Run them all. Those that have not ended when it is stopped are told by their tokens, and left behind."""
        self._stopped, self._ends_at = stopped, ends_at
        try:
            with stopped.watched_by(self._tell):
                for call in self.calls:
                    if not self._is_over:
                        self._waiting += self._asked_for(call)
                        self._go_on(wait=False)
                while (self._waiting or self._under_way) and not self._is_over:
                    self._go_on(wait=True)
        finally:
            self._tell()
            for call in self.calls:
                self._over.setdefault(call.id, self._broken_off(call, self._under_way.get(call.id)))
            self.outcomes = [self._over[call.id] for call in self.calls]

    def _tell(self) -> None:
        """Have those under way stop: at once, so that when an interrupt returns, all that is below knows."""
        for one in [*self._under_way.values()]:
            one.context.token.interrupt()
        self._news.put(None)

    @property
    def _is_over(self) -> bool:
        is_stopped = any(outcome.stopped_by for outcome in self._over.values())
        return is_stopped or self._stopped.is_interrupted() or time.monotonic() >= self._ends_at

    def _asked_for(self, call: ToolCall) -> Iterator[_Running]:
        """What is to be run for *call*, if anything."""
        tool = self.loop.tools.get(call.name)
        if tool is None:
            known = ", ".join(self.loop.tools)
            self._end(call, f"There is no tool {call.name!r}. There are: {known}", "error")
            return
        try:
            decided = self._decision(call)
        except EndedError:
            return
        except BaseException as failed:
            self._end(call, "It could not be decided whether to run this.", "error", stopped_by=failed)
            if not isinstance(failed, Exception):
                raise
            return
        if isinstance(decided, Refuse):
            self._end(call, decided.reason, "refused")
        elif isinstance(decided, Respond):
            self._answer(call, decided.content)
        else:
            changed = call if decided is None or decided is True else call._replace(arguments=dict(decided))
            yield _Running(changed, self._context(call), tool)

    def _decision(self, call: ToolCall) -> Any:
        if self.loop.before_tool is None:
            return None
        asked = [call.name, call.arguments]
        decided = called("before_tool", self.loop.before_tool, asked, self._stopped, self._ends_at)
        if decided is False:
            return Refuse()
        if decided is None or decided is True or isinstance(decided, (Refuse, Respond, Mapping)):
            return decided
        raise TypeError(f"before_tool must return None, a bool, a dict, a Refuse or a Respond, got {decided!r:.100}")

    def _context(self, call: ToolCall) -> Context:
        above = running()
        return Context(
            tool=call.name,
            tool_use_id=call.id,
            task_id=self.request.task_id,
            budgets=self.request.budgets,
            ends_at=self._ends_at,
            depth=self.loop.depth + 1,
            root=above.root if above else self.loop,
        )

    def _go_on(self, *, wait: bool) -> None:
        """Start what there is room for, and take what has ended; with *wait*, once something has happened."""
        while self._waiting and len(self._under_way) < self.loop.max_parallel_tools:
            one = self._waiting.pop(0)
            self._under_way[one.call.id] = one
            if self._is_over:  # by an interrupt perhaps before this was found there
                del self._under_way[one.call.id]
                return
            self._start(one)
        until = min([self._ends_at, *(one.until for one in self._under_way.values())])
        timeout = min(max(0.0, until - time.monotonic()), _LOOK_UP) if wait else 0.0
        try:
            news = self._news.get(timeout=timeout) if wait else self._news.get_nowait()
        except Empty:
            news = None
        if news and news[0].call.id in self._under_way:
            one, ended = news
            del self._under_way[one.call.id]
            self._take(one, ended)
        for one in [*self._under_way.values()]:
            if time.monotonic() >= one.until:
                del self._under_way[one.call.id]
                one.context.token.interrupt()
                self._end(one.call, f"The tool had not ended after {one.tool.timeout:g} seconds.", "timeout", one)

    def _start(self, one: _Running) -> None:
        one.began = time.monotonic()
        one.until = one.began + (one.tool.timeout or float("inf"))
        context = variables()

        def run() -> None:
            self._news.put((one, context.run(_ended, one)))

        _on_a_thread(run)

    def _take(self, one: _Running, ended: _Ended) -> None:
        error = ended.error
        if error is None:
            self._over[one.call.id] = self._outcome(one.call, ended.content, "ok", one)
        elif isinstance(error, (BadArgumentsError, _UnsendableError)):
            self._end(one.call, told(error), "error", one)
        else:
            is_last = one.tool.fatal or isinstance(error, StopTools) or not _is_of_the_tool(error)
            self._end(one.call, _said_by(error), "error", one, error if is_last else None)

    def _answer(self, call: ToolCall, value: Any) -> None:
        """Answer *call*, whose tool is not run, with *value*."""
        try:
            self._over[call.id] = self._outcome(call, _content_of(value), "answered", None)
        except _UnsendableError as unsendable:
            self._end(call, told(unsendable), "error")

    def _end(
        self,
        call: ToolCall,
        message: Any,
        outcome: str,
        one: _Running | None = None,
        stopped_by: BaseException | None = None,
    ) -> None:
        ended = self._outcome(call, _without_secrets(message, self.request), outcome, one, is_error=True)
        self._over[call.id] = ended._replace(stopped_by=stopped_by)

    def _broken_off(self, call: ToolCall, one: _Running | None) -> ToolOutcome:
        message = "The call ended before the tool had." if one else "The call ended before the tool was run."
        return self._outcome(call, message, "interrupted", one, is_error=True)

    def _outcome(
        self, call: ToolCall, content: Any, outcome: Any, one: _Running | None, *, is_error: bool = False
    ) -> ToolOutcome:
        times = (at(one.began), at(time.monotonic())) if one and one.began else (None, None)
        record = ToolRecord(call.name, call.id, *times, outcome)
        return ToolOutcome(tool_result(call.id, content, is_error=is_error), record, one.context if one else None)


def _ended(one: _Running) -> _Ended:
    """Run it, on its own thread."""
    try:
        with as_running(one.context), tool_span(one.call.name, one.call.id) as tell:
            try:
                value = one.tool.call(one.context, one.call.arguments)
                if inspect.isawaitable(value):
                    value = awaited(value, one.context.token)
                return _Ended(_content_of(value))
            except BaseException as raised:
                tell(raised)
                raise
    except BaseException as error:  # noqa: BLE001 - the driver decides
        return _Ended(error=error)


def _content_of(value: Any) -> str | list[Block]:
    try:
        return content_of(value)
    except Exception as failed:
        _log.exception("A tool returned what cannot be sent")
        raise _UnsendableError(f"The tool returned what cannot be sent: {told(failed)}") from failed


def _is_of_the_tool(error: BaseException) -> bool:
    """Whether *error* is a failure of the tool alone. Where all is to end, the call's token or Ctrl-C says so."""
    return isinstance(error, Exception) or type(error).__name__ == "CancelledError"  # asyncio's


def _said_by(error: BaseException) -> str | list[Block]:
    """What the model is told of *error*, before secrets are taken out of it: its message alone."""
    content = getattr(error, "content", None)
    if type(error).__name__ == "ToolError" and content:  # the SDK's
        with suppress(Exception):
            return content_of(content)
    return f"{type(error).__name__}: {told(error)}".removesuffix(": ")


# Threads that have run a tool, and wait for another: each by the queue from which it takes what to do.
_idle: list[SimpleQueue[Callable[[], object]]] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def _on_a_thread(work: Callable[[], object]) -> None:
    """Do *work* on a thread that ends with the program, whatever it does."""
    try:
        todo = _idle.pop()
    except IndexError:
        todo = SimpleQueue()
        threading.Thread(target=_serve, args=[todo], name="claude_client tool", daemon=True).start()
    todo.put(work)


def _serve(todo: SimpleQueue[Callable[[], object]]) -> None:
    while True:
        work = todo.get()
        work()
        del work  # it holds what the tool has returned
        if len(_idle) >= _MOST_IDLE:
            return
        _idle.append(todo)


def stopped(by: BaseException, name: str, request: Request) -> ClaudeInvocationError:
    """The error of a call, for *request*, that a tool of that *name* has ended."""
    message = f"The tool {name!r} ended the call: {told(by) or type(by).__name__}"
    error = ClaudeInvocationError(_without_secrets(message, request), kind="tool")
    error.__cause__ = by
    return error


def _without_secrets(message: Any, request: Request) -> Any:
    """*message*, a text or content, without what *request* is sent with and nobody may see; a text not endless."""
    headers = (request.extra_headers, *(other.extra_headers for other in request.fallbacks))
    with suppress(ValueError), shared_client() as client:  # where others send, there may be none here
        message = scrubbed(message, secrets_of(client, *headers))
    return message[:_LONGEST_MESSAGE] if isinstance(message, str) else message
