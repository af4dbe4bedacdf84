"""Values that can be copied to a file number by number, so that processes can share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class State:
    """A value that is known by its numbers and by its parts."""

    #: The attributes that are single numbers.
    NUMBERS: ClassVar[tuple[str, ...]] = ()
    #: Those that are lists of numbers, each of one length for ever, or other such values.
    PARTS: ClassVar[tuple[str, ...]] = ()

    def numbers(self) -> list[float]:
        """All numbers in it, in one order."""
        found: list[float] = [getattr(self, name) for name in self.NUMBERS]
        for name in self.PARTS:
            part = getattr(self, name)
            found += part.numbers() if isinstance(part, State) else part
        return found

    def restore(self, numbers: Sequence[float], at: int = 0) -> int:
        """Become the value that gave the *numbers* from place *at* on, and return the place after them."""
        for name, number in zip(self.NUMBERS, numbers[at : at + len(self.NUMBERS)], strict=True):
            setattr(self, name, number)
        at += len(self.NUMBERS)
        for name in self.PARTS:
            part = getattr(self, name)
            if isinstance(part, State):
                at = part.restore(numbers, at)
            else:
                part[:] = numbers[at : at + len(part)]
                at += len(part)
        return at
