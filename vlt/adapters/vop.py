"""VoP: prompts in every block of both towers (Huang et al., CVPR 2023, arXiv:2211.12764).

Deep prompts of a frame stand after its class token, those of a text after its first token and
before its last position, which is padding in all but the longest texts. The variants make some of a
frame's prompts depend on its place in time (P) or on what is seen in all frames (C), or let the
last blocks see all frames together (F). Only the method without them was published; P, C and F
follow the paper's text. Two points that it leaves open are read as follows:

- C reads class tokens as they enter a block, in the first block before `pre_norm`;
- the frame embeddings of F are added to class tokens and patches, not to prompts.
"""

import dataclasses
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.adapters.lstm import LSTM
from vlt.models.layers import KAIMING_UNIFORM, uniform
from vlt.models.options import TOWERS, check_room_for_words, require_some
from vlt.models.points import AnyTower, BlockScope, Method, TowerScope
from vlt.models.spec import Spec
from vlt.models.tokens import Tokens, join_clips

VARIANTS = ("basic", "P", "C", "F", "F+P", "F+C")
INIT = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class VoP(Method):
    """Prompts in every frame and in every text, separate ones in each block.

    Leaves: text/vop_prompt [L, prefix + suffix, d]; where K blocks have some prompts that are each
    frame's own, visual/vop_prompt [L - K, tokens, d], visual/vop_generic [K, tokens - specific, d],
    and for P visual/vop_position [K, t, specific, d], for C shared_VoP/; for F
    visual/blocks_i/vop_frame [t, d].

    The first block's prompts enter the vision tower before `pre_norm`, and the text tower before
    positions, which they take from the words; the last block's prompts stay.

    tokens, prefix, suffix: number of prompts of each frame, and of a text before and after its
        words.
    variant: `basic`, or one of the paper's `P`, `C`, `F`, `F+P` and `F+C`. P and C are in all
        blocks, or with F in those that see frames apart.
    specific: how many of `tokens` each frame has of its own (P, C).
    frames_apart: K^s, the number of blocks of F that see frames apart.
    readout: `published` reads the token `prefix` + `suffix` places after where the end of a text
        was among the words alone. In all but the longest texts that is padding before the suffix,
        so nothing reads the suffix and its gradient is zero. `end` reads the end of a text.
    renormalize: whether scores are cosines with the mean of the frames. The published score is the
        mean of the cosines with each.

    Raises:
        ValueError: unknown variant or readout; counts that are too small.
    """

    name: ClassVar[str] = "vop"
    needs: ClassVar[frozenset[str]] = frozenset({"joint_space", "pooled_alone", "word_places"})
    breaks: ClassVar[frozenset[str]] = frozenset({"word_places"})
    settled: ClassVar[frozenset[str]] = frozenset(
        {"variant", "tokens", "specific", "frames_apart", "prefix", "suffix"}
    )

    variant: str = "basic"
    tokens: int = 8
    prefix: int = 4
    suffix: int = 4
    specific: int = 4
    frames_apart: int = 8
    readout: str = "published"
    renormalize: bool = False

    def __post_init__(self) -> None:
        require_some("vop", "variant", (self.variant,), VARIANTS)
        require_some("vop", "readout", (self.readout,), ("published", "end"))
        least = {"tokens": 1, "prefix": 1, "suffix": 0, "specific": 1, "frames_apart": 1}
        for option, bound in least.items():
            if getattr(self, option) < bound:
                raise ValueError(f"vop.{option} must be >= {bound}, got {getattr(self, option)}")
        if self._has("P", "C") and self.specific >= self.tokens:
            raise ValueError(
                f"vop.specific={self.specific} must be less than vop.tokens={self.tokens}, the "
                "prompts of a frame"
            )

    def _has(self, *letters: str) -> bool:
        """Whether any part of the variant is one of these letters."""
        return any(part in letters for part in self.variant.split("+"))

    @property
    def towers(self) -> tuple[str, ...]:
        return TOWERS

    @property
    def frame_scores(self) -> bool:
        return not self.renormalize

    @property
    def text_positions(self) -> int:
        return self.prefix + self.suffix

    def needs_here(self) -> frozenset[str]:
        """Variants tell frames apart by their groups and class tokens."""
        frames = {"frame_groups", "class_token"} if self.variant != "basic" else set()
        return super().needs_here() | frames | ({"every_frame"} if self._has("P") else set())

    def breaks_here(self) -> frozenset[str]:
        """F puts all frames into one group."""
        return self.breaks | ({"frame_groups", "patch_places"} if self._has("F") else set())

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError where no room is left for words, or no block to see all frames."""
        prompts = f"vop.prefix={self.prefix} and vop.suffix={self.suffix}"
        check_room_for_words(prompts, self.text_positions, spec.text.context)
        if self._has("F") and self.frames_apart >= spec.visual.layers:
            raise ValueError(
                f"vop.frames_apart={self.frames_apart}: the vision tower has {spec.visual.layers} "
                f"blocks; of variant {self.variant} the last see all frames"
            )

    def embed(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0: inserts the first block's prompts."""
        if tower.tower == "text":
            return self._among_words(tower, tokens)
        leaves = self._leaves(tower, tokens.x.shape[1])
        tokens = tokens.replace(carried={**tokens.carried, self.name: leaves})
        parts = self._prompts(cast(TowerScope, tower), 0, tokens)
        return tokens.insert(tokens.cls, together(tokens, *parts))

    def stem(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0: takes out the first block's prompts, now normalised, until that block begins."""
        if tower.tower == "text":
            return tokens
        leaves, at = tokens.carried[self.name], tokens.cls
        entered = tokens.x[:, :, at : at + self.tokens]
        generic = self.tokens - self.specific if "generic" in leaves else self.tokens
        parts = entered[:, :1, :generic], entered[:, :, generic:]
        carried = {**tokens.carried, self.name: {**leaves, "entered": parts}}
        return tokens.remove(at, self.tokens).replace(carried=carried)

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: joins all frames in one group before the first block of F that sees them so."""
        if block.tower == "text" or not self._has("F") or block.layer != self.frames_apart:
            return tokens
        frames, width = tokens.x.shape[1], tokens.x.shape[-1]
        table = block.param("vop_frame", INIT, (frames, width))
        x = tokens.x + table[:, None].astype(tokens.x.dtype)
        return join_clips(tokens.replace(x=x), frames)

    def extra_tokens(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: inserts the block's prompts, in a text in place of the previous block's."""
        leaves = tokens.carried[self.name]
        if block.tower == "text":
            return self._replaced(leaves["prompt"][block.layer], tokens) if block.layer else tokens
        parts = self._prompts(block, block.layer, tokens) if block.layer else leaves["entered"]
        return tokens.insert(tokens.cls, together(tokens, *parts))

    def after_block(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: removes the frames' prompts, except the last block's."""
        if block.tower == "text" or block.layer == block.depth - 1:
            return tokens
        generated = block.layer < len(tokens.carried[self.name].get("generic", ()))
        of_each = self.specific if generated else 0
        # Joined clips have these prompts of each frame, as they have its class token.
        return tokens.remove(tokens.cls, self.tokens - of_each + of_each * tokens.cls)

    def shared_module(self, spec: Spec) -> nn.Module | None:
        """Point 11: one generator for all blocks."""
        return ContextPrompts(self.specific) if self._has("C") else None

    def _leaves(self, tower: AnyTower, frames: int) -> dict[str, Any]:
        """Leaves of the vision tower's prompts in all blocks."""
        layers, width = tower.spec.layers, tower.spec.width
        generated = layers if self._has("P", "C") else 0
        if self._has("F"):
            generated = min(generated, self.frames_apart)
        shapes: dict[str, tuple[int, ...]] = {}
        if generated < layers:
            shapes["prompt"] = (layers - generated, self.tokens, width)
        if generated:
            shapes["generic"] = (generated, self.tokens - self.specific, width)
        if self._has("P"):
            shapes["position"] = (generated, frames, self.specific, width)
        return {name: tower.param(f"vop_{name}", INIT, shape) for name, shape in shapes.items()}

    def _prompts(
        self, scope: TowerScope | BlockScope, layer: int, tokens: Tokens
    ) -> tuple[jax.Array, jax.Array | None]:
        """A block's prompts for all groups [p, d], and those of each frame [b or 1, t, p, d]."""
        leaves = tokens.carried[self.name]
        generated = len(leaves.get("generic", ()))
        if layer >= generated:
            return leaves["prompt"][layer - generated], None
        generic = leaves["generic"][layer]
        if self._has("P"):
            return generic, leaves["position"][layer][None]
        cls = tokens.x[:, :, : tokens.cls]
        assert scope.shared is not None
        made = scope.shared[type(self).__name__](cls.reshape(len(cls), -1, cls.shape[-1]))
        return generic, made

    def _among_words(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        layers, width = tower.spec.layers, tower.spec.width
        prompts = tower.param("vop_prompt", INIT, (layers, self.text_positions, width))
        last = tokens.x.shape[2] - 1
        before = tokens.readout
        tokens = tokens.insert(last, prompts[0, self.prefix :]).insert(1, prompts[0, : self.prefix])
        if self.readout == "published":
            assert before is not None
            tokens = tokens.replace(readout=before + self.text_positions)
        carried = {**tokens.carried, self.name: {"prompt": prompts}}
        return tokens.replace(protected=1 + self.prefix, carried=carried)

    def _replaced(self, prompts: jax.Array, tokens: Tokens) -> Tokens:
        """A text with prompts [prefix + suffix, d] in place of the previous block's."""
        x, last = tokens.x, tokens.x.shape[2] - 1
        prompts = jnp.broadcast_to(prompts.astype(x.dtype), (*x.shape[:2], *prompts.shape))
        first, then = prompts[:, :, : self.prefix], prompts[:, :, self.prefix :]
        words = x[:, :, 1 + self.prefix : last - self.suffix]
        parts = [x[:, :, :1], first, words, then, x[:, :, last:]]
        return tokens.replace(x=jnp.concatenate(parts, axis=2))


METHOD = VoP


def together(tokens: Tokens, generic: jax.Array, specific: jax.Array | None) -> jax.Array:
    """Prompts [b, g, p, d] of each group: those for all, then those of the group's frames."""
    b, groups, _, width = tokens.x.shape
    generic = jnp.broadcast_to(generic, (b, groups, generic.shape[-2], width))
    if specific is None or not specific.size:
        return generic
    specific = jnp.broadcast_to(specific, (b, *specific.shape[1:])).reshape(b, groups, -1, width)
    return jnp.concatenate([generic, specific.astype(generic.dtype)], axis=2)


class ContextPrompts(nn.Module):
    """Prompts of each frame from the class tokens of all: a BiLSTM over time and a dense layer."""

    tokens: int

    @nn.compact
    def __call__(self, cls: jax.Array) -> jax.Array:
        """[b, t, d] -> [b, t, p, d]."""
        width = cls.shape[-1]
        both = [LSTM(width, reverse, name=f"lstm_{way}")(cls) for way, reverse in _WAYS.items()]
        x = jnp.concatenate(both, axis=-1)
        bias = uniform(x.shape[-1] ** -0.5)
        made = nn.Dense(
            self.tokens * width,
            dtype=cls.dtype,
            kernel_init=KAIMING_UNIFORM,
            bias_init=bias,
            name="prompts",
        )
        return made(x).reshape(*cls.shape[:2], self.tokens, width)


_WAYS = {"forward": False, "backward": True}
