"""A small CLIP, and what holds for every method that removes tokens from it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.costs.flops import count, count_first
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, example_inputs
from vlt.models.dual_encoder import DualEncoder
from vlt.models.points import Method
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

FRAMES = 4
SPEC = DualEncoderSpec(
    VisionSpec(16, 4, 16, 4, 2, 32), TextSpec(5, 11, 16, 2, 2, 32), embed_dim=8
)  # 16 patches


def small(*methods: Method, cls_only: bool = True) -> DualEncoder:
    """The small CLIP with these methods, whose options are checked to fit it."""
    for method in methods:
        method.check(SPEC, FRAMES)
    return DualEncoder(SPEC, methods, frames=FRAMES, cls_only=cls_only, frame_norm=True)


def random_params(model: DualEncoder) -> dict[str, Any]:
    """Draws every leaf with enough spread for attention to prefer some tokens."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.normal(scale=0.4, size=leaf.shape).astype(np.float32)

    return jax.tree.map(draw, abstract_params(model))


def videos(b: int = 3) -> jax.Array:
    """Normalised noise, [b, t, H, W, 3]."""
    return jax.random.normal(jax.random.key(1), (b, FRAMES, 16, 16, 3))


@functools.partial(jax.jit, static_argnames=("model", "train"))
def embed(
    model: DualEncoder,
    params: dict[str, Any],
    video: jax.Array,
    train: bool = False,
    rngs: dict[str, jax.Array] | None = None,
) -> jax.Array:
    """Video embeddings [b, e]."""
    variables = {"params": params}
    return model.apply(variables, video, train=train, method="encode_video", rngs=rngs)[0]


def check_whole_model(method: Method) -> None:
    """Checks that videos do not interact and that the last block's saving changes nothing."""
    model = small(method)
    params, video = random_params(model), videos()
    expected = embed(model, params, video)
    swapped = embed(model, params, video[::-1])
    np.testing.assert_allclose(swapped[::-1], expected, atol=1e-5)
    assert jnp.abs(expected - expected[0]).max() > 1e-2
    whole = embed(small(method, cls_only=False), params, video)
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def price(model: DualEncoder) -> float:
    """GMACs of a video, from shapes alone."""
    video, _ = example_inputs(model.spec, model.frames, 4)

    def encode(params: dict[str, Any], video: jax.Array) -> jax.Array:
        return model.apply({"params": params}, video, method="encode_video")[0]

    return count(encode, abstract_params(model), video).total / 1e9


def layers_and_gmacs(
    size: str, frames: int, **options: dict[str, Any]
) -> tuple[list[tuple[int, ...]], float]:
    """(groups, tokens) leaving each block, and the published price, from shapes alone."""
    methods = build_methods(options)
    for method in methods:
        method.check(SIZES[size], frames)
    model = DualEncoder(SIZES[size], methods, frames=frames, cls_only=False)
    video, _ = example_inputs(model.spec, frames, 4)

    def encode(params: dict[str, Any], video: jax.Array) -> Any:
        return model.apply({"params": params}, video, capture=True, method="encode_video")

    cost, out = count_first(encode, abstract_params(model), video)
    counts = [out[f"block_{i}"].x.shape[1:3] for i in range(model.spec.visual.layers)]
    return counts, cost.total / 1e9
