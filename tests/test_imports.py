"""The arrows between the rooms of vlt/: they run one way, as ARCHITECTURE.md draws them."""

import ast
import functools
import pathlib
import re
from collections import Counter

import pytest
from helpers import ROOT

# From the ground up. A room imports only rooms on lines before its own.
STOREYS = (
    ("pytrees",),
    ("runtime",),
    ("storage", "costs"),
    ("configuration", "models", "data", "reporting"),
    ("command_line",),
    ("adapters",),
    ("merging",),
    ("methods",),
    ("model_io", "tasks"),
    ("convert", "evaluation", "judging"),
    ("training",),
    ("arguments", "inference", "summary"),
    ("indexing",),
    ("loaded",),
    ("api",),
    ("door",),
    ("indices", "serving", "mteb_encoder"),
    ("bench",),
)
DOORS = {"main", "inspect", "export", "draw", "caption", "chat", "checkpoints", "score", "judge"}
DOORS |= {"classify", "cut", "embed", "search", "serve", "adapt", "study"}
DOORS.add("__main__")  # `vlt`, which opens the others by their names in `command_line`
SHARED = {("main", "inspect")}  # what doors import from each other: the counts of a model
SHARED.add(("study", "main"))  # a run of a config
SHARED |= {("adapt", name) for name in ("inspect", "main", "export")}  # run one after another
METHODS = ("adapters", "merging")
# Inside the two largest rooms, from the ground up.
INNER = {
    "convert": ("files", "tables", "layouts", "chat"),
    "data": ("video", "text", "moving_shapes", "manifests"),
}


def modules() -> dict[str, pathlib.Path]:
    files = {path for path in (ROOT / "vlt").rglob("*.py") if "configs" not in path.parts}
    names = {path: path.relative_to(ROOT).with_suffix("").parts for path in files}
    return {".".join(name).removesuffix(".__init__"): path for path, name in names.items()}


def imports(path: pathlib.Path, known: dict[str, pathlib.Path]) -> set[str]:
    """Modules of vlt that a file imports, anywhere in it, including for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= (inner & known.keys()) or {node.module}
    return found & known.keys()


MODULES = modules()


@functools.cache
def arrows() -> dict[str, set[str]]:
    """What each module imports; parsed only on demand."""
    return {name: imports(path, MODULES) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def between_rooms() -> set[tuple[str, str]]:
    pairs = {(room(a), room(b)) for a, others in arrows().items() for b in others}
    return {(a, b) for a, b in pairs if a and b and a != b}


def test_every_room_has_a_storey_or_is_a_door():
    known = {name for storey in STOREYS for name in storey} | DOORS
    assert {room(module) for module in MODULES} - {""} == known


def test_arrows_run_down():
    height = {name: level for level, storey in enumerate(STOREYS) for name in storey}
    up = {
        (a, b) for a, b in between_rooms() if a in height and (b in DOORS or height[b] >= height[a])
    }
    assert not up


def test_doors_are_opened_from_the_street():
    assert {(a, b) for a, b in between_rooms() if a in DOORS and b in DOORS} == SHARED


def test_no_file_imports_itself_by_a_detour():
    """Removes modules that import none of those left, until nothing changes."""
    left = {name: set(others) for name, others in arrows().items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"in a circle, or on the way to one: {sorted(left)}"


def test_towers_know_no_method_and_methods_no_task():
    for module, others in arrows().items():
        if room(module) == "models":
            assert {room(other) for other in others} <= {"models", "pytrees"}, module
        if room(module) in METHODS:
            assert not {room(other) for other in others} & {"tasks", "data", "training"}, module


@pytest.mark.parametrize("name", INNER)
def test_arrows_inside_a_room_run_down(name: str):
    height = {f"vlt.{name}.{inner}": level for level, inner in enumerate(INNER[name])}
    pairs = {(module, other) for module, others in arrows().items() for other in others}
    inner = {tuple(".".join(each.split(".")[:3]) for each in pair) for pair in pairs}
    up = {(a, b) for a, b in inner if height.get(b, -1) > height.get(a, len(height))}
    assert not up


def test_the_loop_and_the_tasks_are_told_names():
    """The loop gets its task from `tasks.build`; no task imports the protocols of data sets."""
    for module, others in arrows().items():
        if room(module) == "training":
            tasks = {other for other in others if room(other) == "tasks"}
            assert tasks <= {"vlt.tasks.build", "vlt.tasks.task"}, module
        if room(module) == "tasks":
            assert not {other for other in others if other.endswith("protocols")}, module


def test_no_room_but_the_benchmark_needs_what_stands_on_it():
    for module, path in MODULES.items():
        above = re.findall(
            r"^ *(?:from|import) (configs|data_pipelines|launch)\b", path.read_text(), re.M
        )
        assert not above or room(module) == "bench", module


def test_no_two_test_files_share_a_name():
    """pytest would import one of them, and refuse the other only where both are collected."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
