"""Outcomes as JSON values, to be kept in a file and read again with any SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

from claude_client._engine.flow import Outcome
from claude_client._sdk.parameters import message_of
from claude_client._values.errors import ClaudeInvocationError, fields_of, with_totals
from claude_client._values.record import AttemptRecord
from claude_client._values.response import response_of
from claude_client._values.usage import Bill, Usage, total


def to_stored(outcome: Outcome) -> dict[str, Any]:
    """Return all of *outcome* that `from_stored` needs, as a dict in which dates are still objects."""
    if isinstance(outcome, ClaudeInvocationError):
        return {
            "error": outcome.args[0],
            **fields_of(outcome),
            "usage": asdict(outcome.usage),
            "bills": _bills_of(outcome),
        }
    return {
        "message": outcome.message.to_dict(warnings=False),
        "request_id": outcome.request_id,
        **_bills_of(outcome),
    }


def _bills_of(outcome: Outcome) -> dict[str, Any]:
    bills = [bill for attempt in outcome.attempts for bill in attempt.bills]
    return {
        "usages": [asdict(bill.usage) for bill in bills],
        "models": [bill.model for bill in bills],
        "fast, batch, in_us": [bill[2:] for bill in bills],
        # Each with the number of its bills among those.
        "attempts": [(len(attempt.bills), attempt.model, *attempt[2:-1]) for attempt in outcome.attempts],
    }


def from_stored(stored: Mapping[str, Any]) -> Outcome:
    """The outcome from the dict of `to_stored`, of this version or an older one."""
    if "error" in stored:
        fields = {**stored, "usage": Usage(**stored["usage"])}
        attempts = _attempts_from(fields.pop("bills", {"usages": []}), "")
        error = ClaudeInvocationError(fields.pop("error"), **fields)
        return with_totals(error, attempts) if attempts else error
    message = message_of(stored["message"])
    return response_of(message, stored["request_id"], _attempts_from(stored, message.model))


def _attempts_from(stored: Mapping[str, Any], model: str) -> list[AttemptRecord]:
    """The attempts of `to_stored`; of an older version, which did not write all of it, as plain ones of *model*."""
    usages = [Usage(**used) for used in stored["usages"]]
    models = stored.get("models") or [model] * len(usages)
    ways = stored.get("fast, batch, in_us") or [()] * len(usages)
    bills = [Bill(model, usage, *way) for model, usage, way in zip(models, usages, ways, strict=True)]
    if "attempts" not in stored:
        return [AttemptRecord(bill.model, bill.usage, billed=(bill,)) for bill in bills]
    left = iter(bills)
    attempts = []
    for number, answered, *rest in stored["attempts"]:
        billed = tuple(islice(left, number))
        attempts.append(AttemptRecord(answered, total(bill.usage for bill in billed), *rest)._replace(billed=billed))
    return attempts
