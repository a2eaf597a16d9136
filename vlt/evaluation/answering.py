"""Answers to questions about videos, by ranking given ones or by writing them."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.manifest import read_classes
from vlt.data.pipeline import VideoData
from vlt.data.resources import resolve
from vlt.evaluation.captioning import search_of
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.protocols import checked_pairs
from vlt.models.generation import generate
from vlt.storage.files import write_whole
from vlt.tasks.captioning import word_losses

RANKED_AT_ONCE = 16  # answers to each question whose logits are held together


def question_answering(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Share of questions whose answer is a true one, in percent, but for case and spaces.

    `answers` names a file of candidates, one a line, of which `rank` by their first word are
    compared; where it is "", the answer is found by `search`. With `first_word_twice` the first
    word counts twice in the comparison (UMT). Answers go to WORKDIR/answers-NAME.json.

    Raises:
        ProtocolError: a test set that is not the protocol's.
        ManifestError: no file of answers, or one comes twice.
    """
    _, label = checked_pairs(section, data.records, "questions")
    questions = [data.clean(str(record.question)) for record in data.records]
    ids = predictor.tokenizer(questions)
    find = _ranking if section["answers"] else _writing
    key, program, to_text = find(predictor, section)
    read, found = predictor.videos(
        predictor.compiled(key, program), params, data, step, lambda records: ids[records]
    )
    answers = to_text(found)
    records = [data.records[index] for index in read]
    right = [
        _plain(answer) in map(_plain, record.answers)
        for record, answer in zip(records, answers, strict=True)
    ]
    written = [
        {"id": record.id, "question": record.question, "answer": answer}
        for record, answer in zip(records, answers, strict=True)
    ]
    path = predictor.workdir / f"answers-{data.name}.json"
    if predictor.writes:
        write_whole(path, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return {"accuracy": 100 * float(np.mean(right)), "questions": len(right), "protocol": label}


def check_answering(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of what `question_answering` finds.

    Raises:
        ProtocolError, ManifestError: as it does.
        ValueError: a search, a number of candidates or a smoothing that cannot be.
    """
    checked_pairs(section, data.records, "questions")
    if section["answers"]:
        read_classes(resolve(section["answers"]))
    else:
        search_of(section)
    return ["accuracy", "questions"]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


# What a program is kept under, the program, and from its outputs to texts.
Finding = tuple[Any, Callable[..., jax.Array], Callable[[np.ndarray], list[str]]]


def _ranking(predictor: Predictor, section: Mapping[str, Any]) -> Finding:
    listed = read_classes(resolve(section["answers"]))
    ids = predictor.tokenizer(listed)
    ids = ids[:, ids.any(0)]  # no wider than the longest
    count, smoothing = section["rank"], section["label_smoothing"]
    twice = section.get("first_word_twice", False)

    def best(params: Any, video: jax.Array, question: jax.Array) -> jax.Array:
        states, mask = read_question(predictor.module, params, video, question)
        found = (params, states, mask, jnp.asarray(ids))
        return rank(predictor.module, *found, count, smoothing, twice)

    key = ("rank", section["answers"], count, smoothing, twice)
    return key, best, lambda found: [listed[index] for index in found]


def _writing(predictor: Predictor, section: Mapping[str, Any]) -> Finding:
    search = search_of(section)

    def write(params: Any, video: jax.Array, question: jax.Array) -> jax.Array:
        states, mask = read_question(predictor.module, params, video, question)
        start = jnp.ones((len(video), 1), jnp.int32)  # read as [DEC]
        return generate(predictor.module, params, states, start, search, source_bias=mask)

    def to_text(ids: np.ndarray) -> list[str]:
        return predictor.tokenizer.decode(ids[:, 1:])

    return ("write", search), write, to_text


def read_question(model: Any, params: Any, video: jax.Array, question: jax.Array) -> Any:
    """Videos [b, t, H, W, 3] and ids [b, l] -> states and mask, as `encode_question` gives them."""
    tokens, _ = model.apply({"params": params}, video, method="encode_video")
    return model.apply({"params": params}, tokens, question, method="encode_question")


@functools.partial(jax.jit, static_argnames=("model", "count", "label_smoothing", "twice"))
def rank(
    model: Any,
    params: Any,
    states: jax.Array,
    mask: jax.Array,
    answers: jax.Array,
    count: int,
    label_smoothing: float,
    twice: bool = False,
) -> jax.Array:
    """The best of given answers to each question: their indices, int32 [b]."""
    likely, losses = compare(model, params, states, mask, answers, count, label_smoothing, twice)
    return jnp.take_along_axis(likely, losses.argmin(0)[:, None], axis=1)[:, 0]


def compare(
    model: Any,
    params: Any,
    states: jax.Array,
    mask: jax.Array,
    answers: jax.Array,
    count: int,
    label_smoothing: float,
    twice: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Indices of the `count` likeliest of given answers by their first word, int32 [b, count], the
    likeliest first, and the loss of each, [count, b].

    A loss is summed over an answer's words and the end token; the answer with the smallest is the
    best (BLIP, arXiv:2201.12086, section 5.3).

    Args:
        states, mask: as `encode_question` gives them.
        answers: ids [n, l].
        label_smoothing: of the losses; BLIP ranks with that of training.
        twice: the first word's loss counts once more, without smoothing: the published code of UMT
            adds the logarithm of its probability.
    """
    decode_id = model.spec.text.decode_id

    def decode(ids: jax.Array) -> jax.Array:
        given: dict[str, Any] = {"source_bias": mask, "method": "decode"}
        return model.apply({"params": params}, ids, states, **given)[0]

    first = decode(jnp.full((len(states), 1, 1), decode_id, answers.dtype))[:, 0, 0]
    likely = jax.lax.top_k(first[:, answers[:, 1]], min(count, len(answers)))[1]

    def loss(candidate: jax.Array) -> jax.Array:
        """Of one candidate for each question, ids [b, l] -> [b]."""
        logits = decode(candidate.at[:, 0].set(decode_id)[:, None])[:, 0]
        return word_losses(logits, candidate, label_smoothing, 1)[0].sum(-1)

    losses = jax.lax.map(loss, answers[likely.T], batch_size=RANKED_AT_ONCE)
    if twice:
        chances = jnp.take_along_axis(jax.nn.log_softmax(first), answers[likely, 1], axis=1)
        losses -= chances.T
    return likely, losses
