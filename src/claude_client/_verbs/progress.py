"""A progress bar of tqdm for a fan-out, in a terminal or in a notebook."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

from claude_client._engine.flow import Outcome
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.usage import Usage
from claude_client._verbs.fan_out import call_back


def progress_of(prompts: int, *, shown: bool) -> AbstractContextManager[Bar | None]:
    """
    Open a bar: gives the bar to call with each outcome, None for no bar, and closes it with the context.

    Raises:
        ImportError: If it is to be *shown*, without the `progress` extra.
    """
    return Bar(prompts) if shown else nullcontext()


class Bar:
    """A bar over all prompts. Call it with each outcome."""

    def __init__(self, prompts: int) -> None:
        try:
            with warnings.catch_warnings():  # without widgets it is a bar of text, also in a notebook
                warnings.filterwarnings("ignore", message="IProgress not found")
                from tqdm.auto import tqdm
        except ImportError as missing:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from missing
        self._bar: Any = tqdm(total=prompts, unit="prompt")
        self._failed = 0
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
        """Move on by a prompt."""
        ended = {"cancelled", "interrupted"}
        self._failed += isinstance(outcome, ClaudeInvocationError) and outcome.kind not in ended
        self._used += outcome.usage
        self._show(False)
        self._bar.update()

    def _show(self, refresh: bool) -> None:
        waits = {"waits for": self._held_by} if self._held_by else {}
        tokens = self._used.total_input_tokens
        self._bar.set_postfix(
            {
                "failed": self._failed,
                "tokens": f"{tokens + self._used.output_tokens:,}",
                "cached": f"{self._used.cache_read_input_tokens / tokens:.0%}" if tokens else "0%",
                **waits,
            },
            refresh=refresh,
        )
