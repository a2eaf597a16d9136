"""Results tables: readable in the terminal, and as Markdown and JSON in the workdir."""

import dataclasses
import json
import numbers
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlt.storage.files import write_whole

Row = Mapping[str, Any]
DEVIATION = "/deviation"
REPEATED = ("step_ms", "seconds")  # whose deviation says nothing


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: the rows' key, the title, and how numbers are written.

    Percentages are kept as percent (93.6), with the sign in the title.
    """

    key: str
    title: str
    format: str = ".1f"

    def cell(self, row: Row) -> str:
        """The row's value as text, with its deviation; '-' where it is missing, None or NaN."""
        value, deviation = row.get(self.key), row.get(f"{self.key}{DEVIATION}")
        if value is None or value != value:
            return "-"
        text = format(value, self.format) if isinstance(value, numbers.Number) else str(value)
        return text if deviation is None else f"{text} +-{format(deviation, self.format)}"


def format_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Aligned plain text: words are aligned to the left, numbers to the right."""
    cells = _cells(rows, columns)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [
        "  ".join(
            text.ljust(width) if words else text.rjust(width)
            for text, width, words in zip(line, widths, _are_words(rows, columns), strict=True)
        ).rstrip()
        for line in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([aligned[0], rule, *aligned[1:]])


def format_markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The same table as Markdown."""
    rule = [":--" if words else "--:" for words in _are_words(rows, columns)]
    head, *body = _cells(rows, columns)
    escaped = [[text.replace("|", "\\|") for text in line] for line in (head, rule, *body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def write_results(folder: pathlib.Path, rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Writes results.md (the table) and results.json (every key, unrounded; NaN as null)."""
    exact = [{key: None if x != x else x for key, x in row.items()} for row in rows]
    text = json.dumps(exact, indent=2, default=_plain_number)
    write_whole(folder / "results.json", text + "\n")
    write_whole(folder / "results.md", format_markdown(rows, columns) + "\n")


def mean_results(runs: Sequence[Row]) -> dict[str, Any]:
    """Means over the runs of one config that have a key, with deviations of what differs; texts are
    those of the first."""
    means: dict[str, Any] = {}
    for key in dict.fromkeys(key for run in runs for key in run):
        found = [run[key] for run in runs if key in run]
        means[key] = found[0]
        if isinstance(found[0], numbers.Real):
            values = [float(value) for value in found]
            if len(set(values)) > 1:
                means[key] = float(np.mean(values))
                if key not in REPEATED:
                    means[f"{key}{DEVIATION}"] = float(np.std(values))
    return means


def _cells(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    titles = [column.title for column in columns]
    return [titles, *([column.cell(row) for column in columns] for row in rows)]


def _are_words(rows: Sequence[Row], columns: Sequence[Column]) -> list[bool]:
    return [any(isinstance(row.get(column.key), str) for row in rows) for column in columns]


def _plain_number(value: Any) -> Any:
    """The Python number for a numpy or JAX scalar."""
    return value.item()
