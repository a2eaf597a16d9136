"""The intervention points: empty ones add nothing to the program, filled ones change it."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.points import Method
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens
from vlt.pytrees.partition import merge
from vlt.training.rules import partition

HEADS, WIDTH = 2, 8
SPEC = DualEncoderSpec(
    VisionSpec(8, 4, WIDTH, 2, HEADS, 16), TextSpec(5, 11, WIDTH, 2, HEADS, 16), embed_dim=4
)


class BareBlock(nn.Module):
    """A pre-LN transformer block as a textbook writes it, with no point anywhere."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm1")(x)
        x = x + BareAttention(name="attention")(h)
        h = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm2")(x)
        return x + BareMlp(name="mlp")(h)


class BareAttention(nn.Module):
    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        def heads(name: str) -> jax.Array:
            y = nn.Dense(WIDTH, name=name)(h)
            return y.reshape(*y.shape[:-1], HEADS, WIDTH // HEADS).swapaxes(-2, -3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scale = (WIDTH // HEADS) ** -0.5
        logits = jnp.einsum("bghqd,bghmd->bghqm", query * scale, key)
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)
        y = jnp.einsum("bghqm,bghmd->bghqd", weights, value) / total
        return nn.Dense(WIDTH, name="out")(y.swapaxes(-2, -3).reshape(h.shape))


class BareMlp(nn.Module):
    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        h = nn.Dense(16, name="fc1")(h)
        return nn.Dense(WIDTH, name="fc2")(h * jax.nn.sigmoid(1.702 * h))


def program(function, *args) -> str:
    """StableHLO text without locations and function names."""
    text = jax.jit(function).lower(*args).as_text()
    text = re.sub(r"loc\(.*?\)|#loc.*", "", text)
    names: dict[str, str] = {}
    return re.sub(r"@[\w.]+", lambda m: names.setdefault(m[0], f"@f{len(names)}"), text)


def block(methods: tuple[Method, ...] = ()) -> Block:
    return Block(HEADS, 16, "quick_gelu", 1e-5, methods=methods)


X = np.random.default_rng(0).normal(size=(2, 3, 5, WIDTH)).astype(np.float32)


def test_block_without_methods_is_the_bare_block():
    params = jax.eval_shape(BareBlock().init, jax.random.key(0), X)
    ours = program(lambda p, x: block().apply(p, Tokens(x)).x, params, X)
    assert ours == program(lambda p, x: BareBlock().apply(p, x), params, X)


def test_method_that_fills_no_point_adds_nothing():
    model, bare = DualEncoder(SPEC, (Method(),)), DualEncoder(SPEC)
    video, ids = np.zeros((1, 2, 8, 8, 3), np.uint8), np.ones((1, 5), np.int32)
    params = jax.eval_shape(bare.init, jax.random.key(0), video, ids)

    def run(module):
        return program(lambda p, v, i: module.apply(p, v, i)["video"], params, video, ids)

    # Whoever could read the patches keeps them; `Method` does not.
    assert run(model) == run(bare)


def shift(x: jax.Array) -> jax.Array:
    return x + 1.0


class Stem(Method):
    def stem(self, tower, tokens):
        return tokens.replace(x=shift(tokens.x))


class ExtraTokens(Method):
    def extra_tokens(self, block, tokens):
        if block.tower == "text":
            return tokens
        return tokens.replace(x=jnp.concatenate([tokens.x, tokens.x[:, :, -1:]], axis=2))


class BeforeAttention(Method):
    def before_attention(self, block, tokens):
        return tokens.replace(x=shift(tokens.x))


class Projection(Method):
    def projection(self, dense, x, y):
        return shift(y) if dense.name == "value" else y


class AttentionPattern(Method):
    def attention_pattern(self, block, tokens, pattern):
        if block.tower == "text":
            return pattern
        return pattern.replace(source=pattern.source[:, :, :2])


class ParallelAttention(Method):
    def parallel_attention(self, block, tokens, normed, y):
        return y + normed[:, :, : y.shape[2]]


class Between(Method):
    def after_attention(self, block, tokens, attended):
        return tokens.replace(x=tokens.x + attended.probabilities().mean((2, 4))[..., None])


class MlpPath(Method):
    def mlp_path(self, block, entry, tokens, normed, y):
        return y + entry.x[:, :, : y.shape[2]]


class SideBranch(Method):
    def side_branch(self, tower, hidden, train, capture):
        return hidden[-1].replace(x=hidden[-1].x + hidden[0].x[:, :, :1]), {}


class Head(Method):
    def head(self, tower, features, train):
        return features * features.shape[-1], {}


class SharedScale(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("scale", nn.initializers.ones, (WIDTH,))


class Shared(Method):
    @property
    def towers(self):
        return ("visual", "text")

    def shared_module(self, spec):
        return SharedScale()

    def before_attention(self, block, tokens):
        return tokens.replace(x=block.shared["Shared"](tokens.x))


POINTS = (
    Stem, ExtraTokens, BeforeAttention, Projection, AttentionPattern, ParallelAttention,
    Between, MlpPath, SideBranch, Head, Shared,
)  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_filled_point_changes_the_program(point):
    video, ids = np.zeros((1, 2, 8, 8, 3), np.uint8), np.ones((1, 5), np.int32)
    filled, bare = DualEncoder(SPEC, (point(),)), DualEncoder(SPEC)
    params = jax.eval_shape(filled.init, jax.random.key(0), video, ids)

    def run(module):
        return program(lambda p, v: module.apply(p, v, method="encode_video")[0], params, video)

    assert run(filled) != run(bare)


def test_trained_selection_changes_the_program():
    """Point 10: rules choose what a gradient is taken of."""
    video, ids = np.zeros((1, 2, 8, 8, 3), np.uint8), np.ones((1, 5), np.int32)
    model = DualEncoder(SPEC)
    params = jax.eval_shape(model.init, jax.random.key(0), video, ids)["params"]

    def gradient(pattern):
        trained, frozen = partition(params, ((pattern, {"lr": 1.0}), (".*", "frozen")))

        def loss(trained, frozen):
            return model.apply({"params": merge(trained, frozen)}, video, ids)["video"].sum()

        return program(jax.grad(loss), trained, frozen)

    assert gradient("visual/blocks_1/.*") != gradient("visual/blocks_1/mlp/.*")


def test_shared_module_is_one_parameter_with_two_users():
    video, ids = np.zeros((1, 2, 8, 8, 3), np.uint8), np.array([[1, 2, 9, 0, 0]], np.int32)
    model = DualEncoder(SPEC, (Shared(),))
    params = jax.jit(model.init)(jax.random.key(0), video, ids)["params"]
    leaves = [k for k in jax.tree_util.tree_leaves_with_path(params) if k[1].shape == (WIDTH,)]
    scales = [path for path, _ in leaves if "scale" in str(path) and "norm" not in str(path)]
    assert len(scales) == 1

    def embed(params, name):
        return model.apply({"params": params}, video, ids)[name][0, 0]

    for name in ("video", "text"):
        gradients = jax.jit(jax.grad(embed), static_argnums=1)(params, name)
        used = [g for path, g in jax.tree_util.tree_leaves_with_path(gradients) if path in scales]
        assert jnp.abs(used[0]).max() > 0


def test_computing_only_cls_tokens_is_exact():
    rng = np.random.default_rng(1)
    video = rng.integers(0, 255, (2, 3, 8, 8, 3), dtype=np.uint8)
    model = DualEncoder(SPEC)
    params = jax.jit(model.init)(jax.random.key(0), video, np.ones((2, 5), np.int32))

    def embed(module):
        return jax.jit(lambda: module.apply(params, video, method="encode_video")[0])()

    full = dataclasses.replace(model, cls_only=False)
    np.testing.assert_allclose(embed(model), embed(full), atol=1e-6)
    assert program(lambda: embed(model)) != program(lambda: embed(full))
