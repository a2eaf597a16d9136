"""The reference matches the code: the pages as committed, and the site built from them."""

import re

import pytest
from helpers import ROOT

from docs.__main__ import COMMAND, REFERENCE, build, page
from docs.markdown import prose, table, text
from docs.pages import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_says(name):
    committed = (REFERENCE / f"{name}.md").read_text(encoding="utf-8")
    assert committed == page(name), f"docs/reference/{name}.md is stale: run `{COMMAND}`"


def test_every_page_is_made_and_listed():
    assert {file.stem for file in REFERENCE.iterdir()} == set(PAGES)
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert re.findall(r"\(reference/(\w+)\.md\)", index) == list(PAGES)


@pytest.mark.parametrize("name", ["config", "methods"])
def test_every_key_has_words(name):
    rows = [line for line in page(name).splitlines() if re.match(r"\| `[\w.]+` \|", line)]
    assert len(rows) > 50
    assert [row for row in rows if row.endswith("|  |")] == []


def test_prose_of_a_docstring():
    """Paragraphs in which only code and tables are read as Markdown, and sections as lists."""
    docstring = """First * line <x>, `a*b`.

        width: left out
            with what goes on.

            x = y * z

        | a | b |
        |---|---|

        Args:
            one, two: of which
                this is said.
            Anything else.
        """
    assert prose(docstring, ["width"]) == (
        "First \\* line \\<x>, `a*b`.\n\n    x = y * z\n\n| a | b |\n|---|---|\n\n"
        "**Args**\n\n- `one`, `two`: of which\n  this is said.\n- Anything else."
    )


def test_cells_of_a_table():
    assert table(("a", "b"), [("x|y", text("2 * 3"))]).splitlines()[2] == r"| x\|y | 2 \* 3 |"


def test_site_has_every_document_and_no_dead_link(tmp_path):
    pytest.importorskip("myst_parser", reason="the extra docs is not installed")
    assert build(ROOT, tmp_path / "site") == 0
    for name in ("index", "README", "docs/index", "docs/reference/config", "launch/README"):
        assert (tmp_path / f"site/{name}.html").is_file()


def test_dead_link_fails_the_site(tmp_path, capfd):
    pytest.importorskip("myst_parser", reason="the extra docs is not installed")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A\n\n[b](absent.md)\n")
    assert build(tmp_path, tmp_path / "site") != 0
    assert "absent.md" in capfd.readouterr().err
