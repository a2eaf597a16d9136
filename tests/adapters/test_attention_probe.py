"""VideoPrism's attention probe over a video encoder that reads no text."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import vlt
from configs import common
from vlt import classify
from vlt.adapters.attention_probe import Probe
from vlt.configuration import load_config
from vlt.data.manifests.resources import resolve
from vlt.data.moving_shapes import SIZE
from vlt.export import export
from vlt.main import run_all
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.folder import ModelConfig, write_model_folder
from vlt.models.sizes import SIZES
from vlt.models.spec import EncoderSpec, PoolerSpec
from vlt.pytrees.paths import by_path
from vlt.tasks.classification import Classification
from vlt.training.metrics_log import read_metrics
from vlt.training.rules import partition

LARGE = SIZES["videoprism_encoder_b"].visual
SMALL = EncoderSpec(
    dataclasses.replace(
        LARGE, image_size=SIZE, patch_size=8, width=32, layers=3, heads=4, mlp_width=64,
        stages=(2, 1), temporal_frames=4,
    )
)  # fmt: skip


def softmax(x):
    odds = np.exp(x - x.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def test_logits_are_those_of_the_published_formula():
    """In float64: per-channel query scales, no cap on logits, nothing added to the query."""
    rng = np.random.default_rng(0)
    spec = dataclasses.replace(SMALL.visual, pooler=PoolerSpec(4, 32, channel_scale=True))
    probe, x = Probe(spec, 5), rng.normal(size=(2, 3, 7, 32)).astype(np.float32)
    shapes = jax.eval_shape(lambda: probe.init(jax.random.key(0), x))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(probe.apply)({"params": params}, x)
    leaves = {path: np.float64(leaf) for path, leaf in by_path(params).items()}
    at = {
        name: (
            leaves[f"pooler/cross_attention/{name}/kernel"],
            leaves[f"pooler/cross_attention/{name}/bias"],
        )
        for name in ("query", "key", "value", "out")
    }
    tokens = np.float64(x).reshape(2, 21, 32)
    query = leaves["pooler/probe"] @ at["query"][0] + at["query"][1]
    key, value = (tokens @ at[name][0] + at[name][1] for name in ("key", "value"))
    scale = np.log1p(np.exp(leaves["pooler/cross_attention/channel_scale"])) / np.log(2) / 8**0.5
    logits = np.einsum("hc,bnhc->bhn", query.reshape(4, 8) * scale, key.reshape(2, 21, 4, 8))
    read = np.einsum("bhn,bnhc->bhc", softmax(logits), value.reshape(2, 21, 4, 8))
    pooled = read.reshape(2, 32) @ at["out"][0] + at["out"][1]
    normed = (pooled - pooled.mean(-1, keepdims=True)) / np.sqrt(pooled.var(-1) + 1e-6)[:, None]
    normed = normed * leaves["pooler/norm/scale"] + leaves["pooler/norm/bias"]
    wanted = normed @ leaves["classes/kernel"] + leaves["classes/bias"]
    assert ours.shape == (2, 1, 1, 5) and ours.dtype == np.float32
    np.testing.assert_allclose(ours[:, 0, 0], wanted, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "trained", "total"),
    [("k400_b", 2_672_336, 117_037_520), ("k400_l", 4_611_536, 358_576_592)],
)
def test_a_probe_of_kinetics_is_all_that_is_trained(variant, trained, total):
    config = load_config(f"probe:{variant}")
    spec = SIZES[config.model.size]
    params = abstract_params(make_model(spec, {"attention_probe": {"classes": 400}}, 16))
    chosen, _ = partition(params, config.rules)
    assert sum(leaf.size for leaf in jax.tree.leaves(chosen)) == trained
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total


def test_a_probe_has_as_many_leaves_as_the_published_one():
    """Probe; queries, keys, values, output; channel scales; LayerNorm; classifier."""
    spec = dataclasses.replace(LARGE, pooler=PoolerSpec(12, 768, channel_scale=True))
    tokens = jax.ShapeDtypeStruct((1, 16, 256, 768), np.float32)
    shapes = jax.eval_shape(Probe(spec, 400).init, jax.random.key(0), tokens)
    wanted = 768 + 4 * (768**2 + 768) + 64 + 2 * 768 + 400 * (768 + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == wanted == 2_672_336


def test_what_does_not_fit_is_a_sentence():
    for options, words in (
        ({"classes": 0}, "classes must be >= 1"),
        ({"heads": 3}, "heads=3 does"),
    ):
        with pytest.raises(ValueError, match=f"attention_probe.{words}"):
            make_model(SMALL, {"attention_probe": options}, 4)
    with pytest.raises(ValueError, match="lone vision tower, and models of kind dual"):
        make_model(SIZES["videoprism_b"], {"attention_probe": {}}, 16)
    task, bare = Classification(3), make_model(SMALL, {}, 4)
    with pytest.raises(ValueError, match="no method of the model tells classes apart"):
        task.initial_state(bare, {}, {})
    with pytest.raises(ValueError, match="is for 4 classes, but 3 are trained on"):
        task.initial_state(make_model(SMALL, {"attention_probe": {"classes": 4}}, 4), {}, {})


def random_folder(folder: Path, methods: dict) -> Path:
    """A model folder of a small encoder with random weights."""
    rng = np.random.default_rng(0)
    shapes = abstract_params(make_model(SMALL, methods, 4))
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    pixels = {"image_size": SIZE, "mean": [0.0] * 3, "std": [1.0] * 3}
    config = ModelConfig("videoprism", SMALL, methods, pixels)
    write_model_folder(folder / "model", config, params, folder / "none")
    return folder / "model"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return random_folder(tmp_path_factory.mktemp("encoder"), {})


def test_a_probe_classifies_videos_among_its_classes(encoder, tmp_path, capsys):
    folder = random_folder(tmp_path, {"attention_probe": {"classes": 3}})
    video = str(resolve("moving_shapes:clips:test:16").parent / "videos")
    line = [video, f"--model={folder}", "--labels=hop,run,skip"]
    assert classify.main([*line, "--json"]) == 0
    told = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    model = vlt.load(folder)
    logits = np.float64(model.encode_video([each["video"] for each in told])[:, 0])
    for each, wanted in zip(told, softmax(logits), strict=True):
        shares = [each["labels"][name] for name in ("hop", "run", "skip")]
        np.testing.assert_allclose(shares, wanted, atol=1e-4)  # printed to four decimal places
    wrong = {
        "--labels=hop,run": "2 given, and the model's probe tells 3 classes apart",
        "--template=a {}": "a probe reads no texts",
        f"--model={encoder}": "a vision tower alone tells no labels apart; train a probe",
    }
    for option, words in wrong.items():
        assert classify.main([*line, option]) == 1
        assert words in capsys.readouterr().err


def on_actions(encoder: Path, **overrides):
    """The `probe:own` config over the small encoder, on actions of moving shapes."""
    config = load_config("probe:own")
    data = "moving_shapes:actions:train:240:base"
    config.model.update(checkpoint=str(encoder), size="", frames=4)
    config.model.attention_probe.classes = 24
    options = {"classes": f"{data}_classes.txt", "cache": True}
    config.data.train = common.videos(f"{data}.jsonl", "linspace", 4, 32, **options)
    test = common.videos(f"{data}.jsonl", "linspace", 4, 32, **options)
    config.evals = {"own": common.classification(test, "own_data")}
    config.optimizer.lr = 1e-2
    config.train.update(steps=30, log_every=10, checkpoint_every=30)
    config.update_from_flattened_dict(overrides)
    return config


@pytest.mark.slow
def test_a_probe_is_trained_evaluated_and_exported(encoder, tmp_path):
    found = run_all(on_actions(encoder), tmp_path / "run")[0]
    assert found["own/classes"] == 24 and found["trained_params"] == 32 * 24 + 24 + 4328
    told = [entry["loss"] for entry in read_metrics(tmp_path / "run") if "loss" in entry]
    assert told[-1] < told[0] - 0.02
    assert (tmp_path / "run/classes-own.txt").exists()
    export(tmp_path / "run", tmp_path / "exported", "orbax")
    stored = json.loads((tmp_path / "exported/config.json").read_text())
    assert stored["methods"]["attention_probe"] == {"classes": 24}
    config = on_actions(tmp_path / "exported", **{"train.steps": 0})
    config.model.methods = ()
    again = run_all(config, tmp_path / "again", "eval")[0]
    assert again["own/top1"] == found["own/top1"]
    video = np.random.default_rng(0).integers(0, 255, (2, 4, SIZE, SIZE, 3), np.uint8)
    assert vlt.load(tmp_path / "exported").encode_video(video).shape == (2, 1, 24)


@pytest.mark.slow
def test_classes_that_were_not_trained_on_are_refused(encoder, tmp_path):
    config = on_actions(encoder)
    other = "moving_shapes:actions:test:120:novel"
    config.evals.own.update(manifest=f"{other}.jsonl", classes=f"{other}_classes.txt")
    with pytest.raises(
        ValueError, match="evals.own.*6 of 6 classes, such as .* are none of the 24"
    ):
        run_all(config, tmp_path / "run")
