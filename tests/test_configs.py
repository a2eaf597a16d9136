"""Every variant of every config builds, and matches the checked-in text.

After an intended change: `pytest tests/test_configs.py --update-golden`, and read the diff.
"""

import ast
import functools
import importlib
import pathlib
import re

import jax
import numpy as np
import pytest

from vlt.configuration import apply_overrides, load_config, resolved_text
from vlt.configuration.bounds import bound_of, leaves
from vlt.evaluation.clips import check_clips
from vlt.inspect import count_parameters, inspect_config
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, build_model
from vlt.models.sizes import SIZES
from vlt.models.video_model import VideoModel
from vlt.tasks.build import make_task
from vlt.tasks.caption_metrics import METRICS
from vlt.tasks.retrieval_metrics import retrieval_metrics
from vlt.training.loop import evaluation_due
from vlt.training.optimizer import make_optimizer
from vlt.training.rules import partition

FILES = (
    "btadapter", "btadapter_zeroshot", "clip", "msta", "probe", "retrieval", "tempme", "tiny_blip",
    "tiny_chat", "tiny_clip", "tiny_viclip", "token_mixing", "umt_qa", "video_chat", "zeroshot",
)  # fmt: skip
RETRIEVAL = tuple(retrieval_metrics(np.ones((1, 1)), np.zeros(1, int)))
METRICS_OF_KIND = {
    "retrieval": RETRIEVAL,
    "matching": RETRIEVAL,
    "captioning": METRICS,
    "question_answering": ("accuracy",),
    "answers": ("exact",),
}
GOLDEN = pathlib.Path(__file__).parent / "golden" / "configs"
as_named = functools.cache(load_config)  # for tests that do not change it
ROOT = pathlib.Path(__file__).parents[1]


def _variants(file: str) -> list[str]:
    return [
        f"configs/{file}.py:{variant}" if variant else f"configs/{file}.py"
        for variant in importlib.import_module(f"configs.{file}").VARIANTS
    ]


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("file", FILES)
def test_resolved_configs_are_as_checked_in(file, request):
    text = _golden_text(_variants(file))
    golden = GOLDEN / f"{file}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert golden.exists(), f"{golden.name} is not checked in; see this file's docstring"
    assert text == golden.read_text()


def _golden_text(variants: list[str]) -> str:
    """The first config whole, each other one as its changes to the nearest one before it."""
    seen: dict[str, dict[str, None]] = {}  # each config's lines, as a set that keeps their order
    sections = []
    for name in variants:
        lines = dict.fromkeys(resolved_text(as_named(name)).splitlines())
        nearest = min(seen, key=lambda other: len(seen[other].keys() ^ lines.keys()), default="")
        before = seen.get(nearest, {})
        sections += ["", f"== {name}" + (f" is {nearest} but" if nearest else "")]
        sections += [f"- {line}" for line in before if line not in lines]
        sections += [f"+ {line}" for line in lines if line not in before]
        seen[name] = lines
    return "\n".join(sections[1:]) + "\n"


@pytest.mark.parametrize("file", FILES)
def test_every_number_of_every_config_has_bounds_and_keeps_them(file):
    for name in _variants(file):
        for key, value in leaves(as_named(name)):  # raises where one is out of bounds
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                first = key.split(".")[0]
                assert bound_of(key) or first in ("compare", "repeats", "table"), key


@pytest.mark.parametrize("name", ["msta:own", "tempme:own", "btadapter:own", "token_mixing:own"])
def test_own_videos_are_evaluated_as_they_are_trained_on(name):
    """On the same manifest with the same number of frames, or on another manifest."""
    changes = {"data.train.manifest": "mine.csv", "model.frames": 4}
    config = load_config(name, changes)
    assert config.evals.own.manifest == "mine.csv"
    assert {s.sampler.frames for s in (config.data.train, config.evals.own)} == {4}
    other = load_config(name, changes | {"evals.own.manifest": "test.csv"})
    assert (other.data.train.manifest, other.evals.own.manifest) == ("mine.csv", "test.csv")


@pytest.mark.parametrize("name", ["tempme:own", "btadapter:own", "clip:own"])
def test_own_videos_are_looked_at_in_the_same_way_by_every_config(name):
    config = load_config(name)
    assert config.evals == load_config("tempme:own_full").evals
    assert (config.model.size, config.model.frames, config.model.context) == ("clip_b32", 12, 77)


EVERY = 64  # one in this many variants of a file is in the quick run


def _marked(index: int, name: str):
    """Marks larger models, and all but one in `EVERY` variants of a file, as slow."""
    larger = re.search("_l16$|:msrvtt_b16_|:activitynet_b32_", name)
    return pytest.param(name, marks=pytest.mark.slow if larger or index % EVERY else ())


@pytest.mark.parametrize(
    "name", [_marked(*each) for file in FILES for each in enumerate(_variants(file))]
)
def test_variant_builds(name):
    """Model, rules, losses and optimiser fit each other, in each row of a comparison too."""
    config = load_config(name)
    for overrides in ({}, *(dict(row) for _, row in config.compare)):
        row = apply_overrides(config, overrides)
        for _, repeat in row.repeats:
            apply_overrides(row, repeat)
        model = row.model.copy_and_resolve_references()
        del model.checkpoint  # only its size is built
        module = build_model(model)
        make_task(row, module.spec)
        trained = _trained(module, repr(row.rules))
        optimizer, _ = make_optimizer(row.optimizer, row.rules, row.train.steps)
        jax.eval_shape(optimizer.init, trained)
        assert bool(trained) == bool(row.train.steps)


@pytest.mark.parametrize("file", FILES)
def test_evaluations_during_training_happen_and_find_the_best_metric(file):
    seen = set()  # of variants of the same length, one is enough
    for name in _variants(file):
        config = as_named(name)
        every, best = config.train.eval_every, config.train.best_metric.removeprefix("-")
        length = (every, config.train.steps, bool(config.evals))
        if every and length not in seen:
            seen.add(length)
            steps = range(1, config.train.steps + 1)
            due = [step for step in steps if evaluation_due(config, step)]
            assert due == [*range(every, config.train.steps + 1, every)] and due, name
        if best:
            evaluation, _, metric = best.partition("/")
            assert metric in METRICS_OF_KIND[config.evals[evaluation].kind], name


def test_all_four_evaluations_of_tempme_are_made_whatever_checkpoints_are():
    """Every epoch, although checkpoints are made every 500 steps."""
    config = load_config("configs/tempme.py:msrvtt_b32")
    due = [step for step in range(1, config.train.steps) if evaluation_due(config, step)]
    assert due == [1406, 2812, 4218, 5624]


@pytest.mark.parametrize("file", FILES)
def test_clips_of_every_config_fit_its_model(file):
    """Frames and pixels, as the samplers and transforms make them."""
    for name in _variants(file):
        config = as_named(name)
        spec, steps = SIZES[config.model.size], config.train.steps
        methods = build_methods({m: dict(config.model.get(m, {})) for m in config.model.methods})
        if steps:
            check_clips(config.data.train, spec, config.model.frames)
        free = bool(steps) and any(method.other_frames_tested for method in methods)
        for section in config.evals.values():
            check_clips(section, spec, 0 if free else config.model.frames)


@functools.cache
def _trained(model: VideoModel, rules: str) -> dict:
    """Shapes of the trained leaves, cached as many variants differ only in their data."""
    return partition(_params(model), ast.literal_eval(rules))[0]


@functools.cache
def _params(model: VideoModel) -> dict:
    return abstract_params(model)


@pytest.mark.parametrize(
    ("variant", "trained"), [("webvid_l14", 72_242_432), ("webvid_eva_g", 140_769_664)]
)
def test_counts_of_btadapter(variant, trained):
    """BT-Adapter with the alignment projection; EVA-G's branch."""
    config = load_config(f"configs/btadapter.py:{variant}", {"model.checkpoint": ""})
    model = build_model(config.model)
    assert count_parameters(model, _params(model), config.rules)["trainable_params"] == trained


@pytest.mark.slow
def test_operations_of_btadapter():
    """Unmasked; and with 70% masked, the branch's 44.5 GMACs, not 150.7, beside CLIP's 648.1."""
    config = load_config("configs/btadapter.py:webvid_l14")
    assert inspect_config(config)["video_gmacs"] == pytest.approx(798.8, rel=0.01)
    config.task.losses = {"vtc": 1.0}
    config.model.btadapter.alignment = "none"
    report = inspect_config(config)
    assert report["trainable_params"] == 72_242_432 - 788_736 == 71_453_696
    assert report["video_gmacs_run"] == pytest.approx(648.1 + 44.5, rel=0.01)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("variant", "trained", "gmacs", "tokens"),
    [
        ("msrvtt_b32", 507_648, 34.8, 97),
        ("msrvtt_b32_lora", 491_520, 53.0, 600),
        ("msrvtt_b32_tome", 491_520, 40.2, 312),
        ("msrvtt_b16_lora", 491_520, 211.3, 2364),
        ("msrvtt_b16_tome", 491_520, 144.4, 924),
        ("msrvtt_b16", 507_648, 121.4, 127),
        ("activitynet_b32", 556_032, 186.4, 500),  # printed: 180.3
        ("msrvtt_b32_prompt", 76_800, 58.2, None),
        ("msrvtt_b32_adapter", 261_312, 53.1, None),
        ("msrvtt_b32_evit", 491_520, 37.2, None),
        ("msrvtt_b32_dgl", 827_392, 57.568, 652),  # printed: 67.4
        ("msrvtt_b32_dgl_transformer", 9_575_168, 57.568, 652),
        ("msrvtt_b16_dgl", 827_392, 216.114, 2416),  # printed: 251.2
        ("msrvtt_b32_mv_adapter", 3_496_704, 53.688, 600),
        ("msrvtt_b16_mv_adapter", 3_496_704, 213.794, 2364),  # printed: > 210
        ("msrvtt_b32_prompt_tempme", 92_928, None, 97),
        ("msrvtt_b32_adapter_tempme", 277_440, None, 97),
        ("msrvtt_b32_vop", 122_880, 61.317, 12 * 58),
        ("msrvtt_b32_vop_p", 528_384, 61.317, 12 * 58),
        ("msrvtt_b32_vop_c", 14_257_152, 63.356, 12 * 58),
        # 9,216 are the frame table's, which no paper counts
        ("msrvtt_b32_vop_f", 122_880 + 9_216, 60.847, 12 * 50 + 8),
        ("msrvtt_b32_vop_fp", 393_216 + 9_216, 60.847, 12 * 50 + 8),
        ("msrvtt_b32_vop_fc", 14_269_440 + 9_216, 62.205, 12 * 50 + 8),  # printed: 58.0
        ("msrvtt_b16_vop_fc", 14_269_440 + 9_216, 250.198, 12 * 197 + 8),  # printed: 246.2
        ("msrvtt_b32_plevu", 6_350_336, 53.039, 12 * 50),
    ],
)
def test_costs_of_tempme_and_what_it_is_compared_with(variant, trained, gmacs, tokens):
    """TempMe's Tables 1, 2 and 13."""
    report = inspect_config(load_config(f"configs/tempme.py:{variant}"))
    assert report["trainable_params"] == trained
    assert gmacs is None or report["video_gmacs"] == pytest.approx(gmacs, rel=0.005)
    assert tokens is None or report["output_tokens"] == tokens


def test_full_fine_tuning_is_counted_as_published():
    report = inspect_config(load_config("configs/tempme.py:msrvtt_b32_full"))
    assert report["trainable_params_published"] == 123_542_528  # CLIP4Clip's 123.54M
    assert report["trainable_params"] == 151_277_313


@pytest.mark.quick(5)
@pytest.mark.parametrize(
    ("variant", "weights", "overrides"),
    [
        ("msvd_mix", 7_077_888, {}),
        ("msvd_mix_attn", 2_359_296, {}),
        ("msvd_mix_ffn", 4_718_592, {}),
        ("msvd_mix_no_block", 0, {}),
        ("msvd_mix_at_6", 7_077_888, {}),
        ("msvd_temporal", 28_311_552, {}),
        ("msvd_st_adapter", 54_853_632, {}),
        ("msvd_adapter", 1_880_064, {}),
        ("msvd_dual", 28_311_552, {}),
        ("msvd_dual", 84_934_656, {"model.dual_attention.whole_block": True}),
        ("msvd_full", 113_246_208, {}),  # printed 226.51, with the text model: not reproducible
        ("msvd_bitfit", 0, {}),  # printed 0.26: biases are not weights
        ("msrvtt_ret_mix", 7_077_888, {}),
    ],
)
def test_weights_of_token_mixing_and_what_it_is_compared_with(variant, weights, overrides):
    """Token Mixing's Tables 1, 2 and 4."""
    config = load_config(f"configs/token_mixing.py:{variant}", overrides)
    config.model.checkpoint = ""
    model = build_model(config.model)
    counts = count_parameters(model, _params(model), config.rules)
    assert counts["trainable_weights_video"] == weights


def test_what_the_released_code_trains():
    """Sections 7 and 8: all of Mix's and BitFit's leaves."""
    for variant, everything, video in (
        ("msvd_mix", 32_291_900, 7_832_064),
        ("msvd_bitfit", 283_196, 102_912),
    ):
        config = load_config(f"configs/token_mixing.py:{variant}", {"model.checkpoint": ""})
        model = build_model(config.model)
        counts = count_parameters(model, _params(model), config.rules)
        assert counts["trainable_params"] == everything
        assert counts["trainable_params_video"] == video


@pytest.mark.quick(5)
@pytest.mark.parametrize(
    ("variant", "trained"),
    [
        ("base2novel_k400", 8_712_192),
        ("zeroshot_k400", 4_185_600),
        ("full_k400", 4_185_600),
        ("fewshot_ucf101", 1_744_000),
        ("base2novel_k400_nocc", 8_712_192),
        ("base2novel_k400_m64", 2_069_760),
        ("base2novel_k400_adaptformer", 7_885_824),
        ("base2novel_k400_lora", 9_437_184),
        ("base2novel_k400_frozen", 0),
        ("full_k400_actionclip", 168_574_465),
        ("full_k400_vificlip", 124_323_841),
        ("base2novel_hmdb51_vificlip_prompts", 184_320),
        ("fewshot_ucf101_vificlip_prompts", 153_600),
        ("full_k400_openvclip", 86_192_641),
    ],
)
def test_counts_of_msta_and_what_it_is_compared_with(variant, trained):
    """Counts that follow from the definitions; MSTA's Tables 4 to 7 print some of them, rounded."""
    config = load_config(f"configs/msta.py:{variant}", {"model.checkpoint": ""})
    model = build_model(config.model)
    counts = count_parameters(model, _params(model), config.rules)
    assert counts["trainable_params"] == trained
