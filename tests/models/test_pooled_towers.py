"""Vision towers without a class token, whose frames are the means of their patches (UMT)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.merging.evit import EViT
from vlt.merging.patch_dropout import PatchDropout
from vlt.merging.sta import STA
from vlt.merging.tempme import TempMe
from vlt.merging.testa import TESTA
from vlt.merging.tome import ToMe
from vlt.methods import method_classes
from vlt.model_io.build import abstract_params, make_model
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.spec_reading import spec_from_dict
from vlt.models.tokens import Tokens
from vlt.models.vit import _pooled

FRAMES, PATCHES, LAYERS = 4, 16, 3
TEXT = TextSpec(5, 11, 16, 2, 2, 32)
SPEC = DualEncoderSpec(VisionSpec(16, 4, 16, LAYERS, 2, 32, pool="mean"), TEXT, embed_dim=8)
RNG = np.random.default_rng(0)
VIDEO = RNG.normal(size=(2, FRAMES, 16, 16, 3)).astype(np.float32)
# [groups, tokens] that leave the last block.
MERGING = {
    ToMe(r=2): (4, PATCHES - 2 * LAYERS),
    TempMe(layers=(1, 2), join=(2, 2), r=2, keep_cross=50, keep_intra=75): (1, 9),
    STA(layers=(0, 1), keep=0.75): (4, 9),
    TESTA(layers=(1,), frame_r=1, r=2): (3, PATCHES - 2 * LAYERS),
    PatchDropout(rate=0.5): (4, PATCHES),  # drops only in training
}


def random_params(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), abstract_params(model)
    )


def encode(model, params, video=VIDEO, **options):
    def run(params, video):
        variables = {"params": params}
        return model.apply(variables, video, method="encode_video", capture=True, **options)

    return jax.jit(run)(params, video)


def test_a_frame_is_the_mean_of_its_patches():
    model = DualEncoder(SPEC)
    params = random_params(model)
    assert "class_embedding" not in params["visual"]
    assert params["visual"]["position_embedding"].shape == (PATCHES, 16)
    _, out = encode(model, params)
    x = np.asarray(out[f"block_{LAYERS - 1}"].x, np.float64)
    assert x.shape == (2, FRAMES, PATCHES, 16), "all patches of the last block are read"
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    norm, projection = params["visual"]["post_norm"], params["visual"]["projection"]["kernel"]
    pooled = (x * norm["scale"] + norm["bias"]).mean(2)
    np.testing.assert_allclose(out["frames"], pooled @ projection, atol=2e-5)
    np.testing.assert_allclose(out["video_features"], (pooled @ projection).mean(1), atol=2e-5)


@pytest.mark.quick(2)
@pytest.mark.parametrize("method", MERGING, ids=lambda method: method.name)
def test_every_merging_scheme_counts_and_weighs_the_patches(method):
    method.check(SPEC, FRAMES)
    model = DualEncoder(SPEC, (method,), FRAMES)
    params = random_params(model)
    embedding, out = encode(model, params)
    last = out[f"block_{LAYERS - 1}"]
    assert last.x.shape[1:3] == MERGING[method] and last.cls == last.protected == 0
    assert np.isfinite(embedding).all() and np.abs(embedding[0] - embedding[1]).max() > 1e-3
    if last.size is not None:
        np.testing.assert_allclose(last.size.sum((1, 2)), FRAMES * PATCHES, rtol=1e-6)
    if isinstance(method, TempMe):
        assert method.tokens_after(SPEC, FRAMES)[-1] == MERGING[method]


def test_merging_schemes_are_these_or_need_a_class_token():
    merging = {n for n, m in method_classes().items() if "attended_tokens" in m.breaks}
    needing = {n for n in merging if "class_token" in method_classes()[n]().needs_here()}
    assert merging - needing == {method.name for method in MERGING}
    with pytest.raises(ValueError, match="evit reads the class token of every frame, .*pool=mean"):
        make_model(SPEC, {EViT.name: {"layers": (0,)}}, FRAMES)


class InTheFirst(ToMe):
    """ToMe in the first block alone: after it, equal patches are no longer neighbours."""

    def after_attention(self, block, tokens, attended):
        return tokens if block.layer else super().after_attention(block, tokens, attended)


def test_equal_neighbours_merge_without_a_trace():
    """Merged tokens weigh as much in attention and the pool as separate ones: nothing changes."""
    model = DualEncoder(SPEC)
    params = random_params(model)
    table = np.repeat(params["visual"]["position_embedding"][::2], 2, axis=0)
    params["visual"]["position_embedding"] = table
    patches = np.repeat(VIDEO.reshape(2, FRAMES, 4, 4, 2, 2, 4, 3)[:, :, :, :, :, :1], 2, axis=5)
    video = patches.reshape(VIDEO.shape)
    bare, _ = encode(model, params, video)
    merged, out = encode(DualEncoder(SPEC, (InTheFirst(r=2),)), params, video)
    assert out["block_0"].x.shape[2] == PATCHES - 2
    np.testing.assert_allclose(merged, bare, atol=2e-5)
    once = DualEncoder(SPEC, (InTheFirst(r=2, proportional=False),))
    counted_once, _ = encode(once, params, video)
    assert np.abs(counted_once - bare).max() > 1e-3


def test_the_first_patch_is_a_source():
    """As with the published class_token=False: it moves to the end with its destination."""
    model = DualEncoder(SPEC, (ToMe(r=1),))
    params = random_params(model)
    _, out = encode(model, params, VIDEO)
    members = np.asarray(out["block_0"].members[0, 0])  # [15, 4 * 16]
    (merged,) = np.flatnonzero(members.sum(-1) == 2)
    assert merged >= PATCHES // 2 - 1, "destinations stand behind the sources that stay"
    source, destination = np.flatnonzero(members[merged])
    assert {source % 2, destination % 2} == {0, 1}
    single = [int(np.flatnonzero(row)[0]) for row in members[: PATCHES // 2 - 1]]
    assert all(patch % 2 == 0 for patch in single)


def test_all_frames_in_one_group():
    """A tower of joint attention (ViCLIP's), pooled over the patches of each frame."""
    visual = dataclasses.replace(SPEC.visual, temporal_frames=FRAMES)
    model = DualEncoder(dataclasses.replace(SPEC, visual=visual), frames=FRAMES)
    embedding, out = encode(model, random_params(model))
    x = out["block_0"].x
    assert x.shape == (2, 1, FRAMES * PATCHES, 16) and out["frames"].shape[1] == FRAMES
    assert np.isfinite(embedding).all()
    tokens = Tokens(x, frames=FRAMES, cls=0, protected=0)
    own = x.reshape(2, PATCHES, FRAMES, 16).mean(1)[:, None]
    np.testing.assert_allclose(_pooled(tokens, x, visual), own, atol=1e-6)
    fewer = tokens.replace(x=x[:, :, 1:])  # after merging, no patch keeps its place
    np.testing.assert_allclose(_pooled(fewer, fewer.x, visual)[:, :, 0], fewer.x.mean(2), atol=1e-6)


def test_the_pool_is_stored_and_checked():
    assert spec_from_dict(SPEC.to_dict()) == SPEC
    fields = SPEC.to_dict() | {"visual": SPEC.to_dict()["visual"] | {"pool": "men"}}
    with pytest.raises(ValueError, match="spec.visual.pool='men'.*mean"):
        spec_from_dict(fields)
    old = SPEC.to_dict()
    del old["visual"]["pool"]
    assert spec_from_dict(old).visual.cls == 1, "folders of before have class tokens"


def test_gradients_reach_every_leaf_through_the_pool():
    model = DualEncoder(SPEC, (ToMe(r=2),))
    params = random_params(model)
    gradient = jax.jit(
        jax.grad(lambda p: jnp.square(encode(model, p)[1]["video_features"]).sum())
    )(params)  # fmt: skip
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient["visual"]))
