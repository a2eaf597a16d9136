"""Text-video retrieval: its losses, and the terms in which they are logged."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vlt.models.vit import normalize
from vlt.pytrees.fields import near
from vlt.tasks import losses
from vlt.tasks.task import Batch, Features, Task, Terms


def _branch_features(outputs: Mapping[str, Any], batch: Batch) -> jax.Array:
    return normalize(outputs["visual_out"]["branch_features"])


def _token_distance(outputs: Mapping[str, Any], batch: Batch) -> jax.Array:
    visual = outputs["visual_out"]
    return losses.token_alignment(visual["student"], visual["teacher"])


def _token_loss(outputs: Mapping[str, Any], batch: Batch) -> jax.Array:
    return losses.token_loss(outputs["text_out"]["token_logits"], batch["text"])


def _price(outputs: Mapping[str, Any], batch: Batch) -> jax.Array:
    """(GMACs - target)^2, the same for every sample."""
    excess = jnp.square(outputs["visual_out"]["gmacs_excess"])
    return jnp.broadcast_to(excess, batch["text"].shape[:1])


def _logit_bias(outputs: Mapping[str, Any]) -> jax.Array:
    if "logit_bias" not in outputs:
        raise ValueError("task.losses.sigmoid: the model has no logit_bias, as a SigLIP has")
    if "scores" in outputs:
        raise ValueError("task.losses.sigmoid: a method of the model scores pairs; set vtc")
    bias: jax.Array = outputs["logit_bias"]
    return bias


# Name of a loss -> what it needs of each sample besides the two embeddings.
EXTRACT: dict[str, Callable[[Mapping[str, Any], Batch], jax.Array] | None] = {
    "vtc": None,
    "sigmoid": None,
    "mbca": _branch_features,
    "mbta": _token_distance,
    "caption_reconstruction": _token_loss,
    "diffrate": _price,
}


@dataclasses.dataclass(frozen=True)
class Retrieval(Task):
    """Weighted losses between videos and texts.

    losses: {name of EXTRACT: weight}. `vtc` and `mbca` contrast over the global batch, `sigmoid`
        judges each of its pairs by itself; the others are means over samples.
    scale: 1 / temperature, or None for the model's own logit scale, at most 100 where a loss
        contrasts.
    mask_duplicates: whether to exclude samples with the same text as each other's negatives.
    """

    losses: Mapping[str, float]
    scale: float | None
    mask_duplicates: bool

    def __post_init__(self) -> None:
        for name in self.losses:
            if name not in EXTRACT:
                raise ValueError(f"unknown task.losses: {name!r}{near(name, EXTRACT)}")

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """Both embeddings, any scores of pairs, ids, logit scale, and what other losses need."""
        found = {"video": outputs["video"], "text": outputs["text"], "ids": batch["text"]}
        found["logit_scale"] = outputs["logit_scale"]
        if "sigmoid" in self.losses:
            found["logit_bias"] = _logit_bias(outputs)
        if "scores" in outputs:
            found["scores"] = outputs["scores"]
        for name in self.losses:
            extract = EXTRACT[name]
            if extract is not None:
                try:
                    found[name] = extract(outputs, batch)
                except KeyError as missing:
                    raise ValueError(
                        f"task.losses.{name}: no method of the model outputs {missing}"
                    ) from None
        return found

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """Weighted sum, and every unweighted term."""
        own = jnp.exp(features["logit_scale"]).clip(max=100.0)
        scale = own if self.scale is None else self.scale
        ids = features["ids"] if self.mask_duplicates else None
        terms = {}
        for name in self.losses:
            if name == "vtc" and "scores" in features:
                terms[name] = losses.contrastive_scores(features["scores"], scale, ids)
            elif name in ("vtc", "mbca"):
                x = features["video" if name == "vtc" else name]
                terms[name] = losses.contrastive(x, features["text"], scale, ids)
            elif name == "sigmoid":
                free = jnp.exp(features["logit_scale"]) if self.scale is None else self.scale
                pair = features["video"], features["text"]
                terms[name] = losses.sigmoid(*pair, free, features["logit_bias"], ids)
            else:
                terms[name] = features[name].mean()
        total = sum(self.losses[name] * term for name, term in terms.items())
        return jnp.asarray(total), terms
