"""Words that chat models add to LLaMA's, and rows for those that the weights lack."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlt.convert.chat.parts import Together
from vlt.convert.chat.words import ADDED, IMAGE, INSTRUCTED, VIDEO, Words
from vlt.convert.errors import ConversionError
from vlt.convert.tables.lazy import Lazy

EMBEDDING, HEAD = "text/token_embedding/embedding", "text/head/kernel"
_AXIS = {EMBEDDING: 0, HEAD: 1}


def fit_vocabulary(
    chat: str,
    together: Together,
    words: Words,
    branch: bool,
    settings: Mapping[str, Any],
    notes: list[str],
) -> Words:
    """The words that the model has, with rows for all of them in `together`; adds to the notes.

    LLaVA's weights hold rows for words that no tokenizer.model has (`ADDED` says which, by their
    number); a LLaVA with a branch has three more. Rows that no file gives are the mean of all
    others, as where training starts, or with text.new_rows=image copies of the image words' rows.

    Raises ConversionError: given rows that fit neither the embedding nor the image words.
    """
    if EMBEDDING not in together.leaves or HEAD not in together.leaves:
        return words  # reported as missing later
    words = _named(chat, words, together.leaves[EMBEDDING].shape[0], notes)
    if chat == "llava":
        wanted = IMAGE if together.new_rows is not None else ()
        wanted = (*wanted, *(VIDEO if branch else ()))
        words = words.with_words(wanted)
    rows = together.leaves[EMBEDDING].shape[0]
    for path in (EMBEDDING, HEAD):
        _grow(path, max(words.size, rows), together, words, settings, notes)
    if together.new_rows is not None:
        _put_new_rows(together, words, notes)
    spare = together.leaves[EMBEDDING].shape[0] - words.size
    if spare:
        notes.append(f"vocabulary: {spare} rows behind the last word of the tokenizer")
    return words


def _named(chat: str, words: Words, rows: int, notes: list[str]) -> Words:
    """The words, with those that the rows after the tokenizer's are known to stand for."""
    known: tuple[str, ...] = () if words.added else ADDED.get(rows - words.size, ())
    if chat != "llava":
        named = INSTRUCTED if chat == "instructblip" else ADDED[1]
        lacking = [word for word in named if word not in words.ids]
        known = tuple(lacking[: max(rows - words.size, 0)])
    if known:
        notes.append(f"words added to the tokenizer: {', '.join(known)}")
        return words.with_words(known)
    return words


def _grow(
    path: str,
    count: int,
    together: Together,
    words: Words,
    settings: Mapping[str, Any],
    notes: list[str],
) -> None:
    leaf, axis = together.leaves[path], _AXIS[path]
    have = leaf.shape[axis]
    if have >= count:
        return
    new = {index: word for word, index in words.ids.items() if index >= have}
    copies = {}
    if settings.get("text.new_rows", "mean") == "image":
        copies = {
            index: words.ids[twin]
            for index, word in new.items()
            if (twin := word.replace("<vid_", "<im_")) != word and words.ids.get(twin, have) < have
        }
    together.leaves[path] = _grown(leaf, axis, count, copies)
    told = ", ".join(new[index] for index in sorted(new)) or f"{count - have} rows"
    what = "copies of those of images, else the mean" if copies else "the mean"
    notes.append(f"{path}: {told}: {what} of the {have} rows there are")


def _grown(leaf: Lazy, axis: int, count: int, copies: Mapping[int, int]) -> Lazy:
    shape = (*leaf.shape[:axis], count, *leaf.shape[axis + 1 :])

    def read() -> np.ndarray:
        values = leaf.values()
        mean = values.astype(np.float32).mean(axis, keepdims=True).astype(values.dtype)
        new = [
            np.take(values, [copies[index]], axis) if index in copies else mean
            for index in range(values.shape[axis], count)
        ]
        return np.concatenate([values, *new], axis)

    return Lazy(shape, leaf.dtype, read, leaf.origin)


def _put_new_rows(together: Together, words: Words, notes: list[str]) -> None:
    """Inserts the rows that LLaVA's first stage saves, those of the last image words alone."""
    given, leaf = together.new_rows, together.leaves[EMBEDDING]
    assert given is not None
    last = words.ids[IMAGE[-1]] + 1
    first = last - given.shape[0]
    if given.shape[1:] != leaf.shape[1:] or not 0 < given.shape[0] <= len(IMAGE):
        raise ConversionError(
            f"{given.origin}: {list(given.shape)} fits no rows of {list(leaf.shape)}"
        )

    def read() -> np.ndarray:
        values = np.array(leaf.values())
        values[first:last] = given.values().astype(values.dtype)
        return values

    together.leaves[EMBEDDING] = dataclasses.replace(leaf, read=read)
    notes.append(f"{EMBEDDING}: rows {first} to {last - 1}: {given.origin}")
