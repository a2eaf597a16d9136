"""Retrieval by embeddings, with the nearest candidates re-ranked by matching (BLIP, UMT)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vlt.data.pipeline import VideoData
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.protocols import checked_pairs
from vlt.evaluation.retrieval import check_retrieval, embed_texts
from vlt.tasks.retrieval_metrics import retrieval_metrics

NOT_RANKED = -100.0  # score of a candidate that is not among the nearest
TEXTS_AT_ONCE = 16  # texts that read one copy of a video's tokens


def matching(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Text-video retrieval by a named protocol, with each query's nearest candidates re-ranked.

    The `rerank` nearest by cosine are scored by matching logit plus cosine, all others get -100
    (BLIP, arXiv:2201.12086, section 5.1); with `add_cosine=False` the logit alone counts (UMT).
    Several captions of a video are several queries. A pair is matched once, whichever direction
    asks for it. Where texts first pass through layers by themselves, they do so once.

    The tokens of all videos are kept on the host, in the model's dtype: for BLIP base and 8 frames
    1,576 x 768 numbers, which in float32 are 4.8 MB per video.

    Raises:
        ValueError: `rerank` is below 1.
        ProtocolError: the test set is not the protocol's.
    """
    check_matching(section, data)
    pairs, label = checked_pairs(section, data.records, "queries")
    column, embedded, tokens = encode_videos(predictor, params, data, step)
    pairs = [(video, data.clean(text)) for video, text in pairs if video in column]
    texts = [text for _, text in pairs]
    unit, states = read_texts(predictor, params, texts)
    cosines = unit @ embedded.T
    to_video = nearest(cosines, section["rerank"])
    to_text = nearest(cosines.T, section["rerank"]).T
    logits = match_pairs(
        predictor,
        params,
        tokens,
        predictor.tokenizer(texts),
        to_video | to_text,
        section["batch_size"],
        states,
    )
    added = cosines if section.get("add_cosine", True) else 0.0
    truth = np.array([column[video] for video, _ in pairs])
    metrics: Metrics = {"protocol": label}
    for direction, ranked in (("t2v", to_video), ("v2t", to_text)):
        scores = np.where(ranked, logits + added, NOT_RANKED)
        found = retrieval_metrics(scores, truth, section["ties"])
        metrics |= {name: value for name, value in found.items() if name.startswith(direction)}
    return metrics


def check_matching(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of the metrics that `matching` returns. Raises as it does."""
    if section["rerank"] < 1:
        raise ValueError(f"rerank must be >= 1, got {section['rerank']}")
    return check_retrieval(section, data)


def read_texts(
    predictor: Predictor, params: Any, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Unit vectors [n, e], and the states [n, l, d] that matching starts from; None where it starts
    from the words."""
    bert: Any = predictor.module.spec.text
    if not bert.fusion_layer:
        return embed_texts(predictor, params, texts), None

    def encode(params: Any, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        unit, out = predictor.module.apply({"params": params}, ids, method="encode_text")
        return unit, out["states"]

    return predictor.texts(predictor.compiled("encode_text_and_states", encode), params, texts)


def encode_videos(
    predictor: Predictor, params: Any, data: VideoData, step: int
) -> tuple[dict[str, int], np.ndarray, list[np.ndarray]]:
    """{video: its row}, unit vectors [n, e] and tokens [m, d] of each; one row per video, however
    many records name it."""

    def encode(params: Any, video: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, out = predictor.module.apply({"params": params}, video, method="encode_video")
        return found, out["tokens"]

    program = predictor.compiled("encode_video_and_tokens", encode)
    column: dict[str, int] = {}
    embedded, tokens = [], []
    for records, outputs in predictor.batches(program, params, data, step):
        for record, embedding, own in zip(records, *outputs, strict=True):
            name = data.records[record].video
            if name not in column:
                column[name] = len(column)
                embedded.append(embedding)
                tokens.append(own)
    return column, np.stack(embedded), tokens


def nearest(scores: np.ndarray, count: int) -> np.ndarray:
    """bool [queries, candidates]: the `count` highest of each row; of equal scores, the first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, order, True, axis=1)
    return found


def match_pairs(
    predictor: Predictor,
    params: Any,
    tokens: Sequence[np.ndarray],
    ids: np.ndarray,
    wanted: np.ndarray,
    batch_size: int,
    states: np.ndarray | None = None,
) -> np.ndarray:
    """Matching logits [texts, videos], 0 where a pair is not wanted.

    tokens: [m, d] of each video. ids: [texts, l]. wanted: bool [texts, videos]. batch_size: videos
    at a time, split among the devices. states: [texts, l, d], from `read_texts`.
    """

    def match(params: Any, tokens: jax.Array, ids: jax.Array, *states: jax.Array) -> jax.Array:
        known: dict[str, Any] = {"states": states[0]} if states else {}
        logits: Any = predictor.module.apply(
            {"params": params}, tokens, ids, method="match", **known
        )
        return logits[..., 1]

    program = predictor.compiled("match", match)
    videos, texts = rows_of_pairs(wanted, batch_size)
    logits = np.zeros(wanted.shape, np.float32)
    for start in range(0, len(videos), batch_size):
        video, text = (x[start : start + batch_size] for x in (videos, texts))
        known = () if states is None else (states[text],)
        seen = np.stack([tokens[i] for i in video])
        found = predictor.run(program, params, seen, ids[text], *known)
        # Padding of rows and batches repeats wanted pairs, whose logits are the same again.
        logits[text, video[:, None]] = found
    return logits


def rows_of_pairs(wanted: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos [n] and texts [n, TEXTS_AT_ONCE] for each, which together cover all wanted pairs.

    n is a multiple of the batch size. Pairs are repeated to fill rows, and rows to fill a batch.
    """
    videos, texts = [], []
    for video in range(wanted.shape[1]):
        own = np.flatnonzero(wanted[:, video])
        for part in range(0, len(own), TEXTS_AT_ONCE):
            row = own[part : part + TEXTS_AT_ONCE]
            videos.append(video)
            texts.append(np.resize(row, TEXTS_AT_ONCE))
    count = -(-len(videos) // batch_size) * batch_size
    return np.resize(np.array(videos), count), np.resize(np.array(texts), (count, TEXTS_AT_ONCE))
