"""Compiles the training step for an absent TPU slice, to tell whether it fits and what it costs.

libtpu compiles for any slice on a CPU machine; nothing is allocated or executed.
"""

import contextlib
import copy
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from vlt.costs import hlo
from vlt.costs.accelerators import CHIPS, Chip, check_topology
from vlt.costs.flops import count
from vlt.model_io.loading import build_for_shapes
from vlt.models.chat import ChatModel
from vlt.models.remat import POLICIES
from vlt.models.video_model import VideoModel
from vlt.reporting.compiled import gigabytes
from vlt.runtime.mesh import BATCH_AXES, make_mesh
from vlt.tasks.build import make_task
from vlt.training.program import TrainingProgram
from vlt.training.serving import ServingProgram
from vlt.training.step import TrainState

SIGN_OF_LIFE_S = 10.0  # seconds between lines while a step compiles


class AheadError(RuntimeError):
    """The compiler for TPUs is not installed."""


def compile_ahead(config: Any, topology: str, batch: int = 0) -> dict[str, Any]:
    """Compiles the training step that the loop runs, for a slice.

    For a chat model that trains nothing, compiles what answers (`vlt.training.serving`).

    Args:
      config: the whole config. topology: such as 'v5e:4x4', a name in vlt/costs/accelerators.py.
      batch: batch size over all chips; the config's by default, or 1 for answers; rounded up to
        what the mesh can split.

    Returns:
      figures for one device and one step: `hbm_bytes_per_device` and `bytes` by kind, the
      `collectives` by kind and `collective_bytes`, `flops` (2 per multiply-accumulate), and a
      `roofline`. Where the step does not fit, `fits` is False, `compiler` says by how much and
      `knobs` what would help; figures of the compiled program are absent if there is none.

    Raises:
      TopologyError: no such slice. MeshError: a mesh that its chips cannot form.
      AheadError: libtpu is not installed. ValueError: the config trains nothing and is not a chat
        model's, or has no batch size.
    """
    kind, _ = check_topology(topology)
    serves = not config.train.steps
    if serves and not isinstance(build_for_shapes(config.model), ChatModel):
        raise ValueError("--topology compiles a training step, and this config trains nothing")
    mesh = make_mesh(config.mesh, topology_devices(topology))
    with jax.set_mesh(mesh):  # the chips that "auto" refers to
        model = build_for_shapes(config.model)
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    parts *= 1 if serves else config.optimizer.accumulate
    asked = batch or (1 if serves else config.data.train.get("batch_size"))
    if not asked:
        raise ValueError("config.data.train has no batch_size; --batch gives one")
    size = -(-asked // parts) * parts
    step, lower, shapes = (_serving if serves else _training)(config, mesh, model, size)
    with progress("tracing the step"):
        flops = 2 * count(step, *shapes).multiply_adds / mesh.size
    report = {
        "program": "answers" if serves else "a training step",
        "topology": topology,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "batch": size,
        "batch_asked": asked,
        "flops": flops,
        "bytes": _held_to_serve(*shapes) if serves else held_bytes(*shapes),
    }
    start = time.perf_counter()
    try:
        with progress("lowering the step"):
            lowered = lower()
        with progress(f"compiling the step for {topology}"):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        report |= {"compile_s": time.perf_counter() - start}
        return report | does_not_fit(config, report, mesh, str(error))
    report |= {"compile_s": time.perf_counter() - start}
    report |= _cost(compiled, CHIPS[kind], report)
    if not report["fits"]:
        report |= out_of_memory_report(config, report, mesh, _overfull(report))
    return report


def compile_policies(config: Any, topology: str, batch: int = 0) -> dict[str, Any]:
    """Runs `compile_ahead` with every policy of `model.remat`, one after another.

    Returns:
      what `compile_ahead` returns for the policy that fits and has the lowest least time of a step
      (if none fits, for the config's own); also `remat`, with each policy's `fits`, memory and
      least time, and `best_remat`, the name of that policy, or empty.
    """
    reports = {
        policy: compile_ahead(_with_remat(config, policy), topology, batch) for policy in POLICIES
    }
    times = {k: found["roofline"]["step_s"] for k, found in reports.items() if found["fits"]}
    best = min(times, key=lambda policy: times[policy], default="")
    told = {
        policy: {"fits": found["fits"], "step_s": times.get(policy)}
        | {"hbm_bytes_per_device": found.get("hbm_bytes_per_device")}
        for policy, found in reports.items()
    }
    return reports[best or config.model.remat] | {"remat": told, "best_remat": best}


def _with_remat(config: Any, policy: str) -> Any:
    changed = copy.deepcopy(config)
    changed.model.remat = policy
    return changed


def _training(
    config: Any, mesh: Mesh, model: VideoModel, size: int
) -> tuple[Callable[..., Any], Callable[[], Any], tuple[Any, ...]]:
    """The step, a function that lowers it, and the shapes of its inputs."""
    task = make_task(config, model.spec)
    program = TrainingProgram(config, mesh, model, task, config.train.steps)
    shapes = (*program.shapes(), program.batch_shapes(size))
    return program.step, lambda: program.lower(*shapes), shapes


def _serving(
    config: Any, mesh: Mesh, model: Any, size: int
) -> tuple[Callable[..., Any], Callable[[], Any], tuple[Any, ...]]:
    """The same for answers."""
    program = ServingProgram(config, mesh, model)
    shapes = program.shapes(size)
    return program.read, lambda: program.lower(*shapes), shapes


def _held_to_serve(params: Any, *batch: Any) -> dict[str, int]:
    return {"parameters": _on_device(params), "optimizer": 0, "batch": _on_device(batch)}


@contextlib.contextmanager
def progress(phase: str, every: float = SIGN_OF_LIFE_S) -> Iterator[None]:
    """Prints to stderr that a phase begins, and every `every` seconds how long it has taken."""
    start, ended = time.monotonic(), threading.Event()
    terminal = sys.stderr.isatty()

    def tell() -> None:
        """Prints a line, on a terminal in place of the previous one."""
        seconds = f", {time.monotonic() - start:.0f} s so far"
        print(f"{phase}{seconds}", end="\r" if terminal else "\n", file=sys.stderr, flush=True)

    def keep_telling() -> None:
        while not ended.wait(every):
            tell()

    teller = threading.Thread(target=keep_telling, daemon=True)
    print(phase, end="\r" if terminal else "\n", file=sys.stderr, flush=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        if terminal:
            print(file=sys.stderr)


def topology_devices(topology: str) -> list[jax.Device]:
    """The chips of a slice, as devices to compile for.

    Raises:
      AheadError: libtpu is not installed.
    """
    # Nothing here claims a TPU or runs on one: any number of processes may compile.
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    # Describe the machine that compiles; otherwise libtpu complains that it is not a TPU.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    bounds = [1, 1, 1] if topology.endswith(":1x1") else [2, 2, 1]
    try:
        found = topologies.get_topology_desc(topology, "tpu", chips_per_host_bounds=bounds)
    except Exception as error:
        raise AheadError(
            "--topology needs libtpu, which compiles for TPUs also where there is none: "
            f"pip install -e '.[tpu]' ({str(error).splitlines()[0]})"
        ) from error
    return found.devices


def held_bytes(state: TrainState, frozen: Any, batch: Any) -> dict[str, int]:
    """Bytes that one device holds from step to step, by kind."""
    return {
        "parameters": _on_device((state.trained, frozen)),
        "optimizer": _on_device((state.opt_state, state.task)),
        "batch": _on_device(batch),
    }


def _on_device(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _cost(compiled: Any, chip: Chip, report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a compiled program."""
    memory = compiled.memory_analysis()
    program = hlo.parse(compiled.as_text())
    moved = hlo.collectives(program)
    network = sum(entry["bytes"] for entry in moved.values())
    kept = sum(report["bytes"].values())
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    sizes = {"program": memory.generated_code_size_in_bytes, "peak": peak}
    return {
        # For some chips (v5p) the compiler silently plans more memory than there is.
        "fits": peak <= chip.hbm_bytes,
        "hbm_bytes_per_device": peak,
        "hbm_bytes_of_chip": int(chip.hbm_bytes),
        "bytes": report["bytes"] | {"activations": memory.temp_size_in_bytes} | sizes,
        "bytes_padding": memory.argument_size_in_bytes - kept,
        "collectives": moved,
        "collective_bytes": network,
        "kernels": {name: entry["count"] for name, entry in hlo.kernels(program).items()},
        "traffic": hlo.traffic(program),
        "roofline": roofline(
            chip, report["flops"], hlo.memory_traffic(program), network, _operations(compiled)
        ),
    }


def _operations(compiled: Any) -> float:
    """The compiler's count of a program's operations, with those it or a kernel recomputes."""
    found = compiled.cost_analysis() or {}
    return float(found.get("flops", 0))


def roofline(
    chip: Chip, flops: float, memory_bytes: float, network_bytes: float, run: float = 0
) -> dict[str, Any]:
    """The least time of a step, with computation and transfers overlapped at the chip's peak rates.

    `utilisation` is the share of the peak rate that `flops` then reach: no step can have more.
    run: operations that the compiled program runs, if they are more.
    """
    seconds = {
        "compute_s": max(flops, run) / chip.flops,
        "memory_s": memory_bytes / chip.hbm_rate,
        "network_s": network_bytes / chip.ici_rate,
    }
    step = max(seconds.values())
    bound = max(seconds, key=lambda name: seconds[name]).removesuffix("_s")
    utilisation = flops / chip.flops / step
    return seconds | {"step_s": step, "bound_by": bound, "utilisation": utilisation}


def does_not_fit(config: Any, report: Mapping[str, Any], mesh: Mesh, error: str) -> dict[str, Any]:
    """What to report where the compiler ran out of memory.

    Raises:
      RuntimeError: the compiler failed for another reason.
    """
    if "RESOURCE_EXHAUSTED" not in error and "Ran out of memory" not in error:
        raise RuntimeError(f"the compiler failed: {error[:2000]}")
    return out_of_memory_report(config, report, mesh, re.sub(r"^\w+: ", "", error.split("\n")[0]))


def out_of_memory_report(
    config: Any, report: Mapping[str, Any], mesh: Mesh, compiler: str
) -> dict[str, Any]:
    """Reports that a step does not fit, in the compiler's words, and the three cheapest knobs."""
    return {"fits": False, "compiler": compiler, "knobs": knobs(config, report, mesh)[:3]}


def _overfull(report: Mapping[str, Any]) -> str:
    planned, there = report["hbm_bytes_per_device"], report["hbm_bytes_of_chip"]
    return f"compiled, but plans {gigabytes(planned)} of the chip's {gigabytes(there)}"


def knobs(config: Any, report: Mapping[str, Any], mesh: Mesh) -> list[str]:
    """Changes that make a step need less memory, the cheapest first."""
    held = report["bytes"]["parameters"] + report["bytes"]["optimizer"]
    chip = CHIPS[report["topology"].partition(":")[0]]
    found = []
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16: half the activations, and faster")
    if held > 0.2 * chip.hbm_bytes and mesh.shape["fsdp"] == 1 and mesh.size > 1:
        found.append(
            f"--config.mesh.data=1 --config.mesh.fsdp={mesh.size}: a part of the parameters and "
            "optimizer on each chip, gathered where they are used"
        )
    if config.model.remat == "none":
        found.append("--config.model.remat=block: recomputes activations, a third more operations")
    parts, more = report["batch"] // mesh.size, 2 * config.optimizer.accumulate
    if parts % more == 0:
        found.append(
            f"--config.optimizer.accumulate={more}: the batch in {more} parts, the same gradient, "
            "features computed twice"
        )
    found.append(f"--batch={report['batch'] // 2}, or twice the chips: another training")
    return found
