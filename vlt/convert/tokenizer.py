"""Tokenizer files of a model folder: copied, from the hub, or made from CLIP's merges."""

import gzip
import json
import shutil
from pathlib import Path

from vlt.convert.errors import ConversionError
from vlt.convert.reading import read_json

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Merges in CLIP's vocabulary: 49,408 tokens less 512 single bytes and 2 marks.
_MERGES = 48894


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a whole tokenizer."""
    whole = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
    return any(all((folder / name).exists() for name in names) for names in whole)


def write_tokenizer(source: str, target: Path) -> None:
    """Writes tokenizer files into the new folder `target`.

    source: a folder, OpenAI's bpe_simple_vocab_16e6.txt.gz, or a name on the hub.
    Raises ConversionError when it holds no tokenizer or can't be had.
    """
    path = Path(source)
    if path.is_dir():
        _copy(path, target)
    elif path.is_file():
        _from_merges(path, target)
    else:
        _from_hub(source, target)


def vocabulary_size(folder: Path) -> int:
    """One more than the highest token id."""
    ids: list[int] = []
    if (folder / "tokenizer.json").exists():
        content = read_json(folder / "tokenizer.json")
        vocabulary = content.get("model", {}).get("vocab", {})
        ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        ids += [token["id"] for token in content.get("added_tokens", [])]
    elif (folder / "vocab.json").exists():
        ids += read_json(folder / "vocab.json").values()
    else:
        ids += range(len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()))
    return max(ids) + 1


def _copy(folder: Path, target: Path) -> None:
    if not has_tokenizer(folder):
        raise ConversionError(
            f"{folder}: holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)"
        )
    target.mkdir()
    for name in _FILES:
        if (folder / name).exists():
            shutil.copy(folder / name, target / name)


def _from_hub(name: str, target: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"--tokenizer {name}: neither a folder, a file, nor a name that the hub or its cache "
            f"knows ({str(error).splitlines()[0]})"
        ) from error
    tokenizer.save_pretrained(target)


def _from_merges(path: Path, target: Path) -> None:
    """vocab.json and merges.txt from OpenAI's list of merges (CLIP, simple_tokenizer)."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConversionError(
            f"--tokenizer {path}: not a gzip text of byte-pair merges: {error}"
        ) from error
    merges = lines[1 : 1 + _MERGES]
    if len(merges) < _MERGES or any(len(line.split()) != 2 for line in merges):
        raise ConversionError(f"--tokenizer {path}: not the {_MERGES} merges of CLIP")
    characters = _byte_characters()
    tokens = [*characters, *(c + "</w>" for c in characters)]
    tokens += ["".join(line.split()) for line in merges]
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {token: index for index, token in enumerate([*tokens, start, end])}
    target.mkdir()
    (target / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (target / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "do_lower_case": True,
        "model_max_length": 77,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def _byte_characters() -> list[str]:
    """A printable character for each byte: itself where printable, else one from 256 up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = range(256 - len(printable))
    return [chr(code) for code in printable] + [chr(256 + index) for index in others]
