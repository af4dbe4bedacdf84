"""Outcomes as JSON values, to be kept in a file and read again with any SDK."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

from claude_client._engine.flow import Outcome
from claude_client._sdk.parameters import message_of
from claude_client._values.errors import ClaudeInvocationError, fields_of, with_totals
from claude_client._values.record import AttemptRecord, ToolRecord
from claude_client._values.response import response_of
from claude_client._values.usage import Bill, Usage, total

_BILLED = AttemptRecord._fields.index("billed")


def to_stored(outcome: Outcome) -> dict[str, Any]:
    """Return all of *outcome* that `from_stored` needs, as a dict in which dates are still objects."""
    if isinstance(outcome, ClaudeInvocationError):
        return {
            "error": outcome.args[0],
            **fields_of(outcome),
            "usage": asdict(outcome.usage),
            "bills": _bills_of(outcome),
            **_loop_of(outcome),
        }
    return {
        "message": outcome.message.to_dict(warnings=False),
        "request_id": outcome.request_id,
        **_bills_of(outcome),
        **_loop_of(outcome),
    }


def _loop_of(outcome: Outcome) -> dict[str, Any]:
    """What a call with tools has done, if *outcome* is of one."""
    return {"tool_calls": outcome.tool_calls, "messages": outcome.messages} if outcome.messages else {}


def _bills_of(outcome: Outcome) -> dict[str, Any]:
    bills = [bill for attempt in outcome.attempts for bill in attempt.bills]
    return {
        "usages": [asdict(bill.usage) for bill in bills],
        "models": [bill.model for bill in bills],
        "fast, batch, in_us": [bill[2:] for bill in bills],
        # Each with the number of its bills among those.
        "attempts": [(len(attempt.bills), attempt.model, *attempt[2:_BILLED]) for attempt in outcome.attempts],
        # Of each that was made for a tool, by its place among them.
        "of tools": {
            str(place): (attempt.path, attempt.tool_use_ids)
            for place, attempt in enumerate(outcome.attempts)
            if attempt.path
        },
    }


def from_stored(stored: Mapping[str, Any]) -> Outcome:
    """The outcome from the dict of `to_stored`, of this version or an older one."""
    if "error" in stored:
        fields = {**stored, "usage": Usage(**stored["usage"])}
        attempts = _attempts_from(fields.pop("bills", {"usages": []}), "")
        loop = fields.pop("tool_calls", ()), fields.pop("messages", ())
        error = ClaudeInvocationError(fields.pop("error"), **fields)
        return _with_loop(with_totals(error, attempts) if attempts else error, *loop)
    message = message_of(stored["message"])
    response = response_of(message, stored["request_id"], _attempts_from(stored, message.model))
    return _with_loop(response, stored.get("tool_calls", ()), stored.get("messages", ()))


def _with_loop(outcome: Outcome, tool_calls: Iterable[Any], messages: Iterable[Any]) -> Outcome:
    if messages:
        outcome.tool_calls, outcome.messages = tuple(map(_tool_call, tool_calls)), tuple(messages)
    return outcome


def _tool_call(stored: Iterable[Any]) -> ToolRecord:
    call = ToolRecord(*stored)
    return call._replace(path=tuple(call.path), tool_use_ids=tuple(call.tool_use_ids))


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
    of_tools = stored.get("of tools", {})
    for place, (number, answered, *rest) in enumerate(stored["attempts"]):
        billed = tuple(islice(left, number))
        path, ids = of_tools.get(str(place), ((), ()))
        known = AttemptRecord(answered, total(bill.usage for bill in billed), *rest)
        attempts.append(known._replace(billed=billed, path=tuple(path), tool_use_ids=tuple(ids)))
    return attempts
