"""Bottleneck adapters: the forms of the papers' tables, and where they act."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from small_blip import video_weights

from vlt.adapters.adapter import POSITIONS, Adapter
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, make_model
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.tokens import Tokens
from vlt.training.rules import partition

WIDTH = 16
X = np.random.default_rng(0).normal(size=(2, 3, 5, WIDTH)).astype(np.float32)
TOKEN_MIXING = {
    "positions": ("before_mlp",),
    "bottleneck": 96,
    "activation": "sigmoid",
    "middle": True,
    "init_std": 0.02,
    "towers": ("visual",),
}
RELEASED = TOKEN_MIXING | {"positions": ("before_attention", "before_mlp")}
HOULSBY = {"positions": ("attention", "mlp"), "bottleneck": 64}


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("options", "leaves", "expected"),
    [
        ({}, ".*", 261_312),  # TempMe, Table 1
        (TOKEN_MIXING, ".*/kernel", 1_880_064),  # Token Mixing's table counts weights, not biases
        (TOKEN_MIXING, ".*", 1_891_584),
        (RELEASED, ".*", 3_783_168),
        (HOULSBY, ".*", 2 * 12 * sum(2 * 64 * d + 64 + d for d in (768, 512))),
    ],
)
def test_counts_of_the_papers_tables(options, leaves, expected):
    params = abstract_params(DualEncoder(SIZES["clip_b32"], (Adapter(**options),)))
    adapters, _ = partition(params, ((".*/adapter_.*", {"lr": 1.0}), (".*", "frozen")))
    adapters = flax.traverse_util.flatten_dict(adapters, sep="/")
    assert adapters
    kept = [x.size for path, x in adapters.items() if leaves == ".*" or path.endswith("kernel")]
    assert sum(kept) == expected


@pytest.mark.slow
def test_weights_of_token_mixings_table():
    """One adapter per block; the released code has two."""
    rule = r"visual/blocks_\d+/adapter_\w+/.*"
    assert video_weights(rule, Adapter(**TOKEN_MIXING)) == 1_880_064
    assert video_weights(rule, Adapter(**RELEASED)) == 2 * 1_880_064


@pytest.mark.parametrize("name", ["adapter", "adaptformer", "prompt"])
def test_berts_layers_are_refused(name):
    with pytest.raises(
        ValueError, match=rf"{name} is in .*set {name}.towers=\('visual',\), .*vl_adapter"
    ):
        make_model(SIZES["blip_b16_captioner"], {name: {"towers": ("visual", "text")}})


def block(*methods: Adapter, **fields) -> Block:
    return Block(2, 32, "quick_gelu", 1e-5, methods=methods, **fields)


def init(module: Block) -> dict:
    return jax.jit(lambda: module.init(jax.random.key(0), Tokens(X)))()["params"]


def run(module: Block, params: dict) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda p: module.apply({"params": p}, Tokens(X)).x)(params)


def test_starts_near_the_bare_block_but_not_on_it():
    module = block(Adapter(bottleneck=8, positions=POSITIONS))
    params = init(module)
    gap = np.abs(run(module, params) - run(block(), params)).max()
    assert 1e-8 < gap < 1e-3
    assert np.abs(params["adapter_mlp"]["down"]["kernel"]).max() <= 2e-3
    assert not params["adapter_mlp"]["up"]["bias"].any()


def torch_adapter(leaves: dict, activation, x: np.ndarray) -> np.ndarray:
    """Linear, activation, Linear(s), residual."""
    hidden = torch.tensor(np.asarray(x))
    for name in ("down", "middle", "up"):
        if name not in leaves:
            continue
        weight, bias = (torch.tensor(np.asarray(leaves[name][k])) for k in ("kernel", "bias"))
        hidden = torch.nn.functional.linear(hidden, weight.T, bias)
        if name == "down":
            hidden = activation(hidden)
    return np.asarray(x) + hidden.numpy()


@functools.cache
def large(position: str, activation: str) -> tuple[Adapter, dict]:
    """An adapter with biases, far from the identity, and its block's parameters."""
    method = Adapter(6, (position,), activation, middle=activation == "sigmoid", init_std=0.5)
    params = init(block(method))
    name = f"adapter_{position}"
    rng = np.random.default_rng(1)
    shifted = jax.tree.map(
        lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), params[name]
    )
    return method, params | {name: shifted}


def parts(params: dict, x: jax.Array):
    """The attention and MLP residuals of a bare block as functions, with their LayerNorms."""
    bare = {k: v for k, v in params.items() if not k.startswith("adapter")}
    zero = jax.tree.map(jnp.zeros_like, bare)
    no_mlp = bare | {"mlp": zero["mlp"]}
    no_attention = bare | {"attention": zero["attention"]}

    def residual(leaves):
        def apply(z):
            return block().apply({"params": leaves}, Tokens(jnp.asarray(z))).x - z

        with jax.default_matmul_precision("highest"):
            return jax.jit(apply)

    return residual(no_mlp), residual(no_attention)


@pytest.mark.parametrize(
    ("position", "activation"),
    [
        ("before_attention", "sigmoid"),
        ("attention", "gelu"),
        ("before_mlp", "sigmoid"),
        ("mlp", "gelu"),
    ],
)
def test_acts_where_it_says(position, activation):
    """Matches a block taken apart, with a torch adapter in between."""
    method, params = large(position, activation)
    functions = {"gelu": torch.nn.functional.gelu, "sigmoid": torch.sigmoid}
    adapter = functools.partial(torch_adapter, params[f"adapter_{position}"], functions[activation])
    adapters = {p: (adapter if p == position else np.asarray) for p in POSITIONS}
    attention, mlp = parts(params, X)
    x = adapters["before_attention"](X)
    x = x + adapters["attention"](attention(x))
    x = adapters["before_mlp"](x)
    x = x + adapters["mlp"](mlp(x))
    ours = run(block(method), params)
    np.testing.assert_allclose(ours, x, atol=1e-5)
    assert np.abs(ours - run(block(), params)).max() > 0.1


def test_only_in_its_towers():
    module = block(Adapter(towers=("visual",)), tower="text")
    assert "adapter_mlp" not in init(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": ("ffn",)}, "ffn; choose from before_attention, attention"),
        ({"positions": ()}, "adapter.positions is empty"),
        ({"activation": "tanh"}, "tanh; choose from quick_gelu, gelu"),
        ({"bottleneck": 0}, "adapter.bottleneck must be >= 1, got 0"),
        ({"towers": ("visal",)}, "visal; choose from"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods({"adapter": options})
