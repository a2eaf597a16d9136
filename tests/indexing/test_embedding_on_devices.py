"""All devices of a process embed windows, with the same result as one device."""

import numpy as np
import pytest
from helpers import run_python

pytest.importorskip("lancedb")

EMBED = """
    import sys
    import jax
    import numpy as np
    import vlt
    index = vlt.index(sys.argv[1] + "/index", sys.argv[2], vlt.load("tiny_clip"), window="0.5s")
    found = index.store.read()
    order = np.lexsort((found.spans[:, 0], found.paths.astype(str)))
    np.save(sys.argv[1] + "/vectors.npy", found.vectors[order])
    best = index.search("a red circle", top=3)
    print(jax.device_count(), len(found), [each.path for each in best])
"""


@pytest.mark.slow
def test_four_devices_embed_what_one_does(tmp_path):
    from vlt.data import moving_shapes

    videos = moving_shapes.generate(tmp_path / "clips", 2).parent / "videos"
    told = []
    for devices in (1, 4):
        (tmp_path / str(devices)).mkdir()
        told.append(
            run_python(EMBED, tmp_path / str(devices), videos, devices=devices, timeout=1000)
        )
    one, four = (line.split(maxsplit=1) for line in told)
    assert (one[0], four[0]) == ("1", "4") and one[1] == four[1]
    vectors = [np.load(tmp_path / each / "vectors.npy") for each in ("1", "4")]
    np.testing.assert_allclose(*vectors, atol=1e-3)
