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

from ._sdk.client import has_credentials, set_default_client
from ._values.errors import ClaudeInvocationError, Kind
from ._values.interrupt import InterruptToken
from ._values.options import ApiParams, Content, PromptSpec, TextCallback
from ._values.response import ClaudeResponse
from ._values.results import ParallelInterrupt, ParallelInvocationError, Results
from ._values.usage import Usage
from ._verbs.conversation import ConversationThread
from ._verbs.invoke import invoke_claude, invoke_claude_streaming
from ._verbs.parallel import invoke_parallel, invoke_parallel_interruptible, invoke_parallel_streaming
from ._verbs.stall import StallDetector

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
