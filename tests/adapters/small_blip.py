"""A small captioner, weight counts at BLIP's size, and parts of a transformer in numpy."""

import functools
import math
import re
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from vlt.model_io.build import abstract_params
from vlt.models.captioner import Captioner
from vlt.models.points import Method
from vlt.models.sizes import SIZES
from vlt.models.spec import BertSpec, BlipSpec, VisionSpec

FRAMES = 4
VISUAL = VisionSpec(16, 4, 16, 2, 2, 32, "gelu", 1e-6, pre_norm=False, patch_bias=True)
TEXT = BertSpec(8, 30, 16, 2, 2, 32, source_width=16, decode_id=28, encode_id=29, end_id=2)
SPEC = BlipSpec("captioner", VISUAL, TEXT)
NO_WEIGHTS = r"visual/(patch_embedding/.*|class_embedding|position_embedding)"


def captioner(*methods: Method) -> Captioner:
    """The small captioner with these methods, whose options are checked to fit it."""
    for method in methods:
        method.check(SPEC, FRAMES)
    return Captioner(SPEC, methods, frames=FRAMES)


def videos(frames: int = FRAMES) -> np.ndarray:
    """Normalised noise, [2, t, H, W, 3]."""
    return np.random.default_rng(1).normal(size=(2, frames, 16, 16, 3)).astype(np.float32)


def leaves(tree: dict) -> dict[str, Any]:
    """Flattens a tree to {'/'-joined path: leaf}."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def random_params(model: Captioner) -> dict[str, Any]:
    """Draws every leaf at random, those of methods too, with scales near 1."""
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            rng.normal(0, 0.3, x.shape).astype(np.float32) + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )


@functools.cache
def _encode(model: Captioner):
    def encode(params, video):
        return model.apply({"params": params}, video, method="encode_video")[0]

    return jax.jit(encode)


def frame_features(model: Captioner, params: dict, video: np.ndarray) -> np.ndarray:
    """The tokens that the decoder reads, [b, t, n, d]."""
    with jax.default_matmul_precision("highest"):
        tokens = np.asarray(_encode(model)(params, video))
    return tokens.reshape(*video.shape[:2], -1, VISUAL.width)


def gradients(model: Captioner, params: dict) -> dict[str, Any]:
    """Gradients, by path, of the sum of some channels of what the decoder reads."""

    def score(p):
        return model.apply({"params": p}, videos(), method="encode_video")[0][..., :3].sum()

    return leaves(jax.jit(jax.grad(score))(params))


def video_weights(rule: str, *methods: Method) -> int:
    """vlt.inspect's `trainable_weights_video` of a BLIP base captioner, for one rule."""
    model = Captioner(SIZES["blip_b16_captioner"], methods)
    trained = {k: v for k, v in leaves(abstract_params(model)).items() if re.fullmatch(rule, k)}
    assert trained
    return sum(
        math.prod(leaf.shape)
        for path, leaf in trained.items()
        if path.startswith("visual/") and not re.fullmatch(NO_WEIGHTS, path) and leaf.ndim >= 2
    )


def dense(leaf: dict, x: np.ndarray) -> np.ndarray:
    return x @ np.float64(leaf["kernel"]) + leaf.get("bias", 0)


def layer_norm(leaf: dict, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return centred / deviation * leaf["scale"] + leaf["bias"]


def attention(leaf: dict, x: np.ndarray, heads: int) -> np.ndarray:
    """Attention [..., m, d] -> [..., m, d] in which every token attends to all m."""

    def split(name):
        y = dense(leaf[name], x)
        return y.reshape(*y.shape[:-1], heads, -1).swapaxes(-2, -3)

    query, key, value = split("query"), split("key"), split("value")
    logits = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ value
    return dense(leaf["out"], y.swapaxes(-2, -3).reshape(x.shape))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def block(leaf: dict, x: np.ndarray, heads: int, eps: float) -> np.ndarray:
    """A pre-LN transformer block on [..., m, d]."""
    x = x + attention(leaf["attention"], layer_norm(leaf["norm1"], x, eps), heads)
    hidden = gelu(dense(leaf["mlp"]["fc1"], layer_norm(leaf["norm2"], x, eps)))
    return x + dense(leaf["mlp"]["fc2"], hidden)
