"""The table of slices: which cells are compiled, and that none is compiled twice."""

import json

import pytest

from vlt.bench import slices
from vlt.bench.slices import Cells, candidates, fill, rows

GB = 10**9
CONFIG = "configs/tempme.py:msrvtt_b16"  # batch 128


def cell(per_chip: int, peak_gb: float, chips: int = 8, fits: bool = True) -> dict:
    held = {"parameters": GB, "optimizer": 0, "program": 0, "peak": int(peak_gb * GB)}
    return {"batch": per_chip * chips, "chips": chips, "fits": fits, "bytes": held}


def test_the_power_of_two_that_should_fit_last_is_tried_first():
    # 0.5 GB a video and 1 GB in any case: 16 GB are 30 videos, so 16, and 32 may just fit.
    assert list(candidates(cell(4, 3.0), 16 * GB)) == [16, 32]
    # 32 would need 0.6 * 32 + 1 = 20.2 GB: surely too much.
    assert list(candidates(cell(5, 4.0), 16 * GB)) == [16]


def test_smaller_ones_where_the_first_does_not_fit():
    assert list(candidates(cell(16, 0, fits=False), 16 * GB)) == [8, 4, 2, 1]


@pytest.fixture
def compiler(monkeypatch):
    """A compiler whose steps need 1 GB and 0.5 GB a video."""
    asked = []

    def compiled(config, topology, batch, limit):
        asked.append((topology, batch))
        per_chip = batch // 8
        needed = 1 + 0.5 * per_chip
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
    # 16 a chip as configured need 9 GB; 32 need 17 of 15.75 GiB.
    assert compiler == [("v5e:2x4", 128), ("v5e:2x4", 256)]
    assert [found["fits"] for found in cells.all] == [True, False]
    assert len(file.read_text().splitlines()) == 2
    assert [row["per_chip"] for row in rows(cells.all)] == [16, 32]


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
