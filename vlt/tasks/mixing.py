"""Mixup (Zhang et al., arXiv:1710.09412) and cutmix (Yun et al., arXiv:1905.04899) of clips.

Each clip is mixed with the one before it in the whole batch, which comes shuffled, so the mixture
is the same on any number of devices and in any number of parts.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlt.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Parameters of mixup and cutmix.

    mixup, cutmix: a in Beta(a, a), from which a batch's share is drawn; 0 turns it off. switch:
    share of the batches that get cutmix, where both are on.

    Raises:
        ValueError: one of them is below 0, `switch` is above 1, or both mixtures are off.
    """

    mixup: float
    cutmix: float
    switch: float = 0.5

    def __post_init__(self) -> None:
        for field, value in dataclasses.asdict(self).items():
            if value < 0:
                raise ValueError(f"task.{field}={value}: must be >= 0")
        if self.switch > 1:
            raise ValueError(f"task.switch={self.switch}: must be <= 1, a share of the batches")
        if not self.mixup and not self.cutmix:
            raise ValueError("task.mixup=0 with task.cutmix=0: there is nothing to mix by")

    def drawn(self, batch: Batch, rng: jax.Array) -> Batch:
        """The batch with each clip's partner, `other_video` and `other_label`, and the mixture.

        `share` [b]: the own label's share of the target. `blend` [b]: weight of the own pixels.
        `box` int [b, 4]: rows from and to, and columns from and to, where all pixels are the
        partner's.
        """
        kind, strength, place = jax.random.split(rng, 3)
        b, _, height, width, _ = batch["video"].shape
        cut = jnp.asarray(self.cutmix > 0)
        if self.cutmix and self.mixup:
            cut = jax.random.bernoulli(kind, self.switch)
        alpha = jnp.where(cut, self.cutmix, self.mixup)
        share = jax.random.beta(strength, alpha, alpha)
        box = jnp.where(cut, _box(place, share, height, width), 0)
        outside = 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)
        return {
            **batch,
            "other_video": jnp.roll(batch["video"], 1, axis=0),
            "other_label": jnp.roll(batch["label"], 1),
            "share": jnp.full(b, jnp.where(cut, outside, share)),
            "blend": jnp.full(b, jnp.where(cut, 1.0, share)),
            "box": jnp.broadcast_to(box, (b, 4)),
        }


def mixed(own: jax.Array, other: jax.Array, batch: Batch) -> jax.Array:
    """Normalised clips [b, t, H, W, 3], mixed as `Mixing.drawn` says in `batch`."""
    blend = batch["blend"].astype(own.dtype)[:, None, None, None, None]
    blended = blend * own + (1 - blend) * other
    row, column = jnp.arange(own.shape[2]), jnp.arange(own.shape[3])
    top, bottom, left, right = (side[:, None] for side in batch["box"].T)
    rows, columns = (top <= row) & (row < bottom), (left <= column) & (column < right)
    inside = rows[:, :, None] & columns[:, None]
    return jnp.where(inside[:, None, ..., None], other, blended)


def _box(rng: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """A box [4] of 1 - share of the picture, around a random point and clipped at the borders."""
    sides = jnp.array([height, width])
    half = (sides * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    centre = jax.random.randint(rng, (2,), 0, sides)
    low, high = jnp.clip(centre - half, 0, sides), jnp.clip(centre + half, 0, sides)
    return jnp.stack([low, high], axis=1).reshape(4)
