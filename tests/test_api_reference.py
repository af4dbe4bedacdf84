"""
`references/api-reference.md` is true of the code: every public name with its signature, and nothing that is not there.

Each name has a section of its own: a heading of three marks, below the heading of its package. Its first text block is
the signature, as `signature_of` writes it. Members of a class stand at the beginning of a bullet each, as `members_of`
writes them; a method may have a heading of four marks and a text block instead. What fails says what is to be written.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import enum
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import pytest

import claude_client
import claude_client.mcp
import claude_client.simulator
import orchestration
import orchestration.distributed
import task_state
from pages import ROOT, blocks_of, prose_of

pytestmark = pytest.mark.once

PAGE = ROOT / "references" / "api-reference.md"
PACKAGES = [claude_client, claude_client.mcp, orchestration, orchestration.distributed, task_state]
PACKAGES += [claude_client.simulator]
PUBLIC = {name: getattr(package, name) for package in PACKAGES for name in package.__all__}
CLASSES = {name: one for name, one in PUBLIC.items() if inspect.isclass(one) and not typing.is_typeddict(one)}

WIDTH = 100  # characters, above which each parameter has a line of its own


# How the page has to say it.


def signature_of(name: str, one: typing.Any) -> str | None:
    """The text block of a public name; None where there is nothing to call and nothing to say in one line."""
    if typing.is_typeddict(one) or literals_of(one) or (inspect.isclass(one) and not has_constructor(one)):
        return None
    return call_of(name, one) if callable(one) and not typing.get_origin(one) else f"{name} = {plain(repr(one))}"


def call_of(name: str, one: Callable[..., object], *, width: int = WIDTH) -> str:
    """How *one* is called, on one line if it fits."""
    signature = inspect.signature(one)
    pieces = []
    for parameter in signature.parameters.values():
        if parameter.name != "self":
            if parameter.kind is parameter.KEYWORD_ONLY and not any(piece.startswith("*") for piece in pieces):
                pieces.append("*")
            pieces.append(piece_of(parameter))
    returns = "" if inspect.isclass(one) else f" -> {returned_by(one, signature)}"
    line = f"{name}({', '.join(pieces)}){returns}"
    if len(line) <= width:
        return line
    return "\n".join([f"{name}(", *(f"    {piece}," for piece in pieces), f"){returns}"])


def piece_of(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = "" if parameter.default is parameter.empty else f" = {value(parameter.default)}"
    annotation = getattr(parameter.annotation, "__forward_arg__", parameter.annotation)  # of a NamedTuple
    return f"{stars}{parameter.name}: {annotation}{default}"


def returned_by(one: Callable[..., object], signature: inspect.Signature) -> str:
    said = str(signature.return_annotation)
    if getattr(one, "__globals__", {}).get("__name__") == contextlib.__name__:
        return said.replace("Iterator", "AbstractContextManager")
    return said


def value(default: object) -> str:
    if isinstance(default, str):
        return json.dumps(default)
    if dataclasses.is_dataclass(default):
        return f"{type(default).__name__}()"
    if inspect.isbuiltin(default) or inspect.isfunction(default):
        return f"{default.__module__}.{default.__qualname__}"
    return repr(default)


def plain(annotation: str) -> str:
    plainer = annotation.replace("collections.abc.", "").replace("typing.", "")
    return re.sub(r"\bclaude_client\._values\.\w+\.", "", plainer)


def has_constructor(cls: type) -> bool:
    ours = [base for base in cls.__mro__ if base.__module__.startswith(tuple(package.__name__ for package in PACKAGES))]
    return not issubclass(cls, enum.Enum) and any({"__init__", "__new__"} & vars(base).keys() for base in ours)


def literals_of(one: typing.Any) -> set[str]:
    """The values of a Literal or of a union of them."""
    if typing.get_origin(one) is typing.Literal:
        return set(typing.get_args(one))
    if typing.get_origin(one) in {typing.Union, types.UnionType}:
        return {word for part in typing.get_args(one) for word in literals_of(part)}
    return set()


def members_of(cls: type) -> dict[str, set[str]]:
    """What *cls* itself has that is public: for each name what its bullet may begin with."""
    members: dict[str, set[str]] = {}
    if issubclass(cls, enum.Enum):
        return {name: {name} for name in cls.__members__}
    for name, annotation in attributes_of(cls).items():
        typed = {f"{name}: {annotation}"} if annotation else set()
        members[name] = typed if typed and not (dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")) else {name}
    for name, member in vars(cls).items():
        if name.startswith("_") or name in members:
            continue
        if isinstance(member, property):
            members[name] = {f"{name}: {inspect.signature(member.fget).return_annotation}"}
        elif callable(getattr(cls, name)):
            members[name] = {call_of(name, getattr(cls, name), width=10_000), call_of(name, getattr(cls, name))}
    return members


def attributes_of(cls: type) -> dict[str, str | None]:
    """The attributes that the source of *cls* names, with their annotations where it has them."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    found: dict[str, str | None] = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else None
        for target in targets:
            of_the_class = isinstance(target, ast.Name) and node in tree.body
            of_self = isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self"
            if of_the_class or of_self:
                name = target.id if of_the_class else target.attr
                if not name.startswith("_"):
                    found[name] = found.get(name) or annotation
    return found


# What the page says.


@dataclass
class Section:
    """What stands below one heading of three marks."""

    package: str
    prose: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def words(self) -> set[str]:
        """All names in its code spans."""
        return {name for span in re.findall(r"`([^`]+)`", "\n".join(self.prose)) for name in re.findall(r"\w+", span)}

    @property
    def bulleted(self) -> list[str]:
        """The code spans that bullets begin with."""
        starts = [re.match(r"- ((?:`[^`]+`(?:, | and )?)+)", line) for line in self.prose]
        return [span for start in starts if start for span in re.findall(r"`([^`]+)`", start[1])]

    @property
    def subheadings(self) -> list[str]:
        return [line.removeprefix("#### ") for line in self.prose if line.startswith("#### ")]

    @property
    def linked(self) -> set[str]:
        return {*re.findall(r"\]\(#(\w+)\)", "\n".join(self.prose))}


@cache
def sections() -> Mapping[str, Section]:
    found: dict[str, Section] = {}
    package, starts = "", []
    for number, line in prose_of(PAGE):
        if line.startswith("## "):
            package = line.removeprefix("## ")
            starts.append((number, Section(package)))  # an introduction, which is no name's
        elif line.startswith("### "):
            assert line[4:] not in found, f"{line[4:]} is there twice"
            found[line[4:]] = Section(package)
            starts.append((number, found[line[4:]]))
        elif starts:
            starts[-1][1].prose.append(line)
    for block in blocks_of(PAGE):
        if block.language == "text":
            within = [section for number, section in starts if number < block.line]
            if within:
                within[-1].texts.append(block.code.strip())
    return found


# And whether they agree.


def test_every_public_name_has_its_section_and_nothing_else_has():
    assert {name: section.package for name, section in sections().items()} == {
        name: package.__name__ for package in PACKAGES for name in package.__all__
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_a_section_begins_with_the_signature(name):
    expected = signature_of(name, PUBLIC[name])
    said = sections()[name].texts
    assert expected is None or (said and said[0] == expected), f"to be written:\n{expected}"


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - {"Kind"}))
def test_every_parameter_is_explained_here_or_where_the_section_leads(name):  # test_docs has Kind
    section = sections()[name]
    near = [section, *(other for anchor, other in by_anchor().items() if anchor in section.linked)]
    explained = {word for one in near for word in one.words}
    assert parameters_of(PUBLIC[name]) - explained == set()


def by_anchor() -> Mapping[str, Section]:
    return {name.lower(): section for name, section in sections().items()}


def parameters_of(one: typing.Any) -> set[str]:
    if typing.is_typeddict(one):
        return {*one.__annotations__}
    if not callable(one) or typing.get_origin(one) or (inspect.isclass(one) and not has_constructor(one)):
        return literals_of(one)
    return {*inspect.signature(one).parameters} - {"self"}


def missing_members() -> Iterator[tuple[str, str]]:
    for name, cls in CLASSES.items():
        section = sections()[name]
        said = {*section.bulleted, *section.texts}
        for ways in members_of(cls).values():
            if not ways & said:
                yield name, min(ways, key=len)


def test_every_public_member_of_a_class_is_there():
    missing = [f"{name}: - `{way}`" for name, way in missing_members()]
    assert missing == [], "to be written:\n" + "\n".join(missing)


@pytest.mark.parametrize("name", PUBLIC)
def test_nothing_is_documented_that_is_not_there(name):
    one, section = PUBLIC[name], sections()[name]
    members = members_of(one) if name in CLASSES else {}
    known = parameters_of(one) | {way for ways in members.values() for way in ways}
    for heading in section.subheadings:
        known |= parameters_of(getattr(one, heading))
    assert [span for span in section.bulleted if span not in known] == []
    assert [heading for heading in section.subheadings if heading not in members] == []


def test_a_long_page_has_a_table_of_contents():
    lines = [line for _, line in prose_of(PAGE)]
    contents = "\n".join(lines[: lines.index(f"## {PACKAGES[0].__name__}")])
    assert {*re.findall(r"\(#(\w+)\)", contents)} >= {*by_anchor()}
