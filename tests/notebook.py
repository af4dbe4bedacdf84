"""
Executes the notebook of the examples, in a kernel of its own, from its first cell to its last.

    uv run tests/notebook.py [TO]

Writes it with its outputs to TO, or back to where it is: that is how it got those it carries. What would differ from
machine to machine is left out.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "tour.ipynb"
TIMEOUT = 60  # seconds for a cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main(to: Path) -> None:
    if importlib.util.find_spec("ipywidgets"):
        sys.exit("run this where there are no ipywidgets: the bars are kept as text, as a widget would stand at 0 %")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": NOTEBOOK.parent}},
    )
    client.execute()
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            keep_last_frame(output)
    nbformat.validate(notebook)
    nbformat.write(notebook, to)


def keep_last_frame(output: Any) -> None:
    """Of a progress bar only how it ended."""
    if output.output_type == "stream":
        output.text = "".join(line.rpartition("\r")[2] for line in output.text.splitlines(keepends=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else NOTEBOOK)
