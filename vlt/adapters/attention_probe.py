"""VideoPrism's attention probe: a classifier on a frozen encoder (arXiv:2402.13217, Section 4).

    logits = W LN(Attention(query, all tokens of all frames)) + b

One learned query reads the tokens, as in the video-text models' pooler, but with queries, keys and
values as wide as the tower; a linear layer with a row of weights for each class follows.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.layers import Dense
from vlt.models.points import Method, TowerScope
from vlt.models.pooler import Pooler
from vlt.models.spec import PoolerSpec, Spec, VisionSpec


@dataclasses.dataclass(frozen=True)
class AttentionProbe(Method):
    """Leaves: visual/attention_probe. The model's output for a video is logits [b, 1, c].

    classes: c, the number trained on. heads: heads of the query's attention, 0 for the tower's.

    Raises:
        ValueError: classes below 1, heads below 0.
    """

    name: ClassVar[str] = "attention_probe"
    needs: ClassVar[frozenset[str]] = frozenset({"tokens_alone"})

    classes: int = 400
    heads: int = 0

    def __post_init__(self) -> None:
        for field, least in (("classes", 1), ("heads", 0)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"attention_probe.{field} must be >= {least}, got {getattr(self, field)}"
                )

    @property
    def known_classes(self) -> int:
        return self.classes

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for heads that do not divide the tower's width."""
        if spec.visual.width % (self.heads or spec.visual.heads):
            raise ValueError(
                f"attention_probe.heads={self.heads} does not divide the tower's width, "
                f"{spec.visual.width}"
            )

    def features(self, tower: TowerScope, x: jax.Array) -> jax.Array:
        """Tokens [b, g, n, d] -> logits [b, 1, 1, c], float32."""
        spec = tower.spec
        pooler = PoolerSpec(self.heads or spec.heads, spec.width, channel_scale=True)
        spec = dataclasses.replace(spec, pooler=pooler)
        return Probe(spec, self.classes, tower.dtype, name=self.name)(x)


class Probe(nn.Module):
    """The query's attention, and the linear layer after it."""

    spec: VisionSpec
    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [b, g, n, d] -> logits [b, 1, 1, c], float32."""
        together = x.reshape(x.shape[0], 1, -1, x.shape[-1])
        pooled = Pooler(self.spec, dtype=self.dtype, name="pooler")(together, None)
        logits = Dense(self.classes, dtype=self.dtype, name="classes")(pooled)
        return logits.astype(jnp.float32)


METHOD = AttentionProbe
