"""Notebooks run from start to end, and are stored as they ran."""

import re

import nbformat
import pytest
from execute_notebooks import NOTEBOOKS, digest, execute

LARGEST = 400_000  # bytes of a file
OF_A_MACHINE = r"(?<![\w.])/(home|root|Users|tmp|var|usr|opt|mnt|work|content)/|site-packages"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    """With few training steps; a cell that fails ends it."""
    notebook = execute(path, tmp_path, steps=10)
    assert any(
        "image/png" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", [])
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_as_it_ran(path):
    assert defects(nbformat.read(path, as_version=4)) == []
    assert path.stat().st_size < LARGEST


def defects(notebook):
    """What a reader, or whoever changes a cell, should not find in a stored notebook."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    text = "\n".join(texts(output) for output in outputs)
    checks = {
        "does not say what was run": notebook.metadata.get("executed") == digest(notebook),
        "not run in order": [c.execution_count for c in cells] == [*range(1, len(cells) + 1)],
        "ends without an output": bool(cells[-1].outputs),
        "no picture": any("image/png" in output.get("data", {}) for output in outputs),
        "an error": not any(output.output_type == "error" for output in outputs),
        "progress": not any(output.get("name") == "stderr" for output in outputs),
        "a path of a machine": re.search(OF_A_MACHINE, text) is None,
        "a warning": "Warning" not in text,
    }
    return [name for name, holds in checks.items() if not holds]


def texts(output):
    """The text that an output prints."""
    return output.get("text", "") or output.get("data", {}).get("text/plain", "")


STREAM = {"output_type": "stream", "name": "stdout"}


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        ({"source": "1 + 1"}, "does not say what was run"),
        ({"execution_count": 1}, "not run in order"),
        ({"outputs": []}, "ends without an output"),
        ({"outputs": [{"output_type": "error", "ename": "E", "evalue": ""}]}, "an error"),
        ({"outputs": [STREAM | {"name": "stderr", "text": "step 1"}]}, "progress"),
        ({"outputs": [STREAM | {"text": "in /tmp/x"}]}, "a path of a machine"),
        ({"outputs": [STREAM | {"text": "UserWarning: x"}]}, "a warning"),
    ],
)
def test_defects_are_found(change, defect):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    last.update(nbformat.from_dict(change))
    assert defects(notebook) == [defect]
