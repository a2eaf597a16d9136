"""Dual-channel attention: both equations against numpy, and where it starts."""

import jax
import numpy as np
import pytest
import small_blip
from small_blip import (
    FRAMES,
    SPEC,
    captioner,
    frame_features,
    leaves,
    random_params,
    video_weights,
    videos,
)

from vlt.adapters.dual_attention import GATES, DualAttention
from vlt.merging.token_mixing import TokenMixing
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, make_model
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import DualEncoderSpec, TextSpec
from vlt.models.tokens import Tokens

HEADS, WIDTH, EPS = 2, 16, 1e-6
RNG = np.random.default_rng(0)
X = RNG.normal(0, 0.1, (2, 3, 5, WIDTH)).astype(np.float32)  # small, so that epsilon matters
ORDER = [2, 0, 3, 1]
RULE = r"visual/blocks_\d+/temporal_(attention|block|gate|position).*"


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 28_311_552),
        ({"gate": "convex"}, 28_311_552),
        ({"gate": "channel"}, 28_311_552),
        ({"whole_block": True}, 84_934_656),
    ],
)
def test_counts_of_code_and_paper(options, expected):
    assert video_weights(RULE, DualAttention(**options)) == expected


def block(*methods: DualAttention, **fields) -> Block:
    return Block(HEADS, 32, "gelu", EPS, methods=methods, **fields)


def init(module: Block) -> dict:
    shapes = jax.eval_shape(module.init, jax.random.key(0), Tokens(X))["params"]
    return jax.tree.map(lambda x: RNG.normal(0, 0.4, x.shape).astype(np.float32), shapes)


def run(module: Block, params: dict) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda p: module.apply({"params": p}, Tokens(X)).x)(params)


def combined(gate: str, a: np.ndarray, spatial: np.ndarray, temporal: np.ndarray) -> np.ndarray:
    if gate == "tanh":
        return spatial + np.tanh(a) * temporal
    weight = 1 / (1 + np.exp(-np.float64(a)))
    return weight * spatial + (1 - weight) * temporal


def over_time(channel, x: np.ndarray) -> np.ndarray:
    """Applies a function of [..., m, d] along the frames of [b, t, n, d]."""
    return channel(x.swapaxes(1, 2)).swapaxes(1, 2)


@pytest.mark.parametrize("gate", GATES)
def test_attention_channels_are_combined_as_published(gate):
    module = block(DualAttention(gate=gate))
    params = init(module)
    a = params["temporal_gate"]
    assert a.shape == ((WIDTH,) if gate == "channel" else ())
    normed = small_blip.layer_norm(params["norm1"], X.astype(np.float64), EPS)
    spatial = small_blip.attention(params["attention"], normed, HEADS)
    temporal = over_time(
        lambda z: small_blip.attention(params["temporal_attention"], z, HEADS), normed
    )
    x = X + combined(gate, a, spatial, temporal)
    hidden = small_blip.dense(params["mlp"]["fc1"], small_blip.layer_norm(params["norm2"], x, EPS))
    x = x + small_blip.dense(params["mlp"]["fc2"], small_blip.gelu(hidden))
    np.testing.assert_allclose(run(module, params), x, atol=1e-5)


@pytest.mark.parametrize("gate", GATES)
def test_whole_blocks_are_combined_by_what_they_add(gate):
    module = block(DualAttention(gate=gate, whole_block=True))
    params = init(module)
    x = X.astype(np.float64)
    spatial = small_blip.block(params, x, HEADS, EPS) - x
    temporal = over_time(lambda z: small_blip.block(params["temporal_block"], z, HEADS, EPS), x)
    expected = x + combined(gate, params["temporal_gate"], spatial, temporal - x)
    np.testing.assert_allclose(run(module, params), expected, atol=1e-5)


@pytest.mark.parametrize("whole_block", [False, True])
def test_positions_reach_the_temporal_channel_alone(whole_block):
    module = block(
        DualAttention(whole_block=whole_block, temporal_position="learned", max_frames=3)
    )
    params = init(module)
    table = params["temporal_position"]
    assert table.shape == (3, WIDTH)
    x = X.astype(np.float64)
    if whole_block:
        shifted = x + table[:, None]
        channel = small_blip.block(params["temporal_block"], shifted.swapaxes(1, 2), HEADS, EPS)
        added = np.tanh(params["temporal_gate"]) * (channel.swapaxes(1, 2) - shifted)
        expected = small_blip.block(params, x, HEADS, EPS) + added
        np.testing.assert_allclose(run(module, params), expected, atol=1e-5)
    silent = params | {"temporal_gate": np.float32(0)}
    np.testing.assert_array_equal(run(module, silent), run(block(), params))


@pytest.mark.parametrize("whole_block", [False, True])
def test_the_tanh_gate_starts_as_the_plain_model(whole_block):
    model = captioner(DualAttention(whole_block=whole_block))
    params = random_params(model)
    gates = [path for path in leaves(abstract_params(model)) if path.endswith("temporal_gate")]
    assert len(gates) == SPEC.visual.layers
    for layer in range(SPEC.visual.layers):
        params["visual"][f"blocks_{layer}"]["temporal_gate"] *= 0
    plain = frame_features(captioner(), params, videos())
    np.testing.assert_allclose(frame_features(model, params, videos()), plain, atol=1e-6)


@pytest.mark.parametrize("gate", GATES)
def test_gates_start_at_zero(gate):
    module = block(DualAttention(gate=gate))
    params = jax.jit(lambda: module.init(jax.random.key(0), Tokens(X)))()["params"]
    assert not np.asarray(params["temporal_gate"]).any()


def test_temporal_channels_start_as_copies():
    for method, name in (
        (DualAttention(), "temporal_attention"),
        (DualAttention(whole_block=True, temporal_position="learned"), "temporal_block"),
    ):
        params = random_params(captioner(method))
        started = method.init_from_backbone(params, SPEC)
        assert leaves(started).keys() == leaves(params).keys()
        for layer in range(SPEC.visual.layers):
            leaf = started["visual"][f"blocks_{layer}"]
            source = leaf["attention"] if name == "temporal_attention" else leaf
            for path, copy in leaves(leaf[name]).items():
                np.testing.assert_array_equal(copy, leaves(source)[path])


@pytest.mark.parametrize(
    "options", [{"gate": "tanh"}, {"gate": "convex", "whole_block": True}], ids=str
)
def test_blind_to_the_order_of_frames_unless_positions_are_learned(options):
    video, moved = videos(), videos()[:, ORDER]
    model = captioner(DualAttention(**options))
    params = random_params(model)
    expected = frame_features(model, params, video)
    np.testing.assert_allclose(frame_features(model, params, moved), expected[:, ORDER], atol=1e-5)
    model = captioner(DualAttention(temporal_position="learned", **options))
    params = random_params(model)
    expected = frame_features(model, params, video)
    assert np.abs(frame_features(model, params, moved) - expected[:, ORDER]).max() > 1e-2


@pytest.mark.parametrize("whole_block", [False, True])
def test_cls_tokens_alone_are_the_same(whole_block):
    module = block(DualAttention(whole_block=whole_block))
    params = init(module)
    cls = run(module.clone(cls_read=True), params)
    np.testing.assert_allclose(cls, run(module, params)[:, :, :1], atol=1e-5)


def test_in_a_dual_encoder_beside_token_mixing():
    spec = DualEncoderSpec(SPEC.visual, TextSpec(5, 11, 16, 1, 2, 32), embed_dim=8)
    model = DualEncoder(spec, (TokenMixing(), DualAttention()), FRAMES)
    params = random_params(model)

    def embed(model):
        encode = jax.jit(lambda v: model.apply({"params": params}, v, method="encode_video")[0])
        return encode(videos())

    np.testing.assert_allclose(embed(model), embed(model.clone(cls_only=False)), atol=1e-5)


@pytest.mark.parametrize("whole_block", [False, True])
def test_every_leaf_gets_a_gradient(whole_block):
    module = block(DualAttention(whole_block=whole_block, temporal_position="learned"))
    some = jax.grad(lambda p: module.apply({"params": p}, Tokens(X)).x[..., :3].sum())
    found = leaves(jax.jit(some)(init(module)))
    ours = [path for path in found if "temporal_" in path]
    assert len(ours) == (16 if whole_block else 8) + 2
    for path in ours:
        # A key bias shifts all logits of a query alike.
        if not path.endswith("key/bias"):
            assert np.abs(found[path]).max() > 1e-6, path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "sigmoid"}, "sigmoid; choose from tanh, convex, channel"),
        (
            {"temporal_position": "sine"},
            "temporal_position: sine; choose from none, learned",
        ),
        ({"max_frames": 0}, "dual_attention.max_frames must be >= 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods({"dual_attention": options})


def test_merged_tokens_are_refused():
    with pytest.raises(ValueError, match="dual_attention finds patches by their places.*tome"):
        make_model(SPEC, {"tome": {"r": 2}, "dual_attention": {}}, FRAMES)
