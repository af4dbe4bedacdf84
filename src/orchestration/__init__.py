"""Managed runs on top of `task_state` and `claude_client`."""
