"""Scripted answers: `Reply`, the faults it can have, and the queues in which replies wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from ._errors import Rejection
from ._numbers import check_at_least, check_positive

if TYPE_CHECKING:
    import threading

    from ._record import SeenRequest

RejectionFault = Literal[
    "rate_limit",
    "rate_limit_without_retry_after",
    "overloaded",
    "api_error",
    "timeout",
    "spend_limit",
    "contract_spend_limit",
    "billing",
    "authentication",
    "permission",
    "invalid_request",
    "api_usage_limits",
    "not_found",
    "request_too_large",
]
BreakFault = Literal[
    "cut_before_headers",
    "cut",
    "silent",
    "silent_mid_stream",
    "silent_with_pings",
    "error_event",
    "early_end",
    "early_end_empty",
    "malformed",
    "html",
    "not_a_message",
]
OutputKind = Literal["valid", "invalid", "cut", "refused"]
EndingFault = Literal["refusal", "pause_turn", "tool_use", "max_tokens", "context_window"]
Fault = RejectionFault | BreakFault | EndingFault

FAULTS: tuple[str, ...] = get_args(RejectionFault) + get_args(BreakFault) + get_args(EndingFault)

_TEXTS = (
    "text",
    "thinking",
    "redacted_thinking",
    "stop_reason",
    "stop_sequence",
    "error_type",
    "error_code",
    "message",
)

# Facts 3: the kinds of limit, and which of them say when to come back.
REJECTIONS: Mapping[str, Rejection] = {
    "rate_limit": Rejection(
        type="rate_limit_error", message="This request would exceed your rate limit.", retry_after=1
    ),
    "rate_limit_without_retry_after": Rejection(
        type="rate_limit_error", message="This request would exceed your rate limit."
    ),
    "overloaded": Rejection(type="overloaded_error", message="Overloaded"),
    "api_error": Rejection(type="api_error", message="Internal server error"),
    "timeout": Rejection(type="timeout_error", message="Request timed out"),
    "spend_limit": Rejection(
        type="rate_limit_error",
        message="Your organization has reached its monthly spend limit.",
        code="enforced_spend_limit_reached",
    ),
    "contract_spend_limit": Rejection(
        type="rate_limit_error",
        message="Your organization has reached the spend limit of its contract.",
        code="contract_spend_limit_reached",
    ),
    "billing": Rejection(type="billing_error", message="There is a problem with your billing."),
    "authentication": Rejection(type="authentication_error", message="invalid x-api-key"),
    "permission": Rejection(type="permission_error", message="Your key may not use this resource."),
    "invalid_request": Rejection(type="invalid_request_error", message="The request is not valid."),
    "api_usage_limits": Rejection(
        type="invalid_request_error", message="You have reached your specified API usage limits."
    ),
    "not_found": Rejection(type="not_found_error", message="Not found"),
    "request_too_large": Rejection(type="request_too_large", message="Request exceeds the maximum size"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """
    The answer to a request. Every field left at None means the simulator's default.

    Times are in seconds. A reply without content gets the simulated default answer.

    Args:
        text: The text of the answer. It is sent whole, whatever the request's max_tokens, if the context window has
            room for it.

        thinking: The text of a thinking block before it.

        redacted_thinking: The data of a redacted thinking block before it.

        tool_use: Name and input of a tool call after it; the stop reason becomes tool_use.

        tool_uses: Several of them, in place of *tool_use*. Ids are generated, the same for the same prompt.

        content: Content blocks to send as they are, in place of the five above. Blocks may be of
            types nobody knows.

        stop_reason: The stop reason. Any string.

        stop_sequence: The stop sequence that ended the answer; the stop reason becomes stop_sequence.

        output: What to answer to a schema (`output_config.format`): "valid" JSON, drawn by *seed*; the same "cut" off
            by max_tokens; "invalid", of another type, without a required field or no JSON at all; or "refused".

        seed: What *output* draws by.

        refusal_category: ``stop_details.category`` of a refusal.

        usage: Fields of ``usage`` that replace the computed ones.

        latency: Time to the first byte.

        tokens_per_second: The pace of the answer. An answer that is not streamed takes as long
            to come as its stream would.

        ping_interval: Time between pings while a stream has nothing to say.

        until: Hold the answer back, before its first byte, until this event is set. It is looked at
            every few milliseconds.

        pause: Hold a stream, after *after_chunks* chunks, until this event is set. An answer that is not
            streamed is held before its first byte.

        after_chunks: How many chunks (about one word each) are sent before a fault strikes in the
            middle of a stream, or before *pause*. 0 is right after message_start.

        fault: The fault to show. A rejection is an error status. Of the breaks, those that need a stream do
            the closest thing when nothing is streamed: ``error_event`` answers with the error's
            status; ``early_end`` and ``malformed`` send half the JSON and end cleanly;
            ``silent_mid_stream`` and ``silent_with_pings`` send half and say no more. An ending is a
            complete answer that ends for another reason than its being finished. ``max_tokens`` and
            ``context_window`` cut the last of the tool calls off, before the last value of its input.

        error_type, error_code, message, status: The content of a rejection or error event. Each
            replaces that of the fault.

        retry_after: The retry-after header of a rejection.

        should_retry: The x-should-retry header of a rejection.

    Raises:
        TypeError: If what has to be a text is none.

        ValueError: If a value cannot mean anything, or two contradict each other.
    """

    text: str | None = None
    thinking: str | None = None
    redacted_thinking: str | None = None
    tool_use: tuple[str, Mapping[str, Any]] | None = None
    tool_uses: Sequence[tuple[str, Mapping[str, Any]]] = ()
    content: Sequence[Mapping[str, Any]] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    output: OutputKind | None = None
    seed: int = 0
    refusal_category: str | None = None
    usage: Mapping[str, Any] | None = None
    latency: float | None = None
    tokens_per_second: float | None = None
    ping_interval: float | None = None
    until: threading.Event | None = None
    pause: threading.Event | None = None
    after_chunks: int = 1
    fault: Fault | None = None
    error_type: str | None = None
    error_code: str | None = None
    message: str | None = None
    status: int | None = None
    retry_after: float | None = None
    should_retry: bool | None = None

    def __post_init__(self) -> None:
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(f"{name} must be a text, got {getattr(self, name)!r}")
        if self.fault is not None and self.fault not in FAULTS:
            raise ValueError(f"unknown fault {self.fault!r}; known are {', '.join(FAULTS)}")
        if self.output is not None and self.output not in get_args(OutputKind):
            raise ValueError(f"output must be one of {', '.join(get_args(OutputKind))}, got {self.output!r}")
        if self.output is not None and (self.content is not None or self._described() or self.fault is not None):
            raise ValueError("output replaces content, its parts and a fault: give one or the other")
        if self.content is not None and self._described():
            raise ValueError("content replaces text, thinking, redacted_thinking and tools: give one or the other")
        if self.tool_use is not None and self.tool_uses:
            raise ValueError("tool_uses replaces tool_use: give one or the other")
        if odd := [call for call in self.calls if len(call) != 2]:
            raise ValueError(f"tool_use is a name and an input, got {odd[0]!r}")
        if any("type" not in block for block in self.content or ()):
            raise ValueError("a block of content has no type")
        check_at_least("latency", self.latency, 0)
        check_at_least("retry_after", self.retry_after, 0)
        check_at_least("after_chunks", self.after_chunks, 0)
        check_positive("tokens_per_second", self.tokens_per_second)
        check_positive("ping_interval", self.ping_interval)

    def _described(self) -> bool:
        described = (self.text, self.thinking, self.redacted_thinking)
        return bool(self.calls) or any(part is not None for part in described)

    @property
    def calls(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Name and input of each tool call."""
        return self.tool_uses if self.tool_use is None else [self.tool_use]

    @property
    def says_nothing(self) -> bool:
        """True if the content is left to the simulator."""
        return self.content is None and self.output is None and not self._described()

    @property
    def rejection(self) -> Rejection | None:
        """The error answer this reply stands for; None if it is an answer of status 200."""
        rejection = REJECTIONS.get(self.fault or "")
        return None if rejection is None else self.reworded(rejection)

    def reworded(self, rejection: Rejection) -> Rejection:
        """*rejection*, with this reply's own error fields in place of its fields."""
        return Rejection(
            type=self.error_type or rejection.type,
            message=self.message or rejection.message,
            code=self.error_code or rejection.code,
            status=self.status,
            retry_after=rejection.retry_after if self.retry_after is None else self.retry_after,
            should_retry=self.should_retry,
        )

    @classmethod
    def from_json(cls, value: Any) -> Reply:
        """
        The reply that a JSON object describes, field by field.

        Raises:
            TypeError, ValueError: If it is no object, has a field that JSON cannot give, or one that `Reply` refuses.
        """
        if not isinstance(value, dict):
            raise ValueError(f"a reply is an object, got {value!r}")
        allowed = {field.name for field in fields(cls)} - {"until", "pause"}
        if unknown := value.keys() - allowed:
            raise ValueError(f"unknown reply fields {sorted(unknown)}")
        return cls(**value)


ReplyFunction = Callable[["SeenRequest"], Reply | None]


class Script:
    """
    The replies that wait for requests. The caller holds the lock of the simulator.

    A reply that asks for a substring wins over one for any request.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[str | None, Reply]] = []

    def add(self, replies: Iterable[Reply], matching: str | None) -> None:
        """Queue *replies* behind those that wait already."""
        self._waiting.extend((matching, reply) for reply in replies)

    def take(self, request: SeenRequest) -> Reply | None:
        """The reply whose turn it is, which leaves its queue; None if none waits for such a request."""
        place = self._matching(request)
        if place is None:
            place = next((i for i, (matching, _) in enumerate(self._waiting) if matching is None), None)
        return None if place is None else self._waiting.pop(place)[1]

    def _matching(self, request: SeenRequest) -> int | None:
        wanted = [(i, matching) for i, (matching, _) in enumerate(self._waiting) if matching is not None]
        if not wanted:
            return None
        text = request.text
        return next((i for i, matching in wanted if matching in text), None)
