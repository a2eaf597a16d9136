"""Efficient-Prompt: prompts among words, blocks over frames (Ju et al., arXiv:2112.04478).

TempMe's tables call it PLEVU, after the words of its title. Both towers stay unchanged.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.adapters.clip4clip import FrameTransformer
from vlt.models.block import Block
from vlt.models.layers import KAIMING_UNIFORM, XAVIER_QKV
from vlt.models.options import TOWERS, check_room_for_words
from vlt.models.points import AnyTower, Method, TowerScope
from vlt.models.spec import Spec, TextSpec
from vlt.models.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class PLEVU(Method):
    """Prompts around a text's words, and blocks(f + position) for frame embeddings f [b, t, e].

    Leaves: text/plevu_prompt [context, d], a row for every position; a text reads the rows of the
    positions where its prompts stand, so those after its words depend on its length. visual/plevu/
    has a table of t positions and `layers` blocks. Frames are not normalised before the blocks, and
    nothing is added to their output.

    prefix, postfix: number of prompts after the first token, and before the one that is read. The
        published commands have 16 and 16; the code's own default is none.
    layers: number of blocks. The paper's 6.35 million parameters are those of 2. heads: heads of
        each block.

    Raises:
        ValueError: counts that are too small.
    """

    name: ClassVar[str] = "plevu"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"frame_groups", "every_frame", "joint_space", "word_places"}
    )
    breaks: ClassVar[frozenset[str]] = frozenset({"word_places"})
    settled: ClassVar[frozenset[str]] = frozenset({"prefix", "postfix", "layers", "heads"})

    prefix: int = 16
    postfix: int = 16
    layers: int = 2
    heads: int = 8

    def __post_init__(self) -> None:
        for option, least in {"prefix": 0, "postfix": 0, "layers": 1, "heads": 1}.items():
            if getattr(self, option) < least:
                raise ValueError(f"plevu.{option} must be >= {least}, got {getattr(self, option)}")

    @property
    def towers(self) -> tuple[str, ...]:
        return TOWERS

    @property
    def text_positions(self) -> int:
        return self.prefix + self.postfix

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError where no room is left for words, or heads do not divide the width."""
        prompts = f"plevu.prefix={self.prefix} and plevu.postfix={self.postfix}"
        check_room_for_words(prompts, self.text_positions, spec.text.context)
        if spec.embed_dim % self.heads:
            raise ValueError(
                f"plevu.heads={self.heads} must divide the {spec.embed_dim} channels of frame "
                "embeddings"
            )

    def embed(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0 of the text tower: inserts prompts around the words, before positions."""
        if tower.tower == "visual":
            return tokens
        assert isinstance(tower.spec, TextSpec) and tokens.readout is not None
        words = tokens.x
        init, shape = nn.initializers.normal(0.01), (tower.spec.context, words.shape[-1])
        table = tower.param("plevu_prompt", init, shape)
        place = jnp.arange(words.shape[2] + self.text_positions)
        end = tokens.readout[:, None] + self.text_positions
        is_word = (place == 0) | (place == end)
        is_word |= (place > self.prefix) & (place < end - self.postfix)
        # The token that is read has moved by all prompts, words by those before them.
        moved = jnp.where(place == end, self.text_positions, self.prefix)
        source = (place - moved).clip(0, words.shape[2] - 1)
        found = jnp.take_along_axis(words, source[:, None, :, None], axis=2)
        rows = table.take(place, axis=0, mode="clip").astype(words.dtype)
        x = jnp.where(is_word[:, None, :, None], found, rows)
        return tokens.replace(x=x, readout=end[:, 0], protected=1 + self.prefix)

    def head(
        self, tower: TowerScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the vision tower."""
        blocks = TemporalModelling(
            self.layers,
            features.shape[1],
            tower.dtype,
            heads=self.heads,
            norm_eps=1e-5,
            position_std=0.01,
            name="plevu",
        )
        return blocks(features).astype(features.dtype), {}


METHOD = PLEVU


class TemporalModelling(FrameTransformer):
    """Blocks with torch's initialisation."""

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, t, e]."""
        return self.transform(frames, _torch_block)


def _torch_block(layer: int, *sizes: Any, **options: Any) -> Block:
    return Block(*sizes, kernel_init=KAIMING_UNIFORM, qkv_init=XAVIER_QKV, **options)
