"""Conversations: many turns with one history, cached as it grows."""

from __future__ import annotations

import html
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Unpack

from ._call import run
from ._errors import ClaudeInvocationError
from ._interrupt import InterruptToken
from ._prompts import MOST_BREAKPOINTS, Block, as_blocks, marked, plain
from ._request import (
    DEFAULT_MODEL,
    Request,
    build_request,
    check_breakpoints,
    check_callback,
    message_list,
    user_turn,
    whole_number,
)
from ._response import ClaudeResponse, total
from ._transport import ended
from ._types import ApiParams, Content, TextCallback
from ._usage import Usage

CONTINUATION_PROMPT = "Please go on with the task from where you stopped."

# A breakpoint finds what was written at most so many blocks before it, its own counted.
_LOOK_BACK = 20

_THINKING = ("thinking", "redacted_thinking")


class ConversationThread:
    """
    A conversation that remembers its turns.

    A turn is kept once its whole answer is there; one that fails or is interrupted leaves everything as it was, and
    can be sent again. The history keeps all that the model said, thinking and tool use included. Every method may be
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
        self._options: dict[str, Any] = plain(
            {
                "system": system,
                "model": model,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "cache_system": cache_system,
                "max_retries": max_retries,
                "timeout": timeout,
                **kwargs,
            }
        )
        build_request(prompt="to check the options", **self._options)
        self._max_turns = max_turns if max_turns is None else whole_number("max_turns", max_turns, 1)
        self._continuation_prompt = user_turn(continuation_prompt, "continuation_prompt")["content"]
        # Replaced as a whole and never changed, so that it can be read while a turn is under way.
        self._history: tuple[Block, ...] = _history(messages) if messages else ()
        self._used: tuple[Usage, ...] = ()
        self._free = threading.Condition()  # guards _sender; notified when that is set to None, or at an interrupt
        self._sender: int | None = None

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

        Args:
            user_message: A text or a list of content blocks, such as the results of the tools that were asked for.

            cache_history:
                Put a cache breakpoint at the end of *user_message*, so that the next turn reads all up to there from
                the cache. Breakpoints are put on for the request only, within the four that the API takes; your own
                come first.

            callback: Called on this thread with each chunk of text as it arrives, as in `invoke_claude_streaming`.

            interrupt_token: Ends the turn, or the wait for another thread's, with an error of kind "interrupted".

            max_tokens, kwargs: For this turn, instead of the conversation's own.

        Raises:
            ValueError: For bad input; also if the last answer asked for tools and *user_message* has not all results.
            RuntimeError: If `max_turns` have been taken, or if called from *callback*. Nothing is sent.
            ClaudeInvocationError: If there is no whole answer. The conversation is as it was.
        """
        check_callback("callback", callback)
        options = {**self._options, **kwargs, **({} if max_tokens is None else {"max_tokens": max_tokens})}
        with self._turn(interrupt_token):
            self._check_turns_left()
            history, turn = _with_turn(self._history, user_turn(user_message, "user_message"))
            request = _request((*history, turn), options, cache_history=cache_history)
            try:
                response = run(request, callback, interrupt_token)
            except ClaudeInvocationError as error:
                self._used += (error.usage,)
                raise
            self._used += (response.usage,)
            self._history = (*history, _clean(turn), *_answer(response))
            return response

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
        if not self._history:
            raise RuntimeError("there is nothing to continue: send() comes first")
        return self.send(
            self._continuation_prompt if guidance is None else guidance,
            cache_history,
            callback=callback,
            interrupt_token=interrupt_token,
            max_tokens=max_tokens,
            **kwargs,
        )

    def fork(self) -> ConversationThread:
        """
        A conversation of its own with the same history, options and number of turns left, to try another way on.

        It shares the cached prefix, so its first turn reads the history from the cache. Its usage begins at zero. A
        turn that is under way is not in it.
        """
        twin = ConversationThread(
            max_turns=self._max_turns, continuation_prompt=self._continuation_prompt, **self._options
        )
        twin._history = self._history
        return twin

    def get_messages(self) -> list[dict[str, Any]]:
        """A copy of the history as the API takes it. It holds nothing that JSON does not."""
        messages: list[dict[str, Any]] = plain(self._history)
        return messages

    def clear(self) -> None:
        """
        Forget the history, after a turn that is under way. What was used stays counted in `usage`.

        Raises:
            RuntimeError: If called from a callback of this conversation.
        """
        with self._turn(None):
            self._history = ()

    @property
    def turn_count(self) -> int:
        """Number of turns taken: of answers in the history."""
        return sum(message["role"] == "assistant" for message in self._history)

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
        costs = [used.cost_usd(self._options["model"]) for used in self._used]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def __repr__(self) -> str:
        return f"<ConversationThread {self._options['model']}, {self.turn_count} turns>"

    def _repr_html_(self) -> str:
        return "".join(map(_as_html, self._history)) or "<em>nothing said yet</em>"

    @contextmanager
    def _turn(self, token: InterruptToken | None) -> Iterator[None]:
        """Be the one thread that changes the history."""
        me = threading.get_ident()
        if self._sender == me:
            raise RuntimeError("called from a callback of the same conversation, whose turn is not over")
        try:
            with token.watched_by(self._wake) if token else nullcontext(), self._free:
                self._free.wait_for(lambda: self._sender is None or _is_interrupted(token))
                if _is_interrupted(token):
                    raise ended("interrupted")
                self._sender = me
            yield
        finally:
            if self._sender == me:
                with self._free:
                    self._sender = None
                    self._free.notify_all()

    def _wake(self) -> None:
        with self._free:
            self._free.notify_all()

    def _check_turns_left(self) -> None:
        if self._max_turns is not None and self.turn_count >= self._max_turns:
            raise RuntimeError(f"max_turns={self._max_turns} is reached: clear() or fork() to go on")


def _is_interrupted(token: InterruptToken | None) -> bool:
    return token is not None and token.is_interrupted()


def _history(messages: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    turns = message_list(messages)
    for i, turn in enumerate(turns):
        expected = "assistant" if i % 2 else "user"
        if turn["role"] != expected:
            raise ValueError(f"messages must alternate, beginning with the user: messages[{i}] is of {turn['role']!r}")
    return tuple(map(_clean, turns))


def _with_turn(history: tuple[Block, ...], turn: Block) -> tuple[tuple[Block, ...], Block]:
    """The history before *turn*, and *turn*; where the last of the user got no answer, that is part of it."""
    if not history:
        return history, turn
    if history[-1]["role"] == "user":
        before = history[-1]
        return history[:-1], {**turn, "content": [*as_blocks(before["content"]), *as_blocks(turn["content"])]}
    _check_results(history[-1], turn)
    return history, turn


def _check_results(answer: Block, turn: Block) -> None:
    given = {block.get("tool_use_id") for block in as_blocks(turn["content"]) if block["type"] == "tool_result"}
    missing = [
        block["id"]
        for block in as_blocks(answer["content"])
        if block["type"] == "tool_use" and block.get("id") not in given
    ]
    if missing:
        raise ValueError(f"the last answer asked for tools: user_message needs a tool_result for {', '.join(missing)}")


def _request(messages: Sequence[Block], options: Mapping[str, Any], *, cache_history: bool) -> Request:
    """The request that says *messages*, with the breakpoints that there is room for."""
    request = build_request(messages=messages, **options)
    if not cache_history:
        return request
    room = MOST_BREAKPOINTS - check_breakpoints(request)
    turns = list(request.messages)
    for place in _breakpoints(turns)[:room]:
        turns[place] = {**turns[place], "content": marked(as_blocks(turns[place]["content"]))}
    return replace(request, messages=turns)


def _breakpoints(messages: Sequence[Block]) -> list[int]:
    """Which messages to mark: the last, and the user's before it where a look back from there would not reach it."""
    added = sum(len(as_blocks(message["content"])) for message in messages[-2:])
    return [-1, -3] if len(messages) > 2 and added >= _LOOK_BACK else [-1]


def _clean(message: Block) -> Block:
    """*message* without breakpoints: those of its turn must not add up with those of later ones."""
    if isinstance(message["content"], str):
        return message
    content = [
        {name: value for name, value in block.items() if name != "cache_control"} for block in message["content"]
    ]
    return {**message, "content": content}


def _answer(response: ClaudeResponse) -> list[Block]:
    """
    The message that the history keeps of *response*; none where nothing was said.

    The API sends back neither blank text nor, at the end of a message, thinking that led to nothing.
    """
    content = [block for block in plain(response.message.content) if block["type"] != "text" or block["text"].strip()]
    while content and content[-1]["type"] in _THINKING:
        content.pop()
    return [{"role": "assistant", "content": content}] if content else []


def _as_html(message: Block) -> str:
    blocks = "".join(map(_block_as_html, as_blocks(message["content"])))
    return (
        '<div style="margin: .5em 0; padding-left: .75em; border-left: 3px solid">'
        f"<strong>{html.escape(message['role'])}</strong>{blocks}</div>"
    )


def _block_as_html(block: Block) -> str:
    if block["type"] == "text":
        return f'<div style="white-space: pre-wrap">{html.escape(str(block["text"]))}</div>'
    whole = html.escape(json.dumps(block, indent=2, ensure_ascii=False))
    return f"<details><summary>{html.escape(str(block['type']))}</summary><pre>{whole}</pre></details>"
