"""AdaptFormer against a short torch module, its start, and its counts."""

import jax
import numpy as np
import pytest
import torch

from vlt.adapters.adaptformer import AdaptFormer
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.tokens import Tokens
from vlt.training.rules import partition

WIDTH = 16
X = np.random.default_rng(0).normal(size=(2, 3, 5, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1_189_632),
        # MSTA's row on ViCLIP-B/16
        ({"bottleneck": 256, "towers": ("visual", "text")}, 7_885_824),
    ],
)
def test_counts(options, expected):
    params = abstract_params(DualEncoder(SIZES["clip_b16"], (AdaptFormer(**options),)))
    trained, _ = partition(params, ((".*/adaptformer/.*", {"lr": 1.0}), (".*", "frozen")))
    assert sum(x.size for x in jax.tree.leaves(trained)) == expected


def block(*methods: AdaptFormer, **fields) -> Block:
    return Block(2, 32, "quick_gelu", 1e-5, methods=methods, **fields)


def run(module: Block, params: dict, **rngs) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda p: module.apply({"params": p}, Tokens(X), rngs=rngs).x)(params)


def start(method: AdaptFormer) -> dict:
    return jax.jit(lambda: block(method).init(jax.random.key(0), Tokens(X)))()["params"]


def away(method: AdaptFormer) -> dict:
    """Parameters with the adapter's leaves moved away from their start."""
    rng = np.random.default_rng(1)
    params = start(method)
    moved = jax.tree.map(
        lambda x: x + rng.normal(size=x.shape).astype(np.float32), params["adaptformer"]
    )
    return params | {"adaptformer": moved}


def test_starts_as_the_bare_block_exactly():
    method = AdaptFormer(8)
    params = start(method)
    np.testing.assert_array_equal(run(block(method), params), run(block(), params))
    down = np.abs(params["adaptformer"]["down"]["kernel"])
    assert 0.9 * WIDTH**-0.5 < down.max() <= WIDTH**-0.5
    assert not params["adaptformer"]["up"]["kernel"].any()


class TorchSidePath(torch.nn.Module):
    """The published side path, written from its description."""

    def __init__(self, leaves: dict, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down, self.up = (self.linear(leaves[name]) for name in ("down", "up"))

    @staticmethod
    def linear(leaves: dict) -> torch.nn.Linear:
        layer = torch.nn.Linear(*leaves["kernel"].shape)
        layer.weight.data = torch.tensor(np.asarray(leaves["kernel"])).T
        layer.bias.data = torch.tensor(np.asarray(leaves["bias"]))
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.up(torch.relu(self.down(x)))


def test_is_added_beside_the_mlp_and_reads_what_the_second_norm_reads():
    method = AdaptFormer(8, scale=0.7)
    params = away(method)
    bare = {k: v for k, v in params.items() if k != "adaptformer"}
    no_mlp = bare | {"mlp": jax.tree.map(np.zeros_like, bare["mlp"])}
    after_attention = torch.tensor(np.asarray(run(block(), no_mlp)))
    side = TorchSidePath(params["adaptformer"], 0.7)(after_attention).detach().numpy()
    assert np.abs(side).max() > 1
    np.testing.assert_allclose(run(block(method), params), run(block(), bare) + side, atol=2e-5)


def test_dropout_is_on_the_bottleneck_and_in_training_alone():
    """With one channel in the bottleneck, a token's whole change is dropped or doubled."""
    method = AdaptFormer(1, scale=1.0, dropout=0.5)
    params = away(method)
    params["adaptformer"]["down"]["bias"] = np.full(1, 10, np.float32)  # keeps relu active
    params["adaptformer"]["up"]["bias"] = np.zeros(WIDTH, np.float32)
    bare = run(block(), params)
    still = run(block(method), params) - bare
    trained = run(block(method, train=True), params, dropout=jax.random.key(1)) - bare
    factors = (trained / still).round(3).reshape(-1, WIDTH)
    assert (factors == factors[:, :1]).all()
    assert set(factors[:, 0].tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bottleneck": 0}, "adaptformer.bottleneck must be >= 1, got 0"),
        ({"dropout": 1.0}, "must be >= 0 and < 1"),
        ({"towers": ("video",)}, "video; choose from visual, text"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods({"adaptformer": options})
