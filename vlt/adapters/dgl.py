"""DGL: global and local prompts from one latent space (Yang et al., AAAI 2024).

A video has g global prompts beside its frames, and each frame has p local prompts beside its
patches. In every block, with the block's own weights, a frame attends to itself and the global
prompts, and the global prompts attend to themselves and all frames. Global prompts pass through all
blocks; local prompts, and p prompts after the first token of a text, are replaced before each
block. These come from one latent space:

| latent | prompts of a frame | prompts of a text | parameters on a CLIP-B |
|---|---|---|---|
| linear | the latent, for all frames alike | a linear map of it | 827,392 |
| transformer | rows of a block's output per frame | other rows, through an MLP | 9,575,168 |

The counts are for 12 frames. The published code also puts p prompts after a text's last word, where
a causal tower's readout does not see them: they have leaves here, which nothing reads.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.activations import ACTIVATIONS
from vlt.models.attention import attend
from vlt.models.block import Block
from vlt.models.layers import KAIMING_UNIFORM, XAVIER_QKV, uniform
from vlt.models.options import check_room_for_words, require_some
from vlt.models.points import AnyTower, BlockScope, Method, TowerScope
from vlt.models.spec import Spec, VisionSpec
from vlt.models.tokens import Pattern, Tokens

LATENTS = ("linear", "transformer", "table")
OUTPUTS = (
    "global_prompt0",
    "average_global_prompt",
    "average_frame_cls_token",
    "average_global_prompt_and_frame_cls_token",
)
HEAD_WIDTH = 64  # in the latent's attention


@dataclasses.dataclass(frozen=True)
class DGL(Method):
    """Leaves: visual/global_prompt [g, d], and those of the latent, shared_DGL/.

    All frames stand in one group: global prompts, class tokens, local prompts, patches. Prompts
    have no positions.

    latent: `linear` or `transformer`; `table`, what either becomes when it is folded.
    frames: t, where each frame has prompts of its own from a transformer's latent; 0 where all have
        the same.
    global_tokens, tokens: g and p; the published code works only with 4 and 4.
    output: what the video's embedding is made from: the first global prompt, or the mean of the
        global prompts, of the class tokens, or of both. (The published flag's names.)

    Raises:
        ValueError: unknown latent or output; counts below 1; frames that do not go with the latent.
    """

    name: ClassVar[str] = "dgl"
    needs: ClassVar[frozenset[str]] = frozenset(
        {
            *("frame_groups", "joint_space", "class_token", "class_pooled", "text_tower"),
            *("patch_places", "key_choice", "word_places"),
        }
    )
    breaks: ClassVar[frozenset[str]] = frozenset({"frame_groups", "key_choice", "word_places"})

    settled: ClassVar[frozenset[str]] = frozenset(
        {"latent", "frames", "global_tokens", "tokens", "output"}
    )

    latent: str = "linear"
    frames: int = 0
    global_tokens: int = 4
    tokens: int = 4
    output: str = "global_prompt0"

    def __post_init__(self) -> None:
        require_some("dgl", "latent", (self.latent,), LATENTS)
        require_some("dgl", "output", (self.output,), OUTPUTS)
        for field in ("global_tokens", "tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"dgl.{field} must be >= 1, got {getattr(self, field)}")
        least, most = {"linear": (0, 0), "transformer": (1, math.inf)}.get(
            self.latent, (0, math.inf)
        )
        if not least <= self.frames <= most:
            wanted = "0, since all have the same prompts" if most == 0 else f">= {least}"
            raise ValueError(
                f"dgl.frames={self.frames} with dgl.latent={self.latent!r}: must be {wanted}"
            )

    @property
    def towers(self) -> tuple[str, ...]:
        return ("visual", "text")

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for another number of frames than there are prompts for, and for
        prompts that leave no room for words."""
        self.check_frames(frames)
        prompts = f"{2 * self.tokens} prompts of dgl.tokens={self.tokens}"
        check_room_for_words(prompts, 2 * self.tokens, spec.text.context)

    def check_frames(self, count: int) -> None:
        """Raises ValueError for another number of frames than have prompts of their own."""
        if self.frames and count != self.frames:
            raise ValueError(
                f"{count} frames, but dgl's prompts are for {self.frames} (dgl.frames): use "
                "that many"
            )

    def shared_module(self, spec: Spec) -> nn.Module | None:
        """Point 11: the latent that the prompts of both towers come from."""
        layers = max(spec.visual.layers, spec.text.layers)
        return Latent(self, layers, spec.visual.width, spec.text.width, spec.visual.patch_size)

    def stem(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0, in the vision tower: puts all frames into one group, after the global prompts.

        Raises:
            ValueError: another number of frames than there are prompts for.
        """
        if not isinstance(spec := tower.spec, VisionSpec):
            return tokens
        b, frames, _, width = tokens.x.shape
        self.check_frames(frames)
        self._check_alone(tokens, tokens.cls)
        prompts = tower.param(
            "global_prompt", uniform(bound(spec.patch_size, width)), (self.global_tokens, width)
        )

        def together(x: jax.Array) -> jax.Array:
            """[b, t, n, ...] -> [b, 1, n * t, ...], all frames' token 0 first."""
            return x.swapaxes(1, 2).reshape(b, 1, -1, *x.shape[3:])

        tokens = tokens.rearrange(together, protected=frames).insert(0, prompts)
        return tokens.replace(cls=self._read(frames), frames=frames)

    def _read(self, frames: int) -> int:
        """Number of leading tokens of a group that are read in the end."""
        if self.output == "global_prompt0":
            return 1
        return self.global_tokens + ("cls" in self.output) * frames

    def extra_tokens(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: puts this block's local prompts in the place of the previous block's."""
        prompts = self._prompts(block, tokens)
        tokens = tokens.replace(carried={**tokens.carried, self.name: prompts})
        at, new = self._place(block, tokens), self._laid_out(block, tokens, prompts[block.layer])
        if block.layer == 0:
            return tokens.insert(at, new)
        new = jnp.broadcast_to(new, (len(tokens.x), *new.shape)).astype(tokens.x.dtype)
        return tokens.replace(x=tokens.x.at[:, :, at : at + new.shape[2]].set(new))

    def _prompts(self, block: BlockScope, tokens: Tokens) -> jax.Array:
        """Prompts of all blocks: [layers, t or 1, p, d] of frames, [layers, 1, p, d] of texts."""
        if self.name in tokens.carried:
            return tokens.carried[self.name]
        assert block.shared is not None
        return block.shared[type(self).__name__](block.tower)

    def _place(self, block: BlockScope, tokens: Tokens) -> int:
        """Index at which the local prompts of a group, or of a text, begin."""
        return 1 if block.tower == "text" else self.global_tokens + tokens.frames

    def _laid_out(self, block: BlockScope, tokens: Tokens, prompts: jax.Array) -> jax.Array:
        """Prompts [t or 1, p, d] in the order of a group, [1, p * t, d]."""
        if block.tower == "visual":
            prompts = jnp.broadcast_to(prompts, (tokens.frames, *prompts.shape[1:]))
        return prompts.swapaxes(0, 1).reshape(1, -1, prompts.shape[-1])

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        """Point 4, in the vision tower: each frame attends apart, global prompts attend to all."""
        if block.tower == "text":
            self._check_alone(tokens, self.tokens)
            return pattern
        frames = tokens.frames
        self._check_alone(tokens, self.global_tokens + (1 + self.tokens) * frames)
        return pattern.replace(
            attend=functools.partial(attend_apart, count=self.global_tokens, frames=frames)
        )

    def _check_alone(self, tokens: Tokens, protected: int) -> None:
        if tokens.protected != protected:
            raise ValueError(
                "dgl says which tokens a frame, the video and a text have, and another method adds "
                "some; take it (prompt and its like) out of model.methods"
            )

    def features(self, tower: TowerScope, x: jax.Array) -> jax.Array:
        """Point 9: the tokens [b, 1, n, d] that are averaged."""
        return x[:, :, self.global_tokens :] if self.output == "average_frame_cls_token" else x

    @property
    def folded(self) -> Method:
        return dataclasses.replace(self, latent="table")

    def fold_for_inference(self, params: dict) -> tuple[Method | None, dict]:
        """Replaces the latent by tables of its prompts, leaves shared_DGL/{visual, text}."""
        if self.latent == "table":
            return self, params
        layers = max(sum(name.startswith("blocks_") for name in params[t]) for t in self.towers)
        width, text_width = (params[t]["position_embedding"].shape[1] for t in self.towers)
        latent = Latent(self, layers, width, text_width)
        with jax.default_matmul_precision("highest"):
            tables = {t: latent.apply({"params": params["shared_DGL"]}, t) for t in self.towers}
        return self.folded, params | {"shared_DGL": tables}


METHOD = DGL


class Latent(nn.Module):
    """The prompts of every block of both towers.

    layers: number of blocks of the deeper tower. width, text_width: the towers' widths. patch_size:
    sets the bound that prompts start from, as in the published code.
    """

    options: DGL
    layers: int
    width: int
    text_width: int
    patch_size: int = 1

    @nn.compact
    def __call__(self, tower: str) -> jax.Array:
        """[layers, t or 1, p, d] of the vision tower, [layers, 1, p, d] of the text tower."""
        return getattr(self, f"_{self.options.latent}")(tower == "text")

    def _linear(self, text: bool) -> jax.Array:
        init = uniform(bound(self.patch_size, self.width))
        shape = (self.options.tokens, self.layers * self.width)
        prompts = self._by_layer(self.param("latent", init, shape))
        maps = [self._dense(self.text_width, name) for name in ("prefix", "postfix")]
        if text and self.is_initializing():
            maps[1](prompts)  # makes leaves that no text reads
        return (maps[0](prompts) if text else prompts)[:, None]

    def _transformer(self, text: bool) -> jax.Array:
        frames, count = self.options.frames, self.options.tokens
        shape = ((2 + frames) * count, self.layers * self.width)
        rows = self._by_layer(self.param("embedding", nn.initializers.normal(1.0), shape))
        heads = max(self.width // HEAD_WIDTH, 1)
        block = Block(
            heads,
            4 * self.width,
            "quick_gelu",
            1e-5,
            kernel_init=KAIMING_UNIFORM,
            qkv_init=XAVIER_QKV,
            name="block",
        )
        rows = block(Tokens(rows[None], cls=0, protected=0)).x[0]
        if not text:
            return rows[:, 2 * count :].reshape(self.layers, frames, count, self.width)
        hidden = self._dense(2 * self.width, "text_fc1")(rows[:, :count])
        hidden = ACTIVATIONS["quick_gelu"](hidden)
        return self._dense(self.text_width, "text_fc2")(hidden)[:, None]

    def _table(self, text: bool) -> jax.Array:
        frames, width = (1, self.text_width) if text else (self.options.frames or 1, self.width)
        shape = (self.layers, frames, self.options.tokens, width)
        return self.param("text" if text else "visual", nn.initializers.zeros, shape)

    def _by_layer(self, table: jax.Array) -> jax.Array:
        """[n, layers * d] -> [layers, n, d]."""
        return table.reshape(len(table), self.layers, self.width).swapaxes(0, 1)

    def _dense(self, width: int, name: str) -> nn.Dense:
        inputs = 2 * self.width if name == "text_fc2" else self.width
        bias_init = uniform(inputs**-0.5)
        return nn.Dense(width, kernel_init=KAIMING_UNIFORM, bias_init=bias_init, name=name)


def bound(patch_size: int, width: int) -> float:
    """Bound of the uniform distribution prompts start from: Xavier's for the patch projection."""
    return math.sqrt(6 / (3 * patch_size**2 + width))


def attend_apart(
    query: jax.Array, key: jax.Array, value: jax.Array, count: int, frames: int
) -> jax.Array:
    """Attention of queries [b, 1, h, q, d] to keys and values [b, 1, h, m, d] of one group.

    The first `count` tokens attend to all. The rest belong to `frames` frames, interleaved; each
    frame attends to itself and to the first. If there are fewer queries than keys, they are those
    of the first tokens.
    """
    whole = attend(query[..., :count, :], key, value)
    if query.shape[-2] <= count:
        return whole

    def by_frame(x: jax.Array) -> jax.Array:
        """[b, 1, h, n * t, d] -> [b, t, h, n, d]."""
        b, _, h, _, d = x.shape
        return x.reshape(b, h, -1, frames, d).transpose(0, 3, 1, 2, 4)

    def seen(x: jax.Array) -> jax.Array:
        """Keys or values that each frame reads, those of the first tokens in front."""
        own = by_frame(x[..., count:, :])
        first = jnp.broadcast_to(x[..., :count, :], (*own.shape[:3], count, own.shape[-1]))
        return jnp.concatenate([first, own], axis=-2)

    apart = attend(by_frame(query[..., count:, :]), seen(key), seen(value))
    apart = apart.transpose(0, 2, 3, 1, 4).reshape(*whole.shape[:3], -1, whole.shape[-1])
    return jnp.concatenate([whole, apart], axis=-2)
