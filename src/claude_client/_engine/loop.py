"""A call that goes on with its own results: the tools that its answers ask for, and room made for more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from claude_client._engine.awaiting import called
from claude_client._engine.flow import CallFlow, Done, Send, Step, Work
from claude_client._engine.tools import ToolCall, ToolTurn, stopped
from claude_client._values.attempt import Attempt
from claude_client._values.breakpoints import unmarked
from claude_client._values.content import Block, as_blocks, loaded, size, to_json_value
from claude_client._values.context import Context, take_new
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.history import Breakpoints, Place, answer_turns, history_of
from claude_client._values.interrupt import InterruptToken
from claude_client._values.log import told
from claude_client._values.loop import Loop
from claude_client._values.options import TextCallback
from claude_client._values.record import AttemptRecord, ToolRecord
from claude_client._values.request import Request
from claude_client._values.response import ClaudeResponse
from claude_client._values.tool_result import tool_result

_CHARACTERS_PER_TOKEN = 3  # so that no less is expected than there is

SUMMARY_PROMPT = (
    "This conversation is about to outgrow your context window, and will go on with your next answer in its place. "
    "Write down all that is needed to go on: what was asked for, what was done and found out, with names, numbers and "
    "decisions, and what is still to do. Call no tools."
)
_SUMMARY = "What was said and done before, summarised:\n\n{summary}"


@dataclass
class Compaction:
    """Has the caller's function make room in a conversation."""

    loop: Loop
    messages: list[Block]
    shortened: list[Block] = field(default_factory=list)
    failure: Exception | None = None

    def do(self, stopped: InterruptToken, ends_at: float) -> None:
        """Call it, on the driver's thread."""
        try:
            make_room: Any = self.loop.on_full
            messages = called("on_full", make_room, [to_json_value(self.messages)], stopped, ends_at)
            self.shortened = [*history_of([*messages]).messages]
        except Exception as failed:  # noqa: BLE001 - the caller's function
            self.failure = failed
        else:
            if not self.shortened or self.shortened[-1]["role"] != "user":
                self.failure = ValueError("it must return messages that end with one of the user")


class LoopFlow(CallFlow):
    """
    A call that runs tools, or keeps its conversation within bounds: a `CallFlow` for one model turn after another.

    Args:
        context_tokens: What all of its messages but the last are known to take. None: nothing is known, and the first
            request is sent whatever it may take.

        cached: The last block of its messages that is known to be in the cache.

        caches: Whether each request marks its end for the cache, so that the next reads all up to there.
    """

    __slots__ = (
        "_caches",
        "_context_tokens",
        "_contexts",
        "_iterations",
        "_known",
        "_listener",
        "_loop",
        "_made_room",
        "_prompt",
        "_resumed",
        "_summing",
        "_tool_calls",
        "cached",
    )

    def __init__(
        self,
        request: Request,
        on_text: TextCallback | None = None,
        *,
        context_tokens: int | None = None,
        cached: Place | None = None,
        caches: bool = True,
    ) -> None:
        super().__init__(request, on_text)
        self._loop = request.loop or Loop()
        self._listener = on_text
        self._caches = caches
        self._prompt = [block for block in as_blocks(request.messages[-1]["content"]) if block["type"] != "tool_result"]
        self._iterations = 0
        self._context_tokens = context_tokens
        self._known = len(request.messages) - 1 if context_tokens else 0  # messages that those tokens are of
        self._made_room = False  # since the last turn
        self._summing: Request | None = None  # what is asked for once there is a summary
        self._resumed = request  # what that goes on from: it may be of another model
        self._tool_calls: tuple[ToolRecord, ...] = ()
        self._contexts: tuple[Context, ...] = ()  # of its tools: one that nobody waits for any more may still ask
        #: The last block of `messages` that is in the cache once what is sent is answered.
        self.cached = cached

    @property
    def tool_calls(self) -> tuple[ToolRecord, ...]:
        return self._tool_calls

    @property
    def messages(self) -> list[Block]:
        """The conversation so far, up to the user; tools that have not ended have results that say so."""
        messages: list[Block] = unmarked(loaded((self._summing or self._asked).messages))
        return messages

    def begin(self, now: float) -> Send:
        super().begin(now)
        return self._send()

    def open(self, now: float) -> Step:
        super().begin(now)
        return self._send() if self._context_tokens is None else self._with_room()

    def step_after(self, attempt: Attempt) -> Step:
        for context in self._contexts:
            self._earlier += self._made_by(context)
        step = self.advance(attempt)
        if not isinstance(step, Done) or isinstance(step.outcome, ClaudeInvocationError):
            return step
        return self._after_summary(self._summing, step.outcome) if self._summing else self._after(step.outcome)

    def ask_another(self, failed: ClaudeInvocationError | None = None) -> Send:
        step = super().ask_another(failed)
        self.cached = None  # each model has its own
        if self._summing:
            self._resumed, self._base = self._base, _for_summary(self._base)
        return step._replace(request=self._send().request)

    def end(self, error: ClaudeInvocationError) -> ClaudeInvocationError:
        error = super().end(error)
        if self._iterations:
            error.messages, error.tool_calls = tuple(self.messages), self._tool_calls
        return error

    def worked(self, work: Work) -> Step:
        if isinstance(work, ToolTurn):
            return self._after_tools(work)
        return self._after_compaction(work) if isinstance(work, Compaction) else super().worked(work)

    def _after(self, response: ClaudeResponse) -> Step:
        """The step after the *response* of a model turn."""
        self._iterations += 1
        self._made_room = False
        turn = answer_turns(response, self._loop.elsewhere)
        calls = self._calls_in(response)
        self._known, self._context_tokens = len(self._asked.messages) + 1, context_tokens(response)
        if not calls:
            response.messages, response.tool_calls = (*self.messages, *turn), self._tool_calls
            return Done(response)
        results = [tool_result(call.id, "The call ended before the tool was run.", is_error=True) for call in calls]
        self._go_on_with([*self._asked.messages, *turn, {"role": "user", "content": results}])
        if self._iterations < self._loop.max_iterations:
            return ToolTurn(calls, self._asked, self._loop)
        error = ClaudeInvocationError(
            f"The model asked for tools in each of {self._iterations} turns (max_iterations)",
            kind="max_iterations",
            status_code=200,
            request_id=response.request_id,
        )
        return Done(self.end(error))

    def _calls_in(self, response: ClaudeResponse) -> list[ToolCall]:
        """The tool calls that are to be answered here: none where one of them is for the caller to run."""
        asked = [block for block in response.message.content if block.type == "tool_use"]
        if response.stop_reason != "tool_use" or any(block.name in self._loop.elsewhere for block in asked):
            return []
        return [ToolCall(block.id, block.name, to_json_value(block.input)) for block in asked]

    def _after_tools(self, turn: ToolTurn) -> Step:
        asked = self._attempts[-1].ended
        made: list[AttemptRecord] = []
        for outcome in turn.outcomes:
            self._tool_calls += (outcome.record._replace(asked=asked),)
            if outcome.context:
                self._contexts += (outcome.context,)
                made += self._made_by(outcome.context)
        results = {"role": "user", "content": [outcome.block for outcome in turn.outcomes]}
        self._go_on_with([*self._asked.messages[:-1], results])
        self._done_with_turn(*made)
        for outcome in turn.outcomes:
            if outcome.stopped_by is not None:
                return Done(self.end(stopped(outcome.stopped_by, outcome.record.name, self._asked)))
        return self._with_room()

    def _made_by(self, context: Context) -> tuple[AttemptRecord, ...]:
        """What a tool has asked since it was looked at last, the uses of other tools for that noted."""
        attempts, tool_calls = take_new(context)
        self._tool_calls += tool_calls
        return attempts

    def _go_on_with(self, messages: list[Block]) -> None:
        self._asked = _unforced(replace(self._asked, messages=messages, refused=0))
        self._base = _unforced(self._base)
        self._fallbacks = tuple(map(_unforced, self._fallbacks))

    def _done_with_turn(self, *made_meanwhile: AttemptRecord) -> None:
        self._earlier, self._attempts = (*self.attempts, *made_meanwhile), ()
        self._turns, self._failures, self._mended, self._before = (), 0, 0, ""

    def _send(self) -> Send:
        """Ask for the next turn; what it has in common with the one after it is put in the cache."""
        request, self.cached = self._marked(replace(self._base, messages=self._asked.messages))
        self._request = self._base = request
        return Send(request)

    def _anew(self, request: Request, response: ClaudeResponse) -> Send:
        return super()._anew(self._marked(request)[0], response)

    def _marked(self, request: Request) -> tuple[Request, Place | None]:
        """*request*, whose end is put in the cache, and the last block that is cached once it is answered."""
        if not self._caches:
            return request, self.cached
        marks = Breakpoints(request, self.cached)
        cached = marks.put_on_history()
        return marks.request, cached

    def _with_room(self) -> Step:
        """Ask for the next turn; where there is no room for it, what makes some, or the error."""
        messages, most, on_full = self._asked.messages, self._loop.max_context_tokens, self._loop.on_full
        new = size(messages[self._known :]) + (0 if self._known else size(self._asked.system))
        expected = (self._context_tokens or 0) + new // _CHARACTERS_PER_TOKEN
        if expected <= most:
            return self._send()
        if on_full != "error" and not self._made_room and len(messages) > 1:
            self._made_room = True
            return self._summary() if on_full == "summarize" else Compaction(self._loop, self.messages)
        full = f"The conversation takes some {expected:,} tokens, of {most:,.0f} that it may have"
        return Done(self.end(ClaudeInvocationError(full, kind="context_window")))

    def _summary(self) -> Send:
        """Ask for a summary, by a request that reads the same from the cache."""
        self._summing, self._resumed, self.on_text = self._asked, self._base, None
        *before, last = self._asked.messages
        asking = {"role": "user", "content": [*as_blocks(last["content"]), {"type": "text", "text": SUMMARY_PROMPT}]}
        self._asked = replace(self._asked, messages=[*before, asking], output=None)
        self._base = _for_summary(self._base)
        return self._send()

    def _after_summary(self, asked: Request, response: ClaudeResponse) -> Step:
        """Go on with what was *asked*, by the summary that *response* is."""
        if response.stop_reason == "tool_use" and (self._base.params.get("tool_choice") or {}).get("type") != "none":
            self._done_with_turn()
            self._base = replace(self._base, params={**self._base.params, "tool_choice": {"type": "none"}})
            return self._send()
        self._summing, self.on_text = None, self._listener
        self._asked, self._base = asked, self._resumed
        self._done_with_turn()
        if response.truncated or not response.strip():
            self._earlier = (*self._earlier[:-1], self._earlier[-1]._replace(outcome="context_window"))
            return Done(self.end(ClaudeInvocationError("There is no whole summary", kind="context_window")))
        summary = {"type": "text", "text": _SUMMARY.format(summary=response.strip())}
        content = [*self._prompt, summary] if self._iterations else [summary, *self._prompt]
        return self._in_place([{"role": "user", "content": content}])

    def _after_compaction(self, work: Compaction) -> Step:
        if work.failure:
            failed = ClaudeInvocationError(f"on_full failed: {told(work.failure)}", kind="callback")
            failed.__cause__ = work.failure
            return Done(self.end(failed))
        return self._in_place(work.shortened)

    def _in_place(self, messages: list[Block]) -> Step:
        """Go on with *messages* in place of those before."""
        self._asked = replace(self._asked, messages=messages)
        self._known, self._context_tokens, self.cached = 0, 0, None
        return self._with_room()


def flow_of(request: Request, on_text: TextCallback | None = None) -> CallFlow:
    """The flow of *request*: of one answer, or one that goes on."""
    return LoopFlow(request, on_text) if request.loop else CallFlow(request, on_text)


def context_tokens(response: ClaudeResponse) -> int:
    """The tokens that a conversation takes which ends with *response*."""
    used = response.attempts[-1].usage
    return used.total_input_tokens + used.output_tokens


def _unforced(request: Request) -> Request:
    """*request*, free to answer: a tool that is forced is for the first turn alone, or there would be no end."""
    if (request.params.get("tool_choice") or {}).get("type") not in ("any", "tool"):
        return request
    choice = {name: value for name, value in request.params["tool_choice"].items() if name != "name"}
    return replace(request, params={**request.params, "tool_choice": {**choice, "type": "auto"}})


def _for_summary(request: Request) -> Request:
    """*request*, to be answered by a text. Tools are not forbidden: that alone would have all of it read anew."""
    params = dict(request.params)
    config = {name: value for name, value in (params.pop("output_config", None) or {}).items() if name != "format"}
    return _unforced(replace(request, output=None, params={**params, **({"output_config": config} if config else {})}))
