"""The site of all the repository's documents, made with Sphinx and MyST."""

import re

project = "vlt"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md"]
include_patterns += [
    f"{folder}/*.md" for folder in ("configs", "launch", "data_pipelines", "benchmarks")
]
exclude_patterns = [".*", "runs", "checkpoints", "docs/_site"]
myst_heading_anchors = 4  # as on the repository's web page
highlight_language = "none"
html_theme = "furo"
html_title = "vlt"
html_copy_source = False
html_show_copyright = False
smartquotes = False


def setup(app):
    """Adds the tree of pages to the first page, since other readers would show it as code."""

    def with_tree(app, name, source):
        if name == root_doc:
            pages = re.findall(r"\]\(([\w./]+)\.md\)", source[0])
            tree = "\n".join(dict.fromkeys(pages))
            source[0] += f"\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"

    app.connect("source-read", with_tree)
