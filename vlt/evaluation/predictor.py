"""A model's outputs over sharded data sets. Compiles each program once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlt.data.pipeline import VideoData
from vlt.data.tokenize import Tokenizer
from vlt.models.video_model import VideoModel
from vlt.sharding import shard_batch

TEXT_BATCH = 256

Metrics = dict[str, Any]


class Predictor:
    """What evaluations share.

    Attributes:
        module: the model. tokenizer: for its texts. workdir: where predictions are written.
    """

    def __init__(self, module: VideoModel, mesh: Mesh, tokenizer: Tokenizer, workdir: Path):
        self.module, self.tokenizer, self.workdir = module, tokenizer, workdir
        self._mesh = mesh
        self._programs: dict[Any, Callable[..., Any]] = {}

    def compiled(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of (params, arrays), jitted the first time that `key` is asked for."""
        return self._programs.setdefault(key, jax.jit(function))

    def videos(
        self,
        program: Callable[..., jax.Array],
        params: Any,
        data: VideoData,
        step: int,
        beside: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`program` over all videos: records [n] that could be read, and outputs [n, ...].

        beside: from the records of a batch (-1 where it is only filled up) to a further argument.
        """
        ids, found = [], []
        stream = data.evaluate(step=step)
        try:
            for batch in stream:
                inputs = (batch["video"], *([beside(batch["ids"])] if beside else ()))
                outputs = program(params, *(shard_batch(x, self._mesh) for x in inputs))
                ids.append(batch["ids"][batch["mask"]])
                found.append(np.asarray(outputs)[batch["mask"]])
        finally:
            stream.close()
        return np.concatenate(ids), np.concatenate(found)

    def texts(
        self, program: Callable[..., jax.Array], params: Any, texts: Sequence[str]
    ) -> np.ndarray:
        """`program` over ids of texts: [n, ...]. What fills the last batch up is dropped."""
        ids = self.tokenizer([*texts, *[""] * (-len(texts) % TEXT_BATCH)])
        found = [
            np.asarray(program(params, shard_batch(part, self._mesh)))
            for part in np.split(ids, len(ids) // TEXT_BATCH)
        ]
        return np.concatenate(found)[: len(texts)]
