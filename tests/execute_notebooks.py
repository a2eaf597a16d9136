"""Runs the notebooks again and stores them with what they print and draw.

    python tests/execute_notebooks.py [notebooks/quickstart.ipynb ...]

Progress, which commands print on stderr, is left out.
"""

import base64
import hashlib
import io
import pathlib
import re
import sys
import tempfile

import nbformat
from helpers import ROOT, environment_with_vlt
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SECONDS = 1800  # limit for one cell


def execute(path: pathlib.Path, folder: pathlib.Path, steps: int = 0) -> nbformat.NotebookNode:
    """The notebook with its outputs. folder: where it runs. steps: training length, if not 0.

    Raises nbclient.exceptions.CellExecutionError: a cell, or a command in one, failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if steps:
        for cell in notebook.cells:
            short = rf"\g<0> --config.train.steps={steps}"
            cell.source = re.sub(r"^vlt train --config=\S+", short, cell.source, flags=re.MULTILINE)
            cell.source = re.sub(r"^vlt adapt", rf"\g<0> --steps={steps}", cell.source, flags=re.M)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=environment_with_vlt(folder / "bin"))
    return cleaned(notebook)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook without stderr or the machine's metadata, and with smaller pictures."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for data in (output.get("data", {}) for output in cell.outputs):
                data.pop("image/jpeg", None)
                if "image/png" in data:
                    data["image/png"] = of_few_colours(data["image/png"])
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.executed = digest(notebook)
    return notebook


def of_few_colours(png: str) -> str:
    """The same picture in 128 colours, as base64 of a third of the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    small = io.BytesIO()
    image.convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def digest(notebook: nbformat.NotebookNode) -> str:
    """Hash of the code, which tells whether the outputs are those of the cells as they stand."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def main(names: list[str]) -> None:
    """Runs the notebooks, or those named, each in a folder of its own."""
    for path in map(pathlib.Path, names) if names else NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path.resolve(), pathlib.Path(folder))
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
