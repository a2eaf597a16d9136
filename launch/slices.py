"""How Google Cloud names the TPU slices of vlt/costs/accelerators.py."""

import argparse
from typing import NamedTuple

from vlt.costs.accelerators import CHIPS, TopologyError, check_topology, chips_of


class Kind(NamedTuple):
    """A generation of TPUs.

    Attributes:
      accelerator: prefix of the accelerator type, before the number of units.
      units: units per chip: its number of TensorCores, or 1 where chips are counted.
      runtime: software version of its TPU VMs.
      gke: accelerator label of its GKE nodes.
      machine: machine type of its GKE nodes, before the number of chips.
    """

    accelerator: str
    units: int
    runtime: str
    gke: str
    machine: str


KINDS = {
    "v5e": Kind("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu"),
    "v5p": Kind("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu"),
    "v6e": Kind("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard"),
}


class Slice(NamedTuple):
    """TPU chips that are rented together.

    Attributes:
      kind: its generation, one of `KINDS`.
      topology: its shape in chips, '4x4'.
    """

    kind: Kind
    topology: str

    @property
    def chips(self) -> int:
        """Number of chips on all hosts."""
        return chips_of(self.topology)

    @property
    def chips_per_host(self) -> int:
        """Eight for a 2x4, which is a single host; otherwise at most four."""
        return self.chips if self.topology == "2x4" else min(self.chips, 4)

    @property
    def hosts(self) -> int:
        """Number of hosts, each of which runs one process."""
        return self.chips // self.chips_per_host

    @property
    def accelerator_type(self) -> str:
        """Its name for TPU VMs: v5litepod-16, v5p-128."""
        return f"{self.kind.accelerator}-{self.chips * self.kind.units}"

    @property
    def machine_type(self) -> str:
        """Its hosts' name in GKE: ct5lp-hightpu-4t."""
        return f"{self.kind.machine}-{self.chips_per_host}t"


SLICES = {
    f"{name}:{topology}": Slice(kind, topology)
    for name, kind in KINDS.items()
    for topology in CHIPS[name].topologies
}


def slice_of(text: str) -> Slice:
    """Parses --topology of the command line, KIND:SHAPE as in `vlt.inspect`."""
    same = [name for name, each in SLICES.items() if each.accelerator_type == text]
    try:
        check_topology(text, f" (it is called {same[0]} here)" if same else "")
    except TopologyError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return SLICES[text]
