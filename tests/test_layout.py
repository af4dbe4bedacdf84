"""The arrows between the modules, as DESIGN has them: each imports only what stands below it."""

import ast
import sys
from pathlib import Path

import pytest

import claude_client

SOURCE = Path(claude_client.__file__).parent.parent

# A module imports only from those before it.
BOTTOM_UP = [
    "_types",
    "_html",
    "_usage",
    "_errors",
    "_response",
    "_results",
    "_progress",
    "_prompts",
    "_sdk",
    "_credentials",
    "_request",
    "_stall",
    "_prefix",
    "_retry",
    "_per_client",
    "_rate_gate",
    "_interrupt",
    "_network",
    "_stream",
    "_client",
    "_transport",
    "_call",
    "_dispatch",
    "_cache_gate",
    "_jobs",
    "_invoke",
    "_conversation",
    "_parallel",
    "__init__",
]
# What `orchestration` may use besides public names.
DOORS = {
    "_call",
    "_client",
    "_dispatch",
    "_jobs",
    "_parallel",
    "_progress",
    "_prompts",
    "_request",
    "_response",
    "_retry",
    "_sdk",
    "_stall",
    "_transport",
}
MAY_IMPORT_THE_SDK = {"_sdk", "_client", "_stream"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(module: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.level:
            names |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return names


def sdk_at_run_time(module: ast.Module) -> bool:
    typing_only = {
        id(inner)
        for node in ast.walk(module)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(module):
        if id(node) not in typing_only and isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if any(name.split(".")[0] == "anthropic" for name in names):
                return True
    return False


def test_every_module_has_its_place():
    assert {path.stem for path in (SOURCE / "claude_client").glob("*.py")} == {*BOTTOM_UP}


@pytest.mark.parametrize("name", BOTTOM_UP)
def test_a_module_imports_only_what_stands_below_it(name):
    used = imported(tree(SOURCE / "claude_client" / f"{name}.py"))
    assert used <= {*BOTTOM_UP[: BOTTOM_UP.index(name)]}


def test_only_the_modules_at_the_door_import_the_sdk():
    found = {path.stem for path in (SOURCE / "claude_client").glob("*.py") if sdk_at_run_time(tree(path))}
    assert found == MAY_IMPORT_THE_SDK


def imported_from_outside(module: ast.Module) -> set[str]:
    nodes = [*ast.walk(module)]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}


def test_the_simulator_imports_nothing_of_ours():
    for path in (SOURCE / "claude_client" / "simulator").rglob("*.py"):
        source = path.read_text()
        assert "from .." not in source, path
        assert "import claude_client\n" not in source, path


def test_task_state_imports_the_standard_library_only():
    for path in (SOURCE / "task_state").glob("*.py"):
        found = {name.split(".")[0] for name in imported_from_outside(tree(path))}
        assert found <= sys.stdlib_module_names, path


def test_orchestration_uses_public_names_and_the_named_doors():
    for path in (SOURCE / "orchestration").glob("*.py"):
        found = {
            name for name in imported_from_outside(tree(path)) if name.split(".")[0] not in sys.stdlib_module_names
        }
        assert found <= {"claude_client", "task_state", *(f"claude_client.{door}" for door in DOORS)}, path


def test_nobody_imports_orchestration():
    for folder in ("claude_client", "task_state"):
        for path in (SOURCE / folder).rglob("*.py"):
            assert not any(name.startswith("orchestration") for name in imported_from_outside(tree(path))), path
