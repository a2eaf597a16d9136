"""The default tables' rows with activations in bfloat16, beside the study's runs in float32."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from vlt.study import plan, running
from vlt.study.claim import MEASURES
from vlt.study.claims import CLAIMS, btadapter, msta, tempme, token_mixing
from vlt.study.kept import KeptRows
from vlt.study.side_by_side import as_they_end

KEPT = KeptRows(Path(__file__).resolve().parents[2] / "benchmarks/claims").by_name
ROWS = {
    "BT-Adapter": (btadapter.BRANCH, ("twins", "R@1")),
    "TempMe": (tempme.TEMPME, ("twins", "R@1")),
    "Mix": (token_mixing.MIX, ("twins",)),
    "MSTA": (msta.MSTA, ("base", "novel")),
}


def scored(run, folder):
    return run.seed, running.measured(run, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_bfloat16_stays_within_two_points_of_float32(name, tmp_path):
    """In the mean of three seeds. Clips are the default config's, those of the claim on order."""
    row, measures = ROWS[name]
    narrow = dataclasses.replace(row, changes=dict(row.changes) | {"model.dtype": "bfloat16"})
    runs = [plan.run_of(CLAIMS["order"], narrow, seed) for seed in range(3)]
    jobs = [functools.partial(scored, run, tmp_path / run.name) for run in runs]
    found = {measure: np.zeros((2, 3)) for measure in measures}
    for seed, scores in as_they_end(jobs, tmp_path / "log"):
        wide = KEPT[plan.run_of(CLAIMS["order"], row, seed).name].scores
        for measure in measures:
            found[measure][:, seed] = [each.of(MEASURES[measure]) for each in (wide, scores)]
    for measure, values in found.items():
        print(f"{name}, {MEASURES[measure].title}: float32, bfloat16 {values.round(1).tolist()}")
    means = {measure: values.mean(1) for measure, values in found.items()}
    assert all(abs(wide - narrow) <= 2 for wide, narrow in means.values()), means
