"""Counts that the papers, or their published code, state."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import flax.linen as nn
import ml_collections
import pytest
from helpers import ROOT, environment

import vlt.model_io.loading
from vlt.configuration import load_config
from vlt.inspect import format_report, inspect_config
from vlt.model_io.build import build_model
from vlt.model_io.folder import ModelConfig, ModelFolderError
from vlt.models.points import Method
from vlt.models.sizes import SIZES
from vlt.models.video_model import CLIP_MEAN, CLIP_STD
from vlt.training.rules import RuleError

FROZEN = (".*", "frozen")
BRANCH = (r"visual/btadapter/.*", {"lr": 10.0})


def config(size: str, frames: int, *rules: Any, **methods: dict) -> ml_collections.ConfigDict:
    model = {
        "checkpoint": "",
        "size": size,
        "methods": tuple(methods),
        "dtype": "float32",
        "frames": frames,
        "context": SIZES[size].text.context,
        "cls_only": True,
        "frame_norm": False,
        "remat": "none",
        "drop_path": 0.0,
    }
    return ml_collections.ConfigDict({"model": model | methods, "rules": (*rules, FROZEN)})


@pytest.mark.smoke
def test_frozen_clip() -> None:
    report = inspect_config(config("clip_b32", 12))
    assert report["total_params"] == 151_277_313  # OpenAI's ViT-B/32
    assert report["trainable_params"] == report["trainable_weights_video"] == 0
    assert report["video_gmacs"] == pytest.approx(52.963, abs=5e-4)
    assert report["video_gmacs_run"] < report["video_gmacs"]
    assert report["tokens_per_layer"] == [[12, 50]] * 12
    assert report["output_tokens"] == 600


def test_without_savings_the_frozen_model_runs_as_published() -> None:
    full = config("clip_b32", 1)
    full.model.cls_only = False
    report = inspect_config(full)
    assert report["video_gmacs_run"] == report["video_gmacs"]


def test_text_gmacs_are_the_closed_form() -> None:
    n, d, layers, e = 77, 512, 12, 512
    per_layer = 12 * n * d * d + 2 * n * n * d + 5 * 2 * n * d
    expected = layers * per_layer + 5 * n * d + d * e
    assert inspect_config(config("clip_b32", 1))["text_gmacs"] == pytest.approx(expected / 1e9)


def test_btadapter_on_clip_l14() -> None:
    """The branch costs 150.7 GMACs, 44.5 with 70% of its tokens masked; CLIP 648.1."""
    report = inspect_config(config("clip_l14", 8, BRANCH, btadapter={"mask_rate": 0.7}))
    assert report["trainable_params"] == report["trainable_params_video"] == 72_242_432
    assert report["video_gmacs"] == pytest.approx(798.8, rel=0.01)
    assert report["video_gmacs_run"] == pytest.approx(648.1 + 44.5, rel=0.01)
    # Products of 4 layer pairs, time embedding, alignment; no bias, norm, gate or class token.
    assert report["trainable_weights_video"] == 4 * (12 + 5) * 1024**2 + 64 * 1024 + 768 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "trained", "gmacs", "tokens"),
    [
        # 120.586 without the products that average merged tokens, which ours adds.
        ("tempme:msrvtt_umt4clip_tempme", 202_427_395, 120.752, [[1, 156], [1, 125]]),
        ("tempme:msrvtt_umt", 202_411_267, 303.348, [[1, 2352], [1, 2352]]),
        ("tempme:msrvtt_umt4clip", 202_411_267, 209.881, [[12, 196], [12, 196]]),
        ("umt_qa", 254_435_898, 303.343, [[1, 2352], [1, 2352]]),
    ],
)
def test_umt(name, trained, gmacs, tokens) -> None:
    """As published, and with each frame by itself; TempMe on it is our reading."""
    file, _, variant = name.partition(":")
    report = inspect_config(load_config(f"configs/{file}.py" + f":{variant}" * bool(variant)))
    assert report["trainable_params"] == trained
    assert report["video_gmacs"] == pytest.approx(gmacs, abs=5e-4)
    assert report["tokens_per_layer"][-2:] == tokens


def test_weights_leave_out_patches_positions_vectors_and_text() -> None:
    report = inspect_config(config("tiny_clip", 8, ("visual/.*|text/.*", {"lr": 1.0})))
    spec = SIZES["tiny_clip"].visual
    d, layers, side = spec.width, spec.layers, spec.patch_size
    assert spec.mlp_width == 4 * d
    assert (
        report["trainable_weights_video"] == layers * 12 * d * d + d * SIZES["tiny_clip"].embed_dim
    )
    patches, positions = side * side * 3 * d, (1 + spec.patches) * d
    vectors = (1 + 4 + 13 * layers) * d  # class token, outer norms; norms and biases of blocks
    assert report["trainable_params_video"] == sum(
        (report["trainable_weights_video"], patches, positions, vectors)
    )
    assert report["total_params"] == report["trainable_params"] + 1  # logit_scale


@dataclasses.dataclass(frozen=True)
class Shared(Method):
    """A dense layer that every block of both towers uses."""

    @property
    def towers(self) -> tuple[str, ...]:
        return ("visual", "text")

    def shared_module(self, spec: Any) -> nn.Module:
        return nn.Dense(spec.visual.width)

    def mlp_path(self, block, entry, tokens, normed, y):
        return y + block.shared["Shared"](normed)


def test_leaves_shared_by_both_towers_count_once_and_for_the_video(monkeypatch) -> None:
    def with_shared(*arguments: Any) -> nn.Module:
        return build_model(*arguments).clone(methods=(Shared(),))

    width = SIZES["tiny_clip"].visual.width
    monkeypatch.setattr(vlt.model_io.loading, "build_model", with_shared)
    rules = (("(?!visual/|text/|logit_scale).*", {"lr": 1.0}),)
    report = inspect_config(config("tiny_clip", 2, *rules))
    assert report["trainable_params"] == report["trainable_params_video"] == width * width + width
    assert report["trainable_weights_video"] == width * width


def test_rules_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(RuleError, match="matches nothing"):
        inspect_config(config("tiny_clip", 2, BRANCH))


def test_report_joins_layers_of_equal_tokens() -> None:
    report = inspect_config(config("tiny_clip", 8))
    assert format_report(report | {"total_params": 710113}).splitlines()[0].endswith(" 710,113")
    report["tokens_per_layer"] = [[12, 48], [12, 48], [6, 44]]
    lines = format_report(report).splitlines()[-2:]
    assert lines[0].split() == ["layers", "0", "to", "1", "12", "x", "48"]
    assert lines[1].split() == ["layers", "2", "to", "2", "6", "x", "44"]


def folder_with_config(
    folder: pathlib.Path, size: str, methods: dict, frames: int | None = None
) -> pathlib.Path:
    """A model folder's description; weights are never read."""
    folder.mkdir()
    side = SIZES[size].visual.image_size
    pixels = {"image_size": side, "mean": CLIP_MEAN, "std": CLIP_STD}
    stored = ModelConfig("clip", SIZES[size], methods, pixels, frames)
    (folder / "config.json").write_text(json.dumps(stored.to_dict()))
    return folder


def test_checkpoint_says_size_and_methods(tmp_path) -> None:
    folder = folder_with_config(tmp_path / "model", "tiny_clip", {"btadapter": {"depth": 1}})
    stored = config("tiny_clip", 2)
    with stored.unlocked():
        stored.model.checkpoint, stored.model.size = str(folder), ""
    written_out = config("tiny_clip", 2, btadapter={"depth": 1})
    assert inspect_config(stored) == inspect_config(written_out)


def test_absent_checkpoint_needs_a_size(tmp_path) -> None:
    absent = config("tiny_clip", 2)
    absent.model.checkpoint = str(tmp_path / "absent")
    assert inspect_config(absent) == inspect_config(config("tiny_clip", 2))
    absent.model.size = ""
    with pytest.raises(ModelFolderError, match="no such folder"):
        inspect_config(absent)


def test_checkpoint_of_another_size_is_an_error(tmp_path) -> None:
    """As for every command that loads it."""
    other = config("clip_b32", 2)
    other.model.checkpoint = str(folder_with_config(tmp_path / "model", "tiny_clip", {}))
    with pytest.raises(ModelFolderError, match=r"not of config\.model\.size='clip_b32'"):
        inspect_config(other)


def test_checkpoint_for_other_frames_is_an_error(tmp_path) -> None:
    methods = {"tempme": {"layers": (2, 3), "join": (2, 2), "r": 1}}
    other = config("tiny_clip", 8)
    other.model.checkpoint = str(folder_with_config(tmp_path / "m", "tiny_clip", methods, 4))
    with pytest.raises(
        ModelFolderError, match=r"clip_position: \[2, 96\] in the checkpoint, \[4, "
    ):
        inspect_config(other)


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vlt.inspect", *arguments],
        env=environment(devices=1),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_prints_one_json_object() -> None:
    name = "configs/btadapter.py"
    done = command(f"--config={name}", "--json", "--config.model.btadapter.depth=1")
    assert done.returncode == 0, done.stderr
    expected = load_config(name, {"model.btadapter.depth": 1})
    assert json.loads(done.stdout) == inspect_config(expected)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--config=configs/btadapter.py:webvid"], "no variant 'webvid'", 2),
        (
            ["--config=configs/btadapter.py", "--config.model.frame=2"],
            "did you mean 'model.frames'",
            2,
        ),
        (
            ["--config=configs/btadapter.py:webvid_l14", "--config.model.size=clip_l41"],
            "'clip_l14'",
            1,
        ),
    ],
)
def test_mistakes_end_in_a_sentence(arguments: list[str], message: str, status: int) -> None:
    done = command(*arguments)
    assert done.returncode == status
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
