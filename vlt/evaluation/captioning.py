"""Captions a data set and scores the captions; tells twins apart by caption likelihood."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.pipeline import VideoData
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.protocols import checked_pairs
from vlt.evaluation.retrieval import first_captions, pairs_of_twins, write_choices
from vlt.models.generation import generate
from vlt.models.search import Search
from vlt.pytrees.fields import near
from vlt.tasks.caption_metrics import (
    METRICS,
    caption_metrics,
    has_java,
    references_of,
    write_predictions,
)
from vlt.tasks.captioning import word_losses
from vlt.tasks.twins import twin_accuracy


def captioning(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Captions every video, scores the captions and writes them to WORKDIR/captions-NAME.json."""
    _, label = checked_pairs(section, data.records, "references")
    read, captions = _captions(predictor, params, section, data, step)
    captioned = {data.records[r].id: text for r, text in zip(read, captions, strict=True)}
    # One caption per video, however many records name it; videos that were not read have none.
    references = {i: t for i, t in references_of(data.records).items() if i in captioned}
    predictions = {identity: captioned[identity] for identity in references}
    if predictor.writes:
        write_predictions(predictor.workdir / f"captions-{data.name}.json", predictions)
    return dict(caption_metrics(predictions, references)) | {"protocol": label}


def check_captioning(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of the metrics that `captioning` returns.

    Raises:
        ProtocolError: the test set is not the protocol's.
        ValueError: an invalid search.
    """
    checked_pairs(section, data.records, "references")
    search_of(section)
    return [name for name in METRICS if name != "METEOR" or has_java()]


def search_of(section: Mapping[str, Any]) -> Search:
    """The search for texts that an evaluation's section sets.

    Raises:
        ValueError: an unknown option or name, or a number out of range.
    """
    known = [field.name for field in dataclasses.fields(Search)]
    if unknown := [name for name in section["search"] if name not in known]:
        raise ValueError(f"search has no option {unknown[0]!r}{near(unknown[0], known)}")
    return Search(**section["search"])


def _captions(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> tuple[np.ndarray, list[str]]:
    """Records that could be read, and the caption found for each, without the prompt."""
    search, text = search_of(section), section["prompt"]
    prompt = predictor.tokenizer.prompt(text)

    def caption(params: Any, video: jax.Array) -> jax.Array:
        module = predictor.module
        tokens, _ = module.apply({"params": params}, video, method="encode_video")
        starts = jnp.tile(prompt, (len(video), 1))
        return generate(module, params, tokens, starts, search)

    program = predictor.compiled(("captions", search, text), caption)
    read, ids = predictor.videos(program, params, data, step)
    return read, predictor.tokenizer.decode(ids[:, len(prompt) :])


def caption_twins(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Whether a clip's own caption or its twin's is likelier, given the clip."""
    rows, families = pairs_of_twins(data, section["min_pairs"])
    ids = predictor.tokenizer(first_captions(data))
    twin = np.empty(len(data.records), int)
    twin[rows] = rows[:, ::-1]

    def likelihood(params: Any, video: jax.Array, texts: jax.Array) -> jax.Array:
        return caption_likelihood(predictor.module, params, video, texts)

    def captions(records: np.ndarray) -> np.ndarray:
        return np.stack([ids[records], ids[twin[records]]], axis=1)

    program = predictor.compiled("caption_likelihood", likelihood)
    read, own_and_other = predictor.videos(program, params, data, step, captions)
    whole = np.asarray(np.isin(rows, read).all(axis=1))  # a pair is dropped if either twin is
    rows, families = rows[whole], [f for f, kept in zip(families, whole, strict=True) if kept]
    first, second = (own_and_other[np.searchsorted(read, rows[:, i])] for i in range(2))
    scores = np.stack([first, second[:, ::-1]], axis=1)
    write_choices(predictor, data, rows, scores)
    return dict(twin_accuracy(scores, families)) | {"pairs": len(rows)}


def caption_likelihood(module: Any, params: Any, video: jax.Array, texts: jax.Array) -> jax.Array:
    """Log-probability [b, k] of each of the texts [b, k, l] given the videos [b, t, H, W, 3]."""
    tokens, _ = module.apply({"params": params}, video, method="encode_video")
    ids = texts.at[:, :, 0].set(module.spec.text.decode_id)
    logits, _ = module.apply({"params": params}, ids, tokens, method="decode")
    return -word_losses(logits, texts, 0.0, 1)[0].sum(-1)
