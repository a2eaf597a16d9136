"""CLIP4Clip's heads: the LSTM against torch's, the transformer as a copy of the text tower's."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from vlt.adapters import lstm
from vlt.adapters.clip4clip import CLIP4Clip, FrameTransformer, PairTransformer
from vlt.adapters.lora import LoRA
from vlt.convert.layouts.clip import openai_block
from vlt.convert.tables.family import dense, norm
from vlt.convert.tables.table import LINEAR, Rule, to_leaves, to_tensors
from vlt.costs.flops import count
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, init_params
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens
from vlt.models.vit import normalize
from vlt.tasks.losses import contrastive_scores
from vlt.training.rules import partition

E, FRAMES = 128, 5
TINY = DualEncoderSpec(VisionSpec(16, 8, 8, 1, 2, 16), TextSpec(6, 11, E, 2, 2, 4 * E), embed_dim=E)
VIDEO = np.random.default_rng(0).normal(size=(2, FRAMES, 16, 16, 3)).astype(np.float32)
TRANSF = CLIP4Clip(layers=2, max_frames=6)
LSTM = CLIP4Clip("seqLSTM")
TIGHT = CLIP4Clip("tightTransf", layers=2, max_frames=6)


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 4 * 3_152_384 + 77 * 512),
        ({"sim_header": "seqLSTM"}, 2_101_248),  # with both of torch's biases
        ({"sim_header": "tightTransf"}, 12_913_153),
    ],
)
def test_counts(options, expected):
    params = abstract_params(DualEncoder(SIZES["clip_b32"], (CLIP4Clip(**options),)))
    head, _ = partition(params, (("(visual/)?clip4clip/.*", {"lr": 1.0}), (".*", "frozen")))
    assert sum(x.size for x in jax.tree.leaves(head)) == expected


@functools.cache
def start(*methods) -> tuple[DualEncoder, dict]:
    model = DualEncoder(TINY, methods, frames=FRAMES, frame_norm=True)
    rng = np.random.default_rng(1)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0.1 * rng.normal(size=x.shape).astype("f") + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )
    for method in methods:
        params = method.init_from_backbone(params, TINY)
    return model, params


def frames_and_video(model: DualEncoder, params: dict) -> tuple[np.ndarray, np.ndarray]:
    """Frame embeddings of the bare model, before any norm, and video embeddings with the head."""
    bare = DualEncoder(TINY)

    def run(p):
        _, out = bare.apply({"params": p}, VIDEO, capture=True, method="encode_video")
        return out["frames"], model.apply({"params": p}, VIDEO, method="encode_video")[0]

    return jax.jit(run)(params)


def pooled(frames: np.ndarray) -> jax.Array:
    return normalize(normalize(jnp.asarray(frames)).mean(1))


def test_lstm_is_torchs_with_a_residual():
    model, params = start(LSTM)
    leaves = params["visual"]["clip4clip"]
    head = torch.nn.LSTM(E, E, batch_first=True)
    published = {
        "weight_ih_l0": leaves["input"]["kernel"].T,
        "weight_hh_l0": leaves["state_kernel"].T,
        "bias_ih_l0": leaves["input"]["bias"],
        "bias_hh_l0": leaves["state_bias"],
    }
    head.load_state_dict({name: torch.tensor(x) for name, x in published.items()})
    frames, video = frames_and_video(model, params)
    with torch.no_grad():
        expected = np.asarray(frames) + head(torch.tensor(np.asarray(frames)))[0].numpy()
    np.testing.assert_allclose(video, pooled(expected), atol=1e-6)
    assert np.abs(video - pooled(frames)).max() > 1e-3


def test_lstm_starts_as_torchs():
    model = DualEncoder(TINY, (LSTM,))
    leaves = jax.jit(lambda: init_params(model, jax.random.key(0))["visual"]["clip4clip"])()
    for leaf in jax.tree.leaves(leaves):
        assert 0.95 * E**-0.5 < np.abs(leaf).max() <= E**-0.5


def test_transformer_starts_as_the_text_towers_layers_without_their_mask():
    model, params = start(TRANSF)
    text = params["text"]
    frames, video = frames_and_video(model, params)
    x = frames + text["position_embedding"][:FRAMES]
    tokens = Tokens(x[:, None], cls=0, protected=0)
    for layer in range(2):
        block = Block(2, 4 * E, "quick_gelu", 1e-12)
        leaves = text[f"blocks_{layer}"]
        tokens = jax.jit(lambda p, t, block=block: block.apply({"params": p}, t))(leaves, tokens)
    expected = frames + tokens.x[:, 0]
    np.testing.assert_allclose(video, pooled(expected), atol=1e-6)
    assert np.abs(video - pooled(frames)).max() > 1e-3


@pytest.mark.parametrize("method", [TRANSF, LSTM])
def test_sees_the_order_of_frames_where_the_mean_does_not(method):
    model, params = start(method)

    def gap(module):
        embed = jax.jit(lambda v: module.apply({"params": params}, v, method="encode_video")[0])
        return np.abs(embed(VIDEO) - embed(VIDEO[:, ::-1])).max()

    assert gap(model) > 1e-4
    assert gap(model.clone(methods=())) < 1e-6


PUBLISHED = {
    "seqTransf": (
        Rule("frame_position_embeddings.weight", ("position_embedding",)),
        *openai_block("transformerClip.resblocks.{i}", "blocks_{i}"),
    ),
    "seqLSTM": (
        Rule("lstm_visual.weight_ih_l0", ("input/kernel",), LINEAR),
        Rule("lstm_visual.weight_hh_l0", ("state_kernel",), LINEAR),
        Rule("lstm_visual.bias_ih_l0", ("input/bias",)),
        Rule("lstm_visual.bias_hh_l0", ("state_bias",)),
    ),
    "tightTransf": (
        Rule("cross.embeddings.position_embeddings.weight", ("position_embedding",)),
        *openai_block("cross.transformer.resblocks.{i}", "blocks_{i}"),
        *norm("cross.pooler.ln_pool", "pool_norm"),
        *dense("cross.pooler.dense", "pool"),
        *dense("similarity_dense", "score"),
    ),
}
HEADS = {
    "seqTransf": FrameTransformer(1, 20, jnp.float32),
    "seqLSTM": lstm.LSTM(64),
    "tightTransf": PairTransformer(2, 20, jnp.float32),
}
LOGIT_SCALE = 2.5


def scores_of(header: str, params: dict, frames: np.ndarray, texts: np.ndarray) -> jax.Array:
    """Scores [v, c] of a head, those of cosines times the published temperature."""
    if header == "tightTransf":
        return HEADS[header].apply({"params": params}, frames, texts)
    video = pooled(frames + HEADS[header].apply({"params": params}, frames))
    return np.exp(LOGIT_SCALE) * video @ normalize(jnp.asarray(texts)).T


@pytest.mark.parametrize(("header", "atol"), [*zip(HEADS, (2e-4, 2e-4, 2e-5), strict=True)])
def test_scores_and_gradients_are_the_published_heads(header, atol, shared):
    folder = shared / "golden/efficient_prompt"
    golden = np.load(folder / "clip4clip_heads.npz")
    tensors = safetensors.numpy.load_file(folder / "clip4clip_heads.safetensors")
    names = {*golden[f"{header}.grad_names"]} - {"clip.logit_scale"}
    placed = to_leaves(PUBLISHED[header], {n: tensors[n] for n in names}, str, "(?!)", "(?!)")
    assert not placed.unexpected
    inputs = golden["frame_embeddings"], golden["text_embeddings"]

    def loss(params):
        scores = scores_of(header, params, *inputs)
        return contrastive_scores(scores, 1.0) / 2, scores

    params = flax.traverse_util.unflatten_dict(placed.leaves, sep="/")
    (value, scores), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(scores.T, golden[f"{header}.logits"], atol=atol)
    np.testing.assert_allclose(value, golden[f"{header}.loss"], atol=atol)
    flat = flax.traverse_util.flatten_dict(gradients, sep="/")
    found, _ = to_tensors(PUBLISHED[header], flat)
    assert {*found} == names
    named = zip(golden[f"{header}.grad_names"], golden[f"{header}.grad_norms"], strict=True)
    for name, norm_of in named:
        if name in found:
            norm_found = np.linalg.norm(np.float64(found[name]))
            np.testing.assert_allclose(norm_found, norm_of, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_tight_pairs_of_a_model():
    """Scores raw embeddings, even with `frame_norm`; blocks start as the text tower's."""
    model, params = start(TIGHT)
    text = params["text"]["blocks_1"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(params["clip4clip"]["blocks_1"]["mlp"]["fc1"]["kernel"], text)
    ids = np.array([[1, 2, 10, 0, 0, 0], [3, 4, 5, 6, 10, 0]], np.int32)
    out = jax.jit(lambda p: model.apply({"params": p}, VIDEO, ids))(params)
    head = PairTransformer(2, 6, jnp.float32)
    frames, texts = out["visual_out"]["raw_frames"], out["text_out"]["text_features"]
    expected = head.apply({"params": params["clip4clip"]}, frames, texts)
    np.testing.assert_allclose(out["scores"], expected, atol=1e-5)
    back = head.apply({"params": params["clip4clip"]}, frames[:, ::-1], texts)
    assert np.abs(back - expected).max() > 1e-3


def test_price_of_a_tight_pair():
    """0.1645 GMACs for the blocks, plus what follows them."""
    head = PairTransformer(4, 77, jnp.float32)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 12, 512), (1, 512))]
    params = jax.eval_shape(head.init, jax.random.key(0), *inputs)
    assert count(head.apply, params, *inputs).total / 1e9 == pytest.approx(0.1648, abs=5e-5)


def test_copies_only_what_the_head_has():
    """LoRA of the text tower is not copied into the head."""
    model, params = start(LoRA(2), TRANSF)
    shapes = flax.traverse_util.flatten_dict(abstract_params(model), sep="/")
    assert flax.traverse_util.flatten_dict(params, sep="/").keys() == shapes.keys()
    head = params["visual"]["clip4clip"]["blocks_1"]
    assert "lora_a" not in head["attention"] and "lora_a" in params["text"]["blocks_1"]["attention"]
    kernel = params["text"]["blocks_1"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(head["mlp"]["fc1"]["kernel"], kernel)


@pytest.mark.parametrize(
    ("options", "spec", "frames", "message"),
    [
        ({}, SIZES["tiny_clip"], 4, "width 96 and 3 heads.*width 64 and need 1; use 'seqLSTM'"),
        ({}, SIZES["clip_b32"], 78, "78 frames, clip4clip.max_frames is 77"),
        (
            {"sim_header": "tightTransf"},
            SIZES["clip_b32"],
            77,
            "77 frames and a text, clip4clip.max_frames is 77",
        ),
        ({"max_frames": 78}, SIZES["clip_b32"], 12, "the text tower has 77 positions"),
        ({"layers": 13}, SIZES["clip_b32"], 12, "clip4clip.layers=13: the text tower has 12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, spec, frames, message):
    with pytest.raises(ValueError, match=message):
        CLIP4Clip(**options).check(spec, frames)
    CLIP4Clip("seqLSTM").check(spec, frames)


def test_sizes_that_fit():
    CLIP4Clip().check(SIZES["clip_b16"], 64)
    CLIP4Clip(max_frames=16).check(SIZES["clip_l14"], 16)


def test_unknown_header_is_refused():
    with pytest.raises(ValueError, match="meanP; choose from seqTransf, seqLSTM, tightTransf"):
        build_methods({"clip4clip": {"sim_header": "meanP"}})
