"""Captioning: predicts the next word of a caption, with BLIP's label smoothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlt.tasks.task import Batch, Features, Task, Terms


@dataclasses.dataclass(frozen=True)
class Captioning(Task):
    """Mean cross-entropy of the words after the prompt (BLIP, arXiv:2201.12086, section 3.2).

    label_smoothing: share of the target that is spread over the whole vocabulary. prompt_length:
    number of given tokens at the start of each caption, [DEC] included.
    """

    label_smoothing: float = 0.1
    prompt_length: int = 1

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """Summed loss and number of words of each caption, [b]."""
        losses, counted = word_losses(
            outputs["logits"], batch["text"], self.label_smoothing, self.prompt_length
        )
        return {"losses": losses.sum(-1), "words": counted.sum(-1).astype(jnp.float32)}

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """Mean over all words of the batch."""
        value = features["losses"].sum() / features["words"].sum()
        return value, {"caption": value}


def word_losses(
    logits: jax.Array, ids: jax.Array, label_smoothing: float, prompt_length: int
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each next token, 0 for padding (id 0) and prompt, and which tokens count.

    logits [..., l, v] of what follows ids [..., l] -> two arrays [..., l - 1]. With smoothing e the
    target has 1 - e on the token plus e / v everywhere, as in torch.
    """
    targets = ids[..., 1:]
    position = jnp.arange(1, ids.shape[-1])
    counted = (targets > 0) & (position >= prompt_length)
    logits = logits[..., :-1, :]
    own = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if label_smoothing:
        mean = jax.nn.logsumexp(logits, -1) - logits.mean(-1)
        own = (1 - label_smoothing) * own + label_smoothing * mean
    return jnp.where(counted, own, 0.0), counted
