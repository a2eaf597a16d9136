"""config.json of a stranger's model folder: read, or refused in a sentence that names the file."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlt.data.manifests.resources import resolve
from vlt.methods import build_methods
from vlt.model_io.folder import ModelFolderError, model_shapes, read_model_config

SOUND = json.loads((resolve("tiny_clip") / "config.json").read_text("utf-8"))
for tower in ("visual", "text"):
    SOUND["spec"][tower]["layers"] = 1  # shapes of one block are as good as those of four
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 10**6, 10**9, 2**63, 10**30])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def places(tree: Any, way: tuple = ()) -> list[tuple]:
    """The path to every value in nested dicts and lists."""
    if not isinstance(tree, (dict, list)):
        return []
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    return [found for key, x in items for found in [(*way, key), *places(x, (*way, key))]]


def changed(way: tuple, value: Any) -> dict[str, Any]:
    """The sound config with another value in one place."""
    tree: Any = copy.deepcopy(SOUND)
    whole = tree
    for key in way[:-1]:
        tree = tree[key]
    tree[way[-1]] = value
    return whole


def written(folder: Path, text: str) -> Path:
    (folder / "config.json").write_text(text, "utf-8")
    return folder


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(way=st.sampled_from(places(SOUND)), value=VALUES)
def test_any_value_in_any_place_is_read_or_refused(tmp_path_factory, way, value):
    folder = written(tmp_path_factory.getbasetemp(), json.dumps(changed(way, value)))
    try:
        config = read_model_config(folder)
    except ModelFolderError as error:
        assert str(folder / "config.json") in str(error)
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        model_shapes(config.spec, config.methods, config.frames)


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (
            ("spec", "visual", "layers"),
            10**6,
            r"spec\.visual\.layers must be between 1 and 128, got 1000000",
        ),
        (
            ("spec", "visual", "width"),
            "96",
            r"spec\.visual\.width must be a whole number, got '96'",
        ),
        (("spec", "text", "vocab"), None, r"spec\.text\.vocab must be a whole number, got None"),
        (
            ("spec", "visual", "norm_eps"),
            float("nan"),
            r"spec\.visual\.norm_eps must be .*, got nan",
        ),
        (("spec", "embed_dim"), True, r"spec\.embed_dim must be .*, got True"),
        (("spec", "visual"), [], r"spec\.visual must be {.*}, got \[\]"),
        (("methods",), ["lora"], r"config\.methods must be {.*}, got \['lora'\]"),
        (("methods",), {"lora": {"rank": "8"}}, r"'lora'\.rank must be a whole number, got '8'"),
        (("methods",), {"lora": 3}, "method 'lora' must be {.*}, got 3"),
        (
            ("preprocessing", "mean"),
            [0.5, 0.5],
            r"preprocessing\.mean must be .*, got \[0\.5, 0\.5\]",
        ),
        (("preprocessing", "std"), [0.5, 0.5, 0], r"preprocessing\.std must be numbers > 0"),
        (("preprocessing", "resize"), "cubic", r"resize='cubic' .did you mean 'bicubic'"),
        (("frames",), "12", r"config\.frames must be .*, got '12'"),
        (("format",), 7, "format is 7, not 1"),
    ],
)
def test_the_field_and_what_is_needed_are_named(tmp_path: Path, way, value, message):
    with pytest.raises(ModelFolderError, match=message):
        read_model_config(written(tmp_path, json.dumps(changed(way, value))))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{", '{"format": 1}', "[" * 100_000, '{"format":' + "9" * 10_000 + "}"],
    ids=["empty", "list", "number", "half", "bare", "deep", "long number"],
)
def test_what_is_no_config_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        read_model_config(written(tmp_path, text))


@pytest.mark.parametrize("name", ["matching", "branch", "over_time", "__init__", "os", "lora.x"])
def test_only_methods_are_methods(name: str):
    with pytest.raises(ValueError, match=f"unknown method '{name}'") as caught:
        build_methods({name: {}})
    assert f"did you mean '{name}'" not in str(caught.value)
    assert "matching" not in str(caught.value).removeprefix(f"unknown method '{name}'")
