"""Checks of the numbers people give."""

from __future__ import annotations

import math


def check_at_least(name: str, value: float | None, least: float) -> None:
    """Raise ValueError unless *value* is None or a finite number of at least *least*."""
    if value is not None and not (value >= least and math.isfinite(value)):
        raise ValueError(f"{name} must be at least {least}, got {value!r}")


def check_positive(name: str, value: float | None) -> None:
    """Raise ValueError unless *value* is None or a finite number above 0."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be above 0, got {value!r}")
