"""Tokenizer files of a model folder."""

import gzip
import json
import shutil
import tracemalloc
from pathlib import Path

import pytest
from helpers import run_python

from vlt.convert.errors import ConversionError
from vlt.convert.tokenizer import vocabulary_size, write_tokenizer
from vlt.data.text.tokenize import Tokenizer
from vlt.models.sizes import SIZES
from vlt.models.spec import TextSpec

CLIP = SIZES["clip_b32"].text
SMALL = TextSpec(context=10, vocab=7, width=8, layers=1, heads=1, mlp_width=8)


def test_clips_merges_become_clips_tokenizer(shared: Path, tmp_path: Path):
    folder = tmp_path / "tokenizer"
    write_tokenizer(str(shared / "vocab/bpe_simple_vocab_16e6.txt.gz"), folder, CLIP)
    assert vocabulary_size(folder) == 49408
    cases = json.loads((shared / "vocab/golden_tokens.json").read_text())["cases"]
    tokenizer = Tokenizer.load(folder, 200)
    for case in cases:
        ids = tokenizer([case["text"]])[0]
        assert list(ids[: len(case["clip_bpe_ids"])]) == case["clip_bpe_ids"], case["text"]


def test_a_folder_is_copied_without_its_weights(tmp_path: Path, tokenizer: str):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (source / name).write_bytes((Path(tokenizer) / name).read_bytes())
    (source / "model.safetensors").write_bytes(b"weights")
    write_tokenizer(str(source), tmp_path / "target", SMALL)
    names = sorted(path.name for path in (tmp_path / "target").iterdir())
    assert names == ["merges.txt", "tokenizer_config.json", "vocab.json"]
    assert list(Tokenizer.load(tmp_path / "target", 10)(["ab"])[0, :3]) == [5, 4, 6]


def test_sizes_of_the_other_formats(tmp_path: Path):
    content = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 6}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert vocabulary_size(tmp_path) == 7
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    assert vocabulary_size(tmp_path) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"vocab": {"a": "0"}}}, "no tokens with whole numbers"),
        ({"model": {"vocab": 5}}, "no tokens with whole numbers"),
        ({"model": None}, "no tokens with whole numbers"),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": [{}]}, "no tokens with whole numbers"),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": 3}, "no tokens with whole numbers"),
    ],
)
def test_ids_that_are_none(tmp_path: Path, content: dict, message: str):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError, match=f"tokenizer.json: holds {message}"):
        vocabulary_size(tmp_path)


def test_words_that_are_no_text(tmp_path: Path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ConversionError, match=r"vocab.txt: not UTF-8 text"):
        vocabulary_size(tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\nsize 9\n"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_tokenizer_file_that_is_a_pointer(tmp_path: Path, tokenizer: str, name: str):
    source = tmp_path / "source"
    shutil.copytree(tokenizer, source)
    (source / name).write_text(POINTER)
    with pytest.raises(ConversionError, match=f"source/{name}: a git-lfs pointer to a file of 9"):
        write_tokenizer(str(source), tmp_path / "target", SMALL)


def test_words_that_are_a_pointer(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text(POINTER)
    with pytest.raises(ConversionError, match=r"vocab.txt: a git-lfs pointer to a file of 9 bytes"):
        write_tokenizer(str(tmp_path / "vocab.txt"), tmp_path / "target", SIZES["tiny_blip"].text)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, tokenizer: str):
    source = tmp_path / "source"
    shutil.copytree(tokenizer, source)
    (tmp_path / "secret").write_text("#version: 0.2\na b\n")
    (source / "merges.txt").unlink()
    (source / "merges.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ConversionError, match=f"merges.txt: leads out .* {tmp_path / 'secret'}"):
        write_tokenizer(str(source), tmp_path / "target", SMALL)


def test_merges_that_unpack_to_gigabytes(tmp_path: Path):
    line = b"a" * 2**20
    path = tmp_path / "merges.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(line)
    tracemalloc.start()
    with pytest.raises(ConversionError, match="48894 pairs"):
        write_tokenizer(str(path), tmp_path / "target", SMALL)
    assert tracemalloc.get_traced_memory()[1] < 2**25 + 2**24
    tracemalloc.stop()
    data = bytearray(path.read_bytes())
    data[20:40] = bytes(range(235, 255))
    path.write_bytes(data)
    with pytest.raises(ConversionError, match="not a gzip text of CLIP's byte-pair merges: Error"):
        write_tokenizer(str(path), tmp_path / "target", SMALL)


def test_what_is_no_tokenizer(tmp_path: Path):
    target = tmp_path / "target"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match="empty: holds no tokenizer"):
        write_tokenizer(str(tmp_path / "empty"), target, SMALL)
    (tmp_path / "text").write_text("a b")
    with pytest.raises(ConversionError, match="not a gzip text"):
        write_tokenizer(str(tmp_path / "text"), target, SMALL)
    (tmp_path / "short.gz").write_bytes(gzip.compress(b"#version\na b\n"))
    with pytest.raises(ConversionError, match="48894 pairs"):
        write_tokenizer(str(tmp_path / "short.gz"), target, SMALL)


@pytest.mark.parametrize("name", ["merges.txt.gz", "spiece.model"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\nsize 9\n",
            "a git-lfs pointer to a file",
        ),
        (b"<!doctype html><title>Sign in</title>", "a web page with the title 'Sign in'"),
        (b"", "an empty file"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, name: str, content: bytes, said: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=f"{path}: .*{said}"):
        write_tokenizer(str(path), tmp_path / "target", SMALL)


def test_a_tokenizer_of_another_model(tmp_path: Path, tokenizer: str):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/vocab.json").write_text('{"ab": 0}')
    (tmp_path / "broken/merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(ConversionError, match="broken: does not load"):
        write_tokenizer(str(tmp_path / "broken"), tmp_path / "first", SMALL)
    few = TextSpec(context=10, vocab=6, width=8, layers=1, heads=1, mlp_width=8)
    with pytest.raises(ConversionError, match="ids go up to 6, .* embeddings for 6"):
        write_tokenizer(tokenizer, tmp_path / "second", few)
    folder = tmp_path / "swapped"
    write_tokenizer(tokenizer, folder, SMALL)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary |= {"<|startoftext|>": 6, "<|endoftext|>": 5}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ConversionError, match="ends with id 5, but text is pooled at .* 6"):
        write_tokenizer(str(folder), tmp_path / "other", SMALL)


@pytest.mark.slow
def test_a_hub_name_that_cannot_be_had(tmp_path: Path):
    code = """
    import os, pathlib, sys
    os.environ["HF_HUB_OFFLINE"] = "1"
    from vlt.convert.errors import ConversionError
    from vlt.convert.tokenizer import write_tokenizer
    from vlt.models.sizes import SIZES
    try:
        target = pathlib.Path(sys.argv[1]) / "target"
        write_tokenizer("nobody/nothing", target, SIZES["clip_b32"].text)
    except ConversionError as error:
        print(error)
    """
    assert "--tokenizer nobody/nothing: neither a folder" in run_python(code, tmp_path)
