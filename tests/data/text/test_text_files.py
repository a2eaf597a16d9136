"""Files that are not UTF-8, not JSON or something else altogether give clear messages."""

import gzip
import json

import pytest

from vlt.data.text import text_files
from vlt.data.text.text_files import (
    LONGEST_LINE,
    TextFileError,
    parse_json,
    read_json,
    read_json_lines,
    read_text,
)


def test_text_is_read_without_its_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffein Käfer\r\nund\u2028einer".encode())
    assert read_text(path) == "ein Käfer\r\nund\u2028einer"
    path.write_bytes(b"")
    assert read_text(path) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
        (b"\n <!DOCTYPE HTML><html>", "is a web page"),
        (gzip.compress(b"{}", mtime=0), "is compressed by gzip"),
        (b"PK\x03\x04abc", "is a zip archive"),
        (b"PAR1abc", "is a Parquet file"),
        ("{}".encode("utf-16"), "is UTF-16"),
        ("{}\n".encode("utf-16-le"), "line 1: a NUL at byte 2"),
        (b'1\n"caf\xe9"', r"line 2: not UTF-8 \(byte 5 of the line is 0xe9\)"),
        (b"1\n2\n\xed\xa0\xbd", r"line 3: not UTF-8"),
        (b"1\n2\x00", r"line 2: a NUL at byte 2 of the line"),
        (b"1\n\x002", r"line 2: a NUL at byte 1 of the line"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    for read in (read_text, read_json, lambda path: list(read_json_lines(path))):
        with pytest.raises(TextFileError, match=f"a.json.*{message}"):
            read(tmp_path / "a.json")


def test_other_control_characters_are_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\x01\n")
    assert read_text(tmp_path / "a.txt") == "a\x01\n"


def test_files_that_are_not_there_or_folders(tmp_path):
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(TextFileError, match=f"{path}: {message}"):
            read_text(path)


def test_a_line_has_an_end_and_a_document_may_be_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(f'["{"a" * LONGEST_LINE}"]')
    assert len(read_json(path)[0]) == LONGEST_LINE
    with pytest.raises(TextFileError, match="line 1: longer than 33,554,432 bytes"):
        list(read_json_lines(path))
    monkeypatch.setattr(text_files, "LARGEST_DOCUMENT", 1000)
    with pytest.raises(TextFileError, match="line 1: longer than 1,000 bytes"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "an object has the key 'a' twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "an object has the key 'b' twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[" * 100_000, "too deeply|not JSON"),
        ("[" * 100_000 + "]" * 100_000, "too deeply"),
        ('{"a":' * 100_000, "too deeply|not JSON"),
        ("1" * 5000, "a number of 5,000 digits is longer than 300"),
        ("[1, -1e400]", "-1e400 is more than a number can be"),
        ('{"a": ["ok", "x\\ud83d"]}', r"`a\[1\]` is not UTF-8 text: character 2 is \\ud83d"),
        ('{"a": {"b": "\\udc00"}}', r"`a\.b` is not UTF-8 text: character 1"),
        ('{"x\\ud83d": 1}', r"key.* is not UTF-8 text"),
        ('"x\\u0000"', "character 2 is a NUL"),
        ('{"a": 1', "not JSON: .* at column 8"),
        ('{\n"a": }', "not JSON: .* at line 2, column 6"),
        ("", "not JSON"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_long_values_are_cut_in_messages():
    with pytest.raises(ValueError, match=f"^1{'0' * 59} is more than a number can be"):
        parse_json(f"1{'0' * 400}.5")
    with pytest.raises(ValueError, match=f"has the key '{'a' * 59} twice"):
        parse_json(f'{{"{"a" * 99}": 1, "{"a" * 99}": 2}}')


def test_json_is_read_as_python_reads_it():
    text = json.dumps({"a": [1, -2.5e3, None, True, "\U0001f600", {"a": {}}], "é": "\t"})
    assert parse_json(text) == json.loads(text)
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


def test_json_lines_name_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n[2]\n')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, [2])]
    for content, message in (
        ('{"a": 1}\n{"a": "\\ud83d"}\n', "line 2: `a` is not UTF-8 text"),
        ('{\n"a": 1\n}\n', r"line 1: not JSON.*\.jsonl holds one object a line"),
        ('[\n{"a": 1},\n', r"line 1: not JSON.*\.jsonl holds one object a line"),
    ):
        path.write_text(content)
        with pytest.raises(TextFileError, match=message):
            list(read_json_lines(path))
