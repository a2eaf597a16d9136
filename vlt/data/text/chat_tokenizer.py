"""Turns dialogues into ids with a LLaMA tokenizer.

The published systems tokenize a prompt in three ways, which differ around added tokens
(`<vid_start>` and the like):
    train: slow tokenizers of transformers up to 4.31, as training scripts use them. White space
        next to an added token is lost, and a text after one begins a word.
    fast: fast tokenizers of 4.31, as LLaVA and BT-Adapter load them for inference. White space
        stays, and a text after an added token gets one extra space.
    modern: transformers 5. White space stays; a text gets a leading space unless it has one.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlt.data.text.prompts import END, START, VIDEO, Piece, Template
from vlt.data.text.texts import SHOWN, wrong_characters
from vlt.pytrees.fields import near

SPACINGS = ("train", "fast", "modern")
SPACE = "\u2581"  # SentencePiece's mark for a space


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A dialogue as ids [l].

    video: int32 [l], the index of the video token at each place, counted across all videos;
    -1 for a word. answer: bool [l], whether the token belongs to an answer or ends one.
    """

    ids: np.ndarray
    video: np.ndarray
    answer: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class ChatTokenizer:
    """Texts to SentencePiece ids and back, by a folder's `tokenizer.json`.

    Attributes:
        size: size of the vocabulary.
        start_id, end_id: ids of the tokens that begin and end a text, by tokenizer_config.json.
    """

    def __init__(self, encoder: Any, start: str = START, end: str = END):
        self._encoder, self._model = encoder, encoder.model
        self.size = encoder.get_vocab_size(with_added_tokens=True)
        self.start_id, self.end_id = (self.id_of(name) for name in (start, end))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "ChatTokenizer":
        """Loads the tokenizer of a folder.

        Raises:
            FileNotFoundError: there is no tokenizer.json, or no tokenizer_config.json.
            ValueError: one of them is broken, or the tokenizer is not of LLaMA's kind.
        """
        import tokenizers

        folder = pathlib.Path(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder}: no {name}, which a chat model's tokenizer is")
        try:
            encoder = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        except Exception as error:  # the library has no exception class of its own
            raise ValueError(f"{folder}: a tokenizer file is broken: {error}") from error
        if not getattr(encoder.model, "byte_fallback", False):
            raise ValueError(f"{folder}/tokenizer.json is not a SentencePiece BPE, as LLaMA's is")
        names = (settings.get(key) for key in ("bos_token", "eos_token"))
        start, end = (name["content"] if isinstance(name, dict) else name for name in names)
        return cls(encoder, start or START, end or END)

    def has(self, token: str) -> bool:
        """Whether there is a token with this name."""
        return self._encoder.token_to_id(token) is not None

    def id_of(self, token: str) -> int:
        """The id of the token with this name. Raises ValueError if there is none."""
        found = self._encoder.token_to_id(token)
        if found is None:
            known = [added.content for added in self._encoder.get_added_tokens_decoder().values()]
            raise ValueError(f"the tokenizer has no token {token}{near(token, known)}")
        return int(found)

    def encode(
        self, pieces: Sequence[Piece], used: Template, videos: Sequence[int], spacing: str = "train"
    ) -> Prompt:
        """Encodes a rendered dialogue. videos: the number of tokens of each video, in order.

        Raises:
            ValueError: there are not as many places as videos, the tokenizer lacks a token, a text
                is invalid (`wrong_characters`), or the spacing is unknown.
        """
        if spacing not in SPACINGS:
            raise ValueError(f"spacing={spacing!r}{near(spacing, SPACINGS)}")
        places = sum(piece.token and piece.text == VIDEO for piece in pieces)
        if places != len(videos):
            raise ValueError(f"{len(videos)} videos for a dialogue with {places} places for them")
        patch = self.id_of(used.patch) if used.patch else 0
        rows: list[tuple[int, int, bool]] = []
        first = 0
        counts, runs = iter(videos), _runs(pieces)
        for before, run, after in zip([[], *runs], runs, [*runs[1:], []], strict=False):
            piece = run[0]
            if not piece.token:
                rows += self._text(run, spacing, _added(before), _added(after))
            elif piece.text == VIDEO:
                count = next(counts)
                rows += [(patch, first + place, piece.answer) for place in range(count)]
                first += count
            else:
                rows.append((self._token(piece.text), -1, piece.answer))
        columns = np.array(rows, np.int32).reshape(-1, 3)
        return Prompt(columns[:, 0], columns[:, 1], columns[:, 2].astype(bool))

    def words(self, text: str, start: bool = True) -> list[int]:
        """SentencePiece's ids of a text. start: whether to put its usual space in front.

        No text becomes a special token. Raises ValueError for an invalid text.
        """
        return [token.id for token in self._tokens(text, start)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens and the leading space."""
        return str(self._encoder.decode(list(ids), skip_special_tokens=True))

    def answer(self, ids: Sequence[int], used: Template) -> str:
        """The answer that ids spell, up to what ends it, without surrounding white space."""
        ids = list(ids)
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        text = self.decode(ids)
        for stop in used.stops:
            text = text.partition(stop)[0]
        return text.strip()

    def stops(self, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The ids that texts may appear as: each text at the start of a word and within one."""
        found = [tuple(self.words(text, start)) for text in texts for start in (True, False)]
        return tuple(dict.fromkeys(found))

    def _token(self, name: str) -> int:
        return {START: self.start_id, END: self.end_id}.get(name) or self.id_of(name)

    def _tokens(self, text: str, start: bool) -> list[Any]:
        if wrong := wrong_characters(text):
            raise ValueError(f"{text[:SHOWN]!r} {wrong}")
        return list(self._model.tokenize(_spaced(text, start))) if text else []

    def _text(
        self, run: Sequence[Piece], spacing: str, behind: bool, ahead: bool
    ) -> list[tuple[int, int, bool]]:
        """Encodes adjacent texts as one. behind, ahead: an added token precedes, follows them."""
        text = "".join(piece.text for piece in run)
        answer = [piece.answer for piece in run for _ in piece.text]
        if spacing == "train":
            first = len(text) - len(text.lstrip()) if behind else 0
            last = len(text.rstrip()) if ahead else len(text)
            text, answer = text[first:last], answer[first:last]
        start = not (spacing == "modern" and text.startswith(" "))
        tokens = self._tokens(text, start)
        if tokens and start:
            answer = [False, *answer]
        # Offsets count bytes, the space in front included.
        sizes = [len(letter.encode()) for letter in _spaced(text, start)] if tokens else []
        marks = np.repeat(np.array(answer, bool), sizes)
        return [(token.id, -1, bool(marks[slice(*token.offsets)].any())) for token in tokens]


def _spaced(text: str, start: bool) -> str:
    return SPACE * start + text.replace(" ", SPACE)


def _runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Groups adjacent texts; one marked apart begins a new group, and each token is alone."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs and not (piece.token or piece.apart or runs[-1][0].token):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


def _added(run: Sequence[Piece]) -> bool:
    """Whether the run is a token that a checkpoint added to LLaMA's."""
    return bool(run) and run[0].token and run[0].text not in (START, END, VIDEO)
