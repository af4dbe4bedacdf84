"""
Claude calls, one or many at once, over the official `anthropic` SDK.

- `invoke_claude`, `invoke_claude_streaming`: one call.
- `invoke_parallel`, `invoke_parallel_streaming`, `invoke_parallel_interruptible`: many prompts at once.
- `as_completed`: the same of any iterable, drawn as needed, with outcomes to take as they come (`AsCompleted`).
- `ConversationThread`: many turns with one history.
- `InterruptToken`: ends calls from another thread.
- `StallDetector`: notices tasks that show no activity.
- `ClaudeResponse`, `Results`, `Usage`, `AttemptRecord`: what they return, and what is known of each request;
  `Timeline`, `Tree`: pictures of it.
- `estimate_cost`: what a fan-out will cost, as an `Estimate`, which compares ways to ask.
- `Budget`: what calls may cost in all, and `BudgetState`, what stands in it.
- `extract_json`: the one JSON value in a free text.
- `last_results`: those of the last fan-out, if an exception ended it.
- `ClaudeInvocationError`, `ParallelInvocationError`, `ParallelInterrupt`: what they raise.
- `share_limits`, `rate_limits`: share what is learnt of rate limits with other processes; see what that is.
- `set_default_client`, `has_credentials`, `NoCredentialsError`: use your own SDK client; check for credentials.
- `claude_client.aio`: the verbs for coroutines.
- `claude_client.simulator`: a stand-in for the API, to rehearse without a key or a bill.

Importing this imports no `anthropic`: that happens at the first call.
"""

from claude_client._gates.clients import share_limits
from claude_client._sdk.client import NoCredentialsError, has_credentials, set_default_client
from claude_client._values.budget import Budget, BudgetState
from claude_client._values.context import Context
from claude_client._values.errors import ClaudeInvocationError
from claude_client._values.estimate import Choice, Comparison, Estimate
from claude_client._values.extract import extract_json
from claude_client._values.interrupt import InterruptToken
from claude_client._values.kinds import Kind
from claude_client._values.loop import BeforeTool, Refuse, Respond
from claude_client._values.options import (
    ApiParams,
    CallOptions,
    Content,
    FanOutOptions,
    PromptOptions,
    PromptSpec,
    StreamOptions,
    TextCallback,
    ToolOptions,
)
from claude_client._values.rate_limit import RateLimit
from claude_client._values.record import AttemptRecord, ToolRecord
from claude_client._values.response import ClaudeResponse
from claude_client._values.results import ParallelInterrupt, ParallelInvocationError, Results
from claude_client._values.timeline import Timeline
from claude_client._values.tool import StopTools, Tool, tool
from claude_client._values.tree import Tree
from claude_client._values.usage import Usage
from claude_client._verbs.as_completed import AsCompleted, as_completed
from claude_client._verbs.conversation import ConversationThread
from claude_client._verbs.estimate import estimate_cost
from claude_client._verbs.invoke import invoke_claude, invoke_claude_streaming
from claude_client._verbs.last import last_results
from claude_client._verbs.limits import rate_limits
from claude_client._verbs.parallel import invoke_parallel, invoke_parallel_interruptible, invoke_parallel_streaming
from claude_client._verbs.stall import StallDetector
from claude_client._verbs.with_tools import invoke_with_tools

#: The version of the three packages.
__version__ = "0.4.0"

__all__ = [
    "ApiParams",
    "AsCompleted",
    "AttemptRecord",
    "BeforeTool",
    "Budget",
    "BudgetState",
    "CallOptions",
    "Choice",
    "ClaudeInvocationError",
    "ClaudeResponse",
    "Comparison",
    "Content",
    "Context",
    "ConversationThread",
    "Estimate",
    "FanOutOptions",
    "InterruptToken",
    "Kind",
    "NoCredentialsError",
    "ParallelInterrupt",
    "ParallelInvocationError",
    "PromptOptions",
    "PromptSpec",
    "RateLimit",
    "Refuse",
    "Respond",
    "Results",
    "StallDetector",
    "StopTools",
    "StreamOptions",
    "TextCallback",
    "Timeline",
    "Tool",
    "ToolOptions",
    "ToolRecord",
    "Tree",
    "Usage",
    "as_completed",
    "estimate_cost",
    "extract_json",
    "has_credentials",
    "invoke_claude",
    "invoke_claude_streaming",
    "invoke_parallel",
    "invoke_parallel_interruptible",
    "invoke_parallel_streaming",
    "invoke_with_tools",
    "last_results",
    "rate_limits",
    "set_default_client",
    "share_limits",
    "tool",
]
