"""ViFi-CLIP's second stage: prompts in both towers of a CLIP that was trained on videos.

Rasheed et al., arXiv:2212.03640, Section 3.3. A frame has v prompts without positions; a text has a
context of w vectors, with positions, between its start token and its words. The first set enters
before anything else. Up to the tower's depth, each further set replaces what the previous block
made of the last one; after that, the prompts go on as tokens among the others.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from vlt.models.options import check_room_for_words
from vlt.models.points import AnyTower, BlockScope, Method
from vlt.models.spec import BertSpec, Spec
from vlt.models.tokens import Tokens

NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class ViFiCLIP(Method):
    """Leaves: visual/vificlip_prompt, text/vificlip_prompt and, in blocks 1 to depth - 1,
    blocks_i/vificlip_prompt, each [v or w, d].

    visual_tokens, text_tokens: v and w, 0 for none. visual_depth, text_depth: number of sets. The
    defaults are the published ones for base-to-novel; for few-shot they are 10 tokens and 12 sets.
    (Prompts stand after the class token here, at the end in the published code, which is the same
    without positions.)

    Raises:
        ValueError: numbers below 0, depths below 1, or no prompt at all.
    """

    name: ClassVar[str] = "vificlip"
    needs: ClassVar[frozenset[str]] = frozenset({"joint_space", "behind_class"})
    text_needs: ClassVar[frozenset[str]] = frozenset({"text_tower", "word_places"})
    breaks: ClassVar[frozenset[str]] = frozenset({"behind_class", "same_tokens"})

    settled: ClassVar[frozenset[str]] = frozenset({"visual_depth", "text_depth"})

    visual_tokens: int = 16
    visual_depth: int = 9
    text_tokens: int = 16
    text_depth: int = 9

    def __post_init__(self) -> None:
        fields = {"visual_tokens": 0, "text_tokens": 0, "visual_depth": 1, "text_depth": 1}
        for field, least in fields.items():
            if (value := getattr(self, field)) < least:
                raise ValueError(f"vificlip.{field} must be >= {least}, got {value}")
        if not self.towers:
            raise ValueError("vificlip.visual_tokens=0 with vificlip.text_tokens=0: no prompts")

    @property
    def towers(self) -> tuple[str, ...]:
        return ("visual",) * bool(self.visual_tokens) + ("text",) * bool(self.text_tokens)

    @property
    def text_positions(self) -> int:
        return self.text_tokens

    def breaks_here(self) -> frozenset[str]:
        """Adds `word_places` where prompts stand among words."""
        return self.breaks | ({"word_places"} if self.text_tokens else set())

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for more sets than blocks, and for prompts that leave no room for a
        text."""
        for tower, depth in (("visual", self.visual_depth), ("text", self.text_depth)):
            layers = getattr(spec, tower).layers
            if tower in self.towers and depth > layers:
                raise ValueError(f"vificlip.{tower}_depth={depth}: the tower has {layers} blocks")
        if self.text_tokens and not isinstance(spec.text, BertSpec):
            prompts = f"vificlip.text_tokens={self.text_tokens}"
            check_room_for_words(prompts, self.text_tokens, spec.text.context)

    def embed(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0: inserts the first set."""
        count, place = self._prompts(tower.tower, tokens)
        prompts = tower.param("vificlip_prompt", NORMAL, (count, tokens.x.shape[-1]))
        return tokens.insert(place, prompts.astype(tokens.x.dtype)).replace(
            carried={**tokens.carried, self.name: tokens.cls}
        )

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: puts each further set in the place of the one before.

        Raises:
            ValueError: another method joined frames, each with its prompts.
        """
        depth = self.text_depth if block.tower == "text" else self.visual_depth
        if not 0 < block.layer < depth:
            return tokens
        if tokens.carried[self.name] != tokens.cls:
            raise ValueError(
                f"vificlip.{block.tower}_depth={depth}: block {block.layer} gets clips of several "
                "frames, whose prompts another method joined; take a smaller depth"
            )
        count, place = self._prompts(block.tower, tokens)
        prompts = block.param("vificlip_prompt", NORMAL, (count, tokens.x.shape[-1]))
        x = tokens.x.at[:, :, place : place + count].set(prompts.astype(tokens.x.dtype))
        return tokens.replace(x=x)

    def _prompts(self, tower: str, tokens: Tokens) -> tuple[int, int]:
        """The number of prompts, and the index of the first."""
        return (self.text_tokens, 1) if tower == "text" else (self.visual_tokens, tokens.cls)


METHOD = ViFiCLIP
