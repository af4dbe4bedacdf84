"""The results of a fan-out as rows of plain values, and what all of them come to."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from claude_client._values.costs import costs_of
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.record import Asked, AttemptRecord, Cause, ToolRecord, by_task, end_of, made_again, own
from claude_client._values.response import ClaudeResponse
from claude_client._values.text import dollars, span

Outcome = ClaudeResponse | ClaudeInvocationError


def row_of(index: int, outcome: Outcome | None, asked: Asked) -> dict[str, Any]:
    """What became of the prompt *index*, by the columns of `Results.to_dicts`."""
    return {**_facts_of(index, outcome, asked), **_columns_of(_plain_output(outcome))}


def line_of(index: int, outcome: Outcome | None, asked: Asked) -> dict[str, Any]:
    """The same as a JSON object: with the whole output, where there is one, as `output`."""
    output = _plain_output(outcome)
    return {**_facts_of(index, outcome, asked), **({} if output is None else {"output": output})}


def _facts_of(index: int, outcome: Outcome | None, asked: Asked) -> dict[str, Any]:
    attempts = outcome.attempts if outcome is not None else ()
    usage = outcome.usage if outcome is not None else None
    error = outcome if isinstance(outcome, ClaudeInvocationError) else None
    answer = outcome if isinstance(outcome, ClaudeResponse) else None
    calls = outcome.tool_calls if outcome is not None else ()
    own_ones = own(attempts)
    last = own_ones[-1] if own_ones else None
    return {
        "index": index,
        "task_id": asked.task_id,
        "category": asked.category,
        "model": last.model if last else asked.model,
        "text": str(answer) if answer is not None else error.partial_text if error else None,
        "error": error.kind if error else None,
        "message": str(error) if error else None,
        "stop_reason": answer.stop_reason if answer is not None else None,
        "input_tokens": usage.input_tokens if usage else 0,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens if usage else 0,
        "cache_read_input_tokens": usage.cache_read_input_tokens if usage else 0,
        "output_tokens": usage.output_tokens if usage else 0,
        **_costs(outcome),
        "waited": sum(seconds for attempt in own_ones for seconds in attempt.waited.values()),
        "time_to_first_text": first_text_after(last),
        "took": whole_time(attempts, calls),
        "attempts": len(attempts),
        "retries": sum(1 for _ in made_again(attempts)),
        "tool_calls": len(calls),
        "request_id": last.request_id if last else None,
    }


def _plain_output(outcome: Outcome | None) -> Any:
    """The output of an answer as a JSON value; None where there is none."""
    if not isinstance(outcome, ClaudeResponse) or outcome.output is None:
        return None
    from pydantic_core import to_jsonable_python

    try:
        return to_jsonable_python(outcome.output, fallback=repr, bytes_mode="base64")
    except Exception:  # noqa: BLE001 - of a type of the user's: the table is to have the others
        return repr(outcome.output)


def _columns_of(plain: Any) -> dict[str, Any]:
    """The fields of a *plain* output; what is neither a text nor a number as JSON."""
    if plain is None:
        return {}
    fields = (
        {f"output.{name}": value for name, value in plain.items()} if isinstance(plain, dict) else {"output": plain}
    )
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
        for name, value in fields.items()
    }


def first_text_after(attempt: AttemptRecord | None) -> float | None:
    """Seconds from when it was sent to its first text; None if there was none, or all came in one piece."""
    if attempt is None or attempt.first_text is None or attempt.sent is None:
        return None
    return attempt.first_text - attempt.sent


def whole_time(attempts: Sequence[AttemptRecord], tool_calls: Sequence[ToolRecord]) -> float | None:
    """Seconds from when a prompt was first queued to when it was over; None if nothing was sent."""
    if not attempts or attempts[0].queued is None or (ended := end_of(attempts, tool_calls)) is None:
        return None
    return ended - attempts[0].queued


def _costs(outcome: Outcome | None) -> dict[str, float | None]:
    costs = None
    with suppress(ImportError):  # without the `cost` extra
        costs = costs_of([outcome])
    return {
        "cost_usd": costs.total if costs else None,
        "saved_by_cache_usd": costs.saved_by_cache if costs else None,
        "wasted_usd": costs.wasted if costs else None,
    }


class Spread(NamedTuple):
    """How some seconds are spread: half are at most *middle*, 95 of 100 at most *most*."""

    middle: float
    most: float
    longest: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread | None:
        """None if there are none."""
        ordered = sorted(seconds)
        if not ordered:
            return None
        middle, most = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95))
        return cls(middle, most, ordered[-1])

    def __str__(self) -> str:
        return f"{span(self.middle)} (p95 {span(self.most)}, longest {span(self.longest)})"


def foot_of(outcomes: Sequence[Outcome | None], took: float | None) -> Iterator[str]:
    """Lines about all *outcomes*: throughput and cost, how long requests and prompts took, what was made again."""
    done = [outcome for outcome in outcomes if outcome is not None and outcome.attempts]
    answered = sum(isinstance(outcome, ClaudeResponse) for outcome in done)
    parts = [f"took {span(took)}"] if took else []
    if took and answered:
        parts.append(f"{answered / took:,.3g} answers a second")
    if parts:
        yield ", ".join(parts)
    with suppress(ImportError):
        costs = costs_of(outcomes)
        if costs and costs.total:
            yield f"cost {costs}"
        if costs and len(costs.by_model) > 1:
            yield f"by model: {', '.join(f'{model} {dollars(cost)}' for model, cost in costs.by_model.items())}"
    last = [task[-1] for outcome in done for task in by_task(outcome.attempts)]
    spreads = {
        "latency": Spread.of(_known(attempt.took for attempt in last)),
        "first text after": Spread.of(_known(map(first_text_after, last))),
        **{f"waited for {cause}": Spread.of(waits) for cause, waits in waits_of(done).items()},
    }
    yield from (f"{what} {spread}" for what, spread in spreads.items() if spread and spread.longest >= 0.001)
    failed = Counter(attempt.outcome for outcome in done for attempt in made_again(outcome.attempts))
    again = [f"{count} after {kind}" for kind, count in failed.most_common()]
    if again:
        yield f"made again: {', '.join(again)}"


def waits_of(outcomes: Iterable[Outcome]) -> Mapping[Cause, list[float]]:
    """The seconds that each prompt, or task of a tool, has waited, by cause, where it has."""
    waits: dict[Cause, list[float]] = defaultdict(list)
    for attempts in (task for outcome in outcomes for task in by_task(outcome.attempts)):
        waited: dict[Cause, float] = {}
        for attempt in attempts:
            for cause, seconds in attempt.waited.items():
                waited[cause] = waited.get(cause, 0.0) + seconds
        for cause, seconds in waited.items():
            if seconds:  # the next turn of a call has waited 0 s to be made again
                waits[cause].append(seconds)
    return waits


def _known(seconds: Iterable[float | None]) -> Iterator[float]:
    return (one for one in seconds if one is not None)
