"""Retrieval and question answering from a converted BLIP: trained, resumed and evaluated."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from converted_blip import converted

from configs import common
from vlt.data.manifests.manifest import read_manifest
from vlt.data.manifests.resources import resolve
from vlt.training.loop import Run, train

CLIPS = "moving_shapes:clips:train:6"
FRAMES = 2

pytestmark = pytest.mark.slow  # compiles training steps and evaluations


def base(kind: str, folder: Path):
    converted(kind, folder)
    config = common.base()
    config.model.update(checkpoint=str(folder / "model"), frames=FRAMES, context=20)
    config.rules = ((".*", {"lr": 1.0}),)
    config.train.update(steps=2, log_every=1, checkpoint_every=1)
    return config


def run(config, workdir: Path, steps: int):
    config.train.steps = steps
    workdir.mkdir(exist_ok=True)
    running = Run(config, workdir)
    try:
        return train(running), jax.device_get(running.state)
    finally:
        running.close()


def test_retrieval_goes_on_where_it_stopped(tmp_path):
    """Momentum copies and queues included."""
    config = base("retriever", tmp_path)
    config.task = common.matching_task(ramp=4)
    config.task.queue = 16
    config.data.train = common.videos(CLIPS, "linspace", FRAMES, batch_size=4)
    data = common.videos(CLIPS, "linspace", FRAMES, 8)
    config.evals = {"clips": common.matching("moving_shapes", data)}
    config.evals.clips.rerank = 3
    found, whole = run(config, tmp_path / "whole", 2)
    run(config, tmp_path / "parts", 1)
    again, parts = run(config, tmp_path / "parts", 2)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert whole.task["steps"] == 2 and (whole.task["ids"] >= 0).sum() == 8
    assert found == again and 0 <= found["clips/t2v_R@1"] <= 100


def test_questions_are_answered_and_answers_written_down(tmp_path):
    config = base("answerer", tmp_path)
    rows = [
        {"id": f"q{i}", "video": record.video, "question": "a dog", "answer": ["a", "dog"][i % 2]}
        for i, record in enumerate(read_manifest(resolve(CLIPS)))
    ]
    manifest, answers = tmp_path / "qa.jsonl", tmp_path / "answers.txt"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers.write_text("a\ndog\nno dog\n")
    data = common.videos(str(manifest), "linspace", FRAMES, 4, clean="blip_question")
    config.data.train, config.task = data, common.answering_task()
    section = common.answering("msrvtt_qa", str(answers), data)
    section.allow_subset = True
    config.evals = {"ranked": section, "written": section.copy_and_resolve_references()}
    config.evals.written.answers = ""
    found, _ = run(config, tmp_path / "run", 1)
    assert found["ranked/questions"] == found["written/questions"] == len(rows)
    assert "subset" in found["ranked/protocol"]
    for name in ("ranked", "written"):
        written = json.loads((tmp_path / "run" / f"answers-{name}.json").read_text())
        assert [row["id"] for row in written] == [row["id"] for row in rows]
        right = [a["answer"] == row["answer"] for a, row in zip(written, rows, strict=True)]
        assert found[f"{name}/accuracy"] == pytest.approx(100 * np.mean(right))
    assert {
        row["answer"] for row in json.loads((tmp_path / "run" / "answers-ranked.json").read_text())
    } <= {"a", "dog", "no dog"}
