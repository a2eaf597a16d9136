"""The intervention points: unused ones add nothing to the program, used ones change it."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from best_frame import BestFrame

from vlt.models.attention import attend
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
    """A pre-LN transformer block as in a textbook, without any points."""

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

        # However heads are computed; test_attention.py checks that against a softmax.
        y = attend(heads("query"), heads("key"), heads("value"))
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

    # A method that might read the patches keeps them; `Method` does not.
    assert run(model) == run(bare)


def shift(x: jax.Array) -> jax.Array:
    return x + 1.0


class Embed(Method):
    def embed(self, tower, tokens):
        return tokens.insert(1, tokens.x[:, :, :2])


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


class Attend(Method):
    """Two sets of tokens, each attending only to itself."""

    def attention_pattern(self, block, tokens, pattern):
        def apart(query, key, value):
            halves = ((x[..., :2, :], x[..., 2:, :]) for x in (query, key, value))
            return jnp.concatenate([attend(*half) for half in zip(*halves, strict=True)], axis=-2)

        return pattern if block.tower == "text" else pattern.replace(attend=apart)


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
    Embed, Stem, ExtraTokens, BeforeAttention, Projection, AttentionPattern, Attend,
    ParallelAttention, Between, MlpPath, SideBranch, Head, Shared,
)  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_filled_point_changes_the_program(point):
    video, ids = np.zeros((1, 2, 8, 8, 3), np.uint8), np.ones((1, 5), np.int32)
    filled, bare = DualEncoder(SPEC, (point(),)), DualEncoder(SPEC)
    params = jax.eval_shape(filled.init, jax.random.key(0), video, ids)

    def run(module):
        return program(lambda p, v: module.apply(p, v, method="encode_video")[0], params, video)

    assert run(filled) != run(bare)


def test_queries_that_read_apart_have_a_softmax_each_and_nothing_else_may_change_it():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, WIDTH)).astype(np.float32)

    def run(params, x, *methods):
        return jax.jit(lambda p, x: block(methods).apply(p, Tokens(x)).x)(params, x)

    params = jax.jit(block().init)(jax.random.key(0), Tokens(x))
    halves = [run(params, half) for half in (x[:, :, :2], x[:, :, 2:])]
    both = np.concatenate(halves, axis=2)
    np.testing.assert_allclose(run(params, x, Attend()), both, atol=1e-6)
    with pytest.raises(ValueError, match="no single table has the probabilities"):
        run(params, x, Attend(), Between())

    class Bias(Method):
        def attention_pattern(self, block, tokens, pattern):
            return pattern.add_bias(jnp.zeros(()))

    with pytest.raises(ValueError, match="replaces the softmax: no method beside it"):
        run(params, x, Attend(), Bias())


def test_trained_selection_changes_the_program():
    """Point 10: rules choose the leaves that a gradient is taken for."""
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
    scale, others = partition(params, (("(?!.*norm).*/scale", {"lr": 1.0}), (".*", "frozen")))
    (leaf,) = jax.tree.leaves(scale)
    assert leaf.shape == (WIDTH,)

    def embed(scale):
        out = model.apply({"params": merge(scale, others)}, video, ids)
        return jnp.stack([out["video"][0, 0], out["text"][0, 0]])

    (used,) = jax.tree.leaves(jax.jit(jax.jacrev(embed))(scale))
    assert (jnp.abs(used).max(-1) > 0).all()


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


@dataclasses.dataclass(frozen=True)
class Among(Method):
    """Inserts two tokens among the words, before or after positions are added."""

    at: int = 2
    early: bool = True

    @property
    def towers(self):
        return ("text",)

    def embed(self, tower, tokens):
        return tokens.insert(self.at, self.new(tower)) if self.early else tokens

    def stem(self, tower, tokens):
        return tokens if self.early else tokens.insert(self.at, self.new(tower))

    def new(self, tower):
        return tower.param("new", nn.initializers.normal(1.0), (2, WIDTH))


@pytest.mark.quick(3)
@pytest.mark.parametrize("at", [0, 2, 3, 4])
@pytest.mark.parametrize("early", [True, False])
def test_the_token_read_of_a_text_is_the_same_whatever_stands_before_or_behind_it(at, early):
    """Against a text in which the new tokens are words of the vocabulary."""
    spec = dataclasses.replace(SPEC, text=TextSpec(8, 11, WIDTH, 2, HEADS, 16))
    model, bare = DualEncoder(spec, (Among(at, early),)), DualEncoder(spec)
    ids = np.array([[1, 2, 9, 0]], np.int32)  # the highest id is read
    video = np.zeros((1, 1, 8, 8, 3), np.uint8)
    params = jax.jit(model.init)(jax.random.key(0), video, ids)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), params)
    leaves = dict(params["text"])
    new, table = leaves.pop("new"), np.array(leaves["token_embedding"]["embedding"])
    position = np.asarray(leaves["position_embedding"])
    table[5:7] = new
    if not early:
        # New tokens have no position; words keep theirs.
        table[5:7] -= position[at : at + 2]
        old, words = position.copy(), position[at:4]
        old[at + 2 : 6] = words
        leaves["position_embedding"] = old
    leaves["token_embedding"] = {"embedding": table}
    with_words = np.insert(ids, [at, at], [5, 6], axis=1).astype(np.int32)

    def encode(module, params, ids):
        return jax.jit(lambda: module.apply({"params": params}, ids, method="encode_text")[0])()

    expected = encode(bare, {"text": leaves, "logit_scale": 0.0}, with_words)
    np.testing.assert_allclose(encode(model, params, ids), expected, atol=1e-5)


def test_words_and_tokens_of_methods_share_the_context():
    model = DualEncoder(SPEC, (Among(),))
    video, ids = np.zeros((1, 1, 8, 8, 3), np.uint8), np.ones((1, 4), np.int32)
    with pytest.raises(
        ValueError, match="4 text tokens and 2 of methods, but the tower's context is"
    ):
        jax.eval_shape(model.init, jax.random.key(0), video, ids)


def test_what_is_inserted_comes_out_again():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 6, 4)))
    tokens = Tokens(
        x, x[..., 0], x, 1, 2, places=x[..., :2], readout=jnp.asarray([1, 4])
    )  # fmt: skip
    more = tokens.insert(2, jnp.ones((2, 4)))
    assert more.protected == 4 and more.x.shape == (2, 3, 8, 4)
    np.testing.assert_array_equal(more.x[:, :, 2:4], 1)
    np.testing.assert_array_equal(more.size[:, :, 2:4], 1)
    assert not more.members[:, :, 2:4].any() and not more.places[:, :, 2:4].any()
    np.testing.assert_array_equal(more.readout, [1, 6])
    jax.tree.map(np.testing.assert_array_equal, more.remove(2, 2), tokens)
    assert tokens.insert(2, jnp.ones((2, 4)), protected=False).protected == 2


def test_scores_of_pairs_are_cosines_unless_a_method_makes_others():
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(3, 2, 4)).astype(np.float32)
    texts = rng.normal(size=(5, 4)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)

    def scores(*methods):
        variables = {"params": {"logit_scale": np.float32(0)}}
        video, text = {"frames": frames}, {"features": 3 * texts}
        return DualEncoder(SPEC, methods).apply(variables, video, text, method="scores")

    mean = frames.mean(1)
    cosines = mean @ texts.T / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(scores(), cosines, atol=1e-6)
    each = frames @ texts.T / np.linalg.norm(frames, axis=-1, keepdims=True)
    np.testing.assert_allclose(scores(BestFrame()), each.max(1), atol=1e-6)
    assert DualEncoder(SPEC, (BestFrame(),)).scores_pairs and not DualEncoder(SPEC).scores_pairs
