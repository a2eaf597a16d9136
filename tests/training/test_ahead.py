"""Training steps compiled for TPU slices that are not here."""

import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import pytest
from helpers import ROOT, environment
from slices import needs_libtpu

from configs import common
from vlt.configuration import load_config
from vlt.costs.accelerators import CHIPS, TopologyError, check_topology, chips_of
from vlt.reporting import compiled
from vlt.reporting.compiled import format_compiled
from vlt.training import ahead
from vlt.training.ahead import (
    compile_ahead,
    does_not_fit,
    knobs,
    progress,
    roofline,
)


class Mesh:
    """A mesh of 8 chips, all of them on the data axis."""

    size = 8
    shape = {"data": 8, "fsdp": 1, "tensor": 1}


def report(**more):
    held = {"parameters": 10**9, "optimizer": 10**8}
    return {"topology": "v5e:2x4", "batch": 64, "bytes": held} | more


def test_topologies():
    assert check_topology("v5p:4x4x4") == ("v5p", "4x4x4")
    assert chips_of("4x4x4") == 64
    for wrong in ("v5e:3x3", "v5e", "4x4", "v9:2x2"):
        with pytest.raises(TopologyError, match=r"known: v5e:1x1, .*v5p:4x4x4.*v6e:16x16"):
            check_topology(wrong)


@pytest.mark.parametrize(("topology", "bounds"), [("v5e:1x1", [1, 1, 1]), ("v5e:2x4", [2, 2, 1])])
def test_a_host_has_four_chips_unless_a_slice_has_one(topology, bounds, monkeypatch):
    asked = []

    def describe(*arguments, **options):
        asked.append((arguments, options))
        raise RuntimeError("no libtpu\nhere")

    monkeypatch.setattr(ahead.os, "environ", {})
    monkeypatch.setattr(ahead.topologies, "get_topology_desc", describe)
    with pytest.raises(ahead.AheadError, match=r"--topology needs libtpu.*\(no libtpu\)$"):
        ahead.topology_devices(topology)
    assert asked == [((topology, "tpu"), {"chips_per_host_bounds": bounds})]


def test_roofline_is_the_slowest_of_three():
    chip = CHIPS["v5e"]
    found = roofline(chip, 197e12, 819e9 / 2, 200e9 / 4)
    assert found["bound_by"] == "compute" and found["step_s"] == found["utilisation"] == 1
    found = roofline(chip, 197e12, 819e9 * 4, 200e9)
    assert (found["bound_by"], found["step_s"], found["utilisation"]) == ("memory", 4, 0.25)


def test_three_knobs_the_cheapest_first():
    config = common.base()
    found = [knob.split("=")[0] for knob in knobs(config, report(), Mesh)]
    assert found == [
        "--config.model.dtype", "--config.model.remat", "--config.optimizer.accumulate", "--batch",
    ]  # fmt: skip
    config.model.update(dtype="bfloat16", remat="block")
    large = report(bytes={"parameters": 12 * 10**9, "optimizer": 10**9}, batch=8)
    found = knobs(config, large, Mesh)
    assert "--config.mesh.fsdp=8" in found[0] and "--batch=4" in found[1], "one video a chip"


def test_one_chip_has_none_to_share_parameters_with():
    large = report(bytes={"parameters": 12 * 10**9, "optimizer": 10**9})
    shared = [
        any("mesh.fsdp" in knob for knob in knobs(common.base(), large, mesh))
        for mesh in (Mesh, SimpleNamespace(size=1, shape={"data": 1, "fsdp": 1, "tensor": 1}))
    ]
    assert shared == [True, False]


def test_memory_that_ran_out_is_an_answer_and_other_failures_are_not():
    wanted = "RESOURCE_EXHAUSTED: Ran out of memory on HBM: (17G) exceeds (15.75G).\nmore"
    found = does_not_fit(common.base(), report(), Mesh, wanted)
    assert found["compiler"] == "Ran out of memory on HBM: (17G) exceeds (15.75G)."
    assert not found["fits"] and len(found["knobs"]) == 3
    with pytest.raises(RuntimeError, match="the compiler failed: INTERNAL"):
        does_not_fit(common.base(), report(), Mesh, "INTERNAL: no such thing")


def test_a_config_that_trains_nothing():
    with pytest.raises(ValueError, match="trains nothing"):
        compile_ahead(load_config("configs/clip.py:b32"), "v5e:2x4")


@pytest.mark.slow
def test_what_the_compiler_takes_may_need_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr("vlt.training.ahead.topology_devices", lambda topology: jax.devices()[:1])
    monkeypatch.setitem(CHIPS, "v5e", CHIPS["v5e"]._replace(hbm_bytes=1e6))
    found = compile_ahead(load_config("configs/tempme.py"), "v5e:1x1", batch=2)
    assert not found["fits"] and len(found["knobs"]) == 3
    text = format_compiled(found)
    gigabytes = f"{found['hbm_bytes_per_device'] / 1e9:.3f} GB"
    assert f"does not fit: compiled, but plans {gigabytes} of the chip's 0.001 GB" in text
    assert "--config.model.dtype=bfloat16" in text


def test_a_phase_tells_that_it_lives_and_leaves_stdout_alone(capsys):
    with progress("compiling", every=0.02):
        time.sleep(0.1)
    told = capsys.readouterr()
    first, *signs = told.err.splitlines()
    assert first == "compiling" and len(signs) >= 2 and told.out == ""
    assert all(re.fullmatch(r"compiling, \d+ s so far", sign) for sign in signs)
    time.sleep(0.06)
    assert capsys.readouterr().err == "", "nothing after the phase"


@pytest.mark.slow
def test_every_phase_of_compiling_ahead_is_told(monkeypatch, capsys):
    monkeypatch.setattr("vlt.training.ahead.topology_devices", lambda topology: jax.devices()[:1])
    compile_ahead(load_config("configs/tempme.py"), "v5e:1x1", batch=2)
    assert capsys.readouterr().err.splitlines() == [
        "tracing the step", "lowering the step", "compiling the step for v5e:1x1"
    ]  # fmt: skip


def inspected(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vlt.inspect", "--config=configs/tempme.py", *options]
    return subprocess.run(
        command,
        cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@needs_libtpu
def test_a_step_on_eight_chips():
    done = inspected("--topology=v5e:2x4", "--batch=30", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["fits"] and found["chips"] == 8
    assert (found["batch_asked"], found["batch"]) == (30, 32), "a multiple of the chips"
    # The tiny CLIP's 709,729 and TempMe's are whole on every chip; Adam has two moments of what
    # is trained.
    assert found["bytes"]["parameters"] == 4 * found["total_params"]
    assert found["bytes"]["optimizer"] == 4 * (2 * found["trainable_params"] + 2)
    assert found["hbm_bytes_per_device"] > sum(
        found["bytes"][kind] for kind in ("parameters", "optimizer", "batch", "activations")
    )
    # At least the gradient of what is trained is summed over the chips.
    assert found["collectives"]["all-reduce"]["bytes"] >= 4 * found["trainable_params"]
    assert found["flops"] * 8 > 2e9 * found["video_gmacs_run"] * 32
    text = format_compiled(found)
    assert "rounded up from 30" in text and "utilisation, at the most" in text


@needs_libtpu
def test_a_step_that_does_not_fit():
    done = inspected("--topology=v5e:1x1", f"--batch={2**20}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "does not fit: Ran out of memory" in done.stdout
    assert "--config.model.dtype=bfloat16" in done.stdout


@needs_libtpu
def test_an_unknown_slice_is_answered_in_a_sentence():
    done = inspected("--topology=v5e:3x3")
    assert done.returncode and "known: v5e:1x1" in done.stderr and "Traceback" not in done.stderr


def test_the_policy_with_the_best_roofline_that_fits(monkeypatch):
    found = {"none": None, "block": 0.03, "dots": 0.02, "offload": 0.05}

    def compile_ahead(config, topology, batch):
        step = found[config.model.remat]
        fitting = {"hbm_bytes_per_device": 10**9, "roofline": {"step_s": step}} if step else {}
        return {"policy": config.model.remat, "fits": step is not None} | fitting

    monkeypatch.setattr(ahead, "compile_ahead", compile_ahead)
    config = common.base()
    report = ahead.compile_policies(config, "v5e:2x4")
    assert report["best_remat"] == report["policy"] == "dots" and config.model.remat == "none"
    lines = compiled._of_policies(report)
    assert [line.split()[-1] for line in lines] == ["fit", "GB", "best", "GB"]
    found.update(block=None, dots=None, offload=None)
    assert ahead.compile_policies(config, "v5e:2x4")["policy"] == "none", "the config's own"


def test_what_is_run_again_takes_time_and_is_no_use():
    chip = CHIPS["v5e"]
    found = roofline(chip, 197e12, 0, 0, run=2 * 197e12)
    assert (found["step_s"], found["utilisation"]) == (2, 0.5)
