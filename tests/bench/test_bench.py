"""Benchmarks at small sizes: what is compared with what. No times are asserted."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import ROOT, environment

from vlt.bench import forward, slicing, step, timing
from vlt.configuration import load_config
from vlt.merging.evit import EViT
from vlt.merging.tempme import TempMe
from vlt.merging.tome import ToMe
from vlt.model_io.build import abstract_params, build_model, example_inputs, merges_tokens
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.runtime.mesh import make_mesh
from vlt.tasks.build import make_task
from vlt.tasks.captioning import Captioning
from vlt.tasks.matching import Matching
from vlt.tasks.question_answering import QuestionAnswering
from vlt.tasks.recognition import Recognition
from vlt.tasks.retrieval import Retrieval
from vlt.tasks.weight_interpolation import WeightInterpolation
from vlt.training.program import TrainingProgram

# The moving-shapes config's proportions, quicker to compile.
SPEC = DualEncoderSpec(
    VisionSpec(32, 8, 16, 4, 2, 32), TextSpec(16, 43, 8, 1, 2, 16), embed_dim=4
)  # 16 patches
FRAMES = 6
TEMPME = TempMe(layers=(1, 2), join=(3, 2), r=1, keep_cross=70, keep_intra=80)
LORA = {"model.methods": ("lora",), "rules": ((r".*/lora_[ab]", {}), (".*", "frozen"))}
FULL = {"model.methods": ("tempme",), "rules": ((".*", {}),)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny_clip", SPEC)
    monkeypatch.setattr(forward, "matmul_rate", lambda tokens, width: 1e11)


@pytest.fixture(scope="module")
def full_step():
    """A started step of `FULL`, which fine-tunes all leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny_clip", SPEC)
        return step.Step(config(FULL), batch=2).start()


def config(overrides=None):
    return load_config("configs/tempme.py", overrides)


def build(*methods, **options):
    """A tower with random weights and clip positions, without compiling an initialisation."""
    model = DualEncoder(SPEC, methods, FRAMES, frame_norm=True, **options)
    rng = np.random.default_rng(0)
    shapes = forward.without_text(abstract_params(model))
    return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    times = np.array([[1.0, 2.0], [10.0, 30.0], [2.0, 3.0]])  # the ratio of medians would be 1.5
    assert timing.ratio(times, slow=1, fast=0) == 2.0


def test_functions_take_turns_after_a_warm_up():
    called = []
    times = timing.turns(lambda: called.append("a"), lambda: called.append("b"), rounds=2)
    assert times.shape == (2, 2)
    assert "".join(called) == "ababab"


@pytest.mark.quick(1)
@pytest.mark.parametrize("method", [ToMe(3), TEMPME, EViT(layers=(1, 2))], ids=repr)
def test_slices_leave_the_shapes_and_nothing_of_the_matching(method):
    model, params = build(method, cls_only=False)
    cut = slicing.sliced(model)
    assert merges_tokens(model)
    assert not merges_tokens(DualEncoder(SPEC))
    main = forward.prepare(model, 1, params)
    video, _ = example_inputs(SPEC, FRAMES, 1)

    def shapes(module):
        def blocks(params, x):
            _, out = module.apply({"params": params}, x, method="encode_video", capture=True)
            return {name: out[name] for name in out if name.startswith("block_")}

        return jax.tree.map(lambda x: x.shape, jax.eval_shape(blocks, params, video))

    assert shapes(cut) == shapes(model)
    other = forward.prepare(cut, 1, params)
    assert "sort(" in main.compiled.as_text()
    assert "sort(" not in other.compiled.as_text()
    assert np.isfinite(other.run()).all()


def test_slicing_keeps_proportional_attention():
    programs = []
    for proportional in (True, False):
        model, params = build(ToMe(3, proportional))
        programs.append(forward.prepare(slicing.sliced(model), 1, params))
    logs = [" log(" in program.compiled.as_text() for program in programs]
    assert logs == [True, False]


@pytest.mark.slow
def test_forward_is_compared_column_by_column(monkeypatch):
    # Each round times TempMe, LoRA, full, and TempMe sliced.
    times = np.array([[2.0, 6.0, 4.0, 1.5]] * 3)
    monkeypatch.setattr(forward, "turns", lambda *functions, rounds: times[:, : len(functions)])
    against = {"lora": config(LORA).model, "full": config(FULL).model}
    found = forward.bench_forward(config().model, batch=2, cls_only=False, against=against)
    assert found["forward_s"] == 2.0 and found["videos_per_s"] == 1.0
    assert found["merging_share"] == pytest.approx(0.25)
    lora, full = found["against"]["lora"], found["against"]["full"]
    assert (lora["forward_s"], lora["times_as_fast"]) == (6.0, 3.0)
    assert (full["forward_s"], full["times_as_fast"]) == (4.0, 2.0)
    # LoRA is folded in: one config then merges no tokens, the other is the config itself.
    assert lora["times_the_operations"] == pytest.approx(lora["gmacs"] / found["gmacs"])
    assert lora["times_the_operations"] > 1.1
    assert full["times_the_operations"] == 1.0


@pytest.mark.slow
def test_without_merging_there_is_no_share():
    found = forward.bench_forward(config(LORA).model, batch=1, rounds=1)
    assert "merging_share" not in found and "against" not in found
    assert found["gflops"] == pytest.approx(2 * found["gmacs"] / found["forward_s"])


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("methods", "cls_only"),
    [((), True), ((ToMe(2),), True), ((TEMPME,), True), ((TEMPME,), False)],
    ids=repr,
)
def test_torch_merges_alike(methods, cls_only):
    torch_clip = pytest.importorskip("vlt.bench.torch_clip")
    model, params = build(*methods, cls_only=cls_only)
    theirs = torch_clip.clip_video_encoder(model, params)
    video = forward.random_video(model, batch=2)
    np.testing.assert_allclose(forward.prepare(model, 2, params).run(), theirs(video), atol=2e-6)


def test_torch_sees_what_tempme_does():
    torch_clip = pytest.importorskip("vlt.bench.torch_clip")
    model, params = build(TEMPME)
    video = forward.random_video(model, batch=1)
    merged = torch_clip.clip_video_encoder(model, params)(video)
    for other in ((), (ToMe(1),), (dataclasses.replace(TEMPME, keep_cross=90),)):
        differing = torch_clip.clip_video_encoder(model.clone(methods=other), params)(video)
        assert np.abs(merged - differing).max() > 1e-3
    params["visual"]["blocks_1"]["clip_position"] *= 0
    still = torch_clip.clip_video_encoder(model, params)(video)
    assert np.abs(merged - still).max() > 1e-3


@pytest.mark.parametrize("methods", [(EViT(),), (ToMe(2, proportional=False),), (TEMPME, ToMe(1))])
def test_torch_refuses_what_it_does_not_know(methods):
    torch_clip = pytest.importorskip("vlt.bench.torch_clip")
    model = DualEncoder(SPEC, methods, FRAMES, frame_norm=True)
    with pytest.raises(ValueError, match="methods="):
        torch_clip.clip_video_encoder(model, {})


@pytest.mark.parametrize(
    ("name", "kind", "numbers"),
    [
        ("btadapter.py:webvid_l14", Retrieval, {}),
        ("token_mixing.py:msvd_mix", Captioning, {}),
        ("token_mixing.py:msrvtt_ret_mix", Matching, {"video_id": 12}),
        ("token_mixing.py:msrvtt_qa", QuestionAnswering, {}),
        ("msta.py:base2novel_k400", Recognition, {"label": 8}),
        ("msta.py:base2novel_hmdb51_openvclip", WeightInterpolation, {"label": 8}),
    ],
)
def test_a_random_batch_is_within_each_entrys_range(name, kind, numbers):
    """With a vocabulary that a byte cannot index, and more videos than classes."""
    options = load_config(f"configs/{name}", {"model.checkpoint": "", "optimizer.accumulate": 1})
    if "class_count" in options.task:
        options.task.class_count = 8
    model = build_model(options.model)
    task = make_task(options, model.spec)
    assert isinstance(task, kind) and model.spec.text.vocab > 256
    program = TrainingProgram(options, make_mesh(options.mesh), model, task, 10)
    batch = step.random_batch(program, 12)
    shapes = program.batch_shapes(12)
    assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {
        n: (x.shape, x.dtype) for n, x in shapes.items()
    }
    for entry, values in batch.items():
        top = {"video": 256}.get(entry) or numbers.get(entry, model.spec.text.vocab)
        assert values.min() >= 0 and top // 2 <= values.max() < top


@pytest.mark.slow
def test_a_step_trains_every_leaf_and_gives_its_state_away(full_step):
    main = full_step
    before = np.array(main.state.trained["visual"]["class_embedding"])
    backbone = step.backbone_forward(main)
    for _ in range(2):
        assert np.isfinite(main.run()["loss"])
        assert np.isfinite(backbone()).all()
    # The first step of the warm-up moves nothing.
    assert np.abs(main.state.trained["visual"]["class_embedding"] - before).max() > 0


@pytest.mark.slow
def test_steps_are_compared_column_by_column(monkeypatch, full_step):
    monkeypatch.setattr(full_step, "start", lambda: full_step)
    monkeypatch.setattr(step, "Step", lambda config, batch: full_step)
    # Each round times the config, its backbone's forward pass, and the other config.
    monkeypatch.setattr(step, "turns", lambda *functions, rounds: np.array([[2.0, 1.0, 3.0]]))
    found = step.bench_step(None, batch=2, against={"other": None})
    assert found["step_s"] == 2.0 and found["step_over_forward"] == 2.0
    assert found["against"] == {"other": {"step_s": 3.0, "times_as_fast": 1.5}}


@pytest.mark.slow
def test_memory_of_a_step_is_planned_and_not_taken(monkeypatch, full_step):
    real = step.Step
    monkeypatch.setattr(real, "start", None)
    monkeypatch.setattr(step, "Step", lambda c, batch: full_step if c == "full" else real(c, batch))
    found = step.step_memory(config(), batch=2, against={"full": "full"})
    full = found.pop("against")["full"]
    for planned in (found, full):
        kept = planned["argument_bytes"] + planned["output_bytes"] - planned["aliased_bytes"]
        assert planned["peak_bytes"] == kept + planned["temporary_bytes"]
        assert planned["temporary_bytes"] > 0
    assert full["of_its_peak"] == found["peak_bytes"] / full["peak_bytes"]
    # All weights and both their moments are updated in place; LoRA's alone take fewer bytes.
    trained = 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(full_step.state.trained))
    assert full["aliased_bytes"] >= trained > found["aliased_bytes"]


@pytest.mark.slow
def test_the_command_prints_one_object():
    command = [sys.executable, "-m", "vlt.bench", "--config=configs/tempme.py", "--nostep"]
    command += ["--against=configs/tempme.py", "--rounds=1", "--json", "--nocls_only"]
    done = subprocess.run(
        command, env=environment(1), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found.keys() == {"forward", "device"}
    assert found["forward"]["against"]["configs/tempme.py"]["times_the_operations"] == 1.0
