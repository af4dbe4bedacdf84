"""
The pages hold: their Python blocks run and print what the pages say, their links lead somewhere, their tables are true.

`pages` says what the authors of a page hold to. Shell blocks are run by `.ci/run`, through `shell_blocks.py`.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import sys
import threading
import types
from collections import Counter
from pathlib import Path
from typing import get_args

import anthropic
import pytest

import helpers
from claude_client import ApiParams, Kind
from claude_client._sdk.parameters import create_parameters
from claude_client._values.errors import TRANSIENT
from claude_client.simulator import Reply
from pages import PAGES, ROOT, SHELLS, Block, blocks_of, difference, marks_of, name_of, prose_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python" and block.not_run is None]
ERRORS = ROOT / "references" / "errors.md"
SDK_VERSIONS = ROOT / "references" / "sdk-versions.md"

#: Those that start interpreters of their own take long: each imports the SDK first.
RUN = [
    pytest.param(block, marks=pytest.mark.long) if re.search("subprocess|ProcessPool", block.code) else block
    for block in PYTHON
]

LONGEST = 30  # seconds that a thread of a block may go on after its end


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.where)
def test_a_block_runs_and_prints_what_its_page_says(block, sim, monkeypatch, capsys):
    run(block, monkeypatch)
    if block.prints is not None:
        assert not difference(capsys.readouterr().out, block.prints)


def run(block: Block, monkeypatch) -> None:
    """Run *block* as a file of its own would be, to the end of the threads that it leaves behind."""
    program = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [block.where])
    before = {*threading.enumerate()}
    code = compile("\n" * (block.line - 1) + block.code, block.page, "exec")  # its traceback has the page's lines
    exec(code, vars(program))
    for thread in {*threading.enumerate()} - before:
        if not thread.daemon:
            thread.join(LONGEST)
            assert not thread.is_alive(), f"{thread} goes on"


def test_there_are_blocks_to_run():
    assert {name_of(block.page) for block in PYTHON} >= {"README.md"}
    assert any(block.language in SHELLS and block.not_run is None for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_a_block_says_what_it_is(block):
    assert block.language in {"python", "json", "text", *SHELLS}
    if block.language == "json":
        json.loads(block.code)
    if block.language == "python":
        ast.parse(block.code)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_says_why(page):
    marked = [block for block in blocks_of(page) if block.not_run is not None]
    assert [block.where for block in marked if not block.not_run] == []
    assert [block.where for block in marked if block.language not in {"python", *SHELLS}] == []
    assert marks_of(page) == [block.line - 2 for block in marked], "a mark stands on the line before its block"


# Links.

LINK = re.compile(r"\[[^][]*]\((?P<inline>[^)\s]+)\)|^\[[^][]+]: *(?P<defined>\S+)")
LINKS = [
    (page, number, link["inline"] or link["defined"])
    for page in PAGES
    for number, line in prose_of(page)
    for link in LINK.finditer(re.sub(r"`[^`]*`", "``", line))
]


@pytest.mark.parametrize(
    ("page", "target"),
    [
        pytest.param(page, target, id=f"{name_of(page)}:{number}-{target}")
        for page, number, target in LINKS
        if not re.match(r"[a-z]+:", target)
    ],
)
def test_a_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    led_to = (page.parent / path).resolve() if path else page
    assert led_to.is_relative_to(ROOT.resolve())
    assert led_to.exists()
    assert not anchor or anchor in anchors_of(led_to)


def anchors_of(page: Path) -> set[str]:
    """The anchors of the headings of *page*, as GitHub makes them."""
    seen: Counter[str] = Counter()
    anchors = set()
    for _, line in prose_of(page):
        if heading := re.fullmatch(r"#{1,6} +(?P<text>.*?)[ #]*", line):
            text = re.sub(r"\[([^][]*)]\([^)]*\)", r"\1", heading["text"])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return anchors


# Tables.


def rows_of(page: Path, first_column: str) -> list[dict[str, str]]:
    """The rows of the table of *page* whose first column is so named, by column."""
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for _, line in prose_of(page) if line[:1] == "|"
    ]
    (start,) = [i for i, row in enumerate(cells) if row[0] == first_column]
    rows = []
    for row in cells[start + 2 :]:
        if len(row) != len(cells[start]):
            break
        rows.append(dict(zip(cells[start], row, strict=True)))
    return rows


def test_every_kind_of_error_is_explained_once():
    assert Counter(row["kind"].strip("`") for row in rows_of(ERRORS, "kind")) == Counter(get_args(Kind))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_page_says_which_errors_are_sent_again(kind):
    (row,) = [row for row in rows_of(ERRORS, "kind") if row["kind"] == f"`{kind}`"]
    assert row["sent again"].startswith("yes") == (kind in TRANSIENT)
    assert all(row.values())


def test_the_page_on_sdk_versions_is_true_of_the_installed_one(sim, monkeypatch):
    rows = rows_of(SDK_VERSIONS, "what")
    (column,) = [name for name in rows[0] if name.startswith(f"{helpers.SDK_MAJOR}.")]
    assert {row["what"]: row[column] for row in rows} == of_the_installed_sdk(sim, monkeypatch)


def pickled(value):
    """*value* as it pickles by itself: distributed, which other tests import, registers a way for exceptions."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file)
    pickler.dispatch_table = {}
    pickler.dump(value)
    return file.getvalue()


def of_the_installed_sdk(sim, monkeypatch) -> dict[str, str]:
    """What the table says of it, found out."""

    def create(**options):
        with anthropic.Anthropic(base_url=sim.base_url, max_retries=0, **options) as client:
            client.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=[{"role": "user", "content": "?"}])
        return sim.requests[-1].headers

    headers = create()
    sim.script(Reply(fault="overloaded"))
    overloaded = raised_by(create)
    both = raised_by(lambda: create(api_key="a-key", auth_token="a-token"))
    both_sent = {"x-api-key", "authorization"} <= sim.requests[-1].headers.keys()
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_PROFILE", "nobody")
    ours = {"output_retries", "grow_max_tokens", "before_tool", "max_parallel_tools", "max_iterations"}
    ours |= {"max_context_tokens", "on_full"}
    not_taken = {"temperature", *ApiParams.__annotations__} - ours - create_parameters()
    return {
        "`anthropic-version`": headers["anthropic-version"],
        "header of an API key": f"`{min({'x-api-key', 'authorization'} & headers.keys())}`",
        "HTTP library": anthropic.DefaultHttpxClient.__mro__[1].__module__,
        "not taken by `create`": ", ".join(f"`{name}`" for name in sorted(not_taken)),
        "a key and a token at once": "both are sent" if both_sent else f"`{type(both).__name__}`",
        "a profile that is not there": f"`{type(raised_by(create)).__name__}`",
        "the class of a 529 is an `InternalServerError`": yes_if(isinstance(overloaded, anthropic.InternalServerError)),
        "its errors have `error_code`": yes_if(hasattr(overloaded, "error_code")),
        "its errors pickle": yes_if(raised_by(lambda: pickle.loads(pickled(overloaded))) is None),
    }


def raised_by(call) -> Exception | None:
    try:
        call()
    except Exception as exc:  # noqa: BLE001 - it is what we are asking for
        return exc
    return None


def yes_if(it) -> str:
    return "yes" if it else "no"


def test_the_figures_of_the_readme_are_those_of_the_page_on_benchmarks():
    shown = figures_of(ROOT / "README.md")
    assert shown
    assert shown <= figures_of(ROOT / "references" / "benchmarks.md")


def figures_of(page: Path) -> set[tuple[str, ...]]:
    """The rows of all tables of *page*, cell by cell."""
    return {
        tuple(cell.strip() for cell in line.strip("| ").split("|"))
        for _, line in prose_of(page)
        if line.startswith("| ")
    }
