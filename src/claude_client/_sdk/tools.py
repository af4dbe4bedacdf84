"""The SDK's own helpers for tools."""

from __future__ import annotations

from typing import Any


def mcp_tool(described: Any, session: Any) -> Any:
    """The SDK's tool for one that an MCP server has *described*, called by *session*."""
    from anthropic.lib.tools.mcp import async_mcp_tool

    return async_mcp_tool(described, session)
