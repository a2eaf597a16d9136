"""The twelve intervention points through which every method reaches the shared towers.

A method is a frozen dataclass of options that overrides the points it needs. Each point is called
inside the scope of a Linen module (a dense layer, a block or a tower) that it receives as first
argument, so parameters it declares there sit beside what they adapt and the converted weights keep
their paths. A point that is not overridden returns its input and adds nothing to the program.

| point | method of `Method` | called |
|---|---|---|
| 0 stem | `embed` | once, before a vision tower's pre_norm or a text tower's positions |
| | `stem` | once, before the first block |
| 1 before attention | `before_attention` | first in every block, on the residual stream |
| 2 extra tokens | `extra_tokens`, `after_block` | before the first LayerNorm, and last in a block |
| 3 projection delta | `projection` | after every dense layer |
| 4 attention pattern | `attention_pattern` | before queries, keys and values are projected |
| 5 parallel attention path | `parallel_attention` | on the attention's output |
| 6 between attention and MLP | `after_attention` | after the first residual sum |
| 7 MLP path | `mlp_path` | on the MLP's output; may read the block's input |
| | `parallel_block` | last but for `after_block`, on the block's output; reads the block's input |
| 8 side branch | `side_branch` | once, with every block's output |
| 9 pooled head | `features`, `head` | once, before and after projection into the joint space |
| | `text_head` | once, on the embedding of a causal text tower |
| | `score` | on the scores of every video with every text |
| 10 trainable selection | `vlt.training.rules` | when gradients are taken |
| 11 shared across towers | `shared_module` | once; blocks have it as `block.shared` |
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax

from vlt.models.spec import LlamaSpec, Spec, TextSpec, VisionSpec
from vlt.models.tokens import AttentionOutput, Pattern, Tokens


class Scope(Protocol):
    """A module that calls a point, in whose scope the method declares leaves and submodules."""

    @property
    def name(self) -> str | None:
        """The module's name."""

    @property
    def dtype(self) -> Any:
        """The dtype of activations."""

    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any) -> Any:
        """The leaf of this name, initialised by `init_fn(key, *init_args)`."""

    def make_rng(self, name: str = "params") -> jax.Array:
        """A fresh key of the stream `name`: `dropout` or `mask`."""


class BlockScope(Scope, Protocol):
    """What a method may read of the pre-LN block that calls it; see `vlt.models.block.Block`."""

    heads: int
    mlp_width: int
    activation: str
    norm_eps: float
    key_bias: bool
    gated: bool
    sub_norm: bool
    tower: str
    layer: int
    depth: int
    cls_read: bool
    train: bool
    drop_path: float
    shared: Mapping[str, nn.Module] | None

    @property
    def active(self) -> tuple["Method", ...]:
        """The methods of its tower."""


class TowerScope(Scope, Protocol):
    """What a method may read of the vision tower that calls it."""

    @property
    def tower(self) -> str:
        """`visual`."""

    spec: VisionSpec
    embed_dim: int
    cls_only: bool
    read: int
    remat: str
    shared: Mapping[str, nn.Module] | None
    position_embedding: jax.Array
    class_embedding: jax.Array
    projection: Any

    def post_norm(self, x: jax.Array) -> jax.Array:
        """The final LayerNorm, of [..., d]."""

    def pooled(self, tokens: Tokens) -> jax.Array:
        """What embeddings are made of, after final LayerNorm and pooling, [b, g, n, d]."""

    def project_tokens(self, x: jax.Array) -> jax.Array:
        """Final LayerNorm and projection into the joint space, [..., d] -> [..., e]."""


class TextScope(Scope, Protocol):
    """What a method may read of the causal text tower or language model that calls it."""

    @property
    def tower(self) -> str:
        """`text`."""

    @property
    def spec(self) -> TextSpec | LlamaSpec:
        """Its sizes."""


AnyTower = TowerScope | TextScope
Embedded = Mapping[str, jax.Array]  # a tower's outputs, by name


class DenseScope(Scope, Protocol):
    """What a method may read of the dense layer that calls it.

    part: where the layer is: in `attention`, `cross_attention`, `mlp`, or a method's own attention;
    empty outside blocks. part_param: `param` in the scope of an attention, with one leaf per name
    for all its layers; None outside attentions.
    """

    part: str
    part_param: Callable[..., jax.Array] | None


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that fills none of the points.

    name: its key in a config and the name of its file. needs: words of
    `vlt.models.compatibility.WORDS` that must hold for it; text_needs: those that must hold where
    it is in the text tower; breaks: those that no longer hold beside it. All are checked once, when
    the model is built. other_frames_tested: whether as published it is tested on other numbers of
    frames than it is trained on. settled: options without which trained leaves mean nothing, even
    where shapes do not show it; a config with another value is for another model.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    text_needs: ClassVar[frozenset[str]] = frozenset({"text_blocks"})
    breaks: ClassVar[frozenset[str]] = frozenset()
    other_frames_tested: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset()

    @property
    def towers(self) -> tuple[str, ...]:
        """`visual`, `text`: the towers that call its points; a field where it is an option."""
        return ("visual",)

    @property
    def merges(self) -> bool:
        """Whether it merges or removes patches."""
        return "attended_tokens" in self.breaks

    @property
    def scores_pairs(self) -> bool:
        """Whether its `score` is called."""
        return "pair_scores" in self.needs_here()

    def needs_here(self) -> frozenset[str]:
        """`needs`, and `text_needs` if it is in the text tower."""
        return self.needs | (self.text_needs if "text" in self.towers else frozenset())

    def breaks_here(self) -> frozenset[str]:
        """`breaks`, and what its options break."""
        return self.breaks

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError if the options do not fit the sizes or the number of frames."""

    @property
    def word_rows(self) -> int:
        """Number of last rows of a language model's table of words that are a leaf of their own."""
        return 0

    @property
    def frame_scores(self) -> bool:
        """Whether a dual encoder's score is the mean over frames of their cosines with the text."""
        return False

    @property
    def text_positions(self) -> int:
        """Number of positions of a causal text tower that its tokens take from words."""
        return 0

    @property
    def word_prompts(self) -> int:
        """Number of its tokens in front of a text in everything that a language model caches."""
        return 0

    @property
    def in_pooler(self) -> bool:
        """Whether its `projection` is also called for the dense layers of attention pooling."""
        return False

    @property
    def reads_patches(self) -> bool:
        """Whether it reads the patch tokens that leave the last block."""
        return False

    def embed(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0: patches with their positions, before `pre_norm`; or words, before theirs.

        Tokens inserted among words take the positions there, and move later words on.
        """
        return tokens

    def stem(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0: embedded tokens, before the first block."""
        return tokens

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: transform the residual stream that enters the block."""
        return tokens

    def extra_tokens(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: add tokens, after those that are protected."""
        return tokens

    def after_block(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: remove tokens that were there only for this block, or prune its output."""
        return tokens

    def projection(self, dense: DenseScope, x: jax.Array, y: jax.Array) -> jax.Array:
        """Point 3: y [..., out] is the output of the layer `dense.name` for x [..., in].

        Called for the layers of a block, where `dense.part` names their attention or MLP, and for
        projections after the blocks, where it is empty; with `in_pooler`, also for a pooler's.
        """
        return y

    def projections(self, leaves: Mapping[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
        """Point 3 at once for query, key and value of the same tokens x, y [..., 3 * out], where a
        kernel takes them so; only of methods without a `projection` or with this, too.

        leaves: those of the attention layer, by name, and of its dense layers.
        """
        return y

    @classmethod
    def needs_apart(cls) -> bool:
        """Whether its `projection` can only be called for query, key and value one by one."""
        return cls.projection is not Method.projection and cls.projections is Method.projections

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        """Point 4: choose queries, key and value sources, scale, and logit bias.

        A bias is added to the existing one (`Pattern.add_bias`), which may be a mask or another
        method's; queries, sources, scale and `gather` are replaced by at most one method.
        """
        return pattern

    def parallel_attention(
        self, block: BlockScope, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 5: y [b, g, q, d] is the attention's output for `normed`, the LayerNormed tokens.

        `tokens` and `normed` hold only the tokens that had queries.
        """
        return y

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: transform, prune or merge the tokens between attention and MLP."""
        return tokens

    def mlp_path(
        self, block: BlockScope, entry: Tokens, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 7: y is the MLP's output for `normed`; `entry` is what entered the block.

        `entry` holds only the tokens that had queries.
        """
        return y

    def parallel_block(
        self, block: BlockScope, entry: Tokens, normed: jax.Array, tokens: Tokens
    ) -> Tokens:
        """Point 7: `tokens` leave the block; `entry` came in, `normed` after the first LayerNorm.

        `entry` and `normed` hold only the tokens that had queries. Stochastic depth drops nothing
        that is added here.
        """
        return tokens

    def side_branch(
        self, tower: TowerScope, hidden: Sequence[Tokens], train: bool, capture: bool
    ) -> tuple[Tokens, dict[str, Any]]:
        """Point 8: hidden[m] left block m. Returns the tokens to pool and named extra outputs."""
        return hidden[-1], {}

    def features(self, tower: TowerScope, x: jax.Array) -> jax.Array:
        """Point 9: the final LayerNorm's tokens [b, g, n, d]; in a dual encoder only those that
        embeddings are made of: CLS tokens, or the mean of a frame's patches.

        Returns as many, in any order where a text model attends to all of them; for a tower that
        stands alone, whatever it is read for.
        """
        return x

    def head(
        self, tower: TowerScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the vision tower: embeddings of frames [b, t, e], before the mean over time.

        Returns the features and named extra outputs, as point 8 does.
        """
        return features, {}

    def text_head(
        self, tower: TextScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the text tower: embeddings of texts [b, e], not normalised.

        Returns the features and named extra outputs, as point 8 does.
        """
        return features, {}

    @property
    def video_extras(self) -> tuple[str, ...]:
        """Names of the vision tower's extra outputs, each [v, ...], that `score` reads."""
        return ()

    @property
    def text_extras(self) -> tuple[str, ...]:
        """Names of the text tower's extra outputs, each [c, ...], that `score` reads.

        For it the tower returns `tokens` [c, l, e], all of a text after final norm and projection,
        and `words` [c, l], which of them are words, from the first to the one that is read out.
        """
        return ()

    def score(
        self, model: Scope, video: Embedded, text: Embedded, scores: jax.Array, train: bool
    ) -> jax.Array:
        """Point 9 of a dual encoder: scores [v, c] of every video with every text.

        Called for methods that need `pair_scores`, in the model's scope. video: `frames`
        [v, t, e], what `head` made of them, and `video_extras`. text: `features` [c, e] and
        `text_extras`. Neither is normalised, whatever `frame_norm` says. scores: cosines, or what
        the methods before this one made of them. The logit scale is applied later.

        All texts are there, but videos may come in blocks: a video's scores must not depend on
        other videos.
        """
        return scores

    @property
    def known_classes(self) -> int:
        """Number of training classes for each of which, in their order, leaves hold something; 0
        for none."""
        return 0

    @property
    def reads_sentences(self) -> bool:
        """Whether `score` reads the `sentences` [c, kinds, n, e] that describe each class."""
        return False

    @property
    def keeps_classes(self) -> bool:
        """Whether `init_from_classes` stores the classes' vectors in leaves."""
        return False

    def init_from_classes(self, params: dict, classes: jax.Array) -> dict:
        """`params`, the whole tree, with leaves that hold unit vectors [c, e] of the training
        classes, as the text tower embeds them before the first step."""
        return params

    @property
    def training_only(self) -> bool:
        """Whether the method's leaves serve only a loss and are left out of exports."""
        return False

    @property
    def mergeable(self) -> bool:
        """Whether `fold_for_inference` leaves only changed values of converted weights."""
        return False

    @property
    def folded(self) -> "Method | None":
        """What `fold_for_inference` leaves of the method, whose cost and time are measured."""
        return None if self.mergeable else self

    def fold_for_inference(self, params: dict) -> tuple["Method | None", dict]:
        """What inference needs: the method, or None, and the whole tree without its other leaves.
        Outputs stay the same up to rounding."""
        return self, params

    def shared_module(self, spec: Spec) -> nn.Module | None:
        """Point 11: a module both towers use."""
        return None

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """`params`, the whole tree, with new leaves that start by converted ones or sizes."""
        return params


def of_tower(methods: Sequence[Method], tower: str) -> tuple[Method, ...]:
    """The methods that the tower calls."""
    return tuple(method for method in methods if tower in method.towers)


def copy_leaves(tree: dict, source: dict) -> dict:
    """The leaves of `source` that `tree` has too, without those that methods put beside them."""
    return {
        name: copy_leaves(child, source[name]) if isinstance(child, dict) else source[name]
        for name, child in tree.items()
    }
