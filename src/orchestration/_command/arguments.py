"""What the command line may say."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from claude_client._values.request import DEFAULT_MODEL

from .lines import STANDARD

_EXIT_CODES = """\
exit codes:
  0              all prompts are answered
  1              some are not: their lines say why
  2              nothing was asked, as what was said is wrong
  3              the budget does not allow the rest
  130, 143, 129  it was ended by Ctrl-C, SIGTERM or SIGHUP
"""
_PROMPTS = """\
Each line of PROMPTS is a JSON object: a "prompt" (or "messages"), and whatever
invoke_claude takes for this one: "task_id", "system", "model", "max_tokens" ...

"""


def parser_of(prog: str, **commands: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    """
    The parser. Each of *commands* is called with what was said, by the name of its command, and returns the exit code;
    those of `journal` are named `journal_<command>`.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Ask Claude many prompts: JSON lines in, JSON lines out, resumed where it was ended.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, told: str, **more: Any) -> argparse.ArgumentParser:
        raw = argparse.RawDescriptionHelpFormatter
        made = subparsers.add_parser(
            name, help=told, description=f"{told[0].upper()}{told[1:]}.", formatter_class=raw, **more
        )
        made.set_defaults(do=commands.get(name))
        return made

    asking = _asking()
    run = command("run", "ask all prompts, and write a line for each", parents=[asking], epilog=_PROMPTS + _EXIT_CODES)
    _add_run(run)
    estimate = command("estimate", "say what a run will cost, and ask nothing", parents=[asking], epilog=_PROMPTS)
    _add_estimate(estimate)
    status = command("status", "say what is left of a run, also while it goes on", parents=[asking], epilog=_PROMPTS)
    status.add_argument("--json", action="store_true", help="as a JSON object")
    _add_journal(command("journal", "look into a journal, or change it"), commands)
    command("simulate", "serve a stand-in for the API, for trials without a key or money")
    return parser


def _asking() -> argparse.ArgumentParser:
    """What decides what is asked, and where the answers are."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("prompts", metavar="PROMPTS", help="a file of JSON lines; - for the standard input")
    add("--out", default=STANDARD, metavar="FILE", help="where the answers go (default: the standard output)")
    add("--model", default=DEFAULT_MODEL, metavar="NAME", help="(default: %(default)s)")
    add("--max-tokens", type=int, default=4096, metavar="N", help="of each answer (default: %(default)s)")
    add("--system", type=_text_of, metavar="FILE", help="the text of FILE, as the system prompt that all share")
    add("--cache", action="store_true", help="have the shared system prompt cached")
    add("--schema", type=_json_of, metavar="FILE", help="a JSON schema: each answer is data of that form")
    add(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option for all prompts, as JSON or else as text: --set temperature=0; may be repeated",
    )
    add("--max-workers", type=int, metavar="N", help="requests under way at once, at most 1000 (default: 5)")
    add("--batch", action="store_true", help="by message batches: half the price, within 24 hours")
    journals = parser.add_mutually_exclusive_group()
    journals.add_argument(
        "--journal",
        metavar="FILE",
        help="what keeps the answers, so that the same command goes on where it was ended (default: beside --out, "
        "with .journal at its end; none for the standard output)",
    )
    journals.add_argument("--no-journal", action="store_true", help="keep none")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--as-they-come", action="store_true", help="write each answer when it is there, instead of in order")
    add("--budget", type=float, metavar="DOLLARS", help="never spend more")
    add("--reserve", choices=["worst", "likely"], default="worst", help="what a request sets aside of that")
    add(
        "--finish-by",
        type=_time,
        metavar="WHEN",
        help="a batch: seconds from now, or a time: 2026-12-24T08:00",
    )
    add("--cancel-on-interrupt", action="store_true", help="have Ctrl-C cancel the batches instead of leaving them")
    add("--timeline", metavar="FILE", help="write a picture of the run, as HTML")
    add("--dry-run", action="store_true", help="say what is left to ask and what it will cost, and ask nothing")
    add("--quiet", action="store_true", help="say nothing but errors on the standard error")


def _add_estimate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--offline", action="store_true", help="guess tokens from characters, and send nothing at all")
    add("--sample", type=int, default=50, metavar="N", help="prompts to count of each model (default: %(default)s)")
    add("--expected-output", type=float, metavar="TOKENS", help="that an answer is likely to have")
    add("--like", metavar="JOURNAL", help="a journal of answers such as are likely")
    add("--compare", nargs="*", metavar="MODEL", help="a table of other ways to ask: cached, as a batch, by each MODEL")


def _add_journal(parser: argparse.ArgumentParser, commands: dict[str, Callable[[argparse.Namespace], int]]) -> None:
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, told in {
        "list": "say what stands in it, a line for each answer or refusal",
        "show": "write what stands in it, whole, as JSON lines",
        "drop": "remove some of it: the next run asks those prompts again",
        "batches": "say which batches were created and not collected",
        "forget-batches": "forget batches that are gone; what they would answer is paid again",
        "salvage": "write what is whole of a damaged journal to a new one",
    }.items():
        one = subparsers.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
        one.set_defaults(do=commands[f"journal_{name.replace('-', '_')}"])
        one.add_argument("journal", metavar="JOURNAL")
        if name in {"list", "show", "drop"}:
            one.add_argument("--task", action="append", metavar="ID", help="only this task; may be repeated")
            one.add_argument("--kind", action="append", metavar="KIND", help="only ok, or refusal; may be repeated")
        if name == "drop":
            one.add_argument("--all", action="store_true", help="all of it")
        if name == "salvage":
            one.add_argument("to", metavar="NEW")


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as unreadable:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {unreadable}") from unreadable


def _json_of(path: str) -> Any:
    try:
        return json.loads(_text_of(path))
    except json.JSONDecodeError as wrong:
        raise argparse.ArgumentTypeError(f"{path} is not JSON: {wrong}") from wrong


def _setting(said: str) -> tuple[str, Any]:
    name, equals, value = said.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"it is NAME=VALUE, got {said!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _time(said: str) -> float | datetime:
    try:
        return float(said)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(said)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is seconds, or a time such as 2026-12-24T08:00, got {said!r}") from None
