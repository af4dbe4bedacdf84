"""A fan-out whose outcomes are taken as they come, of prompts that are drawn as they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Self, Unpack

from claude_client._sdk.client import check_credentials, shared_client
from claude_client._values.budget import Budget
from claude_client._values.checks import check_callback, type_name, whole_number
from claude_client._values.errors import ClaudeInvocationError, aborted
from claude_client._values.interrupt import InterruptToken, check_token
from claude_client._values.options import Content, ResultCallback, StreamOptions
from claude_client._values.record import Asked, RunRecord, now
from claude_client._values.request import DEFAULT_MODEL
from claude_client._values.results import Results
from claude_client._verbs.fan_out import (
    MOST_ASKED_FOR,
    Outcome,
    Run,
    check_stop_after,
    job_of,
    open_run,
    report_outcomes,
    workers_of,
)
from claude_client._verbs.last import remembered
from claude_client._verbs.progress import progress_of
from claude_client._verbs.requests import asked_of, for_all, request_builder, request_or_error

_WINDOW = 4  # prompts that are drawn ahead, for each worker

_END: Any = object()  # of the prompts
NOT_YET: Any = object()  # is there another prompt, and nobody knows whether there will be


def as_completed(
    prompts: Iterable[Mapping[str, Any]],
    model: str = DEFAULT_MODEL,
    max_tokens: int = 4096,
    max_workers: int = 5,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    *,
    window: int | None = None,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[StreamOptions],
) -> AsCompleted:
    """
    Ask *prompts* at once, and give index and outcome of each, a `ClaudeResponse` or an error, as it ends.

    Nothing is kept of what was given, and no more prompts are drawn than are needed, on the thread that takes the
    outcomes: a generator of a million prompts takes no more memory than one of a hundred. Who takes no outcomes has no
    more prompts asked than there are in the window.

    Args:
        prompts: Any iterable of dicts as `invoke_parallel` takes them. One that cannot be sent has an error of kind
            "invalid_request" as its outcome. What the iterable itself raises comes out once all that was drawn before
            has been given.

        model, max_tokens, shared_system, cache_shared_system: As in `invoke_parallel`.

        max_workers: Most requests under way at once, at most 1000.

        window: Prompts that are drawn and not yet given, at most. None: four for each worker.

        interrupt_token: Ends it within 100 ms: what was drawn is given, with errors of kind "interrupted" for what has
            no answer, and no more is drawn.

        options: As in `invoke_parallel`, but for `return_exceptions`. With `share_identical`, prompts share an answer
            with those that are asked at the same time.

    Raises:
        ValueError, TypeError, ImportError: For bad input and missing credentials, before any prompt is drawn. For an
            option that no prompt could be sent with, as the first outcome is taken.
    """
    said = for_all(model, max_tokens, shared_system, cache_shared_system, options)
    return AsCompleted(prompts, max_workers, window, interrupt_token, **said)


class AsCompleted(Iterator[tuple[int, Outcome]]):
    """
    The outcomes of `as_completed`. Not for two threads at once.

    `close`, the end of a `with` block, or when nobody has it any more, as after a `break`: that ends what is under way
    within 100 ms, and what was not given is lost.

    Ctrl-C ends all requests, and comes out of `next` as a `ParallelInterrupt`, whose `.results` are the outcomes that
    were not given, in the order of their prompts; who goes on to iterate gets the same.
    """

    def __init__(
        self,
        prompts: Iterable[Mapping[str, Any]],
        max_workers: int,
        window: int | None,
        token: InterruptToken | None,
        *,
        on_result: ResultCallback | None = None,
        share_identical: bool = False,
        stop_after: int | None = None,
        progress: bool = False,
        budget_usd: Budget | None = None,
        **said: Any,
    ) -> None:
        self._closing, self._is_over = ExitStack(), False  # first, for `__del__`
        self._run: Run | None = None  # until there is something to ask
        if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Iterable):
            raise ValueError(f"prompts must be an iterable of dicts, got {type_name(prompts)}")
        check_callback("on_result", on_result)
        check_stop_after(stop_after)
        workers = workers_of(max_workers, MOST_ASKED_FOR)
        self._window = _WINDOW * workers if window is None else whole_number("window", window, 1)
        self._build = request_builder(budget_usd=budget_usd, **said)
        self._model, self._category = said["model"], said.get("category")
        self._on_result = on_result
        self._share_identical = share_identical
        self._budget = budget_usd
        self._began = now()
        self._prompts: Iterator[Mapping[str, Any]] | None = iter(prompts)
        self._failure: Exception | None = None  # of the iterable
        self._drawn = 0
        # What was drawn and not given: what it says of itself, and what has ended of it.
        self._left: dict[int, Asked] = {}
        self._ended: dict[int, Outcome] = {}
        check_token(token)
        self._token = token
        with shared_client() as client:
            check_credentials(client, [])
        self._bar = self._closing.enter_context(progress_of(_length_of(prompts), workers, shown=progress))
        self._open = partial(
            # Hooks that know nothing of this: else the threads would keep it when nobody else has it.
            open_run,
            max_workers=workers,
            token=token,
            on_outcomes=self._ended.update,
            on_hold=self._bar.hold if self._bar else None,
            stop_after=stop_after,
            name="as_completed",
        )

    @property
    def interrupted(self) -> bool:
        """Whether it was ended from outside."""
        return self._run.interrupted if self._run else bool(self._token and self._token.is_interrupted())

    def __next__(self) -> tuple[int, Outcome]:
        try:
            self._draw()
            while self._left and not self._ended:
                self._do_next()
                self._draw()
            if self._ended:
                return self._given()
            self._end()
        except BaseException:
            with remembered(self._given_up):
                raise
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure
        raise StopIteration

    def close(self) -> None:
        """End what is under way within 100 ms, and give nothing any more."""
        self._left.clear()
        self._ended.clear()
        self._failure = None
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # On whatever thread, in the middle of whatever: it waits for nobody, and for no lock.
        with suppress(BaseException):
            if self._run and not self._is_over:
                self._run.abandon()
            else:
                self._closing.close()

    def _draw(self) -> None:
        """Draw prompts while there is room for them, until something has ended."""
        while self._prompts is not None and len(self._left) < self._window:
            spec = self._drawn_one(self._prompts)
            if spec is NOT_YET:
                return
            if spec is _END:
                self._prompts = None
            if self._prompts is None:  # or it was closed meanwhile
                return
            self._ask(spec)
            self._do_next(0.0)
            if self._ended:
                return

    def _drawn_one(self, prompts: Iterator[Any]) -> Any:
        """The next of *prompts*: `_END` after the last, `NOT_YET` if others can be waited for meanwhile."""
        if self._run.is_stopped if self._run else self.interrupted:
            return _END
        try:
            if self._run and self._left and isinstance(prompts, Feed):
                return prompts.poll(self._run.post)
            return next(prompts, _END)
        except Exception as failed:  # noqa: BLE001 - of the caller's iterable, and for the caller
            self._failure = failed
            return _END

    def _ask(self, spec: Any) -> None:
        index, self._drawn = self._drawn, self._drawn + 1
        (self._left[index],) = asked_of([spec], self._model, self._category)
        request = request_or_error(self._build, index, spec)
        if not isinstance(request, ClaudeInvocationError):
            if self._run is None:
                self._run = self._closing.enter_context(self._open())
                self._run.close = self._closing.close
            self._run.add(job_of(index, request, share_identical=self._share_identical))
            return
        if index == 0:
            self._build_or_raise()
        self._ended[index] = request

    def _build_or_raise(self) -> None:
        """
        Raises:
            ValueError: If what is said for all prompts cannot be sent with any.
        """
        try:
            self._build(0, {"prompt": "to check the options"})
        except ValueError as bad:
            raise ValueError(str(bad).removeprefix("prompts[0]: ")) from None

    def _do_next(self, within: float = math.inf) -> None:
        if self._run:
            self._run.do_next(within)

    def _given(self) -> tuple[int, Outcome]:
        index = next(iter(self._ended))
        outcome = self._ended[index]
        report_outcomes({index: outcome}, self._bar, self._on_result)
        if self._run:
            self._run.forget(index)
        self._left.pop(index, None)  # or it was closed by a callback
        self._ended.pop(index, None)
        return index, outcome

    def _given_up(self) -> Results:
        """End all, and return what was not given."""
        self._end()
        known = self._run.outcomes if self._run else {}
        for index in self._left:
            self._ended.setdefault(index, known.get(index) or aborted("interrupted"))
        self._ended = dict(sorted(self._ended.items()))
        state = self._budget.state if self._budget else None
        run = RunRecord(self._began, now(), [self._left[index] for index in self._ended], state)
        return Results.of(dict(enumerate(self._ended.values())), interrupted=True, run=run)

    def _end(self) -> None:
        self._prompts, self._is_over = None, True
        self._closing.close()


class Feed(Iterator[Any]):
    """Prompts that another thread puts in as it is asked for them, with *ask*, one after another."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._is_asked = False
        self._items: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self._post: Callable[[Callable[[], None]], object] | None = None

    def put(self, spec: Any, failure: Exception | None = None) -> None:
        """Put *spec* in, or `_END`, by a *failure* if there was one. From any thread."""
        self._items.put((spec, failure))
        if self._post:
            self._post(lambda: None)

    def end(self, failure: Exception | None = None) -> None:
        """There are no more. From any thread."""
        self.put(_END, failure)

    def __next__(self) -> Any:
        self._want()
        spec = self._taken(self._items.get())
        if spec is _END:
            raise StopIteration
        return spec

    def poll(self, post: Callable[[Callable[[], None]], object]) -> Any:
        """The next prompt, `_END` after the last; or `NOT_YET`: once it is there, *post* is called with an event."""
        self._post = post
        self._want()
        try:
            return self._taken(self._items.get_nowait())
        except Empty:
            return NOT_YET

    def _want(self) -> None:
        if not self._is_asked:
            self._is_asked = True
            self._ask()

    def _taken(self, item: tuple[Any, Exception | None]) -> Any:
        spec, failure = item
        self._is_asked = False
        if failure:
            raise failure
        return spec


def _length_of(prompts: Iterable[Any]) -> int | None:
    """How many *prompts* there are; None where nobody knows."""
    return len(prompts) if isinstance(prompts, Sized) else None
