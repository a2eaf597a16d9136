"""tokenizer.model against ids of SentencePiece itself, and files that are no such model."""

import json
import os
import random

import pytest

from vlt.data.text import sentencepiece_model
from vlt.data.text.sentencepiece_model import read_pieces, tokenizer_of


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "golden/chat/tokenizer"


@pytest.fixture(scope="module")
def pieces(folder):
    return read_pieces(folder / "tokenizer.model")


def test_ids_are_those_of_sentencepiece(folder, pieces):
    golden = json.loads((folder / "tokens.json").read_text())
    model = tokenizer_of(pieces).model
    for text, ids in zip(golden["texts"], golden["ids"]["sentencepiece_raw_no_bos"], strict=True):
        spaced = "\u2581" + text.replace(" ", "\u2581") if text else ""
        assert [token.id for token in model.tokenize(spaced)] == ids, text


def test_texts_come_back_behind_the_start_token(pieces):
    tokenizer = tokenizer_of(pieces)
    for text in ("A red  circle\tmoves.", " ###", "ends  ", "Hello\nworld \u00e9\u4f60"):
        ids = tokenizer.encode(text).ids
        assert ids[0] == 1 and tokenizer.decode(ids) == text
    assert tokenizer.encode("yes</s>").ids[-1] == 2


def test_pieces_are_those_of_the_published_conversion(folder, pieces):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    assert {piece.text: index for index, piece in enumerate(pieces)} == model["vocab"]
    found = json.loads(tokenizer_of(pieces).to_str())["model"]["merges"]
    assert sorted(map(tuple, found)) == sorted(map(tuple, model["merges"]))


def test_other_files_are_refused(folder, tmp_path):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(ValueError, match="tokenizer.model: No such file"):
        read_pieces(path)
    for content in (b"", b"<html>", b"\xff" * 20, b"\x0a\x05\x0a\x03abc"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path}: not a model of SentencePiece"):
            read_pieces(path)
    os.truncate(path, 2**26 + 1)
    with pytest.raises(
        ValueError, match="it has 67108865 bytes, and no model has more than 671088"
    ):
        read_pieces(path)
    data = (folder / "tokenizer.model").read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.choice([len(data), draw.randrange(len(data))])])
        try:
            assert len(read_pieces(path)) <= len(data)
        except ValueError as error:
            assert str(path) in str(error)


def part(number, *fields):
    """A part of the file, of (number, value of one byte or bytes); the last of a number counts."""
    content = b""
    for field, value in fields:
        key = field << 3 | (2 if isinstance(value, bytes) else 0)
        content += bytes([key] if key < 128 else [key & 127 | 128, key >> 7])
        content += bytes([len(value)]) + value if isinstance(value, bytes) else bytes([value])
    return bytes([number << 3 | 2, len(content)]) + content


TRAINER, NORMALIZER = 2, 3
KIND, FALLBACK = 3, 35
CHANGES, PREFIX, MERGED = 2, 3, 4


@pytest.mark.parametrize(
    ("most", "wrapped"),
    [
        ("_MOST_PIECES", lambda fields: part(1, *fields)[2:]),
        ("_MOST_OF_PIECE", lambda fields: part(1, *fields)),
        ("_MOST_FIELDS", lambda fields: part(TRAINER, *fields)),
    ],
)
def test_a_file_of_very_many_fields_is_refused(most, wrapped, tmp_path, monkeypatch):
    """Reading 64 MB of fields of two bytes would take minutes and gigabytes."""
    monkeypatch.setattr(sentencepiece_model, most, 8)
    path = tmp_path / "tokenizer.model"
    for count, reason in ((8, "[01] pieces"), (9, "a message of more than 8 fields")):
        path.write_bytes(wrapped([(4, 1)] * count))
        with pytest.raises(ValueError, match=reason):
            read_pieces(path)


@pytest.mark.parametrize(
    "other",
    [
        part(TRAINER, (KIND, 1), (FALLBACK, 1)),
        part(TRAINER, (KIND, 2), (FALLBACK, 0)),
        part(NORMALIZER, (PREFIX, 0), (MERGED, 0)),
        part(NORMALIZER, (PREFIX, 1), (MERGED, 1)),
        part(NORMALIZER, (PREFIX, 1), (MERGED, 0), (CHANGES, b"map")),
    ],
    ids=["unigram", "no bytes", "no space in front", "merged spaces", "changed characters"],
)
def test_models_that_are_not_llamas_are_refused(folder, tmp_path, pieces, other):
    path = tmp_path / "tokenizer.model"
    llama = (folder / "tokenizer.model").read_bytes()
    llama += part(TRAINER, (KIND, 2), (FALLBACK, 1)) + part(NORMALIZER, (PREFIX, 1), (MERGED, 0))
    path.write_bytes(llama)
    assert read_pieces(path) == pieces
    path.write_bytes(llama + other)
    with pytest.raises(ValueError, match=f"{path}: not a LLaMA's: of byte pairs with bytes"):
        read_pieces(path)
