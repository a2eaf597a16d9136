"""Evaluations of a model: embeddings over a sharded data set, then metrics on the host."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlt.data.clips import DecoderPool
from vlt.data.manifest import group_rows
from vlt.data.pipeline import VideoData
from vlt.data.tokenize import Tokenizer
from vlt.models.video_model import VideoModel
from vlt.sharding import shard_batch
from vlt.tasks.protocols import named_protocol
from vlt.tasks.retrieval_metrics import recognition_metrics, retrieval_metrics
from vlt.tasks.twins import mean_by_family, twin_accuracy

TEXT_BATCH = 256

Metrics = dict[str, Any]


class Evaluator:
    """Runs `config.evals` on parameters. Compiles each encoder once.

    Args:
        workdir: where videos that could not be read are listed.
    """

    def __init__(
        self,
        evals: Mapping[str, Any],
        module: VideoModel,
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
        ids, vectors = [], []
        stream = data.evaluate(step=step)
        try:
            for batch in stream:
                encoded = self._video(params, shard_batch(batch["video"], self._mesh))
                ids.append(batch["ids"][batch["mask"]])
                vectors.append(np.asarray(encoded)[batch["mask"]])
        finally:
            stream.close()
        return np.concatenate(ids), np.concatenate(vectors)

    def embed_texts(self, params: Any, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [n, e]; the last batch is filled up and the filling dropped."""
        ids = self._tokenizer([*texts, *[""] * (-len(texts) % TEXT_BATCH)])
        vectors = [
            np.asarray(self._text(params, shard_batch(part, self._mesh)))
            for part in np.split(ids, len(ids) // TEXT_BATCH)
        ]
        return np.concatenate(vectors)[: len(texts)]


def _embed(module: VideoModel, params: Any, inputs: jax.Array, method: str) -> jax.Array:
    return module.apply({"params": params}, inputs, method=method)[0]


def _retrieval(
    evaluator: Evaluator, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Text-video retrieval by a named protocol; several captions of a video are several queries."""
    protocol = named_protocol(section["protocol"])
    pairs = protocol.pairs(data.records)
    label = protocol.check(pairs, section["allow_subset"])
    records, embedded = evaluator.embed_videos(params, data, step)
    # One row a video, however many records name it; queries of unread videos go with them.
    names = [data.records[record].video for record in records]
    column = {name: index for index, name in enumerate(dict.fromkeys(names))}
    first = [names.index(name) for name in column]
    pairs = [(video, text) for video, text in pairs if video in column]
    queries = evaluator.embed_texts(params, [text for _, text in pairs])
    scores = queries @ embedded[first].T
    truth = np.array([column[video] for video, _ in pairs])
    return retrieval_metrics(scores, truth, section["ties"]) | {"protocol": label}


def _twins(
    evaluator: Evaluator, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Each video chooses between its own caption and that of its reversal."""
    rows, families = _pairs(data, section["min_pairs"])
    read, videos = evaluator.embed_videos(params, data, step)
    whole = np.asarray(np.isin(rows, read).all(axis=1))  # a pair goes with either of its twins
    rows, families = rows[whole], [f for f, kept in zip(families, whole, strict=True) if kept]
    texts = evaluator.embed_texts(params, [record.captions[0] for record in data.records])
    scores = np.einsum("pie,pje->pij", videos[np.searchsorted(read, rows)], texts[rows])
    return dict(twin_accuracy(scores, families)) | {"pairs": len(rows)}


def _twin_captions(
    evaluator: Evaluator, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Mean cosine between the captions of twins by family, and the largest of these means."""
    rows, families = _pairs(data, section["min_pairs"])
    texts = evaluator.embed_texts(params, [record.captions[0] for record in data.records])
    cosines = (texts[rows[:, 0]] * texts[rows[:, 1]]).sum(-1)
    means = mean_by_family(cosines, families)
    return dict(means) | {"max": max(means.values())}


def _pairs(data: VideoData, least: int) -> tuple[np.ndarray, list[str]]:
    """Records of each pair of twins, int [pairs, 2], and its family."""
    rows = np.array(group_rows(data.manifest, data.records, "pair"))
    if len(rows) < least:
        raise ValueError(f"{len(rows)} pairs of twins; at least {least} are needed")
    return rows, [data.records[first].extra["family"] for first in rows[:, 0]]


def _recognition(
    evaluator: Evaluator, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Zero-shot recognition: the nearest of the embedded class names."""
    videos, embedded = evaluator.embed_videos(params, data, step)
    names = [section["template"].format(name) for name in data.classes]
    classes = evaluator.embed_texts(params, names)
    labels = np.asarray(data.labels)[videos]
    return dict(recognition_metrics(embedded @ classes.T, labels)) | {"classes": len(names)}


KINDS: dict[str, Callable[..., Metrics]] = {
    "retrieval": _retrieval,
    "twins": _twins,
    "twin_captions": _twin_captions,
    "recognition": _recognition,
}
