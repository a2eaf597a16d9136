"""What the documents tell readers to type."""

import itertools
import json
import pathlib
import re

from helpers import ROOT

DOCUMENTS = ("README.md", "SECURITY.md", "benchmarks/RESULTS.md", "configs/README.md")
# BT-Adapter's page follows MSTA's, as it reads what is made from MSTA's data sets.
PAPERS = ("msta", "btadapter", "tempme", "token_mixing", "video_chat", "retrieval")
DOCUMENTS += tuple(f"configs/{paper}.md" for paper in PAPERS)
DOCUMENTS += ("launch/README.md", "data_pipelines/README.md", "docs/index.md")
DOCUMENTS += tuple(f"docs/reference/{page.name}" for page in sorted(ROOT.glob("docs/reference/*")))

_NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_BASH = "%%bash\n"
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`]+)`")
# How a command begins within a sentence or a table.
_COMMAND = re.compile(r"([A-Z_]+=\S+ )*(python3?|pip|vlt) \S")


def text_of(document: pathlib.Path) -> str:
    """A document as Markdown; of a notebook, its Markdown cells and its commands as `sh` blocks."""
    if document.suffix != ".ipynb":
        return document.read_text("utf-8")
    found = []
    for kind, source in _cells(document):
        if kind == "markdown":
            found.append(source)
        elif source.startswith(_BASH):
            found.append(f"```sh\n{source.removeprefix(_BASH)}\n```")
        else:
            lines = [line.strip() for line in source.splitlines()]
            found += [f"```sh\n{line[1:]}\n```" for line in lines if line[:1] in ("!", "%")]
    return "\n\n".join(found)


def _cells(notebook: pathlib.Path) -> list[tuple[str, str]]:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def run_by_notebooks() -> set[str]:
    """The commands of notebooks' bash cells, which run with the notebooks."""
    sources = [source for file in _NOTEBOOKS for _, source in _cells(file)]
    shell = [source.removeprefix(_BASH) for source in sources if source.startswith(_BASH)]
    return {command for block in shell for command in _lines(block)}


def documents() -> dict[str, str]:
    """The texts of the documents and the notebooks, by name."""
    files = [ROOT / name for name in DOCUMENTS if (ROOT / name).exists()]
    files += _NOTEBOOKS
    return {str(file.relative_to(ROOT)): text_of(file) for file in files}


def commands(text: str) -> list[str]:
    """The commands of a document, each once, in order; a line with && holds several."""
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
    """Names of the flags that appear without their command, in a sentence or a table."""
    outside = _FENCE.sub("", text)
    spans = [match[1] for match in _SPAN.finditer(outside) if match[1].startswith("--")]
    return {name for span in spans for name in re.findall(r"(?:^|\s)--([\w.-]+)", span)}


def snippets(text: str) -> list[str]:
    """The Python blocks of a document."""
    return [match[3] for match in _FENCE.finditer(text) if match[2] == "python"]


def config_names(text: str) -> list[str]:
    """Config files, with variants, that a document names; patterns such as `X.py` are left out."""
    names = re.findall(r"configs/[\w{},\[\]]+\.py(?::[\w{},\[\]]+)?", text)
    return sorted({name for name in names if not re.search(r"[A-Z{\[]", name)})


def pages() -> list[pathlib.Path]:
    """Every Markdown page of the repository, and its notebooks."""
    found = [file for pattern in ("*.md", "*/*.md", "docs/*/*.md") for file in ROOT.glob(pattern)]
    parts = [(file, file.relative_to(ROOT).parts) for file in (*found, *ROOT.glob("*/*.ipynb"))]
    return sorted(file for file, names in parts if not any(n.startswith((".", "_")) for n in names))


def dead_links(page: pathlib.Path) -> list[str]:
    """A page's relative links to a missing file or heading."""
    prose = _SPAN.sub("", _FENCE.sub("", text_of(page)))
    links = [link for link in _LINK.findall(prose) if not re.match(r"\w+:", link)]
    return [link for link in links if not _leads(page, link)]


def _leads(page: pathlib.Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in anchors(text_of(target)))


def anchors(text: str) -> set[str]:
    """The anchors that a repository's web page gives to a document's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        name = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        same = (f"{name}-{count}" if count else name for count in itertools.count())
        found.add(next(each for each in same if each not in found))
    return found
