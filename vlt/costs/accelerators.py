"""TPU chips and the slices of them that Google Cloud rents out, according to its documentation."""

import math
from typing import NamedTuple

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
    *("8x16x16", "16x16x16", "16x16x24"),
)


class Chip(NamedTuple):
    """Published peaks of a chip.

    Attributes:
      flops: bfloat16 operations a second; a multiply-accumulate is two.
      hbm_bytes: bytes of its memory that programs may use.
      hbm_rate: bytes a second to and from that memory.
      ici_rate: bytes a second that it sends to its neighbours, over all links together.
      topologies: shapes of its slices, in chips.
    """

    flops: float
    hbm_bytes: float
    hbm_rate: float
    ici_rate: float
    topologies: tuple[str, ...]


CHIPS = {
    "v5e": Chip(197e12, 15.75 * 2**30, 819e9, 200e9, _FLAT),
    "v5p": Chip(459e12, 95.74 * 2**30, 2765e9, 600e9, _CUBES),
    "v6e": Chip(918e12, 31.25 * 2**30, 1640e9, 400e9, _FLAT),
}


class TopologyError(ValueError):
    """A slice that does not exist."""


def check_topology(name: str, hint: str = "") -> tuple[str, str]:
    """Splits the name of a slice into chip and shape: 'v5e:4x4' into 'v5e' and '4x4'.

    Raises:
      TopologyError: there is no such slice; the message lists all there are.
    """
    kind, _, shape = name.partition(":")
    if kind in CHIPS and shape in CHIPS[kind].topologies:
        return kind, shape
    known = "; ".join(
        ", ".join(f"{kind}:{shape}" for shape in chip.topologies) for kind, chip in CHIPS.items()
    )
    raise TopologyError(f"no TPU slice {name!r}{hint}; known: {known}")


def chips_of(shape: str) -> int:
    """Number of chips in a slice: 16 for '4x4'."""
    return math.prod(map(int, shape.split("x")))
