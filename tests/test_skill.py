"""`SKILL.md` is a skill: valid in a folder of its name, short, and of this version."""

import shutil
import tomllib

import pytest
from skills_ref import read_properties, validate

from pages import ROOT, blocks_of

pytestmark = pytest.mark.once

SKILL = ROOT / "SKILL.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def a_copy(folder, name=PROJECT["name"]):
    """The skill as it is installed: in a folder named like it."""
    (folder / name).mkdir()
    shutil.copy2(SKILL, folder / name)
    return folder / name


def test_it_is_valid(tmp_path):
    assert validate(a_copy(tmp_path)) == []


def test_the_check_would_find_a_mistake(tmp_path):
    assert validate(a_copy(tmp_path, "another-name"))


def test_it_has_the_name_and_version_of_the_package(tmp_path):
    properties = read_properties(a_copy(tmp_path))
    assert properties.name == PROJECT["name"]
    assert properties.metadata["version"] == PROJECT["version"]


def test_it_is_short():
    assert len(SKILL.read_text(encoding="utf-8").splitlines()) < 300


def test_its_first_screen_says_how_to_import():
    first = blocks_of(SKILL)[0]
    assert first.line < 25
    assert 'sys.path.append("/path/to/orchestrating-agents/src")' in first.code
