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
from vlt.data.errors import VideoError
from vlt.draw import (
    PALETTE,
    PRUNED,
    NothingMerges,
    border_colors,
    draw,
    of_config,
    of_run,
    paint,
    picture,
    save,
    token_maps,
)
from vlt.loading import load_model
from vlt.model_folder import ModelFolderError

CONFIG = str(ROOT / "configs/tempme.py")
CLIP = "moving_shapes:clips:train:6:videos/000000_forward.mov"


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)


# Of patches of 16 x 16 pixels: 3 spans both frames, 0 lies apart, 5 and 6 are alone, one is pruned.
TOKENS = np.array([[[3, 3, 0], [5, 3, 0]], [[3, 0, 6], [3, PRUNED, 0]]])


def patch(x, frame, row, col):
    return x[frame, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16]


def test_tokens_have_one_fill_and_one_border_in_all_frames(frames):
    painted = paint(frames, TOKENS)
    colors = border_colors(TOKENS)
    for token in (0, 3):
        where = np.argwhere(token == TOKENS)
        mean = np.mean([patch(frames, *at) for at in where], axis=(0, 1, 2))
        for at in where:
            np.testing.assert_array_equal(patch(painted, *at)[8, 8], np.round(mean))
            assert any((patch(painted, *at) == PALETTE[colors[token]]).all(-1).ravel())
    assert colors[0] != colors[3]


def test_patches_alone_stay_bit_for_bit_and_pruned_ones_are_dark(frames):
    painted = paint(frames, TOKENS)
    for at in ((0, 1, 0), (1, 0, 2)):
        np.testing.assert_array_equal(patch(painted, *at), patch(frames, *at))
    np.testing.assert_array_equal(patch(painted, 1, 1, 1), patch(frames, 1, 1, 1) // 5)


def test_borders_run_along_outlines_and_nowhere_else(frames):
    painted = paint(frames, TOKENS)
    border = PALETTE[border_colors(TOKENS)[3]]
    corner = painted[0, :16, :32]  # two patches of token 3 side by side, above 5 and 3
    drawn = (corner == border).all(-1)
    expected = np.zeros((16, 32), bool)
    expected[:2] = expected[:, :2] = True  # the frame's edge
    expected[:, 30:] = True  # token 0
    expected[14:, :18] = True  # token 5, round its corner
    np.testing.assert_array_equal(drawn, expected)


def test_frames_without_merged_patches_are_untouched(frames):
    np.testing.assert_array_equal(paint(frames, np.arange(12).reshape(2, 2, 3)), frames)


def test_neighbours_differ_in_colour_also_from_frame_to_frame():
    rng = np.random.default_rng(1)
    # As ToMe: 20 tokens of their own in each of 6 frames of 14 x 14 patches.
    tokens = rng.integers(0, 20, (6, 14, 14)) + 20 * np.arange(6)[:, None, None]
    blocks = tokens[:, ::4, ::4].repeat(4, 1).repeat(4, 2)
    colors = border_colors(blocks)[blocks]
    for axis in (0, 1, 2):
        first, second = (np.take(blocks, range(*r), axis) for r in ((0, 5), (1, 6)))
        apart = first != second
        first, second = (np.take(colors, range(*r), axis) for r in ((0, 5), (1, 6)))
        assert apart.any() and (first != second)[apart].all()


@pytest.fixture(scope="module")
def tiny():
    return {model.title: model for model in of_config(CONFIG)}


def test_rows_are_the_models_of_the_comparison_that_merge(tiny):
    assert list(tiny) == [
        "LoRA + ToMe",
        "TempMe (LoRA + TempMe)",
        "TempMe without clip positions (LoRA + TempMe)",
    ]


@pytest.mark.parametrize("title", ["LoRA + ToMe", "TempMe (LoRA + TempMe)"])
def test_a_bright_patch_is_no_token_with_the_dark_ones(tiny, title):
    clip = np.zeros((8, 32, 32, 3), np.uint8)
    places = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 2), (3, 1), (2, 0), (1, 0)]
    for frame, (row, col) in enumerate(places):
        clip[frame, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = 255
    loaded = tiny[title].load()
    ((early, last),) = token_maps(loaded.module, loaded.params, [clip], (1, 3))
    bright = clip[:, ::8, ::8, 0] > 0
    for found, left in zip((early, last), {"L": (120, 104), "T": (120, 49)}[title[0]], strict=True):
        assert found.before == 136
        assert found.left == left
        # Class tokens are in none, so that every other token holds patches.
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
    # 16 patches, 8 and the fused, 5 of those and the fused.
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


def test_long_clips_continue_below():
    clip = np.zeros((40, 32, 32, 3), np.uint8)
    short, long = (picture("clip", [("row", clip[:n])], "caption") for n in (16, 40))
    assert long.width == short.width
    assert long.height - short.height > 2 * 32


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
    monkeypatch.chdir(tmp_path)  # where no checkpoints are
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


def test_command_tells_errors_in_a_line(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text(json.dumps({}))
    done = run("--config=configs/tempme.py", text, f"--out={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {text}: ")
    assert "Traceback" not in done.stderr
