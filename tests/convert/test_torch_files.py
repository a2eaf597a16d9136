"""torch's file formats, read without torch."""

import argparse
import pickle
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_python

from vlt.convert.errors import ConversionError
from vlt.convert.reading import read_checkpoint


def _tensors() -> dict[str, torch.Tensor]:
    grid = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    numbers = torch.linspace(-3, 3, 7)
    tensors = {
        "plain": grid,
        "transposed": grid.T,
        "strided": grid[1::2, ::3],
        "expanded": torch.arange(3.0)[:, None].expand(3, 4),
        "scalar": torch.tensor(4.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    for name in ("float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8"):
        tensors[name] = numbers.abs().to(getattr(torch, name))
    tensors["bool"] = numbers > 0
    return tensors


def _bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous()
    return flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@pytest.mark.parametrize("zipped", [True, False])
def test_every_dtype_and_stride(tmp_path: Path, zipped: bool):
    tensors = _tensors()
    path = tmp_path / "weights.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path).tensors
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].shape == tensor.shape, name
        assert str(read[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert np.ascontiguousarray(read[name]).tobytes() == _bits(tensor), name


def test_tied_tensors_share_their_storage(tmp_path: Path):
    weight = torch.randn(3, 3)
    torch.save({"a": weight, "b": weight.T}, tmp_path / "tied.pt")
    read = read_checkpoint(tmp_path / "tied.pt").tensors
    assert np.shares_memory(read["a"], read["b"])
    np.testing.assert_array_equal(read["a"], read["b"].T)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_wrapped_dict_is_unwrapped_and_the_rest_listed(tmp_path: Path, wrapper: str):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = {
        "meta": {"epoch": 1, "args": argparse.Namespace(lr=0.1), "seen": defaultdict(list)},
        wrapper: model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scores": np.arange(3.0),
    }
    torch.save(saved, tmp_path / "best.pth")
    checkpoint = read_checkpoint(tmp_path / "best.pth")
    assert checkpoint.tensors.keys() == {"weight", "bias"}
    assert checkpoint.other == ["meta", "optimizer", "scores"]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_torchscript_archive_is_its_state_dict(tmp_path: Path, openai: torch.nn.Module):
    example = torch.zeros(1, 3, 24, 24).half(), torch.zeros(1, 12, dtype=torch.long)
    path = tmp_path / "clip.pt"
    torch.jit.trace(openai, example, check_trace=False).save(path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.other == []
    assert checkpoint.tensors.keys() == openai.state_dict().keys()
    for name, tensor in openai.state_dict().items():
        assert np.ascontiguousarray(checkpoint.tensors[name]).tobytes() == _bits(tensor), name


def test_a_pickled_module_is_refused(tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ConversionError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "module.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_truncated_file_is_an_error(tmp_path: Path, zipped: bool, share: float):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.randn(400)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ConversionError, match=re.escape(str(path))):
        read_checkpoint(path)


def test_a_flipped_bit_is_an_error(tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.full((64,), 1.5)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(1.5).tobytes() * 8) + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConversionError, match="Bad CRC-32"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html>", "not a file that torch saved"),
        (pickle.dumps({"a": 1}), "not one that torch.save wrote"),
        (b"x" * 257 + b"ustar" + b"x" * 99, "tar format"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=f"{path}.*{reason}"):
        read_checkpoint(path)


def test_torch_is_not_needed(tmp_path: Path):
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "a.pt")
    code = """
    import pathlib, sys
    sys.modules["torch"] = None
    from vlt.convert.reading import read_checkpoint
    print(read_checkpoint(pathlib.Path(sys.argv[1])).tensors["a"].dtype)
    """
    assert run_python(code, tmp_path / "a.pt").strip() == "bfloat16"
