"""Multiply-accumulates of a program, counted from its jaxpr: nothing is compiled or run.

The convention is the one that fits most of TempMe's printed GFLOPs (fvcore's, one
multiply-accumulate a FLOP): linear layers, convolutions, attention's two products and every other
matrix product, plus each normalisation at 5 per element. Softmax, activations, additions, gathers,
embedding look-ups and scatters are free. A gather written as a product with a one-hot matrix is a
matrix product here, because that is what runs. A Pallas kernel counts as what it declares.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval

NORM_COST = 5  # per element: fvcore's price of a LayerNorm
Producers = dict[Var, list[JaxprEqn]]
OPAQUE = ("ffi_call", "ragged_dot_general")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Multiply-accumulates by kind; one multiply-accumulate is two FLOPs.

    Attributes:
      linear: dot_general without batch dimensions: layers with weights, patch embedding included.
      product: dot_general with them: attention's two products, matching scores, merging; kernels.
      convolution: conv_general_dilated; a dilated input counts its zeros.
      layer_norm: 5 per normalised element (LayerNorm, RMSNorm and GroupNorm alike).
    """

    linear: int = 0
    product: int = 0
    convolution: int = 0
    layer_norm: int = 0

    @property
    def multiply_adds(self) -> int:
        """Matrix products and convolutions alone."""
        return self.linear + self.product + self.convolution

    @property
    def total(self) -> int:
        """Everything, normalisations included: the published convention."""
        return self.multiply_adds + self.layer_norm

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(operator.add, _FIELDS(self), _FIELDS(other)))

    def __mul__(self, times: int) -> "Counts":
        return Counts(*(times * field for field in _FIELDS(self)))


# A program has thousands of equations, and dataclasses.astuple copies deeply.
_FIELDS = operator.attrgetter(*(field.name for field in dataclasses.fields(Counts)))


def count(fn: Callable[..., Any], *args: Any) -> Counts:
    """Counts the multiply-accumulates of `fn(*args)`, dead code excluded.

    Args:
      fn: a traceable function.
      *args: pytrees of arrays or of jax.ShapeDtypeStruct; only shapes and types are used.

    Returns:
      The cost of one call: a scan counts once per step, a cond as its most expensive branch.

    Raises:
      ValueError: a while loop (whose length is unknown) holds counted work, or the program has
        a primitive whose work cannot be read (OPAQUE), or a kernel that declares none.
    """
    return count_first(lambda *args: (fn(*args), ()), *args)[0]


def count_first(fn: Callable[..., tuple[Any, Any]], *args: Any) -> tuple[Counts, Any]:
    """`count` of what the first output of `fn` needs, and the shapes of the second."""
    closed, (first, second) = jax.make_jaxpr(fn, return_shape=True)(*args)
    counted = len(jax.tree.leaves(first))
    used = [output < counted for output in range(len(closed.jaxpr.outvars))]
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, used)
    return _count_jaxpr(live), second


def _count_jaxpr(jaxpr: Jaxpr) -> Counts:
    producers = _producers(jaxpr)
    return sum((_count_eqn(eqn, producers) for eqn in jaxpr.eqns), Counts())


def _count_eqn(eqn: JaxprEqn, producers: Producers) -> Counts:
    name = eqn.primitive.name
    if name == "dot_general":
        return _dot_cost(eqn)
    if name == "conv_general_dilated":
        return Counts(convolution=_convolution_cost(eqn))
    if name == "rsqrt":
        return Counts(layer_norm=NORM_COST * _normalised_elements(eqn, producers))
    if name == "pallas_call" and eqn.params["cost_estimate"] is not None:
        return Counts(product=eqn.params["cost_estimate"].flops // 2)
    if name in (*OPAQUE, "pallas_call"):
        raise ValueError(f"cannot count inside {name}: count the program without it")
    inner = [_count_jaxpr(jaxpr) for jaxpr in _inner_jaxprs(eqn)]
    if name == "cond":
        # Among equals the last: of platform-dependent branches, the one that all others share.
        return max(reversed(inner), key=lambda counts: counts.total)
    if name == "while" and any(counts.total for counts in inner):
        raise ValueError("a while loop of unknown length does counted work: use jax.lax.scan")
    devices = eqn.params["mesh"].size if name == "shard_map" else 1
    return sum(inner, Counts()) * eqn.params.get("length", 1) * devices


def _inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for leaf in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(leaf):
            yield leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))


def _dot_cost(eqn: JaxprEqn) -> Counts:
    (contracted, _), (batch, _) = eqn.params["dimension_numbers"]
    lhs = _shape(eqn.invars[0])
    cost = _size(eqn.outvars[0]) * math.prod(lhs[axis] for axis in contracted)
    return Counts(product=cost) if batch else Counts(linear=cost)


def _convolution_cost(eqn: JaxprEqn) -> int:
    kernel = _shape(eqn.invars[1])
    features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return _size(eqn.outvars[0]) * math.prod(kernel) // features


def _shape(value: Var | Literal) -> tuple[int, ...]:
    return cast(jax.core.ShapedArray, value.aval).shape


def _size(value: Var | Literal) -> int:
    return math.prod(_shape(value))


def _normalised_elements(rsqrt: JaxprEqn, producers: Producers) -> int:
    """Number of elements of the array whose mean (of squares) feeds `rsqrt`; 0 if none does.

    A normalisation divides a sum by its length; L2-normalisation does not, and is free.
    """
    pending = [(rsqrt.invars[0], False)]
    while pending:
        value, is_mean = pending.pop()
        for eqn in [] if isinstance(value, Literal) else producers.get(value, []):
            if eqn.primitive.name != "reduce_sum":
                divided = is_mean or eqn.primitive.name == "div"
                # A larger operand belongs to another sum, in a dot_general or a jitted helper.
                small = [v for v in eqn.invars if _size(v) <= _size(value)]
                pending += [(operand, divided) for operand in small]
            elif is_mean:
                return _size(eqn.invars[0])
    return 0


def _producers(jaxpr: Jaxpr) -> Producers:
    """Equations that produce each value; for a jitted helper (jnp.var), its call and last one."""
    producers: Producers = {}
    for eqn in jaxpr.eqns:
        producers |= {value: [eqn] for value in eqn.outvars}
        if eqn.primitive.name == "jit":
            inner = eqn.params["jaxpr"].jaxpr
            known = _producers(inner)
            producers |= known
            for value, source in zip(eqn.outvars, inner.outvars, strict=True):
                if isinstance(source, Var):
                    producers[value] = [eqn, *known.get(source, [])]
    return producers
