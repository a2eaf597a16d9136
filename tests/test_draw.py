"""What is drawn is what was merged."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, environment
from PIL import Image

from configs import common
from vlt.configuration import ConfigError, save_run
from vlt.data.video.errors import VideoError
from vlt.draw import NothingMerges, draw, of_config, of_run, save, token_maps
from vlt.model_io.folder import ModelFolderError
from vlt.model_io.loading import load_model
from vlt.reporting.paint import PRUNED

CONFIG = str(ROOT / "configs/tempme.py")
CLIP = "moving_shapes:clips:train:6:videos/000000_forward.mov"


@pytest.fixture(scope="module")
def tiny():
    return {model.title: model for model in of_config(CONFIG)}


def test_rows_are_the_models_of_the_comparison_that_merge(tiny):
    assert list(tiny) == [
        "LoRA + ToMe",
        "TempMe (LoRA + TempMe)",
        "TempMe without clip positions (LoRA + TempMe)",
    ]


@pytest.mark.quick(1)
@pytest.mark.parametrize("title", ["LoRA + ToMe", "TempMe (LoRA + TempMe)"])
def test_a_bright_patch_is_no_token_with_the_dark_ones(tiny, title):
    clip = np.zeros((8, 32, 32, 3), np.uint8)
    places = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 2), (3, 1), (2, 0), (1, 0)]
    for frame, (row, col) in enumerate(places):
        clip[frame, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = 255
    loaded = tiny[title].load()
    ((early, last),) = token_maps(loaded.module, loaded.params, [clip], (1, 3))
    bright = clip[:, ::8, ::8, 0] > 0
    for found, left in zip((early, last), {"L": (120, 104), "T": (84, 49)}[title[0]], strict=True):
        assert found.before == 136
        assert found.left == left
        # No patch belongs to a class token, and every other token holds patches.
        assert len(np.unique(found.tokens)) == left - 8
        assert not set(found.tokens[bright]) & set(found.tokens[~bright])
    spans = [len(set(np.where(last.tokens == token)[0])) for token in np.unique(last.tokens)]
    assert (max(spans) > 1) == (title[0] == "T")


def test_pruned_patches_are_in_no_token():
    config = common.base().model
    config.update(checkpoint="tiny_clip", size="tiny_clip", methods=("evit",))
    config.evit = {"layers": (1, 2), "keep": 0.5}
    loaded = load_model(config, 0)
    clip = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), np.uint8)
    ((found,),) = token_maps(loaded.module, loaded.params, [clip], (3,))
    # 16 patches become 8 and the fused one, then 5 of those and the fused one.
    assert found.left == 2 * 7
    assert (found.tokens == PRUNED).sum() >= 2 * (16 - 5)


def test_pictures_from_the_start_to_files(tiny, tmp_path):
    models = list(tiny.values())[:2]
    pictures = draw(models, [CLIP, CLIP], layers=(2, 3))
    files = save(pictures, [CLIP, CLIP], tmp_path / "new")
    assert [file.name for file in files] == ["000000_forward.png", "000000_forward-2.png"]
    image = Image.open(files[0])
    # 8 frames of 4 * 32 pixels; the sampled frames, and two models after two blocks.
    assert image.width == 8 * (128 + 4) - 4 + 48
    assert 5 * 128 < image.height < 5 * (128 + 50)


def test_every_picture_has_a_name_of_its_own(tmp_path):
    pictures = [Image.new("RGB", (1, 1), (shade, 0, 0)) for shade in range(4)]
    files = save(pictures, ["x/a.mp4", "y/a.mp4", "z/a-2.mp4", "x/a-2.mp4"], tmp_path)
    assert [file.name for file in files] == ["a.png", "a-2.png", "a-2-2.png", "a-2-3.png"]
    assert [Image.open(file).getpixel((0, 0))[0] for file in files] == [0, 1, 2, 3]


def test_variants_stand_below_tome_of_the_same_base():
    models = of_config(f"{CONFIG}:msrvtt_b32", random=True)
    assert [m.title for m in models] == [
        "msrvtt_b32_tome (LoRA + ToMe)",
        "msrvtt_b32 (LoRA + TempMe)",
    ]
    assert models[0].request.frames == 12
    assert models[0].request.transform == {"resize": 224, "crop": 224}


def test_overrides_are_of_all_configs_that_have_the_key():
    small = {"model.checkpoint": "tiny_clip", "model.size": "tiny_clip"}
    small |= {"model.tempme.layers": (2,), "model.tempme.join": (3,)}
    against = [f"{CONFIG}:msrvtt_b32_tome"]
    models = of_config(f"{CONFIG}:msrvtt_b32", small, against)
    assert [model.layers for model in models] == [4, 4]


def test_a_folder_of_runs(tmp_path):
    config = common.base()
    config.model.update(checkpoint="tiny_clip", size="tiny_clip", methods=("tome",))
    config.evals.x = common.videos("none.jsonl", "linspace", frames=4, batch_size=1)
    save_run(tmp_path / "merges", config)
    config.model.methods = ()
    save_run(tmp_path / "plain", config)
    assert [model.title for model in of_run(tmp_path)] == ["merges (ToMe)"]
    assert [model.title for model in of_run(tmp_path / "merges")] == ["merges (ToMe)"]
    with pytest.raises(NothingMerges, match="plain"):
        of_run(tmp_path / "plain")
    with pytest.raises(ConfigError, match="nowhere"):
        of_run(tmp_path / "nowhere")


def test_wrong_requests_say_what_is_wrong(tiny, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no checkpoints
    models = list(tiny.values())
    with pytest.raises(NothingMerges, match="msrvtt_b32_lora.*vlt/merging"):
        of_config(f"{CONFIG}:msrvtt_b32_lora", against=[f"{CONFIG}:msrvtt_b32_full"], random=True)
    with pytest.raises(ModelFolderError, match="checkpoints/clip_b16"):
        of_config(f"{CONFIG}:msrvtt_b16")
    with pytest.raises(ValueError, match="--layer=4: .* has 0 to 3"):
        draw(models, [CLIP], layers=(4,))
    with pytest.raises(VideoError, match="broken_text_renamed.mp4: .*"):
        draw(models, [str(shared / "videos/broken_text_renamed.mp4")])
    other = of_config(f"{CONFIG}:msrvtt_b32", random=True)
    with pytest.raises(ValueError, match="do not see the same frames"):
        draw([*models, *other], [CLIP])


def run(*arguments):
    command = [sys.executable, "-m", "vlt.draw", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(1))


@pytest.mark.slow
def test_command(tmp_path):
    config = ("--config=configs/tempme.py", "--config.compare=()")
    done = run(*config, CLIP, f"--out={tmp_path}", "--random")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/000000_forward.png\n"
    assert Image.open(tmp_path / "000000_forward.png").format == "PNG"


def test_command_without_weights_tells_what_is_missing(tmp_path):
    config = ("--config=configs/tempme.py:msrvtt_b16", "--config.model.checkpoint=nowhere")
    done = run(*config, CLIP, f"--out={tmp_path}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "error: nowhere: no such folder; --random draws without weights"


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CLIP,), "a video, --out and --config or --workdir are needed"),
        ((CLIP, "--out={folder}"), "a video, --out and --config or --workdir are needed"),
        (("--out={folder}",), "a video, --out and --config or --workdir are needed"),
        (
            (CLIP, "--out={file}", "--workdir={file}"),
            "--out must be a folder, and {file} is a file",
        ),
        ((CLIP, "--out={folder}", "--workdir={file}"), "{file}/config.json"),
    ],
)
def test_what_is_missing_is_told_before_any_work(tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    names = {"file": tmp_path / "file", "folder": tmp_path}
    done = run(*(argument.format(**names) for argument in arguments))
    assert done.returncode == (2 if "are needed" in message else 1)
    assert done.stderr.splitlines()[-1].startswith(f"error: {message.format(**names)}")
    assert "Traceback" not in done.stderr


def test_command_tells_errors_in_a_line(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text(json.dumps({}))
    done = run("--config=configs/tempme.py", text, f"--out={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {text}: ")
    assert "Traceback" not in done.stderr
