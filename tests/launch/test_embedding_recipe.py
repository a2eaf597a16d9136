"""The recipe on Apache Beam that launch/README.md prints, on Beam's local runner."""

import subprocess
import sys

import documents
import pytest
from helpers import ROOT, environment

from vlt.data import moving_shapes


@pytest.mark.slow
def test_the_recipe_on_beam_makes_the_index(tmp_path):
    pytest.importorskip("apache_beam")
    pytest.importorskip("lancedb")
    from vlt.indexing.store import Store, tables_of

    (recipe,) = [
        x for x in documents.snippets((ROOT / "launch/README.md").read_text()) if "beam" in x
    ]
    (tmp_path / "recipe.py").write_text(recipe)
    moving_shapes.generate(tmp_path / "my", 2)
    subprocess.run([sys.executable, "recipe.py"], cwd=tmp_path, env=environment(1), check=True)
    uri = str(tmp_path / "my/beam")
    assert len(Store(uri).entries()) == 4 and tables_of(uri) == {"windows", "files"}
