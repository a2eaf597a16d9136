import json

import pytest

from vlt.data.manifests.manifest import ManifestError, group_rows, read_classes, read_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mp4", "clips/c.mp4"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def _write(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_json_lines_rows_of_every_kind(folder):
    path = _write(
        folder / "m.jsonl",
        {"video": "a.mp4", "caption": "ein Käfer", "pair": 3, "family": "beetles"},
        {"video": "clips/c.mp4", "caption": ["one", "two"], "id": 7},
        {"video": str(folder / "b.mp4"), "label": 4},
        {"video": "a.mp4", "question": "who?", "answer": ["he", "she"]},
    )
    first, second, third, fourth = read_manifest(path)
    assert first.captions == ("ein Käfer",) and first.id == "a.mp4" and first.line == 1
    assert first.extra == {"pair": 3, "family": "beetles"}
    assert second.captions == ("one", "two") and second.id == "7"
    assert second.video == str(folder / "clips/c.mp4")
    assert third.video == str(folder / "b.mp4") and third.label == "4" and third.captions == ()
    assert fourth.question == "who?" and fourth.answers == ("he", "she")


def test_csv_and_parquet_give_the_same_records(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [
        {"video": "a.mp4", "caption": 'he says "hi",\nthen leaves', "source": "x"},
        {"video": "b.mp4", "caption": "two", "source": "y"},
    ]
    (folder / "m.csv").write_text(
        'video,caption,source\r\na.mp4,"he says ""hi"",\nthen leaves",x\r\nb.mp4,two,y\r\n',
        encoding="utf-8-sig",
    )
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "m.parquet")
    expected = read_manifest(_write(folder / "m.jsonl", *rows))
    for name in ("m.csv", "m.parquet"):
        records = read_manifest(folder / name)
        for record, wanted in zip(records, expected, strict=True):
            assert (record.video, record.captions, record.extra) == (
                wanted.video, wanted.captions, wanted.extra,
            )  # fmt: skip
    assert [r.line for r in read_manifest(folder / "m.csv")] == [3, 4]  # row 1 spans two lines


def test_an_empty_csv_field_is_an_absent_value(folder):
    (folder / "m.csv").write_text("video,caption,label\na.mp4,,jump\n")
    assert read_manifest(folder / "m.csv")[0].label == "jump"
    (folder / "m.csv").write_text("video,caption\na.mp4,one\nb.mp4,\n")
    with pytest.raises(ManifestError, match=r"line 3: has none of .*columns are: video$"):
        read_manifest(folder / "m.csv")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"path": "a.mp4", "caption": "x"}, r"has no `video`; its columns are: path, caption"),
        ({"video": "a.mp4", "text": "x"}, r"has none of `caption`.*columns are: video, text"),
        ({"video": "a.mp4", "question": "x"}, r".*columns are: video, question"),
        ({"video": 3, "caption": "x"}, r"`video` must be text and not empty, got int: 3"),
        ({"video": "a.mp4", "caption": None}, r"`caption` must be text or a list .* got null"),
        ({"video": "a.mp4", "caption": " "}, r"`caption` must .* not empty"),
        ({"video": "a.mp4", "caption": []}, r"`caption` must .* not empty"),
        ({"video": "a.mp4", "caption": ["x", 3]}, r"`caption` must .* got list"),
        ({"video": "a.mp4", "label": 1.5}, r"`label` must be text or a whole number"),
        ({"video": "a.mp4", "label": True}, r"`label` must be .* got bool: True"),
        ({"video": "a.mp4", "question": "x", "answer": 3}, r"`answer` must be text or a list"),
        (["a.mp4"], r"must be an object, got list"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(folder, row, reason):
    good = {"video": "b.mp4", "caption": "x"}
    path = _write(folder / "m.jsonl", good, good, row)
    with pytest.raises(ManifestError, match=rf"m\.jsonl, line 3: {reason}") as caught:
        read_manifest(path)
    assert caught.value.line == 3 and caught.value.path == path


def test_missing_empty_and_unknown_files(folder):
    with pytest.raises(ManifestError, match="m.jsonl: there is no such file"):
        read_manifest(folder / "m.jsonl")
    for name, content in (("m.jsonl", "\n \n"), ("m.csv", "video,caption\n"), ("n.csv", "")):
        (folder / name).write_text(content)
        with pytest.raises(ManifestError, match=f"{name}: holds no rows"):
            read_manifest(folder / name)
    (folder / "m.txt").write_text("a.mp4")
    with pytest.raises(ManifestError, match=r"must end in one of \.jsonl, \.csv, \.parquet"):
        read_manifest(folder / "m.txt")


def test_a_line_that_is_not_utf8_or_not_json(folder):
    path = folder / "m.jsonl"
    good = b'{"video": "a.mp4", "caption": "x"}\n'
    path.write_bytes(good + b'{"video": "a.mp4", "caption": "caf\xe9"}\n')
    with pytest.raises(ManifestError, match=r"line 2: not UTF-8 \(byte 35 .* 0xe9\)"):
        read_manifest(path)
    path.write_bytes(good + b"\n{'video': 'a.mp4'}\n")
    with pytest.raises(ManifestError, match="line 3: not JSON: .* at column 2"):
        read_manifest(path)
    (folder / "m.csv").write_bytes(b"video,caption\na.mp4,caf\xe9\n")
    with pytest.raises(ManifestError, match="line 2: not UTF-8"):
        read_manifest(folder / "m.csv")
    (folder / "m.csv").write_text("video,caption\na.mp4,one,two\n")
    with pytest.raises(ManifestError, match="line 2: must have 2 fields"):
        read_manifest(folder / "m.csv")
    pytest.importorskip("pyarrow")
    (folder / "m.parquet").write_text("video")
    with pytest.raises(ManifestError, match="m.parquet: not Parquet"):
        read_manifest(folder / "m.parquet")


def test_missing_videos_are_counted_and_the_first_listed(folder):
    rows = [{"video": "a.mp4", "caption": "x"}]
    rows += [{"video": f"gone{i}.mp4", "caption": "x"} for i in range(7)]
    path = _write(folder / "m.jsonl", *rows)
    with pytest.raises(ManifestError, match="7 of 8 rows name no file") as caught:
        read_manifest(path)
    message = str(caught.value)
    assert "line 2: " in message and "gone4.mp4" in message and "gone5.mp4" not in message
    assert message.endswith("and 2 more")
    assert len(read_manifest(path, check_videos=False)) == 8


def test_ids_are_unique_but_videos_may_repeat(folder):
    rows = [{"video": "a.mp4", "caption": "x"}, {"video": "a.mp4", "caption": "y"}]
    assert len(read_manifest(_write(folder / "m.jsonl", *rows))) == 2
    rows = [r | {"id": "v1"} for r in rows]
    with pytest.raises(ManifestError, match="line 2: id 'v1' is that of line 1"):
        read_manifest(_write(folder / "m.jsonl", *rows))


def test_class_names_keep_their_order(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("zebra\nriding a bike\n\napple\n")
    assert read_classes(path) == ["zebra", "riding a bike", "apple"]
    path.write_text("zebra\napple\nzebra\n")
    with pytest.raises(ManifestError, match="line 3: class 'zebra' is that of line 1"):
        read_classes(path)
    path.write_text("\n")
    with pytest.raises(ManifestError, match="holds no classes"):
        read_classes(path)
    with pytest.raises(ManifestError, match="no such file"):
        read_classes(tmp_path / "none.txt")


def test_class_names_of_a_table_are_those_of_its_column(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('id,name\n0,zebra\n1,"riding, fast"\n2, apple\n')
    assert read_classes(path) == ["zebra", "riding, fast", "apple"]
    for content, message in (
        ("id,name\n0,zebra\n2,apple\n", "line 3: must be id 1 and a name, got {'id': '2'"),
        ("id,name\n1,zebra\n", "line 2: must be id 0 and a name"),
        ("id,name\n0,\n", "line 2: must be id 0 and a name"),
        ("id,name\n0, \n1,apple\n", "line 2: must be id 0 and a name"),
        ("zebra\napple\n", "line 2: must be id 0 and a name"),
        ("id,name\n0,zebra\n1,zebra\n", "line 3: class 'zebra' is that of line 2"),
        ("id,name\n", "holds no classes"),
    ):
        path.write_text(content)
        with pytest.raises(ManifestError, match=message):
            read_classes(path)


def test_a_list_that_is_written_out_is_one(folder):
    rows = ("a.mp4,\"['a cat', 'a dog']\"", 'b.mp4,"[""a cat"", ""a dog""]"')
    (folder / "m.csv").write_text("\n".join(("video,caption", *rows)))
    assert {record.captions for record in read_manifest(folder / "m.csv")} == {("a cat", "a dog")}
    (record,) = read_manifest(
        _write(
            folder / "m.jsonl", {"video": "a.mp4", "question": "who?", "answer": "['he', 'she']"}
        )
    )
    assert record.answers == ("he", "she")
    (folder / "m.csv").write_text("video,caption\na.mp4,[music] he sings\nb.mp4,\"['a' 'b']\"\n")
    with pytest.raises(ManifestError, match="line 3: `caption` must be a text, is a list"):
        read_manifest(folder / "m.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": "a cat \ud83d"}, r"`caption` is not UTF-8 text: character 7 is \\ud83d"),
        ({"caption": ["fine", "x\udc00"]}, r"`caption\[1\]` is not UTF-8 text"),
        ({"caption": "x", "mood": "\ud83d"}, "`mood` is not UTF-8 text"),
        ({"caption": "nul\0"}, "`caption` is not text: character 4 is a NUL"),
        ({"caption": "NaN"}, "`caption` is 'NaN', which tools write where a value is missing"),
        ({"question": "['who?']", "answer": "he"}, "`question` must be a text, is a list"),
        ({"question": "who?", "answer": "['he' 'she']"}, "`answer` must be a text, is a list"),
        ({"label": "['run']"}, "`label` must be a text, is a list"),
        ({"label": "1.0"}, "`label` must be text or a whole number, got '1.0': pandas"),
        ({"label": "nan"}, "`label` is 'nan'"),
        ({"label": "run\nfast"}, "`label` must be one line"),
        ({"label": "run", "video": "https://host/a.mp4"}, "`video` must be the path of a file"),
        ({"label": "run", "video": "nan"}, "`video` is 'nan'"),
        ({"label": "run", "id": 1.0}, "`id` must be text or a whole number"),
    ],
)
def test_a_value_that_is_not_what_it_seems_is_named(folder, row, message):
    path = _write(folder / "m.jsonl", {"video": "b.mp4", **row}, {"video": "b.mp4", **row})
    with pytest.raises(ManifestError, match=rf"m\.jsonl, line 1: {message}"):
        read_manifest(path)


def _labels(path, *labels, end=".jsonl"):
    rows = [{"video": f"{n}.mp4", "label": label} for n, label in enumerate(labels)]
    return _write(path.with_suffix(end), *rows)


def test_space_around_labels_is_taken_off(folder):
    records = read_manifest(_labels(folder / "m", "run", "run ", "\trun", "walk\u00a0"), False)
    assert [record.label for record in records] == ["run", "run", "run", "walk"]


@pytest.mark.parametrize("other", ["Run Fast", "run  fast", "run\u00a0fast", "run\u200b fast"])
def test_labels_that_differ_in_looks_alone_are_named(folder, other):
    path = _labels(folder / "m", "run fast", "walk", other)
    with pytest.raises(ManifestError, match="line 3: '.*' and 'run fast' of line 1 differ in case"):
        read_manifest(path, check_videos=False)
    (folder / "c.txt").write_text(f"run fast\nwalk\n{other}\n")
    with pytest.raises(ManifestError, match="line 3: '.*' and 'run fast' of line 1 differ in case"):
        read_classes(folder / "c.txt")


def test_two_labels_of_one_video_are_named(folder):
    rows = [{"video": v, "label": name} for v, name in (("a.mp4", "run"), ("b.mp4", "walk"))]
    path = _write(folder / "m.jsonl", *rows, rows[0], {"video": "./a.mp4", "label": "walk"})
    with pytest.raises(ManifestError, match="line 4: label 'walk' of a video that has 'run' in li"):
        read_manifest(path)
    assert len(read_manifest(_write(folder / "m.jsonl", *rows, rows[0]))) == 3


def test_names_of_files_keep_their_spaces(folder):
    (folder / " b .mp4").write_bytes(b"")
    row = {"video": " b .mp4", "caption": "x"}
    (record,) = read_manifest(_write(folder / "m.jsonl", row))
    assert record.video == str(folder / " b .mp4") and record.id == " b .mp4"
    with pytest.raises(ManifestError, match=r"line 1: '.*/a\.mp4 '$"):
        read_manifest(_write(folder / "m.jsonl", row | {"video": "a.mp4 "}))
    with pytest.raises(ManifestError, match=r"line 1: .*/\\u001b\[2Ja\.mp4$"):
        read_manifest(_write(folder / "m.jsonl", row | {"video": "\x1b[2Ja.mp4"}))


def test_class_names_are_checked_as_labels_are(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(" zebra \n\u200b\napple\u00a0\n")
    assert read_classes(path) == ["zebra", "apple"]
    for content, message in (
        (b"zebra\ncaf\xe9\n", "line 2: not UTF-8"),
        (b"zebra\n0.0\n", "line 2: a class must be text or a whole number, got '0.0'"),
        (b"zebra\nnan\n", "line 2: a class is 'nan'"),
        (b"['zebra', 'apple']\n", "line 1: a class must be a text, is a list"),
        ("zebra\n".encode("utf-16"), "is UTF-16"),
    ):
        path.write_bytes(content)
        with pytest.raises(ManifestError, match=message):
            read_classes(path)


def test_rows_are_grouped_by_one_value(tmp_path):
    rows = [{"video": "a.mp4", "caption": "x", "pair": pair} for pair in ([1], [1])]
    records = read_manifest(_write(tmp_path / "m.jsonl", *rows), check_videos=False)
    with pytest.raises(
        ManifestError, match="line 1: `pair`, by which rows are grouped, must be one value"
    ):
        group_rows(tmp_path / "m.jsonl", records, "pair")
