"""Agents: how each is asked, said once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from claude_client import (
    ClaudeResponse,
    Content,
    ConversationThread,
    InterruptToken,
    TextCallback,
    ToolOptions,
    invoke_claude,
    invoke_claude_streaming,
)
from claude_client._values.budget import budget_of
from claude_client._values.checks import text, type_name
from claude_client._values.loop import copied
from claude_client._values.options import CallOptions
from claude_client._values.redaction import hide_headers
from claude_client._values.request import DEFAULT_MODEL
from claude_client._verbs.requests import build_request


class Agent:
    """
    A way to ask: a role, a model and tools under one name. It is a value, and any number of threads may ask it.

        experts = [Agent("You look for what can be abused."), Agent("You look for what gets slow.")]
        reviews = invoke_parallel([expert.prompt("Review the code.") for expert in experts], shared_system=code)

    Args:
        system, model, max_tokens, temperature, output: As in `claude_client.invoke_claude`.

        name: What it is called in results, and by others. None: where agents come as a dict, by their keys.

        description: What to ask it, for those who delegate to it. None: its name alone.

        tools: As in `claude_client.invoke_with_tools`.

        memory:
            Whether it remembers what it was asked by `ask`, as one `ConversationThread`: questions then take turns.
            Such an agent is asked by that alone, not in a fan-out.

        options: As in `claude_client.invoke_with_tools`. A `budget_usd` is one for all that it is asked.

    Raises:
        ValueError: For bad input.
        TypeError: For an unknown parameter.
    """

    def __init__(
        self,
        system: Content | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        model: str = DEFAULT_MODEL,
        max_tokens: int = 4096,
        temperature: float = 1.0,
        tools: Sequence[Any] | None = None,
        output: Any = None,
        memory: bool = False,
        **options: Unpack[ToolOptions],
    ) -> None:
        hide_headers(options)
        #: What it is called; None where it has no name of its own.
        self.name = name if name is None else text("name", name)
        #: What to ask it; None where nothing is said of it.
        self.description = description if description is None else text("description", description)
        asked = {
            "system": system,
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "output": output,
            "budget_usd": budget_of(options.get("budget_usd")),
            "tools": copied(tools) if tools else None,
        }
        self._asked: dict[str, Any] = {**options, **{key: value for key, value in asked.items() if value is not None}}
        build_request(prompt="to check the options", **self._asked)
        #: The conversation of one with memory; None without.
        self.thread = ConversationThread(**self._asked) if memory else None

    def ask(
        self,
        prompt: Content,
        *,
        callback: TextCallback | None = None,
        interrupt_token: InterruptToken | None = None,
        max_tokens: int | None = None,
        output: Any = None,
        **options: Unpack[CallOptions],
    ) -> ClaudeResponse:
        """
        Its answer to *prompt*, after what its tools have done for that.

        Args:
            callback: Called on this thread with the text as it arrives. None: nobody is told.

            interrupt_token: Ends it within 100 ms. None: nothing does.

            max_tokens, output, options:
                For this question, in place of its own, which None in the first two stands for. With memory, those of
                `ConversationThread.send`.

        Raises:
            ValueError, TypeError, ClaudeInvocationError: As `claude_client.invoke_with_tools`.
        """
        hide_headers(options)
        own = {"max_tokens": max_tokens, "output": output}
        said: dict[str, Any] = {**options, **{name: value for name, value in own.items() if value is not None}}
        if self.thread:
            taken: ClaudeResponse = self.thread.send(prompt, callback=callback, interrupt_token=interrupt_token, **said)
            return taken
        asked = {**self._asked, **said, "interrupt_token": interrupt_token}
        return invoke_claude_streaming(prompt, callback, **asked) if callback else invoke_claude(prompt, **asked)

    def prompt(self, prompt: Content, *, task_id: str | None = None) -> dict[str, Any]:
        """
        *prompt* for it in a fan-out. Its name is the `category`, by which a `ConcurrencyLimiter` bounds it.

        Args:
            task_id: As in a managed run. None: its name.

        Raises:
            ValueError: For one with memory, which can be asked only one thing at once.
        """
        if self.thread:
            raise ValueError(f"{self!r} has a memory, for one question after another: it takes no part in a fan-out")
        named = {"task_id": task_id or self.name, "category": self.name} if task_id or self.name else {}
        return {"prompt": prompt, **self._asked, **named}

    def __repr__(self) -> str:
        named = f" {self.name!r}" if self.name else ""
        return f"<Agent{named}, {self._asked['model']}>"


def called(name: str, agent: Agent) -> Agent:
    """
    *agent* by that *name*, for fan-outs.

    Raises:
        ValueError: For what is no agent, or has a memory.
    """
    if not isinstance(agent, Agent):
        raise ValueError(f"there must be an Agent, got {type_name(agent)}")
    other = Agent.__new__(Agent)
    vars(other).update({**vars(agent), "name": text("the name of an agent", name)})
    other.prompt("to check that it has no memory")
    return other


def by_name(agents: Mapping[str, Agent] | Iterable[Agent]) -> dict[str, Agent]:
    """
    *agents* by their names, for fan-outs.

    Raises:
        ValueError: For none at all, what is no agent, one without a name or with a memory, or two of one name.
    """
    found: dict[str, Agent] = {}
    each: Iterable[tuple[Any, Any]] = (
        agents.items() if isinstance(agents, Mapping) else [(getattr(one, "name", ""), one) for one in agents]
    )
    for name, one in each:
        if name is None:
            raise ValueError(f"{one!r} has no name: give it one, or give agents as a dict")
        if name in found:
            raise ValueError(f"two agents are called {name!r}")
        found[name] = called(name, one)
    if not found:
        raise ValueError("agents is empty: there is nobody to ask")
    return found
