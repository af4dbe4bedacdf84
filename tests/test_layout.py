"""The arrows between the folders, as CONTRIBUTING has them: each imports only from itself and from those below it."""

import ast
import sys
from pathlib import Path

import pytest

import claude_client

pytestmark = pytest.mark.once

SOURCE = Path(claude_client.__file__).parent.parent
PACKAGE = SOURCE / "claude_client"

FLOORS = ["_values", "_sdk", "_gates", "_engine", "_verbs"]  # from the bottom up
ABOVE = {floor: {*FLOORS[FLOORS.index(floor) + 1 :]} for floor in FLOORS}
# The gates know nothing of the SDK, nor it of them.
NOT_TO_BE_USED = {**ABOVE, "_gates": ABOVE["_gates"] | {"_sdk"}}
# What `orchestration` may use besides public names.
DOORS = {"_values", "_gates", "_verbs"}
WORKER = "_dask_worker.py"  # tells which SDK it has


def rooms(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if "simulator" not in path.relative_to(folder).parts]


def imports(path: Path) -> dict[str, bool]:
    """The modules that *path* imports, by their whole names, and whether at run time too."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: dict[str, bool] = {}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            package = [*path.relative_to(SOURCE).parent.parts][: -node.level + 1 or None] if node.level else []
            names = [".".join([*package, *filter(None, [node.module])])]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            found[name] = found.get(name, False) or id(node) not in typing_only
    return found


def floors_of(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("claude_client._")}


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_uses_only_what_is_below_it(floor):
    halls = {"__init__.py", "aio.py", "mcp.py"}
    assert {path.relative_to(PACKAGE).parts[0] for path in rooms(PACKAGE)} == {*halls, *FLOORS}
    for path in rooms(PACKAGE / floor):
        assert floors_of(path).isdisjoint(NOT_TO_BE_USED[floor]), path


def test_no_modules_import_each_other_in_a_circle():
    arrows = {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): {name for name, runs in imports(path).items() if runs}
        for package in ("claude_client", "task_state", "orchestration")
        for path in rooms(SOURCE / package)
    }
    while arrows:
        ends = [name for name, used in arrows.items() if not used & arrows.keys()]
        assert ends, arrows
        for name in ends:
            del arrows[name]


def test_only_the_floor_of_the_sdk_imports_it():
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in rooms(PACKAGE)
        for name, runs in imports(path).items()
        if runs and "anthropic" in name
    }
    assert users == {"_sdk"}


def test_orchestration_comes_in_by_public_names_and_three_doors():
    for path in rooms(SOURCE / "orchestration"):
        ours = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names
        extras = {"distributed"} if path.name == "distributed.py" else {"anthropic"} if path.name == WORKER else set()
        known = {"claude_client", "task_state", "orchestration", "typing_extensions"}  # the SDK needs the last
        assert ours <= known | extras, path
        assert floors_of(path) <= DOORS, path


def test_the_simulator_imports_nothing_of_ours():
    for path in (PACKAGE / "simulator").rglob("*.py"):
        ours = {name for name in imports(path) if name.startswith(("claude_client", "task_state", "orchestration"))}
        assert all(name.startswith("claude_client.simulator") for name in ours), path


def test_task_state_imports_the_standard_library_only():
    for path in rooms(SOURCE / "task_state"):
        found = {name.split(".")[0] for name in imports(path)} - {"task_state"}
        assert found <= sys.stdlib_module_names, path


def test_nobody_imports_orchestration():
    for folder in ("claude_client", "task_state"):
        for path in (SOURCE / folder).rglob("*.py"):
            assert not any(name.startswith("orchestration") for name in imports(path)), path
