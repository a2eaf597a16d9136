"""Answers of a chat model: how likely given ones are, and whether it would write them itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.dialogue_rows import NO_LABEL
from vlt.data.pipeline import VideoData
from vlt.data.prompts import Turn
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.protocols import checked_pairs
from vlt.evaluation.retrieval import pairs_of_twins, write_choices
from vlt.tasks.twins import twin_accuracy

Rows = tuple[np.ndarray, ...]  # ids and labels, of `vlt.data.chat_batches.ChatBatches`


def answer_twins(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Which of a clip's own answer to its question and its twin's is likelier, given the clip."""
    rows, families = pairs_of_twins(data, section["min_pairs"], "answer")
    twin = np.empty(len(data.records), int)
    twin[rows] = rows[:, ::-1]
    asked = [str(record.question) for record in data.records]
    answers = [record.answers[0] for record in data.records]
    own = _rows(predictor.tokenizer, asked, answers)
    other = _rows(predictor.tokenizer, asked, [answers[i] for i in twin])
    both = tuple(np.stack(pair, axis=1) for pair in zip(own, other, strict=True))
    read, (likelihood, _) = _judged(predictor, params, data, step, both)
    whole = np.asarray(np.isin(rows, read).all(axis=1))  # a pair goes with either of its twins
    rows, families = rows[whole], [f for f, kept in zip(families, whole, strict=True) if kept]
    first, second = (likelihood[np.searchsorted(read, rows[:, i])] for i in range(2))
    scores = np.stack([first, second[:, ::-1]], axis=1)
    write_choices(predictor, data, rows, scores, "answer")
    return dict(twin_accuracy(scores, families)) | {"pairs": len(rows)}


def answers(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """How often the greedy answer to a question is, to the letter, the first of those given."""
    _, label = checked_pairs(section, data.records, "questions")
    asked = [str(record.question) for record in data.records]
    given = _rows(predictor.tokenizer, asked, [record.answers[0] for record in data.records])
    read, (_, greedy) = _judged(predictor, params, data, step, tuple(x[:, None] for x in given))
    return {"exact": 100 * float(greedy.mean()), "questions": len(read), "protocol": label}


def check_answers(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of what `answers` finds. Raises ProtocolError as it does."""
    checked_pairs(section, data.records, "questions")
    return ["exact", "questions"]


def _rows(dialogues: Any, asked: list[str], answers: list[str]) -> Rows:
    turns = [[Turn(*pair, videos=1)] for pair in zip(asked, answers, strict=True)]
    return dialogues(turns, [repr(question[:80]) for question in asked])


def _judged(
    predictor: Predictor, params: Any, data: VideoData, step: int, rows: Rows
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Records that could be read and, of the answers to their questions [n, k, l], `judge`."""

    def program(params: Any, video: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        return judge(predictor.module, params, video, ids[..., 0], ids[..., 1])

    both = np.stack(rows, axis=-1)
    compiled = predictor.compiled("judge_answers", program)
    found = predictor.batches(compiled, params, data, step, lambda records: both[records])
    read, outputs = zip(*found, strict=True)
    likelihood, greedy = (np.concatenate(each) for each in zip(*outputs, strict=True))
    return np.concatenate(read), (likelihood, greedy)


def judge(
    module: Any, params: Any, video: jax.Array, ids: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of k answers about each video, [b, k], and whether each is the greedy one.

    video: [b, t, H, W, 3]. ids, labels: [b, k, l] of whole dialogues, as `ChatBatches` makes them.
    """

    def logits(model: Any) -> jax.Array:
        tokens, _ = model.encode_video(video)
        x = jnp.stack([model.embed(ids[:, j], tokens) for j in range(ids.shape[1])], axis=1)
        return model.decode(x, jnp.arange(ids.shape[2])[None], whole=True)[0]

    found = module.apply({"params": params}, method=logits)[:, :, :-1]
    targets = labels[:, :, 1:]
    counted = targets != NO_LABEL
    own = jnp.take_along_axis(
        jax.nn.log_softmax(found), jnp.maximum(targets, 0)[..., None], axis=-1
    )
    right = (found.argmax(-1) == targets) | ~counted
    return jnp.where(counted, own[..., 0], 0.0).sum(-1), right.all(-1)
