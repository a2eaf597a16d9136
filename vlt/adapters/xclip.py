"""X-CLIP: messages between frames, a transformer over frames, and prompts from a video for texts.

Ni et al., arXiv:2208.02816, Sections 3.2 and 3.3. In each block the class token c_t with which a
frame enters makes a message of d channels,

    m = W c;  m_t = (m + MHSA(LN m))_t, attention over the frames

which the frame's tokens attend to, and which is removed before the MLP. The video's embedding is
the mean of f_t + (blocks over frames)(f + positions)_t for frame embeddings f_t. It is compared
with u + alpha U(u, s), where u is a text and s are the last block's patches, in the joint space and
averaged over time; the layers of U attend from texts to patches. U is a residual stream that begins
with u, so alpha = 0.1 also adds a tenth of the text to itself.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.attention import Attention
from vlt.models.layers import KAIMING_UNIFORM, DropPath, LayerNorm, Mlp, uniform
from vlt.models.points import BlockScope, Embedded, Method, Scope, TowerScope
from vlt.models.spec import Spec
from vlt.models.tokens import AttentionOutput, Pattern, Tokens
from vlt.models.vit import normalize

HEAD_WIDTH = 64  # in attention among embeddings
NORM_EPS = 1e-5
NORMAL = nn.initializers.normal(0.02)
# Xavier's for queries, keys and values as one matrix [3d, d], as in torch.
XAVIER = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


@dataclasses.dataclass(frozen=True)
class XCLIP(Method):
    """Leaves: visual/blocks_i/xclip, visual/xclip_context, visual/xclip_frames, xclip_prompts.

    The model does not start as CLIP: no part of it starts at zero.

    mit_layers: number of blocks over frame embeddings, whose position table has as many rows as
        the videos have frames. prompt_layers: number of layers that make prompts. alpha: what all
        channels of the prompts' weight start at.

    Raises:
        ValueError: mit_layers or prompt_layers below 1.
    """

    name: ClassVar[str] = "xclip"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"class_token", "frame_groups", "patch_places", "pair_scores", "behind_class"}
    )
    breaks: ClassVar[frozenset[str]] = frozenset({"pair_scores", "same_tokens", "behind_class"})

    mit_layers: int = 1
    prompt_layers: int = 2
    alpha: float = 0.1

    def __post_init__(self) -> None:
        for field in ("mit_layers", "prompt_layers"):
            if getattr(self, field) < 1:
                raise ValueError(f"xclip.{field} must be >= 1, got {getattr(self, field)}")

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError where embeddings do not divide into heads."""
        if spec.embed_dim % heads_of(spec.embed_dim):
            raise ValueError(
                f"xclip attends among embeddings in heads of {HEAD_WIDTH} channels, and this "
                f"model's have {spec.embed_dim}"
            )

    @property
    def reads_patches(self) -> bool:
        return True

    @property
    def video_extras(self) -> tuple[str, ...]:
        return ("context",)

    def extra_tokens(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: inserts the message after the class token.

        Raises:
            ValueError: another method joined frames.
        """
        if tokens.cls != 1:
            raise ValueError(
                f"xclip reads the class token of each frame, but another method left {tokens.cls} "
                "in each group; take one of them out of model.methods"
            )
        message = Message(block.heads, block.norm_eps, block.drop_path, block.dtype, name=self.name)
        return tokens.insert(1, message(tokens.x[:, :, 0])[:, :, None])

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: removes the message."""
        return tokens.remove(1, 1)

    def side_branch(
        self, tower: TowerScope, hidden: Sequence[Tokens], train: bool, capture: bool
    ) -> tuple[Tokens, dict[str, Any]]:
        """Point 8: `context` [b, n, e], the patches that prompts are made from.

        Raises:
            ValueError: another method left no patches.
        """
        tokens = hidden[-1]
        if not tokens.patches:
            raise ValueError(
                "xclip reads the patches of the last block, which another method did not leave; "
                "name xclip before it in model.methods"
            )
        context = Context(tower.embed_dim, tower.dtype, name="xclip_context")
        return tokens, {"context": context(tokens.x[:, :, tokens.protected :])}

    def head(
        self, tower: TowerScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9: frame embeddings after the transformer over frames."""
        return FrameTransformer(self.mit_layers, tower.dtype, name="xclip_frames")(features), {}

    def score(
        self, model: Scope, video: Embedded, text: Embedded, scores: jax.Array, train: bool
    ) -> jax.Array:
        """Point 9: cosines of each video with the texts that it prompts."""
        prompts = Prompts(self.prompt_layers, self.alpha, model.dtype, name="xclip_prompts")
        texts = text["features"] + prompts(video["context"], text["features"])
        unit = normalize(video["frames"].mean(1))
        return jnp.einsum("ve,vce->vc", unit, normalize(texts.astype(jnp.float32)))


METHOD = XCLIP


class Message(nn.Module):
    """The messages that frames pass to each other in one block."""

    heads: int
    norm_eps: float
    drop_path: float
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, cls: jax.Array) -> jax.Array:
        """Class tokens [b, t, d] -> messages [b, t, d]."""
        width = cls.shape[-1]
        x = nn.Dense(
            width,
            dtype=self.dtype,
            kernel_init=KAIMING_UNIFORM,
            bias_init=uniform(width**-0.5),
            name="message",
        )(cls)
        y = LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(x)[:, None]
        attention = Attention(
            self.heads, dtype=self.dtype, kernel_init=KAIMING_UNIFORM, qkv_init=XAVIER,
            name="attention",
        )  # fmt: skip
        y, _ = attention(Pattern(y, y))
        return x + DropPath(self.drop_path)(y[:, 0])


class Context(nn.Module):
    """Patches in the joint space, by a LayerNorm and a projection of their own."""

    embed_dim: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """[b, t, n, d] -> [b, n, e], the mean over time."""
        x = LayerNorm(epsilon=NORM_EPS, dtype=self.dtype, name="norm")(patches)
        init = nn.initializers.normal(1.0)
        x = nn.Dense(
            self.embed_dim,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=init,
            name="projection",
        )(x)
        return x.astype(jnp.float32).mean(1)


class FrameTransformer(nn.Module):
    """The multi-frame integration transformer (Eq. 8)."""

    layers: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, t, e], the blocks' output added to the input."""
        position = self.param("position_embedding", NORMAL, frames.shape[1:])
        x = (frames + position).astype(self.dtype)[:, None]
        for layer in range(self.layers):
            x = Layer(self.dtype, name=f"blocks_{layer}")(x, None)
        return frames + x[:, 0].astype(frames.dtype)


class Prompts(nn.Module):
    """The video-specific prompts of texts, times their weights (Eq. 9, 10)."""

    layers: int
    alpha: float
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, context: jax.Array, texts: jax.Array) -> jax.Array:
        """Patches [v, n, e] of videos, texts [c, e] -> [v, c, e]."""
        weight = self.param("alpha", nn.initializers.constant(self.alpha), texts.shape[-1:])
        patches = LayerNorm(epsilon=NORM_EPS, dtype=self.dtype, name="norm")(context)[:, None]
        shape = (len(context), 1, *texts.shape)
        x = jnp.broadcast_to(texts.astype(self.dtype), shape)
        for layer in range(self.layers):
            x = Layer(self.dtype, name=f"blocks_{layer}")(x, patches)
        return weight * x[:, 0]


class Layer(nn.Module):
    """A pre-LN block over embeddings, which attend to each other, or to `source` as it is and
    without biases of queries, keys and values."""

    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, source: jax.Array | None) -> jax.Array:
        """[b, 1, n, e], source [b, 1, m, e] -> [b, 1, n, e]."""
        y = LayerNorm(epsilon=NORM_EPS, dtype=self.dtype, name="norm1")(x)
        attention = Attention(
            heads_of(x.shape[-1]),
            dtype=self.dtype,
            kernel_init=NORMAL,
            qkv_init=XAVIER if source is None else NORMAL,
            qkv_bias=source is None,
            name="attention",
        )
        y, _ = attention(Pattern(y, y if source is None else source))
        x = x + y
        y = LayerNorm(epsilon=NORM_EPS, dtype=self.dtype, name="norm2")(x)
        width = 4 * x.shape[-1]
        mlp = Mlp(width, "quick_gelu", dtype=self.dtype, kernel_init=NORMAL, name="mlp")
        return x + mlp(y)


def heads_of(width: int) -> int:
    """Number of heads of attention among embeddings."""
    return max(width // HEAD_WIDTH, 1)
