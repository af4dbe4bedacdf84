"""
Analyse many documents at once against the same pages, then merge what was found in one more call.

    uv run examples/document_analysis.py [FILE ...]

The pages go first, as shared, cached context: the first document writes them to the cache, the others read them.
Without credentials the answers come from the simulator.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from _rehearsal import rehearsal

from claude_client import ClaudeResponse, Results, invoke_claude, invoke_parallel

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "references" / "errors.md"]

ROLE = "You check whether code keeps what its pages promise. These are the pages."
TASK = "Which of the promises does this document keep, and which does it break? Name lines. At most ten findings."
MERGE = "These are findings on {} documents. Merge them into one report: the most serious first, each named once."


def main() -> int:
    parser = argparse.ArgumentParser(description="Check documents against the pages of this project.")
    parser.add_argument("files", nargs="*", type=Path, help="the documents (default: some of our modules)")
    files: list[Path] = parser.parse_args().files or sorted((ROOT / "src" / "orchestration").glob("_*.py"))
    prompts = [{"prompt": f"{as_document(path)}\n\n{TASK}"} for path in files]
    with rehearsal():
        findings = invoke_parallel(
            prompts,
            max_tokens=1000,
            shared_system="\n\n".join([ROLE, *map(as_document, PAGES)]),
            cache_shared_system=True,
            return_exceptions=True,
            progress=True,
        )
        print(findings.summary())
        found = [
            f"<findings document={path.name!r}>\n{finding}\n</findings>"
            for path, finding in zip(files, findings, strict=True)
            if isinstance(finding, ClaudeResponse)
        ]
        if not found:
            return 1
        report = invoke_claude("\n\n".join([*found, MERGE.format(len(found))]), max_tokens=2000)
    print(f"\n=== Report on {len(found)} documents ===\n{report}\n")
    for index, error in findings.errors.items():
        print(f"Not in it: {files[index]}: {error}")
    show_costs(findings, report)
    return 1 if findings.errors else 0


def as_document(path: Path) -> str:
    return f"<document name={path.name!r}>\n{path.read_text(encoding='utf-8', errors='replace')}\n</document>"


def show_costs(findings: Results, report: ClaudeResponse) -> None:
    print(f"{findings.cache_share:.0%} of the documents' input was read from the cache.")
    costs = (findings.cost_usd, report.cost_usd)
    if None not in costs:
        print("At list prices: ${:.4f} for the documents, ${:.4f} for the report.".format(*costs))


if __name__ == "__main__":
    sys.exit(main())
