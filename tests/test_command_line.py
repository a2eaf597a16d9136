"""The command `vlt`: help and mistakes are answered before anything large is imported."""

import importlib
import json
import re
import signal
import subprocess
import sys

import pytest
from helpers import ROOT, environment

import vlt
from vlt.command_line import COMMANDS, convert, export
from vlt.convert.layouts.families import FAMILIES
from vlt.convert.settings import KEYS
from vlt.export import FORMATS

# Runs `vlt` once for each line of arguments, in a child of a process that has imported nothing.
ANSWERS = """
import contextlib, io, json, os, sys
from vlt.__main__ import main

LARGE = {"av", "flax", "grain", "jax", "numpy", "optax", "orbax", "PIL", "tensorflow", "torch"}
LARGE |= {"transformers"}
for line in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if os.fork():
        os.wait()
        continue
    sys.argv, said = ["vlt", *line], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main()
        except SystemExit as end:
            status = end.code
    print(json.dumps([str(status), said.getvalue(), sorted(LARGE & sys.modules.keys())]))
    sys.stdout.flush()
    os._exit(0)
"""
NO_CONFIG = "error: unknown config 'btadaptr' (did you mean 'btadapter' or "
# Arguments, and how the exit status or message and what is printed begin.
CASES = {
    (): ("2", "usage: vlt COMMAND"),
    ("--help",): ("0", "usage: vlt COMMAND"),
    ("--version",): ("0", f"vlt {vlt.__version__}\n"),
    ("trian",): ("2", "error: vlt has no command 'trian' (did you mean 'train'?)"),
    ("train",): ("2", "error: --config=NAME[:variant] is missing, such as vlt train --config="),
    ("train", "--confg=tempme"): (
        "2",
        "error: Unknown command line flag 'confg'. Did you mean: con",
    ),
    ("train", "--config=tempme", "--wrkdir=x"): ("2", "error: Unknown command line flag 'wrkdir'."),
    ("train", "--config=btadaptr"): ("2", NO_CONFIG),
    ("eval", "--config", "btadaptr:x", "--workdir", "--odd"): ("2", NO_CONFIG),
    ("inspect", "--config=btadapter", "--topology=v5e:2x4", "--batch=-5"): (
        "2",
        "error: flag --batch=-5: ",
    ),
    ("train", "--config=btadapter", "--sweep=seed"): ("2", "error: --sweep must be KEY=A,B"),
    ("train", "--config=btadapter", "--sweep=sead=1"): (
        "2",
        "error: the config has no key 'sead' (did",
    ),
    ("train", "--config=btadapter", "--config.model.lora.rank=4"): (
        "2",
        "error: the config has no key 'model.lora.rank'",
    ),
    ("train", "--help", "--config=btadapter"): ("None", "vlt train --config=NAME"),
    ("train", "--help", "--config=btadaptr"): ("2", NO_CONFIG),
    ("eval",): ("2", "error: --config=NAME[:variant] is missing, such as vlt eval --config=btad"),
    ("eval", "--workdir", "absent", "--config.evals.x=1"): (
        "2",
        "error: absent/config.json does not exist: absent is not the folder of a run",
    ),
    ("train", "--config=btadapter", "extra"): ("2", "error: vlt train takes no argument 'extra'"),
    ("train", "--config=btadapter:webvid_l41"): (
        "2",
        "error: there is no variant 'webvid_l41' (did",
    ),
    ("draw",): ("2", "error: a video, --out and --config or --workdir are needed: vlt draw"),
    ("draw", "--config=btadaptr", "a.mp4", "--out=x"): ("2", NO_CONFIG),
    ("convert",): ("2", "usage: vlt convert"),
    ("caption", "a.mp4", "--modl=b"): ("2", "usage: vlt caption"),
    ("checkpoints", "clip_b23"): ("2", "usage: vlt checkpoints"),
    ("checkpoints",): ("0", "name "),
    ("checkpoints", "--json"): ("0", '{"checkpoints": [{"name": "clip_b32"'),
    # `sys.exit` prints these as the process ends.
    ("train", "--config=btadapter:webvid_l14"): (
        "error: config.model.checkpoint=checkpoints/clip_l14: no such folder; vlt checkpoints clip",
        "",
    ),
    ("train", "--config=btadapter", "--config.data.train.manifest=a.csv"): (
        "error: config.data.train.manifest=a.csv: there is no such file",
        "",
    ),
    ("eval", "--config=btadapter", "--sweep=evals.twins.manifest=a.csv,b.csv"): (
        "error: config.evals.twins.manifest=a.csv: there is no such file\n"
        "error: config.evals.twins.manifest=b.csv: there is no such file",
        "",
    ),
    ("eval", "--config=btadapter", "--config.evals.twins.manifest=data/k400/val.jsonl"): (
        "error: config.evals.twins.manifest=data/k400/val.jsonl: there is no such file; python -m "
        "data_pipelines.kinetics makes it",
        "",
    ),
    **dict.fromkeys(
        (
            ("caption", "a.mp4", "--model=absent"),
            ("chat", "a.mp4", "--model=absent"),
            ("classify", "a.mp4", "--labels=a,b", "--model=absent"),
            ("embed", "a.mp4", "--model=absent", "--out=index"),
            ("search", "a dog", f"--index={ROOT}", "--model=absent"),
            ("serve", f"--index={ROOT}", "--model=absent"),
            ("adapt", f"--videos={ROOT}", f"--captions={__file__}", "--model=absent", "--out=x"),
            ("convert", "absent", "x.safetensors", "--reverse"),
        ),
        ("error: absent: no such folder", ""),
    ),
    ("embed", "a.mp4", "--model=checkpoints/clip_b16", "--out=index"): (
        "error: checkpoints/clip_b16: no such folder; vlt checkpoints clip_b16 says",
        "",
    ),
    **dict.fromkeys(
        (("export", "--workdir=absent", "x"), ("caption", "a.mp4", "--workdir=absent")),
        ("error: absent/config.json does not exist: absent is not the folder of a run", ""),
    ),
    **dict.fromkeys(
        (
            ("convert", "absent", "x"),
            ("convert", "--chat=llava", f"--llm={ROOT}", "--branch=absent", "x"),
            ("adapt", f"--videos={ROOT}", "--captions=absent", "--model=tiny_clip", "--out=x"),
        ),
        ("error: absent: no such file or folder", ""),
    ),
    ("search", "a dog", "--index=absent"): ("error: absent: no index there; `vlt embed", ""),
    ("serve", "--index=absent"): ("error: absent: no index there; `vlt embed", ""),
    **{(name, "--help"): ("", "") for name in COMMANDS},
}


def test_nothing_large_is_imported_for_help_and_mistakes(tmp_path):
    lines = json.dumps(list(CASES))
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, lines],
        cwd=tmp_path, env=environment(1), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(CASES), done.stderr
    assert not list(tmp_path.iterdir()), "a mistake makes no folder"
    for (line, (status, said)), (ended, printed, large) in zip(CASES.items(), answers, strict=True):
        assert not large, line
        if line[1:] == ("--help",):
            assert ended in ("0", "None") and f"vlt {line[0]} " in printed and "--" in printed
        else:
            assert ended.startswith(status) and printed.startswith(said), (line, ended, printed)


@pytest.mark.smoke
def test_commands_have_doors():
    for command in COMMANDS.values():
        module, _, function = command.door.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert callable(command.parser())


def test_what_is_listed_twice_is_the_same():
    assert list(convert.LAYOUTS) == list(FAMILIES)
    told = [key for keys in convert.SETTINGS.values() for key in keys]
    assert sorted(told) == sorted(KEYS)
    layouts = re.findall(r"\b\w+\b", " ".join(convert.SETTINGS))
    assert {*FAMILIES} <= {*layouts}
    assert tuple(FORMATS) == export.FORMATS


@pytest.mark.parametrize(
    "line",
    [("cut", "absent", "--out=x", "--start=0", "--end=1"), ("checkpoints", "--verify=absent")],
)
def test_the_status_is_that_of_the_door(line, monkeypatch, capsys, tmp_path):
    from vlt.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vlt", *line])
    assert main() == 1
    assert re.match("error: absent: .*[Nn]o such file", capsys.readouterr().err)


def test_a_reader_that_has_gone_ends_it_quietly(tmp_path):
    """As in `vlt checkpoints | head`."""
    line = f"{sys.executable} -m vlt checkpoints | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path, env=environment(1), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{128 + signal.SIGPIPE}\n", "")


def test_load_is_visible():
    assert "load" in dir(vlt) and callable(vlt.load)
