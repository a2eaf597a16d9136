"""Tables compared with what a reader should see."""

import json

import numpy as np
import pytest

from vlt.reporting.tables import Column, format_markdown, format_table, mean_results, write_results

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


def test_numbers_with_a_deviation_are_written_with_it() -> None:
    row = {"r1": 67.34, "r1/deviation": 1.16, "trained": 12_000, "trained/deviation": 1_000.0}
    assert Column("r1", "").cell(row) == "67.3 +-1.2"
    assert Column("r1", "", ".2f").cell(row) == "67.34 +-1.16"
    assert Column("r1", "").cell({"r1": float("nan"), "r1/deviation": 1.0}) == "-"
    table = format_table([{"name": "a", "r1": 9.0}, {"name": "b"} | row], COLUMNS[:2])
    assert table.splitlines()[2:] == ["a         9.0", "b  67.3 +-1.2"]


def test_means_of_runs_and_deviations_of_what_differs() -> None:
    runs = [
        {"r1": 60.0, "same": 5, "protocol": "p (here)", "step_ms": 10.0, "seconds": 3.0},
        {"r1": np.float32(64.0), "same": 5, "protocol": "p (here)", "step_ms": 20.0, "seconds": 4},
    ]
    expected = {"r1": 62.0, "r1/deviation": 2.0, "same": 5, "protocol": "p (here)"}
    assert mean_results(runs) == expected | {"step_ms": 15.0, "seconds": 3.5}
    assert mean_results(runs[:1]) == runs[0]
    assert isinstance(mean_results(runs)["same"], int)


def test_what_some_runs_have_is_the_mean_of_those() -> None:
    runs = [{"r1": 60.0}, {"r1": 60.0, "skipped": 1}, {"skipped": 2, "r1": 60.0}]
    assert mean_results(runs) == {"r1": 60.0, "skipped": 1.5, "skipped/deviation": 0.5}
    assert mean_results(runs[1::-1]) == {"r1": 60.0, "skipped": 1}


def test_mean_of_what_one_run_lacks_is_unknown() -> None:
    means = mean_results([{"r1": 60.0}, {"r1": float("nan")}])
    assert Column("r1", "").cell(means) == "-"
    assert np.isnan(means["r1"])
