"""Options of methods, optimizers and schedules that a config does not list; rows of a sweep."""

import json
import re

import pytest
from helpers import ROOT, run_python

from vlt import main
from vlt.configuration import ConfigError, apply_overrides, load_config, rows_of, sweep_rows
from vlt.model_io.build import build_model
from vlt.training.optimizer import make_optimizer

LORA = "tempme:msrvtt_b32_lora"


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def typed(*arguments: str) -> dict:
    """Model and optimizer sections of the config after a command line's overrides."""
    code = """
        import json, sys
        sys.argv = ["vlt inspect", "--config=tempme:msrvtt_b32_lora", *json.loads(sys.argv[1])]
        from absl import flags
        from vlt.command_line import inspect
        inspect.parse(sys.argv)
        config = flags.FLAGS.config.to_dict()
        print(json.dumps([config["model"], config["optimizer"]]))
    """
    model, optimizer = json.loads(run_python(code, json.dumps(arguments)))
    return {"model": model, "optimizer": optimizer}


def test_options_of_any_method_and_optimizer_are_typed_by_name():
    config = typed(
        "--config.model.tome.r=3", "--config.model.methods=('tome',)", "--config.optimizer.sgd"
        ".momentum", "0.5", "--config.optimizer.name=sgd", "--config.optimizer.schedule.final=0.1",
    )  # fmt: skip
    assert config["model"]["tome"] == {"r": 3} and config["model"]["methods"] == ["tome"]
    assert config["optimizer"]["sgd"] == {"momentum": 0.5}
    assert config["optimizer"]["schedule"] == {"name": "cosine", "warmup": 0.1, "final": 0.1}


def test_options_that_a_config_lacks_reach_what_is_named():
    config = load_config(LORA, {"model.tome.r": 1, "model.methods": ("tome",)})
    assert [(method.name, method.r) for method in build_model(config.model).methods] == [
        ("tome", 1)
    ]
    config = load_config(LORA, {"model.methods": ("btadapter",), "model.btadapter.dept": 1})
    with pytest.raises(ValueError, match="'btadapter' has no option 'dept' .did you mean 'depth'"):
        build_model(config.model)
    config = load_config(LORA, {"optimizer.adamw_hf.b1": 0.5})
    with pytest.raises(ValueError, match="options of adamw_hf are optimizer.b1, b2 and eps"):
        make_optimizer(config.optimizer, config.rules, 10)


@pytest.mark.parametrize(
    "key",
    ["model.tome.r", "model.lora.a.b", "model.lora.", "optimizer.lion.b1", "train.x.y", "lora.r"],
)
def test_options_of_what_is_not_named_are_refused(key):
    with pytest.raises(ConfigError, match=f"no key '{re.escape(key)}'"):
        load_config(LORA, {key: 1})
    if key == "model.tome.r":
        with pytest.raises(ConfigError, match="may have options: lora"):
            load_config(LORA, {key: 1})


def test_options_of_a_method_of_a_row_are_taken():
    config = load_config(LORA)
    config.compare = (("ToMe", {"model.methods": ("lora", "tome")}), ("LoRA", {}))
    changed = apply_overrides(config, {"model.tome.r": 3})
    assert all(row.model.tome.r == 3 for _, row in rows_of(changed))


def test_a_sweep_is_a_row_for_each_value_and_for_each_pair_of_values():
    assert sweep_rows(["optimizer.lr=1e-3,1e-4"]) == (
        ("lr=0.001", {"optimizer.lr": 1e-3}),
        ("lr=0.0001", {"optimizer.lr": 1e-4}),
    )
    rows = sweep_rows(["config.model.methods=('lora',),('lora', 'tome')", "seed=0,1"])
    assert [title for title, _ in rows] == [
        "methods=('lora',), seed=0", "methods=('lora',), seed=1",
        "methods=('lora', 'tome'), seed=0", "methods=('lora', 'tome'), seed=1",
    ]  # fmt: skip
    assert rows[2][1] == {"model.methods": ("lora", "tome"), "seed": 0}
    rows = sweep_rows(["model.lora.rank=1,2", "optimizer.name=lion,sgd", "task.name=retrieval"])
    assert rows[0][0] == "rank=1, optimizer.name=lion, task.name=retrieval" and len(rows) == 4


@pytest.mark.parametrize("wrong", ["", "seed", "seed=", "=1,2", "seed=1,,2"])
def test_a_sweep_of_nothing_is_refused(wrong):
    with pytest.raises(ConfigError, match="must be KEY=A,B"):
        sweep_rows([wrong])


def test_a_sweep_ends_in_one_table(tmp_path, monkeypatch, capsys):
    config = load_config("tests/loop_config.py")
    config.compare = sweep_rows(["model.btadapter.depth=1,2", "optimizer.lr=0.5,0.25"])
    monkeypatch.setattr(
        main, "run_one", lambda c, *_: {"looks/t2v_R@1": c.model.btadapter.depth * c.optimizer.lr}
    )
    rows = main.run_all(config, tmp_path)
    assert [row["looks/t2v_R@1"] for row in rows] == [0.5, 0.25, 1.0, 0.5]
    main.print_tables(config, rows)
    table = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in table[2:]] == [row["row"] for row in rows]
    assert rows[3]["row"] == "depth=2, lr=0.25" and (tmp_path / "depth-2-lr-0-25").is_dir()
