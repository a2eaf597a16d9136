"""TempMe against the published code's numbers, its schedule, and what it keeps."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from vlt.convert import convert, parse_settings, reverse
from vlt.costs.flops import count
from vlt.merging.tempme import TempMe
from vlt.merging.tome import ToMe
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, example_inputs
from vlt.model_io.folder import read_model_folder, write_model_folder
from vlt.models.dual_encoder import DualEncoder
from vlt.models.points import Method
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens, join_clips
from vlt.tasks.losses import contrastive

TOKENIZER = Path(__file__).resolve().parents[2] / "vlt/assets/tiny_clip/tokenizer"
LAYERS, FRAMES = 12, 12
VIDEO, TEXT, LOGITS, GRADIENT = 2e-5, 5e-5, 2e-4, 1e-3
HIDDEN = 5e-6  # of a layer's largest value, about 15


@pytest.fixture(scope="module")
def golden(shared):
    """Outputs of the published code."""
    with np.load(shared / "golden/tempme/a_paper12.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """The model folder of its converted weights."""
    target = tmp_path_factory.mktemp("tempme") / "model"
    source = shared / "golden/tempme/a_paper12.safetensors"
    settings = parse_settings(["tempme.r=1", "tempme.keep_cross=70", "tempme.keep_intra=90"])
    convert(source, target, settings=settings, tokenizer=str(TOKENIZER))
    return target


def read(folder, *replaced: Method):
    """The converted module and its weights; replaced: methods in place of TempMe."""
    config, params = read_model_folder(folder)
    lora, tempme = build_methods(config.methods)
    assert tempme == TempMe(r=1)
    methods = (lora, *(replaced or (tempme,)))
    model = DualEncoder(
        config.spec, methods, frames=FRAMES, cls_only=False, frame_norm=config.frame_norm
    )
    return model, params


def frames_last(golden):
    return np.moveaxis(golden["video"], 2, -1)


def loss(model, params, golden):
    """The loss of the golden batch, and all outputs of the towers."""
    out = model.apply({"params": params}, frames_last(golden), golden["text_ids"], capture=True)
    return contrastive(out["video"], out["text"], jnp.exp(out["logit_scale"])) / 2, out


@pytest.fixture(scope="module")
def ours(folder, golden):
    model, params = read(folder)
    with jax.default_matmul_precision("highest"):
        return jax.device_get(jax.jit(lambda params: loss(model, params, golden))(params))


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_embeddings_logits_and_loss(ours, golden):
    value, out = ours
    visual, text = out["visual_out"], out["text_out"]
    close(visual["video_features"], golden["video_embedding"], VIDEO)
    close(text["text_features"], golden["text_embedding"], TEXT)
    logits = np.exp(out["logit_scale"]) * out["text"] @ out["video"].T
    close(logits, golden["logits"], LOGITS)
    close(value, golden["loss"], LOGITS)
    kept = golden["video_mask_partial"].sum(-1)
    partial = [f[:n].mean(0) for f, n in zip(visual["frames"], kept, strict=True)]
    close(np.array(partial), golden["video_embedding_partial_mask"], VIDEO)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_layers(ours, golden, layer):
    """Numbers of clips and tokens, class tokens in temporal order, means and sizes."""
    tokens: Tokens = ours[1]["visual_out"][f"block_{layer}"]
    b, clips, n, d = tokens.x.shape
    assert clips == golden["layer_clips_out"][layer]
    assert n == golden["layer_tokens_out"][layer]
    assert tokens.cls == tokens.protected == golden["layer_cls_num"][layer]
    cls = tokens.x[:, :, : tokens.cls].reshape(b, FRAMES, d)
    tolerance = HIDDEN * np.abs(golden[f"layer{layer}_cls"]).max()
    close(cls, golden[f"layer{layer}_cls"], tolerance)
    close(tokens.x.mean((1, 2)), golden[f"layer{layer}_mean"], tolerance)
    np.testing.assert_array_equal(tokens.size, golden[f"layer{layer}_size"])


@pytest.mark.slow
def test_gradients(golden, folder, tmp_path):
    model, params = read(folder)
    with jax.default_matmul_precision("highest"):
        gradient = jax.jit(jax.grad(lambda params: loss(model, params, golden)[0]))(params)
    config, _ = read_model_folder(folder)
    write_model_folder(tmp_path / "gradient", config, jax.device_get(gradient), TOKENIZER)
    reverse(tmp_path / "gradient", tmp_path / "gradient.safetensors")
    gradient = safetensors.numpy.load_file(tmp_path / "gradient.safetensors")
    norms = [np.linalg.norm(gradient[name]) for name in golden["grad_names"]]
    np.testing.assert_allclose(norms, golden["grad_norms"], rtol=GRADIENT)
    np.testing.assert_allclose(np.linalg.norm(norms), golden["grad_norm_total"], rtol=GRADIENT)
    full = [name.removeprefix("grad.") for name in golden if name.startswith("grad.")]
    assert len(full) == 5
    for name in full:
        difference = np.linalg.norm(gradient[name] - golden[f"grad.{name}"])
        assert difference < GRADIENT * np.linalg.norm(golden[f"grad.{name}"]), name


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("name", "method"), [("no_merging", Method()), ("tome_only", ToMe(1))], ids=str
)
def test_other_methods_on_the_same_weights(folder, golden, name, method):
    model, params = read(folder, method)
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda p, v: model.apply({"params": p}, v, method="encode_video")[1])
        embedding = run(params, frames_last(golden))["video_features"]
    close(embedding, golden[f"video_embedding_{name}"], VIDEO)


class Entering(Method):
    """Records the shapes that enter attention."""

    def __init__(self):
        object.__setattr__(self, "shapes", [])

    def attention_pattern(self, block, tokens, pattern):
        self.shapes.append(tokens.x.shape[1:3])
        return pattern


def counts(size, method, frames):
    """(clips, tokens) that enter the attention of each layer, and that leave each layer."""
    entering = Entering()
    model = DualEncoder(SIZES[size], (method, entering), frames=frames, cls_only=False)
    params = abstract_params(model)
    entering.shapes.clear()
    video, _ = example_inputs(model.spec, frames, 4)

    def encode_video(params, video):
        return model.apply({"params": params}, video, capture=True, method="encode_video")[1]

    out = jax.eval_shape(encode_video, params, video)
    layers = range(model.spec.visual.layers)
    return entering.shapes, [out[f"block_{layer}"].x.shape[1:3] for layer in layers]


B16 = TempMe(r=10, keep_cross=60, keep_intra=80)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("size", "method", "frames", "entering", "leaving"),
    [
        ("clip_b32", TempMe(), 12, ((6, 48), (3, 62), (1, 118), (1, 107)), (44, 56, 107, 97)),
        ("clip_b16", B16, 12, ((6, 141), (3, 136), (1, 197), (1, 158)), (113, 109, 158, 127)),
        (
            "clip_b32",
            TempMe(join=(4, 4, 4)),
            64,
            ((16, 96), (4, 244), (1, 616), (1, 555)),
            (87, 220, 555, 500),
        ),
    ],
)
def test_published_token_counts(size, method, frames, entering, leaving):
    """Spec section 4, after eight layers of ImgMe."""
    before, after = counts(size, method, frames)
    patches = SIZES[size].visual.patches
    images = [(frames, 1 + patches - method.r * layer) for layer in range(9)]
    assert before == [*images[:8], *entering]
    clips = [clips for clips, _ in entering]
    assert after == [*images[1:], *zip(clips, leaving, strict=True)]
    assert method.tokens_after(SIZES[size], frames) == after


# 12 layers, ten frames: layer 3 joins 2 clips, layer 6 joins 5; those between merge within clips.
def test_layers_between_listed_ones_merge_within_clips():
    method = TempMe(layers=(3, 6), join=(2, 5), r=1)
    before, after = counts("clip_b32", method, 10)
    assert after == method.tokens_after(SIZES["clip_b32"], 10)
    # 47 tokens per frame, 94 per two; 28 and 6 are removed, then int(0.1 n) in every layer
    assert before[3:6] == [(5, 66), (5, 60), (5, 54)]
    assert after[3:6] == [(5, 60), (5, 54), (5, 49)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "join", "gmacs"),
    [
        ((8, 9, 10), (2, 2, 3), 34.763),
        ((8, 9), (3, 4), 35.376),
        ((8,), (12,), 36.963),
        ((8, 9), (2, 2), 35.383),
        ((8,), (3,), 36.772),
        ((6, 8, 10), (2, 2, 3), 31.936),
        ((3, 6, 9), (2, 2, 3), 25.768),
        ((0, 4, 8), (2, 2, 3), 18.054),
    ],
)
def test_operations_of_table_10(layers, join, gmacs):
    model = DualEncoder(SIZES["clip_b32"], (TempMe(layers, join),), frames=12, cls_only=False)
    params = abstract_params(model)
    video, _ = example_inputs(model.spec, 12, 4)
    operations = count(
        lambda p, v: model.apply({"params": p}, v, method="encode_video")[0], params, video
    )
    assert operations.total / 1e9 == pytest.approx(gmacs, rel=0.001)


SPEC = DualEncoderSpec(
    VisionSpec(16, 4, 16, 4, 2, 32), TextSpec(5, 11, 8, 1, 2, 16), embed_dim=4
)  # 16 patches
SMALL = TempMe(layers=(1, 3), join=(2, 2), r=3)


@pytest.fixture(scope="module")
def params():
    """Parameters whose clip positions are not zero."""
    model = DualEncoder(SPEC, (SMALL,), frames=4)
    video, ids = np.zeros((1, 4, 16, 16, 3), np.uint8), np.ones((1, 5), np.int32)
    params = jax.jit(model.init)(jax.random.key(0), video, ids)["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    added = {name: leaf.shape for name, leaf in flat.items() if "clip_position" in name}
    assert added == {
        "visual/blocks_1/clip_position": (4, 16),
        "visual/blocks_3/clip_position": (2, 16),
    }
    for key, (name, shape) in enumerate(added.items()):
        assert not flat[name].any()
        flat[name] = jax.random.normal(jax.random.key(key), shape)
    return traverse_util.unflatten_dict(flat, sep="/")


VIDEO_INPUT = np.random.default_rng(0).integers(0, 255, (3, 4, 16, 16, 3), np.uint8)


@functools.cache
def encoder(method, cls_only):
    model = DualEncoder(SPEC, (method,), frames=4, cls_only=cls_only)
    return jax.jit(
        lambda p, v: model.apply({"params": p}, v, capture=not cls_only, method="encode_video")
    )


def encode_small(params, method=SMALL, video=VIDEO_INPUT, cls_only=True):
    """Embedding, and every block's tokens where all are computed."""
    return encoder(method, cls_only)(params, video)


@pytest.mark.slow
def test_sizes_and_members_of_every_layer(params):
    _, out = encode_small(params, cls_only=False)
    for layer in range(4):
        tokens = out[f"block_{layer}"]
        assert tokens.protected == tokens.cls
        patches = tokens.size[:, :, tokens.cls :]
        np.testing.assert_array_equal(patches.sum((1, 2)), 4 * 16)
        np.testing.assert_allclose(tokens.members.sum(-1)[:, :, tokens.cls :], patches, rtol=1e-6)
        np.testing.assert_array_equal(tokens.members[:, :, : tokens.cls], 0)
        np.testing.assert_allclose(tokens.members.sum((1, 2)), 1, rtol=1e-6)
    assert (out["block_3"].cls, out["block_3"].x.shape[1]) == (4, 1)


@pytest.mark.slow
def test_last_block_of_cls_tokens_alone_is_exact(params):
    np.testing.assert_allclose(
        encode_small(params)[0], encode_small(params, cls_only=False)[0], atol=1e-6
    )


def test_blocks_can_be_recomputed_in_the_backward_pass(params):
    """Counts, sizes and the matching pass through rematerialisation."""
    model = DualEncoder(SPEC, (SMALL,), frames=4, remat="block")

    def total(params):
        return model.apply({"params": params}, VIDEO_INPUT, method="encode_video")[0].sum()

    shapes = jax.eval_shape(jax.grad(total), params)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    assert "remat" in str(jax.make_jaxpr(jax.grad(total))(params))


def test_videos_of_a_batch_are_apart(params):
    order = np.array([2, 0, 1])
    permuted = encode_small(params, video=VIDEO_INPUT[order])[0]
    np.testing.assert_allclose(permuted, encode_small(params)[0][order], atol=1e-6)


def test_positions_tell_the_order_of_frames(params):
    def moved(method):
        forth, _ = encode_small(params, method)
        back, _ = encode_small(params, method, video=VIDEO_INPUT[:, [2, 3, 0, 1]])
        return np.abs(forth - back).max()

    apart = TempMe(layers=(1, 3), join=(2, 2), r=0, keep_cross=100, keep_intra=100)
    assert moved(apart) > 1e-3
    assert moved(TempMe(**(vars(apart) | {"positions": False}))) < 1e-6


def test_merging_nothing_within_frames_is_the_model_without_it(params):
    nothing = TempMe(layers=(1, 3), join=(1, 1), r=0, keep_cross=100, keep_intra=100)
    np.testing.assert_array_equal(
        encode_small(params, nothing)[0], encode_small(params, Method())[0]
    )


def test_joined_clips_keep_their_kinds_apart():
    """Class tokens, then prompts, then patches, each clip after clip."""
    x = jnp.arange(4 * 6).reshape(1, 4, 6, 1)
    joined = join_clips(Tokens(x, x[..., 0], cls=1, protected=3), 2)
    assert (joined.cls, joined.protected) == (2, 6)
    expected = [0, 6, 1, 2, 7, 8, 3, 4, 5, 9, 10, 11]
    np.testing.assert_array_equal(joined.x[0, 0, :, 0], expected)
    np.testing.assert_array_equal(joined.size[0, 1], np.array(expected) + 12)


@pytest.mark.parametrize(
    ("options", "frames", "message"),
    [
        ({}, 8, r"tempme\.join=\(2, 2, 3\) .* 8 frames: layer 10 joins 3 of 2 clips"),
        ({"layers": (8, 9, 12)}, 12, r"tempme\.layers=\(8, 9, 12\): .* layers 0 to 11"),
        (
            {"layers": (8, 9)},
            12,
            r"tempme\.join must be .* for each of layers=\(8, 9\), got \(2, 2, 3\)",
        ),
        ({"layers": (9, 8, 10)}, 12, r"tempme\.layers must be .* ascending, got \(9, 8, 10\)"),
        ({"layers": (), "join": ()}, 12, r"tempme\.layers must be one layer or more, .* got \(\)"),
        ({"join": (2, 0, 3)}, 12, r"tempme\.join must be a positive .* got \(2, 0, 3\)"),
        ({"r": 6}, 12, r"tempme\.r=6: layer 7 has 8 tokens.* 7 patches.* at most 3 .* is 5"),
        ({"keep_cross": 0}, 12, r"tempme\.keep_cross must be a percentage from 1 to 100, got 0"),
        (
            {"keep_intra": 101},
            12,
            r"tempme\.keep_intra must be a percentage from 1 to 100, got 101",
        ),
    ],
)
def test_what_does_not_fit(options, frames, message):
    TempMe().check(SIZES["clip_b32"], 12)
    with pytest.raises(ValueError, match=message):
        TempMe(**options).check(SIZES["clip_b32"], frames)


@pytest.mark.slow
def test_any_grid_and_depth():
    method = TempMe(layers=(5, 20), join=(4, 2), r=6)
    before, after = counts("clip_l14", method, 8)
    assert after == method.tokens_after(SIZES["clip_l14"], 8)
    assert (before[4], before[5][0], after[-1][0]) == ((8, 257 - 4 * 6), 2, 1)
