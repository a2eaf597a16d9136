"""TempMe: temporal token merging (Shen et al., ICLR 2025, section 3.2).

Early blocks merge the patches of a frame (ImgMe). Listed layers join neighbouring clips, merge
across them before attention and within the joined clip after it (ClipMe). Every frame's class token
stays, so the video's embedding is the mean over all frames.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from vlt.merging.matching import check_r, mean_keys, merge_patches, proportional_attention
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import AttentionOutput, Pattern, Tokens, join_clips

# r, R_C and R_I that the paper reports, by patch size (Section 4.1).
PUBLISHED = {
    32: {"r": 2, "keep_cross": 70, "keep_intra": 90},
    16: {"r": 10, "keep_cross": 60, "keep_intra": 80},
}


@dataclasses.dataclass(frozen=True)
class TempMe(Method):
    """Merging in the visual tower. Layers count from 0, the paper's from 1.

    layers, join: which layers join clips, ascending, and how many become one there; 1 merges twice
        within each clip (Table 9, token reduction only).
    r: patches that each earlier block merges in a frame.
    keep_cross, keep_intra: R_C and R_I, percent of a clip's tokens that stay in the step before and
        the step after attention. Removed counts are truncated, and never exceed half of the
        patches. Later layers that are not listed do only the step after attention.
    positions: whether every clip that is joined has a trained embedding, leaf `clip_position`
        [clips, d], zero at the start. The published code does not add it where keep_cross is 100;
        here it is always added, as in the paper.
    turned_keys: as in `ToMe`.

    Raises:
        ValueError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "tempme"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "patch_places"})

    layers: tuple[int, ...] = (8, 9, 10)
    join: tuple[int, ...] = (2, 2, 3)
    r: int = 2
    keep_cross: float = 70
    keep_intra: float = 90
    positions: bool = True
    turned_keys: bool = False

    def __post_init__(self) -> None:
        layers, join = self.layers, self.join
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise ValueError(f"tempme.layers must be one layer or more, ascending, got {layers}")
        if len(join) != len(layers) or min(join) < 1:
            raise ValueError(
                f"tempme.join must be a positive number for each of layers={layers}, got {join}"
            )
        for name in ("keep_cross", "keep_intra"):
            if not 1 <= getattr(self, name) <= 100:
                raise ValueError(
                    f"tempme.{name} must be a percentage from 1 to 100, got {getattr(self, name)}"
                )

    def check(self, spec: Spec, frames: int) -> None:
        self.tokens_after(spec, frames)

    def tokens_after(self, spec: Spec, frames: int) -> list[tuple[int, int]]:
        """(clips, tokens of each) that leave every layer, without tokens of other methods.

        Raises:
            ValueError: the tower ends before `layers`, r is more than can merge, or `join` does not
                divide `frames`.
        """
        depth = spec.visual.layers
        if self.layers[-1] >= depth:
            raise ValueError(
                f"tempme.layers={self.layers}: the visual tower has layers 0 to {depth - 1}"
            )
        check_r("tempme", self.r, spec.visual, self.layers[0])
        clips, cls, patches = frames, spec.visual.cls, spec.visual.patches
        counts = []
        for layer in range(depth):
            joined = self._joined(layer)
            if clips % joined:
                raise ValueError(
                    f"tempme.join={self.join} does not divide {frames} frames: layer {layer} joins "
                    f"{joined} of {clips} clips"
                )
            clips, cls, patches = clips // joined, cls * joined, patches * joined
            patches -= self._cross(layer, cls, patches)
            patches -= self._intra(layer, cls, patches)
            counts.append((clips, cls + patches))
        return counts

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Cross-clip step; similarity is that of the residual stream without positions."""
        if block.layer not in self.layers:
            return tokens
        joined = self._joined(block.layer)
        metric = join_clips(tokens, joined).x
        if self.positions and joined > 1:
            shape = (tokens.x.shape[1], tokens.x.shape[3])
            position = block.param("clip_position", nn.initializers.zeros, shape)
            tokens = tokens.replace(x=tokens.x + position[:, None].astype(tokens.x.dtype))
        tokens = join_clips(tokens, joined)
        return merge_patches(tokens, metric, self._cross(block.layer, tokens.cls, tokens.patches))

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        return proportional_attention(tokens, pattern)

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """ImgMe, or the intra-clip step."""
        r = self._intra(block.layer, tokens.cls, tokens.patches)
        return merge_patches(tokens, mean_keys(attended, self.turned_keys), r)

    def _joined(self, layer: int) -> int:
        """Number of clips that become one where they enter a layer."""
        return dict(zip(self.layers, self.join, strict=True)).get(layer, 1)

    def _cross(self, layer: int, cls: int, patches: int) -> int:
        return _removed(cls, patches, self.keep_cross) if layer in self.layers else 0

    def _intra(self, layer: int, cls: int, patches: int) -> int:
        return self.r if layer < self.layers[0] else _removed(cls, patches, self.keep_intra)


METHOD = TempMe


def _removed(cls: int, patches: int, keep: float) -> int:
    """Number of patches a step removes, as a share of all tokens, class tokens included."""
    return min(patches // 2, int((cls + patches) * ((100 - keep) / 100)))
