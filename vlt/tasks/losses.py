"""Contrastive and alignment losses over a global batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vlt.runtime.mesh import batch_parts

Without = Callable[[jax.Array], jax.Array]


def info_nce(
    x: jax.Array, y: jax.Array, scale: jax.Array | float, ids: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of each x among all y, both unit vectors [b, e], mean over b (Eq. 6).

    On several devices, y is read in as many chunks as there are devices that hold rows of x, so
    that a device has [b / n, b / n] logits at a time, and recomputes them for the gradient.

    ids: [b, l]; samples with equal rows are not negatives of each other.
    """

    def add(total: jax.Array, others: jax.Array, without: Without, _: jax.Array) -> jax.Array:
        logits = scale * jnp.matmul(x, others.T, preferred_element_type=jnp.float32)
        return jnp.logaddexp(total, jax.nn.logsumexp(without(logits), axis=-1))

    total = _over_chunks(add, jnp.full(len(x), -jnp.inf), y, ids)
    own = scale * jnp.einsum("be,be->b", x, y, preferred_element_type=jnp.float32)
    return (total - own).mean()


def _over_chunks(
    add: Callable[[jax.Array, jax.Array, Without, jax.Array], jax.Array],
    start: jax.Array,
    y: jax.Array,
    ids: jax.Array | None,
) -> jax.Array:
    """Folds `add(total, others, without, own)` over chunks of y; logits are recomputed for the
    gradient. `without` masks those of equal texts, `own` [b, c] marks each row's own column."""
    parts = batch_parts()
    columns = jnp.arange(len(y))
    chunks = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), (y, columns, ids))

    @jax.checkpoint
    def step(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        others, places, their_ids = chunk

        def without(logits: jax.Array) -> jax.Array:
            if ids is None:
                return logits
            return _without_equal_texts(logits, (ids, columns), (their_ids, places))

        return add(total, others, without, columns[:, None] == places), None

    return jax.lax.scan(step, start, chunks)[0]


def _without_equal_texts(
    logits: jax.Array, rows: tuple[jax.Array, jax.Array], columns: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Logits [r, c], masked where texts at other places are equal. rows, columns: (ids, places)."""
    (ids, places), (their_ids, their_places) = rows, columns
    same = (ids[:, None] == their_ids[None]).all(-1) & (places[:, None] != their_places)
    return jnp.where(same, jnp.finfo(jnp.float32).min, logits)


def contrastive(
    x: jax.Array, y: jax.Array, scale: jax.Array | float, ids: jax.Array | None = None
) -> jax.Array:
    """Sum of both directions, as in BT-Adapter's VTC and MBCA; CLIP's loss is half of it."""
    return info_nce(x, y, scale, ids) + info_nce(y, x, scale, ids)


def contrastive_scores(
    scores: jax.Array, scale: jax.Array | float, ids: jax.Array | None = None
) -> jax.Array:
    """`contrastive` from scores [b, b] of every pair instead of embeddings; `ids` as there."""
    own = jnp.arange(len(scores))
    logits = scale * scores.astype(jnp.float32)
    if ids is not None:
        logits = _without_equal_texts(logits, (ids, own), (ids, own))
    loss = optax.softmax_cross_entropy_with_integer_labels
    return loss(logits, own).mean() + loss(logits.T, own).mean()


def sigmoid(
    x: jax.Array,
    y: jax.Array,
    scale: jax.Array | float,
    bias: jax.Array | float,
    ids: jax.Array | None = None,
) -> jax.Array:
    """Loss of each pair of x and y, both unit vectors [b, e]: -log sigmoid(+-(scale x.y + bias)),
    summed over all y, mean over x (SigLIP, Zhai et al., arXiv:2303.15343, Algorithm 1).

    Not divided by the number of pairs: a larger batch has a larger loss. Devices and `ids` are
    treated as in `info_nce`; wrong pairs that are not negatives do not count.
    """

    def add(total: jax.Array, others: jax.Array, without: Without, own: jax.Array) -> jax.Array:
        logits = scale * jnp.matmul(x, others.T, preferred_element_type=jnp.float32) + bias
        logits = without(logits)
        return total - jax.nn.log_sigmoid(jnp.where(own, logits, -logits)).sum(-1)

    return _over_chunks(add, jnp.zeros(len(x)), y, ids).mean()


def token_alignment(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared distance of tokens [b, t, k, e], mean over a video's tokens: [b] (MBTA, Eq. 7)."""
    distance = jnp.square(student.astype(jnp.float32) - teacher.astype(jnp.float32)).sum(-1)
    return distance.mean((1, 2))


def token_loss(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """Cross-entropy per word of each text, [b]; id 0 is padding and does not count."""
    words = ids > 0
    loss = optax.softmax_cross_entropy_with_integer_labels(logits[:, : ids.shape[1]], ids)
    return jnp.where(words, loss, 0.0).sum(-1) / words.sum(-1)


def smoothed_cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy [b] of logits [b, c]; a share `smoothing` of the target is spread over all
    classes (Szegedy et al., arXiv:1512.00567)."""
    own = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    if not smoothing:
        return own
    even = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
    return (1 - smoothing) * own + smoothing * even


SAME_CLASS = 10.0  # the target's logit for a pair of one class, 0 for others


def same_class_divergence(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """KL divergences to the softmax of `SAME_CLASS` where two samples share a class, 0 elsewhere.

    logits: [b, b] of each video of a batch with each sample's text. Returns the means over videos
    and over texts (ActionCLIP, Wang et al., arXiv:2109.08472, Eq. 5).
    """
    same = SAME_CLASS * (label[:, None] == label[None])
    target, log_target = jax.nn.softmax(same), jax.nn.log_softmax(same)

    def divergence(scores: jax.Array) -> jax.Array:
        return (target * (log_target - jax.nn.log_softmax(scores))).sum(-1).mean()

    return divergence(logits), divergence(logits.T)
