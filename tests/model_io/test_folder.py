"""Model folders are complete or refused."""

import copy
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlt.model_io import folder as model_folder
from vlt.model_io.folder import (
    ModelConfig,
    ModelFolderError,
    model_shapes,
    read_model_config,
    read_model_folder,
    write_model_folder,
)
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.storage.files import WriteError

SPEC = DualEncoderSpec(VisionSpec(16, 8, 8, 2, 2, 16), TextSpec(6, 20, 8, 1, 2, 16), embed_dim=4)
CONFIG = ModelConfig(
    family="clip",
    spec=SPEC,
    methods={"btadapter": {"depth": 1}},
    preprocessing={"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
    frames=8,
)


def _params(config: ModelConfig) -> dict:
    rng = np.random.default_rng(0)
    shapes = model_shapes(config.spec, config.methods)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Path) -> Path:
    write_model_folder(tmp_path / "model", CONFIG, _params(CONFIG), tokenizer, "a report\n")
    return tmp_path / "model"


def test_all_of_it_comes_back(folder: Path):
    config, params = read_model_folder(folder)
    assert config == CONFIG
    assert jax.tree.all(jax.tree.map(np.array_equal, params, _params(CONFIG)))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "report.txt",
        "tokenizer",
        "weights",
    ]
    assert (folder / "report.txt").read_text() == "a report\n"


def test_a_failed_write_leaves_nothing(tmp_path: Path, tokenizer: Path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(model_folder, "copy_tokenizer", fail)
    with pytest.raises(OSError, match="no space"):
        write_model_folder(tmp_path / "model", CONFIG, _params(CONFIG), tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_a_failed_overwrite_keeps_what_was_there(folder: Path, tokenizer: Path, monkeypatch):
    monkeypatch.setattr(model_folder, "copy_tokenizer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_model_folder(folder, CONFIG, _params(CONFIG), tokenizer, overwrite=True)
    monkeypatch.undo()
    assert read_model_folder(folder)[0] == CONFIG


def test_an_existing_folder_is_replaced_only_when_asked(folder: Path, tokenizer: Path):
    with pytest.raises(ModelFolderError, match="exists; --overwrite"):
        write_model_folder(folder, CONFIG, _params(CONFIG), tokenizer)
    config = ModelConfig("clip", SPEC, {}, CONFIG.preprocessing)
    write_model_folder(folder, config, _params(config), tokenizer, overwrite=True)
    assert read_model_folder(folder)[0] == config
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "tokenizer"]


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "name", ["notes.txt", "data/video.mp4", "weights/notes.txt", "tokenizer/notes.txt"]
)
def test_a_folder_with_what_we_never_write_is_not_replaced(folder, tokenizer, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(
        ModelFolderError, match=f"also holds .*{name}, which is not part of a model folder"
    ):
        write_model_folder(folder, CONFIG, _params(CONFIG), tokenizer, overwrite=True)
    assert (folder / name).read_text() == "mine" and read_model_folder(folder)[0] == CONFIG


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_is_never_replaced_or_followed(folder, tokenizer, overwrite):
    link = folder.with_name("link")
    for target in (folder, folder.with_name("nothing")):
        link.symlink_to(target)
        with pytest.raises(WriteError, match="link is a link to"):
            write_model_folder(link, CONFIG, _params(CONFIG), tokenizer, overwrite=overwrite)
        link.unlink()
    assert read_model_folder(folder)[0] == CONFIG
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "tokenizer"]


def test_what_came_there_in_the_meantime_is_not_replaced(tmp_path):
    target = tmp_path / "model"
    with (
        pytest.raises(ModelFolderError, match="exists; --overwrite"),
        model_folder.new_folder(target, False, model_folder.MODEL_FOLDER),
    ):
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    assert (target / "notes.txt").read_text() == "mine" and list(tmp_path.iterdir()) == [target]


def test_half_of_a_folder_is_refused(folder: Path):
    with pytest.raises(ModelFolderError, match="no such folder"):
        read_model_folder(folder / "nothing")
    weights = folder / "weights"
    weights.rename(folder / "aside")
    with pytest.raises(ModelFolderError, match="weights"):
        read_model_folder(folder)
    (folder / "aside").rename(weights)
    shutil.rmtree(next(path for path in weights.iterdir() if path.is_dir()))
    with pytest.raises(ModelFolderError, match="weights"):
        read_model_folder(folder)
    (folder / "config.json").write_text('{"format": 1, ')
    with pytest.raises(ModelFolderError, match="not readable JSON"):
        read_model_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFolderError, match="half written or not a model folder"):
        read_model_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, not 1"),
        ({"spec": {"embed_dim": 4}}, "'visual'"),
        ({"colour": "red"}, "config has no field 'colour'"),
    ],
)
def test_another_format_is_refused(folder: Path, change: dict, message: str):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelFolderError, match=message):
        read_model_config(folder)


def test_weights_of_another_model_list_every_difference(folder: Path):
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["spec"]["embed_dim"] = 5
    fields["spec"]["text"]["layers"] = 2
    fields["methods"]["btadapter"]["gates"] = "none"
    path.write_text(json.dumps(fields))
    with pytest.raises(ModelFolderError) as error:
        read_model_folder(folder)
    for leaf in (
        "visual/projection/kernel",
        "text/blocks_1/norm1/scale",
        "visual/btadapter/final_gate",
    ):
        assert leaf in str(error.value)


def _places(value, place=()):
    """Yields every position in a config, as keys and indices from the top."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, child in value.items() if isinstance(value, dict) else ():
        yield (*place, key)
        yield from _places(child, (*place, key))


WHOLE = json.loads(json.dumps(CONFIG.to_dict()))
WHOLE["methods"] |= {"lora": {"rank": 2}, "separate_st": {"layers": [1]}}
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**6, 10**9, 10**40]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(_places(WHOLE))), VALUES, st.booleans())
def test_any_value_in_any_place_is_a_config_or_a_sentence(tmp_path_factory, place, value, added):
    fields = copy.deepcopy(WHOLE)
    *branches, last = place
    branch = functools.reduce(lambda inner, key: inner[key], branches, fields)
    if added and isinstance(branch, dict):
        branch[f"{last}_"] = value
    else:
        branch[last] = value
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    try:
        read_model_config(folder)
    except ModelFolderError as error:
        assert str(error).startswith(f"{folder / 'config.json'}: ")
        assert len(str(error)) < 600


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spec.visual.layers", "two", "spec.visual.layers must be a whole number, got 'two'"),
        ("spec.visual.layers", 10**6, "spec.visual.layers must be between 1 and 128, got 1000000"),
        (
            "spec.visual.width",
            10**9,
            "spec.visual.width must be between 1 and 65536, got 1000000000",
        ),
        ("spec.visual.width", True, "spec.visual.width must be a whole number, got True"),
        ("spec.visual.heads", 3, "spec.visual.heads=3 does not divide width=8"),
        ("spec.visual.patch_size", 0, "spec.visual.patch_size must be between 1 and 4096, got 0"),
        ("spec.visual.patch_size", 17, "spec.visual.patch_size=17 is more than image_size=16"),
        ("spec.visual.activation", "mish", "spec.visual.activation='mish'; choose from gelu, gel"),
        ("spec.text.norm_eps", float("nan"), "spec.text.norm_eps must be a finite number, got nan"),
        ("spec.text", None, "spec.text must be {.*}, got None"),
        ("spec.embed_dim", 0, "spec.embed_dim of a dual_encoder must be >= 1, got 0"),
        ("spec.colour", 1, "spec has no field 'colour'"),
        (
            "frames",
            10**7,
            "model.frames must be between 1 and 262144 for 4 patches a frame, got 10000000",
        ),
        ("frames", "8", "config.frames must be a whole number or null, got '8'"),
        ("frame_norm", 1, "config.frame_norm must be true or false, got 1"),
        (
            "methods",
            ["btadapter"],
            r"config.methods must be {name: value, ...}, got \['btadapter'\]",
        ),
        ("methods.btadapter", 3, "method 'btadapter' must be {option: value, ...}, got 3"),
        (
            "methods.btadapter.depth",
            "x",
            "method 'btadapter'.depth must be a whole number, got 'x'",
        ),
        ("methods.btadapter.dept", 2, "no option 'dept' .did you mean 'depth'"),
        ("preprocessing.mean", [0.5, 0.5], "preprocessing.mean must be a list of 3 finite numbers"),
        ("preprocessing.std", [0.5, 0.5, 0], "preprocessing.std must be numbers > 0"),
        ("preprocessing.image_size", 17, "preprocessing.image_size=17: the vision tower takes 16"),
        ("source", ["clip_hf"], "config.source must be .name: value, ...., got"),
        ("source.layout", ["clip"], "source.layout must be a text, got"),
        ("source.dtypes", [1], "source.dtypes must be .name: value, ...., got"),
        ("source.dtypes", {"a": 1}, "source.dtypes: 'a' must be a text, got 1"),
        ("source.aliases", [1], "source.aliases must be .name: value, ...., got"),
        ("source.aliases", {"a": ["b"]}, "source.aliases: 'a' must be a text, got"),
        ("source.dropped", 5, "source.dropped must be a list of texts, got 5"),
        ("source.left_out", [5], "source.left_out must be a list of texts, got"),
        ("source.taken_off", 5, "source.taken_off must be a list of texts, got 5"),
        ("source.stacked", 5, "source.stacked must be true or false, got 5"),
        ("source.layer", "a", "source has no field 'layer'; choose from aliases, .*, layout"),
        ("preprocessing.resize", "cubic", "preprocessing.resize='cubic' .did you mean 'bicubic'"),
    ],
)
def test_the_key_and_what_would_be_right_are_named(tmp_path: Path, key, value, message):
    fields = json.loads(json.dumps(CONFIG.to_dict()))
    *branches, last = key.split(".")
    functools.reduce(lambda inner, name: inner[name], branches, fields)[last] = value
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelFolderError, match=message):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "\xff"}', "not readable JSON"),
        (b'{"a":' * 10**5, "not readable JSON"),
        (b"[" * 10**5, "not readable JSON"),
        (b"3", "must hold an object {key: value, ...}, holds 3"),
        (b'{"format": "' + b"x" * 2**20 + b'"}', "more than 1048576 bytes"),
        (b'{"model": {}, "train": {}}', "folder of a run, python -m vlt.export makes a model"),
        (b'{"model_type": "clip"}', "a Hugging Face folder must be converted first"),
    ],
)
def test_files_that_hold_no_config(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match=message):
        read_model_config(tmp_path)


def test_a_folder_in_place_of_the_config(tmp_path: Path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelFolderError, match="not readable JSON"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"tree_metadata": 3},
        {"use_ocdbt": False},
        {"value_type": "os.system"},
        {"key": "../../../secret", "use_ocdbt": False},
    ],
)
def test_descriptions_of_weights_that_point_elsewhere_are_refused(folder: Path, change: dict):
    """Reading weights turns the keys of leaves into paths, and their types into names."""
    file = folder / "weights" / "state" / "_METADATA"
    fields = json.loads(file.read_text())
    leaf = next(iter(fields["tree_metadata"].values()))
    if "key" in change:
        leaf["key_metadata"][-1]["key"] = change["key"]
    if "value_type" in change:
        leaf["value_metadata"]["value_type"] = change["value_type"]
    fields |= {key: value for key, value in change.items() if key in fields}
    file.write_text(json.dumps(fields))
    with pytest.raises(ModelFolderError, match="weights"):
        read_model_folder(folder)
