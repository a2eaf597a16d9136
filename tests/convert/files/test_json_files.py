"""JSON from untrusted files."""

from pathlib import Path

import pytest

from vlt.convert.errors import ConversionError
from vlt.convert.files.json_files import read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        (b"[1]", "holds a list, not an object"),
        (b'{"a": "\xff"}', "not readable JSON: 'utf-8' codec"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not readable JSON: Exceeds the limit"),
        (b"", "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 512\n",
            "a git-lfs pointer to a file of 512 bytes",
        ),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page with the title 'Sign in'"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=f"^{path}: .*{message}"):
        read_json(path)


def test_a_folder_is_no_file(tmp_path: Path):
    with pytest.raises(ConversionError, match="no such file"):
        read_json(tmp_path)
