"""
Runs the shell blocks of the pages, as a stranger would. Run by `.ci/run`, not by pytest: some of them run that.

    uv run tests/shell_blocks.py [PAGE ...]

Each page has a clean copy of this repository to itself, and an activated environment of Python with nothing but pip.
There is a `uv` besides, no key, and no other address of the API. Each block has a shell of its own, which ends at the
first command that fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from pages import PAGES, ROOT, SHELLS, Block, blocks_of, difference, name_of


def main(names: list[str]) -> None:
    if unknown := {*names} - {*map(name_of, PAGES)}:
        sys.exit(f"no such page: {', '.join(sorted(unknown))}")
    began = time.monotonic()
    for page in PAGES:
        blocks = [block for block in blocks_of(page) if block.language in SHELLS]
        if blocks and (not names or name_of(page) in names):
            with tempfile.TemporaryDirectory() as folder:
                run_session(Path(folder), blocks, began)


def run_session(folder: Path, blocks: list[Block], began: float) -> None:
    copy = folder / "orchestrating-agents"
    copy_repository(copy)
    environ = environment(folder / "environment")
    for block in blocks:
        seconds = round(time.monotonic() - began)
        if block.not_run is not None:
            say(f"\n== {block.where} is not run: {block.not_run}")
            continue
        say(f"\n== {block.where} ({seconds} s)\n{block.code}")
        printed = output_of(block, copy, environ)
        if block.prints is not None and (differs := difference(printed, block.prints)):
            sys.exit(f"{block.where} printed something else:\n{differs}")


def copy_repository(to: Path) -> None:
    """All that git knows or would add, as it is now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (source := ROOT / name).is_file():  # or it was deleted, and git was not told
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


def environment(folder: Path) -> dict[str, str]:
    """This process's environment with a fresh one of Python activated, and without what is ours or a secret."""
    venv.create(folder, with_pip=True, symlinks=True)
    shared = folder / "shared"
    shared.mkdir()
    if uv := os.environ.get("UV") or shutil.which("uv"):  # `uv run` says where it is
        (shared / "uv").symlink_to(uv)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANTHROPIC_", "PYTHON", "PYTEST_", "VIRTUAL_ENV", "UV_PROJECT", "UV_RUN"))
    }
    ours = str(Path(sys.prefix, "bin"))  # `uv run` has put it first
    others = [place for place in os.environ["PATH"].split(os.pathsep) if place != ours]
    path = os.pathsep.join([str(folder / "bin"), *others, str(shared)])
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(folder)}


def output_of(block: Block, folder: Path, environ: dict[str, str]) -> str:
    """What *block* prints, which is shown too as it comes."""
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    printed = []
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            sys.stdout.write(line)
            sys.stdout.flush()
    if process.returncode:
        sys.exit(f"{block.where} failed with {process.returncode}")
    return "".join(printed)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
