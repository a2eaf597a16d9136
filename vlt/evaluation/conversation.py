"""Answers of a chat model: how likely given answers are, and those that it writes itself.

vlt.evaluation.ranked_answers has those that it chooses from a list.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.data.pipeline import VideoData
from vlt.data.text.dialogue_rows import NO_LABEL
from vlt.data.text.prompts import template
from vlt.evaluation.captioning import search_of
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.protocols import checked_pairs
from vlt.evaluation.retrieval import pairs_of_twins, write_choices
from vlt.models.continuation import Ending, Words, write_whole
from vlt.models.search import Search
from vlt.storage.files import write_whole as write_file
from vlt.tasks.answer_metrics import ANSWER_METRICS, answer_metrics
from vlt.tasks.twins import twin_accuracy

Rows = tuple[np.ndarray, ...]  # ids and labels, from `vlt.data.chat_batches.ChatBatches`


def answer_twins(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Whether a clip's own answer to its question or its twin's is likelier, given the clip."""
    rows, families = pairs_of_twins(data, section["min_pairs"], "answer")
    twin = np.empty(len(data.records), int)
    twin[rows] = rows[:, ::-1]
    asked = [str(record.question) for record in data.records]
    answers = [record.answers[0] for record in data.records]
    names = [str(record.id) for record in data.records]
    own = predictor.tokenizer.answered(asked, answers, names)
    other = predictor.tokenizer.answered(asked, [answers[i] for i in twin], names)
    both = tuple(np.stack(pair, axis=1) for pair in zip(own, other, strict=True))
    read, (likelihood, _) = _judged(predictor, params, data, step, both, asked)
    whole = np.asarray(np.isin(rows, read).all(axis=1))  # a pair is dropped if either twin is
    rows, families = rows[whole], [f for f, kept in zip(families, whole, strict=True) if kept]
    first, second = (likelihood[np.searchsorted(read, rows[:, i])] for i in range(2))
    scores = np.stack([first, second[:, ::-1]], axis=1)
    write_choices(predictor, data, rows, scores, "answer")
    return dict(twin_accuracy(scores, families)) | {"pairs": len(rows)}


def answers(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """How often the greedy answer to a question is exactly the first of the true answers."""
    _, label = checked_pairs(section, data.records, "questions")
    asked = [str(record.question) for record in data.records]
    given = predictor.tokenizer.answered(
        asked,
        [record.answers[0] for record in data.records],
        [str(record.id) for record in data.records],
    )
    read, (_, greedy) = _judged(
        predictor, params, data, step, tuple(x[:, None] for x in given), asked
    )
    return {"exact": 100 * float(greedy.mean()), "questions": len(read), "protocol": label}


def check_answers(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of the metrics that `answers` returns. Raises ProtocolError as it does."""
    checked_pairs(section, data.records, "questions")
    return ["exact", "questions"]


def written_answers(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Answers a benchmark's questions, writes the answers to WORKDIR/answers-NAME.json, which
    `vlt judge` and `vlt score` read, and scores them without a judge.

    `search`: options of `vlt.models.search.Search`, without sampling. `template`: one of
    `vlt.data.text.prompts`, or "" for the task's.

    Raises:
        ProtocolError: the test set is not the protocol's.
        ValueError: an invalid template or search, or a question that is too long.
    """
    _, label = checked_pairs(section, data.records, "questions")
    speech, search = predictor.tokenizer.speaking(section["template"]), _search(section)
    asked = [data.clean(str(record.question)) for record in data.records]
    prompts = np.stack(speech.questions(asked, [record.id for record in data.records]), axis=-1)
    ending = Ending(speech.tokenizer.end_id, speech.tokenizer.stops(speech.template.stops))
    known = speech.template.penalize_prompt

    def write(params: Any, video: jax.Array, beside: dict[str, jax.Array]) -> jax.Array:
        asked = prompted(predictor.module, params, video, beside)
        return write_whole(predictor.module, params, *asked, search, ending, known)

    program = predictor.compiled(("written_answers", data.name), write)
    inputs = {"prompt": prompts} | instructions(speech, asked)
    read, ids = predictor.videos(
        program, params, data, step, lambda records: {k: v[records] for k, v in inputs.items()}
    )
    texts = [speech.tokenizer.answer(row, speech.template) for row in ids.tolist()]
    return answered(predictor, data, read, texts) | {"protocol": label}


def check_written_answers(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of `written_answers`' metrics. Raises as it does for protocol, template and search."""
    checked_pairs(section, data.records, "questions")
    _search(section)
    if section["template"]:
        template(section["template"])
    return [*ANSWER_METRICS, "questions"]


def _search(section: Mapping[str, Any]) -> Search:
    """The section's search; its beams default to those of the published chat models."""
    found = search_of({"search": {"semantics": "4.31"} | dict(section["search"])})
    if found.method == "nucleus":
        raise ValueError("search.method='nucleus': answers that are compared are not drawn")
    return found


def answered(predictor: Predictor, data: VideoData, read: np.ndarray, texts: list[str]) -> Metrics:
    """Writes the answers to the records that could be read; returns scores without a judge."""
    records = [data.records[index] for index in read]
    if predictor.writes:
        written = [
            {"id": record.id, "question": record.question, "answer": text}
            for record, text in zip(records, texts, strict=True)
        ]
        path = predictor.workdir / f"answers-{data.name}.json"
        write_file(path, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    predictions = {str(row): text for row, text in enumerate(texts)}
    answers = {str(row): record.answers for row, record in enumerate(records)}
    return dict(answer_metrics(predictions, answers)) | {"questions": len(records)}


def prompted(
    module: Any, params: Any, video: jax.Array, beside: dict[str, jax.Array]
) -> tuple[Words, jax.Array, jax.Array]:
    """A batch's prompts as `vlt.models.continuation.read` takes them: words, tokens of the videos,
    and the padding in front of each.

    beside: `prompt` [b, n, 2], from `ChatBatches.questions`, and what `instructions` has.
    """
    seen = (video, *([beside["instruction"]] if "instruction" in beside else ()))
    tokens = module.apply({"params": params}, *seen, method="encode_video")[0]
    ids, places = beside["prompt"][..., 0], beside["prompt"][..., 1]
    return Words(ids, jnp.maximum(places, -1)), tokens, (places == -2).sum(1)


def instructions(dialogues: Any, asked: Sequence[str]) -> dict[str, np.ndarray]:
    """Inputs of the Q-Former, where there is one that reads questions."""
    return {} if dialogues.instructions is None else {"instruction": dialogues.instructions(asked)}


def _judged(
    predictor: Predictor,
    params: Any,
    data: VideoData,
    step: int,
    rows: Rows,
    asked: list[str],
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Records that could be read, and `judge` of the answers to their questions [n, k, l]."""

    def program(
        params: Any, video: jax.Array, beside: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        ids, labels = beside["rows"][..., 0], beside["rows"][..., 1]
        return judge(predictor.module, params, video, ids, labels, beside.get("instruction"))

    inputs = {"rows": np.stack(rows, axis=-1)} | instructions(predictor.tokenizer, asked)
    compiled = predictor.compiled("judge_answers", program)
    found = predictor.batches(
        compiled, params, data, step, lambda records: {k: v[records] for k, v in inputs.items()}
    )
    read, outputs = zip(*found, strict=True)
    likelihood, greedy = (np.concatenate(each) for each in zip(*outputs, strict=True))
    return np.concatenate(read), (likelihood, greedy)


def judge(
    module: Any,
    params: Any,
    video: jax.Array,
    ids: jax.Array,
    labels: jax.Array,
    instruction: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of k answers about each video, [b, k], and whether each is the greedy one.

    video: [b, t, H, W, 3]. ids, labels: [b, k, l] of whole dialogues, as `ChatBatches` makes them.
    instruction: ids [b, m], for a Q-Former that reads them.
    """

    def logits(model: Any) -> jax.Array:
        tokens, _ = model.encode_video(video, instruction)
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
