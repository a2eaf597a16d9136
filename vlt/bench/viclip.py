"""`python -m vlt.bench.viclip [--cls_only] [--json]`: ViCLIP's vision tower beside torch, in turn.

Both have the same random weights. The peer (vlt/bench/torch_viclip.py) computes every token of the
last block; so do we, except with --cls_only. Rates are those of `vlt.bench`.
"""

import argparse

import jax

from vlt.bench.door import count, show, tell
from vlt.bench.forward import bench_forward
from vlt.bench.timing import ROUNDS
from vlt.model_io.loading import AS_STORED
from vlt.models.sizes import SIZES


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.viclip", description=__doc__)
    sizes = [name for name, spec in SIZES.items() if spec.visual.temporal_frames]
    parser.add_argument("--size", choices=sizes, default="viclip_b16")
    parser.add_argument("--frames", type=count, default=8)
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--rounds", type=count, default=ROUNDS)
    parser.add_argument("--cls_only", action="store_true", help="of our last block what is read")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    config = AS_STORED | {"size": options.size, "frames": options.frames, "frame_norm": False}
    found = bench_forward(config, options.batch, "torch", options.cls_only, rounds=options.rounds)
    found["device"] = jax.devices()[0].device_kind
    show(found, options.json)


if __name__ == "__main__":
    tell(main)
