"""MSTA: against torch modules written from Algorithms 1 and 2, the paper's counts, its options."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from random_leaves import random_params
from small_blip import SPEC as BLIP
from torch_msta import HEADS, TorchTowers

from vlt.adapters import msta
from vlt.adapters.msta import MSTA
from vlt.adapters.prompt import Prompt
from vlt.costs.flops import count
from vlt.inspect import count_parameters
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, example_inputs, make_model
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens, grouped_by_place

WIDTH, TEXT_WIDTH, FRAMES = 12, 8, 3
APART = DualEncoderSpec(
    VisionSpec(8, 4, WIDTH, 2, HEADS, 24), TextSpec(6, 11, TEXT_WIDTH, 2, HEADS, 16), embed_dim=4
)
JOINT = dataclasses.replace(APART, visual=dataclasses.replace(APART.visual, temporal_frames=4))
SPECS = {"apart": APART, "joint": JOINT}
DEEP = dataclasses.replace(APART, visual=dataclasses.replace(APART.visual, layers=3))
LARGE = {"bottleneck": 6, "scale": 0.25, "dropout": 0.0}
RULE = r"(visual|text)/blocks_\d+/msta/.*"
RNG = np.random.default_rng(0)
VIDEO = RNG.normal(size=(2, FRAMES, 8, 8, 3)).astype(np.float32)
IDS = np.array([[1, 2, 10, 0, 0, 0], [3, 4, 5, 6, 10, 0]], np.int32)
WEIGHTS = RNG.normal(size=(2, 2, 4)).astype(np.float32)  # of features, in a sum to differentiate


def leaves(tree: dict) -> dict:
    return traverse_util.flatten_dict(tree, sep="/")


def ours(tree: dict) -> dict:
    return {path: x for path, x in leaves(tree).items() if "msta" in path.lower()}


def model(spec: DualEncoderSpec = JOINT, *before, **options) -> DualEncoder:
    method = MSTA(**LARGE | options)
    method.check(spec, FRAMES)
    return DualEncoder(spec, (*before, method), frames=FRAMES)


@functools.cache
def program(model: DualEncoder):
    def features(params, video):
        video = model.apply({"params": params}, video, method="encode_video")[1]["video_features"]
        text = model.apply({"params": params}, IDS, method="encode_text")[1]["text_features"]
        return jnp.stack([video, text])

    gradient = jax.grad(lambda params, weights: (weights * features(params, VIDEO)).sum())
    return jax.jit(features), jax.jit(gradient)


def features(model: DualEncoder, params: dict, video: np.ndarray = VIDEO) -> np.ndarray:
    """Video and text features, [2, b, e]."""
    with jax.default_matmul_precision("highest"):
        return np.asarray(program(model)[0](params, video))


def gradients(model: DualEncoder, params: dict, weights: np.ndarray = WEIGHTS) -> dict:
    """Gradients of the weighted sum of features, by path."""
    with jax.default_matmul_precision("highest"):
        return leaves(program(model)[1](params, weights))


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 8_712_192),
        ({"bottleneck": 128}, 4_185_600),
        ({"bottleneck": 128, "layers": tuple(range(7, 12))}, 1_744_000),
        ({"bottleneck": 64}, 2_069_760),
        ({"shared": False}, 7_922_688),
        # The vision width is not a multiple of it, which Algorithm 2 cannot build.
        ({"bottleneck": 512}, 18_972_672),
    ],
)
def test_counts_on_viclip(options, expected):
    built = make_model(SIZES["viclip_b16"], {"msta": options}, 8)
    shared = [("shared_MSTA/.*", {"lr": 1.0})] if options.get("shared", True) else []
    rules = ((RULE, {"lr": 1.0}), *shared, (".*", "frozen"))
    params = abstract_params(built)
    assert count_parameters(built, params, rules)["trainable_params"] == expected


@pytest.mark.slow
def test_price_of_the_vision_tower():
    """Adapters 256 and 128 wide add 8.68 and 4.05 GMACs at 8 frames."""

    def cost(**methods):
        built = make_model(SIZES["viclip_b16"], methods, 8, cls_only=False)
        video = example_inputs(built.spec, 8, 32)[0]

        def encode(params, video):
            return built.apply({"params": params}, video, method="encode_video")[0]

        return count(encode, abstract_params(built), video).multiply_adds / 1e9

    bare = cost()
    assert round(cost(msta={}) - bare, 2) == 8.68
    assert round(cost(msta={"bottleneck": 128}) - bare, 2) == 4.05


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("spec", "frames", "options"),
    [
        ("joint", FRAMES, {}),
        ("joint", 1, {}),
        # gcd(8, 12) = 4 groups
        ("joint", FRAMES, {"adapter_input": "raw", "cls_temporal": "replicate", "bottleneck": 8}),
        ("apart", FRAMES, {"shared": False}),
        ("apart", FRAMES, {"cls_temporal": "replicate", "bottleneck": 5}),  # dense
    ],
    ids=str,
)
def test_is_the_papers_algorithms_in_torch(spec, frames, options):
    built = model(SPECS[spec], gradient_scaling=False, **options)
    params = random_params(built)
    video = VIDEO[:, :frames]

    def stem(method, x):
        out = built.apply({"params": params}, x, capture=True, method=method)[1]
        return out["stem"].x

    inputs = (("visual", "encode_video", video), ("text", "encode_text", IDS))
    stems = {
        tower: np.asarray(jax.jit(stem, static_argnums=0)(method, x)) for tower, method, x in inputs
    }
    towers = TorchTowers(built, params)
    expected = towers.features(stems, IDS, APART.visual.patches)
    bare = features(built.clone(methods=()), params, video)
    assert np.abs(bare - expected.detach().numpy()).min() > 1e-3
    np.testing.assert_allclose(
        features(built, params, video), expected.detach().numpy(), rtol=1e-5, atol=1e-5
    )
    if frames != FRAMES or options.get("bottleneck") == 5:
        return
    (torch.tensor(WEIGHTS) * expected).sum().backward()
    found, wanted = ours(gradients(built, params)), towers.gradients()
    assert found.keys() == wanted.keys()
    for path, gradient in wanted.items():
        np.testing.assert_allclose(found[path], gradient, atol=1e-5 * np.abs(gradient).max() + 1e-6)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_scale_zero_is_the_frozen_model_bit_for_bit(spec):
    built = model(spec, scale=0.0)
    params = random_params(built)
    np.testing.assert_array_equal(
        features(built, params), features(built.clone(methods=()), params)
    )


def test_gradient_scaling_is_exact_at_any_depth_and_of_the_adapters_alone():
    """The adapters' gradients are multiplied by 1 / lambda, which is a power of 2 here."""
    built, plain = model(), model(gradient_scaling=False)
    params = random_params(built)
    found, true = gradients(built, params), gradients(plain, params)
    np.testing.assert_array_equal(features(built, params), features(plain, params))
    for path, gradient in true.items():
        ratio = 4.0 if path in ours(true) else 1.0
        np.testing.assert_allclose(found[path], ratio * gradient, rtol=1e-6, atol=1e-7)


def test_a_shared_projection_is_one_leaf_with_the_sum_of_both_gradients():
    built = model(gradient_scaling=False)
    params = random_params(built)
    shared = {path for path in leaves(params) if path.startswith("shared_MSTA")}
    assert shared == {
        f"shared_MSTA/blocks_{layer}/{name}" for layer in range(2) for name in ("kernel", "bias")
    }
    of_one = [WEIGHTS * np.eye(2, dtype=np.float32)[tower, :, None, None] for tower in range(2)]
    video, text, both = (gradients(built, params, weights) for weights in (*of_one, WEIGHTS))
    for path in shared:
        assert np.abs(video[path]).max() > 1e-4 and np.abs(text[path]).max() > 1e-4
        np.testing.assert_allclose(both[path], video[path] + text[path], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_starts_with_kaimings_normal_of_the_fan_out():
    spec = dataclasses.replace(SIZES["viclip_b16"], visual=SIZES["clip_b16"].visual)
    block = Block(12, 3072, "quick_gelu", 1e-5, methods=(MSTA(shared=False),))
    tokens = Tokens(np.zeros((1, 2, 3, spec.visual.width), np.float32))
    start = jax.jit(lambda: block.init(jax.random.key(0), tokens))()["params"]["msta"]
    expected = {"down": 0.0884, "up": 0.0510, "temporal_up": 0.02946}
    assert start.keys() == expected.keys()
    for name, deviation in expected.items():
        kernel = np.asarray(start[name]["kernel"])
        assert abs(kernel.std() / deviation - 1) < 0.03, name
        assert abs(kernel).max() > 3 * deviation and not np.asarray(start[name]["bias"]).any()
    shared = MSTA(256).shared_module(spec)
    first = jax.jit(lambda: shared.init(jax.random.key(0), jnp.zeros((1, 256)), "blocks_0"))()
    assert abs(np.std(first["params"]["blocks_0"]["kernel"]) / 0.0884 - 1) < 0.03


X = RNG.normal(size=(2, 1, 1 + 5 * FRAMES, WIDTH)).astype(np.float32)


def block(method: MSTA, **fields) -> tuple[Block, dict]:
    """A block and its random weights."""
    built = Block(HEADS, 24, "quick_gelu", 1e-5, methods=(method,), **fields)
    shapes = jax.eval_shape(built.init, jax.random.key(0), Tokens(X))["params"]
    rng = np.random.default_rng(1)
    return built, jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)


def run(built: Block, params: dict, tokens: Tokens, **rngs) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda p: built.apply({"params": p}, tokens, rngs=rngs).x)
        return np.asarray(apply(params))


def test_joint_and_per_frame_towers_have_the_same_adapter():
    """With attention and MLP zeroed, only the adapter lets tokens meet."""
    built, params = block(MSTA(**LARGE | {"shared": False}))
    for name in ("attention", "mlp"):
        params[name] = jax.tree.map(np.zeros_like, params[name])
    joint = run(built, params, Tokens(X, frames=FRAMES))
    patches = X[:, 0, 1:].reshape(2, 5, FRAMES, WIDTH).swapaxes(1, 2)
    cls = np.broadcast_to(X[:, :, :1], (2, FRAMES, 1, WIDTH))
    apart = run(built, params, Tokens(np.concatenate([cls, patches], 2)))
    found = joint[:, 0, 1:].reshape(2, 5, FRAMES, WIDTH).swapaxes(1, 2)
    np.testing.assert_allclose(found, apart[:, :, 1:], atol=1e-6)
    np.testing.assert_allclose(joint[:, :, 0], apart[:, 0, :1], atol=1e-6)
    assert np.abs(found - patches).max() > 0.1


def test_groups_of_places_have_the_same_adapter():
    """In a tower whose blocks see the frames of one place, the convolution runs over these."""
    built, params = block(MSTA(**LARGE | {"shared": False}))
    for name in ("attention", "mlp"):
        params[name] = jax.tree.map(np.zeros_like, params[name])
    frames = Tokens(X[:, 0, 1:].reshape(2, FRAMES, 5, WIDTH), cls=0, protected=0)
    found = run(built, params, grouped_by_place(frames))
    np.testing.assert_allclose(found.swapaxes(1, 2), run(built, params, frames), atol=1e-6)


def test_stochastic_depth_does_not_drop_it():
    method = MSTA(**LARGE | {"shared": False})
    tokens = Tokens(X, frames=FRAMES)
    dropping, params = block(method, drop_path=1 - 1e-7)
    found = run(dropping, params, tokens, dropout=jax.random.key(0))
    silent = params | {k: jax.tree.map(np.zeros_like, params[k]) for k in ("attention", "mlp")}
    np.testing.assert_allclose(found, run(block(method)[0], silent, tokens), atol=1e-6)
    assert np.abs(found - X).max() > 0.1


def test_nothing_is_stored_of_blocks_below_the_first_adapter():
    built = model(layers=(1,))
    params = random_params(built)
    trained = {k: x for k, x in leaves(params).items() if "msta" in k.lower()}
    rest = leaves(params)

    def embed(trained):
        tree = traverse_util.unflatten_dict(rest | trained, sep="/")
        return built.apply({"params": tree}, VIDEO, method="encode_video")[0]

    stored = jax.eval_shape(lambda leaves: jax.vjp(embed, leaves)[1], trained)
    # Only the activations of MLPs are this wide.
    assert not [x.shape for x in jax.tree.leaves(stored) if APART.visual.mlp_width in x.shape]
    below = {k: x for k, x in rest.items() if k.startswith("visual/blocks_0/attention/out")}
    stored = jax.eval_shape(lambda leaves: jax.vjp(embed, leaves)[1], below)
    assert [x.shape for x in jax.tree.leaves(stored) if APART.visual.mlp_width in x.shape]


def test_gradients_of_scale_zero_are_zero():
    built, params = block(MSTA(6, 0.0, shared=False))
    score = jax.grad(lambda p: built.apply({"params": p}, Tokens(X, frames=FRAMES)).x.sum())
    assert not any(x.any() for x in jax.tree.leaves(jax.jit(score)(params)["msta"]))


@pytest.mark.parametrize("position", ["after_shared", "before_shared"])
def test_dropout_is_in_training_alone_and_where_it_is_asked_for(position):
    """W_s adds 1 to the only channel; dropout before W_s does not affect that 1."""
    method = MSTA(1, 1.0, dropout=0.5, dropout_position=position, towers=("text",))
    spec = dataclasses.replace(APART, text=dataclasses.replace(APART.text, layers=1))
    built = DualEncoder(spec, (method,))
    params = random_params(built)
    silent = params["text"]["blocks_0"]
    for name in ("attention", "mlp"):
        silent[name] = jax.tree.map(np.zeros_like, silent[name])
    silent["msta"]["down"] = {"kernel": np.zeros((8, 1), "f"), "bias": np.ones(1, "f")}
    silent["msta"]["up"]["bias"] = np.zeros(8, "f")
    params["shared_MSTA"]["blocks_0"] = {"kernel": np.ones((1, 1), "f"), "bias": np.ones(1, "f")}

    def added(train):
        out = jax.jit(
            lambda p: built.apply(
                {"params": p},
                IDS,
                train,
                True,
                method="encode_text",
                rngs={"dropout": jax.random.key(0)},
            )
        )(params)[1]
        change = np.asarray(out["block_0"].x - out["stem"].x)
        return (change / silent["msta"]["up"]["kernel"]).round(3)

    assert set(added(False).ravel()) == {2.0}
    dropped = {0.0, 4.0} if position == "after_shared" else {1.0, 3.0}
    assert set(added(True).ravel()) == dropped


@pytest.mark.parametrize(("spec", "cls_temporal"), [("joint", "replicate"), ("apart", "none")])
def test_cls_tokens_alone_are_the_same_and_prompts_are_no_patches(spec, cls_temporal):
    built = model(SPECS[spec], Prompt(2), cls_temporal=cls_temporal)
    whole = built.clone(cls_only=False, remat="block")
    params = random_params(built)
    assert leaves(abstract_params(whole)).keys() == leaves(params).keys()
    np.testing.assert_allclose(features(built, params), features(whole, params), atol=1e-5)


def test_the_order_of_frames_shows():
    built = model(APART, shared=False, gradient_scaling=False)
    params = random_params(built)
    moved, expected = features(built, params, VIDEO[:, ::-1]), features(built, params)
    assert np.abs(moved - expected)[0].max() > 1e-3
    silent = {k: 0 * x if "temporal_up" in k else x for k, x in leaves(params).items()}
    silent = traverse_util.unflatten_dict(silent, sep="/")
    moved, expected = features(built, silent, VIDEO[:, ::-1]), features(built, silent)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_bfloat16_activations_keep_float32_leaves():
    built = model(gradient_scaling=False)
    params = random_params(built)
    half = built.clone(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(abstract_params(half))} == {np.dtype("float32")}
    out = jax.eval_shape(
        lambda: half.apply({"params": params}, VIDEO, capture=True, method="encode_video")
    )[1]
    assert out["block_0"].x.dtype == jnp.bfloat16
    np.testing.assert_allclose(features(half, params), features(built, params), atol=0.2)


def test_chosen_blocks_of_towers_of_other_depths_are_paired():
    built = model(DEEP, layers=(1, 2), text_layers=(0, 1))
    found = ours(abstract_params(built))
    blocks = {tuple(path.split("/")[:2]) for path in found}
    assert blocks == {
        *((tower, f"blocks_{i}") for tower in ("visual", "shared_MSTA") for i in (1, 2)),
        *(("text", f"blocks_{i}") for i in (0, 1)),
    }


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_one_tower_alone(tower):
    """The ablation's V-Adapter and L-Adapter; with nothing to pair, towers may differ in depth."""
    make_model(DEEP, {"msta": {"towers": (tower,)}})
    built = model(APART, towers=(tower,))
    params = random_params(built)
    paths = {path.split("/")[0] for path in ours(params)}
    assert paths == {tower, "shared_MSTA"}
    changed = np.abs(features(built, params) - features(built.clone(methods=()), params))
    assert (changed.max((1, 2)) > 1e-3).tolist() == [tower == "visual", tower == "text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "3 of 3 vision blocks and msta.text_layers=.* 2 of 2 text blocks"),
        ({"layers": (1, 2)}, r"msta.text_layers must be blocks from 0 to 1, .*got \(1, 2\)"),
        (
            {"layers": (1, 3), "text_layers": (0, 1)},
            r"msta.layers must be .* 0 to 2, .*got \(1, 3\)",
        ),
        ({"layers": (1, 2), "text_layers": (1,)}, "so name equally many"),
        ({"bottleneck": 0}, "msta.bottleneck must be >= 1, got 0"),
        ({"scale": -1.0}, "msta.scale must be >= 0, got -1.0"),
        ({"dropout": 1.0}, "must be >= 0 and < 1"),
        ({"towers": ("video",)}, "video; choose from visual, text"),
        ({"adapter_input": "ln2"}, "ln2; choose from ln1, raw"),
        ({"cls_temporal": "mean"}, "mean; choose from none, replicate"),
        ({"dropout_position": "last"}, "last; choose from after_shared, before_shared"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(DEEP, {"msta": options})


def test_what_it_is_not_for_is_refused():
    with pytest.raises(
        ValueError, match="msta is in the pre-LN blocks .*this model's BERT has none"
    ):
        make_model(BLIP, {"msta": {}})
    with pytest.raises(ValueError, match="msta.shared=True: BLIP's text model has no block"):
        make_model(BLIP, {"msta": {"towers": ("visual",)}})
    make_model(BLIP, {"msta": {"towers": ("visual",), "shared": False}})
    with pytest.raises(ValueError, match="msta finds patches by their places.*tome"):
        make_model(APART, {"tome": {"r": 1}, "msta": {}})
    assert build_methods({"msta": {"layers": [0, 1]}})[0].layers == (0, 1)


@pytest.mark.parametrize("axis", [1, 2])
def test_taps_are_a_convolution_on_tpus(axis):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 12)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 32)), jnp.float32)  # 4 groups, each 3 in, 8 out

    def found(convolve):
        def loss(x, kernel):
            return jnp.sin(convolve(x, kernel, 4, axis)).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)

    expected, given = found(msta._sum_of_taps), found(msta._convolved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, 1e-5, 1e-5), expected, given)
