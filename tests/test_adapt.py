"""`vlt adapt`: what it trains on, with which sizes, and that it finds what was not found before."""

import argparse
import json
import math

import numpy as np
import pytest

import vlt
from vlt import adapt, configuration
from vlt.command_line.adapt import METHODS, parse
from vlt.data import moving_shapes
from vlt.data.skips import TooManyErrors
from vlt.inspect import inspect_config
from vlt.storage.trees import CheckpointSaveError
from vlt.training.loop import NonFiniteError

FAMILY = "size"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A few pairs of one family."""
    out = tmp_path_factory.mktemp("shapes") / "clips"
    return moving_shapes.generate(out, 8, families=(FAMILY,)).parent


def options(shapes, out, *more):
    given = [f"--videos={shapes}", f"--captions={shapes / 'manifest.jsonl'}", f"--out={out}"]
    return parse("vlt adapt", [*given, "--model=tiny_clip", *more])


def config(shapes, tmp_path, method, model="tiny_clip"):
    asked = options(shapes, tmp_path / "out", f"--method={method}")
    return adapt.config_of(argparse.Namespace(**(vars(asked) | {"model": model})), tmp_path, 100)


def test_held_out_videos_are_the_same_each_time_and_none_is_trained_on(shapes):
    records = adapt.read_manifest_below(shapes / "manifest.jsonl", shapes)
    train, held_out = adapt.split(records)
    assert len(train) + len(held_out) == len(records) == 16 and len(held_out) == 2
    assert not {r.video for r in train} & {r.video for r in held_out}
    assert adapt.split(records[::-1])[1] == held_out[::-1]


@pytest.mark.quick(1)
@pytest.mark.parametrize("method", METHODS)
def test_sizes_fit_the_model(shapes, tmp_path, method, monkeypatch):
    monkeypatch.setattr(adapt, "matmul_rate", lambda *_: 1e9)
    found = config(shapes, tmp_path, method)
    assert found.data.train.transform.to_dict() == {"resize": 32, "crop": 32}
    told = inspect_config(found)
    assert 0 < told["trainable_params"] < 500_000 and found.model.frames == 8
    assert found.data.train.batch_size == 32 and found.train.steps == math.ceil(50 * 100 / 32)
    assert "trains" in adapt.cost(found, 90, 10)


@pytest.mark.parametrize(
    ("seconds", "told"), [(99.4, "99 s"), (100, "2 min"), (90_000, "1,500 min")]
)
def test_a_cost_is_told_in_seconds_or_minutes(seconds, told):
    assert adapt._time(seconds) == told


@pytest.mark.parametrize(
    ("frames", "expected"), [(12, (2, 2, 3)), (8, (2, 2, 2)), (64, (4, 4, 4)), (7, (7,)), (1, ())]
)
def test_clips_are_joined_until_one_is_left(frames, expected):
    found = adapt.joins(frames)
    assert found == expected and np.prod(found, initial=1) == frames


def videos_of(shapes):
    return [file.relative_to(shapes) for file in sorted((shapes / "videos").iterdir())]


def test_a_run_goes_on_with_the_batch_that_it_began_with(shapes, tmp_path, monkeypatch):
    began = config(shapes, tmp_path, "lora")
    configuration.save_run(tmp_path / adapt.RUN, began)
    monkeypatch.setattr(adapt, "free_on_host", lambda: 1)
    goes_on = config(shapes, tmp_path, "lora")
    assert configuration.differing_keys(began, goes_on) == {}


@pytest.mark.parametrize("error", [TooManyErrors, NonFiniteError, CheckpointSaveError])
def test_errors_of_training_are_a_sentence(shapes, tmp_path, monkeypatch, capsys, error):
    def failing(*_):
        raise error("step 3: no more")

    monkeypatch.setattr(adapt, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr(adapt, "run_all", failing)
    assert adapt.run(options(shapes, tmp_path / "out")) == 1
    assert "\nerror: step 3: no more\n" in capsys.readouterr().err


def test_a_broken_video_of_many_ends_nothing(shapes, tmp_path):
    found = config(shapes, tmp_path, "lora")
    assert found.data.train.max_error_rate * 54 > 1 and found.evals.own.max_error_rate * 6 > 1


def test_batches_shrink_with_memory(shapes, tmp_path, monkeypatch):
    found = config(shapes, tmp_path, "lora")
    visual = vlt.load("tiny_clip").config.spec.visual
    monkeypatch.setattr(adapt, "free_on_host", lambda: 1 << 26)
    assert adapt.batch_that_fits(found, visual, 100) == 8
    monkeypatch.setattr(adapt, "free_on_host", lambda: 1)
    assert adapt.batch_that_fits(found, visual, 100) == 1
    monkeypatch.setattr(adapt, "free_on_host", lambda: None)
    assert adapt.batch_that_fits(found, visual, 20) == 16


def test_what_is_wrong_is_told(shapes, tmp_path, capsys):
    few = tmp_path / "few.csv"
    few.write_text("video,caption\nvideos/000000_forward.mov,a red circle\n")

    def told(*more):
        assert adapt.run(options(shapes, tmp_path / "out", *more)) == 1
        return capsys.readouterr().err

    assert "1 videos have captions; at least 8 are needed" in told(f"--captions={few}")
    few.write_text("video,caption\nabsent.mov,a red circle\n")
    assert "line 2: no video absent.mov in" in told(f"--captions={few}")
    few.write_text("video,label\nvideos/000000_forward.mov,left\n")
    assert "line 2: a `caption` is needed" in told(f"--captions={few}")
    assert f"{tmp_path} exists; give another --out" in told(f"--out={tmp_path}")
    few.write_text(
        "video,caption,scene\n"
        + "".join(f"{file},a shape,{i % 7}\n" for i, file in enumerate(videos_of(shapes)))
    )
    told_of_groups = told(f"--captions={few}", "--group=scene")
    assert "--group=scene: 7 groups, which stay whole; at least 8 are needed" in told_of_groups


@pytest.mark.slow
def test_captions_of_motion_are_found_after_adapting_and_not_before(tmp_path, capsys):
    """The packaged CLIP has seen single frames only: it knows the motion of no family."""
    shapes = moving_shapes.generate(tmp_path / "clips", 200, families=(FAMILY,)).parent
    more = ["--method=btadapter", "--group=pair", "--steps=150", "--json"]
    assert adapt.run(options(shapes, tmp_path / "out", *more)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["after"]["t2v_R@1"] > told["before"]["t2v_R@1"] + 30
    fresh = moving_shapes.generate(tmp_path / "fresh", 20, seed=1, families=(FAMILY,))
    assert twins("tiny_clip", fresh) == 0.5 and twins(tmp_path / "out", fresh) > 0.9


def twins(model, manifest):
    """How often a caption's clip scores above its reversal; equal scores count one half."""
    model, rows = vlt.load(model), [json.loads(x) for x in manifest.read_text().splitlines()]
    videos = model.encode_video([str(manifest.parent / row["video"]) for row in rows])
    scores = np.asarray(model.encode_text([row["caption"] for row in rows]) @ videos.T)
    here = np.arange(len(rows))
    ahead = scores[here, here] - scores[here, here ^ 1]
    return np.where(abs(ahead) < 1e-5, 0.5, ahead > 0).mean()
