"""Tokenizer files of a model folder: copied, from the hub, or made from a vocabulary file."""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.impostors import describe_pointer, impostor_or
from vlt.convert.files.json_files import read_json
from vlt.convert.text_forms import write_form
from vlt.data.text.sentencepiece_model import plain_tokenizer, read_model
from vlt.data.text.tokenize import (
    TOKENIZER_FILES,
    Tokenizer,
    copy_tokenizer,
    pretrained,
    write_bert_tokenizer,
    write_clip_tokenizer,
)
from vlt.models.spec import BertSpec, Spec, TextSpec

SENTENCEPIECE = ("spiece.model", "tokenizer.model")  # of T5 and Gemma
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a complete tokenizer."""
    whole: list[tuple[str, ...]] = [("tokenizer.json",), ("vocab.json", "merges.txt")]
    whole += [("vocab.txt",), *((name,) for name in SENTENCEPIECE)]
    return any(all((folder / name).exists() for name in names) for names in whole)


def write_tokenizer(source: str, target: Path, text: TextSpec | BertSpec) -> None:
    """Writes tokenizer files into the new folder `target`, and tries them.

    source: a folder, OpenAI's bpe_simple_vocab_16e6.txt.gz, BERT's vocab.txt or SentencePiece's
    .model, or a name on the hub.
    Raises ConversionError: no tokenizer there, or not one for this text tower.
    """
    path = Path(source)
    if path.is_dir():
        _copy(path, target, text)
    elif not path.is_file():
        _from_hub(source, target)
    elif isinstance(text, BertSpec):
        from_words(path, target, text.context)
    elif path.suffix == ".model":
        _from_pieces(path, target)
    else:
        _from_merges(path, target, text.context)
    if isinstance(text, TextSpec) and text.readout != "highest":
        write_form(source, target, text)
    elif isinstance(text, BertSpec) and text.decode_id == text.encode_id:
        _check_plain_bert(source, target, text)
    elif isinstance(text, BertSpec):
        _check_bert(source, target, text)
    else:
        _check_clip(source, target, text)


def with_its_ids(spec: Spec, folder: Path) -> Spec:
    """The spec with the ids that the tokenizer in a folder has for the special tokens of a plain
    BERT vocabulary. Other specs are returned unchanged."""
    text = spec.text
    if not isinstance(text, BertSpec) or text.decode_id != text.encode_id:
        return spec
    start, end, mask = _special_ids(folder)
    text = dataclasses.replace(text, decode_id=start, encode_id=start, end_id=end, mask_id=mask)
    return dataclasses.replace(spec, text=text)  # type: ignore[arg-type]


def _special_ids(folder: Path) -> tuple[int, int, int]:
    encoder = pretrained(folder, local_files_only=True)
    return encoder.cls_token_id, encoder.sep_token_id, encoder.mask_token_id


def _check_plain_bert(source: str, folder: Path, text: BertSpec) -> None:
    """Checks the tokenizer's size, that it has [CLS] and [MASK], and that [SEP] ends a text."""
    size = vocabulary_size(folder)
    if size != text.vocab:
        raise ConversionError(
            f"--tokenizer {source}: has {size} tokens, the checkpoint has embeddings for "
            f"{text.vocab}"
        )
    end = _end(source, folder, text.context)
    start, own, mask = _special_ids(folder)
    if own != end or None in (start, mask):
        raise ConversionError(f"--tokenizer {source}: has no [CLS], [SEP] and [MASK], as BERT's")


def _check_bert(source: str, folder: Path, text: BertSpec) -> None:
    """Checks that the tokenizer has BERT's words, with or without BLIP's [DEC] and [ENC]."""
    size, without = vocabulary_size(folder), min(text.decode_id, text.encode_id)
    if size not in (without, text.vocab):
        raise ConversionError(
            f"--tokenizer {source}: has {size} tokens, the checkpoint has embeddings for "
            f"{text.vocab}: {without} of BERT's, [DEC] and [ENC]"
        )
    end = _end(source, folder, text.context)
    if end != text.end_id:
        raise ConversionError(
            f"--tokenizer {source}: a text ends with id {end}, the checkpoint's with {text.end_id}"
        )


def _check_clip(source: str, folder: Path, text: TextSpec) -> None:
    highest = vocabulary_size(folder) - 1
    if highest >= text.vocab:
        raise ConversionError(
            f"--tokenizer {source}: its ids go up to {highest}, the checkpoint has embeddings for "
            f"{text.vocab}"
        )
    end = _end(source, folder, text.context)
    if end != highest:
        raise ConversionError(
            f"--tokenizer {source}: a text ends with id {end}, but text is pooled at the highest "
            f"id, {highest}"
        )


def _end(source: str, folder: Path, context: int) -> int:
    """Id of the token that ends a text."""
    try:
        return int(Tokenizer.load(folder, context)([""])[0, 1])
    except ValueError as error:
        why = str(error).removeprefix(f"{folder}: ")
        raise ConversionError(f"--tokenizer {source}: does not load: {why}") from error


def vocabulary_size(folder: Path) -> int:
    """One more than the highest token id.

    Raises ConversionError: no ids, or ids that are no whole numbers.
    """
    file = next((f for f in (folder / n for n in _VOCABULARIES) if f.exists()), None)
    if file is None:
        raise ConversionError(f"{folder}: holds none of {', '.join(_VOCABULARIES)}")
    ids: list[Any] = []
    if file.name == "vocab.txt":
        ids += range(len(_words(file)))
    else:
        content = read_json(file)
        ids += _ids(content) if file.name == "tokenizer.json" else content.values()
    if file.name != "tokenizer.json" and (folder / "added_tokens.json").exists():
        ids += read_json(folder / "added_tokens.json").values()
    if not ids or not all(type(number) is int and number >= 0 for number in ids):
        raise ConversionError(f"{file}: holds no tokens with whole numbers as ids")
    return max(ids) + 1


def _ids(content: dict[str, Any]) -> list[Any]:
    """Ids in a tokenizer.json, whose vocabulary is a dict of them or a list in their order."""
    model, added = content.get("model"), content.get("added_tokens", [])
    vocabulary = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(vocabulary, list):
        vocabulary = dict(enumerate(range(len(vocabulary))))
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        return []
    extra = [token.get("id") if isinstance(token, dict) else None for token in added]
    return [*vocabulary.values(), *extra]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConversionError(f"{file}: not UTF-8 text: {error}") from error


def _from_pieces(path: Path, target: Path) -> None:
    """Writes the tokenizer.json of a SentencePiece model."""
    try:
        tokenizer = plain_tokenizer(read_model(path))
    except ValueError as error:
        raise ConversionError(f"--tokenizer {path}: {impostor_or(path, error)}") from error
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config = target / "tokenizer_config.json"
    if not config.exists():
        config.write_text(json.dumps(settings) + "\n", "utf-8")


def _copy(folder: Path, target: Path, text: TextSpec | BertSpec) -> None:
    if not has_tokenizer(folder):
        raise ConversionError(
            f"{folder}: holds no tokenizer (tokenizer.json, vocab.json and merges.txt, or "
            "vocab.txt)"
        )
    copy_words(folder, target)
    pieces = next((target / n for n in SENTENCEPIECE if (target / n).exists()), None)
    others = ("tokenizer.json", "vocab.json", "vocab.txt")
    if pieces is not None and not any((target / name).exists() for name in others):
        _from_pieces(pieces, target)
    config = target / "tokenizer_config.json"
    if not config.exists():
        # Old folders leave it out; vlt reads no folder without it.
        kind = "BertTokenizer" if isinstance(text, BertSpec) else "CLIPTokenizer"
        config.write_text(json.dumps({"tokenizer_class": kind}) + "\n", "utf-8")


def copy_words(folder: Path, target: Path) -> None:
    """Copies tokenizer files into a folder.

    Raises ConversionError: one is a link that leads out of its folder, is not a plain file, or only
        points to one.
    """
    try:
        copy_tokenizer(folder, target)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    for name in TOKENIZER_FILES:
        if (target / name).is_file():
            _refuse_pointer(target / name, folder / name)


def from_words(path: Path, target: Path, context: int) -> None:
    """Writes BERT's tokenizer from its words, a vocab.txt.

    Raises ConversionError: the file only points to one.
    """
    _refuse_pointer(path)
    write_bert_tokenizer(path, target, context)


def _refuse_pointer(file: Path, source: Path | None = None) -> None:
    """Raises ConversionError for a pointer, which would be read as a few words. source: the file
    that it is a copy of, for the message."""
    if pointer := describe_pointer(file):
        raise ConversionError(f"{source or file}: {pointer}")


def _from_hub(name: str, target: Path) -> None:
    try:
        tokenizer = pretrained(name)
    except ValueError as error:
        raise ConversionError(
            f"--tokenizer {name}: neither a folder, a file, nor a name that the hub or its cache "
            f"knows ({error})"
        ) from error
    tokenizer.save_pretrained(target)


def _from_merges(path: Path, target: Path, context: int) -> None:
    try:
        write_clip_tokenizer(path, target, context)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConversionError(
            f"--tokenizer {path}: not a gzip text of CLIP's byte-pair merges: "
            f"{impostor_or(path, error, gzipped=True)}"
        ) from error
