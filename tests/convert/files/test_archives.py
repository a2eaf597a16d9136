"""Zip archives, sound and hostile."""

import mmap
import struct
import zipfile
from pathlib import Path

import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.files.archives import Archive


def _archive(path: Path) -> Archive:
    with path.open("rb") as file:
        return Archive(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _write(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _patch(path: Path, place: int, form: str, *values: int) -> None:
    """Overwrites fields of the first entry in the central directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + place, *values)
    path.write_bytes(data)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries_are_read(tmp_path: Path, compression: int):
    entries = {"a/1": b"abc" * 100, "a/2": b"", "b": bytes(range(256))}
    archive = _archive(_write(tmp_path / "a.zip", entries, compression))
    assert archive.entries.keys() == entries.keys()
    assert {name: bytes(archive.read(name)) for name in entries} == entries
    assert all(archive.read(name).readonly for name in entries)


def test_two_entries_of_one_name_are_refused(tmp_path: Path):
    path = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(ConversionError, match="two entries have one name"):
        _archive(path)


def test_a_deflated_bomb_is_refused_before_it_is_inflated(tmp_path: Path):
    path = _write(tmp_path / "a.zip", {"a": bytes(200_000_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ConversionError, match="8 times the size of the file"):
        _archive(path).read("a")
    # The size that the archive claims is not trusted.
    _patch(path, 24, "<I", 100)
    with pytest.raises(ConversionError):
        _archive(path).read("a")


def test_entries_over_each_other_are_read_no_more_than_8_times(tmp_path: Path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first", bytes(4_000_000))
        for number in range(50):
            entry = zipfile.ZipInfo(f"entry{number}")
            entry.header_offset, entry.CRC = 0, archive.infolist()[0].CRC
            entry.file_size = entry.compress_size = 4_000_000
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
    found = _archive(path)
    with pytest.raises(ConversionError, match="8 times"):
        for name in found.entries:
            found.read(name)


@pytest.mark.parametrize(
    ("place", "form", "values", "said"),
    [
        (8, "<H", (1,), "encrypted"),
        (10, "<H", (14,), "compressed in a way"),
        (16, "<I", (7,), "Bad CRC-32"),
        (20, "<II", (2**31, 2**31), "8 times the size"),
        (20, "<II", (2000, 2000), "is cut short"),
        (24, "<I", (4,), "is cut short"),
        (42, "<I", (3,), "an entry without its header"),
        (42, "<I", (2**31,), "an entry without its header"),
    ],
)
def test_numbers_of_the_directory_are_checked(tmp_path: Path, place, form, values, said):
    path = _write(tmp_path / "a.zip", {"a": b"abc"})
    _patch(path, place, form, *values)
    with pytest.raises(ConversionError, match=said):
        _archive(path).read("a")


def test_a_missing_entry_is_named(tmp_path: Path):
    with pytest.raises(ConversionError, match=r"no entry '\.\./\.\./etc/passwd'"):
        _archive(_write(tmp_path / "a.zip", {"a": b"abc"})).read("../../etc/passwd")


def test_an_archive_without_checksums_is_read(tmp_path: Path):
    path = _write(tmp_path / "a.zip", {"a": b"abc"})
    _patch(path, 16, "<I", 0)
    assert bytes(_archive(path).read("a")) == b"abc"
