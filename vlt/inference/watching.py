"""Videos to the tokens that a chat model reads of them."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.tokenize import pretrained
from vlt.models.chat import ChatModel

INSTRUCTION = 128  # tokens of a question that InstructBLIP's Q-Former reads, the last ones
STEP = 16  # tokens from one size of a compiled instruction to the next


class Watcher:
    """A chat model's vision tower and connector.

    A Q-Former that reads the question is asked again with each; the tower sees a video once.
    """

    def __init__(self, module: ChatModel, params: Any, words: Path):
        """words: folder of the Q-Former's tokenizer, where it reads instructions.

        Raises:
            ValueError: it has none, or of another number of words than the Q-Former.
        """
        self._module, self._params = module, params
        self._instructed = module.spec.instructed
        self._encoder = _instructions(module, words) if self._instructed else None

    def see(self, video: jax.Array) -> jax.Array:
        """What is kept of [b, t, H, W, 3]: tokens [b, k, d], or what the Q-Former reads."""
        seen: jax.Array = self._see(self._params, video)
        return seen.reshape(len(video), -1, *seen.shape[1:]) if self._instructed else seen

    def tokens(self, seen: jax.Array, questions: Sequence[str]) -> jax.Array:
        """[b, k, d] of what was seen, one question of each video."""
        if not self._instructed:
            return seen
        ids = np.repeat(self._ids(questions), seen.shape[1], axis=0)
        found = self._ask(self._params, seen.reshape(-1, *seen.shape[2:]), jnp.asarray(ids))
        return found.reshape(len(seen), -1, found.shape[-1])

    def _ids(self, questions: Sequence[str]) -> np.ndarray:
        """[b, l], 0 behind the end."""
        assert self._encoder is not None
        rows = [self._encoder(question)["input_ids"] for question in questions]
        rows = [
            row if len(row) <= INSTRUCTION else [row[0], *row[len(row) - INSTRUCTION + 1 :]]
            for row in rows
        ]
        ids = np.zeros((len(rows), -(-max(map(len, rows)) // STEP) * STEP), np.int32)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return ids

    @functools.cached_property
    def _see(self) -> Any:
        def see(model: ChatModel, video: jax.Array) -> jax.Array:
            if not self._instructed:
                return model.encode_video(video)[0]
            nothing = jnp.zeros((len(video), STEP), jnp.int32)
            return model.encode_video(video, nothing)[1]["video_tokens"]

        return self._program(see)

    @functools.cached_property
    def _ask(self) -> Any:
        def ask(model: ChatModel, seen: jax.Array, ids: jax.Array) -> jax.Array:
            return model.connector(seen, ids)[0]

        return self._program(ask)

    def _program(self, method: Any) -> Any:
        return jax.jit(lambda params, *x: self._module.apply({"params": params}, *x, method=method))


def _instructions(module: ChatModel, words: Path) -> Any:
    if not words.is_dir():
        raise ValueError(f"{words}: the Q-Former reads questions, and its tokenizer is not there")
    encoder, spec = pretrained(words, local_files_only=True), module.spec.qformer
    assert spec is not None
    if len(encoder) != spec.vocab:
        raise ValueError(f"{words}: {len(encoder)} words; the Q-Former has {spec.vocab} embeddings")
    return encoder
