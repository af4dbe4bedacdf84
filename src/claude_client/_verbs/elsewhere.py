"""What it takes to have another process send the requests of a run. `import claude_client` has no need of it."""

from __future__ import annotations

from claude_client._engine.parcels import Inbox, Parcel, Room

__all__ = ["Inbox", "Parcel", "Room"]
