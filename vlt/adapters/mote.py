"""MoTE: temporal layers with experts over frame embeddings (Zhu et al., arXiv:2410.10589).

    video = unit(mean_t(f + H(f)))

H: pre-LN blocks over the frames f, whose MLPs have several experts. In training each block uses one
expert, drawn for the whole batch, later ones more often. A second pass uses a mean of the experts'
weights, by softmax((1, 2, ...) / tau) with tau drawn for each block; it has to recognise the class
as well, and to stay near f. After training the experts' plain mean is used, which is one MLP.

Where classes other than those of training are to be recognised, H counts less the farther they are,
by exp((s - 1) / 0.05): among the classes asked for and those of training that are nearest to the
video, s is the mean over the former of their largest cosine with the latter.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.adapters.clip4clip import HEAD_WIDTH, FrameTransformer
from vlt.models.activations import ACTIVATIONS
from vlt.models.block import Block
from vlt.models.layers import XAVIER_QKV
from vlt.models.points import Embedded, Method, Scope, TowerScope
from vlt.models.spec import Spec
from vlt.models.vit import normalize

TEMPERATURES = (0.6, -0.6, 1.2, -1.2, 2.4, -2.4, 4.8, -4.8, 9.6, -9.6, float("inf"))
NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class MoTE(Method):
    """Leaves: visual/mote, and mote/classes. The losses of the second pass have weights in
    `task.losses`: 0.5 for mote_merged, 0.1 for mote_distance.

    layers, experts: number of blocks of H, and of experts in each; one expert makes plain blocks.
    heads: heads of H's attention, 0 for heads of 64 channels. max_frames: rows of its position
        table.
    classes: how many are trained on; classes asked for are compared with the embeddings of their
        texts, which training puts into mote/classes before its first step. 0 for H as it is.
    nearest: how many of the nearest classes are compared. bandwidth: by how much s may fall short
        of 1 before the weight of H is 1/e.

    Raises:
        ValueError: layers, experts, max_frames or nearest below 1; bandwidth not above 0; heads or
            classes below 0.
    """

    name: ClassVar[str] = "mote"
    needs: ClassVar[frozenset[str]] = frozenset({"joint_space", "frame_groups"})
    breaks: ClassVar[frozenset[str]] = frozenset()

    layers: int = 4
    experts: int = 4
    heads: int = 0
    max_frames: int = 77
    classes: int = 0
    nearest: int = 5
    bandwidth: float = 0.05

    def __post_init__(self) -> None:
        for field in ("layers", "experts", "max_frames", "nearest"):
            if getattr(self, field) < 1:
                raise ValueError(f"mote.{field} must be >= 1, got {getattr(self, field)}")
        for field in ("heads", "classes"):
            if getattr(self, field) < 0:
                raise ValueError(f"mote.{field} must be >= 0, got {getattr(self, field)}")
        if not self.bandwidth > 0:
            raise ValueError(f"mote.bandwidth must be > 0, got {self.bandwidth}")

    def needs_here(self) -> frozenset[str]:
        """Adds `pair_scores` where classes are compared."""
        return super().needs_here() | ({"pair_scores"} if self.classes else set())

    def breaks_here(self) -> frozenset[str]:
        """Rules out other methods that score pairs where classes are compared."""
        return super().breaks_here() | ({"pair_scores"} if self.classes else set())

    @property
    def known_classes(self) -> int:
        return self.classes

    @property
    def keeps_classes(self) -> bool:
        return bool(self.classes)

    def init_from_classes(self, params: dict, classes: jax.Array) -> dict:
        """Stores `classes`, which other classes are compared with."""
        return params | {"mote": {"classes": classes}}

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for more frames than positions, and for heads that do not divide the
        width of embeddings."""
        if frames > self.max_frames:
            raise ValueError(f"{frames} frames, mote.max_frames is {self.max_frames}")
        if spec.embed_dim % (self.heads or HEAD_WIDTH):
            wanted = f"{self.heads}" if self.heads else f"width/{HEAD_WIDTH}"
            raise ValueError(
                f"mote.heads can't be {wanted}: frame embeddings have width {spec.embed_dim}"
            )

    @property
    def video_extras(self) -> tuple[str, ...]:
        return ("mote_change",)

    def head(
        self, tower: TowerScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the vision tower: f + H(f), with one expert per block in training.

        Extra outputs: `mote_change`, H(f), and in training with several experts `mote_merged`,
        f + H(f) of the second pass, both [b, t, e], and `mote_distance` [b], the mean square of
        that H(f).
        """
        blocks = ExpertTransformer(
            self.layers,
            self.max_frames,
            tower.dtype,
            self.heads,
            experts=self.experts,
            name="mote",
        )
        if not train or self.experts == 1:
            change = blocks(features)
            return features + change, {"mote_change": change}
        one, several = jax.random.split(tower.make_rng("dropout"))
        change = blocks(features, draw_experts(one, self.layers, self.experts))
        again = blocks(features, draw_merging(several, self.layers, self.experts))
        return features + change, {
            "mote_change": change,
            "mote_merged": features + again,
            "mote_distance": jnp.square(again).mean((-1, -2)),
        }

    def score(
        self, model: Scope, video: Embedded, text: Embedded, scores: jax.Array, train: bool
    ) -> jax.Array:
        """Point 9: cosines; outside training, H is weighted by `similarity` of the classes."""
        width = text["features"].shape[-1]
        known = KnownClasses((self.classes, width), name="mote")()
        if train:
            return scores
        change, asked = video["mote_change"], normalize(text["features"])
        frames = video["frames"] - change
        factor = jnp.exp((self.similarity(frames, asked, known) - 1) / self.bandwidth)
        changed = frames + factor[:, None, None] * change
        return normalize(changed.mean(1)) @ asked.T

    def similarity(self, frames: jax.Array, asked: jax.Array, known: jax.Array) -> jax.Array:
        """s [v] of frames [v, t, e]: among the unit vectors `asked` [c, e] and `known` [k, e] that
        are nearest to a video, the mean over `asked` of their largest cosine with `known`."""
        mean = normalize(frames.mean(1))

        def nearest(classes: jax.Array) -> jax.Array:
            found = jax.lax.top_k(mean @ classes.T, min(self.nearest, len(classes)))[1]
            return classes[found]

        cosines = jnp.einsum("vie,vje->vij", nearest(asked), nearest(known))
        return cosines.max(-1).mean(-1)

    def fold_for_inference(self, params: dict) -> tuple[Method, dict]:
        """Replaces each block's experts by one MLP, their mean."""
        if self.experts == 1:
            return self, params
        head = dict(params["visual"]["mote"])
        for layer in range(self.layers):
            block = head[f"blocks_{layer}"]
            head[f"blocks_{layer}"] = block | {"mlp": self._mean(block["mlp"])}
        visual = params["visual"] | {"mote": head}
        return dataclasses.replace(self, experts=1), params | {"visual": visual}

    def _mean(self, mlp: Mapping[str, Any]) -> dict[str, Any]:
        mix = jax.nn.softmax(mlp["fusion_weight"])
        experts = range(self.experts)
        return {
            name: jax.tree.map(
                lambda *leaves: mixed(mix, leaves), *(mlp[f"{name}_{j}"] for j in experts)
            )
            for name in ("fc1", "fc2")
        }


METHOD = MoTE


def draw_experts(key: jax.Array, layers: int, experts: int) -> jax.Array:
    """One-hot [layers, experts]: expert j, counted from 1, is drawn with probability softmax(j)."""
    chosen = jax.random.categorical(key, jnp.arange(1.0, experts + 1), shape=(layers,))
    return jax.nn.one_hot(chosen, experts)


def draw_merging(key: jax.Array, layers: int, experts: int) -> jax.Array:
    """Shares [layers, experts]: softmax((1, 2, ...) / tau), with tau drawn from `TEMPERATURES`."""
    drawn = jax.random.choice(key, jnp.array(TEMPERATURES), (layers, 1))
    return jax.nn.softmax(jnp.arange(1.0, experts + 1) / drawn)


def mixed(shares: jax.Array, leaves: Sequence[jax.Array]) -> jax.Array:
    """The sum of leaves of one shape, each times its share."""
    return jnp.stack([share * leaf for share, leaf in zip(shares, leaves, strict=True)]).sum(0)


class KnownClasses(nn.Module):
    """Unit vectors of the texts of the classes that are trained on."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        """[k, e]."""
        return self.param("classes", nn.initializers.zeros, self.shape)


class ExpertTransformer(FrameTransformer):
    """H: blocks over frames whose MLPs have several experts."""

    experts: int = 1

    @nn.compact
    def __call__(self, frames: jax.Array, shares: jax.Array | None = None) -> jax.Array:
        """[b, t, e] -> [b, t, e]. shares: [layers, experts], how the experts' weights are mixed;
        None mixes them as in evaluation."""
        return self.transform(frames, functools.partial(self._block, shares)).astype(frames.dtype)

    def _block(self, shares: jax.Array | None, layer: int, *sizes: Any, **options: Any) -> Block:
        options |= {"kernel_init": NORMAL, "qkv_init": XAVIER_QKV}
        if self.experts == 1:
            return Block(*sizes, **options)
        own = None if shares is None else shares[layer]
        return ExpertBlock(*sizes, **options, experts=self.experts, shares=own)


class ExpertBlock(Block):
    """A block whose MLP is one of several experts, or a mean of them."""

    experts: int = 1
    shares: jax.Array | None = None

    def _mlp(self) -> nn.Module:
        return Experts(
            self.experts, self.mlp_width, self.activation, self.shares, self.dtype, name="mlp"
        )


class Experts(nn.Module):
    """MLPs whose weights are summed by `shares` [experts], or by the softmax of the leaf
    `fusion_weight`, which is never trained."""

    experts: int
    width: int
    activation: str
    shares: jax.Array | None
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] -> [..., d]."""
        fusion = self.param("fusion_weight", nn.initializers.zeros, (self.experts,))
        shares = jax.nn.softmax(fusion) if self.shares is None else self.shares

        def dense(x: jax.Array, width: int, name: str) -> jax.Array:
            leaves = [Linear(x.shape[-1], width, name=f"{name}_{j}")() for j in range(self.experts)]
            kernel, bias = (mixed(shares, each) for each in zip(*leaves, strict=True))
            return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)

        hidden = ACTIVATIONS[self.activation](dense(x, self.width, "fc1"))
        return dense(hidden, x.shape[-1], "fc2")


class Linear(nn.Module):
    """The leaves of a dense layer."""

    inputs: int
    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """kernel [in, out], bias [out]."""
        kernel = self.param("kernel", NORMAL, (self.inputs, self.width))
        return kernel, self.param("bias", nn.initializers.zeros, (self.width,))
