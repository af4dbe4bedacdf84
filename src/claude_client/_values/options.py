"""The types people annotate with, and the names of everything a request can say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

#: A prompt or a system prompt: a text, or a list of the API's content blocks.
Content = str | Sequence[Mapping[str, Any]]

#: Called with each chunk of text as it arrives.
TextCallback = Callable[[str], object]


class ApiParams(TypedDict, total=False):
    """
    Everything else the API takes, passed through as it is.

    One not known to the installed SDK is still sent, so the same call works on all its majors.
    """

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
    tools: Sequence[Any]
    top_k: int
    top_p: float
    user_profile_id: str
    workspace_id: str
    extra_headers: Mapping[str, Any]
    extra_query: Mapping[str, Any]
    extra_body: Mapping[str, Any]


class PromptSpec(ApiParams, total=False):
    """
    One prompt of a fan-out: `prompt` (or `messages`), and any parameter of `invoke_claude` for this prompt alone.

    Annotate a list with this to have its keys checked; the functions take any mapping.
    """

    prompt: Content
    messages: Sequence[Mapping[str, Any]] | None
    model: str
    system: Content | None
    max_tokens: int
    temperature: float
    streaming: bool
    cache_system: bool
    cache_prompt: bool
    max_retries: int
    timeout: float | None
    task_id: str
    category: str | None
