"""The twelve intervention points through which every method reaches the shared towers.

A method is a frozen dataclass of options that overrides the points it needs. Each point is called
inside the scope of a Linen module (a dense layer, a block or a tower) that it receives as first
argument, so parameters it declares there sit beside what they adapt and the converted weights keep
their paths. A point that is not overridden hands its input back and adds nothing to the program.

| point | method of `Method` | called |
|---|---|---|
| 0 stem | `stem` | once, after the embedding |
| 1 extra tokens | `extra_tokens`, `after_block` | before attention, and last in every block |
| 2 before attention | `before_attention` | first in every block, on the residual stream |
| 3 projection delta | `projection` | after every dense layer |
| 4 attention pattern | `attention_pattern` | before queries, keys and values are projected |
| 5 parallel attention path | `parallel_attention` | on the attention's output |
| 6 between attention and MLP | `between` | after the first residual sum |
| 7 MLP path | `mlp_path` | on the MLP's output; may read the block's input |
| | `parallel_block` | on the block's output; reads the block's input |
| 8 side branch | `side_branch` | once, with every block's output |
| 9 pooled head | `features`, `head` | once, before and after projection into the joint space |
| 10 trainable selection | `vlt.training.rules` | when gradients are taken |
| 11 shared across towers | `shared_module` | once; blocks have it as `block.shared` |
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
import flax.struct
import jax

if TYPE_CHECKING:
    from vlt.models.block import Block
    from vlt.models.vit import VisionTransformer


class Tokens(flax.struct.PyTreeNode):
    """State between blocks. Every count is static.

    x: [b, g, n, d], g groups (frames, clips or 1) that attend within themselves. A group holds its
        CLS tokens first, then tokens of methods (prompts), then patches.
    size: [b, g, n] patches merged into each token, or None for one each.
    members: [b, g, n, t * patches] share of every patch of the video in each token; None unless
        captured, to be drawn.
    cls: leading CLS tokens of a group, the ones that are read in the end.
    frames: whose patches one group holds; of several, all frames' patch 0 come first, in order of
        time, then all frames' patch 1 (ViCLIP).
    protected: leading tokens of a group that no method removes or merges, CLS tokens included.
    """

    x: jax.Array
    size: jax.Array | None = None
    members: jax.Array | None = None
    cls: int = flax.struct.field(pytree_node=False, default=1)
    protected: int = flax.struct.field(pytree_node=False, default=1)
    frames: int = flax.struct.field(pytree_node=False, default=1)

    @property
    def patches(self) -> int:
        """Tokens of a group that methods may remove or merge."""
        return self.x.shape[2] - self.protected

    def rearrange(self, move: Callable[[jax.Array], jax.Array], **changes: Any) -> "Tokens":
        """`move` on everything that goes with a token, arrays [b, g, n, ...] -> [b, g', n', ...].

        changes: new values of `cls` and `protected`.
        """
        size = None if self.size is None else move(self.size)
        members = None if self.members is None else move(self.members)
        return self.replace(x=move(self.x), size=size, members=members, **changes)

    def by_frame(self, x: jax.Array) -> jax.Array:
        """What belongs to the patches, [b, g, n - protected, d], by place: [b, t, patches, d]."""
        if self.frames == 1:
            return x
        b, _, n, d = x.shape
        return x.reshape(b, n // self.frames, self.frames, d).swapaxes(1, 2)

    def by_group(self, x: jax.Array) -> jax.Array:
        """Inverse of `by_frame`."""
        if self.frames == 1:
            return x
        b, t, n, d = x.shape
        return x.swapaxes(1, 2).reshape(b, 1, n * t, d)


class Pattern(flax.struct.PyTreeNode):
    """Who attends to whom: point 4.

    queries: [b, g, q, d] and source: [b, g, m, d], normalised tokens that queries, and keys and
    values, are projected from; the same number of queries in other groups is fine. bias: added
    to the logits, broadcastable to [b, g, h, q, m]. key_weight: [b, g, m] how often each key counts
    in the softmax, None for once; 0 removes a key, and a gradient reaches it. scale: times the
    logits before the bias, broadcastable as it. gather: what is made of keys, and of values,
    [b, g, h, m, d/h] -> [b, g, h, m', d/h] before they are read; None for nothing.
    """

    queries: jax.Array
    source: jax.Array
    bias: jax.Array | None = None
    key_weight: jax.Array | None = None
    scale: jax.Array | None = None
    gather: Callable[[jax.Array], jax.Array] | None = flax.struct.field(
        pytree_node=False, default=None
    )


class KeysValues(flax.struct.PyTreeNode):
    """Keys and values [b, g, h, m, d/h] that an attention layer reads."""

    keys: jax.Array
    values: jax.Array


@dataclasses.dataclass(frozen=True)
class AttentionOutput:
    """What an attention layer saw: keys and values, probabilities [b, g, h, q, m] on call.

    `probabilities` is a function because most programs never materialise them.
    """

    keys: jax.Array
    values: jax.Array
    probabilities: Callable[[], jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that fills none of the points.

    kinds: of models that have what it fills or reads. joint: whether it is also for towers that
    hold the patches of all frames in one group. merges: whether it merges or removes patches, which
    one method of a model may. chooses_keys: whether it replaces the tokens that attention reads,
    which one may, too. needs_places: whether it finds patches by their places in a frame.
    other_frames_tested: whether it is published as tested on other numbers of frames than it is
    trained on.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dual_encoder", "captioner", "retriever", "answerer")
    joint: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    chooses_keys: ClassVar[bool] = False
    needs_places: ClassVar[bool] = False
    other_frames_tested: ClassVar[bool] = False

    @property
    def moves_patches(self) -> bool:
        """Whether patches do not stay at their places in a frame, among no others."""
        return self.merges

    def check(self, spec: Any, frames: int) -> None:
        """Raises ValueError where the options do not fit the DualEncoderSpec or the frames."""

    @property
    def reads_patches(self) -> bool:
        """Whether the patch tokens that leave the last block are read by anything."""
        return False

    def stem(self, tower: nn.Module, tokens: Tokens) -> Tokens:
        """Point 0: embedded tokens, before the first block."""
        return tokens

    def extra_tokens(self, block: "Block", tokens: Tokens) -> Tokens:
        """Point 1: add tokens, behind those that are protected."""
        return tokens

    def after_block(self, block: "Block", tokens: Tokens) -> Tokens:
        """Point 1: remove tokens that were there for this block alone, or prune what it put out."""
        return tokens

    def before_attention(self, block: "Block", tokens: Tokens) -> Tokens:
        """Point 2: transform the residual stream that enters the block."""
        return tokens

    def projection(self, dense: nn.Module, x: jax.Array, y: jax.Array) -> jax.Array:
        """Point 3: y [..., out] is the output of the layer `dense.name` for x [..., in]."""
        return y

    def attention_pattern(self, block: "Block", tokens: Tokens, pattern: Pattern) -> Pattern:
        """Point 4: choose queries, key and value sources, and logit bias."""
        return pattern

    def parallel_attention(
        self, block: "Block", tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 5: y [b, g, q, d] is the attention's output for the LayerNormed tokens."""
        return y

    def after_attention(self, block: "Block", tokens: Tokens, attended: AttentionOutput) -> Tokens:
        """Point 6: transform, prune or merge the tokens between attention and MLP."""
        return tokens

    def mlp_path(
        self, block: "Block", entry: Tokens, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 7: y is the MLP's output for `normed`; `entry` is what entered the block."""
        return y

    def parallel_block(
        self, block: "Block", entry: Tokens, normed: jax.Array, tokens: Tokens
    ) -> Tokens:
        """Point 7: `tokens` leave the block; `entry` came in, `normed` through the first LayerNorm.

        Where only CLS tokens are read, `tokens` are the first of `entry`. Stochastic depth drops
        nothing that is added here.
        """
        return tokens

    def side_branch(
        self, tower: "VisionTransformer", hidden: Sequence[Tokens], train: bool, capture: bool
    ) -> tuple[Tokens, dict[str, Any]]:
        """Point 8: hidden[m] left block m. Returns the tokens to pool and named extra outputs."""
        return hidden[-1], {}

    def features(self, tower: "VisionTransformer", x: jax.Array) -> jax.Array:
        """Point 9: the final LayerNorm's tokens [b, g, n, d]; of a dual encoder, CLS tokens alone.

        Returns as many, in any order where a text model attends to all of them.
        """
        return x

    def head(
        self, tower: nn.Module, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9: embeddings of frames [b, t, e] before pooling over time, or of texts [b, e].

        Returns the features and named extra outputs, as point 8 does.
        """
        return features, {}

    @property
    def training_only(self) -> bool:
        """Whether the method's leaves serve only a loss and are left out of exports."""
        return False

    @property
    def mergeable(self) -> bool:
        """Whether `fold_for_inference` leaves nothing but other values of converted weights."""
        return False

    def fold_for_inference(self, params: dict) -> tuple["Method | None", dict]:
        """What serves for inference alone: the method, or None, and the whole tree without its
        other leaves. Outputs stay the same up to rounding."""
        return self, params

    def shared_module(self, spec: Any) -> nn.Module | None:
        """Point 11: a module both towers use. `spec` is the DualEncoderSpec."""
        return None

    def init_from_backbone(self, params: dict, spec: Any) -> dict:
        """New leaves that start as copies of converted ones; `params` is the whole tree."""
        return params


def copy_leaves(tree: dict, source: dict) -> dict:
    """The leaves of `source` that `tree` has too; not those that methods put beside them."""
    return {
        name: copy_leaves(child, source[name]) if isinstance(child, dict) else source[name]
        for name, child in tree.items()
    }
