"""ActionCLIP's layouts: read, written back bit for bit, and refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.model_io.folder import read_model_config

SETTINGS = ["visual.heads=1", "text.heads=1"]
UNREAD = "module.frame_position_embeddings.weight"
FUSION = "fusion_model_state_dict"


def entries(shared: Path, name: str, head: str = "") -> dict[str, dict[str, np.ndarray]]:
    """The two entries that ActionCLIP's code saves."""
    found = safetensors.numpy.load_file(shared / f"golden/actionclip/{name}.safetensors")
    starts = {"model_state_dict": "model_state_dict.", FUSION: f"fusion_{head}."}
    return {
        entry: {n.removeprefix(start): x for n, x in found.items() if n.startswith(start)}
        for entry, start in starts.items()
    }


def read(entries: dict, folder: Path, tokenizer: str, *settings: str) -> str:
    """Converts the entries to `folder`/m and returns the report."""
    saved = {
        entry: {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}
        for entry, tensors in entries.items()
    }
    torch.save({"epoch": 3, **saved, "optimizer_state_dict": {}}, folder / "a.pt")
    given = parse_settings([*SETTINGS, *settings])
    return convert(folder / "a.pt", folder / "m", None, given, tokenizer)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("Conv_1D", {"sim_header": "Conv_1D", "published": True}),
        ("Transf", {"sim_header": "Transf", "layers": 6, "max_frames": 16}),
        ("LSTM", {"sim_header": "LSTM"}),
        ("Transf_cls", {"sim_header": "Transf_cls", "layers": 1, "max_frames": 5}),
        ("shift", {"sim_header": "meanP", "shift": True}),
    ],
)
def test_there_and_back(shared, tmp_path, tokenizer, head, options):
    """All tensors but the frame positions, which only one head reads."""
    name = "b_shift_frames4" if head == "shift" else "a_heads_frames5"
    given = entries(shared, name, head)
    report = read(given, tmp_path, tokenizer)
    assert ("actionclip.published: True (as its code is)" in report) == (head == "Conv_1D")
    config = read_model_config(tmp_path / "m")
    assert config.methods == {"actionclip": options}
    assert config.source["layout"] == ("actionclip_shift" if head == "shift" else "actionclip")
    assert not config.frame_norm
    reverse(tmp_path / "m", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    kept = {
        f"{entry}.{n.removeprefix('module.')}": x
        for entry, tensors in given.items()
        for n, x in tensors.items()
        if n != UNREAD or head == "Transf"
    }
    found = {n.replace(".module.", "."): x for n, x in back.items()}
    if head == "shift":  # An empty second entry leaves the first one's names without a prefix.
        found = {f"model_state_dict.{n}": x for n, x in found.items()}
    assert found.keys() == kept.keys()
    for n, x in kept.items():
        assert found[n].dtype == x.dtype and found[n].tobytes() == x.tobytes(), n


@pytest.mark.parametrize(
    ("head", "name", "message"),
    [
        ("Transf", UNREAD, "missing: fusion_model_state_dict.frame_position_embeddings.weight"),
        ("LSTM", "module.lstm_visual.bias_hh_l0", "missing: .*lstm_visual.bias_hh_l0"),
        ("Transf_cls", "module.transformer.cls_token", "missing: .*transformer.cls_token"),
    ],
)
@pytest.mark.slow
def test_files_that_lack_something(shared, tmp_path, tokenizer, head, name, message):
    given = entries(shared, "a_heads_frames5", head)
    del given[FUSION][name]
    with pytest.raises(ConversionError, match=message):
        read(given, tmp_path, tokenizer)


@pytest.mark.slow
def test_settings_of_another_head_are_refused(shared, tmp_path, tokenizer):
    given = entries(shared, "a_heads_frames5", "LSTM")
    with pytest.raises(ConversionError, match="there is no convolution over frames"):
        read(given, tmp_path, tokenizer, "actionclip.published=false")


@pytest.mark.slow
def test_a_shift_is_not_written_as_a_model_without_one(shared, tmp_path, tokenizer):
    read(entries(shared, "b_shift_frames4"), tmp_path, tokenizer)
    with pytest.raises(ConversionError, match="actionclip.shift is True, layout actionclip fixes"):
        reverse(tmp_path / "m", tmp_path / "back.safetensors", "actionclip")
