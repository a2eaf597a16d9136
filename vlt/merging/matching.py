"""Bipartite matching of similar tokens and their size-weighted mean (TempMe, Section 3.2).

The patches of a group alternate between sources and destinations. Each source is matched with the
destination most like it; the r best matched sources are merged into theirs. All counts are static.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlt.models.attention import heads_together
from vlt.models.fused import tpu_kernels
from vlt.models.spec import VisionSpec
from vlt.models.splitting import splits
from vlt.models.tokens import AttentionOutput, Pattern, Tokens
from vlt.models.vit import normalize

# Which tokens merge must not depend on an accelerator's reduced-precision products.
PRECISION = jax.lax.Precision.HIGHEST


class Matching(NamedTuple):
    """What becomes of the source patches of each group, as indices.

    kept: [b, g, s - r] sources that stay, ascending. merged: [b, g, r] sources that go, most
    similar first. into: [b, g, r] the destination of each of those. first: the patch, 0 or 1, that
    is source 0; every second patch from there on is a source, the others are destinations.
    """

    kept: jax.Array
    merged: jax.Array
    into: jax.Array
    first: int


def match(metric: jax.Array, r: int, first: int) -> Matching:
    """Matches the r sources most similar to any destination, by cosine.

    Ties go to the first. Computed in float32, without gradients.

    Args:
        metric: [b, g, p, e] of the patches alone. r: at most p // 2. first: the patch, 0 or 1, from
            which on every second one is a source.
    """
    unit = normalize(jax.lax.stop_gradient(metric).astype(jnp.float32))
    sources, destinations = unit[:, :, first::2], unit[:, :, 1 - first :: 2]
    scores = jnp.einsum("bgse,bgte->bgst", sources, destinations, precision=PRECISION)
    best = scores.max(-1)
    # An argmax in half the time on a CPU, since these loops are vectorised.
    places = jnp.arange(scores.shape[-1])
    partner = jnp.where(scores == best[..., None], places, len(places)).min(-1)
    order = jnp.argsort(-best)
    merged = order[..., :r]
    into = jnp.take_along_axis(partner, merged, axis=-1)
    return Matching(jnp.sort(order[..., r:]), merged, into, first)


def merge(tokens: Tokens, matching: Matching) -> Tokens:
    """Protected tokens, kept sources, then all destinations, [b, g, n - r, d].

    A destination becomes the mean of itself and the sources merged into it, weighted by size;
    sizes and members add up, and places are averaged as x is. Only the merged rows go through a
    product with a one-hot matrix, which needs no scatter, neither here nor in the gradient, and
    costs a thousandth of the model. On TPUs a kernel computes the means.
    """
    order, staying = _order(tokens, matching), tokens.x.shape[2] - matching.merged.shape[-1]
    alone = tokens.protected + matching.kept.shape[-1]  # tokens that nothing is merged into

    def split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens that stay, the destinations last, and merged sources."""
        moved = permute(x, order)
        return moved[:, :, :staying], moved[:, :, staying:]

    def behind(x: jax.Array, filling: float) -> jax.Array:
        """Values of the destinations, with `filling` for the tokens before them."""
        widths = ((0, 0), (0, 0), (alone, 0), *((0, 0),) * (x.ndim - 3))
        return jnp.pad(x, widths, constant_values=filling)

    def total(weight: jax.Array, x: jax.Array) -> jax.Array:
        product = partial(jnp.einsum, "bgtr,bgrd->bgtd", precision=PRECISION)
        return behind(product(weight, x.astype(jnp.float32)), 0)

    stay, merged = split(_sizes(tokens))
    own = stay[:, :, alone:]
    one_hot = matching.into[:, :, None] == jnp.arange(own.shape[-1])[:, None]
    weight = one_hot * merged[:, :, None]
    new = own + weight.sum(-1)
    size = jnp.concatenate([stay[:, :, :alone], new], axis=2)

    def mean(x: jax.Array) -> jax.Array:
        stay, merged = split(x)
        mixed = stay * behind(own / new, 1)[..., None] + total(weight / new[..., None], merged)
        return mixed.astype(x.dtype)

    by_kernel = _kernel(tokens.x, staying)
    if by_kernel is None:
        x = mean(tokens.x)
    else:
        x = by_kernel(tokens.x, _targets(order, alone, matching.into), _sizes(tokens))
    members = tokens.members
    places = None if tokens.places is None else mean(tokens.places)
    if members is not None:
        stay, merged = split(members)
        members = stay + total(one_hot.astype(jnp.float32), merged)
    return tokens.replace(x=x, places=places, size=size, members=members)


def _order(tokens: Tokens, matching: Matching) -> jax.Array:
    """Indices of all tokens [b, g, n]: protected, kept sources, destinations, merged sources."""
    first, count = tokens.protected, tokens.x.shape[2]
    sources = first + matching.first

    def all_alike(places: jax.Array) -> jax.Array:
        return jnp.broadcast_to(places, (*matching.kept.shape[:2], places.size))

    return jnp.concatenate(
        [
            all_alike(jnp.arange(first)),
            sources + 2 * matching.kept,
            all_alike(jnp.arange(first + 1 - matching.first, count, 2)),
            sources + 2 * matching.merged,
        ],
        axis=-1,
    )


def _sizes(tokens: Tokens) -> jax.Array:
    return jnp.ones(tokens.x.shape[:3]) if tokens.size is None else tokens.size


def _targets(order: jax.Array, alone: int, into: jax.Array) -> jax.Array:
    """Index each token goes to, [b, g, n]; `order` [b, g, n] lists staying, then merged tokens.

    A sum in which all terms but one are zero, since a TPU looks up single numbers slowly.
    """
    staying = order.shape[-1] - into.shape[-1]
    of_staying = jnp.broadcast_to(jnp.arange(staying), (*order.shape[:2], staying))
    targets = jnp.concatenate([of_staying, alone + into], axis=-1)
    found = order[:, :, None] == jnp.arange(order.shape[-1])[:, None]
    return jnp.where(found, targets[:, :, None], 0).sum(-1)


def _kernel(x: jax.Array, staying: int) -> Callable[..., jax.Array] | None:
    """The TPU kernel that averages tokens x by targets and sizes, None where it does not apply."""
    how = tpu_kernels()
    if not how or not splits({"batch": x.shape[0]}, how == "interpreted"):
        return None
    # Without a TPU, nothing that belongs to one is imported either.
    from vlt.merging import merge_kernel

    if not merge_kernel.fits(x, staying):
        return None
    return partial(merge_kernel.means, left=staying, interpret=how == "interpreted")


def merge_patches(tokens: Tokens, metric: jax.Array, r: int) -> Tokens:
    """Merges the r most similar patches of every group; metric [b, g, n, e] of all its tokens.

    Sources and destinations alternate over the CLS tokens too: patch 0 is a source where their
    number is even.
    """
    # The last block may have computed its CLS tokens alone.
    if r == 0 or tokens.patches == 0:
        return tokens
    return merge(tokens, match(metric[:, :, tokens.protected :], r, tokens.cls % 2))


def mean_keys(attended: AttentionOutput, turned: bool = False) -> jax.Array:
    """What tokens are compared by after attention: keys averaged over heads, [b, g, n, d/h].

    With rotary attention, the keys before they are turned by places, or after it with `turned`.
    """
    unturned = None if turned else attended.unturned
    keys = attended.keys if unturned is None else unturned
    # Slices of the dense layer's output: a TPU writes out neither separate heads nor float32.
    of_heads = jnp.split(heads_together(keys), keys.shape[2], axis=-1)
    return reduce(jnp.add, (key.astype(jnp.float32) for key in of_heads)) / keys.shape[2]


def proportional_attention(tokens: Tokens, pattern: Pattern) -> Pattern:
    """Each token counts as a key as often as it has patches: softmax(logits + log size).

    The logit bias takes less time in the gradient than `Pattern.key_weight`, which may be 0.
    """
    if tokens.size is None:
        return pattern
    return pattern.add_bias(jnp.log(tokens.size)[:, :, None, None])


def check_r(name: str, r: int, visual: VisionSpec, layers: int) -> None:
    """Raises ValueError unless r patches can be merged in each of the first `layers` layers.

    At most half of the patches of a layer can merge into the others.
    """
    if r < 0:
        raise ValueError(f"{name}.r must be >= 0, got {r}")
    for layer in range(layers):
        left = visual.patches - layer * r
        if r > left // 2:
            with_cls = f"{1 + left} tokens, the class token and " if visual.cls else ""
            raise ValueError(
                f"{name}.r={r}: layer {layer} has {with_cls}{left} patches, of which at most "
                f"{left // 2} merge; the largest r that fits all {layers} layers is "
                f"{visual.patches // (layers + 1)}"
            )


@jax.custom_vjp
def permute(x: jax.Array, order: jax.Array) -> jax.Array:
    """Rows of x [b, g, s, ...] in the order [b, g, s], a permutation."""
    index = order.reshape(*order.shape, *(1,) * (x.ndim - 3))
    return jnp.take_along_axis(x, index, axis=2, mode="promise_in_bounds")


def _permute_forward(x: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    return permute(x, order), order


def _permute_backward(order: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    # Autodiff would scatter; a permutation's transpose is a gather by its inverse.
    return permute(gradient, jnp.argsort(order)), None


permute.defvjp(_permute_forward, _permute_backward)
