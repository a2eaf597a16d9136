"""Which attention never writes its logits out, and whether kernels are used at all.

| platform | what computes it | for what |
|---|---|---|
| TPU | `vlt.models.attention_kernel` | at least 16 queries and keys, which fit on chip |
| GPU | cuDNN, by `jax.nn.dot_product_attention` | 16 bits, heads of a multiple of 8 channels, |
| | | at most 128, nothing that changes logits |

Neither supports learned weights of keys, or a separate bias for every query of every row, and only
the TPU's supports dropout; with those, with other shapes and on CPUs, `vlt.models.attention`
computes it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vlt.models.platforms import traced_for
from vlt.models.splitting import parts_of, split_over_mesh, splits
from vlt.models.tokens import Attend, Pattern

IMPLEMENTATIONS = ("auto", "plain", "fused")
# `model.attention` of the model being traced; programs with another value are traced again.
implementation = jax.make_user_context("auto")

FEWEST = 16  # queries and keys of a kernel: fewer leave a chip's tiles empty
CUDNN_CHANNELS = 128  # most channels of a head


class Dropout(NamedTuple):
    """Dropout of probabilities. kept: makes [b, g, h, q, m], 0 for what is dropped and 1 else."""

    rate: float
    kept: Callable[[], jax.Array]


def fused(
    query: jax.Array, key: jax.Array, pattern: Pattern, dropout: Dropout | None = None
) -> Attend | None:
    """What computes attention of heads [b, g, h, q|m, c] without writing logits out, if anything.

    It takes queries, keys and values [b, g, q|m, h * c], and returns its output in this layout.
    Where `packs`, it also takes all three side by side, as one array.

    `implementation` decides: `auto`, what the platform has; `plain`, nothing; `fused`, the TPU's
    kernel on every platform, interpreted where it is not a TPU.
    """
    if implementation.value == "auto" and traced_for() in ("gpu", "cuda"):
        takes = dropout is None and _cudnn_takes(query, key, pattern)
        return _cudnn(query.shape[2]) if takes else None
    how = tpu_kernels()
    return _kernel(query, key, pattern, dropout, how == "interpreted") if how else None


def tpu_kernels() -> str:
    """How the TPU's kernels run here: `compiled`, `interpreted`, or '' for not at all."""
    chosen = implementation.value
    if traced_for() == "tpu":
        return "" if chosen == "plain" else "compiled"
    return "interpreted" if chosen == "fused" else ""


def packs() -> bool:
    """Whether `fused` takes queries, keys and values [b, g, n, 3 * h * c] side by side, so that one
    product makes them, which reads the tokens once."""
    return bool(tpu_kernels()) and parts_of("heads") == 1


def _cudnn_takes(query: jax.Array, key: jax.Array, pattern: Pattern) -> bool:
    channels = query.shape[-1]
    narrow = query.dtype in (jnp.bfloat16, jnp.float16) and key.dtype == query.dtype
    return pattern.plain and narrow and channels % 8 == 0 and channels <= CUDNN_CHANNELS


def _cudnn(heads: int) -> Attend:
    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        apart = (x.reshape(-1, x.shape[2], heads, x.shape[3] // heads) for x in (query, key, value))
        y = jax.nn.dot_product_attention(*apart, implementation="cudnn")
        return y.reshape(query.shape)

    return attend


def _kernel(
    query: jax.Array, key: jax.Array, pattern: Pattern, dropout: Dropout | None, interpret: bool
) -> Attend | None:
    """The TPU's kernel; None for inputs that it does not take."""
    terms, channels = _terms(pattern, query, key), query.shape[-1]
    if terms is None or min(query.shape[-2], key.shape[-2]) < FEWEST:
        return None
    sizes = {"batch": query.shape[0], "heads": query.shape[2]}
    if not splits(sizes, interpret):
        return None
    # Imported here, so that without a TPU nothing that belongs to one is imported.
    from vlt.models import attention_kernel

    scale, bias, key_bias = terms
    one_by_one = jax.ShapeDtypeStruct((*query.shape[:-1], key.shape[-2]), jnp.bfloat16)
    shapes = attention_kernel.Terms(scale, bias, None, None if dropout is None else one_by_one)
    if not attention_kernel.fits(_rows(query), _rows(key), channels, shapes):
        return None

    def local(scale: Any, bias: Any, key_bias: Any, kept: Any, *arrays: jax.Array) -> jax.Array:
        """Attention on one device, [b, g, q|m, d]."""
        terms = attention_kernel.Terms(scale, bias, _by_row(key_bias), _by_row(kept))
        rows = tuple(map(_by_row, arrays))
        y = attention_kernel.attention(rows, terms, channels, interpret)
        return y.reshape(*arrays[0].shape[:-1], -1)

    def attend(*arrays: jax.Array) -> jax.Array:
        tokens = ("batch", None, None, "heads")
        of_terms = ((), (), ("batch",), ("batch", None, "heads"))
        kept = None if dropout is None else dropout.kept().astype(jnp.bfloat16)
        split = split_over_mesh(local, (*of_terms, *[tokens for _ in arrays]), tokens, sizes)
        y = split(scale, bias, key_bias, kept, *arrays)
        return y if dropout is None else y / (1 - dropout.rate)

    return attend


def _by_row(x: jax.Array | None) -> Any:
    """[b, g, ...] -> [b * g, ...]."""
    return x if x is None else x.reshape(-1, *x.shape[2:])


def _rows(x: jax.Array) -> jax.ShapeDtypeStruct:
    """The shape of x [b, g, h, n, c] with heads together: [b * g, n, h * c]."""
    b, g, h, n, c = x.shape
    return jax.ShapeDtypeStruct((b * g, n, h * c), x.dtype)


def _terms(
    pattern: Pattern, query: jax.Array, key: jax.Array
) -> tuple[jax.Array | None, jax.Array | None, jax.Array | None] | None:
    """Scale and bias [q, m] for all rows, and keys' bias [b, g, m]; None for any other pattern."""
    rows, logits = query.shape[:2], (query.shape[-2], key.shape[-2])
    if pattern.key_weight is not None:
        return None
    found: list[jax.Array | None] = []
    for x in (pattern.scale, pattern.bias):
        shape = () if x is None else (1,) * (5 - x.ndim) + x.shape
        if x is None:
            found.append(None)
        elif shape[2:4] == (1, 1) and x is pattern.bias:
            own = x.reshape(*shape[:2], shape[4]).astype(jnp.float32)
            return found[0], None, jnp.broadcast_to(own, (*rows, logits[1]))
        elif shape[:3] == (1, 1, 1):
            shared = x.reshape(shape[3:]).astype(jnp.float32)
            found.append(jnp.broadcast_to(shared, logits))
        else:
            return None
    return found[0], found[1], None
