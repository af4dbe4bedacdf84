"""
Managed runs on top of `task_state` and `claude_client`.

- `ConcurrencyLimiter`: slots that several runs and people's own threads share, in total and per category.
- `LimiterStatistics`, `Occupancy`: what it tells of itself.
"""

from ._limiter import ConcurrencyLimiter, LimiterStatistics, Occupancy

__all__ = ["ConcurrencyLimiter", "LimiterStatistics", "Occupancy"]
