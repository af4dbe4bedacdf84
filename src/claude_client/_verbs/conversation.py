"""Conversations: many turns with one history, cached as it grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

from claude_client._engine.flow import run
from claude_client._sdk.exchange import ended
from claude_client._values.content import (
    EPHEMERAL,
    MOST_BREAKPOINTS,
    Block,
    as_blocks,
    last_markable,
    plain,
    unmarked,
    without_blank_text,
)
from claude_client._values.interrupt import InterruptToken
from claude_client._values.options import ApiParams, Content, PromptSpec, TextCallback
from claude_client._values.request import (
    DEFAULT_MODEL,
    Request,
    build_request,
    check_breakpoints,
    check_callback,
    message_list,
    user_turn,
    whole_number,
)
from claude_client._values.response import TRUNCATING, ClaudeResponse, total
from claude_client._values.usage import Usage, sum_of_costs

CONTINUATION_PROMPT = "Please go on with the task from where you stopped."

# A breakpoint finds what was written at most so many blocks before it, its own counted.
_LOOK_BACK = 20
# Seconds between looks at the token of one who waits for another thread's turn.
_LOOK = 0.05

_NOT_OF_A_TURN = PromptSpec.__annotations__.keys() - ApiParams.__annotations__.keys()
_THINKING = ("thinking", "redacted_thinking")


class _Place(NamedTuple):
    """Where a block is: in which message, and there at which place."""

    message: int
    block: int


class _Past(NamedTuple):
    """What was said. Never changed but replaced as a whole, so that it can be read while a turn is under way."""

    messages: tuple[Block, ...] = ()
    turns: int = 0
    #: The last block with a breakpoint that an answered turn had: all up to it is in the cache.
    cached: _Place | None = None


class ConversationThread:
    """
    A conversation that remembers its turns.

    A turn is kept once its whole answer is there; one that fails or is interrupted leaves everything as it was, and
    can be sent again. The history keeps all that the model said, thinking and tool use included, but for what the API
    would not take back: blank text, thinking that led to nothing, and a tool use that was cut off. Every method may be
    called from any thread: of two that send at once, one waits until the other's turn is over.

    Args:
        system, model, max_tokens, temperature, max_retries, timeout, kwargs: For every turn, as in `invoke_claude`.

        cache_system: Put a cache breakpoint at the end of *system*.

        max_turns: Most turns to take; None for any number.

        continuation_prompt: What `send_continuation` says where it is told nothing else.

        messages:
            The history to begin with, as `get_messages` gave it, on whatever day. A message of the user at its end
            becomes part of the next turn.

    Raises:
        ValueError: For bad input; also for *messages* that do not alternate, beginning with the user.
        TypeError: For an unknown parameter.
    """

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
        max_retries: int = 2,
        timeout: float | None = None,
        **kwargs: Unpack[ApiParams],
    ) -> None:
        _check_names(kwargs)
        self._cache_system = cache_system
        self._options: dict[str, Any] = plain(
            {
                "system": system,
                "model": model,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "max_retries": max_retries,
                "timeout": timeout,
                **kwargs,
            }
        )
        build_request(prompt="to check the options", **self._options)
        self._max_turns = max_turns if max_turns is None else whole_number("max_turns", max_turns, 1)
        self._continuation_prompt = user_turn(continuation_prompt, "continuation_prompt")["content"]
        self._past = _past(messages)
        self._used: tuple[Usage, ...] = ()
        self._turn_lock = threading.Lock()  # held for the length of a turn; guards what the two above are set to
        self._sender: int | None = None  # the thread that took the lock last

    def send(
        self,
        user_message: Content,
        cache_history: bool = True,
        *,
        callback: TextCallback | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **kwargs: Unpack[ApiParams],
    ) -> ClaudeResponse:
        """
        Take one turn: say *user_message* and return the answer.

        An answer that says nothing is a turn too; what the user said is then part of the next one.

        Args:
            user_message: A text or a list of content blocks, such as the results of the tools that were asked for.

            cache_history:
                Put a cache breakpoint at the end of *user_message*, so that the next turn reads all up to there from
                the cache. Breakpoints are put on for the request only, within the four that the API takes; your own
                come first, and with the API's automatic caching (`cache_control=`) there is none of ours on a message.

            callback: Called on this thread with each chunk of text as it arrives, as in `invoke_claude_streaming`.

            interrupt_token: Ends the turn, or the wait for another thread's, with an error of kind "interrupted".

            max_tokens, kwargs: For this turn, instead of the conversation's own.

        Raises:
            ValueError:
                For bad input; also if the last answer asked for tools, and *user_message* does not begin with the
                result of each.
            RuntimeError: If `max_turns` have been taken, or if called from *callback*. Nothing is sent.
            ClaudeInvocationError: If there is no whole answer. The conversation is as it was.
        """
        message = user_turn(user_message, "user_message")
        return self._take_turn(message, cache_history, callback, interrupt_token, max_tokens, kwargs)

    def send_continuation(
        self,
        guidance: Content | None = None,
        cache_history: bool = True,
        *,
        callback: TextCallback | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        **kwargs: Unpack[ApiParams],
    ) -> ClaudeResponse:
        """
        Have the model go on, by *guidance*; None: by the conversation's `continuation_prompt`. Else like `send`.

        Raises:
            RuntimeError: Also before any turn: there is nothing to go on with.
        """
        message = user_turn(self._continuation_prompt if guidance is None else guidance, "guidance")
        return self._take_turn(message, cache_history, callback, interrupt_token, max_tokens, kwargs, goes_on=True)

    def fork(self) -> ConversationThread:
        """
        A conversation of its own with the same history, options and number of turns left, to try another way on.

        It shares the cached prefix, so its first turn reads the history from the cache. Its usage begins at zero. A
        turn that is under way is not in it.
        """
        twin = ConversationThread(
            cache_system=self._cache_system,
            max_turns=self._max_turns,
            continuation_prompt=self._continuation_prompt,
            **self._options,
        )
        twin._past = self._past
        return twin

    def get_messages(self) -> list[dict[str, Any]]:
        """A copy of the history as the API takes it. It holds nothing that JSON does not."""
        messages: list[dict[str, Any]] = plain(self._past.messages)
        return messages

    def clear(self) -> None:
        """
        Forget the history, after a turn that is under way. What was used stays counted in `usage`.

        Raises:
            RuntimeError: If called from a callback of this conversation.
        """
        with self._turn(None):
            self._past = _Past()

    @property
    def turn_count(self) -> int:
        """Number of turns taken: of answers."""
        return self._past.turns

    def __len__(self) -> int:
        return self.turn_count

    def __bool__(self) -> bool:
        return True

    @property
    def usage(self) -> Usage:
        """Tokens used by all turns, failed and forgotten ones included. Not by forks, nor before `messages`."""
        return total(self._used)

    @property
    def cost_usd(self) -> float | None:
        """
        The price of all turns in dollars, by the list prices of genai-prices; None for a model it does not know.

        Raises:
            ImportError: Without the `cost` extra.
        """
        return sum_of_costs(used.cost_usd(self._options["model"]) for used in self._used)

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
        said = [(message["role"], as_blocks(message["content"])) for message in self._past.messages]
        return html.transcript(as_blocks(self._options["system"]), said, " \u00b7 ".join(filter(None, notes)))

    def _take_turn(
        self,
        message: Block,
        cache_history: bool,
        callback: TextCallback | None,
        token: InterruptToken | None,
        max_tokens: int | None,
        params: Mapping[str, Any],
        *,
        goes_on: bool = False,
    ) -> ClaudeResponse:
        check_callback("callback", callback)
        _check_names(params)
        options = {**self._options, **params, **({} if max_tokens is None else {"max_tokens": max_tokens})}
        with self._turn(token):
            past = self._past
            if goes_on and not past.turns:
                raise RuntimeError("there is nothing to continue: send() comes first")
            if self._max_turns is not None and past.turns >= self._max_turns:
                raise RuntimeError(f"max_turns={self._max_turns} is reached; clear() begins anew")
            messages = _with_message(past.messages, message)
            request = build_request(messages=messages, **options)
            marks = _Marks(request, past.cached)
            if self._cache_system:
                marks.put_on_system()
            cached = marks.put_on_history() if cache_history else past.cached
            used: list[Usage] = []
            try:
                response = run(marks.request, callback, token, used=used)
            finally:
                self._used += tuple(used)
            answered = (*unmarked([*messages]), *_answer(response))
            self._past = _Past(answered, past.turns + 1, cached)
            return response

    @contextmanager
    def _turn(self, token: InterruptToken | None) -> Iterator[None]:
        """Be the one thread that changes the history."""
        me = threading.get_ident()
        if self._sender == me and self._turn_lock.locked():
            raise RuntimeError("called from a callback of the same conversation, whose turn is not over")
        with _held(self._turn_lock, token):
            self._sender = me
            try:
                yield
            finally:
                self._sender = None


@contextmanager
def _held(lock: threading.Lock, token: InterruptToken | None) -> Iterator[None]:
    """Hold *lock*, unless there is an interrupt while waiting for it."""
    if token is None:
        with lock:
            yield
        return
    interrupts: list[bool] = []
    with token.watched_by(lambda: interrupts.append(True)):
        while not lock.acquire(timeout=_LOOK):
            if interrupts:
                raise ended("interrupted")
    try:
        if interrupts:
            raise ended("interrupted")
        yield
    finally:
        lock.release()


def _check_names(params: Mapping[str, Any]) -> None:
    for name in params.keys() & _NOT_OF_A_TURN:
        raise TypeError(f"unknown parameter {name!r} of a conversation or its turn")


def _past(messages: Any) -> _Past:
    if messages is None or (isinstance(messages, (list, tuple)) and not messages):
        return _Past()
    turns = message_list(messages)
    for i, turn in enumerate(turns):
        expected = "assistant" if i % 2 else "user"
        if turn["role"] != expected:
            raise ValueError(f"messages must alternate, beginning with the user: messages[{i}] is of {turn['role']!r}")
        if not turn["content"]:
            raise ValueError(f"messages[{i}] says nothing")
        if i and expected == "user":
            _check_results(turns[i - 1], turn, f"messages[{i}]")
    return _Past(tuple(unmarked(turns)), len(turns) // 2)


def _with_message(messages: tuple[Block, ...], message: Block) -> tuple[Block, ...]:
    """*messages* and *message*, which goes on with the last where that got no answer."""
    if messages and messages[-1]["role"] == "user":
        before = messages[-1]["content"]
        messages, message = messages[:-1], {**message, "content": [*as_blocks(before), *as_blocks(message["content"])]}
    if messages:
        _check_results(messages[-1], message, "user_message")
    return (*messages, message)


def _check_results(answer: Block, message: Block, name: str) -> None:
    """Raise a ValueError unless *message* begins with one result of each tool that *answer* asked for."""
    asked = [block.get("id") for block in as_blocks(answer["content"]) if block["type"] == "tool_use"]
    kinds = [block["type"] for block in as_blocks(message["content"])]
    given = [block.get("tool_use_id") for block in as_blocks(message["content"]) if block["type"] == "tool_result"]
    if missing := [str(one) for one in asked if one not in given]:
        raise ValueError(f"the last answer asked for tools: {name} needs a tool_result for {', '.join(missing)}")
    if unasked := [str(one) for one in given if one not in asked]:
        raise ValueError(f"{name} has a tool_result for {', '.join(unasked)}, which nobody asked for")
    if len(given) > len(asked):
        raise ValueError(f"{name} has more than one tool_result for the same tool_use_id")
    if "tool_result" in kinds[len(given) :]:
        raise ValueError(f"{name} must begin with its tool_result blocks; the rest comes after them")


class _Marks:
    """
    Puts cache breakpoints on *request*, as far as the API takes more.

    Args:
        cached: The last block that is known to be in the cache with all before it.
    """

    def __init__(self, request: Request, cached: _Place | None) -> None:
        self.request = request
        self._cached = cached
        self._room = MOST_BREAKPOINTS - check_breakpoints(request)
        self._automatic = request.params.get("cache_control")

    def put_on_system(self) -> None:
        """Mark the end of the system prompt."""
        blocks = as_blocks(self.request.system)
        place = last_markable(blocks)
        if place is not None:
            self._put(blocks, place)
            self.request = replace(self.request, system=blocks)

    def put_on_history(self) -> _Place | None:
        """
        Mark the end of the last message, and what is in the cache where a look back from there would not reach it.

        Returns:
            What is in the cache once this is answered.
        """
        contents = [[*as_blocks(message["content"])] for message in self.request.messages]
        place = last_markable(contents[-1])
        if place is None:
            return self._cached
        last = _Place(len(contents) - 1, place)
        wanted = [last] if self._automatic is None else []
        if self._cached is not None and _distance(contents, self._cached, last) >= _LOOK_BACK:
            wanted.append(self._cached)
        for message, block in wanted:
            self._put(contents[message], block)
        messages = [
            {**message, "content": content} if any(mark.message == i for mark in wanted) else message
            for i, (message, content) in enumerate(zip(self.request.messages, contents, strict=True))
        ]
        self.request = replace(self.request, messages=messages)
        return last if self._automatic or contents[last.message][last.block].get("cache_control") else self._cached

    def _put(self, blocks: list[Block], place: int) -> None:
        if self._room and not blocks[place].get("cache_control"):
            blocks[place] = {**blocks[place], "cache_control": self._mark()}
            self._room -= 1

    def _mark(self) -> Mapping[str, Any]:
        """For an hour where one of the user's is that comes later: the API takes no shorter one before it."""
        own = [block.get("cache_control") for block in as_blocks(self.request.messages[-1]["content"])]
        hours = [mark for mark in (self._automatic, *own) if mark and mark.get("ttl") == "1h"]
        return hours[0] if hours else EPHEMERAL


def _distance(contents: Sequence[Sequence[Block]], first: _Place, last: _Place) -> int:
    """How many blocks *last* comes after *first*."""
    return sum(map(len, contents[first.message : last.message])) - first.block + last.block


def _answer(response: ClaudeResponse) -> list[Block]:
    """The message that the history keeps of *response*; none where nothing was said that the API takes back."""
    content = without_blank_text(plain(response.message.content))
    if response.stop_reason in TRUNCATING and content and content[-1]["type"] == "tool_use":
        content.pop()  # cut off, and nobody could give its result
    if response.stop_reason != "tool_use":  # else their results are still to come
        results = {block.get("tool_use_id") for block in content}
        content = [block for block in content if block["type"] != "server_tool_use" or block.get("id") in results]
    while content and content[-1]["type"] in _THINKING:
        content.pop()
    return [{"role": "assistant", "content": content}] if content else []
