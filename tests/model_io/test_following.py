"""A config whose checkpoint alone is replaced takes its sizes, context and frame size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import logging

from vlt.configuration import load_config, resolved_text
from vlt.convert import convert
from vlt.convert.random_weights import random_checkpoint
from vlt.data.manifests.resources import resolve
from vlt.data.video.transform import with_side
from vlt.model_io.folder import ModelConfig, ModelFolderError
from vlt.model_io.following import follow_checkpoint
from vlt.model_io.loading import build_described
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, PoolerSpec, TextSpec, VisionSpec

ROOT = Path(__file__).parents[2]
TYPED = ("model.checkpoint",)
PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bilinear", "crop": "none"}


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: lines.append(text % words))
    return lines


def described(folder: Path, size: str) -> Path:
    """A model folder of a given size, without its weights."""
    spec = SIZES[size]
    side = spec.visual.image_size
    folder.mkdir()
    config = ModelConfig("any", spec, {}, PIXELS | {"image_size": side})
    (folder / "config.json").write_text(json.dumps(config.to_dict()), "utf-8")
    return folder


def replaced(name: str, folder: Path | str, **more):
    return load_config(name, {"model.checkpoint": str(folder)} | more)


def test_sizes_context_and_frames_are_the_checkpoints_and_are_said(tmp_path, said):
    folder = described(tmp_path / "pe", "pe_l14")
    config = replaced("tempme:didemo_b32", folder)
    with pytest.raises(ModelFolderError, match="is not of config.model.size='clip_b32'"):
        build_described(config.model)
    followed = follow_checkpoint(config, TYPED)
    assert (followed.model.size, followed.model.context, followed.model.frames) == ("", 32, 64)
    cut = {"resize": 336, "crop": 336}
    assert followed.evals.didemo.transform.to_dict() == cut
    assert followed.data.train.transform.rand_augment == config.data.train.transform.rand_augment
    assert {k: followed.data.train.transform[k] for k in cut} == cut
    assert len(said) == 1
    start = f"config: sizes, context and frame size as {folder} says: model.size='', model.context"
    assert said[0].startswith(f"{start}=32, ") and "evals.didemo.transform={'crop': 336" in said[0]


def test_texts_that_are_read_at_their_end_fill_the_tower(tmp_path):
    followed = follow_checkpoint(
        replaced("tempme:msrvtt_b32_lora", described(tmp_path / "s", "siglip2_b16")), TYPED
    )
    assert followed.model.context == 64
    module, _, _ = build_described(followed.model)
    assert module.spec == SIZES["siglip2_b16"]


def test_generated_clips_are_enlarged(tmp_path):
    folder = described(tmp_path / "e", "eva02_l14_336")
    followed = follow_checkpoint(replaced("tempme", folder), TYPED)
    sections = (followed.data.train, *followed.evals.values())
    assert all(x.transform.to_dict() == {"resize": 336, "crop": 336} for x in sections)


def test_what_is_typed_beside_it_stays(tmp_path, said):
    folder = described(tmp_path / "pe", "pe_l14")
    sized = replaced("tempme:didemo_b32", folder)
    assert follow_checkpoint(sized, (*TYPED, "model.size")) is sized  # an error when it is built
    typed = (*TYPED, "model.context", "evals.didemo.transform.crop")
    followed = follow_checkpoint(replaced("tempme:didemo_b32", folder), typed)
    assert followed.model.context == 64
    assert followed.evals.didemo.transform.crop == 224
    assert followed.data.train.transform.crop == 336
    assert len(said) == 1 and "context=" not in said[0]
    emptied = replaced("tempme:didemo_b32", folder, **{"model.size": ""})
    assert follow_checkpoint(emptied, (*TYPED, "model.size")).model.context == 32


def test_a_checkpoint_that_fits_or_is_not_typed_changes_nothing(tmp_path, said):
    folder = described(tmp_path / "c", "clip_b32")
    for typed in (TYPED, ()):
        config = replaced("tempme:didemo_b32", folder)
        assert resolved_text(follow_checkpoint(config, typed)) == resolved_text(config)
    absent = replaced("tempme:didemo_b32", tmp_path / "absent")
    assert resolved_text(follow_checkpoint(absent, TYPED)) == resolved_text(absent)
    assert not said


def test_a_published_checkpoint_that_is_not_there_yet_is_known_by_its_name():
    followed = follow_checkpoint(replaced("tempme:msrvtt_b32", "checkpoints/pe_s16"), TYPED)
    assert (followed.model.size, followed.model.context) == ("pe_s16", 32)


def test_rows_follow_where_they_name_no_size(tmp_path, said):
    folder = described(tmp_path / "pe", "pe_b16")
    rows = (("short", {"model.context": 8}), ("own", {"model.size": "clip_b32"}))
    config = load_config("tempme:msrvtt_b32", {"compare": rows})
    swept = follow_checkpoint(
        load_config("tempme:msrvtt_b32", {"compare": (("pe", {"model.checkpoint": str(folder)}),)}),
        (),
    )
    assert swept.model.size == "clip_b32"
    assert dict(swept.compare)["pe"] == {"model.checkpoint": str(folder), "model.size": ""}
    config.model.checkpoint = str(folder)
    followed = dict(follow_checkpoint(config, TYPED).compare)
    assert followed == {"short": {"model.context": 8}, "own": {"model.size": "clip_b32"}}
    assert len(said) == 2


def test_a_folder_that_is_none_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFolderError, match="no config.json"):
        follow_checkpoint(replaced("tempme:msrvtt_b32", tmp_path / "empty"), TYPED)


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ({"resize": 256, "crop": 224, "flip": 0.5}, {"resize": 384, "crop": 336, "flip": 0.5}),
        ({"resize": (224, 224)}, {"resize": (336, 336)}),
        (
            {"random_resized_crop": {"size": 224, "area": (0.5, 1.0)}},
            {"random_resized_crop": {"size": 336, "area": (0.5, 1.0)}},
        ),
        ({"resize": 224, "three_crops": 224}, {"resize": 336, "three_crops": 336}),
        ({"resize": 224}, {"resize": 224}),  # the other side depends on the video
        ({}, {}),
    ],
)
def test_steps_to_another_size(steps, wanted):
    assert with_side(steps, 336) == wanted


@pytest.mark.slow
def test_the_command_takes_a_checkpoint_alone(tmp_path):
    """LoRA on a small tower with attention pooling, another image size and shorter texts."""
    visual = VisionSpec(
        40, 8, 32, 4, 2, 64, "gelu", pool="attention", class_token=True, rope="pe",
        pooler=PoolerSpec(8, 32, 128),
    )  # fmt: skip
    text = TextSpec(14, SIZES["tiny_clip"].text.vocab, 32, 2, 2, 64, activation="gelu")
    source, folder = tmp_path / "small.safetensors", tmp_path / "small"
    random_checkpoint(DualEncoderSpec(visual, text, 16), source, "pe")
    words = str(resolve("tiny_clip") / "tokenizer")
    convert(source, folder, tokenizer=words, settings={"visual.heads": 2, "text.heads": 2})
    overrides = {
        "model.checkpoint": folder, "train.steps": 2, "train.eval_every": 0, "compare": "()",
        "data.train.manifest": "moving_shapes:clips:train:40",
        "evals.static.allow_subset": True,
    }  # fmt: skip
    typed = [f"--config.{key}={value}" for key, value in overrides.items()]
    words = [sys.executable, "-m", "vlt.main", "--config=tempme", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run([*words, *typed], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"sizes, context and frame size as {folder} says" in done.stderr
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert (saved["model"]["size"], saved["model"]["context"]) == ("", 14)
    assert saved["data"]["train"]["transform"] == {"resize": 40, "crop": 40}
