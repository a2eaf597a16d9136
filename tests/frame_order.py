"""What a model computes from a video, its reversal, and its frames in another order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.model_io.build import abstract_params, build_model

ORDER = np.random.default_rng(1).permutation(8)


def in_three_orders(config: Any) -> np.ndarray:
    """Outputs at random weights, [3, ...]: a dual encoder's embedding, a captioner's logits of a
    caption, or what a chat model's language model reads, in the order in which it does."""
    config.model.checkpoint = ""
    model = build_model(config.model)
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0.4 * rng.normal(size=x.shape).astype("f") + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )
    video = rng.normal(size=(1, 8, 32, 32, 3)).astype(np.float32)
    videos = np.concatenate([video, video[:, ::-1], video[:, ORDER]])

    def encode(params, videos):
        if model.spec.kind != "captioner":
            return model.apply({"params": params}, videos, method="encode_video")[0]
        ids = jnp.broadcast_to(jnp.arange(2, 10), (len(videos), 8))
        return model.apply({"params": params}, videos, ids)["logits"]

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(encode)(params, videos))


def gap(outputs: np.ndarray) -> float:
    """The largest difference from the first output, as a share of that output's largest value."""
    return float(np.abs(outputs[1:] - outputs[0]).max() / np.abs(outputs[0]).max())
