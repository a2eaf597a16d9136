"""Files of any name, and shards."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from vlt.convert.errors import ConversionError
from vlt.convert.files.reading import read_checkpoint

TENSORS = {"a.weight": np.arange(3.0), "b.weight": np.ones((2, 2), np.float16)}


@pytest.mark.parametrize("name", ["x.ckpt", "x.th", "x.model", "x", "x.safetensors", "x.bin"])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_content_tells_what_a_file_is(tmp_path: Path, name: str, kind: str):
    path = tmp_path / name
    if kind == "safetensors":
        safetensors.numpy.save_file(TENSORS, path)
    else:
        tensors = {key: torch.from_numpy(x) for key, x in TENSORS.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    read = read_checkpoint(path).tensors
    assert read.keys() == TENSORS.keys()
    assert all(np.array_equal(read[key], x) for key, x in TENSORS.items())


def _shards(folder: Path, placement: object, **shards: dict[str, np.ndarray]) -> Path:
    for name, tensors in shards.items():
        safetensors.numpy.save_file(tensors, folder / f"{name}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placement}))
    return index


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"a": 5}, "no 'weight_map' of file names"),
        ({"a": ["one.safetensors"]}, "no 'weight_map' of file names"),
        ([], "no 'weight_map' of file names"),
        ({"a": "../one.safetensors"}, "is outside its folder"),
        ({"a": ".."}, "no such file|outside"),
        ({"a": "three.safetensors"}, "three.safetensors: no such file"),
        ({"a": "one.safetensors", "c": "one.safetensors"}, "its shards lack c"),
        (
            {"a": "one.safetensors", "b": "two.safetensors"},
            "a is in two.safetensors and in another",
        ),
        ({"b": "one.safetensors"}, "b is in two.safetensors and in another|its shards lack b"),
    ],
)
def test_an_index_that_is_wrong(tmp_path: Path, placement: object, message: str):
    one = {"a": np.ones(2)}
    index = _shards(tmp_path, placement, one=one, two=one | {"b": np.ones(2)})
    with pytest.raises(ConversionError, match=message):
        read_checkpoint(index)


def test_a_shard_cut_short_is_named(tmp_path: Path):
    index = _shards(tmp_path, {"a": "one.safetensors"}, one={"a": np.ones(2)})
    shard = tmp_path / "one.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ConversionError, match=f"{re.escape(str(shard))}: a download cut short"):
        read_checkpoint(index)


def test_names_in_shards_lose_the_words_of_frameworks(tmp_path: Path):
    names = ("_orig_mod.a", "_orig_mod.b")
    index = _shards(
        tmp_path,
        {names[0]: "one.safetensors", names[1]: "two.safetensors"},
        one={names[0]: np.ones(2)},
        two={names[1]: np.ones(2)},
    )
    read = read_checkpoint(index)
    assert [*read.tensors] == ["a", "b"] and read.taken_off == ["_orig_mod."]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_git_left_empty(tmp_path: Path, name: str):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    safetensors.numpy.save_file(TENSORS, tmp_path / "model.safetensors")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(ConversionError, match=f"{name}: a git-lfs pointer to a file of 1,234"):
        read_checkpoint(tmp_path)
