"""Tables whose columns, fields or values cannot be as intended, and those that can."""

import datetime
import json
import random

import pytest

from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.data.manifests.rows import csv_rows, json_rows


def read(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_manifest(path, check_videos=False)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("video,caption,caption", "has two columns `caption` and `caption`"),
        ("video,caption, caption ", "has two columns `caption` and `caption`"),
        ("video,Caption,caption", "has two columns `Caption` and `caption`"),
        ("video,mood,mood", "has two columns `mood` and `mood`"),
        ("\ufeffvideo,caption,Video", "has two columns `video` and `Video`"),
        ("video;caption;mood", "its columns must be separated by commas, not by ';'"),
        ("video\tcaption\tmood", r"its columns must be separated by commas, not by '\\t'"),
    ],
)
def test_columns_that_cannot_be(tmp_path, header, message):
    with pytest.raises(ManifestError, match=f"line 1: {message}"):
        read(tmp_path / "m.csv", f"{header}\na.mp4,x,y\n")


def test_rows_that_json_can_hold(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "m.parquet"
    row = {"video": "a.mp4", "n": 3, "more": [{"a": 0.5}]}
    for value in (b"a", float("nan"), [float("inf")], datetime.datetime(2020, 1, 1), "a\0"):
        parquet.write_table(
            pyarrow.Table.from_pylist([row | {"x": None}, row | {"x": value}]), path
        )
        rows = json_rows(path)
        assert next(rows) == (1, row)
        with pytest.raises(ManifestError, match="line 2: `x` is .*, which JSON cannot hold"):
            next(rows)


def test_keys_that_come_twice_in_a_line(tmp_path):
    good = '{"video": "a.mp4", "caption": "x"}\n'
    for keys, message in (
        ('"caption": "x", "caption": "y"', "has the key 'caption' twice"),
        ('"caption": "x", "caption ": "y"', "two columns `caption` and `caption`"),
        ('"caption": "x", "CAPTION": "y"', "two columns `caption` and `CAPTION`"),
        ('"caption": "x", "more": {"a": 1, "a": 2}', "has the key 'a' twice"),
    ):
        with pytest.raises(ManifestError, match=f"line 2: .*{message}"):
            read(tmp_path / "m.jsonl", good + '{"video": "a.mp4", ' + keys + "}\n")


def test_names_and_fields_lose_the_space_around_them(tmp_path):
    content = '\n video , caption\n\na.mp4, "a cat, black" \n'
    with pytest.raises(ManifestError, match="line 4: not CSV: ',' expected after '\"'"):
        read(tmp_path / "m.csv", content)
    (record,) = read(tmp_path / "m.csv", content.replace('" \n', '"\n'))
    assert record.captions == ("a cat, black",) and record.id == "a.mp4"
    (record,) = read(tmp_path / "m.jsonl", '{" video": "a.mp4", "caption ": " a cat\\u00a0"}')
    assert record.captions == ("a cat",) and record.extra == {}


def test_columns_without_a_name_do_no_harm(tmp_path):
    # pandas writes its index as such a column; spreadsheets write several at the end.
    (record,) = read(tmp_path / "m.csv", ",video,caption\n0,a.mp4,x\n")
    assert record.captions == ("x",) and record.extra == {"": "0"}
    (record,) = read(tmp_path / "m.csv", "video,caption,,\na.mp4,x,,\n")
    assert record.captions == ("x",) and record.extra == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.mp4\n", "line 2: must have 2 fields, as the header has, not 1"),
        ("a.mp4,x\nb.mp4,x,y\n", "line 3: must have 2 fields, as the header has, not 3"),
        ('a.mp4,"x\nb.mp4,y\nc.mp4,z\n', "line 4: not CSV.*begins in line 2: is a quote"),
        ('a.mp4,"x\nb.mp4,"y"\n', "line 3: not CSV"),
        ('a.mp4,"' + "x\n" * 100_000, "not CSV: field larger.*begins in line 2"),
        ("a.mp4,x\rb.mp4,y\r", "line 2: not CSV: new-line character"),
        (",\n", "line 2: has no `video`"),
    ],
)
def test_rows_that_cannot_be(tmp_path, rows, message):
    with pytest.raises(ManifestError, match=message):
        read(tmp_path / "m.csv", f"video,caption\n{rows}")


def test_json_that_is_no_json_lines(tmp_path):
    row = {"video": "a.mp4", "caption": "x"}
    for content in (json.dumps([row]), json.dumps([row], indent=1), json.dumps(row, indent=1)):
        with pytest.raises(ManifestError, match=r"line 1: .*\.jsonl holds one object a line"):
            read(tmp_path / "m.jsonl", content)


def test_rows_of_csv_keep_empty_fields(tmp_path):
    (tmp_path / "m.csv").write_text("video_id,sentence\nv,\nw,x\n")
    found = list(csv_rows(tmp_path / "m.csv"))
    assert found == [
        (2, {"video_id": "v", "sentence": ""}),
        (3, {"video_id": "w", "sentence": "x"}),
    ]


def write_parquet(path, columns: list, names: list[str]):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    arrays = [c if isinstance(c, pyarrow.Array) else pyarrow.array(c) for c in columns]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names), path)
    return path


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ([["a"], ["x"], ["y"]], ["video", "caption", "caption"], "two columns `caption` and"),
        ([["a"], ["x"], ["y"]], ["video", "caption", "Caption"], "two columns `caption` and"),
        ([["a", "b"], [b"x", b"y"]], ["video", "caption"], "line 1: `caption` .* got bytes"),
        ([["a", "b"], ["x", "['y' 'z']"]], ["video", "caption"], "line 2: `caption` .*written out"),
        ([["a", "b"], [0.0, float("nan")]], ["video", "label"], "line 1: `label` .*with a point"),
        ([["a", "b"], [["x"], []]], ["video", "caption"], "line 2: `caption` must be text or a l"),
        ([["a", "b"], ["x", "y\0"]], ["video", "caption"], "line 2: `caption` .* is a NUL"),
    ],
)
def test_parquet_that_cannot_be(tmp_path, columns, names, message):
    path = write_parquet(tmp_path / "m.parquet", columns, names)
    with pytest.raises(ManifestError, match=f"m.parquet.*{message}"):
        read_manifest(path, check_videos=False)


def test_parquet_with_a_text_that_is_no_utf8(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    texts = pyarrow.array([b"fine", b"caf\xe9"]).view(pyarrow.string())
    path = write_parquet(tmp_path / "m.parquet", [["a", "b"], texts], ["video", "caption"])
    with pytest.raises(ManifestError, match="line 2: `caption` cannot be read: 'utf-8' codec"):
        read_manifest(path, check_videos=False)


def test_parquet_of_lists_and_missing_values(tmp_path):
    columns = [["a", "b"], [["x", "y"], None], [None, 3]]
    path = write_parquet(tmp_path / "m.parquet", columns, ["video", "caption", "label"])
    first, second = read_manifest(path, check_videos=False)
    assert first.captions == ("x", "y") and first.label is None and second.label == "3"


def test_parquet_that_is_cut_or_lies(tmp_path):
    path = write_parquet(tmp_path / "m.parquet", [["a"] * 9000, ["x"] * 9000], ["video", "label"])
    whole = path.read_bytes()
    for content in (whole[:-20], whole[:300], whole[: len(whole) // 2] + b"\0" * 40 + whole[-300:]):
        path.write_bytes(content)
        with pytest.raises(ManifestError, match="m.parquet.*"):
            read_manifest(path, check_videos=False)
    rows = 9 * len(whole) + 10**6
    path = write_parquet(tmp_path / "m.parquet", [[None] * rows], ["video"])
    with pytest.raises(ManifestError, match=f"claims {rows:,} rows"):
        read_manifest(path, check_videos=False)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_damaged_files_are_read_or_refused(tmp_path, kind):
    path = tmp_path / f"m.{kind}"
    if kind == "csv":
        path.write_text("video,caption,label\na.mp4,\"a cat, black\",3\nb.mp4,\"['a', 'b']\",4\n")
    elif kind == "jsonl":
        path.write_text('{"video": "a.mp4", "caption": ["x", "\\u00e9"], "e": {"f": 1.5}}\n' * 2)
    else:
        write_parquet(path, [["a", "b"], [["x", "y"], ["z"]], [1, 2]], ["video", "caption", "n"])
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 2, 5])):
            damaged[draw.randrange(len(damaged))] = draw.choice(b"[]{}\"',\\\n\r\0u0\xff\xed :A")
        path.write_bytes(damaged)
        try:
            assert read_manifest(path, check_videos=False)
        except ManifestError:
            refused += 1
    assert refused > 100
