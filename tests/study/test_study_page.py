"""The page of claims in benchmarks/ is what today's code makes of the runs kept there."""

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from vlt.study.claims import CLAIMS
from vlt.study.kept import KeptRows
from vlt.study.page import PAGE, PICTURES, write_page
from vlt.study.plan import runs_of
from vlt.study.verdict import LEAST_SEEDS

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def kept():
    return KeptRows(BENCHMARKS / "claims")


def test_every_run_that_is_kept_is_one_of_a_claim_and_none_is_missing(kept):
    """A run's name is a digest of its config: another learning rate or option is another run."""
    assert {run.name for run in runs_of(CLAIMS.values(), LEAST_SEEDS)} == set(kept.by_name)


def test_the_page_and_its_pictures_are_those_of_the_kept_runs(kept, tmp_path):
    table = write_page([*CLAIMS.values()], kept, tmp_path, LEAST_SEEDS)
    written = (tmp_path / PAGE).read_text()
    assert written == (BENCHMARKS / PAGE).read_text() and table in written
    files = sorted((BENCHMARKS / PICTURES).glob("claim-*.png"))
    assert {file.name for file in files} == {x.name for x in (tmp_path / PICTURES).iterdir()}
    for file in files:
        found, expected = (
            np.asarray(Image.open(folder / PICTURES / file.name).convert("RGB"), np.int16)
            for folder in (tmp_path, BENCHMARKS)
        )
        assert found.shape == expected.shape, file.name
        # Another release of Pillow may smooth an edge by other shades.
        assert np.abs(found - expected).mean() < 0.05, file.name
