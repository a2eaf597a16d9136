"""Tokenizer files of a chat model: LLaMA's, in one form, and BERT's for Q-Former instructions."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.impostors import impostor_or
from vlt.convert.files.json_files import read_json
from vlt.convert.tokenizer import from_words, vocabulary_size
from vlt.data.text.sentencepiece_model import read_pieces, tokenizer_of
from vlt.models.spec import ChatSpec

IMAGE = ("<im_patch>", "<im_start>", "<im_end>")
VIDEO = ("<vid_patch>", "<vid_start>", "<vid_end>")
_PAD = ("[PAD]",)
# Added words by the number of rows after those of tokenizer.model: LLaVA's, in v0 after [PAD].
ADDED = {
    1: _PAD,
    3: IMAGE,
    4: _PAD + IMAGE,
    6: IMAGE + VIDEO,
    7: _PAD + IMAGE + VIDEO,
}
# InstructBLIP's added words; transformers 5 puts the tokens of an image in place of the second.
INSTRUCTED = (*_PAD, "<image>")
_SPECIAL = ("<unk>", "<s>", "</s>")
_DECODE = "[DEC]"


@dataclasses.dataclass(frozen=True)
class Words:
    """A LLaMA tokenizer. content: that of tokenizer.json. added: words after its pieces, with their
    ids."""

    content: Mapping[str, Any]
    pieces: Mapping[str, int]
    added: Mapping[str, int]

    @property
    def ids(self) -> dict[str, int]:
        return {**self.pieces, **self.added}

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self.ids.values()) + 1

    def with_words(self, words: Iterable[str]) -> "Words":
        """The tokenizer with these words; those that it lacks get the next ids."""
        added = dict(self.added)
        for word in words:
            if word not in self.ids and word not in added:
                added[word] = max([*self.pieces.values(), *added.values()]) + 1
        return dataclasses.replace(self, added=added)


def read_words(source: Path | None) -> Words:
    """Reads LLaMA's tokenizer from a folder, or from its tokenizer.json or tokenizer.model.

    Raises ConversionError: there is none, or it is of another kind.
    """
    if source is None:
        raise ConversionError(
            "no folder holds the language model's tokenizer; --tokenizer names a folder, a "
            "tokenizer.json or a tokenizer.model"
        )
    names = ("tokenizer.json", "tokenizer.model")
    files = [source / name for name in names] if source.is_dir() else [source]
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        raise ConversionError(
            f"{source}: holds neither {' nor '.join(names)}; --tokenizer names it"
        )
    content = _content(file)
    pieces = _pieces(file, content)
    added = {
        token["content"]: token["id"]
        for token in content.get("added_tokens", [])
        if token["content"] not in pieces
    }
    others = file.parent / "added_tokens.json"
    if file.suffix == ".model" and others.exists():
        added |= read_json(others)
    return _checked(file, Words(content, pieces, added))


def _content(file: Path) -> dict[str, Any]:
    if file.suffix == ".json":
        return read_json(file)
    try:
        return dict(json.loads(tokenizer_of(read_pieces(file)).to_str()))
    except ValueError as error:
        reason = str(error).removeprefix(f"{file}: ")
        raise ConversionError(f"{file}: {impostor_or(file, reason)}") from error


def _pieces(file: Path, content: Mapping[str, Any]) -> dict[str, int]:
    model = content.get("model")
    pieces = model.get("vocab") if isinstance(model, dict) else None
    added = content.get("added_tokens", [])
    whole = isinstance(added, list) and all(
        isinstance(t, dict) and isinstance(t.get("content"), str) and type(t.get("id")) is int
        for t in added
    )
    if not isinstance(pieces, dict) or not model.get("byte_fallback") or not whole:  # type: ignore[union-attr]
        raise ConversionError(f"{file}: no tokenizer of byte pairs with bytes to fall back on")
    return pieces


def _checked(file: Path, words: Words) -> Words:
    """Raises ConversionError unless ids are 0, 1, 2, ..., the first three <unk>, <s> and </s>."""
    ids = [*words.ids.values()]
    if not all(type(x) is int for x in ids) or sorted(ids) != [*range(len(ids))]:
        raise ConversionError(f"{file}: ids of its words are not 0 to {len(ids) - 1}, each once")
    if [words.ids.get(word) for word in _SPECIAL] != [0, 1, 2]:
        raise ConversionError(f"{file}: <unk>, <s>, </s> are not 0, 1, 2, as LLaMA's are")
    return words


def write_words(words: Words, target: Path, spec: ChatSpec) -> None:
    """Writes tokenizer.json and tokenizer_config.json into the new folder `target` and checks them.

    Raises ConversionError: more words than rows of embeddings, or files that do not load.
    """
    if words.size > spec.text.vocab:
        raise ConversionError(
            f"the tokenizer has {words.size} words, the language model rows for {spec.text.vocab}"
        )
    target.mkdir(parents=True)
    tokens = {t["content"]: t for t in words.content.get("added_tokens", [])}
    for word in (*_SPECIAL, *sorted(words.added, key=words.added.__getitem__)):
        tokens[word] = _token(word, words.ids[word])
    listed = sorted(tokens.values(), key=lambda token: token["id"])
    content = dict(words.content) | {"added_tokens": listed, "truncation": None, "padding": None}
    (target / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    start = next(word for word, index in words.ids.items() if index == spec.text.start_id)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": spec.text.context,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    _try(target, words)


def _token(word: str, index: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": word, **plain, "special": True}


def _try(folder: Path, words: Words) -> None:
    import tokenizers

    try:
        encoder = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        found = [encoder.token_to_id(word) for word in words.added]
    except Exception as error:  # the library has no error class of its own
        raise ConversionError(f"the tokenizer does not load: {error}") from error
    if found != [*words.added.values()]:
        raise ConversionError(f"the tokenizer gives {[*words.added]} the ids {found}")


def write_qformer_words(source: Path | None, target: Path, spec: ChatSpec) -> None:
    """Writes the tokenizer for a Q-Former's instructions into a folder: BERT's words, then [DEC].

    Raises ConversionError: there is none, or it has more or fewer words than the Q-Former has rows.
    """
    assert spec.qformer is not None
    file = source / "vocab.txt" if source and source.is_dir() else source
    if file is None or not file.is_file():
        raise ConversionError(
            "InstructBLIP's Q-Former reads instructions by BERT's words: --qformer-tokenizer names "
            "a vocab.txt (bert-base-uncased), or a folder with one"
        )
    from_words(file, target, spec.qformer.context)
    size = vocabulary_size(target)
    if size == spec.qformer.vocab - 1:
        words = target / "vocab.txt"
        words.write_text(words.read_text("utf-8").rstrip("\n") + f"\n{_DECODE}\n", "utf-8")
    elif size != spec.qformer.vocab:
        raise ConversionError(
            f"{file}: {size} words, the Q-Former has rows for {spec.qformer.vocab}: BERT's and "
            f"{_DECODE}"
        )
