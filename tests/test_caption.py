"""Captions of files, folders and patterns; what cannot be read is named and the rest captioned."""

import json

import jax
import numpy as np
import pytest
from helpers import run_python

import vlt
from configs import common
from vlt import caption
from vlt.configuration import save_run
from vlt.data import moving_shapes
from vlt.data.video.clips import read_clip
from vlt.data.video.errors import VideoError
from vlt.inference.discover import find_videos
from vlt.inference.prefetch import clip_request
from vlt.model_io.folder import ModelConfig, model_shapes, write_model_folder
from vlt.model_io.loading import load_model
from vlt.models.spec import BertSpec, BlipSpec, VisionSpec
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.rules import partition

SPEC = BlipSpec(
    "captioner",
    VisionSpec(32, 16, 16, 1, 2, 32, "gelu", pre_norm=False, patch_bias=True),
    BertSpec(12, 43, 16, 1, 2, 32, 16, decode_id=41, encode_id=41, end_id=42),
)
PIXELS = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic"}
CONFIG = ModelConfig("blip", SPEC, {}, PIXELS | {"crop": "none"}, frames=3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of clips, one of which is no video."""
    manifest = moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "train", 5)
    videos = manifest.parent / "videos"
    (videos / "notes.txt").write_text("no video\n")
    (videos / "zz_broken.mov").write_text("no video either\n")
    return videos


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory):
    """A captioner with random weights that says different things about different videos."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        spread = 0.1 if "bias" in name else 2.0 if "cross_attention" in name else 0.5
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    params = jax.tree.map_with_path(draw, model_shapes(SPEC, {}))
    path = tmp_path_factory.mktemp("model") / "captioner"
    write_model_folder(path, CONFIG, params, clips.parent / "tokenizer")
    return path


@pytest.fixture(scope="module")
def model(folder):
    return vlt.load(folder)


def frames(paths):
    return np.stack([read_clip(clip_request(CONFIG, str(path))) for path in paths])


@pytest.mark.smoke
def test_a_captioner_is_loaded_and_writes(model, clips):
    videos = frames(sorted(clips.glob("0*.mov"))[:3])
    texts = model.generate(videos)
    assert len(set(texts)) > 1
    words = set(" ".join(texts).split())
    assert words <= set(moving_shapes.VOCABULARY) and not words & {"<start>", "<end>", "<pad>"}
    normalised = ((videos / 255 - 0.5) / 0.5).astype(np.float32)
    assert model.generate(normalised) == texts
    # The caller chooses the search; a prompt is read, but is not part of the caption.
    assert model.generate(videos, method="greedy", max_length=6) != texts
    told = model.generate(videos, "a red circle")
    assert told != texts and not any(text.startswith("a red circle") for text in told)
    drawn = [model.generate(videos, method="nucleus", seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_frames_searches_and_prompts_that_do_not_fit(model):
    videos = np.zeros((1, 3, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="frames are float64"):
        model.generate(videos / 255)
    with pytest.raises(ValueError, match=r"the tower takes \(32, 32, 3\)"):
        model.generate(videos[:, :, :16])
    with pytest.raises(ValueError, match="max_length=40; the model has 12 positions"):
        model.generate(videos, max_length=40)
    with pytest.raises(ValueError, match="a prompt of 4 tokens leaves no room in max_length=4"):
        model.generate(videos, "a red circle", max_length=4, min_length=0)
    with pytest.raises(ValueError, match="a prompt of 13 tokens; a text has 12"):
        model.generate(videos, " ".join(["red"] * 12))


@pytest.mark.slow
def test_batches_change_no_caption(model, clips):
    paths = find_videos([str(clips)])
    assert len(paths) == 11  # two full batches, and three more, one of which is unreadable
    found = list(caption.captions(model, paths))
    assert [path for path, _ in found] == paths
    *texts, broken = [text for _, text in found]
    assert isinstance(broken, VideoError)
    assert texts == model.generate(frames(paths[:-1])) and len(set(texts)) > 3


@pytest.mark.slow
def test_the_command(folder, clips):
    code = "import sys; from vlt import caption; print(caption.main(sys.argv[1:]))"
    arguments = [clips, clips / "absent.mov", f"--model={folder}", "--json", "--set=beams=2"]
    *lines, status = run_python(code, *arguments).splitlines()
    entries = [json.loads(line) for line in lines]
    assert status == "1" and len(entries) == 12
    assert all(entry["caption"] for entry in entries[:10])
    assert all("error" in entry and "caption" not in entry for entry in entries[10:])


@pytest.mark.slow
def test_a_run_that_trained_a_captioner(folder, clips, tmp_path, capsys):
    config = common.base()
    config.model.update(checkpoint=str(folder), size="", context=12, frames=3)
    config.rules = (("text/lm_head/bias", {"lr": 1.0}), (".*", "frozen"))
    save_run(tmp_path, config)
    trained, _ = partition(load_model(config.model, 0).params, config.rules)
    moved = jax.tree.map(lambda x: x + 100.0 * (np.arange(len(x)) == 8), trained)
    checkpoints = TrainingCheckpoints(tmp_path, 1)
    checkpoints.save(3, {"trained": moved}, {})
    checkpoints.close()
    video = str(sorted(clips.glob("*.mov"))[0])
    assert caption.main([video, f"--workdir={tmp_path}"]) == 0
    word = moving_shapes.VOCABULARY[8]
    assert capsys.readouterr().out == f"{video}: {' '.join([word] * 11)}\n"


def test_lines_of_text_and_what_is_said_of_errors(folder, clips, capsys, model, monkeypatch):
    monkeypatch.setattr(caption, "load_captioner", lambda *_: model)
    good, bad = sorted(clips.glob("*.mov"))[0], clips / "zz_broken.mov"
    assert caption.main([str(good)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{good}: {model.generate(frames([good]))[0]}\n" and not err
    assert caption.main([str(bad), str(good)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and str(bad) in err
    assert err.endswith("1 of 2 videos could not be read\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model=tiny_clip"], "tiny_clip is a dual_encoder, which writes no captions"),
        (["--set=beam=2"], "--set beam=2: key=value with one of method, beams"),
        (["--set=beams=two"], "--set beams=two: invalid literal"),
        (["--set=beams=0"], "beams must be >= 1, got 0"),
        (["--prompt=a red circle moves right on a grey background a red circle"], "a prompt of 13"),
    ],
)
def test_commands_that_cannot_be(folder, clips, capsys, arguments, said):
    if not any("--model" in argument for argument in arguments):
        arguments = [*arguments, f"--model={folder}"]
    assert caption.main([str(sorted(clips.glob("*.mov"))[0]), *arguments]) == 1
    out, err = capsys.readouterr()
    assert not out and f"error: {said}" in err


def test_names_and_captions_do_not_act_on_a_terminal(capsys, monkeypatch, model):
    def found(*_, **__):
        yield "v/\x1b[2J\udcff.mp4", "a \x9bcat\u202e"
        yield "b\x07.mp4", VideoError("b\x07.mp4", "no \x1b]0;video")

    monkeypatch.setattr(caption, "load_captioner", lambda *_: model)
    monkeypatch.setattr(caption, "captions", found)
    assert caption.main(["a.mp4"]) == 1
    out, err = capsys.readouterr()
    assert out == "v/\\u001b[2J\\udcff.mp4: a \\u009bcat\\u202e\n"
    assert all(line.isprintable() for line in (out + err).splitlines())
    caption.main(["a.mp4", "--json"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"video": "v/\x1b[2J\udcff.mp4", "caption": "a \x9bcat\u202e"}
    assert second == {"video": "b\x07.mp4", "error": "no \x1b]0;video"}


def test_a_prompt_that_is_no_text_is_an_error(clips, capsys, monkeypatch, model):
    monkeypatch.setattr(caption, "load_captioner", lambda *_: model)
    video = str(sorted(clips.glob("*.mov"))[0])
    for prompt in ("red \udcff", "red \0"):
        assert caption.main([video, f"--prompt={prompt}"]) == 1
        out, err = capsys.readouterr()
        assert not out and err.startswith("error: ") and "'red " in err
        assert "Unicode" in err or "is no" in err
