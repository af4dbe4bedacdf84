"""A progress bar of tqdm for a fan-out, in a terminal or in a notebook; elsewhere, as in a log, a line now and then."""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

from claude_client._engine.flow import Outcome
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.kinds import FROM_OUTSIDE
from claude_client._values.text import span
from claude_client._values.usage import Usage
from claude_client._verbs.fan_out import call_back
from claude_client._verbs.limits import rate_limits

_LINE_EVERY = 30.0  # seconds, where there is no terminal


def progress_of(prompts: int | None, workers: int, *, shown: bool) -> AbstractContextManager[Bar | None]:
    """
    Open a bar over so many *prompts*, None where nobody knows, of which at most *workers* are under way at once. Gives
    the bar to call with each outcome, None for no bar, and closes it with the context.

    Raises:
        ImportError: If it is to be *shown*, without the `progress` extra.
    """
    return Bar(prompts, workers) if shown else nullcontext()


class Bar:
    """A bar over all prompts, which moves with each that is answered or has failed. Call it with each outcome."""

    def __init__(self, prompts: int | None, workers: int) -> None:
        try:
            with warnings.catch_warnings():  # without widgets it is a bar of text, also in a notebook
                warnings.filterwarnings("ignore", message="IProgress not found")
                from tqdm.auto import tqdm
        except ImportError as missing:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from missing
        lines: dict[str, Any] = {"file": _Lines(sys.stderr), "mininterval": _LINE_EVERY, "maxinterval": _LINE_EVERY}
        self._bar: Any = tqdm(total=prompts, unit="prompt", **({} if _is_redrawn() else lines))
        self._left = prompts or 0
        self._workers = workers
        self._failed = 0
        self._ended: Counter[str] = Counter()  # what was ended before it was answered, or was never begun
        self._used = Usage()
        self._held_by: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def hold(self, reason: str | None) -> None:
        """Show what all wait for; None: for nothing any more."""
        self._held_by = reason
        call_back(self._show, "The progress bar", "a wait", True)

    def __call__(self, outcome: Outcome) -> None:
        """Count a prompt that is over."""
        self._used += outcome.usage
        self._left -= 1
        why = _unanswered(outcome)
        if why is None:
            self._failed += isinstance(outcome, ClaudeInvocationError)
            self._bar.update()
        else:
            self._ended[why] += 1
        self._show(False)

    def _show(self, refresh: bool) -> None:
        waits = {"waits for": self._wait()} if self._held_by else {}
        tokens = self._used.total_input_tokens
        self._bar.set_postfix(
            {
                "failed": self._failed,
                "tokens": f"{tokens + self._used.output_tokens:,}",
                "cached": f"{self._used.cache_read_input_tokens / tokens:.0%}" if tokens else "0%",
                **self._ended,
                **waits,
            },
            refresh=refresh,
        )

    def _wait(self) -> str:
        """What all wait for, how many do, and how long it will take them by the pace that has been learnt."""
        waiting = max(0, self._left - self._workers)
        held = [limit for limit in rate_limits() if limit.held_back]
        seconds = max([waiting / limit.pace for limit in held if limit.pace] + [0.0])
        seconds += max([limit.shut_until - time.time() for limit in held if limit.shut_until] + [0.0])
        left = f", {span(round(seconds))} left" if seconds >= 1 else ""
        return f"{self._held_by} ({waiting:,} prompts{left})" if waiting else f"{self._held_by}"


class _Lines:
    """A file that writes what is drawn upon it as lines, for logs: nothing in them can be drawn over."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, drawn: str) -> None:
        if line := drawn.strip():
            self._file.write(f"{line}\n")

    def flush(self) -> None:
        self._file.flush()


def _is_redrawn() -> bool:
    """Whether what is written can be drawn over: in a terminal, and in a notebook."""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def _unanswered(outcome: Outcome) -> str | None:
    """What became of a prompt that was not asked to the end; None if it was answered, or has failed."""
    if not isinstance(outcome, ClaudeInvocationError) or outcome.kind == "invalid_request":
        return None
    if outcome.kind != "cancelled" and not outcome.attempts:
        return "not started"
    return outcome.kind if outcome.kind in FROM_OUTSIDE else None
