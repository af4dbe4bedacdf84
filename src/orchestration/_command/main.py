"""The entrance: what is said is done, and what is wrong with it is told in a line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from claude_client import ClaudeInvocationError
from orchestration._journal_file import JournalError

from . import journal, run
from .arguments import parser_of

_PROG = "orchestrating-agents"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, or *arguments*, and return the exit code."""
    said = sys.argv[1:] if arguments is None else [*arguments]
    parser = parser_of(
        _PROG,
        run=run.run,
        estimate=run.estimate,
        status=run.status,
        journal_list=journal.list_entries,
        journal_show=journal.show,
        journal_drop=journal.drop,
        journal_batches=journal.list_batches,
        journal_forget_batches=journal.forget_batches,
        journal_salvage=journal.salvage,
    )
    try:
        if said[:1] == ["simulate"]:  # which has a command line of its own
            return _simulate(said[1:])
        options = parser.parse_args(said)
        return int(options.do(options))
    except ClaudeInvocationError as failed:
        return _told(failed, 1)
    except (ValueError, TypeError, OSError, ImportError, JournalError) as mistake:
        return _told(mistake, 2)
    except KeyboardInterrupt:
        return 130


def _simulate(said: Sequence[str]) -> int:
    from claude_client.simulator.__main__ import main as simulate

    simulate(said, prog=f"{_PROG} simulate")
    return 0


def _told(failed: Exception, code: int) -> int:
    print(f"{_PROG}: {failed}", file=sys.stderr)
    return code
