"""`python -m vlt.study`: claims of the papers, tested in miniature on moving shapes.

A claim is data (`vlt.study.claim`, `vlt/study/claims`): rows of existing configs, and comparisons
of them that decide it. Each row is a run whose results are kept as one JSON file, named by a hash
of its config (`vlt.study.kept`). A verdict is computed from what is kept (`vlt.study.verdict`), and
the page is made from that (`vlt.study.page`).
"""
