"""Prompts: where they stand, which tokens see them, when they leave, and how merging skips them."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.adapters.prompt import Prompt, xavier_bound
from vlt.merging.tempme import TempMe
from vlt.merging.tome import ToMe
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, init_params
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.points import Method
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens
from vlt.training.rules import partition

WIDTH, PROMPTS, FRAMES, PATCHES = 8, 3, 4, 16
TINY = DualEncoderSpec(
    VisionSpec(16, 4, WIDTH, 2, 2, 16), TextSpec(6, 11, WIDTH, 2, 2, 16), embed_dim=4
)
VIDEO = np.random.default_rng(0).normal(size=(2, FRAMES, 16, 16, 3)).astype(np.float32)
IDS = np.array([[1, 2, 10, 0, 0, 0], [3, 4, 5, 6, 10, 0]], np.int32)
CHANGE = np.linspace(-1, 1, WIDTH)  # LayerNorm would undo a constant factor
DEEP, SHALLOW = Prompt(PROMPTS), Prompt(PROMPTS, deep=False)
MATCHED = Prompt(PROMPTS, deep=False, matched=True)

TEMPME = TempMe((1,), (2,), r=2, keep_cross=50)


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ("clip_b32", {}, 76_800),
        ("clip_b16", {}, 76_800),
        ("clip_b32", {"deep": False}, 5 * (768 + 512)),
        ("clip_b32", {"towers": ("visual",), "tokens": 10}, 10 * 12 * 768),
    ],
)
def test_counts(size, options, expected):
    params = abstract_params(DualEncoder(SIZES[size], (Prompt(**options),)))
    trained, _ = partition(params, ((".*/prompt", {"lr": 1.0}), (".*", "frozen")))
    assert sum(x.size for x in jax.tree.leaves(trained)) == expected


def block(*methods: Method, **fields) -> Block:
    return Block(2, 16, "quick_gelu", 1e-5, methods=methods, **fields)


def apply(module, params, tokens: Tokens) -> Tokens:
    return jax.jit(lambda p: module.apply({"params": p}, tokens))(params)


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_deep_prompts_are_tokens_of_one_block(tower):
    """Matches the bare block on tokens with prompts among them, cut out afterwards."""
    text = tower == "text"
    x = np.random.default_rng(1).normal(size=(2, 1 if text else 3, 6, WIDTH)).astype(np.float32)
    tokens = Tokens(x, cls=0, protected=0) if text else Tokens(x)
    module = block(DEEP, tower=tower, causal=text)
    params = jax.jit(lambda: module.init(jax.random.key(0), tokens))()["params"]
    prompts = np.broadcast_to(params["prompt"], (*x.shape[:2], PROMPTS, WIDTH))
    among = np.concatenate([x[:, :, :1], prompts, x[:, :, 1:]], axis=2)
    expected = apply(block(causal=text), params, Tokens(jnp.asarray(among))).x
    expected = np.delete(expected, range(1, 1 + PROMPTS), axis=2)
    ours = apply(module, params, tokens)
    np.testing.assert_allclose(ours.x, expected, atol=1e-6)
    assert (ours.cls, ours.protected) == (tokens.cls, tokens.protected)
    assert np.abs(ours.x - apply(block(causal=text), params, tokens).x).max() > 1e-3


def start(*methods: Method) -> tuple[DualEncoder, dict]:
    """A model, and parameters whose every leaf is away from its start."""
    model = DualEncoder(TINY, methods, frames=FRAMES)
    rng = np.random.default_rng(2)
    return model, jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0.3 * rng.normal(size=x.shape).astype("f") + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )


def captured(model: DualEncoder, params: dict) -> tuple[np.ndarray, dict[str, Tokens]]:
    def run(p):
        return model.apply({"params": p}, VIDEO, capture=True, method="encode_video")

    video, out = jax.jit(run)(params)
    return video, {name: value for name, value in out.items() if isinstance(value, Tokens)}


def texts(model: DualEncoder, params: dict, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, and the last block's words without the tokens that methods add."""
    text, out = jax.jit(
        lambda p: model.apply({"params": p}, ids, capture=True, method="encode_text")
    )(params)
    x = np.asarray(out["block_1"].x[:, 0])
    return text, np.concatenate([x[:, :1], x[:, x.shape[1] - ids.shape[1] + 1 :]], axis=1)


@pytest.mark.parametrize("method", [DEEP, SHALLOW])
def test_words_see_the_prompts_and_what_comes_before_them(method):
    model, params = start(method)
    text, words = texts(model, params, IDS)
    later = IDS.copy()
    later[:, 3] = 7  # after the first text's end, before the second's
    _, changed = texts(model, params, later)
    np.testing.assert_allclose(words[:, :3], changed[:, :3], atol=1e-6)
    assert np.abs(words[:, 3:] - changed[:, 3:]).max(-1).all()

    prompts = jax.tree_util.tree_map_with_path(
        lambda path, x: x * CHANGE if "prompt" in jax.tree_util.keystr(path) else x, params
    )
    moved, other = texts(model, prompts, IDS)
    np.testing.assert_allclose(words[:, 0], other[:, 0], atol=1e-6)  # it precedes the prompts
    assert (np.abs(words[:, 1:] - other[:, 1:]).max(-1) > 1e-3).all()
    assert np.abs(np.asarray(text) - moved).max() > 1e-3


@pytest.mark.parametrize("method", [DEEP, SHALLOW])
def test_every_frame_has_the_same_prompts_and_their_order_says_nothing(method):
    model, params = start(method)
    video, _ = captured(model, params)
    turned = jax.tree_util.tree_map_with_path(
        lambda path, x: x[::-1] if "prompt" in jax.tree_util.keystr(path) else x, params
    )
    np.testing.assert_allclose(video, captured(model, turned)[0], atol=1e-5)
    other = jax.tree_util.tree_map_with_path(
        lambda path, x: x * CHANGE if "prompt" in jax.tree_util.keystr(path) else x, params
    )
    assert np.abs(video - captured(model, other)[0]).max() > 1e-3


@pytest.mark.parametrize("method", [DEEP, SHALLOW, MATCHED])
def test_computing_only_cls_tokens_is_exact(method):
    model, params = start(method)
    full = captured(model.clone(cls_only=False), params)
    only = captured(model, params)
    np.testing.assert_allclose(only[0], full[0], atol=1e-6)
    assert only[1]["block_1"].x.shape[2] == only[1]["block_1"].protected == 1


def shapes(tokens: dict[str, Tokens]) -> list[tuple[int, int, int, int]]:
    """Numbers of groups, tokens, CLS and protected tokens after the stem and each block."""
    after = ("stem", *(f"block_{layer}" for layer in range(TINY.visual.layers)))
    return [
        (*tokens[name].x.shape[1:3], tokens[name].cls, tokens[name].protected) for name in after
    ]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ((DEEP,), [(4, 17, 1, 1)] * 3),
        ((SHALLOW,), [(4, 20, 1, 4)] * 3),
        ((MATCHED,), [(4, 20, 1, 1)] * 3),
        ((DEEP, ToMe(2)), [(4, 17, 1, 1), (4, 15, 1, 1), (4, 13, 1, 1)]),
        ((ToMe(2), SHALLOW), [(4, 20, 1, 4), (4, 18, 1, 4), (4, 16, 1, 4)]),
        ((MATCHED, ToMe(2)), [(4, 20, 1, 1), (4, 18, 1, 1), (4, 16, 1, 1)]),
        ((DEEP, TEMPME), [(4, 17, 1, 1), (4, 15, 1, 1), (2, 15, 2, 2)]),
        # Joined clips carry on all their prompts.
        ((SHALLOW, TEMPME), [(4, 20, 1, 4), (4, 18, 1, 4), (2, 21, 2, 8)]),
    ],
)
def test_tokens_after_every_block(methods, expected):
    model = DualEncoder(TINY, methods, frames=FRAMES, cls_only=False)
    tokens = jax.eval_shape(lambda p: captured(model, p)[1], abstract_params(model))
    assert shapes(tokens) == expected


def test_prompts_stay_out_of_the_merging():
    """Carried prompts keep size one and no members; every patch is in one token."""
    model, params = start(SHALLOW, ToMe(6))
    last = captured(model.clone(cls_only=False), params)[1]["block_1"]
    prompts = slice(1, 1 + PROMPTS)
    assert (np.asarray(last.size[:, :, prompts]) == 1).all()
    assert not np.asarray(last.members[:, :, prompts]).any()
    np.testing.assert_allclose(last.members.sum((1, 2)), 1, atol=1e-6)
    np.testing.assert_allclose(last.size[:, :, 1 + PROMPTS :].sum(-1), PATCHES, atol=1e-5)


def test_matched_prompts_take_part_in_the_merging():
    """Sizes then count prompts too, so they exceed the number of patches that tokens hold."""
    model, params = start(MATCHED, ToMe(8))
    last = captured(model.clone(cls_only=False), params)[1]["block_1"]
    np.testing.assert_allclose(last.size[:, :, 1:].sum(-1), PATCHES + PROMPTS, atol=1e-5)
    np.testing.assert_allclose(last.members.sum((1, 2)), 1, atol=1e-6)
    mixed = np.asarray(last.size - last.members.sum(-1))[:, :, 1:]
    assert ((mixed > 0.5) & (np.asarray(last.members.sum(-1))[:, :, 1:] > 0.5)).any()


@pytest.mark.quick(1)
@pytest.mark.parametrize("deep", [True, False])
def test_starts_within_the_published_bound(deep):
    spec = DualEncoderSpec(
        VisionSpec(16, 4, 64, 1, 2, 16), TextSpec(6, 11, 64, 1, 2, 16), embed_dim=4
    )
    method = Prompt(200, deep=deep)
    model = DualEncoder(spec, (method,))
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    leaves = flax.traverse_util.flatten_dict(method.init_from_backbone(params, spec), sep="/")
    bounds = {"visual": (6 / (3 * 4**2 + 64)) ** 0.5, "text": xavier_bound(64)}
    prompts = {path: x for path, x in leaves.items() if path.endswith("prompt")}
    assert len(prompts) == 2
    for path, x in prompts.items():
        assert 0.99 * bounds[path.split("/")[0]] < np.abs(x).max() <= bounds[path.split("/")[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matched": True}, "set one of the two to False"),
        ({"tokens": 0}, "prompt.tokens must be >= 1, got 0"),
        ({"towers": ["audio"]}, "audio; choose from visual, text"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_methods({"prompt": options})
