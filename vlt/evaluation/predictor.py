"""A model's outputs over sharded data sets. Compiles each program once."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlt.data.pipeline import VideoData
from vlt.models.video_model import VideoModel
from vlt.runtime import stopping
from vlt.runtime.mesh import batch_sharding, check_batch_size, place_whole, shard_batch, to_host
from vlt.runtime.processes import is_primary
from vlt.runtime.watchdog import Watchdog

TEXT_BATCH = 256

Metrics = dict[str, Any]


class Predictor:
    """What evaluations share. Each process reads its share of the videos; all get all outputs.

    Attributes:
        module: the model. tokenizer: for its texts. workdir: where predictions are written.
        writes: whether by this process. trained_classes: names of the classes that the model is
            trained on, in their order, where a method knows them one by one.
    """

    def __init__(
        self,
        module: VideoModel,
        mesh: Mesh,
        tokenizer: Any,  # a Tokenizer, or ChatBatches of a chat model
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
        """`program` over all videos: records [n] that could be read, and outputs [n, ...].

        beside: from the records of a batch (-1 where it is only filled up) to a further argument.
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
        """As `videos`, batch by batch, of a program with one output or several."""
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

    def run(self, program: Callable[..., Any], params: Any, *batch: np.ndarray) -> Any:
        """`program` over one batch of host arrays, the same in all processes, which devices share;
        outputs on the host."""
        stopping.check()
        check_batch_size(self._mesh, len(batch[0]))
        placed = place_whole(batch, tuple(batch_sharding(self._mesh) for _ in batch))
        outputs = to_host(program(params, *placed))
        self._watchdog.step_ended()
        return outputs

    def texts(
        self, program: Callable[..., Any], params: Any, texts: Sequence[str], *beside: np.ndarray
    ) -> Any:
        """`program` over ids of texts: [n, ...]. What fills the last batch up is dropped.

        beside: further arguments, [n, ...] each.
        """
        spare = -len(texts) % TEXT_BATCH
        ids = self.tokenizer([*texts, *[""] * spare])
        rows = [ids, *(np.concatenate([x, np.repeat(x[:1], spare, axis=0)]) for x in beside)]
        parts = zip(*(np.split(x, len(ids) // TEXT_BATCH) for x in rows), strict=True)
        found = [self.run(program, params, *part) for part in parts]
        return jax.tree.map(lambda x: x[: len(texts)], joined(found))


def joined(parts: Sequence[Any]) -> Any:
    """Outputs of batches, one after another: arrays, or the same pytree of arrays."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
