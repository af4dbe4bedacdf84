"""Asks the caller which prompts are still wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from claude_client._values.content import to_json_value
from claude_client._verbs.requests import prompt_list
from task_state import InvalidTransitionError, TaskTracker

Prompt = dict[str, Any]

#: Gets copies of prompts, each with a `task_id`, and the tracker; returns those that are wanted, changed or not.
Reconcile = Callable[[list[Prompt], TaskTracker], Sequence[Mapping[str, Any]]]


def identified(prompts: Sequence[Mapping[str, Any]]) -> dict[str, Prompt]:
    """
    Copies of *prompts* by their ids; one without a `task_id` gets ``prompts[<its index>]``.

    Raises:
        ValueError: If a prompt is no dict, or a `task_id` is no text, blank or there twice.
    """
    found: dict[str, Prompt] = {}
    for i, prompt in enumerate(prompt_list(prompts)):
        if not isinstance(prompt, Mapping):
            raise ValueError(f"prompts[{i}] is a {type(prompt).__name__}, not a dict such as {{'prompt': ...}}")
        task_id = prompt.get("task_id")
        if task_id is None:
            task_id = f"prompts[{i}]"
        if not isinstance(task_id, str) or not task_id.strip():
            raise ValueError(f"prompts[{i}]: task_id must be a non-empty str, got {task_id!r}")
        category = prompt.get("category")
        if category is not None and not isinstance(category, str):
            raise ValueError(f"prompts[{i}]: category must be a str or None, got {category!r}")
        if task_id in found:
            raise ValueError(f"prompts[{i}]: the task_id {task_id!r} is there twice")
        found[task_id] = {**_copied(prompt), "task_id": task_id}
    return found


def wanted(reconcile: Reconcile, prompts: Mapping[str, Prompt], tracker: TaskTracker) -> dict[str, Prompt]:
    """
    Return the prompts that *reconcile* wants of *prompts*, by their ids.

    Raises:
        ValueError: If it returns anything but prompts with the ids of some of these, each once.
    """
    given = reconcile([dict(prompt) for prompt in prompts.values()], tracker)
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
        raise ValueError(f"reconcile must return a list of prompts, got {type(given).__name__}")
    kept: dict[str, Prompt] = {}
    for i, prompt in enumerate(given):
        task_id = prompt.get("task_id") if isinstance(prompt, Mapping) else None
        if not isinstance(task_id, str) or task_id not in prompts:
            raise ValueError(f"reconcile returned, at {i}, a prompt with an unknown task_id: {task_id!r}")
        if task_id in kept:
            raise ValueError(f"reconcile returned the task_id {task_id!r} twice")
        kept[task_id] = _copied(prompt)
    return kept


def _copied(prompt: Mapping[str, Any]) -> Prompt:
    try:
        copy: Prompt = to_json_value(prompt)
    except ValueError:  # it cannot be sent, and its request will say why
        return {**prompt}
    return copy


def drop_unwanted(reconcile: Reconcile, prompts: Mapping[str, Prompt], tracker: TaskTracker) -> None:
    """
    Ask *reconcile* about those of *prompts* that are not finished, and cancel the tasks that it drops.

    Its changes to the others are ignored: they are too late.
    """
    unfinished = {task_id: prompt for task_id, prompt in prompts.items() if not tracker.get(task_id).finished}
    for task_id in unfinished.keys() - wanted(reconcile, unfinished, tracker).keys():
        with suppress(InvalidTransitionError):  # it was finished meanwhile
            tracker.cancel(task_id)
