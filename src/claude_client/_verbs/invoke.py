"""Single calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from claude_client._engine.inline import run
from claude_client._engine.loop import flow_of
from claude_client._values.checks import check_callback
from claude_client._values.interrupt import InterruptToken
from claude_client._values.options import CallOptions, Content, TextCallback
from claude_client._values.partial import with_partial_output
from claude_client._values.redaction import hide_headers
from claude_client._values.request import DEFAULT_MODEL, Request
from claude_client._values.response import ClaudeResponse, Data
from claude_client._verbs.requests import build_request

if TYPE_CHECKING:
    from typing_extensions import TypeForm


@overload
def invoke_claude(
    prompt: Content | None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    messages: Sequence[Mapping[str, Any]] | None = None,
    *,
    output: TypeForm[Data],
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[CallOptions],
) -> ClaudeResponse[Data]: ...
@overload
def invoke_claude(
    prompt: Content | None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    messages: Sequence[Mapping[str, Any]] | None = None,
    *,
    output: Mapping[str, Any] | None = None,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[CallOptions],
) -> ClaudeResponse: ...
def invoke_claude(
    prompt: Content | None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    messages: Sequence[Mapping[str, Any]] | None = None,
    *,
    output: Any = None,
    interrupt_token: InterruptToken | None = None,
    **options: Unpack[CallOptions],
) -> ClaudeResponse:
    """
    Ask once and return the whole answer.

    Safe from any number of threads at once; they share one client and its connections.

    Args:
        prompt: The user's message: a text or a list of content blocks. Not used where *messages* is given.

        model: The model's id.

        system: The system prompt: a text or a list of content blocks. None for none.

        max_tokens:
            Most tokens to answer with, thinking included. An answer cut off there is returned with `.truncated`
            set. More than the SDK allows in one piece (21,333) is streamed, which changes nothing else.

        temperature:
            Randomness, 0 to 1. 1.0 is the API's default and is not sent. Models of 2026 refuse any other value.

        streaming: Use a stream, for the same answer. A long answer is then less likely to be cut by a proxy.

        cache_system, cache_prompt:
            Put a cache breakpoint on the last block of the system prompt, or of the prompt (the last message). A block
            with a `cache_control` of its own keeps it. The API caches nothing below the model's minimum
            (1,024 tokens on the default model) and keeps an entry for 5 minutes after each use.

        messages: A whole conversation instead of *prompt*, as the API takes it.

        output:
            What the answer's `.output` is to be: a type that pydantic knows, or a JSON schema as a dict. None: a text
            alone. An answer that is something else is an error of kind "invalid_output", with all that it said.

        interrupt_token: Ends the call when it is interrupted, within 100 ms, with an error of kind "interrupted".

        options:
            `max_retries=2`: how often to try again after a failure that may pass: 408, 409, 429, 5xx, a connection or
            stream that broke. A `retry-after` of up to 60 seconds is waited for, a longer one is not.
            `timeout=None`: seconds without a byte from the server until an attempt counts as failed; None: the SDK's
            600. `deadline=None`: seconds that all of it may take, retries and waits included. And everything else the
            API takes (`tools`, `thinking`, `output_config`, `metadata`, `top_p`, `top_k` ...), and `extra_headers`,
            `extra_query`, `extra_body`, which win over what we set.

    Returns:
        The text, a str that also carries the SDK's message, the usage and the stop reason. An answer that pauses
        in the middle of server tools (`pause_turn`) is continued, up to 10 times, and returned as one.

    Raises:
        ValueError: For bad input, before any request, or if there are no credentials, naming every place looked at.
        TypeError: For an unknown parameter.
        ClaudeInvocationError: If there is no whole answer, a refusal included.
    """
    hide_headers(options)
    request = build_request(
        prompt=prompt,
        model=model,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        streaming=streaming,
        cache_system=cache_system,
        cache_prompt=cache_prompt,
        messages=messages,
        output=output,
        **options,
    )
    return ask(request, token=interrupt_token)


@overload
def invoke_claude_streaming(
    prompt: Content | None,
    callback: TextCallback | None = None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    cache_system: bool = False,
    cache_prompt: bool = False,
    *,
    output: TypeForm[Data],
    messages: Sequence[Mapping[str, Any]] | None = None,
    interrupt_token: InterruptToken | None = None,
    on_output: Callable[[Any], object] | None = None,
    **options: Unpack[CallOptions],
) -> ClaudeResponse[Data]: ...
@overload
def invoke_claude_streaming(
    prompt: Content | None,
    callback: TextCallback | None = None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    cache_system: bool = False,
    cache_prompt: bool = False,
    *,
    output: Mapping[str, Any] | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    interrupt_token: InterruptToken | None = None,
    on_output: Callable[[Any], object] | None = None,
    **options: Unpack[CallOptions],
) -> ClaudeResponse: ...
def invoke_claude_streaming(
    prompt: Content | None,
    callback: TextCallback | None = None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    cache_system: bool = False,
    cache_prompt: bool = False,
    *,
    output: Any = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    interrupt_token: InterruptToken | None = None,
    on_output: Callable[[Any], object] | None = None,
    **options: Unpack[CallOptions],
) -> ClaudeResponse:
    """
    Like `invoke_claude`, and call *callback* with each chunk of text as it arrives.

    Args:
        callback:
            Called on this thread with one str a time; together they are the answer. What it raises ends the
            stream and comes out unchanged. None to stream without looking.

        on_output:
            Called on this thread, after *callback*, with what there is so far of an answer as data (`output=`): plain
            dicts, lists, texts and numbers, of which the last may be cut off, with nothing checked yet. What it raises
            ends the stream, too.

    Raises:
        ClaudeInvocationError:
            Same as `invoke_claude`. A stream that breaks after *callback* has been given text is not tried again, as it
            would be given the same text twice; the error's `partial_text` holds what had arrived.
    """
    hide_headers(options)
    check_callback("callback", callback)
    check_callback("on_output", on_output)
    request = build_request(
        prompt=prompt,
        model=model,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        cache_system=cache_system,
        cache_prompt=cache_prompt,
        messages=messages,
        output=output,
        **{**options, "streaming": True},
    )
    return ask(request, with_partial_output(callback, on_output), interrupt_token)


def ask(request: Request, callback: TextCallback | None = None, token: InterruptToken | None = None) -> ClaudeResponse:
    """Send a valid *request* on this thread and return the answer; errors are those of `invoke_claude`."""
    return run(flow_of(request, callback), token)
