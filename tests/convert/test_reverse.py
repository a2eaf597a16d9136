"""Writing the published layout loses nothing that is already there."""

import pytest

from vlt.convert import reverse
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
