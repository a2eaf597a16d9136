"""The vision tower: one ViT over frames, for every image-language family."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.block import Block
from vlt.models.interpolation import bilinear, sinusoid
from vlt.models.layers import Dense, LayerNorm
from vlt.models.patches import PatchEmbedding
from vlt.models.points import Method, of_tower
from vlt.models.pooler import Pooler
from vlt.models.remat import rematerialised
from vlt.models.rotary import frame_places
from vlt.models.spec import VisionSpec
from vlt.models.tokens import Tokens, grouped_by_place, grouped_together, without_prompts


class VisionTransformer(nn.Module):
    """ViT whose frames are groups of tokens; methods decide how frames interact.

    embed_dim: width of the joint space with texts; 0 where there is none and only tokens are read.
    tokens_read: whether the tokens themselves are read, as by a text model. cls_only: where nothing
    reads the last block's patches, compute only its CLS tokens (exact). frame_norm: unit-normalise
    the embedding of each frame before the mean over time (CLIP4Clip, TempMe); else plain mean
    (BT-Adapter). remat: a key of `vlt.models.remat.POLICIES`. drop_path: rate of the last block in
    training; it rises linearly from 0 in the first (BLIP's stochastic depth). read: for a chat
    model, which states are passed on as they are: 1 for the last block's, 2 for those of the one
    before it; 0 for the last block's after the final LayerNorm. feature_blocks: number of blocks
    after which cached features enter.
    """

    tower: ClassVar[str] = "visual"

    spec: VisionSpec
    embed_dim: int
    methods: tuple[Method, ...] = ()
    cls_only: bool = True
    frame_norm: bool = False
    shared: Mapping[str, nn.Module] | None = None
    remat: str = "none"
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    tokens_read: bool = False
    read: int = 0
    feature_blocks: int = 0

    def setup(self) -> None:
        spec = self.spec
        init = nn.initializers.normal(spec.init_std or spec.width**-0.5)
        if spec.cls:
            self.class_embedding = self.param("class_embedding", init, (spec.width,))
        if spec.positions == "learned":
            self.position_embedding = self.param(
                "position_embedding", init, (spec.cls + spec.patches, spec.width)
            )
        else:
            self.position_embedding = jnp.asarray(sinusoid(spec.patches, spec.width))
        if spec.temporal_frames:
            self.temporal_embedding = self.param(
                "temporal_embedding", nn.initializers.zeros, (spec.temporal_frames, spec.width)
            )
        norm = functools.partial(LayerNorm, epsilon=spec.norm_eps, dtype=self.dtype)
        if spec.stages:
            self.spatial_norm, self.temporal_norm = norm(), norm()
        else:
            self.post_norm = norm()
        if self.embed_dim and spec.pool_norm:
            self.pool_norm = LayerNorm(epsilon=spec.norm_eps, dtype=self.dtype)
        if self.embed_dim and spec.pool == "attention":
            seen = tuple(method for method in self._active if method.in_pooler)
            self.pooler = Pooler(spec, seen, self.dtype)
        if self.embed_dim and not spec.projection:
            self.projection = lambda x: x
        elif self.embed_dim:
            self.projection = Dense(
                self.embed_dim,
                use_bias=spec.projection_bias,
                methods=self.methods,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(spec.width**-0.5),
            )

    @nn.compact
    def __call__(
        self,
        video: jax.Array,
        train: bool = False,
        capture: bool = False,
        absent: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Normalised frames [b, t, H, W, 3] -> embedding [b, e], not normalised, and `out`.

        absent: [b, t] bool, for a tower with stages: which frames only fill up a shorter video.

        Cached features [b, t, n, d] may be given instead of frames. With `read` the states are
        returned instead, [b, t, cls + patches, d]; without a joint space, the tokens.

        `out` holds what methods give to losses, `tokens` [b, g * n, d] after the final LayerNorm
        where they are read, and `frames`, the embedding of each frame [b, t, e]. With `capture` it
        holds every block's `Tokens`, with their members, and, if a tower with stages pools by
        attention, the embeddings of its frames as `each_frame`.
        """
        cached = video.ndim == 4
        tokens = self._entered(video) if cached else self._stem(video, capture)
        if absent is not None:
            tokens = self._without(absent, tokens)
        out: dict[str, Any] = {"stem": tokens} if capture else {}
        hidden = []
        for layer in range(self.feature_blocks if cached else 0, self.spec.layers):
            if layer > self._last and not (capture or self.is_initializing()):
                break
            tokens = self._block(layer, train)(self._regrouped(tokens, layer))
            if layer <= self._last:
                hidden.append(tokens)
            if capture:
                out[f"block_{layer}"] = tokens
        for method in self._active:
            tokens, extra = method.side_branch(self, hidden, train, capture)
            hidden[-1] = tokens
            out.update(extra)
        if self.read:
            if self.is_initializing() and self.read > 1:
                self._final_norm(tokens.x)  # the weights have its leaves, though nothing reads it
            return self._features(self._by_frame(hidden[-1])), out
        tokens = self._regrouped(tokens, self.spec.layers)
        all_read = self.tokens_read or self.spec.pool != "cls"
        x = tokens.x if all_read else tokens.x[:, :, : tokens.cls]
        x = x if tokens.pooled else self._final_norm(x)
        if not self.embed_dim:
            x = tokens.by_frame(x[:, :, tokens.protected :]) if self.spec.stages else x
            return flat(self._features(x)), out
        if self.tokens_read:
            out["tokens"] = flat(x)
        pooled = x if tokens.pooled else self._pool(tokens, x)
        if capture and self.spec.stages and self.spec.pool == "attention":
            each = self.pooler(tokens.by_frame(x[:, :, tokens.protected :]), None)
            out["each_frame"] = self.projection(each)[:, :, 0]
        frames = self._embed(self._features(pooled), train, out)
        out["frames"] = frames
        return frames.mean(1), out

    def _without(self, absent: jax.Array, tokens: Tokens) -> Tokens:
        if not self.spec.stages:
            raise ValueError("absent frames are known to towers with stages (VideoPrism) alone")
        return tokens.replace(absent=jnp.broadcast_to(absent[..., None], tokens.x.shape[:3]))

    def _regrouped(self, tokens: Tokens, layer: int) -> Tokens:
        """Tokens that enter a block; after a stage, normed, regrouped, with frame embeddings."""
        stages = self.spec.stages
        if not stages or layer not in (stages[0], sum(stages[:2])):
            return tokens
        if layer > stages[0]:
            return grouped_together(tokens.replace(x=self.temporal_norm(tokens.x)))
        tokens = grouped_by_place(tokens.replace(x=self.spatial_norm(tokens.x)))
        table, shape = self.temporal_embedding, tokens.x.shape[2:]
        if table.shape != shape:
            table = jax.image.resize(table, shape, "bilinear")
        return tokens.replace(x=tokens.x + table.astype(self.dtype))

    def _by_frame(self, tokens: Tokens) -> jax.Array:
        """States that leave block `_last`, as `by_frame`; with stages, each frame's patches."""
        if not self.spec.stages:
            return by_frame(tokens)
        tokens = self._regrouped(tokens, self._last + 1)
        return tokens.by_frame(tokens.x[:, :, tokens.protected :])

    def _final_norm(self, x: jax.Array) -> jax.Array:
        """The LayerNorm after the last block; none where stages end with their own."""
        return x if self.spec.stages else self.post_norm(x)

    @property
    def _last(self) -> int:
        """Index of the block whose states are read."""
        return self.spec.layers - max(self.read, 1)

    @property
    def _active(self) -> tuple[Method, ...]:
        return of_tower(self.methods, self.tower)

    def _pool(self, tokens: Tokens, x: jax.Array) -> jax.Array:
        """What embeddings are made of, [b, g, n, d], from x, the tokens that are read, normalised.

        Attention pooling reads CLS tokens and patches, but no token of a method.
        """
        if self.spec.pool != "attention":
            pooled = _pooled(tokens, x, self.spec)
            return self.pool_norm(pooled) if self.spec.pool_norm else pooled
        read = tokens.replace(x=x)
        size = None if tokens.size is None else without_prompts(read.replace(x=tokens.size))
        return self.pooler(without_prompts(read), size)

    def pooled(self, tokens: Tokens) -> jax.Array:
        """What embeddings are made of, after final LayerNorm and pooling, [b, g, n, d]."""
        return self._pool(tokens, self._final_norm(tokens.x))

    def _features(self, x: jax.Array) -> jax.Array:
        for method in self._active:
            x = method.features(self, x)
        return x

    def _embed(self, x: jax.Array, train: bool, out: dict[str, Any]) -> jax.Array:
        """Pooled tokens [b, g, n, d] -> embeddings [b, t, e]; adds to `out`."""
        frames = self.projection(x).reshape(x.shape[0], -1, self.embed_dim).astype(jnp.float32)
        for method in self._active:
            frames, extra = method.head(self, frames, train)
            out.update(extra)
        if any(method.scores_pairs for method in self.methods):
            out["raw_frames"] = frames
        return normalize(frames) if self.frame_norm else frames

    def project_tokens(self, x: jax.Array) -> jax.Array:
        """Final LayerNorms and projection into the joint space, [..., d] -> [..., e]."""
        x = self._final_norm(x)
        return self.projection(self.pool_norm(x) if self.spec.pool_norm else x)

    def _entered(self, features: jax.Array) -> Tokens:
        """Tokens from cached features [b, t, n, d]."""
        spec = self.spec
        if features.shape[2:] != (spec.cls + spec.patches, spec.width):
            raise ValueError(
                f"features have shape {features.shape[2:]} in each frame, the tower's are "
                f"({spec.cls + spec.patches}, {spec.width})"
            )
        if not self.read or spec.together:
            raise ValueError("features in the place of frames are for chat models, frames apart")
        return Tokens(features.astype(self.dtype), cls=spec.cls, protected=spec.cls)

    def _stem(self, video: jax.Array, capture: bool) -> Tokens:
        spec = self.spec
        if 0 < spec.temporal_frames < video.shape[1] and not spec.stages:
            raise ValueError(
                f"{video.shape[1]} frames, but the tower has embeddings of {spec.temporal_frames}"
            )
        grid = self._grid(video.shape[2:])
        patches = PatchEmbedding(
            spec.patch_size, spec.width, spec.patch_bias, self.dtype, name="patch_embedding"
        )(video)
        tokens = self._placed(patches, grid, capture)
        for method in self._active:
            tokens = method.embed(self, tokens)
        if spec.pre_norm:
            norm = LayerNorm(epsilon=spec.norm_eps, dtype=self.dtype, name="pre_norm")
            tokens = tokens.replace(x=norm(tokens.x))
        for method in self._active:
            tokens = method.stem(self, tokens)
        return tokens

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of patches in frames [H, W, 3].

        Raises ValueError for frames of another size than `image_size`, except for PE-Core, which
        interpolates its positions when it is run.
        """
        spec = self.spec
        rows, columns = (pixels // spec.patch_size for pixels in shape[:2])
        any_size = spec.rope == "pe" and rows and columns and shape[2] == 3
        if shape != (spec.image_size, spec.image_size, 3) and not any_size:
            raise ValueError(
                f"frames have shape {shape}, but the tower takes "
                f"({spec.image_size}, {spec.image_size}, 3)"
            )
        return rows, columns

    def _table(self, grid: tuple[int, int]) -> jax.Array:
        """Positions [cls + patches, d] for frames with this grid; the class token's row is kept."""
        spec, table = self.spec, self.position_embedding
        if grid == (spec.side, spec.side):
            return table
        old = table[spec.cls :].reshape(spec.side, spec.side, -1)
        weights = [bilinear(spec.side, count) for count in grid]
        new = jnp.einsum("iy,jx,yxd->ijd", *weights, old, precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([table[: spec.cls], new.reshape(-1, spec.width)])

    def _placed(self, patches: jax.Array, grid: tuple[int, int], capture: bool) -> Tokens:
        """Patches [b, t, patches, d] after their class tokens, with positions added."""
        x, spec = patches, self.spec
        if spec.cls:
            cls = jnp.broadcast_to(self.class_embedding, (*x.shape[:2], 1, spec.width))
            x = jnp.concatenate([cls.astype(self.dtype), x], axis=2)
        if spec.joint:
            table = sinusoid(x.shape[1] * spec.patches, spec.width)
            x = x + table.reshape(x.shape[1:]).astype(self.dtype)
        else:
            x = x + self._table(grid).astype(self.dtype)
        if spec.together and not spec.stages:
            x = self._together(x)
            return Tokens(x, frames=patches.shape[1], cls=spec.cls, protected=spec.cls)
        members = _own_patch(x, spec.cls) if capture and not spec.stages else None
        places = None
        if spec.rope:
            own = frame_places(spec.rope, *grid, spec.cls)
            places = jnp.broadcast_to(own, (*x.shape[:3], 2))
        return Tokens(x, members=members, cls=spec.cls, protected=spec.cls, places=places)

    def _together(self, x: jax.Array) -> jax.Array:
        """[b, t, cls + patches, d] -> [b, 1, cls + patches * t, d] with frame embeddings.

        A single frame gets the mean of their rows; fewer frames than rows get the first ones.
        """
        b, t, _, d = x.shape
        cls = self.spec.cls
        patches = x[:, :, cls:]
        if self.spec.temporal_frames:
            table = self.temporal_embedding.astype(self.dtype)
            rows = table.mean(0, keepdims=True) if t == 1 else table[:t]
            patches = patches + rows[:, None]
        patches = patches.swapaxes(1, 2).reshape(b, 1, -1, d)
        return jnp.concatenate([x[:, :1, :cls], patches], axis=2)

    def _block(self, layer: int, train: bool) -> Block:
        spec = self.spec
        last = layer == spec.layers - 1
        patches_read = self.tokens_read or any(m.reads_patches for m in self._active)
        cls_read = self.cls_only and last and not patches_read and spec.pool == "cls"
        block = rematerialised(Block, self.remat)
        return block(
            spec.heads,
            spec.mlp_width,
            spec.activation,
            spec.norm_eps,
            spec.key_bias,
            methods=self.methods,
            layer=layer,
            depth=spec.layers,
            cls_read=cls_read,
            train=train,
            drop_path=self.drop_path * layer / max(spec.layers - 1, 1) * train,
            shared=self.shared,
            dtype=self.dtype,
            logit_cap=spec.logit_cap,
            rotary=spec.rotary,
            gated=spec.gated_mlp,
            sub_norm=spec.sub_norm,
            name=f"blocks_{layer}",
        )


def by_frame(tokens: Tokens) -> jax.Array:
    """CLS tokens and patches [b, g, cls + n, d]; if a group holds all frames, frame by frame."""
    x, cls = without_prompts(tokens), tokens.cls
    if tokens.frames == 1:
        return x
    frames = tokens.by_frame(x[:, :, cls:])
    return jnp.concatenate([x[:, :, :cls], flat(frames)[:, None]], axis=2)


def flat(x: jax.Array) -> jax.Array:
    """[b, g, n, d] -> [b, g * n, d]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _pooled(tokens: Tokens, x: jax.Array, spec: VisionSpec) -> jax.Array:
    """What embeddings are made of, [b, g, n, d], from x, the tokens that are read, normalised.

    CLS tokens, or the mean of each frame's patches, or of each group's if not all patches are still
    there. A patch counts as `VisionSpec.pool` says.
    """
    if tokens.cls:
        return x[:, :, : tokens.cls]
    patches = x[:, :, tokens.protected :].astype(jnp.float32)
    if tokens.frames > 1 and tokens.patches == tokens.frames * spec.patches:
        return tokens.by_frame(patches).mean(2)[:, None].astype(x.dtype)
    if tokens.size is None or spec.pool == "token_mean":
        return patches.mean(2, keepdims=True).astype(x.dtype)
    size = tokens.size[:, :, tokens.protected :, None]
    return ((patches * size).sum(2, keepdims=True) / size.sum(2, keepdims=True)).astype(x.dtype)


def _own_patch(x: jax.Array, cls: int) -> jax.Array:
    """Members [b, t, n, t * patches] of the tokens [b, t, n = cls + patches, d] of frames."""
    b, t, patches = x.shape[0], x.shape[1], x.shape[2] - cls
    own = jnp.eye(t * patches).reshape(1, t, patches, t * patches)
    own = jnp.pad(own, ((0, 0), (0, 0), (cls, 0), (0, 0)))
    return jnp.broadcast_to(own, (b, *own.shape[1:]))


def normalize(x: jax.Array) -> jax.Array:
    """Unit vectors along the last axis."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True).clip(1e-16))
