"""STA: prunes patches that repeat what earlier frames show (Ding et al., ICCV 2023).

Semantic-aware temporal accumulation; nothing is learned. TempMe's tables run it on CLIP without
saying how. Keeping 60% of the patches twice, at a third and at two thirds of the tower, costs the
35.7 GMACs that they print; that setting is inferred.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlt.merging.matching import PRECISION, mean_keys, permute
from vlt.models.options import check_layers
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import AttentionOutput, Tokens
from vlt.models.vit import normalize


@dataclasses.dataclass(frozen=True)
class STA(Method):
    """layers: blocks after which patches are pruned, from 0. keep: share of them that each keeps.

    Frames are accumulated from the first to the last, and backwards at every second of `layers`.
    Patches are ordered between attention and MLP, where the keys are at hand, and cut off after the
    MLP; their importance is therefore read before the MLP, where the published code reads it after.
    """

    name: ClassVar[str] = "sta"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "patch_places"})

    layers: tuple[int, ...] = (3, 7)
    keep: float = 0.6

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for layers the tower does not have, and for shares outside (0, 1) or
        too small for the first frame, where at most half of the patches can go."""
        check_layers("sta.layers", self.layers, spec.visual.layers)
        if not 0 < self.keep < 1:
            raise ValueError(f"sta.keep must be > 0 and < 1, got {self.keep}")
        patches = spec.visual.patches
        for layer in self.layers:
            kept = math.ceil(self.keep * patches)
            if patches - kept > (patches + 1) // 2:
                raise ValueError(
                    f"sta.keep={self.keep} leaves {kept} of {patches} patches after block {layer}; "
                    f"at most {(patches + 1) // 2} can go, so keep at least 0.5"
                )
            patches = kept

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: orders patches by falling worth."""
        if block.layer not in self.layers or not tokens.patches:
            return tokens
        first = tokens.protected
        keys = normalize(mean_keys(attended)[:, :, first:].astype(jnp.float32))
        importance = _min_max(jnp.abs(tokens.x[:, :, first:].astype(jnp.float32)).sum(-1))
        backwards = self.layers.index(block.layer) % 2 == 1
        if backwards:
            keys, importance = keys[:, ::-1], importance[:, ::-1]
        kept = math.ceil(self.keep * tokens.patches)
        order = order_patches(*jax.lax.stop_gradient((keys, importance)), kept)
        if backwards:
            order = order[:, ::-1]
        return tokens.rearrange(
            lambda x: jnp.concatenate([x[:, :, :first], permute(x[:, :, first:], order)], axis=2)
        )

    def after_block(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: cuts off the tail."""
        if block.layer not in self.layers or not tokens.patches:
            return tokens
        end = tokens.protected + math.ceil(self.keep * tokens.patches)
        return tokens.rearrange(lambda x: x[:, :, :end])


METHOD = STA


def order_patches(keys: jax.Array, importance: jax.Array, kept: int) -> jax.Array:
    """Order [b, t, n] of each frame's patches, the first `kept` to stay.

    keys: [b, t, n, e] unit vectors. importance: [b, t, n] from 0 to 1.

    In the first frame, the even patches most like an odd one go. A patch of frame t takes over what
    the kept patches of frame t - 1 have accumulated, by a softmax of similarity over the patches of
    frame t, and goes where that is much and its importance little.
    """
    best = _similarity(keys[:, 0, ::2], keys[:, 0, 1::2]).max(-1)
    worth = jnp.full(keys.shape[:1] + keys.shape[2:3], -jnp.inf).at[:, ::2].set(best)
    orders = [jnp.argsort(worth)[:, None]]

    def step(
        before: tuple[jax.Array, jax.Array], frame: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (earlier, accumulated), (own, weight) = before, frame
        transition = jax.nn.softmax(_similarity(own, earlier), axis=1)
        total = jnp.einsum("bnk,bk->bn", transition, accumulated, precision=PRECISION)
        order = jnp.argsort(total * (1 - weight))
        stay = order[:, :kept]
        total = jnp.take_along_axis(total, stay, axis=1)
        own = jnp.take_along_axis(own, stay[..., None], axis=1)
        return (own, total / total.sum(1, keepdims=True)), order

    if keys.shape[1] > 1:
        # As published, the second frame is compared with the whole first one.
        start = (keys[:, 0], jnp.ones(keys.shape[:1] + keys.shape[2:3]))
        carry, order = step(start, (keys[:, 1], importance[:, 1]))
        rest = (keys[:, 2:].swapaxes(0, 1), importance[:, 2:].swapaxes(0, 1))
        _, others = jax.lax.scan(step, carry, rest)
        orders += [order[:, None], others.swapaxes(0, 1)]
    return jnp.concatenate(orders, axis=1)


def _similarity(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum("bne,bke->bnk", x, y, precision=PRECISION)


def _min_max(x: jax.Array) -> jax.Array:
    """Scales [b, t, n] to 0 at each frame's least value and 1 at its largest."""
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    return (x - low) / (high - low).clip(1e-12)
