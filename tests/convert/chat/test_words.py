"""Tokenizers of chat models: LLaMA's in either form, added words, and a Q-Former's."""

import dataclasses
import json
import shutil

import pytest
import tokenizers

from vlt.convert.chat.words import IMAGE, VIDEO, read_words, write_qformer_words, write_words
from vlt.convert.errors import ConversionError
from vlt.models.spec import ChatSpec, LlamaSpec, QFormerSpec, VisionSpec

SPEC = ChatSpec(VisionSpec(56, 14, 48, 5, 4, 192), LlamaSpec(2048, 518, 64, 3, 4, 176))


@pytest.fixture
def folder(shared, tmp_path):
    """A copy of the golden tokenizer's folder, with tokenizer.json and tokenizer.model."""
    return shutil.copytree(shared / "golden/chat/tokenizer", tmp_path / "tokenizer")


def ids(folder, text):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


def test_both_forms_give_the_same_ids(folder, tmp_path):
    found = read_words(folder)
    assert dict(found.added) == dict(zip(IMAGE + VIDEO, range(512, 518), strict=True))
    pieces = read_words(folder / "tokenizer.model")
    assert pieces.size == 512 and not pieces.added and pieces.pieces == found.pieces
    write_words(found, tmp_path / "a", SPEC)
    write_words(pieces.with_words(IMAGE + VIDEO), tmp_path / "b", SPEC)
    text = "What happens first?<vid_start><vid_end></s>"
    assert ids(tmp_path / "a", text) == ids(tmp_path / "b", text)
    assert ids(tmp_path / "b", text)[0] == 1 and ids(tmp_path / "b", text)[-3:] == [516, 517, 2]


def test_words_in_a_file_of_their_own(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 512}))
    words = read_words(folder).with_words(IMAGE)
    assert dict(words.added) == {"[PAD]": 512, **dict(zip(IMAGE, (513, 514, 515), strict=True))}
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 600}))
    with pytest.raises(ConversionError, match="ids of its words are not 0 to 512, each once"):
        read_words(folder)


def test_a_start_token_of_its_own(folder, tmp_path):
    """InstructBLIP's tokenizer has one."""
    text = dataclasses.replace(SPEC.text, start_id=2)
    write_words(read_words(folder), tmp_path / "a", dataclasses.replace(SPEC, text=text))
    assert json.loads((tmp_path / "a/tokenizer_config.json").read_text())["bos_token"] == "</s>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable JSON"),
        ("{}", "no tokenizer of byte pairs"),
        ('{"model": {"vocab": {"a": 0}, "byte_fallback": false}}', "no tokenizer of byte pairs"),
        (
            '{"model": {"vocab": {"a": 1}, "byte_fallback": true}}',
            "ids of its words are not 0",
        ),
        ('{"model": {"vocab": {"a": 0}, "byte_fallback": true}}', "<unk>, <s>, </s> are not 0, 1"),
        ('{"model": {"vocab": {}, "byte_fallback": true}, "added_tokens": [3]}', "no tokenizer of"),
    ],
)
def test_other_tokenizers_are_refused(content, message, folder):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ConversionError, match=message):
        read_words(folder)


def test_pieces_that_are_something_else(folder):
    file = folder / "tokenizer.model"
    file.write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(ConversionError, match="model: a git-lfs pointer to a file of 9 bytes"):
        read_words(file)
    file.write_bytes(b"")
    with pytest.raises(ConversionError, match="model: an empty file"):
        read_words(file)
    file.write_bytes(b"\n\x00\x0e\xff")
    with pytest.raises(ConversionError, match="model: not a model of SentencePiece"):
        read_words(file)


def test_none_or_too_many(folder, tmp_path):
    with pytest.raises(ConversionError, match="no folder holds .* --tokenizer names a folder"):
        read_words(None)
    with pytest.raises(ConversionError, match="holds neither tokenizer.json nor tokenizer.model"):
        read_words(tmp_path)
    with pytest.raises(ConversionError, match="519 words, the language model rows for 518"):
        write_words(read_words(folder).with_words(["<more>"]), tmp_path / "a", SPEC)


def test_words_of_an_instruction(folder, tmp_path):
    sizes = QFormerSpec(8, 32, 4, 4, 64, 48, vocab=80, context=64)
    spec = dataclasses.replace(SPEC, qformer=sizes, connector="qformer")
    words = folder / "bert_vocab.txt"
    listed = words.read_text().splitlines()
    words.write_text("\n".join(listed[:79]) + "\n")
    write_qformer_words(words, tmp_path / "a", spec)
    assert (tmp_path / "a/vocab.txt").read_text().splitlines()[79] == "[DEC]"
    words.write_text("\n".join(listed[:50]) + "\n")
    with pytest.raises(ConversionError, match="50 words, the Q-Former has rows for 80"):
        write_qformer_words(words, tmp_path / "b", spec)
    with pytest.raises(ConversionError, match="--qformer-tokenizer names a vocab.txt"):
        write_qformer_words(None, tmp_path / "c", spec)
