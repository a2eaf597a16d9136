"""A chat model learns from a manifest of dialogues."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from helpers import ROOT

from configs import common
from data_pipelines.features import cache_features
from vlt import main
from vlt.configuration import load_config
from vlt.convert.chat.words import write_qformer_words
from vlt.data import moving_shapes
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.model_io.folder import QFORMER, ModelConfig, write_model_folder
from vlt.training.loop import Run, train

sys.path.append(str(ROOT / "tests" / "models"))
from golden_chat import Golden

PIXELS = {"image_size": 56, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    made = moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "train", 2)
    rows = [
        {"video": r.video, "id": n, "conversations": [["What moves?", r.captions[0]]]}
        for n, r in enumerate(read_manifest(made))
    ]
    path = made.parent / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def config(shared, manifest, tmp_path_factory):
    """A config of two steps of a small LLaVA's projector."""
    return of_model("llava", "vicuna_v1_1", shared, manifest, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def instructblip(shared, manifest, tmp_path_factory):
    """A config of two steps of a small InstructBLIP's Q-Former and projection."""
    template, folder = "instructblip_training", tmp_path_factory.mktemp("model")
    return of_model("instructblip", template, shared, manifest, folder)


def without_tokens_of_videos(file, rows):
    """Leaves only [PAD] after LLaMA's words, as in InstructBLIP."""
    stored = json.loads(file.read_text())
    added = [token for token in stored["added_tokens"] if token["id"] < rows]
    stored["added_tokens"] = [*added[:-1], added[-1] | {"content": "[PAD]"}]
    file.write_text(json.dumps(stored))


def of_model(name, template, shared, manifest, folder):
    golden = Golden(shared / "golden/chat", name)
    stored = ModelConfig(name, golden.spec, {}, PIXELS | {"crop": "none"}, frames=2)
    path, words = folder / name, folder / "words"
    shutil.copytree(shared / "golden/chat/tokenizer", words)
    if golden.spec.instructed:
        write_qformer_words(words / "bert_vocab.txt", words / QFORMER, golden.spec)
        without_tokens_of_videos(words / "tokenizer.json", golden.spec.text.vocab)
    write_model_folder(path, stored, golden.plain(), words)
    found = load_config(str(ROOT / "tests/loop_config.py"))
    with found.unlocked():
        found.model.update(checkpoint=str(path), size="", tokenizer="", methods=(), frames=2,
                           context=160)  # fmt: skip
        del found.model.btadapter
        found.task = common.conversation_task(template)
        found.rules = (("connector/.*", {"lr": 1.0}), (".*", "frozen"))
        found.data.train = common.videos(
            str(manifest), "segment_centre", 2, 2, transform={"resize": (56, 56)}
        )
        found.evals, found.table = {}, ()
        found.data.workers = 0
        found.train.update(steps=2, checkpoint_every=2, log_every=1)
    return found


@pytest.mark.slow
def test_two_steps(config, tmp_path):
    main.run_all(config, tmp_path)
    losses = logged(tmp_path, "conversation")
    assert len(losses) >= 2 and np.isfinite(losses).all()


def logged(folder, ending):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [v for line in lines for k, v in json.loads(line).items() if k.endswith(ending)]


@pytest.mark.slow
def test_an_instructblip_learns_from_manifests(instructblip, manifest, tmp_path):
    """Its Q-Former reads each row's question."""
    main.run_all(instructblip, tmp_path)
    losses = logged(tmp_path, "conversation")
    assert len(losses) >= 2 and np.isfinite(losses).all()
    other = instructblip.copy_and_resolve_references()
    with other.unlocked():
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        for row in rows:
            row["conversations"] = [["What?", row["conversations"][0][1]]]
            row["video"] = str(manifest.parent / row["video"])
        other.data.train.manifest = str(tmp_path / "other.jsonl")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "other.jsonl").write_text(text)
    main.run_all(other, tmp_path / "other")
    assert logged(tmp_path / "other", "conversation")[0] != losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stopped_run_goes_on_to_the_same_bits(config, tmp_path, accumulate):
    states = {}
    for name, parts in (("whole", (2,)), ("parts", (1, 2))):
        (tmp_path / name).mkdir()
        for steps in parts:
            with Run(in_steps(config, steps, accumulate), tmp_path / name) as run:
                train(run)
                states[name] = jax.device_get(run.state)
    jax.tree.map(np.testing.assert_array_equal, states["whole"], states["parts"])


def in_steps(config, steps, accumulate):
    found = config.copy_and_resolve_references()
    with found.unlocked():
        found.train.update(steps=steps, checkpoint_every=1)
        found.optimizer.accumulate = accumulate
    return found


@pytest.mark.slow
def test_cached_features_train_as_the_videos_do(config, manifest, tmp_path):
    cache_features(manifest, config.model.checkpoint, tmp_path / "features", frames=2)
    cached = config.copy_and_resolve_references()
    with cached.unlocked():
        cached.data.train.manifest = str(tmp_path / "features/manifest.jsonl")
    main.run_all(cached, tmp_path / "cached")
    main.run_all(config, tmp_path / "whole")
    first, second = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("cached", "whole")
    )
    losses = [
        [v for entry in each for k, v in entry.items() if k.endswith("conversation")]
        for each in (first, second)
    ]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    with cached.unlocked():
        cached.data.train.sampler.frames = 3
        cached.model.frames = 3
    with pytest.raises(
        ManifestError, match="features of 2 frames; train.sampler.frames must match"
    ):
        main.run_all(cached, tmp_path / "other")


@pytest.mark.slow
def test_a_row_that_teaches_nothing_ends_it_with_its_line(config, tmp_path):
    short = config.copy_and_resolve_references()
    with short.unlocked():
        short.model.context = 82  # fits the video and the question, but not the answer
    with pytest.raises(ValueError, match=r"dialogues.jsonl, line \d: no token .* are cut to 82"):
        main.run_all(short, tmp_path)


@pytest.mark.slow
def test_manifests_of_another_kind_of_model(config, manifest, tmp_path):
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.data.train.manifest = "moving_shapes:clips:train:2"
    with pytest.raises(ManifestError, match="has neither `conversations` nor `question`"):
        main.run_all(other, tmp_path / "a")
    clip = load_config(str(ROOT / "tests/loop_config.py"))
    clip.data.train.manifest, clip.data.train.group, clip.data.workers = str(manifest), "", 0
    with pytest.raises(ManifestError, match="`conversations` are for chat models"):
        main.run_all(clip, tmp_path / "b")
