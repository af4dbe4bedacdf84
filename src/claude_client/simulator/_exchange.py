"""The sending of an answer: headers, bytes, and the ways a connection can fail it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._errors import Rejection
from ._pace import for_ever
from ._wire import compact

if TYPE_CHECKING:
    from starlette.types import Send

    from ._connection import Connection
    from ._record import Outcome
    from ._state import Arrival, State, Turn

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
HTML = "text/html; charset=utf-8"


@dataclass(slots=True)
class Exchange:
    """
    Sends an answer and keeps its record. Everything runs in a task that ends when the client leaves.

    The record's end is written before the last bytes go, so a client that has its answer finds it ended.
    """

    state: State
    arrival: Arrival
    connection: Connection
    send: Send
    said: str = field(init=False, default="")
    begun: bool = field(init=False, default=False)

    def begin(self, turn: Turn) -> None:
        """Record that the message of *turn* begins now."""
        self.state.begin(self.arrival, turn)

    async def reject(self, rejection: Rejection) -> None:
        """Answer with an error."""
        body = rejection.body(self.arrival.request_id)
        self.end("rejected", rejection.http_status)
        await self._whole(rejection.http_status, JSON, body, rejection.headers())

    async def fail(self, message: str) -> None:
        """Answer with a 500 that says *message*, or break off an answer that has begun."""
        if self.begun:  # no coverage: a fault of the simulator in the middle of an answer
            await self.cut()
        await self.reject(Rejection(type="api_error", message=message))

    async def give(self, value: Mapping[str, Any]) -> None:
        """Answer with a JSON object."""
        await self.finish(JSON, compact(value))

    async def finish(self, media_type: str, body: bytes, outcome: Outcome = "answered") -> None:
        """Answer with *body*, whatever it is, and status 200."""
        self.end(outcome, 200)
        await self._whole(200, media_type, body, {})

    async def start(self, media_type: str, headers: Mapping[str, str], *, status: int = 200) -> None:
        """Send the head of an answer."""
        self.begun = True
        named = {"content-type": media_type, "request-id": self.arrival.request_id}
        every = (named | self.state.headers(self.arrival) | dict(headers)).items()
        encoded = [(name.encode(), value.encode()) for name, value in every]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})

    async def part(self, data: bytes) -> None:
        """Send some of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def last(self, data: bytes, outcome: Outcome) -> None:
        """Send the rest of the body, and end."""
        self.end(outcome)
        await self.send({"type": "http.response.body", "body": data})

    async def cut(self) -> None:
        """Break the connection off after what was sent. Does not return: the task ends with the connection."""
        self.end("faulted")
        self.connection.transport.close()
        await for_ever()

    def say(self, text: str) -> None:
        """Note that *text* goes out now."""
        self.said += text
        self.state.say(self.arrival, self.said)

    def end(self, outcome: Outcome, status: int | None = None) -> None:
        """Close the record. Only the first end counts."""
        self.state.end(self.arrival, outcome, status)

    async def _whole(self, status: int, media_type: str, body: bytes, headers: Mapping[str, str]) -> None:
        await self.start(media_type, {"content-length": str(len(body)), **headers}, status=status)
        await self.send({"type": "http.response.body", "body": body})
