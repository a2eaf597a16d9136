"""ViCLIP's benchmark at a small size: the torch peer computes the same."""

import json
import sys

import jax
import numpy as np
import pytest

from vlt.bench import forward, viclip
from vlt.merging.patch_dropout import PatchDropout
from vlt.model_io.build import abstract_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

torch_viclip = pytest.importorskip("vlt.bench.torch_viclip")

SPEC = DualEncoderSpec(
    VisionSpec(24, 8, 16, 3, 2, 40, temporal_frames=5), TextSpec(8, 43, 8, 1, 2, 16), embed_dim=4
)


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_the_peer_computes_the_same(frames):
    model = DualEncoder(SPEC, (), frames)
    rng = np.random.default_rng(0)
    shapes = forward.without_text(abstract_params(model))
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    video = forward.random_video(model, batch=2)
    theirs = torch_viclip.viclip_video_encoder(model, params)(video)
    np.testing.assert_allclose(forward.prepare(model, 2, params).run(), theirs, atol=2e-6)
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-2


def test_it_knows_no_methods():
    with pytest.raises(ValueError, match="ViCLIP alone; the config has methods="):
        torch_viclip.viclip_video_encoder(DualEncoder(SPEC, (PatchDropout(),)), {})


@pytest.mark.slow
def test_the_command_prints_one_object(monkeypatch, capsys):
    monkeypatch.setitem(SIZES, "viclip_b16", SPEC)
    monkeypatch.setattr(forward, "matmul_rate", lambda tokens, width: 1e11)
    arguments = ["bench", "--frames=5", "--rounds=1", "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    viclip.main()
    found = json.loads(capsys.readouterr().out)
    assert found["peer_difference"] < 2e-6
    assert found["times_as_fast"] == pytest.approx(found["peer_s"] / found["forward_s"])
    assert {"of_matmul_rate", "gmacs", "videos_per_s", "device"} < found.keys()
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], "--cls_only"])
    viclip.main()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(lines["gmacs"]) < found["gmacs"]
