"""Neighbouring frames' keys and values: against numpy, at the edges of a video and as a whole."""

import jax
import numpy as np
import pytest
import small_blip
from small_blip import FRAMES, SPEC, captioner, frame_features, random_params, videos

from vlt.adapters.neighbour_attention import NeighbourAttention
from vlt.adapters.prompt import Prompt
from vlt.costs.flops import count
from vlt.methods import build_methods
from vlt.model_io.build import make_model
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec
from vlt.models.tokens import Tokens

HEADS, WIDTH, EPS = 2, 16, 1e-6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 5, WIDTH)).astype(np.float32)


def block(*methods: NeighbourAttention, **fields) -> Block:
    return Block(HEADS, 32, "gelu", EPS, methods=methods, **fields)


def random_leaves() -> dict:
    shapes = jax.eval_shape(block().init, jax.random.key(0), Tokens(X))["params"]
    return jax.tree.map(lambda x: RNG.normal(0, 0.4, x.shape).astype(np.float32), shapes)


PARAMS = random_leaves()


def run(module: Block, x: np.ndarray = X) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda x: module.apply({"params": PARAMS}, Tokens(x)).x)(x))


def expected(missing: str, x: np.ndarray = X) -> np.ndarray:
    """The block frame by frame, following the published description."""
    x = np.float64(x)
    leaf, normed = PARAMS["attention"], small_blip.layer_norm(PARAMS["norm1"], x, EPS)

    def heads(name: str) -> np.ndarray:
        y = small_blip.dense(leaf[name], normed)
        return y.reshape(*y.shape[:-1], HEADS, -1).swapaxes(-2, -3)

    query, key, value = heads("query"), heads("key"), heads("value")
    out = np.zeros_like(x)
    for t in range(x.shape[1]):
        near = [s for s in (t + 1, t - 1, t) if 0 <= s < x.shape[1]]
        keys, values = (np.concatenate([y[:, s] for s in near], -2) for y in (key, value))
        weights = np.exp(query[:, t] @ keys.swapaxes(-1, -2) / np.sqrt(WIDTH / HEADS))
        total = weights.sum(-1, keepdims=True)
        if missing == "zeros":
            total += (3 - len(near)) * x.shape[2]  # exp(0) for every absent token
        read = (weights / total @ values).swapaxes(-2, -3).reshape(x[:, t].shape)
        out[:, t] = x[:, t] + small_blip.dense(leaf["out"], read)
    hidden = small_blip.layer_norm(PARAMS["norm2"], out, EPS)
    hidden = small_blip.gelu(small_blip.dense(PARAMS["mlp"]["fc1"], hidden))
    return out + small_blip.dense(PARAMS["mlp"]["fc2"], hidden)


@pytest.mark.parametrize("missing", ["zeros", "masked"])
def test_is_the_published_attention(missing):
    found = run(block(NeighbourAttention(missing)))
    np.testing.assert_allclose(found, expected(missing), atol=1e-5)
    other = expected("masked" if missing == "zeros" else "zeros")
    edges = np.abs(found - other).max((0, 2, 3)) > 1e-3
    assert edges.tolist() == [True, False, False, True]
    cls = run(block(NeighbourAttention(missing), cls_read=True))
    np.testing.assert_allclose(cls, found[:, :, :1], atol=1e-5)


def test_a_single_frame():
    """Frames of zeros stand in for both neighbours; masked, it is the plain block."""
    x = X[:, :1]
    np.testing.assert_allclose(run(block(NeighbourAttention()), x), expected("zeros", x), atol=1e-5)
    np.testing.assert_allclose(
        run(block(NeighbourAttention("masked")), x), run(block(), x), atol=1e-5
    )


def test_frames_see_as_far_as_there_are_blocks():
    model = captioner(NeighbourAttention())
    params = random_params(model)
    assert jax.tree.structure(params) == jax.tree.structure(random_params(captioner()))
    video = np.concatenate([videos(), videos() + 1], 1)
    changed = video.copy()
    changed[:, 0] += 1
    moved = np.abs(frame_features(model, params, changed) - frame_features(model, params, video))
    reached = (moved.max((0, 2, 3)) > 1e-4).tolist()
    assert reached == [True] * (1 + SPEC.visual.layers) + [False] * (7 - SPEC.visual.layers)


def test_in_a_dual_encoder_with_prompts():
    spec = DualEncoderSpec(SPEC.visual, TextSpec(5, 11, 16, 1, 2, 32), embed_dim=8)
    model = DualEncoder(spec, (Prompt(2, towers=("visual",)), NeighbourAttention()), FRAMES)
    params = random_params(model)

    def embed(model):
        encode = jax.jit(lambda v: model.apply({"params": params}, v, method="encode_video")[0])
        return encode(videos())

    np.testing.assert_allclose(embed(model), embed(model.clone(cls_only=False)), atol=1e-5)


def test_only_the_products_of_attention_cost_more():
    def cost(*methods):
        module = block(*methods)
        return count(lambda: module.apply({"params": PARAMS}, Tokens(X)).x)

    with_neighbours, plain = cost(NeighbourAttention()), cost()
    assert with_neighbours.product == 3 * plain.product > 0
    assert with_neighbours.linear == plain.linear


def test_what_it_is_not_for_is_refused():
    with pytest.raises(ValueError, match="copies; choose from zeros, masked"):
        build_methods({"neighbour_attention": {"missing": "copies"}})
    with pytest.raises(ValueError, match="neighbour_attention needs every frame in a group"):
        make_model(SIZES["viclip_b16"], {"neighbour_attention": {}}, 8)
    with pytest.raises(ValueError, match="neighbour_attention finds patches by.*tome"):
        make_model(SPEC, {"tome": {"r": 2}, "neighbour_attention": {}}, FRAMES)
