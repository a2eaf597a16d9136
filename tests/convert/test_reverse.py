"""Writing the published layout loses nothing that is already there."""

import json
import shutil

import pytest
import safetensors.numpy

from vlt.convert import ConversionError, reverse
from vlt.data.manifests.resources import resolve
from vlt.model_io.folder import ModelFolderError
from vlt.storage.files import WriteError

MODEL = resolve("tiny_clip")


def written(target):
    reverse(MODEL, target, family="clip_hf", overwrite=True)
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.mark.smoke
def test_what_was_written_is_replaced_unless_it_holds_more(tmp_path):
    target = tmp_path / "hf"
    before = written(target)
    assert written(target) == before
    for name in ("notes.txt", "pytorch_model.bin", "onnx/model.onnx"):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("mine")
        with pytest.raises(ModelFolderError, match=f"also holds .*{name}"):
            written(target)
        (target / name).unlink()
    (target / "onnx").rmdir()
    assert written(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_config_alone_makes_no_folder_replaceable(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelFolderError, match="is not a folder of a published layout"):
        written(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "clip"}'


def test_a_file_is_replaced_only_by_its_like(tmp_path):
    target = tmp_path / "weights.safetensors"
    target.write_text("not what its name says")
    with pytest.raises(ModelFolderError, match="is not a safetensors file"):
        reverse(MODEL, target, family="openai", overwrite=True)
    target.rename(tmp_path / "text")
    for name in ("weights.safetensors", ".weights.safetensors.unfinished"):
        (tmp_path / name).symlink_to(tmp_path / "text")
    with pytest.raises(WriteError, match="is a link to"):
        reverse(MODEL, target, family="openai", overwrite=True)
    target.unlink()
    for _ in range(2):
        reverse(MODEL, target, family="openai", overwrite=True)
    assert (tmp_path / "text").read_text() == "not what its name says"


def test_methods_without_tensors_are_named(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    target = tmp_path / "weights.safetensors"
    assert "not written" not in reverse(model, target, family="openai")
    changed(model, methods={"tome": {"r": 1}}, frames=4)
    report = reverse(model, target, family="openai", overwrite=True)
    assert "tome: has no tensors, not written" in report


def test_a_dtype_that_is_none(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    reverse(model, tmp_path / "hf", family="clip_hf")
    names = safetensors.numpy.load_file(tmp_path / "hf/model.safetensors")
    for dtype in ("object", "complex128"):
        changed(model, source={"layout": "clip_hf", "dtypes": dict.fromkeys(names, dtype)})
        with pytest.raises(ConversionError, match=f"source.dtypes: unknown dtype '{dtype}'"):
            reverse(model, tmp_path / "x.safetensors")


def changed(model, **fields):
    """Changes fields of a model folder's config.json."""
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
