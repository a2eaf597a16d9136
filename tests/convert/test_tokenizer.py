"""Tokenizer files of a model folder."""

import gzip
import json
from pathlib import Path

import pytest
from helpers import run_python

from vlt.convert.errors import ConversionError
from vlt.convert.tokenizer import vocabulary_size, write_tokenizer


def test_clips_merges_become_clips_tokenizer(shared: Path, tmp_path: Path):
    write_tokenizer(str(shared / "vocab/bpe_simple_vocab_16e6.txt.gz"), tmp_path / "tokenizer")
    assert vocabulary_size(tmp_path / "tokenizer") == 49408
    cases = json.loads((shared / "vocab/golden_tokens.json").read_text())["cases"]
    # The published tokenizer also repairs text (ftfy, HTML entities): work of vlt.data.tokenize.
    cases = [case for case in cases if "&" not in case["text"] and "Ｆ" not in case["text"]]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    code = """
    import json, os, pathlib, sys
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer
    folder = pathlib.Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    for case in json.loads((folder / "cases.json").read_text()):
        assert tokenizer(case["text"])["input_ids"] == case["clip_bpe_ids"], case["text"]
        print("equal")
    """
    assert run_python(code, tmp_path).count("equal") == len(cases) >= 12


def test_a_folder_is_copied_without_its_weights(tmp_path: Path, tokenizer: str):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (source / name).write_bytes((Path(tokenizer) / name).read_bytes())
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "tokenizer_config.json").write_text("{}")
    write_tokenizer(str(source), tmp_path / "target")
    names = sorted(path.name for path in (tmp_path / "target").iterdir())
    assert names == ["merges.txt", "tokenizer_config.json", "vocab.json"]
    assert vocabulary_size(tmp_path / "target") == 5


def test_sizes_of_the_other_formats(tmp_path: Path):
    content = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 6}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert vocabulary_size(tmp_path) == 7
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    assert vocabulary_size(tmp_path) == 3


def test_what_is_no_tokenizer(tmp_path: Path):
    target = tmp_path / "target"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="empty: holds no tokenizer"):
        write_tokenizer(str(tmp_path / "empty"), target)
    (tmp_path / "text").write_text("a b")
    with pytest.raises(ConversionError, match="not a gzip text"):
        write_tokenizer(str(tmp_path / "text"), target)
    (tmp_path / "short.gz").write_bytes(gzip.compress(b"#version\na b\n"))
    with pytest.raises(ConversionError, match="not the 48894 merges"):
        write_tokenizer(str(tmp_path / "short.gz"), target)
    assert not target.exists()


def test_a_hub_name_that_cannot_be_had(tmp_path: Path):
    code = """
    import os, pathlib, sys
    os.environ["HF_HUB_OFFLINE"] = "1"
    from vlt.convert.errors import ConversionError
    from vlt.convert.tokenizer import write_tokenizer
    try:
        write_tokenizer("nobody/nothing", pathlib.Path(sys.argv[1]) / "target")
    except ConversionError as error:
        print(error)
    """
    assert "--tokenizer nobody/nothing: neither a folder" in run_python(code, tmp_path)
