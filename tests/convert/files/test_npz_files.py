"""Archives of numpy: what is read, and what is refused before it runs or grows."""

import zipfile

import ml_dtypes
import numpy as np
import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.files.npz_files import read_npz
from vlt.convert.files.reading import read_checkpoint


def test_an_npz_is_read_without_running_or_inflating_anything(tmp_path):
    path = tmp_path / "x.npz"
    arrays = {"a/b": np.arange(6.0).reshape(2, 3).T, "a/c": np.array(1, ml_dtypes.bfloat16)}
    np.savez(path, **arrays, d=np.zeros((0, 3)))
    read = read_npz(path)
    np.testing.assert_array_equal(read["a"]["b"], arrays["a/b"])
    assert read["a"]["c"].dtype == ml_dtypes.bfloat16 and read["a"]["c"] == 1
    assert read["d"].shape == (0, 3)

    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for wrong, message in (
        ({"a": np.array([Code()], object)}, "an array of object, not of numbers"),
        ({"a": np.array(["text"])}, "not of numbers"),
        ({"a": np.zeros(2, "V3")}, "not of numbers"),
        ({"a": np.zeros(2), "a/b": np.zeros(2)}, "that 'a/b' begins with"),
    ):
        np.savez(path, **wrong)
        with pytest.raises(ConversionError, match=message):
            read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
    for shape in (b"(99999999999,)", b"(-1,)", b"(2.5,)", b"(1,)" + b" " * 20):
        text = (header % shape).ljust(127) + b"\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", text + b"\0" * 8)
        with pytest.raises(ConversionError, match=r"a.npy: (no array|an array of shape)"):
            read_checkpoint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\0" * 2**26)
    with pytest.raises(ConversionError, match="more than 8 times the size of the file"):
        read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ConversionError, match="broken zip archive"):
        read_checkpoint(path)
