"""Merging in towers with rotary attention, and in towers with attention pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.merging.diffrate import DiffRate
from vlt.merging.evit import EViT
from vlt.merging.sta import STA
from vlt.merging.tempme import TempMe
from vlt.merging.testa import TESTA
from vlt.merging.tome import ToMe
from vlt.model_io.build import abstract_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.rotary import frame_places
from vlt.models.spec import DualEncoderSpec, PoolerSpec, TextSpec, VisionSpec, with_visual

FRAMES, SIDE, LAYERS = 4, 4, 3
VISUAL = VisionSpec(
    16, 4, 16, LAYERS, 2, 32, pool="attention", rope="pe", pooler=PoolerSpec(4, 16, 32)
)
SPEC = DualEncoderSpec(VISUAL, TextSpec(5, 11, 16, 1, 2, 32), embed_dim=8)
RNG = np.random.default_rng(0)
VIDEO = RNG.normal(size=(2, FRAMES, 16, 16, 3)).astype(np.float32)
MERGING = (
    TempMe(layers=(1, 2), join=(2, 2), r=2, keep_cross=50, keep_intra=75),
    ToMe(r=2),
    STA(layers=(0, 1), keep=0.75),
    TESTA(layers=(1,), frame_r=1, r=2),
)


def encode(spec, *methods, params=None, video=VIDEO):
    model = DualEncoder(spec, methods, FRAMES)
    rng = np.random.default_rng(1)
    shapes = abstract_params(model)
    made = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)

    @jax.jit
    def run(params):
        return model.apply({"params": params}, video, method="encode_video", capture=True)

    return run(made if params is None else params), made


@pytest.mark.quick(1)
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("method", MERGING, ids=lambda method: method.name)
def test_a_place_is_the_mean_of_those_that_merged(method, class_token):
    """Means are over all frames' patches, weighted by membership; class tokens stay at 0."""
    (_, out), _ = encode(with_visual(SPEC, class_token=class_token), method)
    last = out[f"block_{LAYERS - 1}"]
    grid = np.tile(frame_places("pe", SIDE, SIDE, class_token)[int(class_token) :], (FRAMES, 1))
    members = np.asarray(last.members, np.float64)[:, :, last.cls :]
    means = members @ grid / members.sum(-1, keepdims=True)
    np.testing.assert_allclose(last.places[:, :, last.cls :], means, atol=1e-5)
    assert not np.any(last.places[:, :, : last.cls])
    # STA drops patches; the others only merge them.
    assert isinstance(method, STA) or members.sum() == 2 * FRAMES * SIDE**2
    assert out["frames"].shape[1] == last.x.shape[1], "each group is pooled to one"


@pytest.mark.slow
def test_evits_fused_token_stands_at_the_mean_of_its_places():
    (_, out), _ = encode(SPEC, EViT(layers=(0,), keep=0.5, attention="received"))
    places = np.asarray(out["block_0"].places)
    kept, fused = places[:, :, :-1], places[:, :, -1]
    assert kept.shape[2] == SIDE**2 // 2
    assert (fused > 0).all() and (fused < SIDE - 1).all()


def test_the_pool_reads_a_merged_token_as_often_as_it_has_patches():
    """Patches that are alike in all but their places merge after the last block's attention."""
    flat = with_visual(SPEC, rope="")

    class Behind(ToMe):
        def after_attention(self, block, tokens, attended):
            last = block.layer == LAYERS - 1
            return super().after_attention(block, tokens, attended) if last else tokens

    pixels = np.tile(VIDEO[:, :, :, :4], (1, 1, 1, 4, 1))  # all patches of a row are alike
    model = DualEncoder(flat, (), FRAMES)
    params = jax.tree.map(
        lambda x: RNG.normal(0, 0.4, x.shape).astype(np.float32), abstract_params(model)
    )
    table = np.repeat(params["visual"]["position_embedding"][::4], 4, axis=0)
    params["visual"]["position_embedding"] = table
    (bare, _), _ = encode(flat, params=params, video=pixels)
    (merged, out), _ = encode(flat, Behind(r=8), params=params, video=pixels)
    assert out[f"block_{LAYERS - 1}"].x.shape[2] == SIDE**2 // 2
    np.testing.assert_allclose(merged, bare, atol=2e-5)


@pytest.mark.slow
def test_keys_are_compared_before_they_turn():
    """Patches that are alike then merge wherever they stand, unless `turned_keys` is set."""
    pixels = np.tile(VIDEO[:, :, :4, :4], (1, 1, 4, 4, 1))
    for turned in (False, True):
        method = ToMe(r=4, turned_keys=turned)
        model = DualEncoder(SPEC, (method,), FRAMES)
        params = jax.tree.map(
            lambda x: RNG.normal(0, 0.4, x.shape).astype(np.float32), abstract_params(model)
        )
        params["visual"]["position_embedding"] = jnp.zeros((SIDE**2, 16))
        (_, out), _ = encode(SPEC, method, params=params, video=pixels)
        # Equal keys choose the first destination; turned ones choose a neighbour.
        most = np.asarray(out["block_0"].size).max()
        assert (most == 5) == (not turned)


def test_nothing_merged_is_the_bare_program():
    model = DualEncoder(SPEC, (), FRAMES)
    params = abstract_params(model)

    def lowered(*methods):
        module = DualEncoder(SPEC, methods, FRAMES)
        run = jax.jit(lambda p: module.apply({"params": p}, VIDEO, method="encode_video")[0])
        return run.lower(params).as_text()

    assert lowered(ToMe(r=0)) == lowered()


@pytest.mark.slow
@pytest.mark.parametrize("class_token", [True, False])
def test_diffrates_masks_and_slices_agree(class_token):
    """Places follow what a token holds, and the pool reads no removed token."""
    spec = with_visual(SPEC, class_token=class_token)
    learned = DiffRate(None, None, granularity=1, attention="received")
    _, params = encode(spec, learned)
    for layer, counts in ((1, (13, 11)), (2, (9, 7))):
        for name, left in zip(("prune", "merge"), counts, strict=True):
            theta = np.zeros(SIDE**2, np.float32)
            theta[SIDE**2 - left] = 12.0  # choices are 16, 15, ..., 1
            params["visual"][f"blocks_{layer}"]["diffrate"][name] = theta
    (masked, _), _ = encode(spec, learned, params=params)
    deployed, params = learned.fold_for_inference(params)
    assert (deployed.kept, deployed.merged) == ((16, 13, 9), (16, 11, 7))
    (sliced, _), _ = encode(spec, deployed, params=params)
    np.testing.assert_allclose(sliced, masked, atol=1e-5)
