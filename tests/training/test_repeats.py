"""Repeated runs: a folder each, their means and deviations; and recognition is resumed."""

import json
import re

import jax
import numpy as np
import pytest

from configs import common
from vlt import configuration, main
from vlt.evaluation.recognition_protocols import harmonic_mean
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.reporting.tables import format_table
from vlt.training.loop import Run, train
from vlt.training.metrics_log import read_metrics

ACTIONS = "moving_shapes:actions:train:18"  # every class once
FRAMES = 4
SPEC = DualEncoderSpec(
    VisionSpec(32, 8, 16, 1, 2, 32, temporal_frames=FRAMES), TextSpec(16, 43, 16, 1, 2, 32), 8
)
TABLE = (
    ("base/top1", "base"),
    ("novel/top1", "novel"),
    ("moving_shapes_base_to_novel/harmonic_mean", "HM"),
)


@pytest.fixture(scope="module", autouse=True)
def _size():
    SIZES["small_viclip"] = SPEC
    yield
    del SIZES["small_viclip"]


def config():
    """A config of two steps of MSTA on an untrained model, from two seeds."""
    found = common.base()
    found.model.update(
        size="small_viclip",
        tokenizer=f"{ACTIONS}:tokenizer",
        methods=("msta",),
        msta={"bottleneck": 4, "scale": 0.1},
        frames=FRAMES,
        context=16,
    )
    found.rules = ((".*/msta/.*|shared_MSTA/.*", {"lr": 1.0}), (".*", "frozen"))
    found.optimizer.lr = 0.1
    told = tuple(f"{ACTIONS}:base_{kind}.json" for kind in ("spatial", "temporal"))
    found.task = common.recognition_task(24, template="{}", descriptions=told, consistency=1.0)
    found.data.workers = 0
    for part in ("base", "novel"):
        section = common.videos(f"{ACTIONS}:{part}.jsonl", "linspace", FRAMES, 8)
        section.classes = f"{ACTIONS}:{part}_classes.txt"
        found.evals[part] = common.recognition(section, f"moving_shapes_{part}")
        found.evals[part].classes = section.classes
        found.data.train = found.data.train or section
    found.train.update(steps=2, log_every=1, checkpoint_every=1)
    found.repeats = tuple((f"Seed {seed}", {"seed": seed}) for seed in (3, 4))
    found.table = TABLE
    return found


@pytest.mark.slow
def test_repeats_have_folders_of_their_own_and_the_row_is_their_mean(tmp_path):
    rows = main.run_all(config(), tmp_path)
    runs = [json.loads((tmp_path / f"seed-{seed}/run.json").read_text()) for seed in (3, 4)]
    assert not (tmp_path / "run.json").exists()
    assert len(rows) == 1 and rows[0]["row"] == tmp_path.name
    (row,) = rows
    assert runs[0]["trained_params"] == row["trained_params"] == 380
    for key in ("base/top1", "novel/top1", "base/top5", "novel/top5", "base/mean_class"):
        values = [run[key] for run in runs]
        assert row[key] == pytest.approx(np.mean(values))
        assert row.get(f"{key}/deviation", 0) == pytest.approx(np.std(values))
    means = [row[f"moving_shapes_base_to_novel/{part}"] for part in ("base", "novel")]
    assert means == [pytest.approx(row[f"{part}/top1"]) for part in ("base", "novel")]
    assert row["moving_shapes_base_to_novel/harmonic_mean"] == harmonic_mean(*means)
    for seed in (3, 4):
        logged = [e for e in read_metrics(tmp_path / f"seed-{seed}") if "consistency" in e]
        assert [entry["step"] for entry in logged] == [1, 2]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoints/*")}
    assert before and main.run_all(config(), tmp_path) == rows, "finished runs are read back"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoints/*")} == before


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        (("CLIP", "CLIP+"), "'CLIP' and 'CLIP.' would share the folder clip"),
        (("scale=-1", "scale=1"), "'scale=-1' and 'scale=1' would share the folder scale-1"),
        (("CLIP", "\u6a21\u578b"), "the title '\u6a21\u578b' gives its folder no name"),
    ],
)
@pytest.mark.parametrize("key", ["compare", "repeats"])
def test_titles_that_share_a_folder_are_refused_before_anything_runs(
    tmp_path, key, titles, message
):
    given = config()
    given[key] = tuple((title, {}) for title in titles)
    with pytest.raises(configuration.ConfigError, match=f"config.{key}: .*{message}"):
        main.run_all(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_finished_rows_are_shown_while_others_run(tmp_path, monkeypatch, capsys):
    given = config()
    given.compare = (("first", {}), ("second", {}))
    shown = []

    def run_row(*_):
        shown.append(capsys.readouterr().err)
        return {"trained_params": 380}

    monkeypatch.setattr(main, "run_row", run_row)
    main.run_all(given, tmp_path)
    assert "first" not in shown[0] and "380" not in shown[0]
    assert "first" in shown[1] and "380" in shown[1] and "second" not in shown[1]


@pytest.mark.slow
def test_what_the_task_carries_comes_back_with_the_checkpoint(tmp_path):
    """Descriptions embedded with the initial weights, which training changes."""
    given = config()
    given.rules, given.evals = ((".*", {"lr": 1.0}),), {}
    states = []
    for again in (False, True):
        running = Run(given, tmp_path)
        states.append(jax.device_get(running.state))
        if again:
            running.restore(2)
        else:
            train(running)
        states.append(jax.device_get(running.state))
        running.close()
        # The second run begins with other descriptions, which the checkpoint's must replace.
        given.task.descriptions = given.task.descriptions[::-1]
    start, trained, other, resumed = states
    assert start.task["descriptions"].shape == (2, 24, SPEC.embed_dim)
    jax.tree.map(np.testing.assert_array_equal, trained.task, start.task)
    assert not np.allclose(other.task["descriptions"], start.task["descriptions"])
    jax.tree.map(np.testing.assert_array_equal, resumed, trained)


@pytest.fixture
def told(monkeypatch):
    """Configs, folders and modes of the runs, which give numbers without training."""
    seen = []

    def run_one(config, folder, mode):
        seen.append((config, folder, mode))
        novel = 20.0 * config.seed
        return {"base/top1": 60.0, "novel/top1": novel, "trained_params": 7, "step_ms": 1.0 + novel}

    monkeypatch.setattr(main, "run_one", run_one)
    return seen


def test_rows_of_a_comparison_repeat_too(tmp_path, told):
    given = config()
    given.compare = (
        ("A, plain", {"optimizer.lr": 0.5}),
        ("B", {"repeats": (), "seed": 1}),
    )
    rows = main.run_all(given, tmp_path, "eval")
    assert [str(folder.relative_to(tmp_path)) for _, folder, _ in told] == [
        "a-plain/seed-3", "a-plain/seed-4", "b",
    ]  # fmt: skip
    assert [(c.seed, c.optimizer.lr) for c, _, _ in told] == [(3, 0.5), (4, 0.5), (1, 0.1)]
    assert all(not c.repeats and not c.compare and mode == "eval" for c, _, mode in told)
    first, second = rows
    assert first["row"] == "A, plain" and first["novel/top1"] == 70
    assert first["novel/top1/deviation"] == 10 and "base/top1/deviation" not in first
    assert first["step_ms"] == 71 and "step_ms/deviation" not in first
    mean = "moving_shapes_base_to_novel/harmonic_mean"
    assert first[mean] == pytest.approx(2 * 60 * 70 / 130), "of the means, not their mean"
    assert second["novel/top1"] == 20 and second[mean] == 30
    assert not [key for key in second if key.endswith("/deviation")]
    shown = (tmp_path / "results.md").read_text()
    assert "| A, plain | 7 | 60.0 | 70.0 +-10.0 | 64.6 |" in shown, "no step is shown"
    assert "| B | 7 | 60.0 | 20.0 | 30.0 |" in shown
    trained = format_table(rows, main.columns(given, "train"))
    assert re.search(r"A, plain +7 +71 +60\.0 +70\.0 \+-10\.0 +64\.6$", trained, re.MULTILINE)


def test_protocols_that_are_not_all_there_combine_to_nothing(tmp_path, told):
    given = config()
    del given.evals["novel"]
    (row,) = main.run_all(given, tmp_path)
    assert not [key for key in row if key.startswith("moving_shapes_base_to_novel")]


def test_folder_of_another_repeat_is_refused(tmp_path, told):
    given = config()
    main.run_all(given, tmp_path)
    given.repeats = (("Seed 3", {"seed": 5}), ("Seed 4", {"seed": 4}))
    with pytest.raises(main.OtherConfigError, match="repeats"):
        main.run_all(given, tmp_path)
