"""The command line: ``python -m orchestration``, installed as ``orchestrating-agents``."""

from __future__ import annotations

from orchestration._command.main import main

if __name__ == "__main__":
    raise SystemExit(main())
