"""torch's file formats, read without torch."""

import argparse
import mmap
import os
import pickle
import re
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import run_python
from pickle_code import call, code, storage, write_legacy, write_zip
from pickle_code import tensor as tensor_code

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.files.mapped import file_of, release_pages
from vlt.convert.files.placeholders import Name, Opaque
from vlt.convert.files.reading import read_checkpoint
from vlt.convert.files.torch_files import read_torch_file


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
    for name in (
        *("float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8"),
        *("uint16", "uint32", "uint64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    ):
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
        (b"<!DOCTYPE html>", "not a file that torch saved, but a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\nsize 12345\n",
            "pointer to a file of 12,345",
        ),
        (b'{"error": "Not found"}', "a JSON text in place of the file"),
        (b"Entry not found", "a text in place of the file"),
        (b"\x1f\x8b\x08" + bytes(20), "compressed with gzip"),
        (bytes(2000), "zeros at its start"),
        (pickle.dumps({"a": 1}), "not one that torch.save wrote"),
        (b"x" * 257 + b"ustar" + b"x" * 99, "tar format"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=f"{path}.*{reason}"):
        read_checkpoint(path)


_WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
_SIX = np.arange(6, dtype=np.float32)


@_WRITERS
def test_what_code_writes_by_hand_is_read(tmp_path: Path, write):
    """The files that the tests below damage are valid to begin with."""
    write(tmp_path / "a.pt", code({"a": tensor_code()}) + b".", {"0": _SIX.tobytes()})
    assert read_torch_file(tmp_path / "a.pt")["a"].tolist() == _SIX.tolist()
    with pytest.raises(UnsafePickleError, match=r"a\.pt: the pickle asks for os\.system"):
        write(tmp_path / "a.pt", call("os.system", "true") + b".", {})
        read_torch_file(tmp_path / "a.pt")


@_WRITERS
@pytest.mark.parametrize(
    "spoiled",
    [
        tensor_code(storage(7), 0, (7,), (1,)),
        tensor_code(storage(6), 0, (7,), (1,)),
        tensor_code(storage(6, "1"), 0, (6,), (1,)),
        tensor_code(storage(6, "../../0"), 0, (6,), (1,)),
        tensor_code(storage(6, "0", "torch.DoubleStorage"), 0, (6,), (1,)),
        tensor_code(storage(2**62), 0, (2**62,), (1,)),
        tensor_code(storage(2**64), 2**63, (2,), (1,)),
        tensor_code(storage(6, "0", "torch.FloatStorage", ("v", 4, 4)), 0, (4,), (1,)),
        tensor_code(storage(6, "0", "torch.FloatStorage", ("v", 4, 2)), 0, (3,), (1,)),
    ],
    ids=lambda pickled: str(len(pickled)),
)
def test_a_tensor_that_leaves_its_storage_is_an_error(tmp_path: Path, write, spoiled: bytes):
    write(
        tmp_path / "a.pt", code({"a": spoiled}) + b".", {"0": _SIX.tobytes(), "2": _SIX.tobytes()}
    )
    with pytest.raises(ConversionError, match=str(tmp_path)):
        read_torch_file(tmp_path / "a.pt")


@_WRITERS
def test_a_view_of_a_storage_is_a_part_of_it(tmp_path: Path, write):
    part = tensor_code(storage(6, "0", "torch.FloatStorage", ("v", 4, 2)), 0, (2,), (1,))
    write(tmp_path / "a.pt", code({"a": part}) + b".", {"0": _SIX.tobytes()})
    assert read_torch_file(tmp_path / "a.pt")["a"].tolist() == [4, 5]


@pytest.mark.parametrize("keys", ["0", [0], ["0", "0"], ["0", "1"], [], {"0": 1}, [["0"]]], ids=str)
def test_an_old_file_lists_its_storages(tmp_path: Path, keys):
    write_legacy(
        tmp_path / "a.pt", code({"a": tensor_code()}) + b".", {"0": _SIX.tobytes()}, keys=keys
    )
    with pytest.raises(ConversionError, match="storage"):
        read_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "parts",
    [
        [0x1950A86A20F9469CFC6C],
        [0x1950A86A20F9469CFC6C, 1001.0],
        [0x1950A86A20F9469CFC6C, 1001],
        [0x1950A86A20F9469CFC6C, 1001, 5],
        [0x1950A86A20F9469CFC6C, 1001, ["little_endian"]],
        [0x1950A86A20F9469CFC6C, 1001, {"little_endian": False}],
        [0x1950A86A20F9469CFC6C, 1001, {"little_endian": [1]}],
        [float(0x1950A86A20F9469CFC6C), 1001, {"little_endian": True}],
    ],
    ids=lambda parts: str(parts[1:]),
)
def test_an_old_file_begins_as_torch_begins_it(tmp_path: Path, parts: list):
    data = b"".join(pickle.dumps(part, 2) for part in parts)
    (tmp_path / "a.pt").write_bytes(data + code({"a": 1}) + b".")
    with pytest.raises(ConversionError, match="torch.save wrote|other byte order|pickle"):
        read_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_download_cut_short_says_how_much_is_there(tmp_path: Path, zipped: bool, share: float):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.randn(4000)}, path, _use_new_zipfile_serialization=zipped)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: int(share * size)])
    with pytest.raises(ConversionError, match="a download cut short") as error:
        read_torch_file(path)
    here, *least = re.findall(r"[\d,]+(?= bytes)|(?<=least )[\d,]+", str(error.value))
    assert here == f"{int(share * size):,}"
    if share == 0.5:  # nothing tells what follows an archive's last storage
        assert 16_000 < int(least[0].replace(",", "")) <= size


def test_a_download_cut_within_its_pickle(tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.randn(4)}, path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ConversionError, match="a download cut short: 150 bytes are here"):
        read_torch_file(path)


def test_the_shared_download_cut_short(shared: Path):
    with pytest.raises(ConversionError, match="64,422 bytes of at least 120,360 are here"):
        read_checkpoint(shared / "faults/half_downloaded.pt")


@pytest.mark.parametrize("what", ["multisteplr_state", "path_in_config"])
def test_shared_checkpoints_with_harmless_extras(shared: Path, what: str):
    checkpoint = read_checkpoint(shared / f"faults/checkpoint_with_{what}.pth")
    assert "visual.class_embedding" in checkpoint.tensors


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_state_beside_the_weights(tmp_path: Path, zipped: bool):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7])
    saved = {
        "state_dict": model.state_dict(),
        "lr_schedulers": [scheduler.state_dict()],
        "optimizer": optimizer,
        "callbacks": {type(model): {"best": Path("/a/b")}},
        "random": (torch.get_rng_state(), np.random.default_rng(0)),
        "dtype": torch.float16,
    }
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    read = read_torch_file(tmp_path / "a.pt")
    assert read["state_dict"].keys() == {"weight", "bias"}
    assert read["lr_schedulers"][0]["milestones"] == {3: 1, 7: 1}
    assert [*map(str, read["callbacks"])] == ["torch.nn.modules.linear.Linear"]
    assert str(read["optimizer"]) == "<torch.optim.sgd.SGD>"
    assert type(read["dtype"]) is Name
    assert type(read["random"][1]) is Opaque


_NOT_DENSE = {
    "sparse": lambda: torch.eye(2).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(2, device="meta"),
    "conjugated": lambda: torch.ones(2, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("kind", _NOT_DENSE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_without_plain_numbers_are_refused(tmp_path: Path, kind: str):
    torch.save({"a": _NOT_DENSE[kind]()}, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match=kind):
        read_torch_file(tmp_path / "a.pt")


def test_a_compressed_archive_is_read(tmp_path: Path):
    pickled = code({"a": tensor_code()}) + b"."
    write_zip(tmp_path / "a.pt", pickled, {"0": _SIX.tobytes()}, zipfile.ZIP_DEFLATED)
    assert read_torch_file(tmp_path / "a.pt")["a"].tolist() == _SIX.tolist()


@pytest.mark.parametrize("place", ["pickle", "storage"])
def test_a_compressed_bomb_is_refused(tmp_path: Path, place: str):
    zeros = bytes(100_000_000)
    pickled = b"N" + (zeros if place == "pickle" else b"") + tensor_code(storage(25_000_000)) + b"."
    write_zip(tmp_path / "a.pt", pickled, {"0": zeros}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ConversionError, match="8 times the size of the file"):
        read_torch_file(tmp_path / "a.pt")


def test_a_file_without_checksums_is_read(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_torch_file(tmp_path / "a.pt")["a"].tolist() == [1, 1, 1]


def test_arrays_are_views_of_the_file(tmp_path: Path):
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "a.pt")
    array = read_torch_file(tmp_path / "a.pt")["a"]
    assert not array.flags.owndata and not array.flags.writeable
    assert isinstance(array.base, mmap.mmap)


def test_what_is_no_file(tmp_path: Path):
    os.mkfifo(tmp_path / "a.pt")
    for path in (tmp_path / "a.pt", tmp_path / "absent.pt", tmp_path):
        with pytest.raises(ConversionError, match=f"^{path}: no such file, or not a plain one"):
            read_torch_file(path)


def test_torch_is_not_needed(tmp_path: Path):
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "a.pt")
    code = """
    import pathlib, sys
    sys.modules["torch"] = None
    from vlt.convert.files.reading import read_checkpoint
    print(read_checkpoint(pathlib.Path(sys.argv[1])).tensors["a"].dtype)
    """
    assert run_python(code, tmp_path / "a.pt").strip() == "bfloat16"


def test_arrays_know_the_file_that_they_are_views_of(tmp_path: Path):
    torch.save({"a": torch.ones(40, 30)}, tmp_path / "a.pth")
    safetensors.torch.save_file({"a": torch.ones(40, 30)}, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        array = read_checkpoint(tmp_path / name).tensors["a"]
        assert isinstance(file_of(array), mmap.mmap) and file_of(array.T) is file_of(array)
        assert file_of(array.copy()) is None
        release_pages(array)
        assert array.sum() == 1200  # read again
