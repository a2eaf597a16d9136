"""How likely a language model finds answers that may follow a prompt, which is read once."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vlt.models.continuation import Reading

AT_ONCE = 8  # answers to a prompt whose keys, values and logits are held together


@functools.partial(jax.jit, static_argnames="model")
def answer_losses(
    model: nn.Module, params: Any, reading: Reading, ids: jax.Array, learned: jax.Array
) -> jax.Array:
    """Negative log-likelihoods [b, k] in nats of `ids` [b, k, l], each of which may follow what was
    read of a prompt, summed over the tokens that are `learned` [b, k, l]."""
    k, length = ids.shape[1:]
    cache = jax.tree.map(lambda x: jnp.repeat(x, k, axis=1), reading.cache)
    places = reading.end + jnp.arange(length) - reading.skipped[:, None]
    valid = jnp.arange(reading.room) >= reading.skipped[:, None]

    def decode(model: Any) -> jax.Array:
        given = {"cache": cache, "index": reading.end, "whole": True}
        found: jax.Array = model.decode(model.embed(ids), places, valid, **given)[0]
        return found

    logits: Any = model.apply({"params": params}, method=decode)
    before = jnp.broadcast_to(reading.logits[:, None, None], (*ids.shape[:2], 1, logits.shape[-1]))
    logits = jnp.concatenate([before, logits[:, :, :-1]], axis=2)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
    return jnp.where(learned, each, 0.0).sum(-1)
