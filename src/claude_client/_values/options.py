"""The types for annotations, and the names of all options of calls. Each name is declared once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from claude_client._values.budget import Budget
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.loop import BeforeTool, OnFull
from claude_client._values.response import ClaudeResponse

#: A prompt or a system prompt: a text, or a list of the API's content blocks.
Content = str | Sequence[Mapping[str, Any]]

#: Called with each chunk of text as it arrives.
TextCallback = Callable[[str], object]

#: Called with index and answer, or error, of a prompt.
ResultCallback = Callable[[int, ClaudeResponse | ClaudeInvocationError], object]


class _TurnParams(TypedDict, total=False):
    """
    What is asked of the API: its own parameters, passed through as they are, and what an answer is to be.

    One that the installed SDK does not know is still sent, so the same call works on all its majors.
    """

    #: How often to ask again, with the answer and what is wrong with it, where a whole answer is not what `output=`
    #: asks for. Not in streams with a callback, which would be told two answers. If left out: 0.
    output_retries: int
    #: Whether to ask again with four times the `max_tokens`, up to what the model takes, where an answer that is to be
    #: `output=` was cut off. Each try is paid. Not in streams with a callback. If left out: False.
    grow_max_tokens: bool
    cache_control: Mapping[str, Any] | None
    container: Any
    diagnostics: Mapping[str, Any] | None
    inference_geo: str | None
    metadata: Mapping[str, Any]
    output_config: Mapping[str, Any]
    service_tier: str
    speed: str | None
    stop_sequences: Sequence[str]
    thinking: Mapping[str, Any]
    tool_choice: Mapping[str, Any]
    #: Asked before each tool that is run here, on the thread that sends the call: see `BeforeTool`. If left out: all
    #: are run.
    before_tool: BeforeTool | None
    #: Tool calls of a turn that run at once at the most. If left out: 5.
    max_parallel_tools: int
    #: Model turns at the most, until the call fails with kind "max_iterations". If left out: 20.
    max_iterations: int
    #: Tokens that the conversation of the call may come to. None, or left out: as many as the model takes.
    max_context_tokens: int | None
    #: What to do where it would come to more: "error", the call fails with kind "context_window"; "summarize", the
    #: model sums up what was before, and goes on with that; or a function that gets the messages, on the thread that
    #: sends the call, and returns those to go on with. If left out: "error".
    on_full: OnFull
    top_k: int
    top_p: float
    user_profile_id: str
    workspace_id: str
    extra_headers: Mapping[str, Any]
    extra_query: Mapping[str, Any]
    extra_body: Mapping[str, Any]


class ApiParams(_TurnParams, total=False):
    """
    What is asked of the API: its own parameters, passed through as they are, and what an answer is to be.

    One that the installed SDK does not know is still sent, so the same call works on all its majors.
    """

    #: Functions, `Tool`s and tools of the SDK are run here, as often as the model asks for them; dicts are passed on.
    tools: Sequence[Any]


class ToolOptions(_TurnParams, total=False):
    """Options of `invoke_with_tools`: those of every call but `tools`."""

    #: How often to try again after a failure that may pass, from 0. If left out: 2, and 3 in `orchestration`.
    max_retries: int
    #: Seconds without a byte from the server until an attempt counts as failed. None, or left out: the SDK's 600.
    timeout: float | None
    #: Seconds that all of a call may take, counted from the start of the verb: waits, retries, and whatever a server
    #: sends to keep it alive. It then fails with kind "timeout". None, or left out: any time.
    deadline: float | None
    #: Dollars that it may cost in all, every request and retry counted: a number, or a `Budget` to share. What does not
    #: fit ends with kind "budget", unsent. Needs the `cost` extra. None, or left out: any.
    budget_usd: float | Budget | None
    #: Models to ask, one after another, where the one before is overloaded or failing beyond its retries, not to be
    #: had, or held back for longer than `fallback_after`: names, or dicts with a `model` and the parameters that are
    #: others for it (None: that one not at all). If left out: none.
    fallback_models: Sequence[str | Mapping[str, Any]]
    #: Seconds for which a model may be held back, by its rate limit or an outage, before the next is asked. If left
    #: out: 30.
    fallback_after: float
    #: Seconds to wait in all, without using up retries, while the server answers nobody: overloaded, failing or not to
    #: be reached. If left out: 60, and 600 in `orchestration`. 0: not at all.
    outage_patience: float | None


class CallOptions(ApiParams, ToolOptions, total=False):
    """Options of every call: the API's parameters, and how often and how long to try."""


class PromptOptions(CallOptions, total=False):
    """Options of a prompt, which a fan-out may also set for all prompts that do not set their own."""

    system: Content | None
    temperature: float
    streaming: bool
    #: What the answer, and its `.output`, is to be: a type that pydantic knows, or a JSON schema as a dict. None, or
    #: left out: a text.
    output: Any
    cache_system: bool
    cache_prompt: bool
    category: str | None
    #: Seconds to wait at the most for a sign of life of the call that writes the shared prompt to the cache, before
    #: another does. If left out: 20.
    cache_patience: float


class PromptSpec(PromptOptions, total=False):
    """
    A prompt of a fan-out: `prompt` (or `messages`), and any parameter of `invoke_claude` for this prompt alone.

    Annotate a list with this to have its keys checked; the functions take any mapping.
    """

    prompt: Content
    messages: Sequence[Mapping[str, Any]] | None
    model: str
    max_tokens: int
    task_id: str


class StreamOptions(PromptOptions, total=False):
    """Options of a fan-out whose outcomes are taken as they come."""

    #: Called with index and answer, or error, of each prompt as it arrives, on the calling thread. It delays nothing
    #: but the callbacks after it; what it raises is logged.
    on_result: ResultCallback | None
    #: Ask once where prompts are equal in all that decides their answer, and give each that answer; the usage is with
    #: the first. Prompts with callbacks are each asked. If left out: False.
    share_identical: bool
    #: Stop once so many prompts in a row have ended by failures of one kind: what has not begun then ends by the same,
    #: unsent. None, or left out: only where no other prompt could succeed either, as without credit.
    stop_after: int | None
    #: Show a bar, with failures, tokens and the share read from the cache. Needs the `progress` extra.
    progress: bool


class FanOutOptions(StreamOptions, total=False):
    """More options of a fan-out."""

    #: Put errors into the list, in their prompts' places, instead of raising. If left out: False.
    return_exceptions: bool
