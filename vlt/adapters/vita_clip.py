"""Vita-CLIP: prompts of frames, of the video, of its summary, and of texts.

Wasim et al., arXiv:2304.03307, Section 3. Time embeddings are added to every token before the
tower's first LayerNorm. In each block, with q_t = W c_t for the class token c_t with which frame t
enters, each frame attends to

    local prompts     p_i + q_i of every frame i, t of them
    global prompts    g learned tokens, separate ones in each block
    summary           s_t = q_t + MHSA(LN q)_t, attention over the frames

beside its own tokens; local prompts and summary are removed before the MLP, global prompts after
it. A text is [start][context][class name][.][end], with a learned context, for each class if asked
for (CoOp, arXiv:2109.01134).
"""

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.attention import Attention
from vlt.models.layers import KAIMING_UNIFORM, LayerNorm, uniform
from vlt.models.options import check_room_for_words, require_some
from vlt.models.points import AnyTower, BlockScope, Method
from vlt.models.spec import Spec, VisionSpec
from vlt.models.tokens import AttentionOutput, Pattern, Tokens

POSITIONS = ("end", "middle", "front")
NORMAL = nn.initializers.normal(0.02)
XAVIER = nn.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class VitaCLIP(Method):
    """Leaves: visual/vita_clip, visual/blocks_i/vita_clip, text/vita_clip.

    frames: t; a video with a multiple of t frames is read in runs of t, between which nothing
        passes, and each of its time embeddings is repeated (as published).
    global_prompts: g, 0 for none. local, summary: whether there are local prompts, or a summary.
    text_prompts: number of vectors in a text's context, 0 for none. classes: number of classes that
        each have a context of their own, 0 for one that all share. Texts that are not said to be of
        these classes are then embedded without context, as in CLIP.
    position: where the class name stands: at the `end` of the context, in the `middle` or in
        `front`; the name is all of a text that stands before its last word, the full stop.

    Raises:
        ValueError: frames below 1; another number below 0; contexts of classes without a context;
            unknown position.
    """

    name: ClassVar[str] = "vita_clip"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"class_token", "frame_groups", "joint_space", "behind_class"}
    )
    text_needs: ClassVar[frozenset[str]] = frozenset({"text_tower", "word_places"})
    breaks: ClassVar[frozenset[str]] = frozenset({"same_tokens", "behind_class"})

    frames: int = 8
    global_prompts: int = 8
    local: bool = True
    summary: bool = True
    text_prompts: int = 16
    classes: int = 0
    position: str = "end"

    def __post_init__(self) -> None:
        for field, least in (
            ("frames", 1), ("global_prompts", 0), ("text_prompts", 0), ("classes", 0),
        ):  # fmt: skip
            if (value := getattr(self, field)) < least:
                raise ValueError(f"vita_clip.{field} must be >= {least}, got {value}")
        require_some("vita_clip", "position", (self.position,), POSITIONS)
        if self.classes and not self.text_prompts:
            raise ValueError(
                f"vita_clip.classes={self.classes} with vita_clip.text_prompts=0: there is no "
                "context that they could have; set classes=0"
            )

    @property
    def towers(self) -> tuple[str, ...]:
        return ("visual", "text") if self.text_prompts else ("visual",)

    @property
    def text_positions(self) -> int:
        return self.text_prompts

    def breaks_here(self) -> frozenset[str]:
        """Adds `word_places` where contexts stand among words."""
        return self.breaks | ({"word_places"} if self.text_prompts else set())

    @property
    def known_classes(self) -> int:
        return self.classes

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for frames that do not make whole runs, and for contexts that leave no
        room for a text."""
        self.check_frames(frames)
        if self.text_prompts:
            prompts = f"vita_clip.text_prompts={self.text_prompts}"
            check_room_for_words(prompts, self.text_prompts, spec.text.context)

    def check_frames(self, count: int) -> None:
        """Raises ValueError unless `count` frames make whole runs."""
        if count % self.frames:
            raise ValueError(
                f"{count} frames, vita_clip.frames is {self.frames}: use that many, or a multiple"
            )

    def embed(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0: adds time embeddings, or the contexts of texts.

        Raises:
            ValueError: frames that do not make whole runs.
        """
        if tower.tower == "text":
            return self._with_context(tower, tokens)
        spec, count = tower.spec, tokens.x.shape[1]
        assert isinstance(spec, VisionSpec)
        self.check_frames(count)
        prompts = VideoPrompts(self, spec, name=self.name)()
        time = jnp.repeat(prompts["time"], count // self.frames, axis=0).astype(tokens.x.dtype)
        carried = {**tokens.carried, self.name: prompts | {"time": time}}
        return tokens.replace(x=tokens.x + time[:, None], carried=carried)

    def _with_context(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Words [b, 1, l, d] with the context's vectors among them."""
        width, count = tokens.x.shape[-1], self.text_prompts
        shape = (self.classes, count, width) if self.classes else (count, width)
        context = TextContext(shape, name=self.name)().astype(tokens.x.dtype)
        if self.classes and tokens.classes is None:
            return tokens
        assert tokens.readout is not None
        if self.classes:
            context = context[tokens.classes]
        words = tokens.x[:, 0]
        context = jnp.broadcast_to(context, (len(words), count, width))
        both = jnp.concatenate([words, context], axis=1)
        order = self._order(tokens.readout, words.shape[1])
        x = jnp.take_along_axis(both, order[..., None], axis=1)
        return tokens.replace(x=x[:, None], readout=tokens.readout + count)

    def _order(self, readout: jax.Array, length: int) -> jax.Array:
        """Indices [b, l + n] into l words and n vectors after them, by where each stands.

        The first of the vectors stand between the start token and the name, which ends before the
        full stop and the token that is read; the rest follow the name.
        """
        count = self.text_prompts
        before = {"end": count, "middle": count // 2, "front": 0}[self.position]
        place = jnp.arange(length + count)
        name = readout[:, None] - 2  # number of its words
        return jnp.select(
            [place < 1, place < 1 + before, place < 1 + before + name, place < 1 + count + name],
            [place, length - 1 + place, place - before, length - 1 + place - name],
            place - count,
        )

    def extra_tokens(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: inserts all prompts after the class tokens, the global ones last."""
        if block.tower == "text":
            return tokens
        carried = tokens.carried[self.name]
        b, groups, _, d = tokens.x.shape
        new = []
        if self.local or self.summary:
            frames = self._class_tokens(tokens, len(carried["time"]))
            made = FramePrompts(self, block.heads, block.norm_eps, block.dtype, name=self.name)
            local, summary = made(frames, carried["local"][block.layer])
            runs = frames.shape[1]
            # Each clip of a run has all of the run's.
            new += [] if local is None else [jnp.repeat(local, groups // runs, axis=1)]
            new += [] if summary is None else [summary.reshape(b, groups, -1, d)]
        if self.global_prompts:
            prompts = carried["global"][block.layer].astype(tokens.x.dtype)
            new.append(jnp.broadcast_to(prompts, (b, groups, *prompts.shape)))
        return tokens.insert(tokens.cls, jnp.concatenate(new, axis=2)) if new else tokens

    def _class_tokens(self, tokens: Tokens, count: int) -> jax.Array:
        """Class tokens of `count` frames by runs, [b, runs, t, d].

        Raises:
            ValueError: frames were merged, or joined into clips that do not make up runs.
        """
        b, groups, _, d = tokens.x.shape
        if groups * tokens.cls != count or self.frames % tokens.cls:
            raise ValueError(
                f"vita_clip reads the class token of each of {count} frames, in runs of "
                f"{self.frames}, but another method left {groups} groups with {tokens.cls} each"
            )
        return tokens.x[:, :, : tokens.cls].reshape(b, -1, self.frames, d)

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: removes local prompts and summary.

        Raises:
            ValueError: a method that merges comes later, and would find fewer tokens than attention
                saw.
        """
        if block.tower == "text" or block.cls_read:
            return tokens
        behind = block.active[block.active.index(self) + 1 :]
        if late := [method.name for method in behind if method.merges]:
            raise ValueError(
                f"vita_clip takes tokens out that {late[0]} has attention for: name it behind "
                f"{late[0]} in model.methods"
            )
        count = self.local * self.frames + self.summary * tokens.cls
        return tokens.remove(tokens.cls, count) if count else tokens

    def after_block(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: removes global prompts."""
        if block.tower == "text" or block.cls_read or not self.global_prompts:
            return tokens
        return tokens.remove(tokens.cls, self.global_prompts)


METHOD = VitaCLIP


class VideoPrompts(nn.Module):
    """What the vision tower adds to every video alike."""

    options: VitaCLIP
    spec: VisionSpec

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        """`time` [t, d], `global` [blocks, g, d] and, of each block, `local` [t, d], or None."""
        options, spec = self.options, self.spec
        bound = uniform(math.sqrt(6 / (3 * spec.patch_size**2 + spec.width)))
        shape, blocks = (options.frames, spec.width), range(spec.layers)
        prompts = (spec.layers, options.global_prompts, spec.width)
        return {
            "time": self.param("time_embedding", NORMAL, shape),
            "global": self.param("global_prompts", bound, prompts) if prompts[1] else None,
            "local": [
                self.param(f"local_prompts_{i}", bound, shape) if options.local else None
                for i in blocks
            ],
        }


class FramePrompts(nn.Module):
    """The prompts that a block makes from the class tokens of a run of frames."""

    options: VitaCLIP
    heads: int
    norm_eps: float
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(
        self, frames: jax.Array, prompts: jax.Array | None
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Class tokens [b, runs, t, d], prompts [t, d] -> local prompts and summaries
        [b, runs, t, d], each None where there are none."""
        width = frames.shape[-1]
        query = nn.Dense(
            width,
            dtype=self.dtype,
            kernel_init=KAIMING_UNIFORM,
            bias_init=uniform(width**-0.5),
            name="cls_proj",
        )(frames)
        local = None if prompts is None else prompts.astype(query.dtype) + query
        if not self.options.summary:
            return local, None
        normed = LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="summary_norm")(query)
        attention = Attention(
            self.heads, dtype=self.dtype, kernel_init=XAVIER, name="summary_attention"
        )
        return local, query + attention(Pattern(normed, normed))[0]


class TextContext(nn.Module):
    """Learned vectors in front of, around or behind a class name."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        """[n, d] or [c, n, d]."""
        return self.param("context", NORMAL, self.shape)
