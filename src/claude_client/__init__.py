"""
Claude calls, one or many at once, over the official `anthropic` SDK.

- `invoke_claude`, `invoke_claude_streaming`: one call.
- `invoke_parallel`, `invoke_parallel_streaming`, `invoke_parallel_interruptible`: many prompts at once.
- `ConversationThread`: many turns with one history.
- `InterruptToken`: ends calls from another thread.
- `StallDetector`: notices tasks that show no sign of life.
- `ClaudeResponse`, `Results`, `Usage`: what they return.
- `ClaudeInvocationError`, `ParallelInvocationError`, `ParallelInterrupt`: what they raise.
- `set_default_client`, `has_credentials`: bring your own SDK client; whether there is a key.
- `claude_client.simulator`: a stand-in for the API, to rehearse without a key or a bill.

Importing this imports no `anthropic`: that happens at the first call.
"""

from ._client import has_credentials, set_default_client
from ._conversation import ConversationThread
from ._errors import ClaudeInvocationError, Kind
from ._interrupt import InterruptToken
from ._invoke import invoke_claude, invoke_claude_streaming
from ._parallel import invoke_parallel, invoke_parallel_interruptible, invoke_parallel_streaming
from ._response import ClaudeResponse
from ._results import ParallelInterrupt, ParallelInvocationError, Results
from ._stall import StallDetector
from ._types import ApiParams, Content, PromptSpec, TextCallback
from ._usage import Usage

__all__ = [
    "ApiParams",
    "ClaudeInvocationError",
    "ClaudeResponse",
    "Content",
    "ConversationThread",
    "InterruptToken",
    "Kind",
    "ParallelInterrupt",
    "ParallelInvocationError",
    "PromptSpec",
    "Results",
    "StallDetector",
    "TextCallback",
    "Usage",
    "has_credentials",
    "invoke_claude",
    "invoke_claude_streaming",
    "invoke_parallel",
    "invoke_parallel_interruptible",
    "invoke_parallel_streaming",
    "set_default_client",
]
