"""Attention as one TPU kernel: logits and probabilities never leave the chip.

The sequences here are short, 16 to a few thousand tokens: all keys and values of a head stay on
chip beside the logits of some queries. So a softmax takes one pass, and its gradient needs only the
inputs. Queries, keys and values are read once, and the output is written once, in the layout of the
surrounding dense layers, [rows, tokens, heads * channels]; heads are never split in memory.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vlt.models.attention_steps import (
    LANES,
    SUBLANES,
    Sizes,
    Terms,
    backward_step,
    forward_step,
)
from vlt.models.on_chip import MEMORY, reserved

CHUNK = 128  # queries whose logits are on chip at a time
STEP_TOKENS = 256  # several shorter sequences share one step of the grid
FORWARD, BACKWARD = "attention_forward", "attention_backward"


class Third(NamedTuple):
    """One of three arrays [r, n, d] that stand side by side in `whole` [r, n, 3 * d]."""

    whole: Any
    index: Any


def sizes_of(query: Any, key: Any, channels: int) -> Sizes:
    """Sizes of the grid's steps for queries [r, q, d] and keys [r, m, d]."""
    rows, asked, width = query.shape
    whole = math.lcm(channels, LANES)
    lanes = whole if width % whole == 0 else width
    chunks = -(-asked // CHUNK)
    chunk = -(-asked // (chunks * SUBLANES)) * SUBLANES
    most = max(1, STEP_TOKENS // asked)
    group = max(n for n in range(1, most + 1) if rows % n == 0)
    return Sizes(group, chunk, asked, key.shape[1], lanes, channels)


def fits(query: Any, key: Any, channels: int, terms: Terms) -> bool:
    """Whether the gradient's kernel, the larger one, fits on chip. Shapes are enough."""
    return _bytes(sizes_of(query, key, channels), query.dtype.itemsize, terms) <= MEMORY


def _bytes(sizes: Sizes, itemsize: int, terms: Terms) -> int:
    """Bytes on chip: arrays of this step and the next, gradient sums, some logits, terms."""
    queries = sizes.rows * sizes.chunks * sizes.chunk
    keys = sizes.rows * sizes.keys
    arrays = 2 * itemsize * sizes.lanes * (3 * queries + 4 * keys)
    shared = sum(8 * x.size for x in (terms.scale, terms.bias) if x is not None)
    kept = 0 if terms.kept is None else 4 * len(sizes.heads) * queries * sizes.keys
    return arrays + 8 * sizes.keys * sizes.lanes + 24 * sizes.chunk * sizes.keys + shared + kept


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def attention(
    arrays: tuple[jax.Array, ...], terms: Terms, channels: int, interpret: bool = False
) -> jax.Array:
    """Attention of queries [r, q, d] to keys and values [r, m, d]: [r, q, d]; softmax in float32.

    arrays: queries, keys and values, or one array of all three side by side, [r, n, 3 * d].
    channels: those of a head; heads stand one after another in d. interpret: runs on any platform,
    slowly.

    Raises:
      ValueError: the gradient of a scale or bias that all rows share is asked for.
    """
    kernel = _Kernel(arrays, channels, terms, interpret)
    query, key, value = _thirds(arrays)
    given = {"queries": [query], "keys": [key, value]}
    return kernel(forward_step, FORWARD, given, {"queries": [kernel.queries]}, products=2)[0]


def _attention_forward(
    arrays: Any, terms: Any, channels: int, interpret: bool
) -> tuple[jax.Array, Any]:
    if any(x is not None and x.perturbed for x in (terms.scale, terms.bias)):
        raise ValueError(
            "model.attention: the kernel has no gradient for a scale or bias of all rows that is "
            "learned; take model.attention='plain'"
        )
    given = jax.tree.map(lambda x: x.value, (arrays, terms), is_leaf=_is_primal)
    return attention(*given, channels, interpret), given


def _is_primal(x: Any) -> bool:
    return hasattr(x, "perturbed")


def _attention_backward(channels: int, interpret: bool, saved: Any, gradient: Any) -> Any:
    arrays, terms = saved
    if isinstance(gradient, jax.custom_derivatives.SymbolicZero):
        return jax.tree.map(jnp.zeros_like, saved)
    found, of_keys = _backward(arrays, gradient, terms, channels, interpret)
    zeros = jax.tree.map(jnp.zeros_like, terms)
    return found, zeros if of_keys is None else zeros._replace(key_bias=of_keys)


attention.defvjp(_attention_forward, _attention_backward, symbolic_zeros=True)


def _backward(
    arrays: tuple[jax.Array, ...], gradient: jax.Array, terms: Terms, channels: int, interpret: bool
) -> tuple[tuple[jax.Array, ...], jax.Array | None]:
    """Gradients of the arrays, and of the keys' bias."""
    kernel = _Kernel(arrays, channels, terms, interpret)
    sizes, (query, key, value) = kernel.sizes, _thirds(arrays)
    given = {"queries": [query, gradient], "keys": [key, value]}
    found: dict[str, list[Any]] = {"queries": [query], "keys": [key, value]}
    scratch = [pltpu.VMEM((sizes.keys, sizes.lanes), jnp.float32)] * 2
    if len(arrays) == 1:
        found = {"thirds": [arrays[0]]}
        whole = sizes.chunks * sizes.chunk
        counts = (whole, sizes.keys, sizes.keys)
        scratch += [pltpu.VMEM((sizes.rows, n, sizes.lanes), gradient.dtype) for n in counts]
    if terms.key_bias is not None:
        shape = (kernel.grid[1], len(gradient), 1, sizes.keys)
        found["key_bias_parts"] = [jax.ShapeDtypeStruct(shape, jnp.float32)]
    results = kernel(backward_step, BACKWARD, given, found, 5, scratch)
    more = results[len(arrays) :]
    return tuple(results[: len(arrays)]), more[0][:, :, 0].sum(0) if more else None


def _thirds(arrays: tuple[jax.Array, ...]) -> Sequence[Any]:
    """Queries, keys and values."""
    return arrays if len(arrays) == 3 else [Third(arrays[0], index) for index in range(3)]


class _Kernel:
    """Runs a kernel in steps, each over some rows, all tokens and the channels of whole heads.

    queries: shape of the queries, and of the output.
    """

    def __init__(self, arrays: tuple[jax.Array, ...], channels: int, terms: Terms, interpret: bool):
        first, *others = arrays
        width = first.shape[2] // (1 if others else 3)
        self.queries = jax.ShapeDtypeStruct((*first.shape[:2], width), first.dtype)
        self.sizes = sizes = sizes_of(self.queries, others[0] if others else self.queries, channels)
        self._interpret = interpret
        self.grid = (len(first) // sizes.rows, width // sizes.lanes)
        short = sizes.chunks * sizes.chunk - sizes.asked  # else reads there are undefined
        scale, bias = (x if x is None else jnp.pad(x, ((0, short), (0, 0))) for x in terms[:2])
        own = terms.key_bias
        self._terms = Terms(scale, bias, own if own is None else own[:, None], terms.kept)

    def __call__(
        self,
        step: Callable[..., None],
        name: str,
        given: Mapping[str, Sequence[Any]],
        found: Mapping[str, Sequence[Any]],
        products: int,
        scratch: Sequence[Any] = (),
    ) -> Sequence[jax.Array]:
        """Runs `step` over the grid. given, found: inputs, and arrays with the shapes and dtypes of
        the results, by how they are split.

        products: number of matrix products of all queries with all keys.
        """
        sizes, (terms, tree) = self.sizes, jax.tree.flatten(self._terms)
        inputs = [x for some in given.values() for x in some]
        arrays = [x.whole if isinstance(x, Third) else x for x in inputs] + terms
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for some in found.values() for x in some]
        logits = math.prod(self.grid) * len(sizes.heads) * sizes.rows * sizes.asked * sizes.keys
        needed = _bytes(sizes, arrays[0].dtype.itemsize, self._terms)
        moved: list[Any] = [*{id(x): x for x in arrays}.values(), *results]
        over, times = (_third_by_third, (3,)) if "thirds" in found else (_by_row, ())
        order: Any = ("parallel", "parallel", "arbitrary")[: 2 + len(times)]
        return pl.pallas_call(
            functools.partial(over, step, sizes, tree, len(inputs), len(results)),
            grid=(*self.grid, *times),
            in_specs=[*self._parts(given), *map(self._of_terms, terms)],
            out_specs=self._parts(found),
            out_shape=results,
            scratch_shapes=scratch,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=order,
                vmem_limit_bytes=reserved(needed),
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * products * logits * sizes.channels,
                transcendentals=logits,
                bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in moved),
            ),
            interpret=self._interpret,
            name=name,
        )(*arrays)

    def _parts(self, arrays: Mapping[str, Sequence[Any]]) -> list[pl.BlockSpec]:
        """The block of each array that a step sees."""
        return [self._part(kind, x) for kind, some in arrays.items() for x in some]

    def _part(self, kind: str, x: Any) -> pl.BlockSpec:
        sizes, blocks = self.sizes, self.grid[1]
        if kind == "key_bias_parts":
            of_step = (1, sizes.rows, 1, sizes.keys)
            return pl.BlockSpec(of_step, lambda row, lanes, *_: (lanes, row, 0, 0))
        tokens = sizes.keys if kind == "keys" else sizes.chunks * sizes.chunk
        shape = (sizes.rows, tokens, sizes.lanes)
        if kind == "thirds":
            return pl.BlockSpec(shape, lambda row, lanes, third: (row, 0, third * blocks + lanes))
        first = x.index * blocks if isinstance(x, Third) else 0
        return pl.BlockSpec(shape, lambda row, lanes, *_: (row, 0, first + lanes))

    def _of_terms(self, x: jax.Array) -> pl.BlockSpec:
        sizes = self.sizes
        if x.ndim == 2:
            return pl.BlockSpec(x.shape, lambda *_: (0, 0))
        if x.ndim == 4:
            shape = (sizes.rows, len(sizes.heads), sizes.chunks * sizes.chunk, sizes.keys)
            return pl.BlockSpec(shape, lambda row, lanes, *_: (row, lanes, 0, 0))
        return pl.BlockSpec((sizes.rows, *x.shape[1:]), lambda row, *_: (row, 0, 0))


def _by_row(
    step: Callable[..., None], sizes: Sizes, tree: Any, arrays: int, found: int, *refs: Any
) -> None:
    """Runs a step of the grid row by row."""
    terms_end = arrays + tree.num_leaves
    terms = jax.tree.unflatten(tree, refs[arrays:terms_end])
    outs, scratch = refs[terms_end : terms_end + found], refs[terms_end + found :]

    def one(row: jax.Array, carry: None) -> None:
        step(sizes, row, refs[:arrays], terms, outs, *scratch)

    jax.lax.fori_loop(0, sizes.rows, one, None)


def _third_by_third(
    step: Callable[..., None], sizes: Sizes, tree: Any, arrays: int, found: int, *refs: Any
) -> None:
    """The same for three results that are parts of one array: they stay on chip, and each of three
    visits of a place in the grid writes one."""
    ends = arrays + tree.num_leaves
    (out, *others), (*sums, query, key, value) = refs[ends : ends + found], refs[ends + found :]
    visit = pl.program_id(2)

    @pl.when(visit == 0)
    def _() -> None:
        outs = [query, key, value, *others]
        _by_row(step, sizes, tree, arrays, len(outs), *refs[:ends], *outs, *sums)

    for index, held in enumerate((query, key, value)):

        @pl.when(visit == index)
        def _(held: Any = held) -> None:
            out[:, : held.shape[1]] = held[...]
