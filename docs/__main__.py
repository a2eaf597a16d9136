"""python -m docs [--site]

Writes docs/reference/*.md, the committed pages that are made from the code; with --site also the
site of all documents, in docs/_site (extra `docs`), where a dead link is an error. Run it in the
repository's folder.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from docs.pages import PAGES

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"
COMMAND = "python -m docs"
NOTE = f"<!-- Made by `{COMMAND}` from the code: change that, not this page. -->"


def page(name: str) -> str:
    """The text of docs/reference/NAME.md."""
    return f"{NOTE}\n\n{PAGES[name]()}\n"


def main() -> int:
    """Writes the pages, removes those that no longer exist, and builds the site if asked to."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", action="store_true", help="also the site, in docs/_site")
    site = parser.parse_args().site
    REFERENCE.mkdir(exist_ok=True)
    for file in REFERENCE.glob("*.md"):
        if file.stem not in PAGES:
            file.unlink()
    for name in PAGES:
        (REFERENCE / f"{name}.md").write_text(page(name), encoding="utf-8")
    return build(HERE.parent, HERE / "_site") if site else 0


def build(folder: Path, target: Path) -> int:
    """Builds the site of a folder's documents; returns the exit status, not 0 for a dead link."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(HERE)]
    status = subprocess.run([*command, str(folder), str(target)]).returncode
    if status == 0:
        first = '<meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        (target / "index.html").write_text(first, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
