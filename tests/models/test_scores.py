"""Pair scores: what a method gets from both towers, its leaves, and some videos at a time."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run_python

from vlt.models import dual_encoder
from vlt.models.dual_encoder import DualEncoder, blocks_of_pairs
from vlt.models.points import Method
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

SPEC = DualEncoderSpec(
    VisionSpec(8, 4, 8, 1, 2, 16), TextSpec(5, 11, 8, 1, 2, 16), embed_dim=4
)  # fmt: skip
IDS = np.array([[1, 2, 9, 0, 0], [1, 3, 4, 10, 0], [5, 9, 0, 0, 0]], np.int32)
VIDEO = np.random.default_rng(0).integers(0, 255, (6, 2, 8, 8, 3), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Crossed(Method):
    """Products of a video's projected patches and its frames with the words of a text."""

    name = "crossed"
    needs = frozenset({"pair_scores"})
    video_extras = ("patches",)
    text_extras = ("tokens", "words")
    reads_patches = True

    def side_branch(self, tower, hidden, train, capture):
        return hidden[-1], {"patches": hidden[-1].x[:, :, 1:].mean(1)}

    def score(self, model, video, text, scores, train):
        read = nn.Dense(4, name=self.name)(video["patches"]).mean(1) + video["frames"].sum(1)
        words = jnp.where(text["words"][..., None], text["tokens"], 0).sum(1)
        return read @ (words + text["features"]).T + model.param("bias", nn.initializers.ones, ())


MODEL = DualEncoder(SPEC, (Crossed(),), frame_norm=True)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), VIDEO[:1], IDS[:1])["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.float32(rng.normal(0, 0.5, x.shape)), shapes)


@pytest.fixture
def in_blocks(monkeypatch):
    monkeypatch.setattr(dual_encoder, "PAIRS", 6)  # three texts by two videos


def outputs(params):
    return jax.jit(lambda p: MODEL.apply({"params": p}, VIDEO, IDS, train=True))(params)


def test_a_method_reads_what_both_towers_put_out(params):
    found = outputs(params)
    text, visual = found["text_out"], found["visual_out"]
    np.testing.assert_array_equal(text["words"].sum(1), [3, 4, 2])
    for row, length in enumerate((3, 4, 2)):  # the last word is the one that is read
        read = text["tokens"][row, length - 1]
        np.testing.assert_allclose(read, text["text_features"][row], atol=1e-6)
    unit = np.linalg.norm(visual["raw_frames"], axis=-1, keepdims=True)
    np.testing.assert_allclose(visual["raw_frames"] / unit, visual["frames"], atol=1e-6)
    dense = params["crossed"]
    video = (visual["patches"] @ dense["kernel"] + dense["bias"]).mean(1)
    video += visual["raw_frames"].sum(1)
    words = (text["tokens"] * text["words"][..., None]).sum(1) + text["text_features"]
    np.testing.assert_allclose(found["scores"], video @ words.T + params["bias"], atol=1e-4)


def test_towers_put_out_no_more_than_is_read():
    shapes = jax.eval_shape(DualEncoder(SPEC).init_with_output, jax.random.key(0), VIDEO, IDS)[0]
    assert "scores" not in shapes and shapes["text_out"].keys() == {"text_features"}
    assert shapes["visual_out"].keys() == {"frames", "video_features"}


def test_some_videos_at_a_time_are_scored_as_all_at_once(params, in_blocks):
    assert [blocks_of_pairs(6, 3), blocks_of_pairs(6, 7), blocks_of_pairs(1, 9)] == [3, 6, 1]
    out = outputs(params)
    video, text = MODEL.video_parts(out["visual_out"]), MODEL.text_parts(out["text_out"])

    def loss(params, method):
        found = MODEL.apply({"params": params}, video, text, train=True, method=method)
        return jnp.square(found).mean(), found

    whole, parts = (
        jax.jit(jax.grad(lambda p, m=method: loss(p, m), has_aux=True))(params)
        for method in ("scores_at_once", "scores")
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), whole, parts)
    assert np.abs(parts[0]["crossed"]["kernel"]).min() > 0
    assert "scan" in str(jax.make_jaxpr(lambda p: loss(p, "scores"))(params))


@pytest.mark.slow
def test_devices_score_the_videos_that_they_hold():
    run_python(
        """
        import jax, numpy as np
        import test_scores as here
        from vlt.models import dual_encoder
        from vlt.runtime.mesh import make_mesh, shard_batch
        shapes = jax.eval_shape(here.MODEL.init, jax.random.key(0), here.VIDEO[:1], here.IDS[:1])
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda x: np.float32(rng.normal(0, 0.5, x.shape)), shapes)
        video = {"frames": rng.normal(size=(32, 2, 4)), "patches": rng.normal(size=(32, 2, 8))}
        text = {"features": rng.normal(size=(3, 4)), "tokens": rng.normal(size=(3, 5, 4)),
                "words": np.ones((3, 5), bool)}
        score = jax.jit(lambda v: here.MODEL.apply(params, v, text, method="scores"))
        whole = score(video)
        dual_encoder.PAIRS = 6  # two videos of each of eight devices, in two blocks
        mesh = make_mesh({"data": 8})
        with jax.set_mesh(mesh):
            compiled = jax.jit(score.__wrapped__).lower(shard_batch(video, mesh)).compile()
        hlo = compiled.as_text()
        assert "while" in hlo and "all-gather" not in hlo and "all-to-all" not in hlo, hlo
        np.testing.assert_allclose(compiled(shard_batch(video, mesh)), whole, atol=1e-4)
        """,
        devices=8,
    )
