"""ToMe: the most similar patches of every frame merge in every block (Bolya et al., ICLR 2023)."""

import dataclasses
from typing import ClassVar

from vlt.merging.matching import check_r, mean_keys, merge_patches, proportional_attention
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import AttentionOutput, Pattern, Tokens


@dataclasses.dataclass(frozen=True)
class ToMe(Method):
    """Merging between attention and MLP of the visual tower; nothing is learned.

    r: patches that a block merges in each frame (TempMe: 2 at B/32, 10 at B/16).
    proportional: whether attention counts a token as often as it has patches.
    turned_keys: whether keys are compared after rotary attention has turned them by places, instead
        of before.
    """

    name: ClassVar[str] = "tome"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "patch_places"})

    r: int = 2
    proportional: bool = True
    turned_keys: bool = False

    def check(self, spec: Spec, frames: int) -> None:
        check_r("tome", self.r, spec.visual, spec.visual.layers)

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        return proportional_attention(tokens, pattern) if self.proportional else pattern

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        return merge_patches(tokens, mean_keys(attended, self.turned_keys), self.r)


METHOD = ToMe
