"""What the documents print is true: commands run, flags and configs exist, snippets work."""

import ast
import functools
import importlib.util
import json
import pathlib
import re
import shlex
import subprocess

import documents
import pytest
from documented_commands import CASES, case_of
from helpers import ROOT, environment_with_vlt

from vlt.command_line import COMMANDS as COMMAND_LINE
from vlt.configuration import ConfigError, check_flags, load_config
from vlt.data import moving_shapes
from vlt.inspect import inspect_config

TEXTS = documents.documents()
COMMANDS = list(dict.fromkeys(c for text in TEXTS.values() for c in documents.commands(text)))
OWN = ("vlt", "launch", "data_pipelines", "docs")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```sh\na b  # c\na \\\n    --d=#e && f\n```", ["a b", "a --d=#e", "f"]),
        ("1. x\n\n   ```sh\n   a\n   ```\n", ["a"]),
        (
            "| `python -m a --b=c\\|d` | `a` |\n`python -m\nb`",
            ["python -m a --b=c|d", "python -m b"],
        ),
        ("`X=1 python -m a` and `vlt caption v.mp4`", ["X=1 python -m a", "vlt caption v.mp4"]),
        ("```\nnothing\n```\n```python\nx\n```\nof `python`, `vlt`, `vlt.main`", []),
    ],
)
def test_commands_are_found(text, found):
    assert documents.commands(text) == found


@pytest.mark.parametrize("page", documents.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert documents.dead_links(page) == []


def test_dead_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    headings = "# One `two_three` (4)\n## Twice\n## Twice\n```\n# no heading\n```\n"
    (tmp_path / "other.md").write_text(headings)
    whole = "[a](#here) [`b`](other.md#one-two_three-4) [c](other.md#twice-1) [d](https://x.y/#z)\n"
    dead = "[a](#not) [b](absent.md) [c](other.md#twice-2) [d](other.md#no-heading)\n"
    page.write_text(f"# Here\n\n{whole}{dead}`[a](code.md)`\n```sh\n[b](code.md)\n```\n")
    found = ["#not", "absent.md", "other.md#twice-2", "other.md#no-heading"]
    assert documents.dead_links(page) == found


def test_commands_of_a_notebook_are_found(tmp_path):
    cells = [
        ("markdown", "by `vlt a b`:"),
        ("code", "%%bash\nvlt c \\\n    --d && vlt e"),
        ("code", "x = 1\n!vlt f"),
    ]
    notebook = {"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells]}
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    text = documents.text_of(tmp_path / "a.ipynb")
    assert documents.commands(text) == ["vlt a b", "vlt c --d", "vlt e", "vlt f"]


def test_every_command_is_known():
    """A new command is entered in tests/documented_commands.py, with how it is tried."""
    assert [command for command in COMMANDS if case_of(command) is None] == []


def test_every_known_command_is_in_a_document():
    assert [command for command in CASES if command not in COMMANDS] == []


@pytest.mark.parametrize(
    "name", sorted({n for t in TEXTS.values() for n in documents.config_names(t)})
)
def test_configs_exist(name):
    # The first has no variant without a name; the second is shared by the configs.
    if name not in ("configs/btadapter_zeroshot.py", "configs/common.py"):
        load_config(name)


def _modules() -> dict[str, list[str]]:
    """What is printed after the module, by module; {a,b} stands for several."""
    found: dict[str, list[str]] = {}
    for command in COMMANDS:
        match = re.search(rf"python -m ((?:{'|'.join(OWN)})[\w.{{}},]*)(.*)", command)
        if match and "NAME" not in match[1]:
            head, _, names = match[1].partition("{")
            for name in names.strip("}").split(","):
                found.setdefault(head + name, []).append(match[2])
        elif match := re.match(r"vlt (\w+)(.*)", command):
            module = COMMAND_LINE[match[1]].door.partition(":")[0].removesuffix(".__main__")
            found.setdefault(module, []).append(match[2])
    return found


def _flags(module: str) -> set[str]:
    """Names that its file, and those of ours that it imports, pass to add_argument or DEFINE_, and
    those of the parts of a command line that these import."""
    path = ROOT / module.replace(".", "/")
    tree = _tree(path / "__main__.py" if path.is_dir() else path.with_suffix(".py"))
    trees = [tree, *_imported(tree, OWN)]
    trees += [part for each in trees for part in _imported(each, ("vlt.command_line",))]
    found = {name for each in trees for name in _defined(each)}
    return found | {f"no{name}" for name in found} | {"help"}


@functools.cache
def _imported(tree: ast.AST, packages: tuple[str, ...]) -> list[ast.AST]:
    """Files of these packages that a file imports."""
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names = {n.module for n in imports} | {f"{n.module}.{a.name}" for n in imports for a in n.names}
    ours = [str(name) for name in names if f"{name}.".startswith(tuple(f"{p}." for p in packages))]
    files = [ROOT / f"{name.replace('.', '/')}.py" for name in ours]
    return [_tree(file) for file in files if file.is_file()]


@functools.cache
def _tree(file: pathlib.Path) -> ast.AST:
    return ast.parse(file.read_text("utf-8"))


@functools.cache
def _defined(tree: ast.AST) -> set[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls = [c for c in calls if re.match("add_argument|DEFINE_", getattr(c.func, "attr", ""))]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    given = {a.value for call in calls for a in call.args if isinstance(a, ast.Constant)}
    loose = {text for text in texts if re.fullmatch(r"--[\w-]+", str(text))}
    return {str(text).lstrip("-") for text in given | loose}


@pytest.mark.parametrize("module", sorted(_modules()))
def test_modules_and_flags_exist(module):
    """Flags of vlt.main after `--`, too."""
    assert importlib.util.find_spec(module), module
    if module == "data_pipelines.shards":
        return  # passes on to Beam what it does not know
    known = _flags(module)
    for words in _modules()[module]:
        ours, _, training = words.partition(" -- ")
        for part, flags in ((ours, known), (training, _flags("vlt.main"))):
            used = re.findall(r"(?:^|[\s\[])--([\w-]+)", part)
            assert {flag for flag in used if flag not in flags | {"config"}} == set(), words


def test_flags_in_sentences_exist():
    """In any of our commands, or in the programs that are named there."""
    files = [file for own in OWN for file in (ROOT / own).rglob("*.py")]
    known = {name for file in files for name in _defined(_tree(file))}
    known |= {f"no{name}" for name in known} | {"help"} | {"gpus-per-task", "gpu-bind"}  # sbatch's
    known |= {"short-side", "fps", "frames", "quality", "keyframe-interval", "crf"}  # of FORMS
    known |= {"runner", "direct_num_workers", "direct_running_mode"}  # Beam's
    found = {flag for text in TEXTS.values() for flag in documents.flags(text)}
    assert {flag for flag in found if not flag.startswith("config.")} - known == set()


@pytest.mark.parametrize("document", TEXTS)
def test_keys_in_sentences_exist(document):
    """Each is in one of the configs that its document names, or in BT-Adapter's."""
    keys = [key for key in documents.flags(TEXTS[document]) if key.startswith("config.")]
    names = ["configs/btadapter.py", *documents.config_names(TEXTS[document])]
    assert [key for key in keys if not any(_has(name, key) for name in names)] == []


def _has(config: str, key: str) -> bool:
    try:
        check_flags(["", f"--config={config}", f"--{key}=x"])
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if re.search(r"--config=configs/\w+\.py", c)]
)
def test_configs_have_the_keys(command):
    if re.search(r"configs/X|\[", command):
        return
    words = shlex.split(command)
    check_flags(["", *(word for word in words if word.startswith("--config"))])


@pytest.fixture(scope="module")
def desk(shared, tmp_path_factory) -> pathlib.Path:
    """A folder with all that the documents' commands read."""
    stand_ins = pytest.importorskip("stand_ins")
    folder = tmp_path_factory.mktemp("desk")
    stand_ins.make(folder, shared)
    return folder


def shell(line: str, folder: pathlib.Path) -> str:
    """What a line prints, with this `python` and this checkout's `vlt`."""
    env = environment_with_vlt(folder / "bin")
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, f"{line}\nstatus {done.returncode}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:80])
def test_command_runs(command, desk):
    case = case_of(command)
    assert case is not None, "not in tests/documented_commands.py"
    if case.reason:
        pytest.skip(case.reason)
    if case.needs:
        pytest.importorskip(case.needs)
    for line in case.commands:
        shell(line, desk)


@pytest.mark.slow
@pytest.mark.parametrize("snippet", documents.snippets(TEXTS["configs/README.md"]))
def test_config_of_ones_own_is_one(snippet, tmp_path):
    """It loads, a model can be built from it, and its rules fit that model."""
    file = tmp_path / "lectures.py"
    file.write_text(snippet)
    assert inspect_config(load_config(str(file)))["trainable_params"] == 84_480


@pytest.mark.slow
@pytest.mark.parametrize("snippet", documents.snippets(TEXTS["README.md"]))
def test_snippet_of_python_runs(snippet, tmp_path):
    given = "import numpy as np\nframes = np.zeros((1, 4, 32, 32, 3), np.uint8)\n"
    (tmp_path / "snippet.py").write_text(given + snippet)
    manifest = moving_shapes.generate(tmp_path / "shapes", 1)
    for name, clip in zip("ab", manifest.parent.glob("videos/*"), strict=True):
        clip.rename(tmp_path / f"{name}.mp4")
    shell("python snippet.py", tmp_path)
