"""From videos to the tokens that a chat model reads."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.text.instructions import STEP, Instructions
from vlt.models.chat import ChatModel


class Watcher:
    """A chat model's vision tower and connector.

    A Q-Former that reads questions runs again for each one; the tower sees a video only once.
    """

    def __init__(self, module: ChatModel, params: Any, words: Path):
        """words: folder of the Q-Former's tokenizer, if it reads instructions.

        Raises:
            ValueError: the folder has no tokenizer, or one with another vocabulary size.
        """
        self._module, self._params = module, params
        self._instructed = module.spec.instructed
        qformer = module.spec.qformer
        self._ids = Instructions(words, qformer.vocab) if qformer and self._instructed else None

    def see(self, video: jax.Array) -> jax.Array:
        """Encodes [b, t, H, W, 3] into what is kept: tokens [b, k, d], or the Q-Former's input."""
        seen: jax.Array = self._see(self._params, video)
        return seen.reshape(len(video), -1, *seen.shape[1:]) if self._instructed else seen

    def tokens(self, seen: jax.Array, questions: Sequence[str]) -> jax.Array:
        """Tokens [b, k, d] of what was seen, with one question for each video."""
        if self._ids is None:
            return seen
        ids = np.repeat(self._ids(questions), seen.shape[1], axis=0)
        found = self._ask(self._params, seen.reshape(-1, *seen.shape[2:]), jnp.asarray(ids))
        return found.reshape(len(seen), -1, found.shape[-1])

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
