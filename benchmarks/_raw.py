"""What people write with the SDK alone: a call, and a thread pool over it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
from anthropic.types import Message

MODEL = "claude-sonnet-4-6"


def ask(client: anthropic.Anthropic, prompt: str, **options: Any) -> Message:
    message: Message = client.messages.create(
        **{"model": MODEL, "max_tokens": 4096, "messages": [{"role": "user", "content": prompt}], **options}
    )
    return message


def ask_all(
    client: anthropic.Anthropic, prompts: list[str], *, workers: int = 10, **options: Any
) -> list[Message | anthropic.APIError]:
    """The answers, and the error where the SDK gave up on a prompt after its own two retries."""

    def answer(prompt: str) -> Message | anthropic.APIError:
        try:
            return ask(client, prompt, **options)
        except anthropic.APIError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return [*pool.map(answer, prompts)]


def lost(answers: list[Message | anthropic.APIError]) -> int:
    return sum(isinstance(answer, anthropic.APIError) for answer in answers)
