"""Contrastive and alignment losses over a global batch."""

import jax
import jax.numpy as jnp
import optax


def info_nce(x: jax.Array, y: jax.Array, scale: jax.Array | float, same: jax.Array) -> jax.Array:
    """Cross-entropy of each x among all y, both unit vectors [b, e], mean over b (Eq. 6).

    same: bool [b, b], pairs besides the diagonal that are no negatives of each other.
    """
    logits = scale * jnp.matmul(x, y.T, preferred_element_type=jnp.float32)
    logits = jnp.where(same, jnp.finfo(jnp.float32).min, logits)
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(x))).mean()


def contrastive(x: jax.Array, y: jax.Array, scale: jax.Array | float, same: jax.Array) -> jax.Array:
    """Sum of both directions, as BT-Adapter's VTC and MBCA; CLIP's loss is half of it."""
    return info_nce(x, y, scale, same) + info_nce(y, x, scale, same)


def token_alignment(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared distance of tokens [b, t, k, e], mean over a video's tokens: [b] (MBTA, Eq. 7)."""
    distance = jnp.square(student.astype(jnp.float32) - teacher.astype(jnp.float32)).sum(-1)
    return distance.mean((1, 2))


def equal_rows(ids: jax.Array) -> jax.Array:
    """bool [b, b]: different samples of the batch with the same text ids [b, l]."""
    equal = (ids[:, None] == ids[None]).all(-1)
    return equal & ~jnp.eye(len(ids), dtype=bool)


def token_loss(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """Cross-entropy per word of each text, [b]; id 0 is padding and does not count."""
    words = ids > 0
    loss = optax.softmax_cross_entropy_with_integer_labels(logits[:, : ids.shape[1]], ids)
    return jnp.where(words, loss, 0.0).sum(-1) / words.sum(-1)
