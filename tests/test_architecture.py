"""ARCHITECTURE.md says how to add things, and by how many files: here one of each is added."""

import dataclasses
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

import vlt
from data_pipelines.manifests import Files, Split, write_manifests
from vlt import main
from vlt.configuration import load_config
from vlt.convert import convert, reverse
from vlt.convert.layouts import clip
from vlt.convert.layouts.families import FAMILIES
from vlt.data.manifests.resources import resolve
from vlt.evaluation import KINDS, Kind
from vlt.evaluation.protocols import PROTOCOLS, Protocol
from vlt.export import export
from vlt.model_io.folder import ModelFolderError, read_model_folder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.pytrees.paths import by_path
from vlt.study import __main__ as study
from vlt.study.claim import Claim, Comparison, Row
from vlt.study.claims import CLAIMS
from vlt.tasks.build import TASKS
from vlt.tasks.task import Task

TEXT = (ROOT / "ARCHITECTURE.md").read_text()


def config(**changes: Any) -> Any:
    """A config of two steps of an untrained tiny CLIP."""
    found = load_config(str(ROOT / "tests/loop_config.py"))
    found.update_from_flattened_dict({"train.steps": 2, "evals": {}, "data.workers": 0} | changes)
    return found


def run(found: Any, folder: Path) -> dict[str, Any]:
    main.run_all(found, folder)
    return json.loads((folder / "results.json").read_text())[0]


class Norm(Task):
    """Mean squared difference of video and text embeddings: a loss that no paper has."""

    def features(self, outputs, batch):
        return {name: outputs[name] for name in ("video", "text")}

    def loss(self, features):
        value = jnp.square(features["video"] - features["text"]).mean()
        return value, {"distance": value}


@pytest.mark.slow
def test_a_task(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "norm", ("dual_encoder", lambda config, spec, tokenizer: Norm()))
    run(config(**{"task.name": "norm"}), tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(entry.get("train/distance", entry.get("distance")) for entry in logged)


@pytest.mark.slow
def test_an_evaluation(tmp_path, monkeypatch):
    def videos(predictor, params, section, data, step):
        return {"videos": len(data.records)}

    added = Kind("dual_encoder", videos, lambda section, data: ["videos"], ())
    monkeypatch.setitem(KINDS, "videos", added)
    found = config()
    with found.unlocked():
        found.evals = {"all": load_config(str(ROOT / "tests/loop_config.py")).evals.looks}
        found.evals["all"]["kind"] = "videos"
    assert run(found, tmp_path)["all/videos"] > 0


@pytest.mark.slow
def test_sizes_of_a_backbone(tmp_path, monkeypatch):
    sizes = DualEncoderSpec(VisionSpec(32, 16, 16, 2, 2, 32), TextSpec(16, 43, 16, 1, 2, 32), 8)
    monkeypatch.setitem(SIZES, "toy", sizes)
    assert run(config(**{"model.size": "toy"}), tmp_path)["trained_params"] > 0


@pytest.mark.smoke
def test_a_checkpoint_layout(tmp_path, monkeypatch):
    rules = tuple(
        dataclasses.replace(rule, source=f"toy.{rule.source}") for rule in clip.OPENAI.rules
    )
    toy = dataclasses.replace(clip.OPENAI, name="toy", sign=r"^toy\.", rules=rules)
    monkeypatch.setitem(FAMILIES, "toy", toy)
    model = resolve("tiny_clip")
    reverse(model, tmp_path / "toy.safetensors", family="toy")
    convert(
        tmp_path / "toy.safetensors",
        tmp_path / "model",
        tokenizer=str(model / "tokenizer"),
        settings={"visual.heads": 4, "text.heads": 4},
    )
    before, after = (by_path(read_model_folder(path)[1]) for path in (model, tmp_path / "model"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.smoke
def test_a_data_set(tmp_path, monkeypatch):
    added = Protocol("toy", 2, 2, False, "nobody", training=None)
    monkeypatch.setitem(PROTOCOLS, "toy", added)
    (tmp_path / "test.json").write_text(json.dumps({"a": ["one"], "b": ["two"]}))
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    splits = (Split("test", (Files("test.json"),), "video", videos=2, texts=2),)
    lines = write_manifests(splits, [tmp_path / "test.json"], tmp_path, tmp_path / "out")
    assert "2 videos, 2 captions" in lines[0]


def test_a_claim(monkeypatch, capsys):
    rows = (
        Row("frozen", "btadapter", "zero-shot tiny CLIP"),
        Row("branch", "btadapter", "BT-Adapter"),
    )
    toy = Claim("toy", "It helps.", "ours", "", "", rows, (Comparison("branch", "frozen"),))
    monkeypatch.setitem(CLAIMS, "toy", toy)
    assert study.main(["--claims=toy", "--plan"]) == 0
    assert "4 runs" in capsys.readouterr().out


METHOD = """
    import dataclasses
    from typing import ClassVar
    from vlt.models.points import Method

    @dataclasses.dataclass(frozen=True)
    class Warmth(Method):
        name: ClassVar[str] = "others.warmth"

        start: float = 0.5

        def after_block(self, block, tokens):
            warmth = block.param("warmth", lambda key: jax.numpy.asarray(self.start))
            return tokens.replace(x=tokens.x * (1 + warmth))

    import jax
    METHOD = Warmth
"""


@pytest.mark.slow
def test_a_method_from_outside(tmp_path, monkeypatch):
    package = tmp_path / "others"
    package.mkdir()
    (package / "warmth.py").write_text(textwrap.dedent(METHOD))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = config()
    with found.unlocked():
        found.model.methods = ("others.warmth",)
        found.model.warmth = {"start": 0.25}
        found.task.losses = {"vtc": 1.0}
        found.rules = ((".*/warmth", {"lr": 1.0}), (".*", "frozen"))
    assert run(found, tmp_path / "run")["trained_params"] == 4  # one per block
    folder = tmp_path / "model"
    export(tmp_path / "run", folder, "orbax")
    assert json.loads((folder / "config.json").read_text())["methods"] == {
        "others.warmth": {"start": 0.25}
    }
    assert vlt.load(folder).module.methods[0].start == 0.25
    monkeypatch.delitem(sys.modules, "others.warmth")
    with pytest.raises(ModelFolderError, match="import it first"):
        vlt.load(folder)
    assert "others.warmth" not in sys.modules, "a folder imported it"


def test_the_page_names_what_is_there():
    paths = set(re.findall(r"`((?:vlt|tests|configs|data_pipelines)/[\w/.]+)`", TEXT))
    named = {path for path in paths if "NAME" not in path}
    assert named and all((ROOT / path).exists() for path in named)
    rooms = {path.stem for path in (ROOT / "vlt").iterdir() if path.suffix in ("", ".py")}
    rooms -= {"assets", "configs", "__init__", "__pycache__"}
    assert rooms <= set(re.findall(r"`(\w+)/?`", TEXT))
    assert len(TEXT.splitlines()) <= 120
