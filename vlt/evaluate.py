"""Evaluations of a model: embeddings over a sharded data set, then metrics on the host."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlt.data.clips import DecoderPool
from vlt.data.pipeline import VideoData
from vlt.data.tokenize import Tokenizer
from vlt.models.dual_encoder import DualEncoder
from vlt.sharding import shard_batch
from vlt.tasks.protocols import PROTOCOLS
from vlt.tasks.retrieval_metrics import recognition_metrics, retrieval_metrics
from vlt.tasks.twins import twin_accuracy

Metrics = dict[str, float | str]


class Evaluator:
    """Runs `config.evals` on parameters. Compiles each encoder once.

    Args:
        workdir: where videos that could not be read are listed.
    """

    def __init__(
        self,
        evals: Mapping[str, Any],
        module: DualEncoder,
        mesh: Mesh,
        tokenizer: Tokenizer,
        pool: DecoderPool,
        workdir: Path,
    ):
        self._mesh = mesh
        self._data = {
            name: (section, VideoData(section, tokenizer, pool, name=name, workdir=workdir))
            for name, section in evals.items()
        }
        self._tokenizer = tokenizer
        self._video = jax.jit(lambda params, x: _embed(module, params, x, "encode_video"))
        self._text = jax.jit(lambda params, x: _embed(module, params, x, "encode_text"))

    def __call__(self, params: Any, step: int) -> Metrics:
        """{evaluation/metric: value} of every evaluation."""
        results: Metrics = {}
        for name, (section, data) in self._data.items():
            found = KINDS[section["kind"]](self, params, section, data, step)
            if data.skipped:
                found["skipped"] = len(data.skipped)
            results |= {f"{name}/{metric}": value for metric, value in found.items()}
        return results

    def embed_videos(
        self, params: Any, data: VideoData, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Records [n] that could be read, and their unit vectors [n, e], in order."""
        stream = data.evaluate(step=step)
        try:
            return self._embed(self._video, params, stream, "video")
        finally:
            stream.close()

    def embed_captions(self, params: Any, data: VideoData) -> tuple[np.ndarray, np.ndarray]:
        """Records [m] and unit vectors [m, e] of all captions."""
        return self._embed(self._text, params, data.captions(), "text")

    def _embed(self, encode, params, batches, field) -> tuple[np.ndarray, np.ndarray]:
        ids, vectors = [], []
        for batch in batches:
            encoded = encode(params, shard_batch(batch[field], self._mesh))
            ids.append(batch["ids"][batch["mask"]])
            vectors.append(np.asarray(encoded)[batch["mask"]])
        return np.concatenate(ids), np.concatenate(vectors)


def _embed(module: DualEncoder, params: Any, inputs: jax.Array, method: str) -> jax.Array:
    return module.apply({"params": params}, inputs, method=method)[0]


def _retrieval(
    evaluator: Evaluator, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Text-video retrieval by a named protocol; several captions of a video are several queries."""
    protocol = PROTOCOLS[section["protocol"]]
    label = protocol.check(protocol.pairs(data.records), section["allow_subset"])
    videos, embedded = evaluator.embed_videos(params, data, step)
    texts, queries = evaluator.embed_captions(params, data)
    there = np.isin(texts, videos)
    column = np.searchsorted(videos, texts[there])
    scores = queries[there] @ embedded.T
    return retrieval_metrics(scores, column, section["ties"]) | {"protocol": label}


def _twins(
    evaluator: Evaluator, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Each video chooses between its own caption and that of its reversal."""
    pairs: dict[Any, list[int]] = {}
    for index, record in enumerate(data.records):
        pairs.setdefault(record.extra["pair"], []).append(index)
    rows = np.array(list(pairs.values()))
    if len(rows) < section["min_pairs"]:
        raise ValueError(f"{len(rows)} pairs of twins; at least {section['min_pairs']} are needed")
    _, videos = evaluator.embed_videos(params, data, step)
    _, texts = evaluator.embed_captions(params, data)
    scores = np.einsum("pie,pje->pij", videos[rows], texts[rows])
    families = [data.records[first].extra["family"] for first in rows[:, 0]]
    return dict(twin_accuracy(scores, families)) | {"pairs": len(rows)}


def _recognition(
    evaluator: Evaluator, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Zero-shot recognition: the nearest of the embedded class names."""
    videos, embedded = evaluator.embed_videos(params, data, step)
    names = [section["template"].format(name) for name in data.classes]
    classes = np.asarray(evaluator._text(params, evaluator._tokenizer(names)))
    labels = data.labels[videos]
    return dict(recognition_metrics(embedded @ classes.T, labels)) | {"classes": len(names)}


KINDS: dict[str, Callable[..., Metrics]] = {
    "retrieval": _retrieval,
    "twins": _twins,
    "recognition": _recognition,
}
