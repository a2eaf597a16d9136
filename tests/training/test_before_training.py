"""What can be known before training is said before training, and before weights are read."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from helpers import ROOT

from configs import common
from vlt.configuration import load_config
from vlt.data.manifests.manifest import read_manifest
from vlt.data.manifests.resources import resolve
from vlt.model_io.folder import ModelFolderError
from vlt.training import loop
from vlt.training.loop import Run

CLIPS = "moving_shapes:clips:train:6"


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Returns why a run of the small config with other values is refused; no weights are read."""
    monkeypatch.chdir(ROOT)

    def no_weights(*_):
        raise AssertionError("weights are read before the config is checked")

    monkeypatch.setattr(loop, "load_model", no_weights)

    def refuse(changes=None, **overrides) -> str:
        config = load_config("tests/loop_config.py", overrides)
        if changes:
            changes(config)
        with pytest.raises(ValueError) as raised:
            Run(config, tmp_path)
        return str(raised.value)

    return refuse


def own_manifest(folder: Path, columns=("video", "caption")) -> str:
    """The generated clips as a user's own: a table with other columns."""
    path = folder / "own.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for record in read_manifest(resolve(CLIPS)):
            values = {"video": record.video, "caption": record.captions[0], "label": "run"}
            writer.writerow(values[column] for column in columns)
    return str(path)


def test_a_test_set_of_another_size_is_refused_and_told_of_own_data(refused):
    said = refused(**{"evals.looks.protocol": "msrvtt_1ka_9k"})
    assert said.startswith("evals.looks: msrvtt_1ka_9k (TempMe, Appendix B): 12 videos instead of")
    assert "protocol=own_data" in said and "allow_subset=True" in said


def test_unknown_protocols_and_those_of_other_texts_are_refused(refused):
    assert "'msrvt' is not one of" in refused(**{"evals.looks.protocol": "msrvt"})
    said = refused(**{"evals.looks.protocol": "msvd_captions"})
    assert "'msvd_captions' has references, not queries; take one of ['msrvtt_1ka'," in said


@pytest.mark.slow
def test_own_videos_are_labelled_as_own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    manifest = own_manifest(tmp_path)
    labels = {}
    for protocol, name in (("moving_shapes", manifest), ("own_data", CLIPS), ("moving_shapes", "")):
        overrides = {"evals.looks.protocol": protocol, "train.steps": 0}
        overrides |= {"evals.looks.manifest": name} if name else {}
        run = Run(load_config("tests/loop_config.py", overrides), tmp_path)
        labels[protocol, name] = run.evaluate(0)["looks/protocol"]
        run.close()
    assert list(labels.values()) == ["own_data", "own_data", "moving_shapes"]


def test_evaluations_say_what_their_rows_lack(refused, tmp_path):
    videos = own_manifest(tmp_path, ("video", "label"))
    assert "no row of the manifest has any queries" in refused(**{"evals.looks.manifest": videos})

    def as_kind(kind, **more):
        def change(config):
            config.evals.looks.update(kind=kind, **more)

        return change

    captioned = {"evals.looks.manifest": own_manifest(tmp_path)}
    said = refused(as_kind("twins", min_pairs=1), **captioned)
    assert said.startswith("evals.looks: ") and "no column 'pair'" in said
    named = {"template": "{}", "templates": "", "combine": "cosines", "scale": 0.0}
    named |= {"sentences": (), "sentence_templates": ()}
    assert "needs a column `label`" in refused(as_kind("recognition", **named), **captioned)
    assert "kind='twins' needs min_pairs" in refused(as_kind("twins"))
    assert "unknown kind: 'recall'" in refused(as_kind("recall"))
    said = refused(as_kind("captioning"))
    assert "needs a model of kind captioner, not dual_encoder" in said
    assert "unknown ties: 'none'; choose from against" in refused(as_kind("retrieval", ties="none"))
    said = refused(as_kind("retrieval", on_error="replace"))
    assert "would change what is measured" in said
    classes = {"classes": "/nowhere.txt", "evals.looks.manifest": videos}
    with_classes = as_kind("recognition", **named, classes=classes.pop("classes"))
    assert "/nowhere.txt" in refused(with_classes, **classes)


def test_the_best_metric_must_be_one_that_is_measured(refused):
    said = refused(**{"train.best_metric": "looks/R@1"})
    assert (
        "unknown train.best_metric: 'looks/R@1'; choose from " in said and "looks/t2v_R@1, " in said
    )

    def bare(config):
        config.evals = {}

    assert "the config has no evals" in refused(bare, **{"train.best_metric": "looks/t2v_R@1"})


@pytest.mark.parametrize("name", ["data.train", "evals.looks"])
def test_frames_of_data_and_model_are_one_number(refused, name):
    """The frames of clips in training and in every evaluation."""

    def without_exception(config):
        config.model.methods, config.rules = (), ((".*", {"lr": 1.0}),)

    said = refused(without_exception, **{f"{name}.sampler.frames": 3})
    assert said == (f"{name}.sampler.frames=3, but model.frames=4: set both to the same number")


def test_a_model_of_more_frames_than_its_clips_is_refused(refused):
    assert "sampler.frames=4, but model.frames=16" in refused(**{"model.frames": 16})
    said = refused(**{"model.frames": 16, "train.steps": 0})
    assert said.startswith("evals.looks.sampler.frames=4, but model.frames=16")


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"resize": 64, "crop": 64}, "transform.crop makes frames of 64 x 64 pixels"),
        ({"resize": (32, 48)}, "transform.resize makes frames of 32 x 48 pixels"),
        ({"random_resized_crop": {"size": 24}}, "transform.random_resized_crop makes frames of 24"),
    ],
)
@pytest.mark.parametrize("name", ["train", "looks"])
def test_pixels_of_data_and_model_agree(refused, name, transform, words):
    def change(config):
        section = config.data.train if name == "train" else config.evals.looks
        section.transform = transform

    assert words in refused(change)


def test_videos_of_another_size_are_found_by_their_first_clip(refused):
    def enlarged(config):
        config.model.size = "clip_b32"
        config.data.train.transform = {"resize": 224, "crop": 224}

    said = refused(enlarged)
    assert said.startswith("evals.looks: the first clip of ")
    assert "has frames of 32 x 32 pixels, but the model is for 224 x 224" in said


@pytest.mark.slow
def test_an_evaluation_alone_needs_no_metric_of_training(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("tests/loop_config.py", {"train.best_metric": "gone/t2v_R@1"})
    Run(config, tmp_path, training=False).close()


@pytest.fixture
def no_processes(monkeypatch):
    def start(*_):
        raise AssertionError("decoders start before what needs none is checked")

    monkeypatch.setattr(loop, "DecoderPool", start)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rules": (("visual/btadaptor/.*", {"lr": 1.0}), (".*", "frozen"))}, "matches nothing"),
        ({"optimizer.schedule.name": "cosin"}, "cosin"),
        ({"optimizer.accumulate": 3}, "accumulate=3"),
    ],
)
def test_what_needs_no_video_is_refused_before_processes_start(
    refused, no_processes, overrides, words
):
    assert words in refused(**overrides)


def test_weights_of_another_shape_are_refused_before_processes_start(
    refused, no_processes, tmp_path
):
    folder = shutil.copytree(resolve("tiny_clip"), tmp_path / "other")
    stored = json.loads((folder / "config.json").read_text())
    stored["spec"]["visual"]["mlp_width"] += 1
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ModelFolderError, match=r"mlp/fc1/kernel: .*\[96, 384\] in the checkpoint"):
        refused(**{"model.checkpoint": str(folder), "model.size": ""})


def test_a_tokenizer_that_is_not_there_is_said(refused):
    assert "model.tokenizer: /nowhere" in refused(**{"model.tokenizer": "/nowhere"})


def test_texts_fit_the_text_tower(refused):
    said = refused(**{"model.context": 17})
    assert said == "model.context=17: the model's texts have at most 16 tokens"
    said = refused(**{"model.methods": ("vop",), "model.context": 9})
    assert said == "model.context=9: the model's texts have at most 8 tokens beside 8 of vop"


def test_a_tokenizer_of_another_model_is_refused(refused, tmp_path):
    folder = tmp_path / "words"
    source = resolve(f"{CLIPS}:tokenizer")
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokens = json.loads((folder / "tokenizer.json").read_text())
    tokens["model"]["vocab"] |= {f"word{i}": 43 + i for i in range(10)}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    said = refused(**{"model.tokenizer": str(folder)})
    assert "has 53 tokens, but the model's text tower has embeddings for 43" in said


def test_sections_of_common_have_all_keys(refused):
    """configs/common.py gives sections every key that vlt/evaluation asks for."""
    from vlt.evaluation import DATA_KEYS, KINDS

    data = common.videos("m.jsonl", "linspace", 4, 8)
    sections = [
        common.retrieval("own_data", data), common.matching("own_data", data),
        common.captioning("own_data", data), common.answering("own_data", "", data),
        common.recognition(data), common.classification(data), common.twins("twins", 4),
        common.twins("caption_twins", 4), common.twins("twin_captions", 4),
        common.answers("m.jsonl", 4), common.answer_twins("m.jsonl", 4),
        common.written_answers("own_data", data), common.ranked_answers("own_data", "", data),
    ]  # fmt: skip
    assert {section.kind for section in sections} == set(KINDS)
    for section in sections:
        assert {*DATA_KEYS, *KINDS[section.kind].keys} <= set(section.keys())
