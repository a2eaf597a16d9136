"""DGL: global and local prompts out of one latent space (Yang et al., AAAI 2024).

A video has g global prompts beside its frames, each frame p local ones beside its patches. In every
block, with the block's own weights, a frame reads itself and the global prompts, and the global
prompts read themselves and all frames. They go through all blocks; local prompts, and p that stand
behind the first token of a text, are replaced before each. These come from one latent space:

| latent | prompts of a frame | of a text | parameters on a CLIP-B |
|---|---|---|---|
| linear | the latent, for all frames alike | a linear map of it | 827,392 |
| transformer | rows of one for each frame | rows that went through a block and an MLP | 9,575,168 |

The counts are for 12 frames. In the published code as many prompts stand behind a text's last word,
where a causal tower's readout does not see them: their leaves are here, and nothing reads them.
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
from vlt.models.options import require_some
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
HEAD_WIDTH = 64  # of the latent's attention


@dataclasses.dataclass(frozen=True)
class DGL(Method):
    """Leaves: visual/global_prompt [g, d], and those of the latent, shared_DGL/.

    All frames stand in one group: global prompts, class tokens, local prompts, patches. Prompts
    have no positions.

    latent: `linear` or `transformer`; `table`, what either comes to when it is folded.
    frames: t, of which each has prompts of its own, of a transformer's latent; 0 where all have the
        same.
    global_tokens, tokens: g and p; the published code works with 4 and 4 alone.
    output: what is the video's embedding: of the first global prompt, or means, of global prompts,
        of class tokens, or of both together. (The published flag's names.)

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
        """Raises ValueError for other frames than there are prompts for, and for prompts that leave
        no room for words."""
        self.check_frames(frames)
        left = spec.text.context - 2 * self.tokens
        if left < 3:
            raise ValueError(
                f"dgl.tokens={self.tokens}: {2 * self.tokens} prompts leave {max(left, 0)} of the "
                f"{spec.text.context} tokens of a text, which needs 3 for its start, a word and "
                "its end"
            )

    def check_frames(self, count: int) -> None:
        """Raises ValueError where so many frames have no prompts of their own."""
        if self.frames and count != self.frames:
            raise ValueError(
                f"{count} frames, but dgl's prompts are for {self.frames} (dgl.frames): take as "
                "many"
            )

    def shared_module(self, spec: Spec) -> nn.Module | None:
        """Point 11: what prompts of both towers come from."""
        layers = max(spec.visual.layers, spec.text.layers)
        return Latent(self, layers, spec.visual.width, spec.text.width, spec.visual.patch_size)

    def stem(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0, in the vision tower: one group of all frames behind the global prompts.

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
            """[b, t, n, ...] -> [b, 1, n * t, ...], frames next to each other."""
            return x.swapaxes(1, 2).reshape(b, 1, -1, *x.shape[3:])

        tokens = tokens.rearrange(together, protected=frames).insert(0, prompts)
        return tokens.replace(cls=self._read(frames), frames=frames)

    def _read(self, frames: int) -> int:
        """Tokens at the beginning of a group that are read in the end."""
        if self.output == "global_prompt0":
            return 1
        return self.global_tokens + ("cls" in self.output) * frames

    def extra_tokens(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: this block's local prompts in the place of those of the block before."""
        prompts = self._prompts(block, tokens)
        tokens = tokens.replace(carried={**tokens.carried, self.name: prompts})
        at, new = self._place(block, tokens), self._laid_out(block, tokens, prompts[block.layer])
        if block.layer == 0:
            return tokens.insert(at, new)
        new = jnp.broadcast_to(new, (len(tokens.x), *new.shape)).astype(tokens.x.dtype)
        return tokens.replace(x=tokens.x.at[:, :, at : at + new.shape[2]].set(new))

    def _prompts(self, block: BlockScope, tokens: Tokens) -> jax.Array:
        """Of all blocks: [layers, t or 1, p, d] of frames, [layers, 1, p, d] of texts."""
        if self.name in tokens.carried:
            return tokens.carried[self.name]
        assert block.shared is not None
        return block.shared[type(self).__name__](block.tower)

    def _place(self, block: BlockScope, tokens: Tokens) -> int:
        """Where a group's local prompts begin, or a text's."""
        return 1 if block.tower == "text" else self.global_tokens + tokens.frames

    def _laid_out(self, block: BlockScope, tokens: Tokens, prompts: jax.Array) -> jax.Array:
        """Prompts [t or 1, p, d] as they stand in a group, [1, p * t, d]."""
        if block.tower == "visual":
            prompts = jnp.broadcast_to(prompts, (tokens.frames, *prompts.shape[1:]))
        return prompts.swapaxes(0, 1).reshape(1, -1, prompts.shape[-1])

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        """Point 4, in the vision tower: frames apart, and all of them for the global prompts."""
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
        """With tables of the prompts, leaves shared_DGL/{visual, text}, in the latent's place."""
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

    layers: of the deeper tower. width, text_width: of the towers. patch_size: by which prompts
    start, as the published code has them.
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
            maps[1](prompts)  # which no text sees
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
    """Of the uniform start of prompts: Xavier's of the patch projection."""
    return math.sqrt(6 / (3 * patch_size**2 + width))


def attend_apart(
    query: jax.Array, key: jax.Array, value: jax.Array, count: int, frames: int
) -> jax.Array:
    """Heads of a group [b, 1, h, q, d] read those of it [b, 1, h, m, d].

    The first `count` read all; what follows is of `frames` frames, next to each other, of which
    each reads itself and the first. There may be fewer queries than keys, of the first tokens.
    """
    whole = attend(query[..., :count, :], key, value)
    if query.shape[-2] <= count:
        return whole

    def by_frame(x: jax.Array) -> jax.Array:
        """[b, 1, h, n * t, d] -> [b, t, h, n, d]."""
        b, _, h, _, d = x.shape
        return x.reshape(b, h, -1, frames, d).transpose(0, 3, 1, 2, 4)

    def seen(x: jax.Array) -> jax.Array:
        """Keys or values of each frame, those of the first in front."""
        own = by_frame(x[..., count:, :])
        first = jnp.broadcast_to(x[..., :count, :], (*own.shape[:3], count, own.shape[-1]))
        return jnp.concatenate([first, own], axis=-2)

    apart = attend(by_frame(query[..., count:, :]), seen(key), seen(value))
    apart = apart.transpose(0, 2, 3, 1, 4).reshape(*whole.shape[:3], -1, whole.shape[-1])
    return jnp.concatenate([whole, apart], axis=-2)
