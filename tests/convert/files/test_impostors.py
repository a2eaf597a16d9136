"""Files that are something other than a checkpoint, recognised by their first bytes."""

import bz2
import gzip
import io
import lzma
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from vlt.convert.errors import ConversionError
from vlt.convert.files.impostors import describe_impostor, impostor_or
from vlt.convert.files.reading import read_checkpoint

_OID = "4d" * 32
_LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{_OID}\nsize 605157884\n"


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return stream.getvalue()


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(3.0))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (_LFS.encode(), "a git-lfs pointer to a file of 605,157,884 bytes.*`git lfs pull`"),
        (_LFS.replace("\n", "\r\n").encode(), "a git-lfs pointer to a file of 605,157,884 bytes"),
        (_LFS.replace("605157884", "9" * 5000).encode(), "a git-lfs pointer to a file, not"),
        (b"# xet version 0\nfilesize = 1234567\nhash = '0a'\n", "Xet pointer.*1,234,567 bytes"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign\n in</title>", "web page with.*'Sign in'"),
        (b"\xef\xbb\xbf\n<!-- a --> <HTML lang=en><body>404", "a web page, which a server sent"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "an XML text.*AccessDenied"),
        (b'{"error":"Repository not found"}', "a JSON text.*Repository not found"),
        (b"Entry not found", "a text in place of the file: 'Entry not found'"),
        ("Zugriff verweigert: ü".encode() * 400, "a text in place of the file: 'Zugriff"),
        (gzip.compress(b"abc", mtime=0), "gzip: unpack"),
        (bz2.compress(b"abc"), "bzip2: unpack"),
        (lzma.compress(b"abc"), "xz: unpack"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "zstd: unpack"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "7z: unpack"),
        (_tar(), "a tar archive.*the tar format of torch"),
        (_npy(), "a numpy array"),
        (b"\0" * 5000, "zeros at its start"),
        (b"\0" * 64, "zeros at its start"),
    ],
)
def test_what_it_is(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    found = describe_impostor(path)
    assert found is not None
    assert re.search(said, found), found


def test_what_a_terminal_obeys_is_not_passed_on(tmp_path: Path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"<html><title>\x1b]0;mine\x07</title>")
    assert "\x1b" not in str(describe_impostor(path))


def test_checkpoints_are_no_impostors(tmp_path: Path):
    arrays = {"a": np.arange(6, dtype=np.float32)}
    tensors = {"a": torch.arange(6.0)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pt")
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"video1": ["a caption"]}))
    for path in tmp_path.iterdir():
        assert describe_impostor(path) is None, path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_LFS.encode(), "a git-lfs pointer to a file of 605,157,884 bytes"),
        (b"", "an empty file"),
        (b"\xff\xfe\x01", "broken zip archive, or cut short at 3 bytes"),
    ],
)
def test_an_npz_that_is_none(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=f"weights.npz: {said}"):
        read_checkpoint(path)


def test_gzip_where_it_belongs(tmp_path: Path):
    path = tmp_path / "merges.gz"
    path.write_bytes(gzip.compress(b"abc"))
    assert impostor_or(path, "too few", gzipped=True) == "too few"
    assert impostor_or(tmp_path / "absent", "too few") == "too few"
