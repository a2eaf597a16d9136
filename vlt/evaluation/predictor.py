"""Runs a model over sharded data sets, compiling each program once."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlt.data.pipeline import VideoData
from vlt.models.video_model import VideoModel
from vlt.runtime import stopping
from vlt.runtime.mesh import (
    BATCH_AXES,
    batch_sharding,
    check_batch_size,
    place_whole,
    shard_batch,
    to_host,
)
from vlt.runtime.processes import is_primary
from vlt.runtime.watchdog import Watchdog

TEXT_BATCH = 256  # rounded up to what the mesh can split

Metrics = dict[str, Any]


class Predictor:
    """Runs programs for evaluations. Each process reads some of the videos; all get all outputs.

    Attributes:
        module: the model. tokenizer: for its texts. workdir: where predictions are written.
        writes: whether this process writes them. trained_classes: names of the classes that the
            model is trained on, in order, where a method knows them one by one.
    """

    def __init__(
        self,
        module: VideoModel,
        mesh: Mesh,
        tokenizer: Any,  # a Tokenizer, or ChatBatches for a chat model
        workdir: Path,
        watchdog: Watchdog | None = None,
        trained_classes: Sequence[str] = (),
    ):
        self.trained_classes = tuple(trained_classes)
        self.module, self.tokenizer, self.workdir = module, tokenizer, workdir
        self.writes = is_primary()
        self._mesh, self._watchdog = mesh, watchdog or Watchdog(0)
        self._programs: dict[Any, Callable[..., Any]] = {}

    def compiled(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of (params, arrays), jitted the first time that `key` is asked for."""
        return self._programs.setdefault(key, jax.jit(function))

    def videos(
        self,
        program: Callable[..., Any],
        params: Any,
        data: VideoData,
        step: int,
        beside: Callable[[np.ndarray], Any] | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Runs `program` on all videos; returns records [n] that were read, and outputs [n, ...].

        beside: maps the records of a batch (-1 for padding) to a further argument.
        """
        ids, found = zip(*self.batches(program, params, data, step, beside), strict=True)
        return np.concatenate(ids), joined(found)

    def batches(
        self,
        program: Callable[..., Any],
        params: Any,
        data: VideoData,
        step: int,
        beside: Callable[[np.ndarray], Any] | None = None,
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """As `videos`, batch by batch, for a program with one output or several."""
        stream = data.evaluate(step=step)
        try:
            for batch in stream:
                inputs = (batch["video"], *([beside(batch["ids"])] if beside else ()))
                *inputs, ids, mask = shard_batch((*inputs, batch["ids"], batch["mask"]), self._mesh)
                outputs, ids, read = to_host((program(params, *inputs), ids, mask))
                self._watchdog.step_ended()
                yield ids[read], jax.tree.map(lambda x, read=read: x[read], outputs)
        finally:
            stream.close()

    def divisible(self, count: int) -> int:
        """The smallest batch of at least `count` rows that the mesh can split."""
        parts = math.prod(self._mesh.shape[axis] for axis in BATCH_AXES)
        return -(-count // parts) * parts

    def run(self, program: Callable[..., Any], params: Any, *batch: np.ndarray) -> Any:
        """Runs `program` on one batch of host arrays, the same in all processes and split among the
        devices; returns outputs on the host."""
        stopping.check()
        check_batch_size(self._mesh, len(batch[0]))
        placed = place_whole(batch, tuple(batch_sharding(self._mesh) for _ in batch))
        outputs = to_host(program(params, *placed))
        self._watchdog.step_ended()
        return outputs

    def texts(
        self, program: Callable[..., Any], params: Any, texts: Sequence[str], *beside: np.ndarray
    ) -> Any:
        """Outputs [n, ...] of `program` on the ids of texts, without the last batch's padding.

        beside: further arguments, [n, ...] each.
        """
        size = self.divisible(TEXT_BATCH)
        spare = -len(texts) % size
        ids = self.tokenizer([*texts, *[""] * spare])
        rows = [ids, *(np.concatenate([x, np.repeat(x[:1], spare, axis=0)]) for x in beside)]
        parts = zip(*(np.split(x, len(ids) // size) for x in rows), strict=True)
        found = [self.run(program, params, *part) for part in parts]
        return jax.tree.map(lambda x: x[: len(texts)], joined(found))


def joined(parts: Sequence[Any]) -> Any:
    """Concatenated outputs of batches: arrays, or pytrees of arrays of one structure."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
