"""DiffRate: how many patches each block prunes and merges is learned (Chen et al., ICCV 2023).

A block sorts its patches by the CLS token's attention, drops the tail, then merges the next part of
the tail into the most similar of those that stay. While the counts are learned, every token stays;
those removed have size 0, which takes them out of the softmax but lets a gradient through. Once the
counts are known, tokens are sliced off.

Differences from the published code: it clamps sizes from below in training only, while here
similarities below 0 count as 0 in training and inference; and here masked tokens do not attend to
themselves.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlt.costs.flops import NORM_COST
from vlt.merging.evit import RANKS, paid_attention, ranking_needs
from vlt.merging.matching import PRECISION, permute, proportional_attention
from vlt.models.options import require_some
from vlt.models.points import BlockScope, Method, TowerScope
from vlt.models.spec import Spec, VisionSpec
from vlt.models.tokens import AttentionOutput, Pattern, Tokens
from vlt.models.vit import normalize

RATES = ("prune", "merge")


def linear_schedule(patches: int, last: int, layers: int) -> tuple[tuple[int, ...], ...]:
    """(kept, merged) of every block, `patches` to `last` in equal steps, pruning then merging."""
    total = 2 * layers
    counts = [round(patches - (patches - last) * step / total) for step in range(1, total + 1)]
    return tuple(counts[::2]), tuple(counts[1::2])


KEPT, MERGED = linear_schedule(49, 19, 12)


@dataclasses.dataclass(frozen=True)
class DiffRate(Method):
    """Leaves, where counts are learned: `visual/blocks_{i}/diffrate/{prune,merge}`, i > 0.

    kept, merged: patches of a frame that pruning, then merging, leaves in each block. None for both
        learns them; all choices are equally likely at first, and block 0 compresses nothing, as
        published. The defaults go from 50 to 20 tokens in 12 equal steps. That is inferred: the
        tables of TempMe give the 20 tokens of B/32 (49 of B/16) and the cost, 36.8 GMACs (138.5).
    granularity: step between the counts to choose from: patches, patches - granularity, ...
    target: GMACs of a video; while counts are learned, their excess is an extra output of training.
    attention: the attention by which patches are sorted, as in `EViT`.

    Raises:
        ValueError: unknown attention.
    """

    name: ClassVar[str] = "diffrate"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "patch_places"})

    kept: tuple[int, ...] | None = KEPT
    merged: tuple[int, ...] | None = MERGED
    granularity: int = 4
    target: float = 36.8
    attention: str = "class_token"

    def __post_init__(self) -> None:
        require_some(self.name, "attention", (self.attention,), RANKS)

    def needs_here(self) -> frozenset[str]:
        return super().needs_here() | ranking_needs(self.attention)

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for a granularity out of range, for learned counts where they cannot
        be learned, and for counts that are for another tower, rise, or are below 1."""
        patches, blocks = spec.visual.patches, spec.visual.layers
        if not 1 <= self.granularity <= patches:
            raise ValueError(
                f"diffrate.granularity must be between 1 and {patches}, got {self.granularity}"
            )
        if self.kept is None and self.merged is None:
            if spec.kind != "dual_encoder":
                raise ValueError(
                    "diffrate.kept=None: while counts are learned, patches that are gone stay with "
                    f"size 0, which the text model of a {spec.kind} does not know; give counts"
                )
            if spec.visual.positions != "learned":
                raise ValueError(
                    "diffrate.kept=None: the counts to choose from are read off a table of "
                    f"positions, and positions={spec.visual.positions!r} has none; give counts"
                )
            return
        series = [patches]
        for name in ("kept", "merged"):
            counts = getattr(self, name)
            if counts is None or len(counts) != blocks:
                raise ValueError(
                    f"diffrate.{name}={counts}: a count for each of {blocks} blocks, or None for "
                    "both kept and merged to learn them"
                )
        for pair in zip(self.kept or (), self.merged or (), strict=True):
            series += pair
        if series != sorted(series, reverse=True) or series[-1] < 1:
            raise ValueError(
                f"diffrate.kept={self.kept}, diffrate.merged={self.merged}: taken in turn, block "
                f"by block, they must not rise from {patches} patches, and stay above 0"
            )

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: makes theta of the block, for points 6 and 8."""
        if self.kept is not None or block.layer == 0:
            return tokens
        theta = Rates(len(self._choices(tokens.patches)), name="diffrate")()
        return tokens.replace(carried={**tokens.carried, self.name: theta})

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        """Point 4: proportional attention."""
        if self.kept is not None:
            return proportional_attention(tokens, pattern)
        return pattern.replace(key_weight=tokens.size)

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: sorts, prunes and merges patches."""
        learned = self.kept is None or self.merged is None
        if not tokens.patches or (learned and block.layer == 0):
            return tokens
        if tokens.size is None:
            tokens = tokens.replace(size=jnp.ones(tokens.x.shape[:3]))
        attention = paid_attention(attended, tokens, self.attention)
        patches = _sorted_patches(tokens, attention)
        if self.kept is None or self.merged is None:
            patches = self._masked(patches, tokens.carried[self.name])
        else:
            patches = _sliced(patches, self.kept[block.layer], self.merged[block.layer])
        return _behind_protected(tokens, patches)

    def _choices(self, patches: int) -> jax.Array:
        return jnp.arange(patches, 0, -self.granularity)

    def _masked(self, patches: Tokens, theta: Mapping[str, jax.Array]) -> Tokens:
        """Does what `_sliced` does, but keeps every token and gives those removed size 0."""
        rank = jnp.arange(patches.x.shape[2])
        choices = self._choices(rank.size)
        alive = (_size(patches)[0, 0] > 0).sum()
        kept, merged = (jax.lax.stop_gradient(expected(theta[k], choices)) for k in RATES)
        kept = jnp.minimum(alive, kept)
        target, source = rank < jnp.minimum(kept, merged), (rank >= merged) & (rank < kept)
        patches = _absorb(patches, patches, target, source)
        lives = survival(theta["prune"], choices, rank < kept)
        lives *= survival(theta["merge"], choices, target)
        return patches.replace(size=_size(patches) * lives)

    def side_branch(
        self, tower: TowerScope, hidden: Sequence[Tokens], train: bool, capture: bool
    ) -> tuple[Tokens, dict[str, Any]]:
        """Point 8: `gmacs_excess`, a scalar, in training while counts are learned."""
        if self.kept is not None or not train:
            return hidden[-1], {}
        spec = tower.spec
        if hidden[0].patches != spec.patches:
            raise ValueError(
                f"diffrate.kept=None learns counts of {spec.patches} patches, but there are "
                f"{hidden[0].patches}, prompts among them; set prompt.matched=False"
            )
        choices = self._choices(spec.patches)
        left = [jnp.float32(spec.patches)] * 2
        for tokens in hidden[1:]:
            kept, merged = (expected(tokens.carried[self.name][k], choices) for k in RATES)
            least = jnp.minimum(left[-1], jnp.minimum(kept, merged))
            # As published, both counts get a gradient from the cost, whichever is smaller.
            left.append(straight_through(least, kept + merged))
        counts = [hidden[0].protected + count for count in left]
        gmacs = video_gmacs(spec, tower.embed_dim, hidden[0].x.shape[1], counts)
        return hidden[-1], {"gmacs_excess": gmacs - self.target}

    def fold_for_inference(self, params: dict) -> tuple[Method, dict]:
        """The method with the learned counts as options, and the tree without theta."""
        if self.kept is not None:
            return self, params
        visual = dict(params["visual"])
        patches = len(visual["position_embedding"]) - ("class_embedding" in visual)
        choices, kept, merged = self._choices(patches), [patches], [patches]
        for i in range(1, sum(name.startswith("blocks_") for name in visual)):
            block = dict(visual[f"blocks_{i}"])
            theta = block.pop("diffrate")
            visual[f"blocks_{i}"] = block
            kept.append(min(merged[-1], int(expected(theta["prune"], choices))))
            merged.append(min(kept[-1], int(expected(theta["merge"], choices))))
        found = dataclasses.replace(self, kept=tuple(kept), merged=tuple(merged))
        return found, params | {"visual": visual}


METHOD = DiffRate


class Rates(nn.Module):
    """theta of one block: a logit for each count it may keep, for pruning and for merging."""

    choices: int

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        return {k: self.param(k, nn.initializers.zeros, (self.choices,)) for k in RATES}


def straight_through(value: jax.Array, carrier: jax.Array) -> jax.Array:
    """`value`, with the gradient of `carrier`."""
    return jax.lax.stop_gradient(value - carrier) + carrier


def expected(theta: jax.Array, choices: jax.Array) -> jax.Array:
    """The mean count under softmax(theta), rounded up; the gradient is the mean's."""
    mean = jax.nn.softmax(theta) @ choices.astype(theta.dtype)
    # A mean just below an integer and one just above it, by rounding alone, must count alike.
    return straight_through(jnp.ceil(mean - 1e-3), mean)


def survival(theta: jax.Array, choices: jax.Array, lives: jax.Array) -> jax.Array:
    """`lives` [n] as 0 or 1, with the gradient of the probability that its rank is kept."""
    rank = jnp.arange(lives.size)
    chance = (choices[:, None] > rank) * jax.nn.softmax(theta)[:, None]
    return straight_through(lives.astype(theta.dtype), chance.sum(0))


def video_gmacs(
    spec: VisionSpec, embed_dim: int, frames: int, tokens: Sequence[jax.Array]
) -> jax.Array:
    """Cost of a video as in vlt.costs.flops, except for matching. tokens: number of a frame's
    tokens that enter block 0, then of those that leave each block."""
    width, patches, hidden = spec.width, spec.patches, spec.mlp_width
    macs = patches * 3 * spec.patch_size**2 * width + spec.projection * embed_dim * width
    if spec.pre_norm:
        macs += NORM_COST * width * (patches + spec.cls)
    macs = jnp.float32(macs)
    heads = NORM_COST * width * spec.sub_norm  # after the heads; below, of hidden units
    units = (2 + spec.gated_mlp) * width * hidden + NORM_COST * hidden * spec.sub_norm
    for entering, leaving in zip(tokens, tokens[1:], strict=False):
        macs += entering * (width * (4 * width + 2 * entering + NORM_COST) + heads)
        macs += leaving * (units + NORM_COST * width)
    return frames * (macs + _pool_macs(spec, tokens[-1])) / 1e9


def _pool_macs(spec: VisionSpec, tokens: jax.Array) -> jax.Array | int:
    """Cost of the final LayerNorm and the pooler for this many tokens of a frame."""
    width, pooler = spec.width, spec.pooler
    if pooler is None:
        return NORM_COST * width * (1 if spec.cls else tokens)
    attention = 2 * tokens * pooler.width * (width + 1) + 2 * width * pooler.width
    mlp = 2 * width * pooler.mlp_width + NORM_COST * width
    return NORM_COST * width * tokens + attention + mlp


def _size(tokens: Tokens) -> jax.Array:
    assert tokens.size is not None
    return tokens.size


def _sorted_patches(tokens: Tokens, attention: jax.Array) -> Tokens:
    """The patches alone, by falling attention; those removed come last."""
    first = tokens.protected
    score = jnp.where(_size(tokens)[:, :, first:] > 0, attention, -1.0)
    order = jnp.argsort(jax.lax.stop_gradient(score), axis=-1, descending=True)
    return tokens.rearrange(lambda x: permute(x[:, :, first:], order))


def _behind_protected(tokens: Tokens, patches: Tokens) -> Tokens:
    first = tokens.protected
    joined = jax.tree.map(
        lambda x, y: jnp.concatenate([x[:, :, :first], y], axis=2),
        tokens.replace(carried={}),
        patches.replace(carried={}),
    )
    return joined.replace(carried=tokens.carried)


def _sliced(patches: Tokens, kept: int, merged: int) -> Tokens:
    """The first `kept` of sorted patches, with those from `merged` on merged into those before."""
    targets = patches.rearrange(lambda x: x[:, :, :merged])
    if merged == kept:
        return targets
    sources = patches.rearrange(lambda x: x[:, :, merged:kept])
    return _absorb(targets, sources, np.ones(merged, bool), np.ones(kept - merged, bool))


def _absorb(targets: Tokens, sources: Tokens, may_take: Any, gives: Any) -> Tokens:
    """Merges each source that `gives` [m] into the most similar target that `may_take` [n].

    x and places become plain means of the tokens in a target. Sizes add up, each source's times
    its similarity.
    """
    unit = [normalize(jax.lax.stop_gradient(t.x.astype(jnp.float32))) for t in (targets, sources)]
    similarity = jnp.einsum("bgnd,bgmd->bgmn", *unit, precision=PRECISION)
    similarity = jnp.where(may_take, similarity, -jnp.inf)
    best = similarity.max(-1).clip(0.0)
    to = jax.nn.one_hot(similarity.argmax(-1), targets.x.shape[2]) * gives[:, None]

    def add(x: jax.Array, y: jax.Array) -> jax.Array:
        return x + jnp.einsum("bgmn,bgm...->bgn...", to.astype(x.dtype), y)

    count = 1 + to.sum(2)
    members, places = None, None
    if targets.places is not None and sources.places is not None:
        places = add(targets.places, sources.places) / count[..., None]
    if targets.members is not None and sources.members is not None:
        members = add(targets.members, sources.members)
    return targets.replace(
        x=add(targets.x, sources.x) / count[..., None].astype(targets.x.dtype),
        size=add(_size(targets), _size(sources) * best),
        members=members,
        places=places,
    )
