"""How a call goes on by itself: the tools that it may run, and what bounds it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from claude_client._values.checks import check_callback, number, whole_number
from claude_client._values.content import Block, json_values
from claude_client._values.models import context_window
from claude_client._values.tool import Tool, tool_of

#: Model calls that a loop makes at the most.
MAX_ITERATIONS = 20
#: Tool calls of a turn that run at once at the most.
MAX_PARALLEL_TOOLS = 5

# The share of a window that is filled when a conversation counts as full: there is to be room for its summary.
_FULL = 0.9

_Messages = Sequence[Mapping[str, Any]]

#: What to do where a conversation has no more room. With `aio`, the function may be asynchronous.
OnFull = Literal["error", "summarize"] | Callable[[list[Block]], _Messages | Awaitable[_Messages]]


class Refuse(NamedTuple):
    """Returned by `before_tool`: the tool is not to be run, and the model is told why."""

    reason: str = "The user does not allow this."


class Respond(NamedTuple):
    """Returned by `before_tool`: the result of the tool, which is not run."""

    content: Any


_Decision = bool | Mapping[str, Any] | Refuse | Respond | None

#: Asked with the name of a tool and its arguments before it is run. None or True: run it. A dict: run it with these
#: arguments. False or a `Refuse`: do not. A `Respond`: here is its result. With `aio`, it may be asynchronous.
BeforeTool = Callable[[str, dict[str, Any]], _Decision | Awaitable[_Decision]]


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True, eq=False)
class Loop:
    """What a call may do after an answer, and how far it may go. Two are never equal, as tools have effects."""

    tools: Mapping[str, Tool] = field(default_factory=dict)
    #: The names of tools that the caller runs: with one of those asked for, the answer is handed out.
    elsewhere: frozenset[str] = frozenset()
    before_tool: BeforeTool | None = None
    max_parallel_tools: int = MAX_PARALLEL_TOOLS
    max_iterations: int = MAX_ITERATIONS
    #: Tokens that the conversation may have; infinite: as many as the API takes.
    max_context_tokens: float = math.inf
    on_full: OnFull = "error"
    depth: int = 0


class LoopOptions(NamedTuple):
    """What a verb says about how a call goes on."""

    before_tool: BeforeTool | None = None
    max_parallel_tools: int = MAX_PARALLEL_TOOLS
    max_iterations: int = MAX_ITERATIONS
    max_context_tokens: int | None = None
    on_full: OnFull = "error"


def loop_of(tools: Any, model: str, said: LoopOptions, depth: int) -> tuple[Loop | None, list[Any]]:
    """
    The loop of a call; None where it ends with its first answer. And its tools, as the API takes them.

    Raises:
        ValueError: For what is no tool, two of one name, or a bound that is none.
    """
    given = [] if tools is None else _listed(tools)
    own = [tool_of(one) for one in given]
    definitions = [
        one.definition if one else json_values({"tools": raw})["tools"] for one, raw in zip(own, given, strict=True)
    ]
    names = [str(one["name"]) for one in definitions if isinstance(one, Mapping) and "name" in one]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"tools has more than one that is named {', '.join(map(repr, twice))}")
    check_callback("before_tool", said.before_tool)
    if said.on_full not in ("error", "summarize") and not callable(said.on_full):
        raise ValueError(f"on_full must be 'error', 'summarize' or a function, got {said.on_full!r}")
    runnable = {one.name: one for one in own if one}
    loop = Loop(
        tools=runnable,
        elsewhere=frozenset(names) - runnable.keys(),
        before_tool=said.before_tool,
        max_parallel_tools=whole_number("max_parallel_tools", said.max_parallel_tools, 1),
        max_iterations=whole_number("max_iterations", said.max_iterations, 1),
        max_context_tokens=_most_context(said.max_context_tokens, model, said.on_full),
        on_full=said.on_full,
        depth=depth,
    )
    return (loop if runnable or loop.max_context_tokens < math.inf else None), definitions


def copied(tools: Any) -> list[Any]:
    """*tools*, which share nothing with the caller's but the functions that are run."""
    return [tool_of(one) or json_values({"tools": one})["tools"] for one in _listed(tools)]


def _listed(tools: Any) -> list[Any]:
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise ValueError(f"tools must be a list of functions, Tools and dicts, got {tools!r:.100}")
    return [*tools]


def _most_context(asked: int | None, model: str, on_full: OnFull) -> float:
    most = math.inf if on_full == "error" else _FULL * context_window(model)
    return most if asked is None else min(most, number("max_context_tokens", asked, 1, math.inf))
