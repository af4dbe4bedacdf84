"""Outcomes as JSON values, to be kept in a file and read again with any SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from claude_client._engine.flow import Outcome
from claude_client._sdk.parameters import message_of
from claude_client._values.errors import ClaudeInvocationError, fields_of
from claude_client._values.record import AttemptRecord
from claude_client._values.response import attempts_of, response_of
from claude_client._values.usage import Bill, Usage


def to_stored(outcome: Outcome) -> dict[str, Any]:
    """Return all of *outcome* that `from_stored` needs, as a dict in which dates are still objects."""
    if isinstance(outcome, ClaudeInvocationError):
        return {"error": str(outcome), **fields_of(outcome), "usage": asdict(outcome.usage)}
    bills = [bill for attempt in attempts_of(outcome) for bill in attempt.bills]
    return {
        "message": outcome.message.to_dict(warnings=False),
        "request_id": outcome.request_id,
        "usages": [asdict(bill.usage) for bill in bills],
        "models": [bill.model for bill in bills],
        "fast, batch, in_us": [bill[2:] for bill in bills],
    }


def from_stored(stored: Mapping[str, Any]) -> Outcome:
    """The outcome from the dict of `to_stored`, of this version or an older one."""
    if "error" in stored:
        fields = {**stored, "usage": Usage(**stored["usage"])}
        return ClaudeInvocationError(fields.pop("error"), **fields)
    message = message_of(stored["message"])
    usages = [Usage(**used) for used in stored["usages"]]
    models = stored.get("models") or [message.model] * len(usages)  # which older versions did not write
    ways = stored.get("fast, batch, in_us") or [()] * len(usages)
    bills = [Bill(model, usage, *way) for model, usage, way in zip(models, usages, ways, strict=True)]
    attempts = [AttemptRecord(bill.model, bill.usage, billed=(bill,)) for bill in bills]
    return response_of(message, stored["request_id"], attempts)
