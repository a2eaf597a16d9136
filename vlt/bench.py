"""`python -m vlt.bench --config=... [--peer=torch] [--json]`: speed of a config's model here.

Rates are of multiply-accumulates that run (vlt.count), two operations each, over the median time.
The floor is the best float32 matmul rate measured in the same run. A torch peer gets the same
weights and batch, its outputs are compared first, and both are timed turn by turn.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from vlt.count import count
from vlt.models.build import (
    abstract_params,
    build_model,
    example_inputs,
    init_params,
    merged_form,
)
from vlt.models.dual_encoder import DualEncoder
from vlt.optim import make_optimizer, partition
from vlt.step import TrainState, make_train_step
from vlt.tasks.retrieval import Retrieval

MATMUL_REPEATS = 10
ROUNDS = 7


def seconds(function: Callable[[], Any]) -> float:
    """Time of one call, results on the device included."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def matmul_rate(tokens: int, width: int) -> float:
    """Best float32 operations a second of [n, d] x [d, 4d], [n, 4d] x [4d, d] and 2048 cubed."""
    shapes = ((tokens, width, 4 * width), (tokens, 4 * width, width), (2048, 2048, 2048))
    rates = []
    for m, k, n in shapes:
        a, b = (jax.random.normal(jax.random.key(0), shape) for shape in ((m, k), (k, n)))
        multiply = jax.jit(jnp.matmul)
        jax.block_until_ready(multiply(a, b))
        times = [seconds(lambda: multiply(a, b)) for _ in range(MATMUL_REPEATS)]  # noqa: B023
        rates.append(2 * m * k * n / statistics.median(times))
    return max(rates)


def rounds(*functions: Callable[[], Any]) -> list[float]:
    """Median seconds of each, called in turn `ROUNDS` times after one call to warm up."""
    for function in functions:
        jax.block_until_ready(function())
    times = [[seconds(function) for function in functions] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def bench_forward(
    config: Mapping[str, Any], batch: int, peer: str = "", cls_only: bool | None = None
) -> dict[str, Any]:
    """The vision tower on `batch` videos at random weights.

    peer: '' or 'torch', transformers' CLIP in inference mode with scaled-dot-product attention.
    """
    model = build_model(config)
    if cls_only is not None:
        model = model.clone(cls_only=cls_only)
    frames = config["frames"]
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    video = _random_video(model, frames, batch)
    compiled = _compiled_forward(model, params, video)
    functions: list[Callable[[], Any]] = [lambda: compiled(params, video)]
    if peer:
        from vlt.bench_torch import clip_video_encoder  # torch is an extra

        if not model.frame_norm or model.methods:
            raise ValueError("the torch peer is CLIP with unit frame embeddings: configs/clip.py")
        other = clip_video_encoder(model.spec, params)
        difference = float(np.abs(other(video) - np.asarray(functions[0]())).max())
        functions.append(lambda: other(video))
    times = rounds(*functions)
    macs = count(
        lambda p, x: model.apply({"params": p}, x, method="encode_video")[0], params, video
    )
    rate = 2 * macs.multiply_adds / times[0]
    floor = matmul_rate(batch * frames * (1 + model.spec.visual.patches), model.spec.visual.width)
    result = {
        "videos_per_s": batch / times[0],
        "forward_s": times[0],
        "gflops": rate / 1e9,
        "matmul_gflops": floor / 1e9,
        "of_matmul_rate": rate / floor,
        "peak_bytes": _peak_bytes(compiled),
    }
    if peer:
        result |= {
            "peer_s": times[1],
            "times_as_fast": times[1] / times[0],
            "peer_difference": difference,
        }
    return result


def videos_per_second(config: Mapping[str, Any], batch: int) -> float:
    """Rate of the vision tower as it is deployed, at random weights."""
    model = merged_form(build_model(config))
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    video = _random_video(model, config["frames"], batch)
    compiled = _compiled_forward(model, params, video)
    return batch / rounds(lambda: compiled(params, video))[0]


def _compiled_forward(model: DualEncoder, params: Any, video: jax.Array) -> Any:
    encode = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode_video")[0])
    return encode.lower(params, video).compile()


def bench_step(config: Any, batch: int) -> dict[str, Any]:
    """A whole training step beside the vision tower's forward pass without methods."""
    model = build_model(config.model)
    bare = DualEncoder(model.spec, cls_only=False, dtype=model.dtype)
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    video = _random_video(model, config.model.frames, batch)
    ids = jnp.asarray(
        np.random.default_rng(1).integers(1, model.spec.text.vocab, (batch, config.model.context)),
        jnp.int32,
    )
    trained, frozen = partition(params, config.rules)
    optimizer, schedule = make_optimizer(config.optimizer, config.rules, 1000)
    task = Retrieval(
        dict(config.task.losses), config.task.scale or None, config.task.mask_duplicates
    )
    step = jax.jit(make_train_step(model, task, optimizer, schedule, 0))
    state = TrainState.create(trained, optimizer)
    inputs = {"video": video, "text": ids}
    compiled = step.lower(state, frozen, inputs).compile()
    backbone = _without_methods(bare, params)
    forward = jax.jit(lambda p, x: bare.apply({"params": p}, x, method="encode_video")[0])
    step_s, forward_s = rounds(
        lambda: compiled(state, frozen, inputs), lambda: forward(backbone, video)
    )
    return {
        "step_s": step_s,
        "videos_per_s": batch / step_s,
        "backbone_forward_s": forward_s,
        "step_over_forward": step_s / forward_s,
        "peak_bytes": _peak_bytes(compiled),
    }


def _without_methods(bare: DualEncoder, params: dict[str, Any]) -> dict[str, Any]:
    """The leaves of the model without methods."""

    def pick(shapes: Any, tree: Any) -> Any:
        if isinstance(shapes, Mapping):
            return {name: pick(inner, tree[name]) for name, inner in shapes.items()}
        return tree

    return pick(abstract_params(bare), params)


def _random_video(model: DualEncoder, frames: int, batch: int) -> jax.Array:
    video, _ = example_inputs(model.spec, frames, 1, batch)
    pixels = np.random.default_rng(0).integers(0, 255, video.shape, dtype=np.uint8)
    return jnp.asarray(pixels)


def _peak_bytes(compiled: Any) -> int:
    """Arguments, outputs and temporaries of a compiled program."""
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def main(_: list[str]) -> None:
    """Prints the figures of the config given on the command line."""
    config, options = flags.FLAGS.config, flags.FLAGS
    result = {"forward": bench_forward(config.model, options.batch, options.peer, options.cls_only)}
    if options.step:
        result["step"] = bench_step(config, options.batch)
    result["device"] = jax.devices()[0].device_kind
    if options.json:
        print(json.dumps(result))
        return
    for part, values in result.items():
        print(part if isinstance(values, dict) else f"{part}: {values}")
        for name, value in values.items() if isinstance(values, dict) else ():
            print(f"  {name:20} {_readable(value)}")


def _readable(value: float) -> str:
    digits = 4 - math.ceil(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}" if abs(value) < 1e6 else f"{value:.3e}"


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config")
    flags.DEFINE_integer("batch", 1, "Videos at a time.")
    flags.DEFINE_enum("peer", "", ["", "torch"], "Whom to measure turn by turn.")
    flags.DEFINE_bool("step", True, "Also time a training step.")
    flags.DEFINE_bool("cls_only", None, "Whether the last block computes only what is read.")
    flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
    flags.mark_flag_as_required("config")
    app.run(main)
