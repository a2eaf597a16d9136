"""How Google Cloud names the TPU slices of vlt/costs/accelerators.py."""

import argparse
from typing import NamedTuple

from vlt.costs.accelerators import CHIPS, TopologyError, check_topology, chips_of


class Kind(NamedTuple):
    """A generation of TPUs.

    Attributes:
      accelerator: prefix of the accelerator type, before the number of units.
      units: what that number counts, per chip: its TensorCores, or itself.
      runtime: software version of a TPU VM.
      gke: label of GKE's nodes.
      machine: machine type of GKE's nodes, before the number of chips.
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
    """Chips that are rented together.

    Attributes:
      kind: its generation, one of `KINDS`.
      topology: its shape in chips, '4x4'.
    """

    kind: Kind
    topology: str

    @property
    def chips(self) -> int:
        """Chips of all hosts."""
        return chips_of(self.topology)

    @property
    def chips_per_host(self) -> int:
        """Eight where one host holds a whole 2x4, otherwise at most four."""
        return self.chips if self.topology == "2x4" else min(self.chips, 4)

    @property
    def hosts(self) -> int:
        """Hosts, each of which runs one process."""
        return self.chips // self.chips_per_host

    @property
    def accelerator_type(self) -> str:
        """As TPU VMs name it: v5litepod-16, v5p-128."""
        return f"{self.kind.accelerator}-{self.chips * self.kind.units}"

    @property
    def machine_type(self) -> str:
        """As GKE names its hosts: ct5lp-hightpu-4t."""
        return f"{self.kind.machine}-{self.chips_per_host}t"


SLICES = {
    f"{name}:{topology}": Slice(kind, topology)
    for name, kind in KINDS.items()
    for topology in CHIPS[name].topologies
}


def slice_of(text: str) -> Slice:
    """The type of --topology on the command line, KIND:SHAPE as `vlt.inspect` takes it."""
    same = [name for name, each in SLICES.items() if each.accelerator_type == text]
    try:
        check_topology(text, f" (it is called {same[0]} here)" if same else "")
    except TopologyError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return SLICES[text]
