"""CLIP4Clip's heads: the LSTM against torch's, the transformer as a copy of the text tower's."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vlt.adapters.clip4clip import CLIP4Clip
from vlt.adapters.lora import LoRA
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, init_params
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens
from vlt.models.vit import normalize
from vlt.training.rules import partition

E, FRAMES = 128, 5
TINY = DualEncoderSpec(VisionSpec(16, 8, 8, 1, 2, 16), TextSpec(6, 11, E, 2, 2, 4 * E), embed_dim=E)
VIDEO = np.random.default_rng(0).normal(size=(2, FRAMES, 16, 16, 3)).astype(np.float32)
TRANSF = CLIP4Clip(layers=2, max_frames=6)
LSTM = CLIP4Clip("seqLSTM")


@pytest.fixture(scope="module", autouse=True)
def _highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 4 * 3_152_384 + 77 * 512),
        # torch's LSTM has a second bias of the same gates, 2,101,248 in all
        ({"sim_header": "seqLSTM"}, 8 * 512 * 512 + 4 * 512),
    ],
)
def test_counts(options, expected):
    params = abstract_params(DualEncoder(SIZES["clip_b32"], (CLIP4Clip(**options),)))
    head, _ = partition(params, (("visual/clip4clip/.*", {"lr": 1.0}), (".*", "frozen")))
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
    """Embeddings of frames before any norm, from the bare model, and of the video with the head."""
    bare = DualEncoder(TINY)

    def run(p):
        _, out = bare.apply({"params": p}, VIDEO, capture=True, method="encode_video")
        return out["frames"], model.apply({"params": p}, VIDEO, method="encode_video")[0]

    return jax.jit(run)(params)


def pooled(frames: np.ndarray) -> np.ndarray:
    return normalize(normalize(jnp.asarray(frames)).mean(1))


def test_lstm_is_torchs_with_a_residual():
    model, params = start(LSTM)
    cell = params["visual"]["clip4clip"]["cell"]
    lstm = torch.nn.LSTM(E, E, batch_first=True)
    gates = "ifgo"
    rows = {
        "weight_ih_l0": [cell[f"i{g}"]["kernel"].T for g in gates],
        "weight_hh_l0": [cell[f"h{g}"]["kernel"].T for g in gates],
        "bias_ih_l0": [cell[f"h{g}"]["bias"] for g in gates],
        "bias_hh_l0": [np.zeros(E, np.float32)] * 4,
    }
    lstm.load_state_dict({k: torch.tensor(np.concatenate(v)) for k, v in rows.items()})
    frames, video = frames_and_video(model, params)
    with torch.no_grad():
        expected = np.asarray(frames) + lstm(torch.tensor(np.asarray(frames)))[0].numpy()
    np.testing.assert_allclose(video, pooled(expected), atol=1e-6)
    assert np.abs(video - pooled(frames)).max() > 1e-3


def test_lstm_starts_as_torchs():
    model = DualEncoder(TINY, (LSTM,))
    cell = jax.jit(lambda: init_params(model, jax.random.key(0))["visual"]["clip4clip"])()["cell"]
    for gate in ("ig", "hg"):
        assert 0.95 * E**-0.5 < np.abs(cell[gate]["kernel"]).max() <= E**-0.5


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


def test_copies_only_what_the_head_has():
    """LoRA in the text tower is no part of the head."""
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
    with pytest.raises(ValueError, match="tightTransf; choose from seqTransf, seqLSTM"):
        build_methods({"clip4clip": {"sim_header": "tightTransf"}})
