"""
The pages people read, and the blocks of code in them. Only the standard library, as `shell_blocks.py` needs it too.

What the authors of a page hold to:

- Every block says what it is: `python` and `sh` (or `bash`) are run, `json` is parsed, `text` is only read. A
  signature, an output, anything else that is no program is `text`.
- Every Python block stands alone: it has its imports, and needs no key and no other block.
- A `text` block right after one that is run, with nothing but blank lines between, is what that prints, whole. `...`
  in it stands for anything.
- The shell blocks of a page are run one after another, in one folder and one environment of Python.
- A block that cannot be run here says why, on the line before it: `<!-- not run: the reason -->`.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: In the order in which `.ci/run` goes through them: what fails soonest goes first.
PAGES = [
    page
    for pattern in ("CONTRIBUTING.md", "README.md", "SKILL.md", "references/*.md", "examples/*.md", "CHANGELOG.md")
    for page in sorted(ROOT.glob(pattern))
]
SHELLS = {"sh", "bash"}

_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[^`]*)")
_MARK = re.compile(r" *<!-- *not run\b:?(?P<reason>.*)-->")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    #: The number of its first line within the fence.
    line: int
    language: str
    code: str
    #: Why it is not run; None if it is.
    not_run: str | None
    #: The text block right after it, as what it prints.
    prints: str | None = None

    @property
    def where(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of *page*, from its top to its end."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    end_of_last = 0
    for begin, end in _fenced(lines):
        opening = _FENCE.match(lines[begin])
        assert opening
        mark = _MARK.fullmatch(lines[begin - 1]) if begin else None
        block = Block(
            page,
            begin + 2,
            opening["language"].strip(),
            textwrap.dedent("\n".join(lines[begin + 1 : end]) + "\n"),
            mark["reason"].strip() if mark else None,
        )
        follows_directly = not "".join(lines[end_of_last + 1 : begin]).strip()
        if block.language == "text" and follows_directly and found and found[-1].language != "text":
            found[-1] = replace(found[-1], prints=block.code)
        found.append(block)
        end_of_last = end
    return found


def difference(printed: str, said: str) -> str:
    """How *printed* differs from what a page *said*; empty if it does not, blanks at the ends of lines apart."""
    printed, said = ("\n".join(map(str.rstrip, text.strip().splitlines())) for text in (printed, said))
    if re.fullmatch(re.escape(said).replace(r"\.\.\.", ".*"), printed, re.DOTALL):
        return ""
    return "\n".join(difflib.unified_diff(said.splitlines(), printed.splitlines(), "said", "printed", lineterm=""))


def marks_of(page: Path) -> list[int]:
    """The numbers of the lines that say of a block that it is not run."""
    return [i for i, line in prose_of(page) if _MARK.fullmatch(line)]


def prose_of(page: Path) -> list[tuple[int, str]]:
    """The lines of *page* outside its blocks, each with its number."""
    lines = page.read_text(encoding="utf-8").splitlines()
    within = {i for begin, end in _fenced(lines) for i in range(begin, end + 1)}
    return [(i + 1, line) for i, line in enumerate(lines) if i not in within]


def _fenced(lines: list[str]) -> Iterator[tuple[int, int]]:
    """The indexes of the lines that open and close each block; an open end is the page's."""
    begin, ticks = None, ""
    for i, line in enumerate(lines):
        if begin is None and (opening := _FENCE.fullmatch(line)):
            begin, ticks = i, opening["ticks"]
        elif begin is not None and line.strip().startswith(ticks) and not line.strip().strip(ticks[0]):
            yield begin, i
            begin = None
    if begin is not None:
        yield begin, len(lines)
