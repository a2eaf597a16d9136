"""Description files: all of ETL4Video's against their classes, and files of other forms."""

import json
import re

import numpy as np
import pytest

from data_pipelines.label_files import read_class_names
from vlt.data.text.tokenize import Tokenizer, write_clip_tokenizer
from vlt.tasks.descriptions import DescriptionError, read_descriptions, tokenized

TABLES = {"hmdb": "hmdb_51", "k400": "kinetics_400", "k600": "kinetics_600"}
CONTEXT = 32  # that of ViCLIP
CUT = {  # temporal sentences that are longer, out of all; spatial ones never are
    "2_t_description_ssv2.json": (95, 348),
    "2_t_description_k400.json": (3, 800),
    "2_t_description_k600.json": (6, 1200),
    "2_t_description_hmdb.json": (0, 102),
    "2_t_description_ucf_101.json": (0, 202),
}


def class_names(shared, file: str) -> list[str]:
    data, part = re.fullmatch(r"\d_[st]_description_(.*?)(_base|_novel|)\.json", file).groups()
    prefix = TABLES.get(data, "ssv2_174" if data == "ssv2" and part else data)
    return read_class_names(shared / f"annotations/vificlip_labels/{prefix}{part}_labels.csv")


@pytest.fixture(scope="module")
def tokenizer(shared, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("clip")
    write_clip_tokenizer(shared / "vocab/bpe_simple_vocab_16e6.txt.gz", folder)
    return Tokenizer.load(folder, CONTEXT)


def test_all_published_files_fit_their_classes(shared):
    files = sorted((shared / "annotations/etl4video_descriptions").glob("*.json"))
    assert len(files) == 34
    for path in files:
        names = class_names(shared, path.name)
        sentences = read_descriptions(path, names)
        assert {len(own) for own in sentences} == {int(path.name[0])}, path.name
        assert len(sentences) == len(names)


@pytest.mark.parametrize(("file", "counts"), CUT.items())
def test_as_many_sentences_are_cut_as_stated(shared, tokenizer, file, counts):
    folder, kinds = shared / "annotations/etl4video_descriptions", {}
    for kind in (file, file.replace("_t_", "_s_")):
        before = tokenizer.cut
        found = tokenized(read_descriptions(folder / kind, class_names(shared, file)), tokenizer)
        kinds[kind] = (tokenizer.cut - before, len(found.ids))
        assert found.ids.shape == (counts[1], CONTEXT)
        np.testing.assert_array_equal(np.bincount(found.owner), 2)
    assert list(kinds.values()) == [counts, (0, counts[1])]


def test_classes_may_have_different_numbers_of_sentences(tmp_path, tokenizer):
    path = tmp_path / "ragged.json"
    path.write_text('{"1": ["one.", "two.", "three."], "0": ["four."]}')
    sentences = read_descriptions(path, ["run", "sit"])
    assert sentences == [["four."], ["one.", "two.", "three."]]
    found = tokenized(sentences, tokenizer)
    np.testing.assert_array_equal(found.owner, [0, 1, 1, 1])
    np.testing.assert_array_equal(found.ids, tokenizer(["four.", "one.", "two.", "three."]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": ["a."]}, r"lacks 1 \(sit\); there are 2 classes"),
        ({}, r"lacks 0 \(run\), 1 \(sit\); there are 2 classes"),
        ({"0": ["a."], "1": ["b."], "7": ["c."]}, "has more than the classes: 7; there are 2"),
        ({"0": ["a."], "1": []}, r"class 1 \(sit\): must be a list of sentences"),
        ({"0": ["a."], "1": ["b.", " "]}, r"class 1 \(sit\): must be a list of sentences"),
        ({"0": "a.", "1": ["b."]}, r"class 0 \(run\): must be a list of sentences"),
        ([["a."], ["b."]], "must be an object of class indices"),
        (None, "must be an object of class indices"),
    ],
)
def test_files_that_do_not_fit_name_the_class(tmp_path, content, message):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DescriptionError, match=f"small.json.*{message}"):
        read_descriptions(path, ["run", "sit"])


def test_many_missing_classes_are_counted(tmp_path):
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(
        DescriptionError, match=r"lacks 0 \(0\), .*4 \(4\), and 46 more; there are 51"
    ):
        read_descriptions(tmp_path / "empty.json", [str(n) for n in range(51)])


def test_files_that_are_missing_or_not_json_are_named(tmp_path):
    with pytest.raises(DescriptionError, match="none.json: there is no such file of"):
        read_descriptions(tmp_path / "none.json", ["run"])
    (tmp_path / "a.json").write_text('{"0": ["a."')
    with pytest.raises(DescriptionError, match="a.json is not JSON: Expecting"):
        read_descriptions(tmp_path / "a.json", ["run"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"0": ["a \\ud83d"]}', r"`0\[0\]` is not UTF-8 text: character 3"),
        (b'{"0": ["a."], "0": ["b."]}', "an object has the key '0' twice"),
        (b'{"0": ["caf\xe9"]}', "line 1: not UTF-8"),
        (
            b"{\"0\": [\"['a' 'b']\"]}",
            r"class 0 \(run\): .* of which one must be a text, is a list",
        ),
        (b'{"0": ["nan"]}', r"class 0 \(run\): .* which tools write where a value is missing"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_files_of_strangers(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DescriptionError, match=f"a.json.*{message}"):
        read_descriptions(tmp_path / "a.json", ["run"])
    (tmp_path / "a.json").write_text('{"0": [" one. "]}')
    assert read_descriptions(tmp_path / "a.json", ["run"]) == [["one."]]
