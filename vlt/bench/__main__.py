"""`vlt bench --config=NAME[:variant]`."""

import sys
from typing import Any

import jax
from absl import app, flags

from vlt.bench.door import show, tell
from vlt.bench.forward import bench_forward
from vlt.bench.step import bench_step, step_memory
from vlt.command_line.bench import parse
from vlt.configuration import keys_typed, load_config
from vlt.model_io.following import follow_checkpoint


def main(_: list[str]) -> None:
    """Prints the figures for the config given on the command line."""
    tell(_bench)


def _bench() -> None:
    options = flags.FLAGS
    config = follow_checkpoint(options.config, keys_typed(sys.argv))
    others = {name: load_config(name) for name in options.against}
    result: dict[str, Any] = {}
    if options.forward:
        result["forward"] = bench_forward(
            config.model,
            options.batch,
            options.peer,
            options.cls_only,
            {name: other.model for name, other in others.items()},
            options.rounds,
        )
    if options.step:
        result["step"] = bench_step(config, options.batch, others, options.rounds)
    if options.memory:
        result["step_memory"] = step_memory(config, options.batch, others)
    result["device"] = jax.devices()[0].device_kind
    show(result, options.json)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
