"""Checks of the values that callers pass: each returns the value, or raises an error that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def whole_number(name: str, value: Any, least: int) -> int:
    """*value* if it is a whole number of at least *least*, or a ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def number(name: str, value: Any, low: float, high: float) -> float:
    """*value* if it is a number from *low* to *high*, or a ValueError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")
    return value


def seconds(name: str, value: Any) -> float:
    """*value* if it is a finite number above 0, or a ValueError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number of seconds above 0, got {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """*value* if it is a text that is not blank, or a ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a non-empty str, got {value!r}")
    return value


def check_callback(name: str, callback: Callable[..., object] | None) -> None:
    """Raise a TypeError unless *callback* can be called or is None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{name} must be callable or None, got {callback!r}")


def type_name(value: Any) -> str:
    """The type of *value* with an article, for a message about it."""
    return "None" if value is None else f"a {type(value).__name__}"
