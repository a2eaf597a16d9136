"""Answers that a chat model chooses from a list, as the likeliest to follow a question."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vlt.data.manifests.manifest import read_classes
from vlt.data.manifests.resources import resolve
from vlt.data.pipeline import VideoData
from vlt.data.text.prompts import template
from vlt.evaluation.conversation import answered, instructions, prompted
from vlt.evaluation.predictor import Metrics, Predictor
from vlt.evaluation.protocols import checked_pairs
from vlt.models.continuation import read
from vlt.models.likelihood import AT_ONCE, answer_losses
from vlt.tasks.answer_metrics import ANSWER_METRICS

SPARE = 8  # tokens by which prompts, or answers, may be longer than those that sizes are taken from


def ranked_answers(
    predictor: Predictor, params: Any, section: Mapping[str, Any], data: VideoData, step: int
) -> Metrics:
    """Answers each question with the likeliest candidate in the file `answers`, one per line;
    writes and scores the answers as `written_answers` does.

    Log-likelihoods are summed over an answer's tokens and those that end it. What precedes the
    answers is read once for all of them.

    Raises:
        ProtocolError: the test set is not the protocol's.
        ManifestError: there is no such file.
        ValueError: a question with an answer is too long.
    """
    _, label = checked_pairs(section, data.records, "questions")
    speech = predictor.tokenizer.speaking(section["template"])
    listed = read_classes(resolve(section["answers"]))
    asked = [data.clean(str(record.question)) for record in data.records]
    names = [str(record.id) for record in data.records]
    program = predictor.compiled(("ranked_answers", data.name), _losses_of(predictor))
    read_, losses = predictor.videos(
        program, params, data, step, _choices(speech, asked, listed, names)
    )
    texts = [listed[index] for index in losses[:, : len(listed)].argmin(1)]
    return answered(predictor, data, read_, texts) | {"protocol": label}


def check_ranked_answers(section: Mapping[str, Any], data: VideoData) -> list[str]:
    """Names of the metrics that `ranked_answers` returns. Raises as it does."""
    checked_pairs(section, data.records, "questions")
    read_classes(resolve(section["answers"]))
    if section["template"]:
        template(section["template"])
    return [*ANSWER_METRICS, "questions"]


def _choices(
    speech: Any, asked: Sequence[str], listed: Sequence[str], names: Sequence[str]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Maps records [b] to their `prompt` [b, n, 2], ids and indices of the video's tokens (-2 for
    padding in front), and the answers as `rest` [b, k, l, 2], ids and whether they count.

    n and l are the same for all records, and k is a multiple of `AT_ONCE`.
    """
    first = speech.choices(asked[0], listed, names[0])
    n = speech.questions(asked, names)[0].shape[1] + SPARE
    rows, length = len(listed) + -len(listed) % AT_ONCE, first.rest.shape[1] + SPARE
    beside = instructions(speech, asked)

    def choices(records: np.ndarray) -> dict[str, np.ndarray]:
        prompt = np.full((len(records), n, 2), (0, -2), np.int32)
        rest = np.zeros((len(records), rows, length, 2), np.int32)
        for row, record in enumerate(records):
            found = speech.choices(asked[record], listed, names[record])
            prompt[row, n - len(found.ids) :] = np.stack([found.ids, found.video], -1)
            each = np.stack([found.rest, found.learned], -1)
            rest[row, : len(listed), : each.shape[1]] = each
        return {"prompt": prompt, "rest": rest} | {k: v[records] for k, v in beside.items()}

    return choices


def _losses_of(predictor: Predictor) -> Callable[..., jax.Array]:
    module = predictor.module

    def losses(params: Any, video: jax.Array, beside: dict[str, jax.Array]) -> jax.Array:
        b, k, length = beside["rest"].shape[:3]
        asked = prompted(module, params, video, beside)
        reading = read(module, params, *asked, beside["prompt"].shape[1] + length)

        def of_group(rest: jax.Array) -> jax.Array:
            learned = rest[..., 1].astype(bool)
            return answer_losses(module, params, reading, rest[..., 0], learned)

        groups = beside["rest"].reshape(b, k // AT_ONCE, AT_ONCE, length, 2).swapaxes(0, 1)
        return jax.lax.map(of_group, groups).swapaxes(0, 1).reshape(b, k)

    return losses
