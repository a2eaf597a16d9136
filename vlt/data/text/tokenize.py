"""Captions to token ids and back, with the tokenizer files that a model folder carries."""

import dataclasses
import gzip
import json
import os
import pathlib
import re
import shutil
import string
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from vlt.data.text.texts import wrong_characters
from vlt.pytrees.fields import from_values, near, shown

# Otherwise transformers complains when imported that there is no torch, which is not needed.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

PAD = 0
SHOWN = 80  # characters of a text in a message
CLIP_MERGES = 48_894  # how many of the published list CLIP uses
_MOST_MERGES = 2**24  # characters; the published list has 3 million
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
CLEANING, FORM = "vlt_cleaning", "vlt_form"  # our keys in tokenizer_config.json
# All files that a tokenizer is read from; a folder's code is never among them.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TOKENIZER_NAMES = "|".join(map(re.escape, TOKENIZER_FILES))  # as a pattern


@dataclasses.dataclass(frozen=True)
class Form:
    """How a text becomes ids, whatever class a folder names.

    cleaning: a key of `CLEANINGS`, applied before the text is split into words. start, end: ids
    around its words, None for none. pad: the id that fills up a row.

    Raises:
        ValueError: the cleaning is unknown.
    """

    cleaning: str
    start: int | None = None
    end: int | None = None
    pad: int = PAD

    def __post_init__(self) -> None:
        if self.cleaning not in CLEANINGS:
            raise ValueError(
                f"{FORM}.cleaning={shown(self.cleaning)}{near(self.cleaning, CLEANINGS)}"
            )


class Tokenizer:
    """Turns texts into padded ids: start token, text, end token, zeros; or as a `Form` says.

    Attributes:
        context: length of a row.
        size: number of tokens in the vocabulary.
        cut: how many texts so far were longer than the context.
    """

    def __init__(self, encoder, context: int, cleaning: str = "", form: Form | None = None):
        if context < 2:
            raise ValueError(f"context must be >= 2, for the start and end tokens, got {context}")
        self.context, self.cut = context, 0
        self._encoder, self._form = encoder, form
        self._clean = CLEANINGS[form.cleaning if form else cleaning]
        self._lock = threading.Lock()
        ends = encoder("")["input_ids"] if form is None else [form.start, form.end]
        if len(ends) != 2:
            raise ValueError(f"a tokenizer must add a start and an end token, this adds ids {ends}")
        self._end, self._pad = ends[1], PAD if form is None else form.pad
        self.size = len(encoder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], context: int) -> "Tokenizer":
        """Loads a folder of Hugging Face tokenizer files; never looks anywhere else, and never
        runs code that the folder brings.

        Raises:
            FileNotFoundError: the folder or its tokenizer files are missing.
            ValueError: the files are broken or need code of their own, the tokenizer adds no start
                and end token, or the context is below 2.
        """
        folder = pathlib.Path(folder)
        if not (folder / "tokenizer_config.json").is_file():
            raise FileNotFoundError(f"{folder}: no tokenizer_config.json, so no tokenizer folder")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        if FORM in settings:
            form = from_values(Form, settings[FORM], f"{folder}/tokenizer_config.json: {FORM}")
            return cls(plain_encoder(folder / "tokenizer.json"), context, form=form)
        encoder = pretrained(folder, local_files_only=True)
        return cls(encoder, context, "openai" if settings.get(CLEANING) == "openai" else "")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids, int32 [b, context], padded after the end; a cut text keeps its end token.

        Raises:
            ValueError: a text is invalid (`wrong_characters`).
        """
        rows = np.full((len(texts), self.context), self._pad, np.int32)
        for row, ids in zip(rows, self._ids(texts), strict=True):
            if len(ids) > self.context:
                self._count_cut(len(ids))
                end = [] if self._end is None else [self._end]
                ids = [*ids[: self.context - len(end)], *end]
            row[: len(ids)] = ids
        return rows

    def entries(
        self, texts: Mapping[str, Sequence[str]], rows: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The ids of a batch's texts, by the same names. rows: the rows they belong to."""
        return {name: self(found) for name, found in texts.items()}

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of whole texts, start and end token included."""
        for text in texts:
            if wrong := wrong_characters(text):
                raise ValueError(f"{text[:SHOWN]!r} {wrong}")
        if not texts:
            return []
        cleaned = [self._clean(text) for text in texts]
        if self._form is None:
            return self._encoder(cleaned, verbose=False)["input_ids"]
        start, end = ([] if one is None else [one] for one in (self._form.start, self._form.end))
        words = self._encoder(cleaned, verbose=False, add_special_tokens=False)["input_ids"]
        return [[*start, *ids, *end] for ids in words]

    def length(self, text: str) -> int:
        """Number of tokens of a whole text, context aside. Raises ValueError if it is invalid."""
        return len(self._ids([text])[0])

    def prompt(self, text: str) -> np.ndarray:
        """Token ids of the beginning of a text, int32 [l]: start token, no end token.

        Raises:
            ValueError: it leaves no room in the context, or is invalid.
        """
        ids = self._ids([text])[0]
        ids = ids if self._end is None else ids[:-1]
        if len(ids) >= self.context:
            raise ValueError(
                f"a prompt of {len(ids)} tokens; a text has {self.context}, and words must follow"
            )
        return np.array(ids, np.int32)

    def decode(self, ids: np.ndarray) -> list[str]:
        """Texts of ids [b, l], each up to its end token, without special tokens.

        Spaces before punctuation are removed, as in BLIP's captions.
        """
        rows = [row[: row.index(self._end)] if self._end in row else row for row in ids.tolist()]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": True}
        return [self._encoder.decode(row, **options) for row in rows]

    def _count_cut(self, length: int) -> None:
        with self._lock:
            self.cut += 1
        if self.cut == 1:
            logging.warning("a text of %d tokens was cut to %d (said once)", length, self.context)


def pretrained(source: str | os.PathLike[str], **options: bool) -> Any:
    """transformers' tokenizer from a folder or a hub name; code that comes with it never runs.

    Raises:
        ValueError: it is absent, broken, or needs code of its own.
    """
    from transformers import AutoTokenizer

    try:
        encoder = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        encoder("")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of many kinds; panics in tokenizers are not Exceptions
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{source}: a tokenizer of code of its own (auto_map), which is never run; one of "
                "a class of transformers is needed"
            ) from error
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{source}: no tokenizer loads from it: {why[:300]}") from error
    return encoder


def plain_encoder(file: pathlib.Path) -> Any:
    """transformers' tokenizer from a tokenizer.json alone: no specific class, no settings.

    Raises:
        ValueError: it is absent or broken.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        encoder = PreTrainedTokenizerFast(tokenizer_file=str(file))
        encoder("")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # as above
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file}: no tokenizer loads from it: {why[:300]}") from error
    return encoder


class NoTexts:
    """Takes the place of a tokenizer for a model that reads no text."""

    def entries(
        self, texts: Mapping[str, Sequence[str]], rows: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """No entries, whatever texts there are."""
        return {}


def copy_tokenizer(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the files that a tokenizer is read from, and nothing else, into a folder.

    Raises:
        ValueError: one is a link that leads out of the folder (other than in the hub's cache, whose
            files are links to blobs), or is not a plain file.
    """
    target.mkdir(parents=True, exist_ok=True)
    homes = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        homes.append(folder.resolve().parents[1] / "blobs")
    for name in TOKENIZER_FILES:
        file = folder / name
        if not file.exists() and not file.is_symlink():
            continue
        if not any(file.resolve().is_relative_to(home) for home in homes):
            raise ValueError(f"{file}: leads out of the folder, to {file.resolve()}; copy it there")
        if not file.is_file():
            raise ValueError(f"{file}: not a plain file")
        shutil.copyfile(file, target / name)


def _fixed(text: str) -> str:
    """Cleans text as OpenAI's CLIP does before it splits it into words."""
    import html

    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _canonical(text: str) -> str:
    """Cleans text like transformers' SigLIP 1: lower case, no ASCII punctuation, single spaces."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", bare).strip()


def _sentence(text: str) -> str:
    """Cleans text like VideoPrism's authors: ASCII punctuation becomes spaces, then lower case,
    single spaces, a full stop."""
    spaced = text.translate(dict.fromkeys(map(ord, string.punctuation), " "))
    return f"{' '.join(spaced.lower().split())}."


CLEANINGS: dict[str, Callable[[str], str]] = {
    "": lambda text: text,
    "openai": _fixed,
    "lower": str.lower,
    "canonical": _canonical,
    "sentence": _sentence,
}


def write_bert_tokenizer(
    words: str | os.PathLike[str], folder: str | os.PathLike[str], context: int = 512
) -> None:
    """Writes a lower-casing BERT tokenizer as Hugging Face files, from a `vocab.txt`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_bytes(pathlib.Path(words).read_bytes())
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": context,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_clip_tokenizer(
    merges: str | os.PathLike[str], folder: str | os.PathLike[str], context: int = 77
) -> None:
    """Writes CLIP's tokenizer as Hugging Face files, from OpenAI's `bpe_simple_vocab_16e6.txt.gz`.

    Token ids as in OpenAI's CLIP: bytes, bytes that end a word, merges, start 49406, end 49407.

    Raises:
        ValueError: the file holds fewer merges than CLIP uses.
    """
    with gzip.open(merges, "rt", encoding="utf-8") as file:
        lines = file.read(_MOST_MERGES).split("\n")[1 : CLIP_MERGES + 1]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    if len(pairs) < CLIP_MERGES or not all(left and right for left, right in pairs):
        raise ValueError(f"{merges}: must hold a heading and {CLIP_MERGES} pairs of tokens")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _clip_tokenizer(pairs).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": CLIP_START,
        "eos_token": CLIP_END,
        "pad_token": CLIP_END,
        "unk_token": CLIP_END,
        "model_max_length": context,
        CLEANING: "openai",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _clip_tokenizer(pairs: Sequence[tuple[str, str]]):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    units = _byte_units()
    words = [*units, *(u + "</w>" for u in units), *map("".join, pairs), CLIP_START, CLIP_END]
    ids = {word: index for index, word in enumerate(words)}
    bpe = models.BPE(ids, pairs, end_of_word_suffix="</w>", unk_token=CLIP_END)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLIP_START} $A {CLIP_END}",
        special_tokens=[(word, ids[word]) for word in (CLIP_START, CLIP_END)],
    )
    tokenizer.add_special_tokens([CLIP_START, CLIP_END])
    return tokenizer


def _byte_units() -> list[str]:
    """One printable character for each byte, in the order of CLIP's vocabulary (GPT-2's map)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
