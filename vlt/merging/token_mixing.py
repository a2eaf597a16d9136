"""Token mixing: attention to tokens of all frames, one for each position (Token Mixing, Eq. 8).

The frames of a video become one group whose queries share a small set of keys and values: the
patch at position p comes from frame p mod t. Only what is selected is projected, nothing is learned
and plain weights fit. The paper and its released code differ:

| rule | options |
|---|---|
| released code | the defaults; layers="published" on a ViT-L |
| paper | keys="positions", cross_factor=1.0 |
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from vlt.models.options import check_layers, require_some
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import Pattern, Tokens

KEYS = ("all_cls", "own_cls", "positions")
PUBLISHED_FROM = 11  # the released code mixes from here on, in every size


@dataclasses.dataclass(frozen=True)
class TokenMixing(Method):
    """Mixes frames in the attention of some blocks of the vision tower. No leaves.

    keys: what all queries read: `all_cls`, the CLS tokens of all frames and patch p of frame
        p mod t; `own_cls`, the same, but of the CLS tokens only that of the query's frame;
        `positions`, token s of frame s mod t, CLS included.
    cross_factor: factor on the logits of patches from other frames than the query's.
    layers: blocks that mix, from 0; () for the last; `published` for all from `PUBLISHED_FROM` on,
        which are the last of a ViT-B and 13 of a ViT-L.

    Raises:
        ValueError: unknown keys or layers; cross_factor below 0.
    """

    name: ClassVar[str] = "token_mixing"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"class_token", "frame_groups", "patch_places", "key_choice"}
    )
    breaks: ClassVar[frozenset[str]] = frozenset({"key_choice"})

    keys: str = "all_cls"
    cross_factor: float = 0.8
    layers: tuple[int, ...] | str = ()

    def __post_init__(self) -> None:
        require_some("token_mixing", "keys", (self.keys,), KEYS)
        if isinstance(self.layers, str):
            require_some("token_mixing", "layers", (self.layers,), ("published",))
        if self.cross_factor < 0:
            raise ValueError(f"token_mixing.cross_factor must be >= 0, got {self.cross_factor}")

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for blocks that the vision tower does not have."""
        depth = spec.visual.layers
        if not isinstance(self.layers, str):
            check_layers("token_mixing.layers", self.layers, depth)
        elif not self.mixing_blocks(depth):
            raise ValueError(
                f"token_mixing.layers='published' mixes from block {PUBLISHED_FROM} on, the tower "
                f"has blocks 0 to {depth - 1}; () is the last"
            )

    def mixing_blocks(self, depth: int) -> Sequence[int]:
        """The blocks that mix in a tower of `depth` blocks."""
        if isinstance(self.layers, str):
            return range(PUBLISHED_FROM, depth)
        return self.layers or (depth - 1,)

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        """Point 4: all frames' queries in one group, and the selected tokens as their source."""
        if block.layer not in self.mixing_blocks(block.depth):
            return pattern
        b, t, q, d = pattern.queries.shape
        n = tokens.x.shape[2]
        index = selected(t, n, self.keys)
        other = index // n != np.arange(t)[:, None]  # [t, m], by a query's frame and a key
        is_cls = index % n == 0
        if self.cross_factor != 1:
            factor = np.where(other & ~is_cls, self.cross_factor, 1).astype(np.float32)
            pattern = pattern.replace(scale=jnp.repeat(factor, q, axis=0))
        if self.keys == "own_cls":
            lowest = np.where(other & is_cls, np.finfo(np.float32).min, 0).astype(np.float32)
            pattern = pattern.add_bias(jnp.repeat(lowest, q, axis=0))
        places = {}
        if pattern.query_places is not None and pattern.source_places is not None:
            places["query_places"] = pattern.query_places.reshape(b, 1, t * q, -1)
            places["source_places"] = pattern.source_places.reshape(b, 1, t * n, -1)[:, :, index]
        return pattern.replace(
            queries=pattern.queries.reshape(b, 1, t * q, d),
            source=pattern.source.reshape(b, 1, t * n, d)[:, :, index],
            **places,
        )


METHOD = TokenMixing


def selected(frames: int, tokens: int, keys: str = "all_cls") -> np.ndarray:
    """Flat positions, frame * tokens + token, of what queries read.

    A frame has `tokens` tokens, CLS first. Order: CLS tokens of all frames, then frame by frame.
    Tokens of other methods, after the CLS, take turns as patches do.
    """
    if keys == "positions":
        return _in_turn(frames, tokens, first=0)
    return np.concatenate([np.arange(frames) * tokens, _in_turn(frames, tokens, first=1)])


def _in_turn(frames: int, tokens: int, first: int) -> np.ndarray:
    """Flat positions of tokens from `first` on, each in the next frame, ordered by frame."""
    return np.concatenate(
        [f * tokens + np.arange(first + f, tokens, frames) for f in range(frames)]
    )
