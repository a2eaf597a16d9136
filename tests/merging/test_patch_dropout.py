"""Random masking: what it keeps, when, and on which tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_clip import FRAMES, SPEC, embed, random_params, small, videos

from configs import common
from vlt.adapters.st_adapter import STAdapter
from vlt.inspect import inspect_config
from vlt.merging.patch_dropout import PatchDropout, draw_kept, keep_patches
from vlt.model_io.build import abstract_params, merged_form, merges_tokens
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import with_visual
from vlt.models.tokens import Tokens

JOINT = with_visual(SPEC, temporal_frames=FRAMES)
MASKED = {"train": True, "rngs": {"mask": jax.random.key(0)}}


def test_given_patches_stay_in_order_behind_the_protected():
    x = jnp.arange(2 * 3 * 7 * 2.0).reshape(2, 3, 7, 2)
    tokens = Tokens(x, size=x[..., 0], members=x, cls=1, protected=2)
    kept = jnp.array([[[0, 1], [0, 4], [2, 3]], [[3, 4], [1, 2], [0, 2]]])
    after = jax.jit(keep_patches)(tokens, kept)
    assert (after.patches, after.protected, after.cls) == (2, 2, 1)
    for b in range(2):
        for g in range(3):
            rows = np.array([0, 1, *(2 + kept[b, g])])
            np.testing.assert_array_equal(after.x[b, g], x[b, g, rows])
            np.testing.assert_array_equal(after.size[b, g], x[b, g, rows, 0])
    np.testing.assert_array_equal(after.members, after.x)


@pytest.mark.parametrize(("patches", "rate", "left"), [(1568, 0.9, 157), (128, 0.9, 13), (9, 0, 9)])
def test_each_group_draws_as_many(patches, rate, left):
    kept = np.asarray(draw_kept(jax.random.key(0), (3, 2, patches), rate))
    assert kept.shape == (3, 2, left)
    assert (np.diff(kept) > 0).all() and kept.min() >= 0 and kept.max() < patches
    if rate:
        assert len({tuple(row) for row in kept.reshape(6, left)}) == 6


def test_every_patch_is_as_likely():
    kept = draw_kept(jax.random.key(0), (4000, 10), 0.5)
    counts = np.bincount(np.asarray(kept).ravel(), minlength=10)
    assert counts.sum() == 20_000 and np.abs(counts - 2000).max() < 200


@pytest.mark.quick(1)
@pytest.mark.parametrize(("spec", "tokens"), [(SPEC, (4, 5)), (JOINT, (1, 17))])
@pytest.mark.parametrize("remat", ["none", "block"])
def test_training_alone_is_masked(spec, tokens, remat):
    """Drops three quarters of a frame's 16 patches, or of a video's 64, in all blocks."""
    model = DualEncoder(spec, (PatchDropout(0.75),), FRAMES, remat=remat)
    params, video = random_params(model), videos()
    plain = model.clone(methods=())

    def run(params, video):
        apply = model.clone(cls_only=False).apply
        flags = {"method": "encode_video", "capture": True} | MASKED
        return apply({"params": params}, video, **flags)[1]

    out = jax.eval_shape(run, params, video)
    layers = [out[f"block_{layer}"].x.shape[1:3] for layer in range(spec.visual.layers)]
    assert layers == [tokens] * spec.visual.layers
    masked = embed(model, params, video, **MASKED)
    whole = embed(model, params, video)
    np.testing.assert_array_equal(whole, embed(plain, params, video))
    assert jnp.abs(masked - whole).max() > 1e-2
    other = embed(model, params, video, train=True, rngs={"mask": jax.random.key(1)})
    assert jnp.abs(masked - other).max() > 1e-2


def test_of_equal_patches_any_are_the_same():
    """Without positions, all tokens of a grey video are alike, so masking changes nothing."""
    model = DualEncoder(SPEC, (PatchDropout(0.5),), FRAMES)
    params = random_params(model)
    visual = params["visual"]
    visual["position_embedding"][:] = 0
    visual["class_embedding"] = visual["patch_embedding"]["kernel"].sum((0, 1, 2))
    video = jnp.ones((2, FRAMES, 16, 16, 3))
    masked = embed(model, params, video, **MASKED)
    np.testing.assert_allclose(masked, embed(model, params, video), atol=1e-5)


def test_texts_see_all_their_words():
    model = small(PatchDropout(0.75))
    params = random_params(model)
    ids = jnp.array([[1, 4, 10, 0, 0], [1, 2, 3, 4, 10]])

    def run(**flags):
        return jax.jit(lambda p: model.apply({"params": p}, ids, method="encode_text", **flags)[0])

    np.testing.assert_array_equal(run(**MASKED)(params), run()(params))


def test_it_has_no_leaves_and_is_gone_when_deployed():
    model = small(PatchDropout())
    assert merges_tokens(model)
    shapes = abstract_params(model)
    assert jax.tree.structure(shapes) == jax.tree.structure(abstract_params(small()))
    assert not merged_form(model).methods
    method = model.methods[0]
    assert method.training_only and method.fold_for_inference(shapes) == (None, shapes)


def test_methods_that_find_patches_by_their_places_refuse_it():
    model = DualEncoder(SPEC, (PatchDropout(), STAdapter(width=4)), FRAMES)
    with pytest.raises(ValueError, match="which patch_dropout changes"):
        abstract_params(model)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_outside_of_0_to_1(rate):
    with pytest.raises(ValueError, match=f"patch_dropout.rate must be >= 0 and < 1, got {rate}"):
        PatchDropout(rate)


@pytest.mark.slow
def test_price_of_a_masked_step():
    """With 157 of 1,568 patches, the forward pass in training costs about a tenth."""
    config = common.base()
    config.model.update(size="viclip_b16", frames=8, context=32, methods=("patch_dropout",))
    config.update(rules=((".*", {"lr": 1.0}),))
    report = inspect_config(config)
    share = report["video_gmacs_run"] / report["video_gmacs"]
    assert 0.07 < share < 0.1
