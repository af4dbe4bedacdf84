"""Error answers for rejected requests, and the exception that carries them."""

from __future__ import annotations

import json
from dataclasses import dataclass

# Facts 3: the status of each error type.
STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """
    An error answer.

    Args:
        type: The API's error type. It decides the status unless *status* is given.

        code: ``error.details.error_code``; None leaves the details out.

        retry_after: Seconds for the retry-after header; None leaves it out.

        should_retry: The x-should-retry header; None leaves it out.
    """

    type: str
    message: str
    code: str | None = None
    status: int | None = None
    retry_after: float | None = None
    should_retry: bool | None = None

    @property
    def http_status(self) -> int:
        """The status to answer with; 400 for a type the API does not have."""
        return self.status or STATUS_OF.get(self.type, 400)

    def headers(self) -> dict[str, str]:
        """The headers that tell a client when to come back."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = f"{self.retry_after:g}"
        if self.should_retry is not None:
            headers["x-should-retry"] = str(self.should_retry).lower()
        return headers

    def body(self, request_id: str) -> bytes:
        """The JSON body, in the shape of facts 3."""
        error: dict[str, object] = {"type": self.type, "message": self.message}
        if self.code is not None:
            error["details"] = {"error_code": self.code}
        return json.dumps({"type": "error", "error": error, "request_id": request_id}).encode()


class RejectedError(Exception):
    """The request gets *rejection* for an answer."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


def invalid(message: str) -> RejectedError:
    """A 400 that says *message*."""
    return RejectedError(Rejection(type="invalid_request_error", message=message))
