"""Conversations: many turns with one history, cached as it grows."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

from claude_client._engine.flow import CallFlow
from claude_client._engine.inline import run
from claude_client._engine.loop import LoopFlow, context_tokens
from claude_client._values.breakpoints import unmarked
from claude_client._values.budget import BudgetState, budget_of
from claude_client._values.checks import check_callback, whole_number
from claude_client._values.content import Block, as_blocks, json_values, loaded, to_json_value, user_turn
from claude_client._values.errors import ClaudeInvocationError, aborted
from claude_client._values.history import Breakpoints, History, Place, answer_turns, history_of, with_message
from claude_client._values.interrupt import InterruptToken
from claude_client._values.log import Log
from claude_client._values.loop import copied
from claude_client._values.models import context_window
from claude_client._values.options import ApiParams, CallOptions, Content, PromptSpec, TextCallback
from claude_client._values.output import output_of
from claude_client._values.partial import with_partial_output
from claude_client._values.phases import Lane, lanes_of
from claude_client._values.record import AttemptRecord, Taken, cost_of_attempts, end_of
from claude_client._values.redaction import hide_headers
from claude_client._values.request import DEFAULT_MODEL
from claude_client._values.response import ClaudeResponse, Data
from claude_client._values.tasks import task_of
from claude_client._values.timeline import Timeline
from claude_client._values.usage import Usage, total
from claude_client._verbs.requests import build_request

if TYPE_CHECKING:
    from typing_extensions import TypeForm

CONTINUATION_PROMPT = "Please go on with the task from where you stopped."

# Seconds between checks for an interrupt while waiting for another thread's turn.
_CHECK_EVERY = 0.05

# What a turn may say for itself, and leaves to the conversation where it says None.
_OWN_IF_NONE = {"max_tokens", "output"}
_NOT_OF_A_TURN = PromptSpec.__annotations__.keys() - ApiParams.__annotations__.keys() - _OWN_IF_NONE
_NOT_OF_A_CONVERSATION = _NOT_OF_A_TURN - CallOptions.__annotations__.keys()


T = TypeVar("T")

_log = Log("claude_client")

_NEARLY_FULL = 0.8  # of a model's window
_GROWS = (
    "A conversation takes %d of the %d tokens of its model, and sends them with each turn: max_context_tokens= bounds "
    "it, on_full='summarize' makes room"
)


# The turns whose callbacks a context is of: also where a callback runs on another thread, as on the loop of coroutines.
_turns: ContextVar[frozenset[object]] = ContextVar("claude_client turns", default=frozenset())


class _Option(Generic[T]):
    """An option of a conversation for the turns to come: it can be changed, and is checked when it is."""

    def __set_name__(self, owner: type[ConversationThread], name: str) -> None:
        self._name = name

    def __get__(self, thread: ConversationThread | None, owner: type[ConversationThread] | None = None) -> T:
        if thread is None:
            raise AttributeError(f"{self._name!r} is an option of each conversation, not of the class")
        value: T = thread._options[self._name]  # noqa: SLF001 - it is a part of the class
        return value

    def __set__(self, thread: ConversationThread, value: T) -> None:
        thread._options = _checked({**thread._options, self._name: value})  # noqa: SLF001


class ConversationThread:
    """
    A conversation that remembers its turns.

    A turn is kept once its whole answer is there; one that fails or is interrupted leaves everything as it was, and
    can be sent again. The history keeps all that the model said, thinking and tool use included, but for what the API
    would not take back: blank text, thinking with nothing after it, a tool use that was cut off. Every method may be
    called from any thread: of two that send at once, one waits until the other's turn is over.

    A conversation with `tools` that can be run takes its turns with them, as `invoke_with_tools` does.

    Args:
        system, model, max_tokens, temperature, output, options:
            For every turn, as in `invoke_claude` (`max_context_tokens` and `on_full` bound the history,
            as `CallOptions` tells). The first four may be changed for the turns to come: an assignment
            to `.model` is checked like the argument. The cache is kept by model, so another model reads it anew.

        cache_system: Put a cache breakpoint at the end of *system*.

        max_turns: Most turns to take; None for any number.

        continuation_prompt: The message of `send_continuation` without *guidance*.

        messages:
            The history to begin with, as `get_messages` gave it, on whatever day. A message of the user at its end
            becomes part of the next turn.

    Raises:
        ValueError: For bad input; also for *messages* that do not alternate, beginning with the user.
        TypeError: For an unknown parameter.
    """

    __slots__ = (
        "__weakref__",
        "_cache_system",
        "_continuation_prompt",
        "_history",
        "_max_turns",
        "_options",
        "_process",
        "_taken",
        "_turn_lock",
        "_turn_now",
    )

    system = _Option[Content | None]()
    model = _Option[str]()
    max_tokens = _Option[int]()
    temperature = _Option[float]()

    def __init__(
        self,
        system: Content | None = None,
        model: str = DEFAULT_MODEL,
        max_tokens: int = 4096,
        temperature: float = 1.0,
        cache_system: bool = True,
        max_turns: int | None = None,
        continuation_prompt: Content = CONTINUATION_PROMPT,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        output: Any = None,
        **options: Unpack[CallOptions],
    ) -> None:
        _check_names(options, _NOT_OF_A_CONVERSATION)
        hide_headers(options)
        self._cache_system = cache_system
        named = {
            "system": system,
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "output": output,
            "budget_usd": budget_of(options.get("budget_usd")),
        }
        self._options = _checked({**options, **named})
        self._max_turns = max_turns if max_turns is None else whole_number("max_turns", max_turns, 1)
        self._continuation_prompt = loaded(user_turn(continuation_prompt, "continuation_prompt"))["content"]
        self._history = history_of(messages)
        self._taken: tuple[Taken, ...] = ()  # each turn, failed ones too
        self._turn_lock = threading.Lock()  # held for the length of a turn; guards changes of the two above
        self._turn_now: object = None  # that is under way
        self._process = os.getpid()

    @overload
    def send(
        self,
        user_message: Content,
        cache_history: bool = True,
        *,
        output: TypeForm[Data],
        callback: TextCallback | None = None,
        on_output: Callable[[Any], object] | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **options: Unpack[ApiParams],
    ) -> ClaudeResponse[Data]: ...
    @overload
    def send(
        self,
        user_message: Content,
        cache_history: bool = True,
        *,
        output: Mapping[str, Any] | None = None,
        callback: TextCallback | None = None,
        on_output: Callable[[Any], object] | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **options: Unpack[ApiParams],
    ) -> ClaudeResponse: ...
    def send(
        self,
        user_message: Content,
        cache_history: bool = True,
        *,
        output: Any = None,
        callback: TextCallback | None = None,
        on_output: Callable[[Any], object] | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **options: Unpack[ApiParams],
    ) -> ClaudeResponse:
        """
        Take one turn: say *user_message* and return the answer.

        An answer without content is a turn too; the user's message is then part of the next one.

        Args:
            user_message: A text or a list of content blocks, such as the results of the tools that were asked for.

            cache_history:
                Put a cache breakpoint at the end of *user_message*, so that the next turn reads all up to there from
                the cache. Breakpoints are put on for the request only, within the four that the API takes; your own
                come first, and with the API's automatic caching (`cache_control=`) there is none of ours on a message.

            callback, on_output: Called on this thread as the text arrives, as in `invoke_claude_streaming`.

            interrupt_token: Ends the turn, or the wait for another thread's, with an error of kind "interrupted".

            max_tokens, output, options:
                For this turn, instead of the conversation's own; None in the first two: as the conversation has it.
                With `tools` that can be run, the turn is over with the answer after the last of them, and the history
                keeps their uses and results.

        Raises:
            ValueError:
                For bad input; also if the last answer asked for tools, and *user_message* does not begin with the
                result of each.
            RuntimeError: If `max_turns` have been taken, or if called from *callback*. Nothing is sent.
            ClaudeInvocationError:
                If there is no whole answer. The conversation is as it was; after tools, the error's `.messages` are
                what it had come to. Of kind "context_window" if it would outgrow `max_context_tokens`.
        """
        hide_headers(options)
        message = loaded(user_turn(user_message, "user_message"))
        said = {**options, "max_tokens": max_tokens, "output": output}
        return self._take_turn(message, cache_history, callback, on_output, interrupt_token, said)

    @overload
    def send_continuation(
        self,
        guidance: Content | None = None,
        cache_history: bool = True,
        *,
        output: TypeForm[Data],
        callback: TextCallback | None = None,
        on_output: Callable[[Any], object] | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **options: Unpack[ApiParams],
    ) -> ClaudeResponse[Data]: ...
    @overload
    def send_continuation(
        self,
        guidance: Content | None = None,
        cache_history: bool = True,
        *,
        output: Mapping[str, Any] | None = None,
        callback: TextCallback | None = None,
        on_output: Callable[[Any], object] | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **options: Unpack[ApiParams],
    ) -> ClaudeResponse: ...
    def send_continuation(
        self,
        guidance: Content | None = None,
        cache_history: bool = True,
        *,
        output: Any = None,
        callback: TextCallback | None = None,
        on_output: Callable[[Any], object] | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **options: Unpack[ApiParams],
    ) -> ClaudeResponse:
        """
        Have the model go on, by *guidance*; None: by the conversation's `continuation_prompt`. Else like `send`.

        Raises:
            RuntimeError: Also before any turn: there is nothing to go on with.
        """
        hide_headers(options)
        message = loaded(user_turn(self._continuation_prompt if guidance is None else guidance, "guidance"))
        said = {**options, "max_tokens": max_tokens, "output": output}
        return self._take_turn(message, cache_history, callback, on_output, interrupt_token, said, goes_on=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Its settings, its history and what it has used; a turn that is under way is not in it."""
        return _restored, (self._settings, self._history, self._taken)

    def fork(self) -> ConversationThread:
        """
        A conversation of its own with the same history, options and number of turns left, to try another way on.

        It shares the cached prefix, so its first turn reads the history from the cache. Its usage begins at zero. A
        turn that is under way is not in it.
        """
        return _restored(self._settings, self._history)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "cache_system": self._cache_system,
            "max_turns": self._max_turns,
            "continuation_prompt": self._continuation_prompt,
            **self._options,
        }

    def get_messages(self) -> list[dict[str, Any]]:
        """A copy of the history as the API takes it. It holds nothing that JSON does not."""
        messages: list[dict[str, Any]] = to_json_value(self._history.messages)
        return messages

    def clear(self) -> None:
        """
        Forget the history, after a turn that is under way. What was used stays counted in `usage`.

        Raises:
            RuntimeError: If called from a callback of this conversation.
        """
        with self._turn(None):
            self._history = History()

    @property
    def turn_count(self) -> int:
        """Number of turns taken: of answers."""
        return self._history.turns

    def __len__(self) -> int:
        return self.turn_count

    def __bool__(self) -> bool:
        return True

    @property
    def context_tokens(self) -> int | None:
        """
        Tokens that the history takes, and each turn to come sends at the least: those of the last request and its
        answer, as the API counted them. None before an answer.
        """
        return self._history.tokens

    @property
    def usage(self) -> Usage:
        """Tokens used by all turns, failed and forgotten ones included. Not by forks, nor before `messages`."""
        return total(attempt.usage for turn in self._taken for attempt in turn.attempts)

    @property
    def cost_usd(self) -> float | None:
        """
        The price of `usage` in dollars: the sum of what its answers and failures say they cost.

        Raises:
            ImportError: Without the `cost` extra.
        """
        return cost_of_attempts(attempt for turn in self._taken for attempt in turn.attempts)

    @property
    def budget(self) -> BudgetState | None:
        """What stands in its budget (`budget_usd=`), which its forks share; None where it has none."""
        budget = self._options["budget_usd"]
        return budget.state if budget else None

    def timeline(self) -> Timeline:
        """
        A picture of its turns, failed and forgotten ones included, one below the other without the time between them,
        with the tokens that each read from the cache and wrote to it. It shows itself in a notebook; `.save(path)`
        writes an HTML file.
        """
        lanes: list[Lane] = []
        end = 0.0
        asked = (turn for turn in self._taken if turn.attempts)
        for number, (attempts, tool_calls, ended_with) in enumerate(asked, 1):
            task = task_of(f"turn {number}", ended_with, attempts, tool_calls)
            start = task.started
            lanes += lanes_of(task, start - end)
            end += (end_of(attempts, tool_calls) or start) - start
        note = f"{self.turn_count} turns, the time between them left out"
        return Timeline("The conversation", lanes, (), note=note)

    def __repr__(self) -> str:
        return f"<ConversationThread {self._options['model']}, {self.turn_count} turns>"

    def _repr_html_(self) -> str:
        """The transcript, with everything but texts folded, and what it used."""
        from claude_client._values import html

        used = self.usage
        cached = f" ({used.cache_read_input_tokens:,} of it cached)" if used.cache_read_input_tokens else ""
        notes = [
            self._options["model"],
            f"{self.turn_count} turns",
            f"tokens: {used.total_input_tokens:,} in{cached}, {used.output_tokens:,} out",
            html.price(self),
        ]
        said = [(message["role"], as_blocks(message["content"])) for message in self._history.messages]
        return html.transcript(as_blocks(self._options["system"]), said, " \u00b7 ".join(filter(None, notes)))

    def _take_turn(
        self,
        message: Block,
        cache_history: bool,
        callback: TextCallback | None,
        on_output: Callable[[Any], object] | None,
        token: InterruptToken | None,
        said: Mapping[str, Any],
        *,
        goes_on: bool = False,
    ) -> ClaudeResponse:
        check_callback("callback", callback)
        check_callback("on_output", on_output)
        _check_names(said, _NOT_OF_A_TURN)
        instead = {name: said[name] for name in said if said[name] is not None or name not in _OWN_IF_NONE}
        began = time.monotonic()
        options = {**self._options, **instead}
        with self._turn(token, began + (options.get("deadline") or math.inf)):
            history = self._history
            if history.tools and not options.get("tools"):  # the API takes no history of tools without them
                options = {"tool_choice": {"type": "none"}, **options, "tools": history.tools}
            if goes_on and not history.turns:
                raise RuntimeError("there is nothing to continue: send() comes first")
            if self._max_turns is not None and history.turns >= self._max_turns:
                raise RuntimeError(f"max_turns={self._max_turns} is reached; clear() begins anew")
            messages = with_message(history.messages, message)
            request = build_request(messages=messages, **options)
            marks = Breakpoints(request, history.cached)
            if self._cache_system:
                marks.put_on_system()
            flow, cached = self._flow(marks, with_partial_output(callback, on_output), caches=cache_history)
            ended_with: str | None = "ok"
            try:
                response = run(flow, token, began)
            except BaseException as raised:
                ended_with = raised.kind if isinstance(raised, ClaudeInvocationError) else None
                raise
            finally:
                self._taken += (Taken(flow.attempts, flow.tool_calls, ended_with),)
            if isinstance(flow, LoopFlow):
                answered, cached = response.messages, flow.cached
            else:
                answered = (*unmarked([*messages]), *answer_turns(response))
            tokens = context_tokens(response)
            self._warn_of(tokens, history.tokens or 0)
            self._history = History(answered, history.turns + 1, cached, tokens, request.params.get("tools"))
            return response

    def _flow(
        self, marks: Breakpoints, listener: TextCallback | None, *, caches: bool
    ) -> tuple[CallFlow, Place | None]:
        """What sends a turn, and the last block that is cached once it is answered, if it takes one request."""
        history = self._history
        if marks.request.loop:
            known = history.tokens or 0
            loop = LoopFlow(marks.request, listener, context_tokens=known, cached=history.cached, caches=caches)
            return loop, None
        cached = marks.put_on_history() if caches else history.cached
        return CallFlow(marks.request, listener), cached

    def _warn_of(self, tokens: int, before: int) -> None:
        """Log, once, that its *tokens* come near to what the model takes."""
        window = context_window(self._options["model"])
        if before <= _NEARLY_FULL * window < tokens:
            _log.warning(_GROWS, tokens, window)

    @contextmanager
    def _turn(self, token: InterruptToken | None, until: float = math.inf) -> Iterator[None]:
        """Hold the turn, as the one thread that may change the history; it is waited for *until* then at most."""
        if self._process != os.getpid():  # no coverage: in a forked child, where no turn of the parent ever ends
            self._turn_lock, self._turn_now, self._process = threading.Lock(), None, os.getpid()
        within = _turns.get()
        if self._turn_now in within:
            raise RuntimeError("called from a callback of the same conversation, whose turn is not over")
        with _held(self._turn_lock, token, until):
            self._turn_now = object()
            reset = _turns.set(within | {self._turn_now})
            try:
                yield
            finally:
                _turns.reset(reset)
                self._turn_now = None


def _restored(
    settings: dict[str, Any], history: History, taken: tuple[Taken | tuple[AttemptRecord, ...], ...] = ()
) -> ConversationThread:
    thread = ConversationThread(**settings)
    thread._history = history  # noqa: SLF001 - it is a part of the class
    # An older version kept the requests alone.
    thread._taken = tuple(turn if isinstance(turn, Taken) else Taken(turn) for turn in taken)  # noqa: SLF001
    return thread


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of *options* for turns, which shares nothing with the caller, once they are known to be valid."""
    kept = {name: options[name] for name in ("budget_usd", "before_tool", "on_full") if name in options}
    kept["output"] = output_of(options.get("output"))
    if options.get("tools") is not None:
        kept["tools"] = copied(options["tools"])
    checked: dict[str, Any] = json_values({name: value for name, value in options.items() if name not in kept})
    hide_headers(checked)
    checked.update(kept)
    build_request(prompt="to check the options", **checked)
    return checked


@contextmanager
def _held(lock: threading.Lock, token: InterruptToken | None, until: float) -> Iterator[None]:
    """Hold *lock*, unless there is an interrupt while waiting for it, or it comes to be *until*."""
    if token is None and until == math.inf:
        with lock:
            yield
        return
    interrupts: list[bool] = []
    with token.watched_by(lambda: interrupts.append(True)) if token else nullcontext():
        while not lock.acquire(timeout=max(0.0, min(_CHECK_EVERY, until - time.monotonic()))):
            if interrupts:
                raise aborted("interrupted")
            if time.monotonic() >= until:
                raise aborted("deadline")
    try:
        if interrupts:
            raise aborted("interrupted")
        yield
    finally:
        lock.release()


def _check_names(params: Mapping[str, Any], refused: AbstractSet[str]) -> None:
    for name in params.keys() & refused:
        raise TypeError(f"unknown parameter {name!r} of a conversation or its turn")
