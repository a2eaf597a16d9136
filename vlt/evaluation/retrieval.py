"""Retrieval and twins by the embeddings of a dual encoder."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vlt.data.manifests.manifest import ManifestError, Record, group_rows
from vlt.data.pipeline import VideoData
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.protocols import checked_pairs
from vlt.models.vit import normalize
from vlt.storage.files import write_whole
from vlt.tasks.retrieval_blocks import retrieval_metrics_of_embeddings
from vlt.tasks.retrieval_metrics import TIES, retrieval_metrics
from vlt.tasks.twins import mean_by_family, twin_accuracy

MOST_SCORES = 1 << 27  # scores in memory at once; larger matrices are computed in blocks
PAIR_BATCH = 256  # videos that one call scores against all texts, or what the mesh can split

# What `pair_scores` reads of videos or texts: unit vectors [n, e] or, where a method scores pairs,
# the towers' outputs [n, ...] by name.
Found = Any


def embed_videos(
    predictor: Predictor, params: Any, data: VideoData, step: int
) -> tuple[np.ndarray, Found]:
    """Records [n] that could be read, and what `pair_scores` reads of them, in order."""
    program = predictor.compiled("encode_video", functools.partial(encode_videos, predictor))
    return predictor.videos(program, params, data, step)


def encode_videos(predictor: Predictor, params: Any, video: jax.Array) -> Any:
    """[b, t, H, W, 3] -> what `pair_scores` reads of each video."""
    unit, out = predictor.module.apply({"params": params}, video, method="encode_video")
    return predictor.module.video_parts(out) if predictor.module.scores_pairs else unit


def embed_texts(
    predictor: Predictor, params: Any, texts: Sequence[str], classes: np.ndarray | None = None
) -> Found:
    """What `pair_scores` reads of each text.

    classes: [n], which of the classes that the model is trained on each text names.
    """
    beside = () if classes is None else (classes,)

    def encode(params: Any, ids: jax.Array, *classes: jax.Array) -> Any:
        told: dict[str, Any] = {"classes": classes[0]} if classes else {}
        unit, out = predictor.module.apply({"params": params}, ids, method="encode_text", **told)
        return predictor.module.text_parts(out) if predictor.module.scores_pairs else unit

    program = predictor.compiled(("encode_text", len(beside)), encode)
    return predictor.texts(program, params, texts, *beside)


def pair_scores(predictor: Predictor, params: Any, texts: Found, videos: Found) -> np.ndarray:
    """Scores [n, v] of texts from `embed_texts` with videos from `embed_videos`."""
    if not predictor.module.scores_pairs:
        return np.asarray(texts @ videos.T)
    count = len(videos["frames"])
    size = predictor.divisible(PAIR_BATCH)
    names, arrays = list(videos), [_in_batches(x, size) for x in videos.values()]

    def score(leaves: Any, *parts: jax.Array) -> Any:
        video = dict(zip(names, parts, strict=True))
        return predictor.module.apply({"params": leaves[0]}, video, leaves[1], method="scores")

    program = predictor.compiled("scores", score)
    found = [predictor.run(program, (params, texts), *parts) for parts in zip(*arrays, strict=True)]
    return np.concatenate(found)[:count].T


def _in_batches(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Splits [v, ...] into batches of `size` rows; the last is padded with the first row."""
    filled = np.concatenate([x, np.repeat(x[:1], -len(x) % size, axis=0)])
    return np.split(filled, len(filled) // size)


def retrieval(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Text-video retrieval by a named protocol; several captions of a video are several queries.

    With `equal_texts`, the videos of captions that are exactly the same text after clean-up are all
    right for each of them (PE-Core's benchmark).
    """
    pairs, label = checked_pairs(section, data.records, "queries")
    records, embedded = embed_videos(predictor, params, data, step)
    # One row per video, however many records name it; queries of unread videos are dropped.
    names = [data.records[record].video for record in records]
    first_of = {name: row for row, name in reversed(list(enumerate(names)))}
    column = {name: index for index, name in enumerate(dict.fromkeys(names))}
    first = [first_of[name] for name in column]
    pairs = [(video, data.clean(text)) for video, text in pairs if video in column]
    queries = embed_texts(predictor, params, [text for _, text in pairs])
    videos = jax.tree.map(lambda x: x[first], embedded)
    truth = np.array([column[video] for video, _ in pairs])
    equal = [text for _, text in pairs] if section.get("equal_texts", False) else None
    apart = equal is None and not predictor.module.scores_pairs
    if len(truth) * len(first) > MOST_SCORES and apart:
        found = retrieval_metrics_of_embeddings(queries, videos, truth, section["ties"])
    else:
        scores = pair_scores(predictor, params, queries, videos)
        found = retrieval_metrics(scores, truth, section["ties"], equal)
    return found | {"protocol": label}


def check_retrieval(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of the metrics that `retrieval` returns.

    Raises:
        ProtocolError: the test set is not the protocol's.
        ValueError: an unknown rule for ties, or `equal_texts` that is neither true nor false.
    """
    if type(section.get("equal_texts", False)) is not bool:
        raise ValueError(f"equal_texts must be true or false, got {section['equal_texts']!r}")
    if section["ties"] not in TIES:
        raise ValueError(f"unknown ties: {section['ties']!r}; choose from {', '.join(TIES)}")
    checked_pairs(section, data.records, "queries")
    return list(retrieval_metrics(np.ones((1, 1)), np.zeros(1, int)))


def twins(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """How often a video prefers its own caption to its reversal's, and a caption its own video."""
    rows, families = pairs_of_twins(data, section["min_pairs"])
    read, videos = embed_videos(predictor, params, data, step)
    whole = np.asarray(np.isin(rows, read).all(axis=1))  # a pair is dropped if either twin is
    rows, families = rows[whole], [f for f, kept in zip(families, whole, strict=True) if kept]
    texts = embed_texts(predictor, params, first_captions(data))
    every = pair_scores(predictor, params, texts, videos)
    scores = every[rows[:, None, :], np.searchsorted(read, rows)[:, :, None]]
    write_choices(predictor, data, rows, scores)
    return dict(twin_accuracy(scores, families)) | {"pairs": len(rows)}


def twin_captions(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Mean cosine between the captions of twins by family, and the largest of these means."""
    rows, families = pairs_of_twins(data, section["min_pairs"])
    texts = embed_texts(predictor, params, first_captions(data))
    if isinstance(texts, dict):
        texts = np.asarray(normalize(texts["features"]))
    cosines = (texts[rows[:, 0]] * texts[rows[:, 1]]).sum(-1)
    means = mean_by_family(cosines, families)
    return dict(means) | {"max": max(means.values())}


def check_twins(section: Mapping[str, Any], data: VideoData, column: str = "caption") -> list[str]:
    """Names of the metrics that `twins` returns. Raises as `pairs_of_twins` does."""
    rows, families = pairs_of_twins(data, section["min_pairs"], column)
    return [*twin_accuracy(np.zeros((len(rows), 2, 2)), families), "pairs"]


def check_twin_captions(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of the metrics that `twin_captions` returns. Raises as `pairs_of_twins` does."""
    _, families = pairs_of_twins(data, section["min_pairs"])
    return [*mean_by_family(np.zeros(len(families)), families), "max"]


def write_choices(
    predictor: Predictor,
    data: VideoData,
    rows: np.ndarray,
    scores: np.ndarray,
    column: str = "caption",
) -> None:
    """Writes twins-NAME.json: the videos, captions (or answers) and scores of every pair.

    rows: int [pairs, 2], records. scores: [pairs, 2, 2] as for `twin_accuracy`.
    """
    if not predictor.writes:
        return
    pairs = [
        {
            "videos": [str(data.records[row].video) for row in pair],
            "captions": [_said(data.records[row], column)[0] for row in pair],
            "scores": np.round(values.astype(float), 7).tolist(),
        }
        for pair, values in zip(rows, scores, strict=True)
    ]
    write_whole(predictor.workdir / f"twins-{data.name}.json", json.dumps(pairs) + "\n")


def first_captions(data: VideoData) -> list[str]:
    """The first caption of every record, cleaned."""
    return [data.clean(record.captions[0]) for record in data.records]


def _said(record: Record, column: str) -> tuple[str, ...]:
    return record.answers if column == "answer" else record.captions


def pairs_of_twins(
    data: VideoData, least: int, column: str = "caption"
) -> tuple[np.ndarray, list[str]]:
    """Records of each pair of twins, int [pairs, 2], and the family of each pair.

    column: the column that holds a twin's text, `caption` or `answer`.

    Raises:
        ManifestError: rows without `pair`, `family` or that column, or a value of `pair` that other
            than two rows have.
        ValueError: fewer pairs than `least`.
    """
    found = group_rows(data.manifest, data.records, "pair")
    if len(found[0]) != 2:
        line = data.records[found[0][0]].line
        raise ManifestError(data.manifest, f"{len(found[0])} rows with one `pair`, not two", line)
    for record in data.records:
        if "family" not in record.extra or not _said(record, column):
            reason = f"twins need `pair`, `family` and `{column}` in every row"
            raise ManifestError(data.manifest, reason, record.line)
    rows = np.array(found)
    if len(rows) < least:
        raise ValueError(f"{len(rows)} pairs of twins, but min_pairs={least}")
    return rows, [data.records[first].extra["family"] for first in rows[:, 0]]
