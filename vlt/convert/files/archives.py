"""Zip archives whose content is bounded by the file's size; stored entries are views of it."""

import mmap
import struct
import zipfile
import zlib
from pathlib import Path

from vlt.convert.errors import ConversionError
from vlt.convert.files.mapped import release

_LOCAL = struct.Struct("<4s5H3I2H")
_SIGNATURE = b"PK\x03\x04"
_EXPANSION = 8
_ALWAYS = 2**20


class Archive:
    """The entries of a zip file, by name.

    All that is read from it may take at most 8 times the file's size plus 1 MiB: compressed entries
    are rare (torch stores entries as they are), and torch writes no overlapping entries.

    Raises: ConversionError for an archive that is broken, or has two entries of the same name.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # on a broken archive, zipfile may raise almost anything
            raise ConversionError(f"broken zip archive: {error}") from error
        self._data = data
        self._left = _EXPANSION * len(data) + _ALWAYS
        self.entries = {entry.filename: entry for entry in self._zip.infolist()}
        if len(self.entries) < len(self._zip.infolist()):
            raise ConversionError("broken zip archive: two entries have one name")

    def read(self, name: str) -> memoryview:
        """The content of an entry, checked against its checksum.

        Raises: ConversionError.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise ConversionError(f"its archive has no entry {name[:200]!r}")
        if entry.flag_bits & 1:
            raise ConversionError(f"broken zip archive: {name[:200]!r} is encrypted")
        if entry.compress_type == zipfile.ZIP_STORED:
            return self._stored(entry)
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            return self._inflated(entry)
        raise ConversionError(f"{name[:200]!r} is compressed in a way that torch cannot read")

    def _stored(self, entry: zipfile.ZipInfo) -> memoryview:
        self._spend(entry.file_size)
        start, _ = local_entry(self._data, entry.header_offset)
        end = start + entry.file_size
        if entry.file_size != entry.compress_size or end > len(self._data):
            raise ConversionError(f"broken zip archive: {entry.filename[:200]!r} is cut short")
        view = memoryview(self._data)[start:end]
        # torch can be told to save without checksums, and then writes 0.
        if entry.CRC and zlib.crc32(view) != entry.CRC:
            raise ConversionError(f"broken zip archive: Bad CRC-32 for {entry.filename[:200]!r}")
        release(self._data)
        return view

    def _inflated(self, entry: zipfile.ZipInfo) -> memoryview:
        try:
            with self._zip.open(entry) as stream:
                content = stream.read(self._left + 1)
        except Exception as error:  # see above
            raise ConversionError(f"broken zip archive: {error}") from error
        self._spend(len(content))
        return memoryview(content)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ConversionError(
                f"its entries would take more than {_EXPANSION} times the size of the file"
            )


def local_entry(data: mmap.mmap, position: int) -> tuple[int, str]:
    """Where the content of the entry with the header at `position` starts, and the entry's name.

    Raises: ConversionError.
    """
    head = data[position : position + _LOCAL.size] if position >= 0 else b""
    if len(head) < _LOCAL.size or not head.startswith(_SIGNATURE):
        raise ConversionError("broken zip archive: an entry without its header")
    *_, name, extra = _LOCAL.unpack(head)
    start = position + _LOCAL.size
    return start + name + extra, data[start : start + name].decode("utf-8", "replace")
