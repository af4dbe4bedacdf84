"""The answer that a call returns, which is a str."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from claude_client._values.record import AttemptRecord, ToolRecord, cost_of_attempts
from claude_client._values.tasks import task_of
from claude_client._values.tree import Tree, tree_of
from claude_client._values.usage import Usage, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anthropic.types import Message
    from typing_extensions import TypeVar as TypeVarWithDefault

    Data = TypeVarWithDefault("Data", default=Any)
    Data_co = TypeVarWithDefault("Data_co", default=Any, covariant=True)
else:  # the same, but for what it is where nobody says
    Data = TypeVar("Data")
    Data_co = TypeVar("Data_co", covariant=True)


TRUNCATING = ("max_tokens", "model_context_window_exceeded")


class ClaudeResponse(str, Generic[Data_co]):  # noqa: SLOT000 - people may hang their own notes on an answer
    """
    The text of an answer, with everything else of the API's message.

    It is a str in every way: it prints, joins, pickles and encodes as JSON as its text. The text is that of all
    text blocks, one after another; thinking, tool use and blocks of unknown kinds are in `message.content` only.
    For type checkers, `ClaudeResponse[Ticket]` is one whose `.output` is a `Ticket`.
    """

    #: The SDK's message. Of an answer that paused and went on: the last one, with the content of all. None only in one
    #: that was made by hand of a text alone.
    message: Message
    #: The API's id of the (last) request; None if the server sent none.
    request_id: str | None

    def __new__(
        cls,
        text: str = "",
        message: Message | None = None,
        request_id: str | None = None,
        usages: Sequence[Usage] = (),
    ) -> Self:
        response = super().__new__(cls, text)
        response.message = message  # type: ignore[assignment]  # as its comment says
        response.request_id = request_id
        if usages:
            model = message.model if message else ""
            response.attempts = tuple([AttemptRecord(model, used) for used in usages])
        return response

    #: What `output=` asked for, read from the text; None where it asked for nothing.
    output: Data_co = None  # type: ignore[assignment]  # as its comment says
    #: The requests that it took, in their order, each with its times and what it used.
    attempts: tuple[AttemptRecord, ...] = ()
    #: The uses of tools that it took, in the order in which the model asked for them.
    tool_calls: tuple[ToolRecord, ...] = ()
    #: The whole conversation of a call with tools, from its prompt to this answer, as `messages=` takes it. Empty for
    #: other calls.
    messages: tuple[dict[str, Any], ...] = ()

    @property
    def usage(self) -> Usage:
        """
        Tokens used for this answer, as the API counted them.

        Summed if it took several requests: an answer that paused, attempts that failed after the API had given
        their usage. `message.usage` is that of the last request.
        """
        return total(attempt.usage for attempt in self.attempts)

    @property
    def cost_usd(self) -> float | None:
        """
        The price of `usage` in dollars by the list prices of genai-prices; None for a model it does not know.

        By the model that answered each request; fast mode, batches, inference in the US alone, caches of an hour and
        web searches have their own prices. Clouds and contracts may have others.

        Raises:
            ImportError: Without the `cost` extra.
        """
        return cost_of_attempts(self.attempts)

    def tree(self) -> Tree:
        """
        What was done for it, as a tree: the model's turns, the tools that they asked for, and what those asked. It
        prints as text, and shows itself in a notebook.
        """
        return tree_of(task_of("The call", "ok", self.attempts, self.tool_calls))

    @property
    def model(self) -> str:
        """The model that answered, as the API names it."""
        return self.message.model

    @property
    def stop_reason(self) -> str | None:
        """The reason the model stopped: `end_turn`, `max_tokens`, `tool_use` ..."""
        return self.message.stop_reason if self.message else None

    @property
    def truncated(self) -> bool:
        """True if the text was cut off, by `max_tokens` or the end of the context window."""
        return self.stop_reason in TRUNCATING

    def _repr_markdown_(self) -> str:
        """
        The text as Markdown, in which HTML is shown as text, and no link runs anything; mathematics between dollars is
        typeset.
        """
        from claude_client._values.html import harmless

        return harmless(str(self))


def response_of(message: Message, request_id: str | None, attempts: Iterable[AttemptRecord]) -> ClaudeResponse:
    """The answer with *message*, which took *attempts*."""
    response = ClaudeResponse(text_of(message.content), message, request_id)
    response.attempts = tuple(attempts)
    return response


def shared(answer: ClaudeResponse) -> ClaudeResponse:
    """The same as the answer to a prompt that was not sent, as another asked the same: it has used nothing."""
    copy = ClaudeResponse(str(answer), answer.message, answer.request_id)
    copy.output = answer.output
    return copy


def text_of(content: Iterable[Any]) -> str:
    """The text of all text blocks. By `type`, as the SDK builds unknown blocks as text blocks without a text."""
    return "".join([block.text for block in content if block.type == "text"])


def final_text_of(content: Sequence[Any]) -> str:
    """The text after all that tools of the API did meanwhile: before that, a model says what it is about to do."""
    last = max((i for i, block in enumerate(content) if _is_of_server_tool(block.type)), default=-1)
    return text_of(content[last + 1 :])


def _is_of_server_tool(kind: str) -> bool:
    return kind == "server_tool_use" or kind.endswith("_tool_result")
