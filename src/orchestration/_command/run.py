"""What is done with prompts: they are asked, estimated, or looked up in the journal."""

from __future__ import annotations

import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, cast

from claude_client import (
    Budget,
    ClaudeInvocationError,
    Estimate,
    InterruptToken,
    ParallelInterrupt,
    ParallelInvocationError,
    PromptOptions,
    estimate_cost,
)
from claude_client._verbs.requests import asked_of, request_builder, request_or_error
from orchestration._batch import invoke_batch
from orchestration._journal_entries import Journal
from orchestration._journal_file import readable
from orchestration._managed import ManagedOptions, invoke_parallel_managed, recalled
from orchestration._recorder import ManagedResults

from .lines import Answers, Prompt, is_of_files, read_prompts, refuse

_OF_THE_RUN = ManagedOptions.__optional_keys__ - PromptOptions.__optional_keys__
_OF_A_BATCH = {"check_first", "primer", "poll_interval"}
# What a line cannot say as JSON, or has an option of its own for.
_NOT_TO_BE_SET = {
    *("reconcile", "reconcile_interval", "on_stall", "tracker", "interrupt_token", "on_result"),
    *("journal", "progress", "budget_usd"),
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: Namespace) -> int:
    """Ask the prompts, write the answers, and return the exit code."""
    budget = None if options.budget is None else Budget(options.budget, reserve=options.reserve)
    prompts, said = _asked(options, budget)
    journal = _journal_of(options)
    if options.dry_run:
        return _dry_run(options, prompts, said, journal)
    token = InterruptToken()
    about = asked_of([prompt.spec for prompt in prompts], said["model"], said.get("category"))
    with Answers(options.out, about, in_order=not options.as_they_come, on_failure=token.interrupt) as answers:
        with _ended_by_signals(token) as ended_by:
            results, failure = _results_of(options, prompts, said, journal, token, answers)
        answers.finish(results)
    if isinstance(answers.failure, BrokenPipeError):  # who reads has read enough
        return 128 + signal.SIGPIPE
    return _end(options, results, failure or answers.failure, journal, ended_by)


def status(options: Namespace) -> int:
    """Say what is left of a run; 1 if there is something."""
    prompts, said = _asked(options)
    journal = _journal_of(options)
    if journal is None:
        raise ValueError("status looks into the journal of a run: say --journal FILE, or the --out of the run")
    with _looked_into(journal) as path:
        results = _recalled(prompts, said, path)
        batches = Journal(path).batches() if path else []
    answered = sum(answer is not None for answer in results)
    found = {
        "prompts": len(results),
        "answered": answered,
        "refused": len(results.recalled) - answered,
        "left": len(results) - len(results.recalled),
        "batches": batches,
    }
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:<8} {', '.join(n) or 0 if isinstance(n, list) else n}" for name, n in found.items()))
    return 1 if found["left"] else 0


def estimate(options: Namespace) -> int:
    """Say what a run will cost."""
    prompts, said = _asked(options)
    found = _estimate(
        options,
        prompts,
        said,
        offline=options.offline,
        sample=options.sample,
        expected_output=options.expected_output,
        like=Journal(options.like).entries() if options.like else None,
    )
    print(found)
    if options.compare is not None:
        print(f"\n{found.compare(options.compare)}")
    return 0


def _asked(options: Namespace, budget: Budget | None = None) -> tuple[list[Prompt], dict[str, Any]]:
    """
    The prompts, and what is said for all of them.

    Raises:
        ValueError: Naming the lines that cannot be sent.
        TypeError: For an option that nobody knows.
    """
    for name, _ in options.set:
        if name in _NOT_TO_BE_SET:
            raise ValueError(f"--set cannot say {name}")
    prompts = read_prompts(options.prompts)
    said = {
        "model": options.model,
        "max_tokens": options.max_tokens,
        "shared_system": options.system,
        "cache_shared_system": options.cache,
        "budget_usd": budget,
        **({} if options.schema is None else {"output": options.schema}),
        **dict(options.set),
    }
    if not options.batch and (of_batch := said.keys() & _OF_A_BATCH):
        raise ValueError(f"{min(of_batch)} is for --batch")
    build = request_builder(batch=options.batch, **_without_run(said))
    built = [request_or_error(build, index, prompt.spec) for index, prompt in enumerate(prompts)]
    refuse(
        [
            f"{prompt.line}: {one.args[0].removeprefix(f'prompts[{index}]').lstrip(': ')}"
            for index, (prompt, one) in enumerate(zip(prompts, built, strict=True))
            if isinstance(one, ClaudeInvocationError)
        ]
    )
    return prompts, said


def _without_run(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in _OF_THE_RUN | _OF_A_BATCH}


def _journal_of(options: Namespace) -> str | None:
    if options.no_journal or options.journal:
        return options.journal or None
    return f"{options.out}.journal" if is_of_files(options.out) else None


def _results_of(
    options: Namespace,
    prompts: Sequence[Prompt],
    said: dict[str, Any],
    journal: str | None,
    token: InterruptToken,
    answers: Answers,
) -> tuple[ManagedResults, Exception | None]:
    """The results, and why the run was stopped, if it was."""
    asking: dict[str, Any] = {
        **said,
        "journal": journal,
        "interrupt_token": token,
        "on_result": answers.take,
        "progress": not options.quiet and find_spec("tqdm") is not None,
    }
    if options.max_workers is not None:
        asking["max_workers"] = options.max_workers
    by_batch = {"finish_by": options.finish_by, "cancel_on_interrupt": options.cancel_on_interrupt}
    if not options.batch and any(by_batch.values()):
        raise ValueError("--finish-by and --cancel-on-interrupt are for --batch")
    specs = [prompt.spec for prompt in prompts]
    try:
        if options.batch:
            return invoke_batch(specs, **by_batch, **asking), None
        return invoke_parallel_managed(specs, **asking), None
    except (ParallelInvocationError, ParallelInterrupt) as ended:
        return cast("ManagedResults", ended.results), ended if isinstance(ended, Exception) else None


def _end(
    options: Namespace,
    results: ManagedResults,
    failure: Exception | None,
    journal: str | None,
    ended_by: Sequence[int],
) -> int:
    """Say how the run has ended, and return the exit code."""
    if options.timeline:
        results.timeline().save(options.timeline)
    if not options.quiet:
        _say(results.summary(each=False))
    if isinstance(failure, OSError):
        _say(f"Answers cannot be written to {options.out}: {failure}")
    elif failure:
        _say(f"The run was stopped: {failure}")
    answered = sum(answer is not None for answer in results)
    refused = sum(error.kind == "refusal" for error in results.errors.values())
    if answered + refused < len(results):
        _say(f"{answered} of {len(results)} prompts are answered.{_going_on(results, journal)}")
    if ended_by:
        return 128 + ended_by[0]
    if results.out_of_budget:
        return 3
    return 1 if failure or answered < len(results) else 0


def _going_on(results: ManagedResults, journal: str | None) -> str:
    if journal is None:
        return ""
    batches = " and collects the batches, which go on" if results.batches else ""
    return f" What was is kept in {journal}: the same command asks the rest{batches}."


@contextmanager
def _ended_by_signals(token: InterruptToken) -> Iterator[list[int]]:
    """Have the first of some signals interrupt *token*, and be in the list. The next one does what it did before."""
    came: list[int] = []
    # One that is ignored, as by nohup, stays so.
    before = {number: how for number in _SIGNALS if (how := signal.getsignal(number)) is not signal.SIG_IGN}

    def restore() -> None:
        for number, how in before.items():
            signal.signal(number, how)

    def end(number: int, _: object) -> None:
        came.append(number)
        restore()
        token.interrupt()

    for number in before:
        signal.signal(number, end)
    try:
        yield came
    finally:
        restore()


def _looked_into(journal: str) -> AbstractContextManager[str | None]:
    """The path of *journal*, or of a copy of what it has so far; None where there is none."""
    return readable(journal) if os.path.lexists(journal) else nullcontext()


def _recalled(prompts: Sequence[Prompt], said: dict[str, Any], journal: str | None) -> ManagedResults:
    """What *journal* has of the prompts."""
    return recalled([prompt.spec for prompt in prompts], journal, **_without_run(said))


def _dry_run(options: Namespace, prompts: Sequence[Prompt], said: dict[str, Any], journal: str | None) -> int:
    left = prompts
    if journal:
        with _looked_into(journal) as path:
            known = _recalled(prompts, said, path).recalled
        left = [prompt for index, prompt in enumerate(prompts) if index not in known]
        print(f"{'left':<8} {len(left):,} of {len(prompts):,} prompts")
    if left:
        print(_estimate(options, left, said))
    return 0


def _estimate(options: Namespace, prompts: Sequence[Prompt], said: dict[str, Any], **how: Any) -> Estimate:
    shared = {name: said[name] for name in ("share_identical",) if name in said}
    workers = min(options.max_workers or 5, 10)
    specs = [prompt.spec for prompt in prompts]
    return estimate_cost(specs, max_workers=workers, batch=options.batch, **_without_run(said), **shared, **how)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
