"""The one value that every call becomes, and the only place that knows what is valid and how the SDK spells it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from claude_client._sdk import parameters

from . import content as contents
from .options import ApiParams, Content, PromptSpec

DEFAULT_MODEL = "claude-sonnet-4-6"

_SAMPLING = ("temperature", "top_p", "top_k")
# The SDK expects more tokens than these to take over ten minutes, and refuses to wait for them in silence.
_MOST_IN_ONE_PIECE = 128_000 * 10 // 60

# The last API version that takes sampling parameters. Lower case: SDK 0.x would send another spelling beside its own.
_SAMPLING_VERSION = {"anthropic-version": "2023-06-01"}
# What newer SDKs send as a header rather than in the body.
_HEADERS = {"user_profile_id": "anthropic-user-profile-id", "workspace_id": "anthropic-workspace-id"}
_OUR_HEADERS = {*_SAMPLING_VERSION, *_HEADERS.values()}

_NONE: Mapping[str, Any] = {}

_API_PARAMS = frozenset(ApiParams.__annotations__)
_PROMPT_KEYS = frozenset(PromptSpec.__annotations__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call, valid as far as can be known before it is sent. Build it with `build_request`; change nothing in it."""

    model: str
    max_tokens: int
    messages: list[contents.Block]
    system: str | list[contents.Block] | None = None
    #: Everything else for the API, sampling included, under the API's names.
    params: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold a key
    extra_query: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Seconds, or the SDK's Timeout; None leaves it to the client.
    timeout: Any = None
    max_retries: int = 2
    streaming: bool = False
    #: How many of the first blocks of `system` are shared with other requests.
    shared_blocks: int = 0
    task_id: str | None = None
    category: str | None = None

    @property
    def must_stream(self) -> bool:
        """Whether a stream was asked for, or the answer may be longer than the SDK takes in one piece."""
        return self.streaming or self.max_tokens > _MOST_IN_ONE_PIECE

    def to_params(self) -> dict[str, Any]:
        """The keyword arguments for the installed SDK's `create`: what it does not know goes into the body."""
        sent: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "messages": self.messages,
        }
        if self.system:
            sent["system"] = self.system
        if self.timeout is not None:
            sent["timeout"] = self.timeout
        body, headers = self._place(sent)
        for name, extra in (("extra_body", body), ("extra_headers", headers), ("extra_query", self.extra_query)):
            if extra:
                sent[name] = dict(extra)
        return sent

    def continued(self, content: Sequence[contents.Block]) -> Request:
        """The request that lets a paused answer go on: the same, with *content* as the assistant's turn so far."""
        return replace(self, messages=[*self.messages, {"role": "assistant", "content": list(content)}])

    def _place(self, sent: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put each parameter into *sent*, or into the extra body or headers that are returned."""
        if not (self.params or self.extra_body):
            return {}, {**self.extra_headers}
        body: dict[str, Any] = {}
        headers: dict[str, Any] = {}
        known = parameters.create_parameters() if self.params else frozenset()
        for name, value in self.params.items():
            if name in known and name not in _SAMPLING:
                sent[name] = value
            elif name in _HEADERS:
                headers[_HEADERS[name]] = value
            else:
                body[name] = value
        body.update(self.extra_body)
        if any(name in body for name in _SAMPLING):
            headers.update(_SAMPLING_VERSION)
        headers.update(self.extra_headers)
        return body, headers


def build_request(
    *,
    prompt: Content | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    model: str = DEFAULT_MODEL,
    system: Content | None = None,
    max_tokens: int = 4096,
    temperature: float = 1.0,
    streaming: bool = False,
    cache_system: bool = False,
    cache_prompt: bool = False,
    max_retries: int = 2,
    timeout: Any = None,
    task_id: str | None = None,
    category: str | None = None,
    extra_headers: Mapping[str, Any] | None = None,
    extra_query: Mapping[str, Any] | None = None,
    extra_body: Mapping[str, Any] | None = None,
    **params: Any,
) -> Request:
    """
    A valid `Request` that shares nothing with the caller's objects.

    Raises:
        ValueError: Saying what was got, for a value that cannot be sent.
        TypeError: For a name that neither we nor the SDK know.
    """
    if params:
        _check_names(params)
    if temperature != 1.0 or isinstance(temperature, bool):  # the API's own default, and newer models refuse to be told
        params["temperature"] = _number("temperature", temperature, 0, 1)
    request = Request(
        model=_text("model", model),
        max_tokens=whole_number("max_tokens", max_tokens, 1),
        messages=_messages(prompt, messages, mark=cache_prompt),
        system=system_blocks(system, mark=cache_system),
        params=contents.plain(params) if params else _NONE,
        extra_headers=_NONE if extra_headers is None else _headers(extra_headers),
        extra_query=_NONE if extra_query is None else _mapping("extra_query", extra_query),
        extra_body=_NONE if extra_body is None else _extra_body(extra_body),
        timeout=_timeout(timeout),
        max_retries=whole_number("max_retries", max_retries, 0),
        streaming=bool(streaming),
        task_id=task_id,
        category=category,
    )
    check_breakpoints(request)
    return request


def build_requests(
    prompts: Sequence[Mapping[str, Any]],
    *,
    shared_system: Content | None = None,
    cache_shared_system: bool = False,
    **defaults: Any,
) -> tuple[Request, ...]:
    """
    A `Request` for each of *prompts*, with *defaults* for what a prompt does not say.

    Raises:
        ValueError: Naming the prompt (`prompts[2]: ...`) and what was got; for anything but a non-empty sequence of
            mappings too.
    """
    build = request_builder(shared_system=shared_system, cache_shared_system=cache_shared_system, **defaults)
    return tuple(build(index, spec) for index, spec in enumerate(prompt_list(prompts)))


def request_builder(
    *, shared_system: Content | None = None, cache_shared_system: bool = False, **defaults: Any
) -> Callable[[int, Mapping[str, Any]], Request]:
    """What makes the `Request` of one prompt at its index, as `build_requests` does of all."""
    shared = contents.as_blocks(system_blocks(shared_system, mark=cache_shared_system, name="shared_system"))
    return lambda index, spec: _build_one(index, spec, shared, defaults)


def system_blocks(system: Content | None, *, mark: bool, name: str = "system") -> str | list[contents.Block] | None:
    """*system* copied and, with *mark*, ending in a cache breakpoint."""
    if system is None or isinstance(system, str):
        text: str | None = contents.plain(system)
        return contents.marked(contents.as_blocks(text)) if mark else text
    blocks = _blocks(name, system)
    return contents.marked(blocks) if mark else blocks


def check_callback(name: str, callback: Callable[..., object] | None) -> None:
    """Raise a TypeError unless *callback* can be called or is None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{name} must be callable or None, got {callback!r}")


def _build_one(
    index: int, spec: Mapping[str, Any], shared: Sequence[contents.Block], defaults: Mapping[str, Any]
) -> Request:
    where = f"prompts[{index}]"
    if not isinstance(spec, Mapping):
        raise ValueError(f"{where} is {_a(spec)}, not a dict such as {{'prompt': ...}}")
    if spec.get("prompt") is None and spec.get("messages") is None:
        raise ValueError(f"{where} has no 'prompt'")
    known = _PROMPT_KEYS | (parameters.create_parameters() if spec.keys() - _PROMPT_KEYS else frozenset())
    for key in spec:
        if key not in known:
            raise ValueError(f"{where} has an unknown key {key!r}{_meant(key, known)}")
    try:
        return _sharing(build_request(**{**defaults, **spec}), shared)
    except ValueError as bad:
        raise ValueError(f"{where}: {bad}") from None


def _sharing(own: Request, shared: Sequence[contents.Block]) -> Request:
    if not shared:
        return own
    request = replace(own, system=[*shared, *contents.as_blocks(own.system)], shared_blocks=len(shared))
    check_breakpoints(request)
    return request


def prompt_list(prompts: Any) -> Sequence[Any]:
    """
    *prompts* themselves.

    Raises:
        ValueError: For anything but a sequence with something in it.
    """
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Sequence):
        raise ValueError(f"prompts must be a list of dicts, got {_a(prompts)}")
    if not prompts:
        raise ValueError("prompts is empty: there is nothing to ask")
    return prompts


def _check_names(params: Mapping[str, Any]) -> None:
    if "stream" in params:
        raise TypeError(
            "stream= is not taken: use invoke_claude_streaming(..., callback=...), "
            "or streaming=True for the same answer in one piece"
        )
    for name in params.keys() - _API_PARAMS:
        known = parameters.create_parameters() | _PROMPT_KEYS
        if name not in known:
            raise TypeError(f"unknown parameter {name!r}{_meant(name, known)}")


def _meant(name: Any, known: frozenset[str]) -> str:
    if name == "stream":
        return ": use invoke_parallel_streaming(..., callbacks=...), or 'streaming': True for the same answer"
    import difflib

    close = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _messages(prompt: Any, messages: Any, *, mark: bool) -> list[contents.Block]:
    turns = [user_turn(prompt)] if messages is None else message_list(messages)
    if mark:
        last = turns[-1]
        turns[-1] = {**last, "content": contents.marked(contents.as_blocks(last["content"]))}
    return turns


def user_turn(prompt: Any, name: str = "prompt") -> contents.Block:
    """
    The user's message that says *prompt*.

    Raises:
        ValueError: If it says nothing, or is no content.
    """
    content = contents.plain(prompt) if isinstance(prompt, str) else _blocks(name, prompt)
    said = content if isinstance(content, str) else "".join(map(_said, content))
    if not said.strip():
        raise ValueError(f"{name} is blank: {prompt!r}")
    return {"role": "user", "content": content}


def _said(block: contents.Block) -> str:
    """The text of *block*, or the kind of what it holds instead."""
    return str((block.get("text") if block["type"] == "text" else block["type"]) or "")


def message_list(messages: Any) -> list[contents.Block]:
    """
    A copy of *messages*.

    Raises:
        ValueError: If they are no messages, or none.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"messages must be a list of dicts, got {_a(messages)}")
    if not messages:
        raise ValueError("messages is empty")
    turns: list[contents.Block] = contents.plain([*messages])
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise ValueError(f"messages[{i}] is {_a(turn)}, not a dict with 'role' and 'content'")
        if missing := {"role", "content"} - turn.keys():
            raise ValueError(f"messages[{i}] has no {min(missing)!r}")
        if not isinstance(turn["content"], str):
            _blocks(f"messages[{i}]['content']", turn["content"])
    return turns


def _blocks(name: str, content: Any) -> list[contents.Block]:
    if isinstance(content, (bytes, Mapping)) or not isinstance(content, Sequence):
        raise ValueError(f"{name} must be a str or a list of content blocks, got {_a(content)}")
    blocks: list[contents.Block] = contents.plain([*content])
    for i, block in enumerate(blocks):
        if not isinstance(block, dict) or not block.get("type"):
            raise ValueError(f"{name}[{i}] must be a content block, a dict with a 'type', got {content[i]!r}")
    return blocks


def _headers(value: Any) -> dict[str, Any]:
    """Spelled like ours where they are ours, so that the caller's replace them; the SDK knows others by spelling."""
    headers = _mapping("extra_headers", value)
    for name, item in headers.items():
        if not isinstance(name, str) or not (isinstance(item, str) or type(item).__name__ == "Omit"):
            raise ValueError(f"extra_headers must have texts as names and values, got {_a(item)} for {name!r}")
    return {name.lower() if name.lower() in _OUR_HEADERS else name: item for name, item in headers.items()}


def _extra_body(value: Any) -> Mapping[str, Any]:
    body = _mapping("extra_body", value)
    if "stream" in body:
        raise ValueError("extra_body must not set 'stream': use streaming=True or invoke_claude_streaming()")
    return body


def check_breakpoints(request: Request) -> int:
    """
    How many cache breakpoints *request* has.

    Raises:
        ValueError: If those are more than the API takes.
    """
    automatic = 1 if request.params.get("cache_control") or request.extra_body.get("cache_control") else 0
    parts = (request.params.get("tools"), request.system, request.messages)
    found = automatic + sum([contents.count_breakpoints(part) for part in parts if part])
    if found > contents.MOST_BREAKPOINTS:
        raise ValueError(f"at most {contents.MOST_BREAKPOINTS} cache breakpoints are allowed, got {found}")
    return found


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a non-empty str, got {value!r}")
    return value


def whole_number(name: str, value: Any, least: int) -> int:
    """*value* if it is one, or a ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def seconds(name: str, value: Any) -> float:
    """*value* if it is a finite number above 0, or a ValueError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number of seconds above 0, got {value!r}")
    return value


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")
    return value


def _timeout(value: Any) -> Any:
    if value is None or type(value).__name__ == "Timeout":
        return value
    return seconds("timeout", value)


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    """A copy of *value*."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a dict, got {_a(value)}")
    copy: Mapping[str, Any] = contents.plain(value)
    return copy


def _a(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
