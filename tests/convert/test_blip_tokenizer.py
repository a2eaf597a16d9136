"""BERT's tokenizer files beside a BLIP."""

import json
from pathlib import Path

import pytest
from blip_models import CONTEXT, WORDS, bert_words
from transformers import BertTokenizerFast

from vlt.convert.errors import ConversionError
from vlt.convert.tokenizer import vocabulary_size, write_tokenizer
from vlt.data.text.tokenize import Tokenizer
from vlt.models.sizes import SIZES
from vlt.models.spec import BertSpec, TextSpec

BERT = SIZES["blip_b16_captioner"].text
SMALL = BertSpec(CONTEXT, WORDS + 2, 8, 1, 1, 8, 8, decode_id=WORDS, encode_id=WORDS + 1)


def _assert_golden(folder: Path, shared: Path) -> None:
    cases = json.loads((shared / "vocab/golden_tokens.json").read_text())["cases"]
    tokenizer = Tokenizer.load(folder, 200)
    for case in cases:
        ids = [int(i) for i in tokenizer([case["text"]])[0] if i]
        assert ids == case["bert_ids"], case["text"]


def test_a_file_of_words(shared: Path, tmp_path: Path):
    source = shared / "vocab/bert_base_uncased_vocab.txt"
    write_tokenizer(str(source), tmp_path / "tokenizer", BERT)
    assert vocabulary_size(tmp_path / "tokenizer") == 30522
    _assert_golden(tmp_path / "tokenizer", shared)


def test_a_folder_with_a_file_of_words(shared: Path, tmp_path: Path):
    (tmp_path / "source").mkdir()
    words = (shared / "vocab/bert_base_uncased_vocab.txt").read_bytes()
    (tmp_path / "source/vocab.txt").write_bytes(words)
    write_tokenizer(str(tmp_path / "source"), tmp_path / "tokenizer", BERT)
    _assert_golden(tmp_path / "tokenizer", shared)


def test_a_folder_with_blips_two_tokens(shared: Path, tmp_path: Path):
    tokenizer = BertTokenizerFast(str(shared / "vocab/bert_base_uncased_vocab.txt"))
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    tokenizer.save_pretrained(tmp_path / "source")
    write_tokenizer(str(tmp_path / "source"), tmp_path / "tokenizer", BERT)
    assert vocabulary_size(tmp_path / "tokenizer") == 30524
    _assert_golden(tmp_path / "tokenizer", shared)


def test_added_tokens_of_old_folders_count(tmp_path: Path):
    bert_words(tmp_path / "vocab.txt")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[DEC]": WORDS, "[ENC]": WORDS + 1}))
    assert vocabulary_size(tmp_path) == WORDS + 2


@pytest.mark.parametrize("count", [WORDS - 1, WORDS + 1, WORDS + 3])
def test_words_of_another_model(tmp_path: Path, count: int):
    source = bert_words(tmp_path / "vocab.txt", count)
    message = f"has {count} tokens, the checkpoint has embeddings for {WORDS + 2}: {WORDS} of"
    with pytest.raises(ConversionError, match=message):
        write_tokenizer(source, tmp_path / "tokenizer", SMALL)


def test_another_end_of_texts(tmp_path: Path):
    lines = Path(bert_words(tmp_path / "vocab.txt")).read_text().splitlines()
    lines[102:104] = ["[MASK]", "[SEP]"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    with pytest.raises(ConversionError, match="ends with id 103, the checkpoint's with 102"):
        write_tokenizer(str(tmp_path / "vocab.txt"), tmp_path / "tokenizer", SMALL)


def test_clips_files_beside_a_bert_and_the_other_way(tmp_path: Path, tokenizer: str):
    with pytest.raises(ConversionError, match="has 7 tokens, the checkpoint has embeddings for"):
        write_tokenizer(tokenizer, tmp_path / "a", SMALL)
    source = bert_words(tmp_path / "vocab.txt")
    clip = TextSpec(context=10, vocab=200, width=8, layers=1, heads=1, mlp_width=8)
    with pytest.raises(ConversionError, match="not a gzip text of CLIP's"):
        write_tokenizer(source, tmp_path / "b", clip)
