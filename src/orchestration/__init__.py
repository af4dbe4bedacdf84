"""Managed runs on top of `task_state` and `claude_client`."""

__all__: list[str] = []
