"""Tables compared with what a reader should see."""

import json

import numpy as np
import pytest

from vlt.results import Column, format_markdown, format_table, write_results

COLUMNS = (
    Column("name", ""),
    Column("r1", "R@1 %"),
    Column("trained", "trained", ",d"),
    Column("step", "step ms", ".0f"),
)
ROWS = [
    {"name": "zero-shot", "r1": 88.54, "trained": 0, "step": None},
    {"name": "BT-Adapter", "r1": np.float32(93.25), "trained": 709537, "step": 12.4, "more": 1},
    {"name": "masked", "r1": float("nan"), "step": 9.6},
]


def test_terminal_table_is_aligned() -> None:
    assert format_table(ROWS, COLUMNS) == "\n".join(
        [
            "            R@1 %  trained  step ms",
            "----------  -----  -------  -------",
            "zero-shot    88.5        0        -",
            "BT-Adapter   93.2  709,537       12",
            "masked          -        -       10",
        ]
    )


def test_markdown_table() -> None:
    lines = format_markdown([{"name": "a|b", "r1": 1}], COLUMNS[:2]).splitlines()
    assert lines == ["|  | R@1 % |", "| :-- | --: |", "| a\\|b | 1.0 |"]


def test_files_hold_the_table_and_the_exact_rows(tmp_path) -> None:
    write_results(tmp_path, ROWS, COLUMNS)
    assert (tmp_path / "results.md").read_text() == format_markdown(ROWS, COLUMNS) + "\n"
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == [ROWS[0], ROWS[1] | {"r1": pytest.approx(93.25)}, ROWS[2] | {"r1": None}]


def test_title_row_alone_when_nothing_was_run() -> None:
    assert format_table([], COLUMNS[:2]).splitlines() == ["  R@1 %", "  -----"]
