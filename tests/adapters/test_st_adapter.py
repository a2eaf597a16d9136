"""ST-Adapter against torch's Conv3d, the counts of both papers, and where it starts."""

import jax
import numpy as np
import pytest
import torch
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

from vlt.adapters.prompt import Prompt
from vlt.adapters.st_adapter import STAdapter
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, make_model
from vlt.models.block import Block
from vlt.models.captioner import Captioner
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec
from vlt.models.tokens import Tokens

WIDTH = 16
PAPER = {"depthwise": True, "kernel": (3, 1, 1), "positions": ("before_mlp",)}
BOTH = ("before_attention", "before_mlp")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 1 + 16, WIDTH)).astype(np.float32)


def test_weights_of_token_mixings_table():
    assert video_weights(r"visual/blocks_\d+/st_adapter/.*", STAdapter()) == 54_853_632


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 54_872_064),
        (PAPER, 7_110_144),
        (PAPER | {"positions": BOTH}, 14_220_288),
    ],
)
def test_parameters(options, expected):
    model = Captioner(SIZES["blip_b16_captioner"], (STAdapter(**options),))
    added = {k: v for k, v in leaves(abstract_params(model)).items() if "/st_adapter" in k}
    assert sum(leaf.size for leaf in added.values()) == expected


def block(*methods, **fields) -> Block:
    return Block(2, 32, "gelu", 1e-6, methods=methods, **fields)


def init(module: Block) -> dict:
    shapes = jax.eval_shape(module.init, jax.random.key(0), Tokens(X))["params"]
    return jax.tree.map(lambda x: RNG.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def run(module: Block, params: dict, x: np.ndarray = X) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda x: module.apply({"params": params}, Tokens(x)).x)(x))


def torch_adapter(leaf: dict, x: np.ndarray, depthwise: bool) -> np.ndarray:
    """x + up(conv3d(down(x))), patches as [b, c, t, h, w]; the CLS token goes as published."""
    down, up, conv = (
        {name: torch.tensor(np.asarray(value)) for name, value in leaf[part].items()}
        for part in ("down", "up", "conv")
    )
    linear = torch.nn.functional.linear
    hidden = linear(torch.tensor(x), down["kernel"].T, down["bias"])
    cls, patches = hidden[:, :, :1], hidden[:, :, 1:]
    b, t, n, c = patches.shape
    side = round(n**0.5)
    weight = conv["kernel"].permute(4, 3, 0, 1, 2)
    grid = patches.reshape(b, t, side, side, c).permute(0, 4, 1, 2, 3)
    grid = torch.nn.functional.conv3d(
        grid,
        weight,
        conv["bias"],
        padding=tuple(k // 2 for k in weight.shape[2:]),
        groups=c if depthwise else 1,
    )
    patches = grid.permute(0, 2, 3, 4, 1).reshape(b, t, n, c)
    added = linear(torch.cat([cls, patches], 2), up["kernel"].T, up["bias"]).numpy()
    if depthwise:
        added[:, :, :1] = 0
    return x + added


@pytest.mark.quick(2)
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 3, 5)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_is_torchs_convolution_before_attention(depthwise, kernel):
    method = STAdapter(width=6, kernel=kernel, depthwise=depthwise)
    module = block(method)
    params = init(module)
    assert params["st_adapter"]["conv"]["kernel"].shape == (*kernel, 1 if depthwise else 6, 6)
    adapted = torch_adapter(params["st_adapter"], X, depthwise)
    assert np.abs(adapted - X).max() > 0.3
    np.testing.assert_allclose(run(module, params), run(block(), params, adapted), atol=2e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_before_the_mlp_it_reads_what_attention_left(depthwise):
    module = block(STAdapter(("before_mlp",), 6, depthwise=depthwise))
    params = init(module)
    silent = {name: jax.tree.map(np.zeros_like, params[name]) for name in ("attention", "mlp")}
    attended = run(block(), params | {"mlp": silent["mlp"]})
    adapted = torch_adapter(params["st_adapter_mlp"], attended, depthwise)
    expected = run(block(), params | {"attention": silent["attention"]}, adapted)
    np.testing.assert_allclose(run(module, params), expected, atol=2e-5)


def test_depthwise_starts_as_the_plain_model():
    model = captioner(STAdapter(depthwise=True, positions=BOTH, width=6))
    params = random_params(model)
    fresh = jax.jit(lambda: block(model.methods[0]).init(jax.random.key(0), Tokens(X)))()
    for layer in range(SPEC.visual.layers):
        for name in ("st_adapter", "st_adapter_mlp"):
            params["visual"][f"blocks_{layer}"][name] = fresh["params"][name]
    assert np.abs(fresh["params"]["st_adapter"]["down"]["kernel"]).max() > 0.1
    plain = frame_features(captioner(), params, videos())
    np.testing.assert_array_equal(frame_features(model, params, videos()), plain)


def test_dense_starts_as_released():
    """Linear kernels are normal with 0.02, the convolution and its bias as torch's uniform."""
    module = block(STAdapter(width=64))
    fresh = jax.jit(lambda: module.init(jax.random.key(0), Tokens(X)))()["params"]["st_adapter"]
    assert 0.019 < np.std(fresh["down"]["kernel"]) < 0.021
    assert not np.asarray(fresh["down"]["bias"]).any() and not np.asarray(fresh["up"]["bias"]).any()
    bound = (27 * 64) ** -0.5
    for leaf in fresh["conv"].values():
        assert 0.9 * bound < np.abs(leaf).max() <= bound


def test_frames_meet_and_their_order_shows():
    model = captioner(STAdapter(width=6))
    params = random_params(model)
    expected, moved = (frame_features(model, params, v) for v in (videos(), videos()[:, ::-1]))
    assert np.abs(moved - expected[:, ::-1]).max() > 1e-2
    assert frame_features(model, params, videos(7)).shape == (2, 7, 17, 16)


@pytest.mark.quick(1)
@pytest.mark.parametrize("depthwise", [False, True])
def test_the_last_block_of_a_dual_encoder_and_prompts(depthwise):
    """Leaves still exist where only CLS tokens are left; prompts are not patches."""
    spec = DualEncoderSpec(SPEC.visual, TextSpec(5, 11, 16, 1, 2, 32), embed_dim=8)
    method = STAdapter(BOTH, 6, depthwise=depthwise)
    model = DualEncoder(spec, (Prompt(3, towers=("visual",)), method), FRAMES)
    whole = model.clone(cls_only=False)
    params = random_params(model)
    assert leaves(abstract_params(whole)).keys() == leaves(params).keys()

    def embed(model):
        return jax.jit(lambda v: model.apply({"params": params}, v, method="encode_video")[0])(
            videos()
        )

    np.testing.assert_allclose(embed(model), embed(whole), atol=1e-5)


def test_every_leaf_gets_a_gradient():
    for depthwise in (False, True):
        module = block(STAdapter(BOTH, 6, depthwise=depthwise))
        some = jax.grad(lambda p: module.apply({"params": p}, Tokens(X)).x[..., :3].sum())  # noqa: B023
        found = leaves(jax.jit(some)(init(module)))
        ours = [path for path in found if "st_adapter" in path]
        assert len(ours) == 12
        for path in ours:
            assert np.abs(found[path]).max() > 1e-6, path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": ("attention",)}, "attention; choose from before_attention"),
        ({"width": 0}, "st_adapter.width must be >= 1, got 0"),
        ({"kernel": (3, 3)}, r"st_adapter.kernel must be three odd numbers, got \(3, 3\)"),
        ({"kernel": (3, 2, 1)}, "three odd numbers"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods({"st_adapter": options})


def test_merged_tokens_are_refused():
    with pytest.raises(ValueError, match="st_adapter finds patches by their places.*tome"):
        make_model(SPEC, {"tome": {"r": 2}, "st_adapter": {"width": 4}}, FRAMES)
