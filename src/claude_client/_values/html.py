"""
The HTML of answers, results and conversations in a notebook.

The HTML needs no style sheet: styles stand on its elements, colours are the page's own, so that it is readable on
light and on dark. A page that drops styles still shows tables, bold and folds. Text of a model or a user is escaped,
keeps the direction of its letters to itself, and is no mathematics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape, unescape
from typing import TYPE_CHECKING, Any, Protocol

from claude_client._values.text import dollars

if TYPE_CHECKING:
    from claude_client._values.tree import Node

_IN_A_LINE = 80  # characters of a text that needs no fold
_FIRST_LINE = 300  # characters of the line above a fold; what the page has no room for is cut by the page
_LONG = 4000  # characters of a text in a conversation that is folded

_GREY = "rgba(128,128,128,.4)"  # a line that is faint on light and on dark
_BODY = "white-space:pre-wrap;overflow-wrap:anywhere;max-width:90ch"
_LINE = "display:list-item;cursor:pointer;overflow:hidden;white-space:nowrap;text-overflow:ellipsis"

# The beginning of a tag, a comment or the like, anywhere.
_TAG = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)
# Links, fenced code, code in a line, mathematics; in time that grows with the text and not faster, whatever it is.
_SPECIAL = re.compile(
    r"(?<!<)<(?P<link>https?://[^\s<>]++)>"
    r"|^(?P<indent>[ \t]*+)(?P<fence>`{3,}+|~{3,}+)[^`\n]*+\n(?P<block>.*?)(?:^[ \t]*+(?P=fence)[`~]*+[ \t]*+$|\Z)"
    r"|(?<!`)(?P<ticks>`++)(?P<span>[^\n]{1,500}?)(?<!`)(?P=ticks)(?!`)"
    r"|(?P<math>\$\$.+?\$\$|\$[^\s$](?:[^\n$]*[^\s$])?\$)",
    re.DOTALL | re.MULTILINE,
)

# Where a link goes, in a text or at the end of it; the beginning of it is enough to know its scheme.
_LINK = re.compile(r"\](?:\(|:)\s*+<?(?=(?P<to>\S{1,200}))")
_SUSPICIOUS = re.compile(r"[:&]")
_RUNS = re.compile(r"(javascript|vbscript|data):.", re.IGNORECASE)


_MOST_BRANCHES = 100  # below the root of a tree, in a notebook, which keeps them all in its file
_UNFOLDED = 60  # lines of a tree that is shown as a whole


class _Priced(Protocol):
    @property
    def cost_usd(self) -> float | None: ...


def harmless(markdown: str) -> str:
    """*markdown* without HTML, and with a ``#`` before each link that would run something or bring its own page."""
    return _LINK.sub(lambda link: f"{link[0]}#" if _runs(link["to"]) else link[0], without_tags(markdown))


def _runs(to: str) -> bool:
    """Return whether a link *to* there runs something, whatever its scheme is spelt with."""
    if not _SUSPICIOUS.search(to):
        return False
    return bool(_RUNS.match(re.sub(r"[\x00-\x20\\]", "", unescape(to))))


def without_tags(markdown: str) -> str:
    """
    *markdown* with the HTML in it shown as text; unchanged if it has none.

    A notebook runs the scripts in the outputs of its own cells, Markdown included. So no tag of *markdown* is left,
    whatever a renderer takes for code: code with tags in it becomes HTML in which they are escaped. Misjudging
    what is code costs looks, not safety.
    """
    out, end = [], 0
    for found in _SPECIAL.finditer(markdown) if _TAG.search(markdown) else ():
        out += [_TAG.sub("&lt;", markdown[end : found.start()]), _special(found)]
        end = found.end()
    return "".join([*out, _TAG.sub("&lt;", markdown[end:])])


def _special(found: re.Match[str]) -> str:
    whole, indent = found[0], found["indent"]
    if not _TAG.search(whole):
        return whole
    if found["link"]:
        return found["link"]
    if found["math"]:
        return _TAG.sub("< ", whole)  # a space means nothing there, but an entity would
    if found["span"]:
        return f"<code>{_entities(found['span'].strip())}</code>"
    lines = found["block"].removesuffix("\n").split("\n")
    # In one line, as that cannot leave the list that it may be in.
    return f"{indent}<pre><code>{_entities(chr(10).join(line.removeprefix(indent) for line in lines))}</code></pre>"


def _entities(text: str) -> str:
    return re.sub(r"[^\w ]", lambda found: f"&#{ord(found[0])};", text)


def table(
    head: Sequence[str], rows: Sequence[tuple[Sequence[str], str, bool]], note: str, sums: tuple[Sequence[str], str]
) -> str:
    """
    A table of numbers with a text, which goes below its numbers where there is no room beside them.

    Args:
        head: The titles of the numbers, then of the texts.

        rows: The numbers, the text as HTML, and whether the row is marked.

        note: A line below the rows; empty for none.

        sums: The last row: the numbers and the text.
    """
    columns = zip(*(numbers for numbers, *_ in rows), head[:-1], sums[0], strict=True)
    # In em, as a bold ch is wider than others.
    widths = [0.7 * max(len(word) for cell in column for word in cell.split()) for column in columns]
    body = "".join(_row("td", widths, numbers, shown, noticed=noticed) for numbers, shown, noticed in rows)
    if note:
        body += _row("td", [], [], f"<em>{_text(note)}</em>", noticed=False)
    parts = {
        "thead": _row("th", widths, head[:-1], _text(head[-1]), noticed=False),
        "tbody": body,
        "tfoot": _row("th", widths, sums[0], _text(sums[1]), noticed=False),
    }
    inner = "".join(f'<{name} style="display:block;border:none">{part}</{name}>' for name, part in parts.items())
    return _output(
        '<table style="display:block;width:100%;margin:0;border:none;font-variant-numeric:tabular-nums">'
        f"{inner}</table>"
    )


def facts(of: object, named: Iterable[tuple[str, object]]) -> str:
    """A small table about *of*: each thing that is *named*, and its value."""
    rows = "".join(
        f'<tr><th style="text-align:left">{_text(name)}</th><td style="text-align:left">'
        f"{one_line(value if isinstance(value, str) else f'{value:,}', '')}</td></tr>"
        for name, value in named
        if value not in {None, ""}
    )
    return _output(f"<strong>{_text(type(of).__name__)}</strong><table><tbody>{rows}</tbody></table>")


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int) -> str:
    """A plain table, whose first columns are *texts* and the others numbers."""

    def row(tag: str, cells: Sequence[str]) -> str:
        aligned = ("left" if column < texts else "right" for column in range(len(cells)))
        return "".join(
            f'<{tag} style="text-align:{side}">{_text(cell)}</{tag}>' for side, cell in zip(aligned, cells, strict=True)
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
    return _output(f"<table><thead><tr>{row('th', head)}</tr></thead><tbody>{body}</tbody></table>")


def tree(root: Node) -> str:
    """A tree, of which each line folds those below it; what did not end well is bold."""
    left = len(root.below) - _MOST_BRANCHES
    note = f"<div><em>{left:,} more: print() shows them</em></div>" if left > 0 else ""
    is_small = root.size <= _UNFOLDED
    inner = "".join(_branch(node, unfolded=is_small) for node in root.below[:_MOST_BRANCHES])
    return _output(_fold(_node(root), _indented(inner + note), unfolded=True) if root.below else _node(root))


def _branch(node: Node, *, unfolded: bool) -> str:
    inner = "".join(_branch(one, unfolded=unfolded) for one in node.below)
    return _fold(_node(node), _indented(inner), unfolded=unfolded) if inner else f"<div>{_node(node)}</div>"


def _node(node: Node) -> str:
    ended = f": {_text(node.outcome)}" if node.outcome else ""
    if ended and node.outcome != "ok":
        ended = f": <strong>{_text(node.outcome)}</strong>"
    return " \u00b7 ".join([f"<bdi>{_text(node.name)}</bdi>{ended}", *map(_text, node.facts)])


def _indented(inner: str) -> str:
    return f'<div style="margin-left:.4em;padding-left:1em;border-left:1px solid {_GREY}">{inner}</div>'


def _row(tag: str, widths: Sequence[float], numbers: Sequence[str], shown: str, *, noticed: bool) -> str:
    cell = "box-sizing:content-box;padding:.3em .4em;vertical-align:top;border:none"
    cells = "".join(
        f'<{tag} style="{cell};flex:0 0 {width:.1f}em;text-align:right">{_text(number)}</{tag}>'
        for width, number in zip(widths, numbers, strict=True)
    )
    edge = "currentColor" if noticed else "transparent"
    return (
        f'<tr style="display:flex;flex-wrap:wrap;border-top:1px solid {_GREY};border-left:3px solid {edge}">{cells}'
        f'<{tag} style="{cell};flex:1 1 22em;min-width:0;max-width:none;text-align:left">{shown}</{tag}></tr>'
    )


def one_line(text: str, label: str, more: str = "") -> str:
    """*text* after *label*; if it is long or there is *more*, one line with the whole folded below it."""
    named = f"<strong>{_text(label)}</strong> " if label else ""
    line = _first_line(text)
    if text == line and len(text) <= _IN_A_LINE and not more:
        return f"{named}<bdi>{_text(text)}</bdi>"
    return _fold(f"{named}<bdi>{_text(line)}</bdi>", _body(f"{text}\n\n{more}" if more else text))


def transcript(system: Iterable[Any], messages: Iterable[tuple[str, Iterable[Any]]], note: str) -> str:
    """A conversation: its system prompt, folded; each message as its role and blocks; and *note*."""
    before = "".join(map(_block, system))
    said = "".join(map(_message, messages)) or "<em>nothing said yet</em>"
    return _output(
        (_fold("system", before) if before else "")
        + said
        + f'<div style="margin-top:.5em;opacity:.7">{_text(note)}</div>'
    )


def price(of: _Priced) -> str:
    """The cost of *of* in dollars; empty where there is none, or where the `cost` extra is missing."""
    try:
        cost = of.cost_usd
    except ImportError:
        return ""
    return dollars(cost) if cost else ""


def _message(message: tuple[str, Iterable[Any]]) -> str:
    role, blocks = message
    edge = "currentColor" if role == "assistant" else _GREY
    return (
        f'<div style="margin:.5em 0;padding-left:.75em;border-left:3px solid {edge}">'
        f"<strong><bdi>{_text(role)}</bdi></strong>{''.join(map(_block, blocks))}</div>"
    )


def _block(block: Any) -> str:
    if not isinstance(block, dict):
        return _body(block)
    kind = re.sub(r".*(?=tool_(use|result)$)", "", str(block.get("type")))
    return _SHOWN.get(kind, _other)(block)


def _text_block(block: dict[str, Any]) -> str:
    text = str(block.get("text") or "")
    if len(text) <= _LONG:
        return _body(text)
    return _fold(f"{len(text):,} characters: <bdi>{_text(_first_line(text))}</bdi>", _body(text))


def _thinking(block: dict[str, Any]) -> str:
    return _fold("thinking", _body(block.get("thinking") or ""))


def _tool_use(block: dict[str, Any]) -> str:
    return _fold(f"{_text(block['type'])}: <bdi>{_text(block.get('name'))}</bdi>", _json(block.get("input")))


def _tool_result(block: dict[str, Any]) -> str:
    failed = " <strong>failed</strong>" if block.get("is_error") else ""
    return _fold(f"{_text(block['type'])}{failed}", _content(block.get("content")))


def _other(block: dict[str, Any]) -> str:
    return _fold(f"<bdi>{_text(block.get('type'))}</bdi>", _json(_brief(block)))


def _sourced(block: dict[str, Any]) -> str:
    """An image or a document: its source, and its content if that is text."""
    source = block.get("source")
    if not isinstance(source, dict):
        return _other(block)
    what = ", ".join(str(part) for part in (block.get("title"), _named(source)) if part)
    line = f"{_text(block['type'])}: <bdi>{_text(what)}</bdi>"
    text = source.get("data") if source.get("type") == "text" else source.get("content")
    return _fold(line, _content(text)) if text else f"<div>{line}</div>"


def _named(source: dict[str, Any]) -> str:
    if source.get("type") == "base64":
        size = len(str(source.get("data") or "")) * 3 // 4
        return f"{source.get('media_type')}, {_bytes(size)}"
    return str(source.get("url") or source.get("file_id") or source.get("media_type") or "")


def _bytes(size: int) -> str:
    for unit, factor in (("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(map(_block, content))
    return _json(_brief(content)) if isinstance(content, dict) else _body("" if content is None else content)


_SHOWN = {
    "text": _text_block,
    "thinking": _thinking,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "image": _sourced,
    "document": _sourced,
}


def _json(value: Any) -> str:
    return _body(json.dumps(value, indent=2, ensure_ascii=False, default=str), "pre")


def _brief(value: Any) -> Any:
    """*value* with only the length of the texts that are for machines."""
    if isinstance(value, list):
        return [_brief(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: f"({len(item):,} characters)" if _is_sealed(name, item) else _brief(item) for name, item in value.items()
    }


def _is_sealed(name: str, item: Any) -> bool:
    return isinstance(item, str) and len(item) > 64 and (name in {"data", "signature"} or name.startswith("encrypted_"))


def _first_line(text: str) -> str:
    return " ".join(text[:_FIRST_LINE].split())


def _fold(line: str, body: str, *, unfolded: bool = False) -> str:
    opened = " open" if unfolded else ""
    return f'<details style="margin:0"{opened}><summary style="{_LINE}">{line}</summary>{body}</details>'


def _body(text: object, tag: str = "div") -> str:
    return f'<{tag} dir="auto" style="{_BODY};margin:.3em 0">{_text(text)}</{tag}>'


def _output(inner: str) -> str:
    """*inner* as a whole output, in which MathJax takes no two dollars for mathematics."""
    return f'<div class="tex2jax_ignore mathjax_ignore" style="line-height:1.4">{inner}</div>'


def _text(text: object) -> str:
    return escape(str(text).encode(errors="replace").decode())
