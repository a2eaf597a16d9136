"""What the documents tell readers to type."""

import json
import pathlib
import re

from helpers import ROOT

DOCUMENTS = ("README.md", "SECURITY.md", "benchmarks/RESULTS.md", "configs/README.md")
# BT-Adapter's page reads what is made of MSTA's data sets.
DOCUMENTS += tuple(
    f"configs/{paper}.md" for paper in ("msta", "btadapter", "tempme", "token_mixing")
)
DOCUMENTS += ("launch/README.md", "data_pipelines/README.md")

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
# What begins a command where it stands in a sentence or a table.
_COMMAND = re.compile(r"([A-Z_]+=\S+ )*(python3?|pip|vlt) \S")


def text_of(document: pathlib.Path) -> str:
    """A document as Markdown; of a notebook all cells, each `!` line a block of its own."""
    if document.suffix != ".ipynb":
        return document.read_text("utf-8")
    cells = json.loads(document.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    shell = [line.strip()[1:] for line in code.splitlines() if line.strip()[:1] in ("!", "%")]
    return "\n\n".join([*sources, *(f"```sh\n{line}\n```" for line in shell)])


def documents() -> dict[str, str]:
    """Texts by name: the documents, and the notebooks."""
    files = [ROOT / name for name in DOCUMENTS if (ROOT / name).exists()]
    files += sorted((ROOT / "notebooks").glob("*.ipynb"))
    return {str(file.relative_to(ROOT)): text_of(file) for file in files}


def commands(text: str) -> list[str]:
    """The commands of a document, each once, in order; a line with && is several."""
    found = []
    for match in re.finditer(f"{_FENCE.pattern}|{_SPAN.pattern}", text, _FENCE.flags):
        _, language, block, span = match.groups()
        if language == "sh":
            found += _lines(block)
        elif span and _COMMAND.match(" ".join(span.split())):
            found.append(" ".join(span.replace("\\|", "|").split()))
    return list(dict.fromkeys(found))


def _lines(block: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", block)
    lines = [re.sub(r"(^|\s)#\s.*", "", line) for line in joined.splitlines()]
    parts = [part for line in lines for part in line.split(" && ")]
    return [" ".join(part.split()) for part in parts if part.strip()]


def flags(text: str) -> set[str]:
    """Names of the flags that stand without their command, in a sentence or a table."""
    outside = _FENCE.sub("", text)
    spans = [match[1] for match in _SPAN.finditer(outside) if match[1].startswith("--")]
    return {name for span in spans for name in re.findall(r"(?:^|\s)--([\w.-]+)", span)}


def snippets(text: str) -> list[str]:
    """Blocks of Python."""
    return [match[3] for match in _FENCE.finditer(text) if match[2] == "python"]


def config_names(text: str) -> list[str]:
    """Config files with their variants that a document names; not patterns such as `X.py`."""
    names = re.findall(r"configs/[\w{},\[\]]+\.py(?::[\w{},\[\]]+)?", text)
    return sorted({name for name in names if not re.search(r"[A-Z{\[]", name)})
