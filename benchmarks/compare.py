"""
What this library costs and does, beside the raw SDK in a thread pool, against a simulator in another process.

    uv run benchmarks/compare.py [PART ...] [--quick] [--write]
"""

from __future__ import annotations

import argparse
import inspect
import os
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import _batches
import _calls
import _command
import _conversations
import _failures
import _fan_outs
import _interrupts
import _limits
import _machines
import _managed
import _money
import _tools
import _ways_in
import anthropic
from _figures import Figure, table

PARTS = {
    "calls": _calls,
    "fan-outs": _fan_outs,
    "limits": _limits,
    "interrupts": _interrupts,
    "failures": _failures,
    "conversations": _conversations,
    "managed": _managed,
    "money": _money,
    "batches": _batches,
    "ways-in": _ways_in,
    "command": _command,
    "machines": _machines,
    "tools": _tools,
}
ROOT = Path(__file__).parent.parent
PAGE = ROOT / "references" / "benchmarks.md"
README = ROOT / "README.md"
MARKED = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def main() -> None:
    options = parsed()
    forget_environment()
    measured_on = f"Measured on {machine()}."
    print("Too little of each for figures to quote." if options.quick else measured_on)
    figures: list[Figure] = []
    sections: list[str] = []
    for name in options.parts or PARTS:
        began = time.monotonic()
        of_part = [*PARTS[name].figures(quick=options.quick)]
        figures += of_part
        sections.append(f"## {name.replace('-', ' ').capitalize()}\n\n{about(name)}\n\n{table(of_part)}")
        print(f"\n{name} ({time.monotonic() - began:.0f} s)\n{table(of_part)}", flush=True)
    pages = {
        PAGE: filled(PAGE, "\n\n".join([measured_on, *sections])),
        README: filled(README, table(figure for figure in figures if figure.in_readme)),
    }
    if options.write:
        for page, text in pages.items():
            page.write_text(text, encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare this library with the raw SDK in a thread pool.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="little of each, to see that it runs; no figures to quote")
    parser.add_argument("--write", action="store_true", help="put the figures into README and references/benchmarks.md")
    options = parser.parse_args()
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.write and (options.parts or options.quick):
        parser.error("--write needs all parts, and not --quick: what is written comes from one whole run")
    return options


def forget_environment() -> None:
    """No key, profile or proxy of whoever runs this takes part."""
    for name in [*os.environ]:
        if name.startswith("ANTHROPIC_") or name.lower().endswith("_proxy"):
            del os.environ[name]


def machine() -> str:
    try:
        told = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        told = None
    cpu = told[1] if told else platform.machine()
    return (
        f"{os.cpu_count()} cores of {cpu} (load {os.getloadavg()[0]:.1f} before the run), {platform.system()}, "
        f"Python {platform.python_version()}, anthropic {anthropic.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    )


def about(name: str) -> str:
    """What a part says of itself, which stands above its table."""
    return inspect.cleandoc(PARTS[name].__doc__ or "")


def filled(page: Path, figures: str) -> str:
    """The text of *page* with *figures* between its marks."""
    text, times = MARKED.subn(lambda marks: f"{marks[1]}{figures}\n\n{marks[2]}", page.read_text(encoding="utf-8"))
    assert times == 1, f"{page.name} has no marks for figures, or more than one pair"
    return text


if __name__ == "__main__":
    main()
