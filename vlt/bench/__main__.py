"""`vlt bench --config=NAME[:variant]`."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import app, flags

from vlt.bench.door import tell
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
    print(json.dumps(result) if options.json else "\n".join(_lines(result)))


def _lines(result: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name:{28 - len(indent)}} {_readable(value)}")
    return lines


def _readable(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    digits = 4 - math.ceil(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}" if abs(value) < 1e6 else f"{value:.3e}"


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
