"""`python -m vlt.bench.slices --config=... --topology=... --out=FILE`: what fits on which slice.

For every config and slice, the training step is compiled (`vlt.inspect --topology`) at the config's
batch, rounded up to a multiple of the chips, and with `--largest` also at the largest power of two
of videos a chip that fits. Each compilation runs in its own process, ended after `--limit` seconds.
Cells already in FILE are not compiled again; the table of all cells is printed at the end.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlt.bench.door import tell
from vlt.configuration import load_config
from vlt.costs.accelerators import CHIPS, check_topology, chips_of
from vlt.reporting.tables import Column, format_table
from vlt.storage.files import append

LIMIT = 600.0  # seconds
# A linear prediction above this share of the memory is trusted without compiling.
SURE = 1.25

Cell = dict[str, Any]


class Cells:
    """The cells of a file of JSON lines; those that it lacks are compiled and appended.

    Args:
      limit: most seconds of a compilation.
    """

    def __init__(self, file: Path, limit: float = LIMIT):
        self._file, self._limit = file, limit
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        self.all: list[Cell] = [json.loads(line) for line in text.splitlines()]

    def at(self, config: str, topology: str, batch: int) -> Cell:
        """The cell of a config (with overrides) on a slice, at `batch` videos: read or compiled."""
        asked = {"config": config, "topology": topology, "batch_asked": batch}
        for cell in self.all:
            if all(cell[key] == value for key, value in asked.items()):
                return cell
        cell = asked | compiled(config, topology, batch, self._limit)
        print(json.dumps(cell), flush=True)
        append(self._file, json.dumps(cell) + "\n")
        self.all.append(cell)
        return cell


def compiled(config: str, topology: str, batch: int, limit: float) -> Cell:
    """What `vlt.inspect` reports for a slice, or that it took too long or failed."""
    name, *overrides = shlex.split(config)
    command = [sys.executable, "-m", "vlt.inspect", f"--config={name}", *overrides, "--json"]
    command += [f"--topology={topology}", f"--batch={batch}"]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"state": f"over {limit:.0f} s"}
    if done.returncode:
        return {"state": done.stderr.strip().split("\n")[-1]}
    report = json.loads(done.stdout)
    kept = ("batch", "chips", "fits", "flops", "bytes", "collective_bytes", "roofline", "compile_s")
    cell = {key: report[key] for key in kept if key in report}
    state = "fits" if report["fits"] else "does not fit"
    return cell | {"state": state, "seconds": time.monotonic() - start}


def fill(cells: Cells, config: str, topology: str, largest: bool) -> None:
    """Compiles what the table needs for a config on a slice."""
    kind, shape = check_topology(topology)
    chips, memory = chips_of(shape), CHIPS[kind].hbm_bytes
    batch = load_config(config.split()[0]).data.train.batch_size
    first = cells.at(config, topology, rounded(batch, chips))
    if largest and first.get("fits") is not None:
        find_largest(lambda per_chip: cells.at(config, topology, per_chip * chips), first, memory)


def find_largest(compile_at: Callable[[int], Cell], cell: Cell, memory: float) -> None:
    """Compiles powers of two of videos a chip: up while they fit, then down until one does."""
    per_chip = cell["batch"] // cell["chips"]
    while cell.get("fits") and (larger := larger_power(cell, memory)):
        per_chip, cell = larger, compile_at(larger)
    while not cell.get("fits") and per_chip > 1:
        per_chip = 2 ** int(math.log2(per_chip - 1))
        cell = compile_at(per_chip)


def larger_power(cell: Cell, memory: float) -> int | None:
    """The last power of two above a cell's videos a chip that should fit, or the next, if it might.

    None if all are surely too large. Memory is assumed to grow linearly with the videos.
    """
    held, per_chip = cell["bytes"], cell["batch"] // cell["chips"]
    fixed = held["parameters"] + held["optimizer"] + held["program"]
    per_video = (held["peak"] - fixed) / per_chip
    last = 2 ** int(math.log2(max((memory - fixed) / per_video, 1)))
    if last > per_chip:
        return last
    above = 2 ** (int(math.log2(per_chip)) + 1)
    return above if fixed + above * per_video < SURE * memory else None


def rounded(batch: int, chips: int) -> int:
    """The batch, rounded up to a multiple of the chips."""
    return -(-batch // chips) * chips


def rows(cells: list[Cell]) -> list[dict[str, Any]]:
    """Rows of the table."""
    return [
        cell
        | {"per_chip": cell["batch"] // cell["chips"] if "batch" in cell else math.nan}
        | {"peak_gb": cell["bytes"]["peak"] / 1e9 if cell.get("fits") else math.nan}
        | {"tflop": cell["flops"] / 1e12 if "flops" in cell else math.nan}
        | {"moved_mb": cell["collective_bytes"] / 1e6 if cell.get("fits") else math.nan}
        | {"step_ms": 1e3 * cell["roofline"]["step_s"] if cell.get("fits") else math.nan}
        | {"used": 100 * cell["roofline"]["utilisation"] if cell.get("fits") else math.nan}
        | {"bound": cell["roofline"]["bound_by"] if cell.get("fits") else ""}
        for cell in cells
    ]


COLUMNS = [
    Column("config", "config"),
    Column("topology", "slice"),
    Column("batch_asked", "batch", ",d"),
    Column("per_chip", "a chip", ".0f"),
    Column("state", "state"),
    Column("peak_gb", "GB a chip", ".2f"),
    Column("tflop", "TFLOP", ".2f"),
    Column("moved_mb", "moved MB", ".1f"),
    Column("step_ms", "step ms >=", ".1f"),
    Column("bound", "bound by"),
    Column("used", "used % <=", ".0f"),
    Column("compile_s", "compiled s", ".0f"),
]


def main() -> None:
    """Compiles the missing cells, one after another, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m vlt.bench.slices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        help="NAME[:variant] [--config.key=value ...]; repeatable",
    )
    parser.add_argument("--topology", action="append", required=True, help="repeatable")
    parser.add_argument("--largest", action="store_true", help="also the largest batch that fits")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a compilation")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cells = Cells(options.out, options.limit)
    for topology in options.topology:
        for config in options.config:
            fill(cells, config, topology, options.largest)
    print(format_table(rows(cells.all), COLUMNS))


if __name__ == "__main__":
    tell(main)
