"""ToMe on a small tower, and the token counts and operations of the paper's towers."""

import re

import jax
import numpy as np
import pytest

from vlt.costs.flops import count
from vlt.merging.tome import ToMe
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, build_model, example_inputs
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

SPEC = DualEncoderSpec(
    VisionSpec(16, 4, 16, 3, 2, 32), TextSpec(5, 11, 8, 1, 2, 16), embed_dim=4
)  # 16 patches
FRAMES = 4


@pytest.fixture(scope="module")
def params():
    video, ids = np.zeros((1, 2, 16, 16, 3), np.uint8), np.ones((1, 5), np.int32)
    return jax.jit(DualEncoder(SPEC).init)(jax.random.key(0), video, ids)["params"]


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).integers(0, 255, (3, FRAMES, 16, 16, 3), np.uint8)


def encode(params, video, *methods, **options):
    model = DualEncoder(SPEC, methods, **options)
    apply = jax.jit(lambda p, v: model.apply({"params": p}, v, capture=True, method="encode_video"))
    return apply(params, video)


def program(params, video, *methods, **options):
    model = DualEncoder(SPEC, methods, **options)
    run = jax.jit(lambda p, v: model.apply({"params": p}, v, method="encode_video")[0])
    text = re.sub(r"loc\(.*?\)|#loc.*", "", run.lower(params, video).as_text())
    names: dict[str, str] = {}
    return re.sub(r"@[\w.]+", lambda m: names.setdefault(m[0], f"@f{len(names)}"), text)


@pytest.mark.smoke
def test_every_block_takes_r_tokens_of_each_frame(params, video):
    _, out = encode(params, video, ToMe(3), cls_only=False)
    shapes = [out[f"block_{layer}"].x.shape[1:3] for layer in range(3)]
    assert shapes == [(FRAMES, 14), (FRAMES, 11), (FRAMES, 8)]
    for layer in range(3):
        tokens = out[f"block_{layer}"]
        np.testing.assert_array_equal(tokens.size[:, :, 0], 1)
        np.testing.assert_array_equal(tokens.size[:, :, 1:].sum(-1), 16)
        np.testing.assert_allclose(tokens.members.sum(-1)[:, :, 1:], tokens.size[:, :, 1:])
        np.testing.assert_array_equal(tokens.members[:, :, 0], 0)
        np.testing.assert_array_equal(tokens.members.sum((1, 2)), 1)


def test_merging_nothing_is_the_program_without_it(params, video):
    assert program(params, video, ToMe(0)) == program(params, video)
    assert program(params, video, ToMe(1)) != program(params, video)


def test_last_block_of_cls_tokens_alone_is_exact(params, video):
    full, _ = encode(params, video, ToMe(3), cls_only=False)
    read, _ = encode(params, video, ToMe(3))
    np.testing.assert_allclose(read, full, atol=1e-6)


def test_videos_of_a_batch_are_apart(params, video):
    embedding, _ = encode(params, video, ToMe(3))
    permuted, _ = encode(params, video[[2, 0, 1]], ToMe(3))
    np.testing.assert_array_equal(permuted, embedding[np.array([2, 0, 1])])


def test_proportional_attention_is_an_option(params, video):
    on, _ = encode(params, video, ToMe(3))
    off, _ = encode(params, video, ToMe(3, proportional=False))
    assert np.abs(on - off).max() > 1e-5


def test_text_is_left_alone(params):
    ids = np.array([[1, 2, 10, 0, 0]], np.int32)

    def encode_text(*methods):
        model = DualEncoder(SPEC, methods)
        return jax.jit(lambda: model.apply({"params": params}, ids, method="encode_text")[0])()

    np.testing.assert_array_equal(encode_text(ToMe(3)), encode_text())


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("size", "r", "tokens", "gmacs"), [("32", 2, 26, 40.2), ("16", 10, 77, 144.4)]
)
def test_published_counts(size, r, tokens, gmacs):
    """Tables 2 and 4, at 12 frames."""
    model = DualEncoder(SIZES[f"clip_b{size}"], (ToMe(r),), cls_only=False)
    params = abstract_params(model)
    video, _ = example_inputs(model.spec, 12, 4)

    def encode_video(params, video):
        return model.apply({"params": params}, video, capture=True, method="encode_video")

    assert jax.eval_shape(encode_video, params, video)[1]["block_11"].x.shape[1:3] == (12, tokens)
    operations = count(lambda p, v: encode_video(p, v)[0], params, video)
    assert operations.total / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_more_than_there_is():
    config = {
        "size": "clip_b32", "dtype": "float32", "frames": 12, "cls_only": True,
        "frame_norm": True, "remat": "none", "drop_path": 0.0,
        "methods": ("tome",), "tome": {"r": 4},
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"tome\.r=4: layer 11 .* the largest r .* is 3"):
        build_model(config)
    assert build_methods({"tome": {"r": 3}}) == (ToMe(3),)
