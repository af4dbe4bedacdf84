"""The single call that works through tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from claude_client._values.interrupt import InterruptToken
from claude_client._values.loop import copied
from claude_client._values.options import Content, TextCallback, ToolOptions
from claude_client._values.redaction import hide_headers
from claude_client._values.request import DEFAULT_MODEL
from claude_client._values.response import ClaudeResponse, Data
from claude_client._verbs.invoke import invoke_claude, invoke_claude_streaming

if TYPE_CHECKING:
    from typing_extensions import TypeForm


@overload
def invoke_with_tools(
    prompt: Content | None,
    tools: Sequence[Any],
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    *,
    output: TypeForm[Data],
    messages: Sequence[Mapping[str, Any]] | None = None,
    callback: TextCallback | None = None,
    on_output: Callable[[Any], object] | None = None,
    interrupt_token: InterruptToken | None = None,
    cache_system: bool = False,
    **options: Unpack[ToolOptions],
) -> ClaudeResponse[Data]: ...
@overload
def invoke_with_tools(
    prompt: Content | None,
    tools: Sequence[Any],
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    *,
    output: Mapping[str, Any] | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    callback: TextCallback | None = None,
    on_output: Callable[[Any], object] | None = None,
    interrupt_token: InterruptToken | None = None,
    cache_system: bool = False,
    **options: Unpack[ToolOptions],
) -> ClaudeResponse: ...
def invoke_with_tools(
    prompt: Content | None,
    tools: Sequence[Any],
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    *,
    output: Any = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    callback: TextCallback | None = None,
    on_output: Callable[[Any], object] | None = None,
    interrupt_token: InterruptToken | None = None,
    cache_system: bool = False,
    **options: Unpack[ToolOptions],
) -> ClaudeResponse:
    """
    Ask Claude, run the tools that it asks for, tell it their results, and so on until it answers.

    The tool calls of a turn run at once, each on a thread of its own, and the model gets their results in the order in
    which it asked. A tool that fails, gets arguments that do not fit, or is not there does not end the call: the model
    is told what is wrong. Each request puts its end in the cache, so that the next reads all up to there. A tool use
    that was cut off is not run. What a tool asks by this library is a part of the call, as `Context` tells.

    Args:
        prompt, model, system, max_tokens, temperature, messages, cache_system: As in `invoke_claude`.

        tools:
            Typed functions, whose parameters and docstring become the schema, coroutine functions too; `Tool`s; tools
            of the SDK (`@beta_tool`). Dicts, such as those of the API's own tools, are passed on; one that has to be
            run by you ends the call with the answer that asks for it.

        output: What the last answer's `.output` is to be, as in `invoke_claude`.

        callback, on_output: Called on this thread with the text of all turns as it arrives, as in
            `invoke_claude_streaming`.

        interrupt_token:
            Ends the call within 100 ms, tells the tools that run by the `token` of their `Context`, and waits for none.

        options:
            `max_iterations=20`: model turns at the most. `max_parallel_tools=5`: tool calls of a turn at once.
            `before_tool=None`: asked with the name of a tool and its arguments before each is run, on this thread: see
            `BeforeTool`. `max_context_tokens=None`, `on_full="error"`: what the conversation may come to, and what
            happens then: see `ToolOptions`. `tool_choice` that forces a tool holds for the first turn alone.
            `budget_usd`, `deadline` and `max_retries` and the rest as in `invoke_claude`; the first two hold for all
            turns together, `max_retries` for each.

    Returns:
        The last answer; `.messages` is the whole conversation, `.tool_calls` what became of each use of a tool, and
        `.attempts`, `.usage` and `.cost_usd` are of all that was asked for it, by tools too.

    Raises:
        ValueError, TypeError: As `invoke_claude`; also for what is no tool.
        ClaudeInvocationError:
            As `invoke_claude`; of kind "max_iterations", "context_window" or "budget" if the call comes to one of its
            bounds, "tool" if a tool ended it. Its `.messages` are the conversation so far, to go on from.
    """
    hide_headers(options)
    said: dict[str, Any] = {
        "tools": copied(tools),
        "model": model,
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "output": output,
        "messages": messages,
        "interrupt_token": interrupt_token,
        "cache_system": cache_system,
        **options,
    }
    if callback is None and on_output is None:
        return invoke_claude(prompt, **said)
    return invoke_claude_streaming(prompt, callback, on_output=on_output, **said)
