import json
import math
import subprocess
import sys
from collections import Counter

import pytest
from helpers import ROOT, environment

from vlt.configuration import load_config
from vlt.model_io.build import abstract_params, build_model, make_model
from vlt.models.spec import ChatSpec, LlamaSpec, QFormerSpec, VisionSpec
from vlt.training.leaves import format_leaves, leaves_of, readers_of


def leaves(name: str, **changes: object):
    config = load_config(name)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    config.model.checkpoint, config.model.size = "", config.model.size or "tiny_clip"
    return config, {leaf.path: leaf for leaf in leaves_of(config, build_model(config.model))}


@pytest.fixture(scope="module")
def msta():
    return leaves("configs/msta.py:zeroshot_k400", **{"model.msta.layers": (7, 8)})[1]


@pytest.fixture(scope="module")
def btadapter():
    return leaves("configs/btadapter.py")


def test_what_msta_trains_and_why(msta):
    trained = {path: leaf for path, leaf in msta.items() if leaf.lr}
    assert {leaf.method for leaf in trained.values()} == {"msta"}
    blocks = {path.split("/")[1] for path in trained if path.startswith("visual/blocks_")}
    assert blocks == {"blocks_7", "blocks_8"}
    shared = {path for path, leaf in msta.items() if leaf.read_by == "video, text"}
    assert shared and all("msta" in msta[path].method for path in shared)


def test_rates_are_the_rules_times_the_schedules(btadapter):
    config, found = btadapter
    gate = found["visual/btadapter/final_gate"]
    multiplier = dict(config.rules)[gate.rule]["lr"]
    assert gate.lr == config.optimizer.lr * multiplier != config.optimizer.lr
    frozen = found["visual/blocks_0/norm1/scale"]
    assert (frozen.lr, frozen.method, frozen.rule, frozen.read_by) == (0, "", ".*", "video")


def test_decay_is_the_rules_and_none_where_it_says_none(btadapter):
    config, found = btadapter
    given = {
        pattern: 0.0 if how == "frozen" else how.get("weight_decay", 0.0)
        for pattern, how in config.rules
    }
    assert {leaf.rule: leaf.weight_decay for leaf in found.values()} == given
    assert sorted(set(given.values())) == [0, 0.05]


def test_what_only_the_loss_reads(btadapter):
    found = btadapter[1]
    alone = {path for path, leaf in found.items() if leaf.read_by == "training"}
    assert alone == {"logit_scale"} | {path for path in found if "/alignment/" in path}
    assert "nothing" not in Counter(leaf.read_by for leaf in found.values())


def test_the_table_has_a_line_for_each_leaf(msta):
    lines = format_leaves(list(msta.values())).splitlines()
    assert len(lines) == len(msta) + 2
    assert all(line.startswith(path) for line, path in zip(lines[2:], msta, strict=True))


@pytest.mark.slow
def test_the_command_adds_them_to_its_json():
    words = ["-m", "vlt.inspect", "--config=configs/btadapter.py", "--leaves", "--json"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment(1), capture_output=True, text=True
    )
    report = json.loads(done.stdout)
    assert sum(math.prod(leaf["shape"]) for leaf in report["leaves"]) == report["total_params"]


def test_an_instruction_is_part_of_what_a_video_is_read_with():
    text = LlamaSpec(16, 20, 8, 1, 2, 16)
    qformer = QFormerSpec(2, 8, 1, 2, 16, 8, vocab=20, context=8)
    spec = ChatSpec(VisionSpec(8, 4, 8, 2, 2, 16), text, "qformer", qformer, read=1)
    model = make_model(spec, {})
    readers = readers_of(model, abstract_params(model), {"frames": 2, "context": 8})
    assert readers["connector/qformer/token_embedding/embedding"] == "video"
    assert readers["text/token_embedding/embedding"] == "text"
