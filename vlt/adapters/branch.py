"""The branch of BT-Adapter and STAN: divided space-time layers beside a frozen ViT."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.attention import Attention
from vlt.models.layers import KAIMING_UNIFORM, Dense, DropPath, LayerNorm, Mlp, uniform
from vlt.models.remat import rematerialised
from vlt.models.spec import VisionSpec
from vlt.models.tokens import Pattern

Layout = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class BranchOptions:
    """Options of the branch.

    depth: K, the number of layers in the branch.
    gates: how backbone and branch are weighted (Eq. 4, 5): `vector`, a sigmoid per channel with the
        published slopes; `scalar`, the paper's single weight with slope 1; `none`, plain sums.
    inputs: `last_k`, branch layer j reads block L-K+1+j; `last_k_plus_1`, the paper's L-K+j.
    video_cls: `mixed`, the mean of the learned token and the frames' mean CLS; `learned`, the
        paper's token alone.
    interaction: False feeds the branch once and combines both sides only at the end (Table 6).
    alignment: projection of the branch's tokens for MBTA: `normalized`, unit vectors after a
        LayerNorm; `linear`, the paper's bare W' (Eq. 7); `none`, no MBTA.
    class_token: what the video CLS is made from: `own`, a leaf that starts at zero; `backbone`, the
        tower's class embedding (STAN). Where frames have no CLS, it enters without a position and
        is mixed with nothing between layers.
    time_module: `attention` over time at each position, or `conv`, STAN's convolution over 3
        frames, rows and columns, without a LayerNorm.
    drop_path: rate at the last layer, to which it rises linearly from 0.
    max_frames: rows of the time embedding. spatial_norm_eps: epsilon of the spatial layers'
        LayerNorms.
    """

    depth: int = 4
    gates: str = "vector"
    inputs: str = "last_k"
    video_cls: str = "mixed"
    interaction: bool = True
    alignment: str = "normalized"
    class_token: str = "own"
    time_module: str = "attention"
    drop_path: float = 0.1
    max_frames: int = 64
    spatial_norm_eps: float = 1e-5


class Branch(nn.Module):
    """Divided space-time layers over the patches of a whole video and one video CLS."""

    spec: VisionSpec
    embed_dim: int
    options: BranchOptions
    train: bool
    cls_only: bool
    remat: str
    dtype: Any

    def setup(self) -> None:
        width, options = self.spec.width, self.options
        if options.depth >= self.spec.layers:
            raise ValueError(
                f"btadapter.depth={options.depth}: the tower has {self.spec.layers} layers, "
                "the branch must have fewer"
            )
        normal = nn.initializers.normal(1.0)
        if options.class_token == "own":
            self.class_token = self.param("class_token", nn.initializers.zeros, (width,))
        self.time_embedding = self.param("time_embedding", normal, (options.max_frames, width))
        if options.gates != "none":
            shape = (width,) if options.gates == "vector" else ()
            if options.interaction:
                self.layer_gate = self.param("layer_gate", nn.initializers.zeros, shape)
            self.final_gate = self.param("final_gate", nn.initializers.zeros, shape)
        convolved = options.time_module == "conv"
        temporal, spatial = ConvolutionLayer if convolved else TemporalLayer, SpatialLayer
        temporal, spatial = (rematerialised(layer, self.remat) for layer in (temporal, spatial))
        last = options.depth - 1
        drop = [options.drop_path * j / max(last, 1) * self.train for j in range(options.depth)]
        cls_only = [j == last and self.cls_only and not self.train for j in range(options.depth)]
        spec = self.spec
        sizes = () if convolved else (spec.heads, spec.norm_eps, spec.key_bias)
        self.temporal = [temporal(*sizes, drop_path=rate, dtype=self.dtype) for rate in drop]
        self.spatial = [
            spatial(self.spec, options.spatial_norm_eps, rate, only, self.dtype)
            for rate, only in zip(drop, cls_only, strict=True)
        ]
        if options.alignment != "none":
            self.alignment = Alignment(options.alignment, self.embed_dim, self.dtype)

    def __call__(
        self,
        states: Sequence[jax.Array],
        position: jax.Array,
        layout: Layout,
        layers: int | None = None,
        class_embedding: jax.Array | None = None,
        places: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """states[m] [b, t, cls + n, d] left block m; layout maps [b, t, n, d] to [b, t, k, d].

        position, class_embedding: the backbone's, [cls + n, d] and [d]; the latter only where
        `class_token` is `backbone`. layers: number of layers to run, beside the last states; None
        for all. places: places of the patches [b, t, n, 2], where attention is rotary; the video
        CLS is not turned. Returns the video CLS [b, d], the patches [b, t, k, d], and both after
        every layer.
        """
        options = self.options
        layers = options.depth if layers is None else layers
        first = len(states) - layers - (options.inputs == "last_k_plus_1")
        token = self.class_token if class_embedding is None else class_embedding
        cls, patches = self._enter(states[first], position, token, layout)
        places = None if places is None else layout(places)
        captured = []
        for j in range(layers):
            if j and options.interaction:
                cls, patches = self._mix(cls, patches, states[first + j], layout)
            patches = self.temporal[j](patches)
            cls, patches = self.spatial[j](cls, patches, places)
            captured.append((cls, patches))
        if self.is_initializing():  # the other layers have weights too, though nothing reads them
            for j in range(layers, options.depth):
                self.spatial[j](cls, self.temporal[j](patches), places)
        return cls, patches, captured

    def _enter(
        self, x: jax.Array, position: jax.Array, class_token: jax.Array, layout: Layout
    ) -> tuple[jax.Array, jax.Array]:
        """Input of the first layer (Eq. 3)."""
        frames, limit = x.shape[1], self.options.max_frames
        if frames > limit:
            raise ValueError(
                f"{frames} frames, but btadapter's table of time embeddings has {limit}; "
                f"sample at most {limit} frames"
            )
        position = position.astype(self.dtype)
        time = self.time_embedding[:frames, None].astype(self.dtype)
        own = self.spec.cls
        cls = class_token.astype(self.dtype)
        if own:
            cls += position[0]
        if own and self.options.video_cls == "mixed":
            cls = (x[:, :, 0].mean(1) + cls) / 2
        cls = jnp.broadcast_to(cls, (x.shape[0], x.shape[-1]))
        return cls, layout(x[:, :, own:] + position[own:] + time)

    def _mix(
        self, cls: jax.Array, patches: jax.Array, x: jax.Array, layout: Layout
    ) -> tuple[jax.Array, jax.Array]:
        """Input of a later layer (Eq. 4): the branch's state combined with the backbone's."""
        own = self.spec.cls
        backbone = layout(x[:, :, own:])
        if self.options.gates == "none":
            return cls + x[:, :, 0].mean(1) if own else cls, patches + backbone
        gate = self._gate(self.layer_gate, 1e2)
        cls = mix(gate, x[:, :, 0].mean(1), cls) if own else cls
        return cls, mix(gate, backbone, patches)

    def combine(self, cls: jax.Array, frame_cls: jax.Array) -> jax.Array:
        """Video CLS [b, d] and the backbone's frames [b, t, d] -> [b, t, d] (Eq. 5)."""
        if self.options.gates == "none":
            return cls[:, None] + frame_cls
        return mix(self.final_weight(), frame_cls, cls[:, None])

    def final_weight(self) -> jax.Array:
        """Weight of the backbone by the final gate (Eq. 5)."""
        return self._gate(self.final_gate, 1e4)

    def _gate(self, weight: jax.Array, slope: float) -> jax.Array:
        """Weight of the backbone. The published slopes speed up the gate's learning."""
        if self.options.gates == "scalar":
            return jax.nn.sigmoid(-weight).astype(self.dtype)
        return jax.nn.sigmoid(slope * weight).astype(self.dtype)

    def align(self, patches: jax.Array) -> jax.Array:
        """MBTA's projection of the branch's patches, [b, t, k, d] -> [b, t, k, e]."""
        return self.alignment(patches)


class Alignment(nn.Module):
    """Freshly initialised projection W' of MBTA (Eq. 7), with a LayerNorm when normalised."""

    kind: str
    embed_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Dense(self.embed_dim, dtype=self.dtype, name="linear")(x)
        if self.kind == "linear":
            return x
        return LayerNorm(dtype=self.dtype, epsilon=1e-5, name="norm")(x)


class TemporalLayer(nn.Module):
    """Attention over time at each position, then a zero-initialised projection W_t (Eq. 2)."""

    heads: int
    norm_eps: float
    key_bias: bool
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """[b, t, k, d] -> [b, t, k, d]."""
        width = patches.shape[-1]
        x = LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(patches).swapaxes(1, 2)
        attention = Attention(
            self.heads,
            self.key_bias,
            dtype=self.dtype,
            kernel_init=KAIMING_UNIFORM,
            bias_init=uniform(width**-0.5),
            name="attention",
        )
        x, _ = attention(Pattern(x, x))
        x = DropPath(self.drop_path)(x)
        zeros = nn.initializers.zeros
        x = Dense(width, dtype=self.dtype, kernel_init=zeros, name="projection")(x)
        return patches + x.swapaxes(1, 2)


class ConvolutionLayer(nn.Module):
    """Convolution over time and space, then a zero-initialised projection W_t (STAN's other T)."""

    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """[b, t, n, d] -> [b, t, n, d], all patches of square frames."""
        b, t, n, width = patches.shape
        side = math.isqrt(n)
        x = nn.Conv(
            width,
            (3, 3, 3),
            dtype=self.dtype,
            kernel_init=KAIMING_UNIFORM,
            bias_init=uniform((27 * width) ** -0.5),
            name="conv",
        )(patches.reshape(b, t, side, side, width))
        x = DropPath(self.drop_path)(x.reshape(patches.shape))
        zeros = nn.initializers.zeros
        return patches + Dense(width, dtype=self.dtype, kernel_init=zeros, name="projection")(x)


class SpatialLayer(nn.Module):
    """A CLIP layer on each frame's patches with the video CLS in front (Eq. 1).

    The CLS takes part in every frame; its attention outputs are averaged, its MLP runs once.
    """

    spec: VisionSpec
    norm_eps: float
    drop_path: float
    cls_only: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, cls: jax.Array, patches: jax.Array, places: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """cls [b, d], patches [b, t, k, d] -> the same. places: [b, t, k, 2], where attention is
        rotary. With `cls_only` the patches are returned unchanged."""
        b, t, k, d = patches.shape
        x = jnp.concatenate([jnp.broadcast_to(cls[:, None, None], (b, t, 1, d)), patches], axis=2)
        x = self._norm("norm1")(x)
        spec = self.spec
        sub_norm = spec.norm_eps if spec.sub_norm else None
        attention = Attention(
            spec.heads,
            spec.key_bias,
            dtype=self.dtype,
            rotary=spec.rotary,
            sub_norm=sub_norm,
            logit_cap=spec.logit_cap,
            name="attention",
        )
        if places is not None:
            places = jnp.pad(places, ((0, 0), (0, 0), (1, 0), (0, 0)))
        asked = slice(1 if self.cls_only else None)
        read = None if places is None else places[:, :, asked]
        y, _ = attention(Pattern(x[:, :, asked], x, query_places=read, source_places=places))
        y = DropPath(self.drop_path)(y)
        cls = cls + y[:, :, 0].mean(1)
        tokens = cls[:, None]
        if not self.cls_only:
            tokens = jnp.concatenate([tokens, (patches + y[:, :, 1:]).reshape(b, -1, d)], axis=1)
        mlp = Mlp(
            spec.mlp_width,
            spec.activation,
            dtype=self.dtype,
            gated=spec.gated_mlp,
            sub_norm=sub_norm,
            name="mlp",
        )
        tokens = tokens + mlp(self._norm("norm2")(tokens))
        return tokens[:, 0], patches if self.cls_only else tokens[:, 1:].reshape(b, t, k, d)

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name=name)


def mix(gate: jax.Array, backbone: jax.Array, branch: jax.Array) -> jax.Array:
    """gate * backbone + (1 - gate) * branch."""
    return gate * backbone + (1 - gate) * branch
