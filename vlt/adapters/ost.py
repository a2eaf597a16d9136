"""OST: frames matched with sentences that describe a class (Chen et al., arXiv:2312.00096).

A class has N spatial and N temporal sentences. For each kind, with S [t, N] the cosines of frames
and sentences, Sinkhorn's algorithm finds an optimal transport plan P with uniform marginals for the
costs 1 - S, and the class scores

    (<P, S> + mean S) / 2

summed over both kinds. No gradient goes through P.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vlt.models.points import Embedded, Method, Scope, TextScope
from vlt.models.vit import normalize


@dataclasses.dataclass(frozen=True)
class OST(Method):
    """No leaves. A text without sentences is the one sentence of both kinds.

    entropy: weight of the plan's entropy. steps: steps of Sinkhorn's algorithm. The published code
        ends when the mean change of a scaling, over all pairs of a call, is below 0.01 (five steps
        in what was tried), so a video's scores depend on the others in the call and on how they are
        split among devices; with a fixed number they do not.

    Raises:
        ValueError: entropy not above 0; steps below 1.
    """

    name: ClassVar[str] = "ost"
    needs: ClassVar[frozenset[str]] = frozenset({"pair_scores"})
    text_needs: ClassVar[frozenset[str]] = frozenset({"text_tower"})
    breaks: ClassVar[frozenset[str]] = frozenset({"pair_scores"})

    entropy: float = 0.1
    steps: int = 10

    def __post_init__(self) -> None:
        if not self.entropy > 0:
            raise ValueError(f"ost.entropy must be > 0, got {self.entropy}")
        if self.steps < 1:
            raise ValueError(f"ost.steps must be >= 1, got {self.steps}")

    @property
    def towers(self) -> tuple[str, ...]:
        return ("visual", "text")

    @property
    def reads_sentences(self) -> bool:
        return True

    @property
    def text_extras(self) -> tuple[str, ...]:
        return ("sentences",)

    def text_head(
        self, tower: TextScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the text tower: `sentences` [b, 1, 1, e], the text itself for every kind."""
        return features, {"sentences": features[:, None, None]}

    def score(
        self, model: Scope, video: Embedded, text: Embedded, scores: jax.Array, train: bool
    ) -> jax.Array:
        """Point 9. text["sentences"]: [c, kinds, N, e], or one kind that stands for both."""
        sentences = normalize(text["sentences"])
        cosines = jnp.einsum("vte,cnse->vcnts", normalize(video["frames"]), sentences)
        plan = transport_plan(cosines, self.entropy, self.steps)
        matched = (plan * cosines).sum((-1, -2)) + cosines.mean((-1, -2))
        return matched.mean(-1)


METHOD = OST


def transport_plan(cosines: jax.Array, entropy: float, steps: int) -> jax.Array:
    """Sinkhorn's plans [..., t, n] for costs 1 - cosines [..., t, n] and marginals 1/t, 1/n."""
    t, n = cosines.shape[-2:]
    kernel = jax.lax.stop_gradient(jnp.exp((cosines - 1) / entropy))
    columns = jnp.ones((*kernel.shape[:-2], 1, n))
    for _ in range(steps):
        rows = 1 / (t * (kernel * columns).sum(-1, keepdims=True))
        columns = 1 / (n * (kernel * rows).sum(-2, keepdims=True))
    return rows * kernel * columns
