"""The table of slices: which cells are compiled, and that none is compiled twice."""

import json
import math

import pytest

from vlt.bench import slices
from vlt.bench.slices import Cells, fill, find_largest, larger_power, rows

GB = 10**9
CONFIG = "configs/tempme.py:msrvtt_b16"  # batch 128


def cell(per_chip: int, peak_gb: float, chips: int = 8, fits: bool = True) -> dict:
    held = {"parameters": GB, "optimizer": 0, "program": 0, "peak": int(peak_gb * GB)}
    return {"batch": per_chip * chips, "chips": chips, "fits": fits, "bytes": held}


def test_the_power_of_two_that_should_fit_last():
    # 0.5 GB per video plus 1 GB: 16 GB hold 30 videos, so 16; after 16 comes 32, with 17 GB.
    assert larger_power(cell(4, 3.0), 16 * GB) == 16
    assert larger_power(cell(16, 9.0), 16 * GB) == 32
    # 32 need 0.6 * 32 + 1 GB, which is certainly too much.
    assert larger_power(cell(16, 10.6), 16 * GB) is None
    assert larger_power(cell(13, 7.5), 16 * GB) == 16


@pytest.mark.parametrize(
    ("start", "last", "tried"),
    [
        (4, 32, [16, 32, 64, 32]),  # goes one too far; Cells already has 32
        (4, 100, [16, 32, 64]),  # needs less than predicted
        (4, 10, [16, 8]),  # needs more
        (13, 13, [16, 8]),
        (12, 1, [8, 4, 2, 1]),
        (1, 0, []),
    ],
)
def test_the_search_goes_up_and_comes_down(start, last, tried):
    asked = []

    def compile_at(per_chip):
        asked.append(per_chip)
        # Memory grows by 0.5 GB per video up to 16 videos, then by less.
        held = 1 + (0.5 * per_chip if per_chip <= 16 else 0.1 * per_chip + 6)
        return cell(per_chip, held, fits=per_chip <= last)

    first = cell(start, 1 + 0.5 * start, fits=start <= last)
    find_largest(compile_at, first, 16 * GB)
    assert asked == tried


@pytest.fixture
def per_video():
    return 0.5


@pytest.fixture
def compiler(monkeypatch, per_video):
    """A compiler whose steps need 1 GB plus `per_video` GB per video."""
    asked = []

    def compiled(config, topology, batch, limit):
        asked.append((topology, batch))
        per_chip = batch // 8
        needed = 1 + per_video * per_chip
        found = cell(per_chip, needed, fits=needed < 16)
        cost = {"step_s": 0.1, "utilisation": 0.5, "bound_by": "memory"}
        return found | {"state": "", "flops": 1e12, "collective_bytes": 1, "roofline": cost}

    monkeypatch.setattr(slices, "compiled", compiled)
    return asked


def test_the_largest_batch_is_found_and_nothing_compiled_twice(tmp_path, compiler):
    file = tmp_path / "cells.jsonl"
    for _ in range(2):
        cells = Cells(file)
        fill(cells, CONFIG, "v5e:2x4", largest=True)
    # As configured, 16 per chip need 9 GB; 32 need 17 GB, with 15.75 GiB available.
    assert compiler == [("v5e:2x4", 128), ("v5e:2x4", 256)]
    assert [found["fits"] for found in cells.all] == [True, False]
    assert len(file.read_text().splitlines()) == 2
    fits, does_not = rows(cells.all)
    assert (fits["per_chip"], does_not["per_chip"]) == (16, 32)
    shown = {"peak_gb": 9.0, "tflop": 1.0, "moved_mb": 1e-6, "step_ms": 100.0, "used": 50.0}
    assert {name: fits[name] for name in shown} == pytest.approx(shown)
    assert all(math.isnan(does_not[name]) for name in shown.keys() - {"tflop"})
    assert (fits["bound"], does_not["bound"]) == ("memory", "")


@pytest.mark.parametrize("per_video", [5])
def test_smaller_batches_are_tried_until_one_fits(tmp_path, compiler, per_video):
    cells = Cells(tmp_path / "cells.jsonl")
    fill(cells, CONFIG, "v5e:2x4", largest=True)
    # 16 per chip need 81 GB, 8 and 4 still too much, 2 need 11 GB.
    assert compiler == [("v5e:2x4", 8 * per_chip) for per_chip in (16, 8, 4, 2)]


def test_the_batch_is_a_multiple_of_the_chips(tmp_path, compiler):
    fill(Cells(tmp_path / "cells.jsonl"), CONFIG, "v5e:16x16", largest=False)
    assert compiler == [("v5e:16x16", 256)]


def test_a_compilation_that_fails_is_recorded_with_its_reason(tmp_path):
    cells = Cells(tmp_path / "cells.jsonl")
    found = cells.at("configs/tempme.py:msrvtt_b17", "v5e:2x4", 128)
    assert "there is no variant 'msrvtt_b17'" in found["state"]
    assert json.loads((tmp_path / "cells.jsonl").read_text())["state"] == found["state"]


def test_a_compilation_that_takes_too_long_is_ended(tmp_path):
    assert Cells(tmp_path / "cells", 0.1).at(CONFIG, "v5e:2x4", 128)["state"] == "over 0 s"
