"""The record of a request on its way: the times of its events, its usage, and its end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.interrupt import Abortable
from claude_client._values.log import Log
from claude_client._values.options import TextCallback
from claude_client._values.record import AttemptRecord, Cause, at
from claude_client._values.request import Request
from claude_client._values.usage import Bill, Usage, bills_of

if TYPE_CHECKING:
    from anthropic.types import Message

_log = Log("claude_client")

#: What an attempt reports of itself, on its own thread: it is about to be sent, the head of the answer is there
#: (`status` and `limits` are set), the answer has begun (what it wrote to the cache can be read).
Event = Literal["sending", "head", "begun"]

_NO_HEADERS: Mapping[str, str] = {}
_NO_WAITS: Mapping[Cause, float] = {}
_NO_USAGE = Usage()


class Answer(NamedTuple):
    """A whole message and the id of its request."""

    message: Message
    request_id: str | None


class Arrived(Protocol):
    """The part of a stream that has arrived so far."""

    @property
    def head(self) -> Mapping[str, Any]: ...

    @property
    def text(self) -> str: ...

    @property
    def usage(self) -> Usage: ...


class Permit(Protocol):
    """
    Permission of a gate to send a request.

    Both methods are called on the thread of the attempt; `settle`, where it was never sent, on the one that asked for
    it. What they raise is logged and costs no answer.
    """

    def on_event(self, attempt: Attempt, event: Event) -> None:
        """Note that *attempt* has reached *event*."""

    def settle(self, attempt: Attempt) -> None:
        """Give the permit back: *attempt* is over, or was never sent (`sent_at` is None). Called exactly once."""


class Attempt(Abortable):
    """
    A request on its way. Its own thread fills it in; others read it and may `abort` it.

    All times are seconds by `time.monotonic`, None for what has not happened.
    """

    #: Gets each chunk of text on the thread of the attempt.
    on_text: TextCallback | None = None
    #: Whether a stream is wanted for its own sake: "begun" then comes as early as can be.
    must_stream: bool = False
    sent_at: float | None = None
    first_byte_at: float | None = None
    first_text_at: float | None = None
    #: When it was sent, or the last event of its stream arrived. Pings are none.
    last_event_at: float | None = None
    ended_at: float | None = None
    status: int | None = None
    #: The headers of the answer about rate limits, by their names in lower case.
    limits: Mapping[str, str] = _NO_HEADERS
    streamed: Arrived | None = None
    #: The SDK's message that arrived in one piece, whether it is an answer or not.
    message: Any = None
    #: How it ended: with an answer or an error.
    answer: Answer | None = None
    error: ClaudeInvocationError | None = None
    #: What a callback, a signal handler or the SDK's own checks raised, if that is what *error* stands for.
    raised: BaseException | None = None
    usage: Usage = _NO_USAGE
    #: Seconds before it was sent, by what they were waited for.
    waited: Mapping[Cause, float] = _NO_WAITS
    #: Whether its failure uses up a retry. Not for a 429 while other requests were accepted.
    costs_retry: bool = True
    #: Whether the process that was to send it is gone, and nobody knows what became of it.
    is_lost: bool = False

    def __init__(self, request: Request, queued_at: float) -> None:
        super().__init__()
        self.request = request
        self.queued_at = queued_at
        #: The permits of the gates that let it in; each is removed as it is settled.
        self.permits: list[Permit] = []

    def tell(self, event: Event) -> None:
        """Tell all permits that it has reached *event*."""
        for permit in self.permits:
            try:
                permit.on_event(self, event)
            except Exception:  # noqa: BLE001 - a gate that fails costs no answer
                _log.exception("A gate failed at %r of a request; the request goes on", event)

    def settle(self) -> None:
        """
        Give all permits back, the last first; whatever one of them raises is logged. A signal that comes between is
        raised once all are given back; the one that it met is given back again, which does nothing if it was.
        """
        signal: BaseException | None = None
        while self.permits:
            try:
                self.permits[-1].settle(self)
            except Exception:  # noqa: BLE001 - a gate that fails costs no answer, and no other permit
                _log.exception("A gate failed to settle a request; what became of the request stands")
            except BaseException as late:  # noqa: BLE001 - Ctrl-C, or what the handler of another signal raises
                if signal is None:
                    signal = late
                    continue
            self.permits.pop()
        if signal:
            raise signal

    @cached_property
    def bills(self) -> tuple[Bill, ...]:
        """What it has used, by its prices. Not before all that comes of its answer has."""
        arrived = self.streamed.head if self.streamed else self.message
        return bills_of(arrived, self.request.model, {**self.request.params, **self.request.extra_body})

    def record(self) -> AttemptRecord:
        """The record to keep of it once it is over."""
        answer, error = self.answer, self.error
        return AttemptRecord(
            answer.message.model if answer else self.request.model,
            self.usage,
            "ok" if answer else error.kind if error else "interrupted",
            self.status,
            answer.request_id if answer else error.request_id if error else None,
            at(self.queued_at),
            at(self.sent_at),
            at(self.first_byte_at),
            at(self.first_text_at),
            at(self.ended_at),
            self.waited,
            self.bills,
        )
