"""The tool by which a call has others do parts of its task, bounded over the whole tree of calls."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from claude_client import ClaudeInvocationError, ClaudeResponse, Content, Context, Tool, tool
from claude_client._values.checks import seconds, text, whole_number
from claude_client._values.tool import BadArgumentsError
from claude_client._verbs.requests import request_builder

from ._agents import Agent, by_name
from ._limiter import ConcurrencyLimiter
from ._managed import check_kind, invoke_parallel_managed
from ._recorder import ManagedResults

_DESCRIPTION = """\
Have agents do tasks, all of them at once, and get their answers in the order of the tasks. An agent sees its task and \
nothing else of this conversation, so each must say all that is needed to do it. Give tasks that need nothing of each \
other together; the same agent may get several. There are:
{agents}"""


def delegate_tool(
    agents: Mapping[str, Agent],
    *,
    max_depth: int = 2,
    max_tasks: int = 20,
    shared_system: Content | None = None,
    cache_shared_system: bool = True,
    max_workers: int | None = None,
    concurrency_limiter: ConcurrencyLimiter | None = None,
    max_retries: int = 3,
    stall_timeout: float | None = None,
    name: str = "delegate",
    description: str | None = None,
) -> Tool:
    """
    A tool by which a call has *agents* do tasks: it takes a list of ``{"agent": ..., "task": ...}``, and asks them all
    at once, as one managed run.

    The model gets the answers in the order of the tasks, as JSON. A task that failed is told with its kind, its message
    and the text that had arrived, and ends nothing. What is asked is a part of the call: it ends with it, keeps its
    deadline, is paid from its budgets, and is among its `attempts`, where `path` has the names of the tasks
    (``("researcher-1", "reader-2")``), each of which there is once in a call.

        lead = Agent("You plan, delegate and sum up.", tools=[delegate_tool({"reader": Agent(description="Reads.")})])
        print(lead.ask("What do the reports have in common?"))

    Args:
        agents:
            By the names that the model uses; their descriptions are told to it. Each gets this tool as well, but for
            those that have one of the same name, and those at *max_depth*.

        max_depth: Calls one below the other, under the outermost: with 1, agents cannot delegate.

        max_tasks: In all that is asked below one outermost call. More are refused, with what is left told to the model.

        shared_system, cache_shared_system, max_workers, concurrency_limiter, max_retries, stall_timeout:
            Of each run, as in `invoke_parallel_managed`. The category of a task is the name of its agent.

        name: As the model calls the tool.

        description: In place of ours. The agents are told below it.

    Raises:
        ValueError: For bad input, such as agents with a memory.
        TypeError: If *concurrency_limiter* is none.
    """
    check_kind("concurrency_limiter", concurrency_limiter, ConcurrencyLimiter)
    if max_workers is not None:
        whole_number("max_workers", max_workers, 1)
    if stall_timeout is not None:
        seconds("stall_timeout", stall_timeout)
    run = {
        "shared_system": shared_system,
        "cache_shared_system": cache_shared_system,
        "max_workers": max_workers,
        "concurrency_limiter": concurrency_limiter,
        "max_retries": whole_number("max_retries", max_retries, 0),
        "stall_timeout": stall_timeout,
    }
    delegation = _Delegation(
        by_name(agents),
        whole_number("max_depth", max_depth, 1),
        whole_number("max_tasks", max_tasks, 1),
        run,
    )
    delegation.tool = tool(
        delegation.function(), name=text("name", name), description=delegation.described(description)
    )
    delegation.check()
    return delegation.tool


@dataclass
class _Tasks:
    """The tasks below one outermost call."""

    taken: int = 0
    names: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class _Delegation:
    """What a tool delegates to, and how far. *run* are the options of its managed runs."""

    agents: Mapping[str, Agent]
    max_depth: int
    max_tasks: int
    run: Mapping[str, Any]
    _lock: threading.Lock = field(default_factory=threading.Lock)  # guards the tasks
    _tasks: WeakKeyDictionary[Any, _Tasks] = field(default_factory=WeakKeyDictionary)  # by the root of their tree
    tool: Tool = field(init=False)

    def function(self) -> Any:
        """What the model calls: its annotations are the schema."""
        from typing_extensions import TypedDict  # comes with the SDK, and like that is imported when it is needed

        def delegate(tasks: Any, context: Context) -> Any:
            return self.delegate(tasks, context)

        typed_dict: Any = TypedDict  # with the names that are known at run time alone
        task: Any = typed_dict("Task", {"agent": Literal[(*self.agents,)], "task": str})
        listed: Any = list
        delegate.__annotations__ = {"tasks": listed[task], "context": Context}
        delegate.__doc__ = "Delegate.\n\nArgs:\n    tasks: Who is to do what. Each task says all that is needed."
        return delegate

    def described(self, description: str | None) -> str:
        """What the model is told of the tool, by *description* or by us."""
        agents = "\n".join(f"- {name}: {one.description or name}" for name, one in self.agents.items())
        return _DESCRIPTION.format(agents=agents) if description is None else f"{description}\n{agents}"

    def check(self) -> None:
        """Raise a ValueError if a task could not be sent."""
        build = request_builder(
            shared_system=self.run["shared_system"], cache_shared_system=self.run["cache_shared_system"]
        )
        for name in self.agents:
            try:
                build(0, self._prompt(name, "to check the options", name, depth=1))
            except ValueError as bad:
                raise ValueError(f"agents[{name!r}]: {str(bad).removeprefix('prompts[0]: ')}") from None

    def delegate(self, tasks: list[Mapping[str, str]], context: Context) -> Any:
        """
        Have *tasks* done.

        Raises:
            BadArgumentsError: If these are more than may be.
        """
        if context.depth > self.max_depth:
            raise BadArgumentsError("You cannot delegate any further (max_depth): do this yourself.")
        ids = self._named(tasks, context.root)
        prompts = [
            self._prompt(task["agent"], task["task"], task_id, depth=context.depth)
            for task, task_id in zip(tasks, ids, strict=True)
        ]
        results = invoke_parallel_managed(prompts, **self.run)
        return [_told(task, results, index) for index, task in enumerate(tasks)]

    def _named(self, tasks: list[Mapping[str, str]], root: object) -> list[str]:
        """The ids of *tasks*, which are counted as taken."""
        if not tasks:
            raise BadArgumentsError("There are no tasks: name at least one.")
        with self._lock:
            so_far = self._tasks.setdefault(root, _Tasks())
            left = self.max_tasks - so_far.taken
            if len(tasks) > left:
                raise BadArgumentsError(
                    f"You have asked for {len(tasks)} tasks, and {left} are left of {self.max_tasks} (max_tasks): "
                    f"none of these was begun. {'Ask for fewer.' if left else 'Do them yourself.'}"
                )
            so_far.taken += len(tasks)
            ids = []
            for task in tasks:
                so_far.names[task["agent"]] += 1
                ids.append(f"{task['agent']}-{so_far.names[task['agent']]}")
            return ids

    def _prompt(self, name: str, task: str, task_id: str, *, depth: int) -> dict[str, Any]:
        prompt = self.agents[name].prompt(task, task_id=task_id)
        own = prompt.get("tools") or []
        has_one = any(getattr(one, "name", None) == self.tool.name for one in own)
        return prompt if has_one or depth >= self.max_depth else {**prompt, "tools": [*own, self.tool]}


def _told(task: Mapping[str, str], results: ManagedResults, index: int) -> dict[str, Any]:
    """What the model is told of *task*."""
    answer = results[index]
    if not isinstance(answer, ClaudeResponse):
        return {**task, **_failure(results.errors.get(index) or results.cancelled[index])}
    said: Any = str(answer) if answer.output is None else answer.output
    return {**task, "answer": said, **({"truncated": True} if answer.truncated else {})}


def _failure(error: ClaudeInvocationError) -> dict[str, Any]:
    arrived = {"partial_text": error.partial_text} if error.partial_text else {}
    return {"error": {"kind": error.kind, "message": str(error)}, **arrived}
