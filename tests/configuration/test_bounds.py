"""Numbers that no run can use are refused by key, value and range, wherever they come from."""

import re
import subprocess
import sys
import textwrap

import pytest
from helpers import ROOT, environment

from configs import common
from vlt.configuration import ConfigError, apply_overrides, checked, load_config
from vlt.configuration.bounds import BOUNDS, bound_of, out_of_bounds
from vlt.main import run_all


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


WRONG = {
    "train.log_every": (0, -1),
    "train.checkpoint_every": (0,),
    "train.eval_every": (-1,),
    "train.steps": (-1, 10**12),
    "train.keep_last": (0,),
    "train.watchdog": (-1.0, float("nan")),
    "optimizer.accumulate": (0, -2, 2**21),
    "optimizer.lr": (-1e-3, float("nan"), float("inf")),
    "optimizer.b2": (1.0,),
    "optimizer.eps": (-1e-8, 1.5),
    "optimizer.clip": (-1.0,),
    "model.frames": (0, -1, 10**6),
    "model.context": (0, 1),
    "model.btadapter.depth": (0, -1, 10**6),
    "model.btadapter.mask_rate": (-0.1, 1.0),
    "model.drop_path": (1.0,),
    "data.workers": (-1, 5000),
    "data.decode_timeout": (0.0, -5.0, float("nan")),
    "data.train.batch_size": (0, -1, 10**8),
    "data.train.max_words": (-1,),
    "data.train.max_error_rate": (1.5,),
    "data.train.sampler.frames": (0,),
    "data.train.transform.crop": (0,),
    "evals.static.batch_size": (0,),
    "evals.static.sampler.frames": (-1,),
    "evals.twins.min_pairs": (0,),
    "task.scale": (-1.0, float("nan")),
    "task.losses.vtc": (float("nan"),),
    "mesh.data": (-2,),
    "seed": (-1, 2**32),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in WRONG.items() for v in vs])
def test_a_number_out_of_bounds_is_named_with_its_range(key, value):
    with pytest.raises(ConfigError, match=rf"config\.{key}=.*: must be a .*number from .* to "):
        load_config("configs/btadapter.py", {key: value})


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound[0])
def test_bounds_leave_room_and_are_numbers_of_their_kind(bound):
    _, kind, least, most, _ = bound
    assert least < most
    assert kind is float or (least, most) == (int(least), int(most))


@pytest.mark.parametrize(
    ("option", "fits", "does_not"),
    [
        ("length_penalty", (-2.0, 0.0, -1e6, 1e6), (-1e6 - 1, 1e6 + 1, float("nan"))),
        ("repetition_penalty", (0.5, 1.5), (float("inf"),)),
        ("top_k", (0, 50), (-1, 0.5)),
        ("beams", (1, 1024), (0, 1025)),
    ],
)
def test_bounds_of_a_search(option, fits, does_not):
    for value in (*fits, *does_not):
        wrong = out_of_bounds({"evals": {"clips": {"search": {option: value}}}})
        assert bool(wrong) == (value in does_not), wrong


def test_a_text_may_have_to_be_as_long_as_it_may_be():
    longest, shortest = (bound_of(f"evals.clips.search.{end}_length") for end in ("max", "min"))
    assert longest and shortest and longest[3] == shortest[3]


def test_zero_means_never_where_that_has_a_meaning():
    zeros = {"train.eval_every": 0, "train.steps": 0, "train.watchdog": 0.0, "data.workers": 0}
    zeros |= {"sharding.min_elements": 0}
    assert load_config("configs/btadapter.py", zeros).train.steps == 0


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (((".*", {"lr": -1.0}),), r"rules\.0\.1\.lr=-1\.0"),
        (((".*", {"lr": 1.0, "weight_decay": float("nan")}),), r"rules\.0\.1\.weight_decay=nan"),
    ],
)
def test_rules_have_bounds(rules, words):
    with pytest.raises(ConfigError, match=words):
        checked(apply_overrides(common.base(), {"rules": rules}))


def test_a_row_and_a_repeat_are_checked_before_any_is_run(tmp_path):
    row = {"compare": (("fine", {}), ("wrong", {"train.steps": -5}))}
    config = apply_overrides(common.base(), row)
    with pytest.raises(ConfigError, match="train.steps=-5"):
        run_all(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    repeat = {"repeats": (("one", {"seed": -1}),)}
    with pytest.raises(ConfigError, match="seed=-1"):
        checked(apply_overrides(common.base(), repeat))


def test_a_config_file_is_checked_as_overrides_are(tmp_path):
    file = tmp_path / "mine.py"
    source = """
        from configs import common

        def get_config(variant=""):
            config = common.base()
            config.model.btadapter = {"depth": 10**6}
            return config
    """
    file.write_text(textwrap.dedent(source))
    with pytest.raises(ConfigError, match=r"model\.btadapter\.depth=1000000: .* from 1 to 1000"):
        load_config(str(file))


def command(name: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vlt", name, *arguments],
        cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=100,
    )  # fmt: skip


CONFIG = "--config=configs/btadapter.py"
MISTAKES = {
    (): r"--config=NAME\[:variant\] is missing, such as .*; choose from btadapter, ",
    ("--config=",): "is missing",
    ("--confg=configs/btadapter.py",): "Did you mean: config",
    (CONFIG, "--config.train.steps=abc"): r"config\.train\.steps=abc: must be a whole number",
    (CONFIG, "--config.train.log_every=0"): r"config\.train\.log_every=0: .* from 1",
    (CONFIG, "extra"): "takes no argument 'extra'",
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_command_line_that_does_not_fit_is_answered_in_a_sentence(arguments, tmp_path):
    done = command("train", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(MISTAKES[arguments], done.stderr), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["inspect", "bench"])
def test_other_commands_share_the_checks(name):
    missing, wrong = command(name), command(name, CONFIG, "--config.model.frames=0")
    for done, words in ((missing, "is missing"), (wrong, "config.model.frames=0: must be")):
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert "FATAL" not in done.stderr and "Traceback" not in done.stderr


def test_drawing_without_arguments_says_what_to_type():
    done = command("draw")
    assert done.returncode == 2 and "vlt draw --config=" in done.stderr
    assert "FATAL" not in done.stderr
