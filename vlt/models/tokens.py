"""What blocks and methods pass to each other: tokens, and who attends to whom."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


class Tokens(flax.struct.PyTreeNode):
    """State between blocks. Every count is static.

    x: [b, g, n, d], g groups (frames, clips or 1) that attend within themselves. A group holds its
        CLS tokens first, if there are any, then tokens of methods (prompts), then patches.
    size: [b, g, n] number of patches merged into each token, or None for one each.
    members: [b, g, n, t * patches] share of every patch of the video in each token; None unless
        captured, to be drawn.
    cls: number of leading CLS tokens of a group, the ones that are read in the end.
    frames: number of frames whose patches one group holds; if there are several, patch 0 of all
        frames comes first, in order of time, then patch 1 of all frames (ViCLIP).
    over_time: whether a group is a place, and its tokens are the patches there, frame by frame.
    protected: number of leading tokens of a group that no method removes or merges, CLS included.
    places: [b, g, n, k] by which rotary attention turns queries and keys, 0 for not at all: for a
        patch as in `vlt.models.rotary.frame_places`, for a word its index; None where only x holds
        positions.
    absent: [b, g, n] which tokens stand for frames that a video lacks: they are not read, and MLPs
        add nothing to them (VideoPrism); None if all are there.
    readout: [b] index of the token of a text that is read in the end; None in a vision tower.
    classes: [b] which of the training classes each text names; None if unknown, and in a vision
        tower.
    carried: what a method's point leaves for its later points, by the method's name.
    pooled: whether embeddings are made of these, after final LayerNorm and pooling.
    valid: [b, m] which keys of a text attention may read, those in `cache` included; None for all.
    cache: keys and values of a block's earlier calls, with room for this call's at `index`; after
        the call they include this call's.
    """

    x: jax.Array
    size: jax.Array | None = None
    members: jax.Array | None = None
    cls: int = flax.struct.field(pytree_node=False, default=1)
    protected: int = flax.struct.field(pytree_node=False, default=1)
    frames: int = flax.struct.field(pytree_node=False, default=1)
    pooled: bool = flax.struct.field(pytree_node=False, default=False)
    over_time: bool = flax.struct.field(pytree_node=False, default=False)
    places: jax.Array | None = None
    absent: jax.Array | None = None
    readout: jax.Array | None = None
    classes: jax.Array | None = None
    carried: Mapping[str, Any] = flax.struct.field(default_factory=dict)
    valid: jax.Array | None = None
    cache: "KeysValues | None" = None
    index: jax.Array | int | None = None

    @property
    def patches(self) -> int:
        """Number of tokens of a group that methods may remove or merge."""
        return self.x.shape[2] - self.protected

    def rearrange(self, move: Callable[[jax.Array], jax.Array], **changes: Any) -> "Tokens":
        """Applies `move` to all that goes with a token, arrays [b, g, n, ...] -> [b, g', n', ...].

        changes: new values of `cls`, `protected`, `readout` and `valid`.
        """
        moved = jax.tree.map(move, self._each())
        return self.replace(**moved, **changes)

    def insert(self, at: int, new: jax.Array, protected: bool = True) -> "Tokens":
        """Inserts tokens `new`, broadcastable to [b, g, p, d], before token `at`.

        They have size 1, no patch as member, and 0 as place. protected: whether they are kept from
        being removed or merged.
        """
        count = new.shape[-2]
        fresh: dict[str, Any] = {"x": new, "size": 1.0, "members": 0.0, "places": 0.0}
        fresh["absent"] = False

        def put(x: jax.Array, value: jax.Array | float) -> jax.Array:
            shape = (*x.shape[:2], count, *x.shape[3:])
            value = jnp.broadcast_to(jnp.asarray(value, x.dtype), shape)
            return jnp.concatenate([x[:, :, :at], value, x[:, :, at:]], axis=2)

        valid = self.valid
        if valid is not None:
            read = jnp.ones((len(valid), count), bool)
            valid = jnp.concatenate([valid[:, :at], read, valid[:, at:]], axis=1)
        grown = {name: put(x, fresh[name]) for name, x in self._each().items()}
        return self.replace(
            **grown,
            valid=valid,
            protected=self.protected + count * protected,
            readout=_shifted(self.readout, at, count),
        )

    def remove(self, at: int, count: int) -> "Tokens":
        """Removes `count` protected tokens from `at` on, which undoes an `insert`."""
        valid = self.valid
        if valid is not None:
            valid = jnp.concatenate([valid[:, :at], valid[:, at + count :]], axis=1)
        return self.rearrange(
            lambda x: jnp.concatenate([x[:, :, :at], x[:, :, at + count :]], axis=2),
            protected=self.protected - count,
            readout=_shifted(self.readout, at, -count),
            valid=valid,
        )

    def _each(self) -> dict[str, jax.Array]:
        """The arrays [b, g, n, ...] that have an entry for each token."""
        fields = {name: getattr(self, name) for name in _OF_EACH}
        return {name: x for name, x in fields.items() if x is not None}

    def by_frame(self, x: jax.Array) -> jax.Array:
        """Patches' values [b, g, n - protected, d] regrouped by frame: [b, t, patches, d]."""
        if self.over_time:
            return x.swapaxes(1, 2)
        if self.frames == 1:
            return x
        b, _, n, d = x.shape
        return x.reshape(b, n // self.frames, self.frames, d).swapaxes(1, 2)

    def by_group(self, x: jax.Array) -> jax.Array:
        """Inverse of `by_frame`."""
        if self.over_time:
            return x.swapaxes(1, 2)
        if self.frames == 1:
            return x
        b, t, n, d = x.shape
        return x.swapaxes(1, 2).reshape(b, 1, n * t, d)


def without_prompts(tokens: Tokens) -> jax.Array:
    """CLS tokens and patches [b, g, cls + n, d], without the other protected tokens."""
    if tokens.protected == tokens.cls:
        return tokens.x
    return jnp.concatenate([tokens.x[:, :, : tokens.cls], tokens.x[:, :, tokens.protected :]], 2)


def grouped_by_place(tokens: Tokens) -> Tokens:
    """Groups patches of frames [b, t, p + n, d] by place, [b, n, t, d], without the p protected."""
    p = tokens.protected
    moved = tokens.rearrange(lambda x: x[:, :, p:].swapaxes(1, 2), protected=0)
    return moved.replace(over_time=True)


def grouped_together(tokens: Tokens) -> Tokens:
    """Joins the patches of places [b, n, p + t, d] in one group, [b, 1, n * t, d], as above.

    As published, patches of absent frames are read from here on.
    """
    p, frames = tokens.protected, tokens.patches

    def move(x: jax.Array) -> jax.Array:
        return x[:, :, p:].reshape(len(x), 1, -1, *x.shape[3:])

    moved = tokens.rearrange(move, protected=0)
    return moved.replace(over_time=False, frames=frames, absent=None)


def join_clips(tokens: Tokens, joined: int) -> Tokens:
    """Joins every `joined` neighbouring clips, [b, g, n, d] -> [b, g / joined, joined * n, d].

    All CLS tokens come first, then all tokens of methods, then all patches, clip after clip.
    """
    if joined == 1:
        return tokens
    bounds = (0, tokens.cls, tokens.protected, tokens.x.shape[2])

    def move(x: jax.Array) -> jax.Array:
        b, g, _, *rest = x.shape
        clips = x.reshape(b, g // joined, joined, *x.shape[2:])
        parts = [clips[:, :, :, start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        return jnp.concatenate([p.reshape(b, g // joined, -1, *rest) for p in parts], axis=2)

    return tokens.rearrange(move, cls=tokens.cls * joined, protected=tokens.protected * joined)


def _shifted(readout: jax.Array | None, at: int, by: int) -> jax.Array | None:
    """Index of the token read in the end, after `by` tokens were added (or -by removed) at `at`."""
    return None if readout is None else jnp.where(readout >= at, readout + by, readout)


_OF_EACH = ("x", "places", "absent", "size", "members")  # fields with an entry for each token
# Queries, keys and values of heads [b, g, h, q|m, d/h] -> attention's output [b, g, h, q, d/h].
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Pattern(flax.struct.PyTreeNode):
    """Who attends to whom: point 4.

    queries: [b, g, q, d] and source: [b, g, m, d], normalised tokens that queries, and keys and
    values, are projected from; queries may be in other groups if their number stays the same.
    query_places, source_places: their places, as in `Tokens.places`, for rotary attention. bias:
    added to the logits, broadcastable to [b, g, h, q, m]. key_weight: [b, g, m] how often each key
    counts in the softmax, None for once; 0 removes a key, and gradients reach these weights. scale:
    multiplies the logits before the bias, broadcastable like it. gather: applied to keys and to
    values before they are read, [b, g, h, m, d/h] -> [b, g, h, m', d/h]; None for nothing. attend:
    computes attention where sets of queries read different keys; None for one softmax, which alone
    can have bias, weights and scale.
    """

    queries: jax.Array
    source: jax.Array
    bias: jax.Array | None = None
    key_weight: jax.Array | None = None
    scale: jax.Array | None = None
    gather: Callable[[jax.Array], jax.Array] | None = flax.struct.field(
        pytree_node=False, default=None
    )
    attend: Attend | None = flax.struct.field(pytree_node=False, default=None)
    query_places: jax.Array | None = None
    source_places: jax.Array | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing changes logits or weights of keys."""
        return self.bias is None and self.scale is None and self.key_weight is None

    def add_bias(self, bias: jax.Array) -> "Pattern":
        """Adds `bias` to the existing bias."""
        return self.replace(bias=bias if self.bias is None else self.bias + bias)


class KeysValues(flax.struct.PyTreeNode):
    """Keys and values [b, g, h, m, d/h] that an attention layer reads."""

    keys: jax.Array
    values: jax.Array


@dataclasses.dataclass(frozen=True)
class AttentionOutput:
    """What an attention layer saw: keys, values, and a function for probabilities [b, g, h, q, m].

    `probabilities` is a function because most programs never materialise them. unturned: the keys
    before rotary attention turned them; None where it is not rotary.
    """

    keys: jax.Array
    values: jax.Array
    probabilities: Callable[[], jax.Array]
    unturned: jax.Array | None = None
