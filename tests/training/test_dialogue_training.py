"""A chat model learns from a manifest of dialogues."""

import json
import sys

import numpy as np
import pytest
from helpers import ROOT

from configs import common
from data_pipelines.features import cache_features
from vlt import main
from vlt.configuration import load_config
from vlt.data import moving_shapes
from vlt.data.manifest import ManifestError, read_manifest
from vlt.model_io.folder import ModelConfig, write_model_folder

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
    """Two steps of a small LLaVA's projector."""
    golden = Golden(shared / "golden/chat", "llava")
    stored = ModelConfig("llava", golden.spec, {}, PIXELS | {"crop": "none"}, frames=2)
    path = tmp_path_factory.mktemp("model") / "llava"
    write_model_folder(path, stored, golden.plain(), shared / "golden/chat/tokenizer")
    found = load_config(str(ROOT / "tests/loop_config.py"))
    with found.unlocked():
        found.model.update(checkpoint=str(path), size="", tokenizer="", methods=(), frames=2,
                           context=160)  # fmt: skip
        del found.model.btadapter
        found.task = common.conversation_task("vicuna_v1_1")
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
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [v for entry in logged for k, v in entry.items() if k.endswith("conversation")]
    assert len(losses) >= 2 and np.isfinite(losses).all()


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
    with pytest.raises(ManifestError, match="features of 2 frames; train.sampler.frames must be"):
        main.run_all(cached, tmp_path / "other")


@pytest.mark.slow
def test_a_row_that_teaches_nothing_ends_it_with_its_line(config, tmp_path):
    short = config.copy_and_resolve_references()
    with short.unlocked():
        short.model.context = 82  # the video and the question, not the answer
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
