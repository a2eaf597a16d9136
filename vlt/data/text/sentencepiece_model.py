"""SentencePiece models as tokenizers of the `tokenizers` package: LLaMA's, Gemma's, T5's.

A model file (Kudo and Richardson, arXiv:1808.06226) is a Protocol Buffers message, of which only
what a byte-pair or a unigram tokenizer needs is read.
"""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPACE = "\u2581"
# Bounds of what a stranger's file makes us read; XLM-V's, the largest known, has 901,629 pieces.
_MOST_BYTES = 2**26
_MOST_PIECES = 2**20
_MOST_OF_PIECE = 8  # fields; published ones have three
_MOST_FIELDS = 2**16
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
_UNIGRAM, _BYTE_PAIRS = 1, 2
_LONGEST = 64  # characters of a piece


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece. kind: SentencePiece's, 1 for a normal one."""

    text: str
    score: float
    kind: int


@dataclasses.dataclass(frozen=True)
class Model:
    """pieces: in the order of their ids. kind: 1 for unigram (single pieces' probabilities), 2 for
    byte pairs. byte_fallback: whether what no piece covers becomes bytes. changes: a compiled map
    of characters. prefix: whether a space is put before a text. merged_spaces: whether runs of
    spaces become one, and those at the ends are dropped."""

    pieces: list[Piece]
    kind: int
    byte_fallback: bool
    changes: bytes
    prefix: bool
    merged_spaces: bool


def read_pieces(path: Path) -> list[Piece]:
    """Reads the pieces of a LLaMA tokenizer, in the order of their ids.

    Raises:
        ValueError: there is no such file, or it is not a byte-pair model with byte fallback that
            changes no characters but spaces and puts a space before a text.
    """
    model = read_model(path)
    fits = model.kind == _BYTE_PAIRS and model.byte_fallback and model.prefix
    if not fits or model.merged_spaces or model.changes:
        raise ValueError(
            f"{path}: not a LLaMA's: of byte pairs with bytes to fall back on, no normalisation, "
            "and a space in front"
        )
    return model.pieces


def read_model(path: Path) -> Model:
    """Reads all that a text's ids depend on.

    Raises:
        ValueError: there is no such file, or it is not a SentencePiece model.
    """
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size} bytes, and no model has more than {_MOST_BYTES}")
        fields = [*_fields(memoryview(path.read_bytes()), _MOST_PIECES)]
        pieces = [_piece(value) for number, value in fields if number == 1]
        last = dict(fields)
        trainer, normalizer = (_message(last.get(number, b""), _MOST_FIELDS) for number in (2, 3))
        model_type, byte_fallback = trainer.get(3, 1), trainer.get(35, 0)
        changes, prefix = normalizer.get(2, b""), normalizer.get(3, 1)
        merged_spaces = normalizer.get(4, 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (ValueError, struct.error, TypeError) as error:
        raise ValueError(f"{path}: not a model of SentencePiece: {error}") from error
    if len(pieces) < 3:
        raise ValueError(f"{path}: not a model of SentencePiece: {len(pieces)} pieces")
    return Model(
        pieces, model_type, bool(byte_fallback), bytes(changes), bool(prefix), bool(merged_spaces)
    )


def _message(data: Any, most: int) -> dict[int, Any]:
    """{number: last value} of a message's fields."""
    return dict(_fields(memoryview(data), most))


def _piece(data: Any) -> Piece:
    fields = _message(data, _MOST_OF_PIECE)
    text = bytes(fields.get(1, b"")).decode("utf-8")
    score = struct.unpack("<f", fields.get(2, b"\0\0\0\0"))[0]
    return Piece(text, score, fields.get(3, _NORMAL))


def _fields(data: memoryview, most: int) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an int for a varint, bytes for all else."""
    position = 0
    for _ in range(most):
        if position == len(data):
            return
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, position = _varint(data, position)
        if size is None or position + size > len(data):
            raise ValueError("a field that is cut short, or of an unknown type")
        yield key >> 3, data[position : position + size]
        position += size
    if position < len(data):
        raise ValueError(f"a message of more than {most} fields")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            break
        byte, position = data[position], position + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number that is cut short, or too large")


def plain_tokenizer(model: Model) -> Any:
    """The model as a tokenizers.Tokenizer that puts nothing around a text.

    Raises:
        ValueError: the model is of neither kind, has no unknown piece, or is one of byte pairs that
            changes characters or merges spaces.
    """
    from tokenizers import AddedToken, Tokenizer, models

    pieces = model.pieces
    unknown = next((i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN), None)
    if unknown is None or model.kind not in (_UNIGRAM, _BYTE_PAIRS):
        raise ValueError("neither single pieces' probabilities nor byte pairs, or nothing unknown")
    if model.kind == _UNIGRAM:
        scores = [(piece.text, piece.score) for piece in pieces]
        tokenizer = Tokenizer(models.Unigram(scores, unknown, model.byte_fallback))
        _set_spaces(tokenizer, model)
    else:
        if model.changes or model.merged_spaces:
            raise ValueError("byte pairs that change characters, or drop spaces, are not read")
        ids = {piece.text: index for index, piece in enumerate(pieces)}
        options = {"unk_token": pieces[unknown].text}
        tokenizer = byte_pair_tokenizer(ids, _merges(pieces, ids), model.prefix, **options)
    own = [piece.text for piece in pieces if piece.kind == _USER]
    tokenizer.add_tokens([AddedToken(text, normalized=True, special=False) for text in own])
    special = [piece.text for piece in pieces if piece.kind in (_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens([AddedToken(x, normalized=False, special=True) for x in special])
    return tokenizer


def _set_spaces(tokenizer: Any, model: Model) -> None:
    """Sets how a unigram tokenizer treats the characters and spaces of a text."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    steps: list[Any] = [normalizers.Precompiled(model.changes)] if model.changes else []
    if model.merged_spaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if model.prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme)
    tokenizer.decoder = decoders.Metaspace(SPACE, scheme)


def tokenizer_of(pieces: list[Piece]) -> Any:
    """LLaMA's pieces as a tokenizers.Tokenizer that puts the start token in front."""
    from tokenizers import AddedToken, processors

    ids = {piece.text: index for index, piece in enumerate(pieces)}
    tokenizer = byte_pair_tokenizer(ids, _merges(pieces, ids))
    special = [piece.text for piece in pieces if piece.kind in (_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens([AddedToken(x, normalized=False, special=True) for x in special])
    start = pieces[1].text
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0",
        pair=f"{start}:0 $A:0 {start}:1 $B:1",
        special_tokens=[(start, 1)],
    )
    return tokenizer


def byte_pair_tokenizer(
    ids: dict[str, int], merges: list[tuple[str, str]], prefix: bool = True, **options: Any
) -> Any:
    """A tokenizers.Tokenizer with `SPACE` for spaces, and bytes for what no piece covers.

    prefix: whether a space is put before a text. options: those of the library's BPE.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    model = models.BPE(ids, merges, fuse_unk=True, byte_fallback=True, **options)
    tokenizer = Tokenizer(model)
    first = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return tokenizer


def _merges(pieces: list[Piece], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of pieces that join to one piece, those with the best score first."""
    found = []
    for piece in pieces:
        if piece.kind != _NORMAL or len(piece.text) > _LONGEST:
            continue
        for place in range(1, len(piece.text)):
            left, right = piece.text[:place], piece.text[place:]
            if left in ids and right in ids:
                found.append((-piece.score, -place, left, right))
    return [(left, right) for *_, left, right in sorted(found)]
