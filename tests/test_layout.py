"""The arrows between the modules, as DESIGN has them: each imports only what stands below it."""

import ast
import sys
from pathlib import Path

import pytest

import claude_client

SOURCE = Path(claude_client.__file__).parent.parent

# A module imports only from those before it.
BOTTOM_UP = [
    "_values.options",
    "_values.html",
    "_values.usage",
    "_values.errors",
    "_values.response",
    "_values.results",
    "_verbs.progress",
    "_values.content",
    "_sdk.parameters",
    "_sdk.credentials",
    "_values.request",
    "_verbs.stall",
    "_gates.prefix",
    "_values.retry",
    "_gates.per_client",
    "_gates.rate",
    "_values.interrupt",
    "_sdk.network",
    "_sdk.stream",
    "_sdk.client",
    "_sdk.exchange",
    "_engine.flow",
    "_engine.threads",
    "_gates.cache",
    "_engine.jobs",
    "_verbs.invoke",
    "_verbs.conversation",
    "_verbs.parallel",
    "__init__",
]
# What `orchestration` may use besides public names.
DOORS = {
    "_engine.flow",
    "_sdk.client",
    "_engine.threads",
    "_engine.jobs",
    "_verbs.parallel",
    "_verbs.progress",
    "_values.content",
    "_values.request",
    "_values.response",
    "_values.retry",
    "_sdk.parameters",
    "_verbs.stall",
    "_sdk.exchange",
}
MAY_IMPORT_THE_SDK = {"_sdk.parameters", "_sdk.client", "_sdk.stream"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def place(path: Path) -> str:
    """The dotted name of a module of the package."""
    return ".".join(path.relative_to(SOURCE / "claude_client").with_suffix("").parts)


def rooms() -> list[Path]:
    package = SOURCE / "claude_client"
    return [path for path in package.rglob("*.py") if "simulator" not in path.parts and place(path) not in FLOORS]


FLOORS = {f"{name.split('.')[0]}.__init__" for name in BOTTOM_UP if "." in name}


def imported(module: ast.Module, folder: str) -> set[str]:
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("claude_client.")):
            inside = [folder] if node.level else (node.module or "").split(".")[1:2]
            path = [part for part in [*inside, *(node.module or "").split(".")[0 if node.level else 2 :]] if part]
            names |= {".".join(path)} if len(path) > 1 else {f"{path[0]}.{alias.name}" for alias in node.names}
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
    assert {place(path) for path in rooms()} == {*BOTTOM_UP}


@pytest.mark.parametrize("name", BOTTOM_UP)
def test_a_module_imports_only_what_stands_below_it(name):
    used = imported(tree(SOURCE / "claude_client" / f"{name.replace('.', '/')}.py"), name.rpartition(".")[0])
    assert used <= {*BOTTOM_UP[: BOTTOM_UP.index(name)]}


def test_only_the_modules_at_the_door_import_the_sdk():
    found = {place(path) for path in rooms() if sdk_at_run_time(tree(path))}
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
